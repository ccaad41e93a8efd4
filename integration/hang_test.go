package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// prompt is how long a call may take whose context ends after 100 ms.
const prompt = 200 * time.Millisecond

// endings are the ways in which a caller stops waiting.
var endings = []struct {
	name  string
	cause error
	start func(ctx context.Context) (context.Context, context.CancelFunc)
}{
	{"deadline", context.DeadlineExceeded, func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, 100*time.Millisecond)
	}},
	{"cancel", context.Canceled, func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancel(ctx)
		timer := time.AfterFunc(100*time.Millisecond, cancel)
		return ctx, func() { timer.Stop(); cancel() }
	}},
}

var writes = []string{"Create", "Save", "Touch", "Rotate", "Delete"}

// A server stops in its tracks: every call ends when its context does, says
// rightly whether it may have had an effect, and when the server goes on the
// client does too.
func TestAPausedServer(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		patient(t, p)
		good := connect(t, p)
		user := somebody()
		type attempt struct {
			name, of, data, handle string
			cause, err             error
			took                   time.Duration
			wire                   *wire
		}
		var attempts []*attempt
		var run []func(ctx context.Context)
		clients := map[string]client[account]{}
		for _, of := range []string{"own", "WithRedis"} {
			w := newWire(p)
			c := connect(t, p, w.option())
			if of == "WithRedis" {
				c = newClient[account](t, redsession.WithRedis(p.driver(t, w.connect, 0)))
				t.Cleanup(func() { c.Close() })
			}
			clients[of] = c
			c.warm(t, account{User: user}, account{User: user, Visits: 1})
			var wg sync.WaitGroup
			for range 6 { // some connections
				s := good.create(t, account{User: user})
				wg.Go(func() {
					for range 5 {
						c.Touch(t.Context(), s.ID())
						c.Load(t.Context(), s.ID())
					}
				})
			}
			wg.Wait()
			for _, ending := range endings {
				for name := range calls(c, nil) {
					data := fmt.Sprintf("%s by %s until %s", name, of, ending.name)
					s := good.create(t, account{User: user, Name: data})
					a := &attempt{name: name, of: of, data: data, handle: s.Handle(), cause: ending.cause, wire: w}
					attempts = append(attempts, a)
					run = append(run, func(ctx context.Context) {
						ctx, cancel := ending.start(ctx)
						defer cancel()
						began := time.Now()
						a.err = calls(c, s)[a.name](ctx)
						a.took = time.Since(began)
					})
				}
			}
		}
		const timeout = 300 * time.Millisecond
		timed := connect(t, p, redsession.WithTimeout(timeout))
		timed.warm(t, account{User: user}, account{User: user, Visits: 1})
		last := good.create(t, account{User: user, Name: "last"})
		var timedErr error
		var timedTook time.Duration
		run = append(run, func(context.Context) {
			began := time.Now()
			_, timedErr = timed.Load(context.Background(), last.ID())
			timedTook = time.Since(began)
		})

		node := p.master(t, last.Handle())
		pause(t, node)
		var wg sync.WaitGroup
		for _, f := range run {
			wg.Go(func() { f(t.Context()) })
		}
		wg.Wait()
		ok(t, node.Resume(t.Context()))

		resumed := time.Now()
		for of, c := range clients {
			works := time.Second
			if of == "WithRedis" {
				works = 6 * time.Second // its read timeout is the driver's
			}
			eventually(t, works, func() error {
				ctx, cancel := context.WithTimeout(t.Context(), prompt)
				defer cancel()
				_, loadErr := c.Load(ctx, last.ID())
				_, createErr := c.Create(ctx, account{User: user})
				return errors.Join(loadErr, c.Touch(ctx, last.ID()), createErr)
			})
			t.Logf("%s: works again %v after the server does", of, time.Since(resumed).Round(time.Millisecond))
		}

		unconfirmed := map[string]int{}
		for _, a := range attempts {
			if a.took > prompt {
				t.Errorf("%s returned after %v: %v", a.data, a.took, a.err)
			}
			if !errors.Is(a.err, a.cause) {
				t.Errorf("%s: %v does not wrap %v", a.data, a.err, a.cause)
			}
			sent := a.wire.carried(wroteTo(a.handle))
			if a.name == "Create" {
				sent = a.wire.carried(func(c []string) bool {
					return creates(c) && slices.ContainsFunc(c, func(arg string) bool { return strings.Contains(arg, a.data) })
				})
			}
			want := redsession.ErrUnavailable
			if sent && slices.Contains(writes, a.name) {
				want = redsession.ErrUnconfirmed
				unconfirmed[a.of]++
			}
			if !errors.Is(a.err, want) || redsession.SafeToRetry(a.err) != (want == redsession.ErrUnavailable) {
				t.Errorf("%s (sent: %v): %v (safe to retry: %v), want %v", a.data, sent, a.err, redsession.SafeToRetry(a.err), want)
			}
		}
		t.Logf("of %d calls sent and unconfirmed: %v", len(attempts), unconfirmed)
		if unconfirmed["own"] == 0 || unconfirmed["WithRedis"] == 0 {
			t.Error("no write was sent to the server that was paused")
		}
		is(t, timedErr, redsession.ErrUnavailable)
		is(t, timedErr, context.DeadlineExceeded)
		if timedTook < timeout-50*time.Millisecond || timedTook > timeout+100*time.Millisecond {
			t.Errorf("a call without a deadline took %v, WithTimeout is %v", timedTook, timeout)
		}
	})
}

// A logout that is given up while the server stands still, and everything that
// queued up around it: when it was repeated, the session is dead.
func TestALogoutFromAPausedServer(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		patient(t, p)
		user := somebody()
		ours, theirs := connect(t, p), connect(t, p)
		var sessions []*redsession.Session[account]
		for range 20 {
			sessions = append(sessions, ours.create(t, account{User: user}))
		}
		for _, c := range []client[account]{ours, theirs} {
			c.warm(t, account{User: user}, account{User: user, Visits: 1})
		}
		node := p.master(t, sessions[0].Handle())
		pause(t, node)
		var wg sync.WaitGroup
		for _, s := range sessions {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				s.Data.Theme = "dark"
				ours.Save(ctx, s)
			})
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				theirs.Delete(ctx, s.ID())
				theirs.Touch(ctx, s.ID())
			})
		}
		wg.Wait()
		ok(t, node.Resume(t.Context()))
		for _, s := range sessions {
			ok(t, theirs.Delete(t.Context(), s.ID()))
			is(t, ours.Save(t.Context(), s), redsession.ErrNotFound)
			ours.dead(t, s.ID())
			p.gone(t, s.Handle())
		}
	})
}

// One master of a cluster stands still: the sessions of the others are served
// as before, also by calls for sessions of both.
func TestAPausedMasterOfACluster(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		patient(t, p)
		c := connect(t, p)
		warmEverywhere(t, p, c)
		nodes, err := p.Masters(t.Context())
		ok(t, err)
		stuck := nodes[0]
		var there, elsewhere []*redsession.Session[account]
		for len(there) < 5 || len(elsewhere) < 20 {
			s := c.create(t, account{Name: "Ada"})
			if p.master(t, s.Handle()) == stuck {
				there = append(there, s)
			} else {
				elsewhere = append(elsewhere, s)
			}
		}
		pause(t, stuck)
		ctx, stop := context.WithTimeout(t.Context(), 1200*time.Millisecond)
		defer stop()
		var wg sync.WaitGroup
		for _, s := range there { // and they keep trying
			wg.Go(func() {
				for ctx.Err() == nil {
					ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
					_, err := c.Load(ctx, s.ID())
					is(t, err, redsession.ErrUnavailable)
					err = c.Touch(ctx, s.ID())
					if !errors.Is(err, redsession.ErrUnavailable) && !errors.Is(err, redsession.ErrUnconfirmed) {
						t.Errorf("Touch: %v", err)
					}
					cancel()
				}
			})
		}
		wg.Go(func() {
			ids := []string{there[0].ID()}
			for _, s := range elsewhere {
				ids = append(ids, s.ID())
			}
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			began := time.Now()
			results := c.LoadMany(ctx, ids...)
			if took := time.Since(began); took > prompt {
				t.Errorf("LoadMany took %v", took)
			}
			is(t, results[0].Err, redsession.ErrUnavailable)
			for _, r := range results[1:] {
				if r.Err != nil {
					t.Errorf("LoadMany, a session of another master: %v", r.Err)
				}
			}
		})
		var slowest time.Duration
		for n := 0; ctx.Err() == nil; n++ {
			s := elsewhere[n%len(elsewhere)]
			began := time.Now()
			if _, err := c.Load(t.Context(), s.ID()); err != nil {
				t.Errorf("Load: %v", err)
			}
			s.Data.Visits++
			if err := c.Save(t.Context(), s); err != nil {
				t.Errorf("Save: %v", err)
			}
			slowest = max(slowest, time.Since(began))
		}
		wg.Wait()
		ok(t, stuck.Resume(t.Context()))
		t.Logf("the slowest load and save at another master: %v", slowest)
		if slowest > 100*time.Millisecond {
			t.Errorf("a load and a save at another master took %v", slowest)
		}
		eventually(t, time.Second, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), prompt)
			defer cancel()
			_, err := c.Load(ctx, there[0].ID())
			return err
		})
	}, cluster)
}

// Something accepts connections and never speaks, or nothing answers a dial.
func TestAMuteServer(t *testing.T) {
	single.start(t)
	s := connect(t, single).create(t, account{Name: "Ada"})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	addr := listener.Addr().String()
	nowhere := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for _, at := range []struct {
		name string
		opts redsession.Option
	}{
		{"single", redsession.WithAddr(addr)},
		{"sentinel", redsession.WithSentinel("mymaster", addr)},
		{"cluster", redsession.WithCluster(addr)},
		{"single, no dial succeeds", redsession.Options(redsession.WithAddr(addr), redsession.WithDialer(nowhere))},
		{"sentinel, no dial succeeds", redsession.Options(redsession.WithSentinel("mymaster", addr), redsession.WithDialer(nowhere))},
		{"cluster, no dial succeeds", redsession.Options(redsession.WithCluster(addr), redsession.WithDialer(nowhere))},
	} {
		t.Run(at.name, func(t *testing.T) {
			t.Parallel()
			c := newClient[account](t, at.opts)
			defer c.Close()
			for _, ending := range endings {
				for name, call := range calls(c, s) {
					ctx, cancel := ending.start(t.Context())
					began := time.Now()
					err := call(ctx)
					took := time.Since(began)
					cancel()
					if took > prompt {
						t.Errorf("%s returned after %v", name, took)
					}
					waited := errors.Is(err, ending.cause) || name == "Ping" // which asks once
					if !errors.Is(err, redsession.ErrUnavailable) || !waited || !redsession.SafeToRetry(err) {
						t.Errorf("%s: %v, want ErrUnavailable with %v", name, err, ending.cause)
					}
				}
			}
			c = newClient[account](t, at.opts, redsession.WithTimeout(250*time.Millisecond))
			defer c.Close()
			began := time.Now()
			_, err := c.Load(t.Context(), s.ID())
			is(t, err, redsession.ErrUnavailable)
			if took := time.Since(began); took < 200*time.Millisecond || took > 350*time.Millisecond {
				t.Errorf("a call without a deadline took %v, WithTimeout is 250ms", took)
			}
		})
	}
}

// pause stops a node until it is resumed, at the end of the test at the latest.
func pause(t *testing.T, n *harness.Node) {
	t.Helper()
	t.Cleanup(func() {
		if err := n.Resume(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ok(t, n.Pause(t.Context()))
}

// patient has the servers wait longer than the test before they replace one
// that does not answer.
func patient(t *testing.T, p *place) {
	t.Helper()
	set := func(ctx context.Context, timeout int) error {
		var errs []error
		for _, n := range p.Sentinels() {
			errs = append(errs, n.Client().Do(ctx, "sentinel", "set", p.MasterName(), "down-after-milliseconds", timeout).Err())
		}
		if p == cluster {
			for _, n := range p.Nodes() {
				errs = append(errs, n.Client().ConfigSet(ctx, "cluster-node-timeout", fmt.Sprint(timeout)).Err())
			}
		}
		return errors.Join(errs...)
	}
	ok(t, set(t.Context(), 60_000))
	usual := 1000
	if p == cluster {
		usual = 2000
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(p.Restore(ctx), set(ctx, usual)); err != nil {
			t.Error(err)
		}
	})
}
