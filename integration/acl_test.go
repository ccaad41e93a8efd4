package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
	"github.com/redsession/redsession/internal/conformance"
)

// least makes a user of these servers who may do what a client of these options needs,
// but for the commands in without, and gives the option that logs in as that one.
func least(t testing.TB, env *harness.Env, without []string, opts ...redsession.Option) (user string, _ redsession.Option) {
	t.Helper()
	user = fmt.Sprint("least-", leastUsers.Add(1))
	line, err := redsession.ACLRules(user, opts...)
	ok(t, err)
	rules := []any{"acl", "setuser"}
	for rule := range strings.FieldsSeq(line) {
		if !slices.Contains(without, strings.TrimPrefix(rule, "+")) {
			rules = append(rules, rule)
		}
	}
	for _, n := range env.Nodes() {
		ok(t, n.Client().Do(context.Background(), append(rules, ">secret")...).Err())
		t.Cleanup(func() {
			if err := n.Client().Do(context.Background(), "acl", "deluser", user).Err(); err != nil {
				t.Error(err)
			}
		})
	}
	return user, redsession.WithCredentials(user, "secret")
}

var leastUsers atomic.Int64

// granted has a suite run with the least rights.
func granted(env *harness.Env) func(testing.TB, ...redsession.Option) redsession.Option {
	return func(t testing.TB, opts ...redsession.Option) redsession.Option {
		_, login := least(t, env, nil, opts...)
		return login
	}
}

// conforms runs the suite with the least rights: it needs no others, not even where nobody
// notices.
func conforms(t *testing.T, env *harness.Env, target conformance.Target) {
	for _, n := range env.Nodes() {
		ok(t, n.Client().Do(t.Context(), "acl", "log", "reset").Err())
	}
	target.Grant = granted(env)
	conformance.Run(t, target)
	for _, n := range env.Nodes() {
		log, err := n.Client().ACLLog(t.Context(), -1).Result()
		ok(t, err)
		for _, e := range log {
			if strings.HasPrefix(e.Username, "least-") && e.Reason != "auth" {
				t.Errorf("%s: %s %q was denied %d times, %s", n, e.Reason, e.Object, e.Count, e.Context)
			}
		}
	}
}

// circuit is a topology with all that a client can do there.
type circuit struct {
	name     string
	p        *place
	optional []string // commands that can be missing
	options  func(p *place) []redsession.Option
	prepare  func(t *testing.T, p *place, opts []redsession.Option)
	last     func(ctx context.Context, c *walk) error // behind what all have in common
}

func circuits() []circuit {
	nodes := &place{name: string(harness.Independent)}
	ring := func(copies int) func(*place) []redsession.Option {
		return func(p *place) []redsession.Option {
			var list []redsession.Node
			for _, n := range p.Nodes() {
				list = append(list, redsession.Node{Name: n.Name(), Addr: n.Addr()})
			}
			return []redsession.Option{redsession.WithRing(list...), redsession.WithReplicas(copies)}
		}
	}
	at := func(p *place) []redsession.Option { return []redsession.Option{p.topology()} }
	return []circuit{
		{name: "one Redis", p: nodes, options: at},
		{name: "a ring without copies", p: nodes, options: ring(1)},
		{name: "a ring", p: nodes, options: ring(3), prepare: foundRing, last: repairRing},
		{name: "Sentinel", p: sentinel, options: at, optional: []string{"wait", "role"}},
		{name: "Sentinel, WithMinReplicas", p: sentinel, options: func(p *place) []redsession.Option {
			return append(at(p), redsession.WithMinReplicas(1, time.Second))
		}},
		{name: "Cluster", p: cluster, options: at, optional: []string{"wait", "role", "cluster|nodes"}, last: moveSlot},
	}
}

// Of the rights that ACLRules gives each is needed, and missed with an error that says so;
// but for those that the docs call optional, without which every call works.
func TestEachRightIsNeeded(t *testing.T) {
	for _, c := range circuits() {
		t.Run(c.name, func(t *testing.T) {
			c.p.startFor(t)
			line, err := redsession.ACLRules("x", c.options(c.p)...)
			ok(t, err)
			t.Log(line)
			var commands []string
			for rule := range strings.FieldsSeq(line) {
				if command, grants := strings.CutPrefix(rule, "+"); grants {
					commands = append(commands, command)
				}
			}
			for _, missing := range append([]string{""}, commands...) {
				err := c.walk(t, missing)
				switch {
				case missing == "":
					ok(t, err)
				case slices.Contains(c.optional, missing):
					if err != nil {
						t.Errorf("without %s, which is optional: %v", missing, err)
					}
				case err == nil:
					t.Errorf("%s is not needed", missing)
				case !denied(err):
					t.Errorf("without %s: %v", missing, err)
				case strings.Contains(err.Error(), "deadline"):
					t.Errorf("without %s it was waited for: %v", missing, err)
				}
			}
		})
	}
}

// denied tells whether an error says that a right is missing. What a script misses is called
// otherwise, and not the same in all releases.
func denied(err error) bool {
	return strings.Contains(err.Error(), "NOPERM") || strings.Contains(err.Error(), "The user executing the script can't") ||
		strings.Contains(err.Error(), "ACL failure in script")
}

// startFor is start for a place that may be this test's own.
func (p *place) startFor(t *testing.T) {
	t.Helper()
	if p.name == string(harness.Independent) {
		p.Env = harness.StartNodes(t, 3)
	} else {
		p.start(t)
	}
}

// walk is one client's way through a circuit.
type walk struct {
	t      *testing.T
	p      *place
	prefix string
	user   string
	client client[account]
	wire   *wire
}

// walk goes round with a user who lacks one right, until an error.
func (c *circuit) walk(t *testing.T, missing string) error {
	w := &walk{t: t, p: c.p, prefix: fmt.Sprint("acl-", leastUsers.Add(1)), wire: newWire(c.p)}
	defer w.sweep()
	opts := append(c.options(c.p), redsession.WithPrefix(w.prefix), w.wire.option(), redsession.WithTouchInterval(0))
	if c.prepare != nil {
		c.prepare(t, c.p, opts)
	}
	user, login := least(t, c.p.Env, []string{missing}, opts...)
	w.user, w.client = user, newClient[account](t, append(opts, login)...)
	defer w.client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, n := range c.p.Nodes() {
		n.Client().ScriptFlush(ctx) // a replica of a cluster refuses
	}
	for _, step := range []func(context.Context, *walk) error{ping, life, reconnect, life, lostCreate, c.last} {
		if step == nil {
			continue
		}
		if err := step(ctx, w); err != nil {
			return err
		}
	}
	return nil
}

func ping(ctx context.Context, w *walk) error { return w.client.Ping(ctx) }

// life is that of a session.
func life(ctx context.Context, w *walk) error {
	c := w.client
	s, err := c.Create(ctx, account{User: somebody(), Name: "Ada", Roles: []string{"admin"}})
	if err != nil {
		return fmt.Errorf("Create: %w", err)
	}
	if s, err = c.Load(ctx, s.ID()); err != nil {
		return fmt.Errorf("Load: %w", err)
	}
	for _, r := range c.LoadMany(ctx, s.ID(), s.ID()) {
		if r.Err != nil {
			return fmt.Errorf("LoadMany: %w", r.Err)
		}
	}
	s.Data.Visits, s.Data.Roles = 1, nil
	return errors.Join(c.Save(ctx, s), c.Touch(ctx, s.ID()), c.Rotate(ctx, s), c.Delete(ctx, s.ID()))
}

// reconnect cuts all connections.
func reconnect(ctx context.Context, w *walk) error {
	var errs []error
	for _, n := range w.p.Nodes() {
		errs = append(errs, n.Client().ClientKillByFilter(ctx, "user", w.user).Err())
	}
	return errors.Join(errs...)
}

// lostCreate has the answer to a Create get lost.
func lostCreate(ctx context.Context, w *walk) error {
	for {
		lost := w.wire.arm(cutReply, anyScript)
		if _, err := w.client.Create(ctx, account{User: somebody()}); err != nil {
			return fmt.Errorf("Create again: %w", err)
		}
		select {
		case <-lost.struck:
			return nil
		default: // it has met a connection that was dead already
		}
	}
}

// foundRing makes a ring's nodes complete, with all rights.
func foundRing(t *testing.T, p *place, opts []redsession.Option) {
	c := newClient[account](t, opts...)
	ok(t, c.Ping(t.Context()))
	c.create(t, account{})
	eventually(t, 20*time.Second, func() error {
		for _, h := range c.Health() {
			if h.State != redsession.Healthy {
				return h.Err
			}
		}
		return nil
	})
	ok(t, c.Close())
}

// repairRing has a node forget that it is complete.
func repairRing(ctx context.Context, w *walk) error {
	s, err := w.client.Create(ctx, account{User: somebody()})
	if err != nil {
		return err
	}
	if err := w.p.Nodes()[1].Client().Del(ctx, w.prefix+":@mark", w.prefix+":{"+s.ID()[:4]+"}:"+s.ID()[4:15]).Err(); err != nil {
		return err
	}
	return w.client.Repair(ctx)
}

// moveSlot uses a session whose slot is on its way to another node.
func moveSlot(ctx context.Context, w *walk) error {
	s, err := w.client.Create(ctx, account{User: somebody()})
	if err != nil {
		return err
	}
	key := w.prefix + ":{" + s.ID()[:4] + "}:" + s.ID()[4:15]
	from, err := w.p.MasterOf(ctx, key)
	ok(w.t, err)
	slot, err := from.Client().ClusterKeySlot(ctx, key).Result()
	ok(w.t, err)
	masters, err := w.p.Masters(ctx)
	ok(w.t, err)
	to := masters[0]
	if to == from {
		to = masters[1]
	}
	m := migration{t: w.t, p: w.p, slot: slot, from: from, to: to}
	m.begin()
	for m.move(5) > 0 {
	}
	defer func() {
		m.end()
		back := migration{t: w.t, p: w.p, slot: slot, from: to, to: from}
		back.begin()
		for back.move(5) > 0 {
		}
		back.end()
	}()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if s, err = w.client.Load(ctx, s.ID()); err != nil {
		return fmt.Errorf("Load from a slot that moves: %w", err)
	}
	s.Data.Visits++
	if err := w.client.Save(ctx, s); err != nil {
		return fmt.Errorf("Save in a slot that moves: %w", err)
	}
	return w.client.Delete(ctx, s.ID())
}

// sweep leaves nothing behind: without a right there may be a session without a TTL.
func (w *walk) sweep() {
	ctx := context.Background()
	masters, err := w.p.Masters(ctx)
	ok(w.t, err)
	for _, n := range masters {
		keys := n.Client().Scan(ctx, 0, w.prefix+":*", 1000).Iterator()
		for keys.Next(ctx) {
			ok(w.t, n.Client().Del(ctx, keys.Val()).Err())
		}
		ok(w.t, keys.Err())
	}
}

// WithMinReplicas needs WAIT: what was done without it is unconfirmed.
func TestWithoutWaitNothingIsConfirmed(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		opts := []redsession.Option{p.topology(), redsession.WithDialer(p.Dialer()), redsession.WithMinReplicas(1, time.Second)}
		_, login := least(t, p.Env, []string{"wait"}, opts...)
		c := newClient[account](t, append(opts, login)...)
		t.Cleanup(func() { c.Close() })
		_, err := c.Create(t.Context(), account{})
		is(t, err, redsession.ErrUnconfirmed)
		if err == nil || !denied(err) {
			t.Errorf("without WAIT: %v", err)
		}
	}, sentinel, cluster)
}

// The rights are for the keys of one prefix, and for nothing that looks at or changes the
// server.
func TestLeastRightsAreFew(t *testing.T) {
	for _, c := range circuits() {
		t.Run(c.name, func(t *testing.T) {
			c.p.startFor(t)
			opts := append(c.options(c.p), redsession.WithPrefix("few[a-z]"))
			user, _ := least(t, c.p.Env, nil, opts...)
			masters, err := c.p.Masters(t.Context())
			ok(t, err)
			rdb := redis.NewClient(&redis.Options{
				Addr: masters[0].Addr(), Username: user, Password: "secret", MaxRetries: -1, DisableIdentity: true,
				Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
					return c.p.Dialer()(ctx, network, addr)
				},
			})
			t.Cleanup(func() { rdb.Close() })
			ok(t, rdb.Ping(t.Context()).Err())
			mine := rdb.HGetAll(t.Context(), "few[a-z]:{tag0}:x").Err()
			if mine != nil && !strings.HasPrefix(mine.Error(), "MOVED") {
				t.Errorf("its own key: %v", mine)
			}
			denials := []string{
				"hgetall session:{tag0}:x", "hgetall fewb:{tag0}:x", "hgetall few[a-z]", "hgetall few[a-z]:other", "hgetall few[a-z]:b:{tag0}:x",
				"hset other:{tag0} a b", "eval return{} 1 other:{tag0}", "eval return(redis.call('hgetall','other:{tag0}')) 0",
				"eval return(redis.call('keys','*')) 0", "eval return(redis.call('flushall')) 0",
				"keys *", "randomkey", "dbsize", "flushall", "flushdb", "config get *", "config set maxmemory 1", "acl list", "acl whoami",
				"client list", "client kill type normal", "debug sleep 0", "shutdown nosave", "monitor", "script flush", "script kill",
				"function list", "save", "replicaof no one", "failover abort", "module list", "slowlog get", "migrate h 1 k 0 1",
				"cluster failover", "cluster reset", "cluster forget x", "subscribe few[a-z]:{tag0}:x", "publish few[a-z]:{tag0}:x y",
				"rename few[a-z]:{tag0}:x few[a-z]:{tag0}:y", "dump few[a-z]:{tag0}:x", "persist few[a-z]:{tag0}:x", "select 1", "multi",
			}
			if c.name != "a ring" { // where it repairs
				denials = append(denials, "scan 0", "info")
			}
			if !strings.HasPrefix(c.name, "a ring") {
				denials = append(denials, "set few[a-z]:{tag0}:x y", "get few[a-z]:@ring")
			}
			for _, text := range denials {
				var args []any
				for arg := range strings.FieldsSeq(text) {
					args = append(args, arg)
				}
				if err := rdb.Do(t.Context(), args...).Err(); err == nil || !denied(err) {
					t.Errorf("%s: %v", text, err)
				}
			}
		})
	}
}

// Where the driver's client is the caller's, the rights are the same.
func TestLeastRightsOfADriversClient(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		prefix := redsession.WithPrefix(fmt.Sprint("acl-", leastUsers.Add(1)))
		user, _ := least(t, p.Env, nil, redsession.WithRedis(p.driver(t, p.Dialer(), 0)), prefix)
		var rdb redis.UniversalClient
		if p == cluster {
			rdb = redis.NewClusterClient(&redis.ClusterOptions{Addrs: p.Addrs(), Dialer: p.Dialer(), Username: user, Password: "secret"})
		} else {
			rdb = redis.NewClient(&redis.Options{Addr: p.Addrs()[0], Dialer: p.Dialer(), Username: user, Password: "secret"})
		}
		t.Cleanup(func() { rdb.Close() })
		c := newClient[account](t, redsession.WithRedis(rdb), prefix)
		t.Cleanup(func() { c.Close() })
		for range 6 {
			ok(t, life(t.Context(), &walk{client: c}))
		}
	}, single, cluster)
}

// A password changes again and again, before or after the client hears of it, connections
// are killed meanwhile, and the provider itself fails now and then: no call does.
func TestRotatingCredentials(t *testing.T) {
	for _, c := range circuits() {
		if c.name == "Sentinel, WithMinReplicas" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			c.p.startFor(t)
			w := &walk{t: t, p: c.p, prefix: fmt.Sprint("acl-", leastUsers.Add(1)), wire: newWire(c.p)}
			opts := append(c.options(c.p), redsession.WithPrefix(w.prefix), w.wire.option())
			w.user, _ = least(t, c.p.Env, nil, opts...)
			var password atomic.Value
			password.Store("secret")
			var asked atomic.Int64
			w.client = newClient[account](t, append(opts, redsession.WithCredentialsProvider(
				func(context.Context) (string, string, error) {
					if asked.Add(1)%5 == 0 {
						return "", "", errors.New("no answer but " + password.Load().(string))
					}
					return w.user, password.Load().(string), nil
				}))...)
			defer w.client.Close()

			ctx, stop := context.WithCancel(t.Context())
			var lives atomic.Int64
			var wg sync.WaitGroup
			defer wg.Wait()
			defer stop()
			for range 4 {
				wg.Go(func() {
					for ctx.Err() == nil {
						within, cancel := context.WithTimeout(t.Context(), 5*time.Second)
						if err := life(within, w); err != nil {
							t.Error(err)
						}
						cancel()
						lives.Add(1)
					}
				})
			}
			for round := range rounds(6) {
				next := fmt.Sprint("secret-", round)
				change := func() {
					for _, n := range c.p.Nodes() {
						ok(t, n.Client().Do(t.Context(), "acl", "setuser", w.user, "resetpass", ">"+next).Err())
					}
				}
				if round%2 == 0 {
					change()
					password.Store(next)
				} else {
					password.Store(next)
					change()
				}
				if round%3 > 0 { // else those that are open live on
					ok(t, reconnect(t.Context(), w))
				}
				progress(t, &lives, 8, 20*time.Second)
			}
		})
	}
}

// A provider that fails is waited for, and its text is nobody's business.
func TestAProviderThatFails(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		c := connect(t, p, redsession.WithCredentialsProvider(func(context.Context) (string, string, error) {
			return "", "", errors.New("horse battery staple")
		}))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := c.Create(ctx, account{})
		is(t, err, redsession.ErrUnavailable)
		is(t, err, context.DeadlineExceeded)
		said := err != nil && strings.Contains(err.Error(), "credentials provider")
		if err == nil || strings.Contains(err.Error(), "staple") || !said && p != cluster { // whose topology may not be known by then
			t.Errorf("the error is %v", err)
		}
	}, places...)
}
