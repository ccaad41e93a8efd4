package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

var long = flag.Bool("long", false, "run loops twenty times as often")

// rounds is how often a loop runs.
func rounds(n int) int {
	if *long {
		return 20 * n
	}
	return n
}

func TestMain(m *testing.M) {
	flag.Parse()
	logging.Disable() // the driver's
	// Many tests wait for a timeout most of their time.
	flag.Set("test.parallel", "16")
	code := m.Run()
	for _, p := range places {
		if err := p.finish(); err != nil {
			fmt.Fprintf(os.Stderr, "--- FAIL: after all tests: %s: %v\n", p.name, err)
			code = 1
		}
	}
	os.Exit(code)
}

// place is a running topology that the tests share.
type place struct {
	*harness.Env
	name string

	once sync.Once
	err  error
}

var (
	single   = &place{name: "single"}
	sentinel = &place{name: "sentinel"}
	cluster  = &place{name: "cluster"}
	places   = []*place{single, sentinel, cluster}
)

// everywhere runs a test on every topology.
func everywhere(t *testing.T, test func(t *testing.T, p *place)) { on(t, test, places...) }

func on(t *testing.T, test func(t *testing.T, p *place), places ...*place) {
	t.Helper()
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			p.start(t)
			test(t, p)
		})
	}
}

func (p *place) start(t *testing.T) {
	t.Helper()
	p.once.Do(func() {
		began := time.Now()
		p.Env, p.err = harness.Launch(context.Background(), harness.Spec{Topology: harness.Topology(p.name)})
		if p.err == nil {
			t.Logf("%s on %s is ready after %v", p.name, p.Backend(), time.Since(began).Round(time.Millisecond))
		}
	})
	if p.err != nil {
		t.Fatal(p.err)
	}
}

// finish looks at what all tests have left on the servers, and ends them.
func (p *place) finish() error {
	if p.Env == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := p.WaitReady(ctx)
	for _, n := range p.Nodes() {
		err = errors.Join(err, inspect(ctx, n))
	}
	return errors.Join(err, p.Close())
}

// topology is the option that leads to the servers.
func (p *place) topology() redsession.Option {
	switch p {
	case sentinel:
		return redsession.WithSentinel(p.MasterName(), p.Addrs()...)
	case cluster:
		return redsession.WithCluster(p.Addrs()...)
	}
	return redsession.WithAddr(p.Addrs()[0])
}

// driver is a client of the driver's, for WithRedis: with its defaults, but for
// the timeout of its reads if that is not 0.
func (p *place) driver(t testing.TB, dial redsession.DialFunc, timeout time.Duration) redis.UniversalClient {
	var rdb redis.UniversalClient
	switch p {
	case sentinel:
		rdb = redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName: p.MasterName(), SentinelAddrs: p.Addrs(), Dialer: dial, ReadTimeout: timeout,
		})
	case cluster:
		rdb = redis.NewClusterClient(&redis.ClusterOptions{Addrs: p.Addrs(), Dialer: dial, ReadTimeout: timeout})
	default:
		rdb = redis.NewClient(&redis.Options{Addr: p.Addrs()[0], Dialer: dial, ReadTimeout: timeout})
	}
	t.Cleanup(func() { rdb.Close() })
	return rdb
}

// account is what the tests keep in a session.
type account struct {
	User   string   `session:"user,principal"`
	Name   string   `session:"name"`
	Theme  string   `session:"theme"`
	Visits int      `session:"visits"`
	Roles  []string `session:"roles,omitempty"`
}

// client is a Client that keeps the IDs which it made, for the last look.
type client[T any] struct{ *redsession.Client[T] }

// connect makes a client of the place, closed at the end of the test.
func connect(t testing.TB, p *place, opts ...redsession.Option) client[account] {
	t.Helper()
	return connectAs[account](t, p, opts...)
}

func connectAs[T any](t testing.TB, p *place, opts ...redsession.Option) client[T] {
	t.Helper()
	opts = append([]redsession.Option{p.topology(), redsession.WithDialer(p.Dialer())}, opts...)
	c := newClient[T](t, opts...)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

func newClient[T any](t testing.TB, opts ...redsession.Option) client[T] {
	t.Helper()
	c, err := redsession.New[T](opts...)
	if err != nil {
		t.Fatal(err)
	}
	return client[T]{c}
}

func (c client[T]) Create(ctx context.Context, data T, opts ...redsession.CreateOption) (*redsession.Session[T], error) {
	s, err := c.Client.Create(ctx, data, opts...)
	if err == nil {
		made.add(s.ID())
	}
	return s, err
}

func (c client[T]) Rotate(ctx context.Context, s *redsession.Session[T]) error {
	err := c.Client.Rotate(ctx, s)
	made.add(s.ID())
	return err
}

// create makes a session that the test needs.
func (c client[T]) create(t testing.TB, data T, opts ...redsession.CreateOption) *redsession.Session[T] {
	t.Helper()
	s, err := c.Create(t.Context(), data, opts...)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return s
}

// load gives a session that must be there.
func (c client[T]) load(t testing.TB, id string) *redsession.Session[T] {
	t.Helper()
	s, err := c.Load(t.Context(), id)
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return s
}

// dead checks that an ID opens nothing.
func (c client[T]) dead(t testing.TB, id string) {
	t.Helper()
	if _, err := c.Load(t.Context(), id); !errors.Is(err, redsession.ErrNotFound) {
		t.Errorf("Load of a dead ID: %v, want ErrNotFound", err)
	}
}

// warm leads a session through its life, so that its server knows the scripts
// and the connections are open.
func (c client[T]) warm(t testing.TB, data, changed T) {
	t.Helper()
	s := c.create(t, data)
	s = c.load(t, s.ID())
	ok(t, c.Touch(t.Context(), s.ID()))
	s.Data = changed
	ok(t, c.Save(t.Context(), s))
	ok(t, c.Rotate(t.Context(), s))
	ok(t, c.Delete(t.Context(), s.ID()))
}

// somebody is a principal that nobody else is.
func somebody() string { return fmt.Sprint("user ", people.Add(1)) }

var people atomic.Int64

// home is the node that has the sessions of a principal.
func (p *place) home(t testing.TB, c client[account], user string) *harness.Node {
	t.Helper()
	return p.master(t, c.create(t, account{User: user}).Handle())
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// is checks for one of the package's errors.
func is(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error is %v, want %v", err, want)
	}
}

// eventually polls until cond is nil.
func eventually(t testing.TB, within time.Duration, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", within, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// key is where a session is kept.
func key(handle string) string { return "session:{" + handle[:4] + "}:" + handle[4:] }

// master is the node that has a session.
func (p *place) master(t testing.TB, handle string) *harness.Node {
	t.Helper()
	n, err := p.MasterOf(t.Context(), key(handle))
	ok(t, err)
	return n
}

// stored is a session's hash as the server has it; empty if there is none.
func (p *place) stored(t testing.TB, handle string) map[string]string {
	t.Helper()
	return storedAt(t, p.master(t, handle), handle)
}

func storedAt(t testing.TB, n *harness.Node, handle string) map[string]string {
	t.Helper()
	hash, err := n.Client().HGetAll(t.Context(), key(handle)).Result()
	ok(t, err)
	return hash
}

// gone checks that nothing of a session is left.
func (p *place) gone(t testing.TB, handle string) {
	t.Helper()
	goneFrom(t, p.master(t, handle), handle)
}

func goneFrom(t testing.TB, n *harness.Node, handle string) {
	t.Helper()
	if hash := storedAt(t, n, handle); len(hash) > 0 {
		t.Errorf("a dead session has left %d fields", len(hash))
	}
}

// made is every ID that the tests have made.
var made ledger

type ledger struct {
	mu      sync.Mutex
	ids     map[string]bool
	secrets map[string]bool // of the ids, made for the last look
}

func (l *ledger) add(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ids == nil {
		l.ids = make(map[string]bool)
	}
	l.ids[id] = true
}

var (
	idPattern     = regexp.MustCompile(`[A-Za-z0-9_-]{15}\.[A-Za-z0-9_-]{22}`)
	secretPattern = regexp.MustCompile(`[A-Za-z0-9_-]{22,}`)
)

// secret tells whether a stored string holds an ID, or the secret of one of ours.
func (l *ledger) secret(s string) bool {
	if idPattern.MatchString(s) {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.secrets == nil {
		l.secrets = make(map[string]bool)
		for id := range l.ids {
			l.secrets[id[16:]] = true
		}
	}
	for _, run := range secretPattern.FindAllString(s, -1) {
		for i := range len(run) - 21 {
			if l.secrets[run[i:i+22]] {
				return true
			}
		}
	}
	return false
}

// inspect reads every key of a node, replicas too: none lives forever, and none
// holds what opens a session.
func inspect(ctx context.Context, n *harness.Node) error {
	conn := n.Client().Conn()
	defer conn.Close()
	_ = conn.ReadOnly(ctx).Err() // lets a replica in a cluster answer, and is an error elsewhere
	var found []string
	complain := func(key, what string) { found = append(found, fmt.Sprintf("key %q: %s", key, what)) }
	for cursor := uint64(0); ; {
		keys, next, err := conn.Scan(ctx, cursor, "", 500).Result()
		if err != nil {
			return err
		}
		ttls := make([]*redis.DurationCmd, len(keys))
		hashes := make([]*redis.MapStringStringCmd, len(keys))
		if _, err := conn.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, key := range keys {
				ttls[i], hashes[i] = p.PTTL(ctx, key), p.HGetAll(ctx, key)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		for i, key := range keys {
			if made.secret(key) {
				complain(key, "holds an ID")
			}
			if ttls[i].Val() == -1 {
				complain(key, "has no TTL")
			}
			for name, value := range hashes[i].Val() {
				if made.secret(name) || made.secret(value) {
					complain(key, fmt.Sprintf("holds an ID in field %q", name))
				}
			}
		}
		if cursor = next; cursor == 0 {
			break
		}
	}
	if len(found) > 0 {
		slices.Sort(found)
		return fmt.Errorf("%s: %d findings:\n\t%s", n, len(found), strings.Join(found[:min(20, len(found))], "\n\t"))
	}
	return nil
}
