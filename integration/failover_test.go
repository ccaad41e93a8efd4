package integration

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// A master dies: calls wait for its successor within their deadlines, and
// succeed; what was replicated is still there, and what was deleted is not.
func TestFailover(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		c := connect(t, p)
		restoreAfter(t, p)
		user := somebody()
		var live []*redsession.Session[account]
		for i := range 24 {
			data := account{Name: fmt.Sprint("owner ", i)}
			if i%2 == 0 {
				data.User = user // at the master that dies
			}
			live = append(live, c.create(t, data))
		}
		var dead []string
		for range 5 {
			s := c.create(t, account{User: user})
			dead = append(dead, s.ID())
			ok(t, c.Delete(t.Context(), s.ID()))
		}
		doomed := p.master(t, live[0].Handle())
		replicated(t, p)

		var slowest, calls atomic.Int64
		timed := func(name string, call func(ctx context.Context) error) {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			began := time.Now()
			if err := call(ctx); err != nil {
				t.Errorf("%s after %v: %v", name, time.Since(began), err)
			}
			took := int64(time.Since(began))
			for was := slowest.Load(); took > was && !slowest.CompareAndSwap(was, took); was = slowest.Load() {
			}
			calls.Add(1)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var wg sync.WaitGroup
		for i, s := range live {
			wg.Go(func() {
				for n := 0; ctx.Err() == nil; n++ {
					timed("Load", func(ctx context.Context) error {
						got, err := c.Load(ctx, s.ID())
						if err == nil && got.Data.Name != fmt.Sprint("owner ", i) {
							t.Errorf("owner %d got %+v", i, got.Data)
						}
						return err
					})
					switch {
					case i%4 < 2:
						timed("Save", func(ctx context.Context) error { s.Data.Visits++; return c.Save(ctx, s) })
					case n%2 == 0:
						timed("Touch", func(ctx context.Context) error { return c.Touch(ctx, s.ID()) })
					default:
						timed("Create", func(ctx context.Context) error {
							_, err := c.Create(ctx, account{User: user})
							return err
						})
					}
					select {
					case <-ctx.Done():
					case <-time.After(10 * time.Millisecond):
					}
				}
			})
		}
		progress(t, &calls, 200, 5*time.Second)

		ok(t, doomed.Kill(t.Context()))
		killed := time.Now()
		newcomer := connect(t, p)
		timed("Load by a client that is new", func(ctx context.Context) error {
			_, err := newcomer.Load(ctx, live[0].ID())
			return err
		})
		t.Logf("%s: a new client loads from the successor %v after the kill", p.name, time.Since(killed).Round(time.Millisecond))
		ok(t, p.WaitServing(t.Context()))
		progress(t, &calls, 200, 10*time.Second)
		stop()
		wg.Wait()
		t.Logf("%s: %d calls, the slowest took %v", p.name, calls.Load(), time.Duration(slowest.Load()).Round(time.Millisecond))
		if took := time.Duration(slowest.Load()); took > 10*time.Second {
			t.Errorf("a call took %v", took)
		}
		if n := p.master(t, live[0].Handle()); n == doomed {
			t.Error("there is no successor")
		}
		for i, s := range live {
			if got := newcomer.load(t, s.ID()); got.Data.Name != fmt.Sprint("owner ", i) {
				t.Errorf("owner %d has %+v", i, got.Data)
			}
		}
		for _, id := range dead {
			newcomer.dead(t, id)
		}

		// The old master is a replica when it returns.
		ok(t, doomed.Restart(t.Context()))
		ok(t, p.WaitReady(t.Context()))
		for _, s := range live {
			c.load(t, s.ID())
			s.Data.Visits++
			ok(t, c.Save(t.Context(), s))
		}
	}, sentinel, cluster)
}

// One server that is restarted, with its data: calls wait for it.
func TestARestart(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		c := connect(t, p)
		restoreAfter(t, p)
		s := c.create(t, account{Name: "Ada"})
		gone := c.create(t, account{})
		ok(t, c.Delete(t.Context(), gone.ID()))
		node := p.Nodes()[0]
		ok(t, node.Kill(t.Context()))
		saved := make(chan error, 1)
		go func() {
			s.Data.Visits++
			saved <- c.Save(t.Context(), s)
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := c.Load(ctx, s.ID())
		cancel()
		is(t, err, redsession.ErrUnavailable)
		ok(t, node.Restart(t.Context()))
		ok(t, <-saved)
		if got := c.load(t, s.ID()); got.Data.Visits != 1 || got.Version() != 2 {
			t.Errorf("after the restart: %+v, version %d", got.Data, got.Version())
		}
		c.dead(t, gone.ID())
	}, single)
}

// A Sentinel that stops answering is one of three.
func TestAPausedSentinel(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		patient(t, p)
		for _, silent := range p.Sentinels() {
			c := connect(t, p)
			s := c.create(t, account{Name: "Ada"})
			pause(t, silent)
			for _, c := range []client[account]{c, connect(t, p)} {
				began := time.Now()
				var wg sync.WaitGroup
				for range 10 { // new connections ask a Sentinel
					wg.Go(func() {
						if _, err := c.Load(t.Context(), s.ID()); err != nil {
							t.Errorf("Load while %s stands still: %v", silent, err)
						}
						if err := c.Touch(t.Context(), s.ID()); err != nil {
							t.Errorf("Touch while %s stands still: %v", silent, err)
						}
					})
				}
				wg.Wait()
				t.Logf("while %s stands still, a load and a touch by ten goroutines took %v", silent, time.Since(began).Round(time.Millisecond))
			}
			ok(t, silent.Resume(t.Context()))
		}
	}, sentinel)
}

// restoreAfter heals the place when the test has ended.
func restoreAfter(t *testing.T, p *place) {
	t.Helper()
	t.Cleanup(func() {
		if err := p.Restore(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// progress waits until n more calls were made.
func progress(t *testing.T, calls *atomic.Int64, n int64, within time.Duration) {
	t.Helper()
	from := calls.Load()
	eventually(t, within, func() error {
		if did := calls.Load() - from; did < n {
			return fmt.Errorf("%d calls", did)
		}
		return nil
	})
}

// replicated waits until the replicas have what the masters have now.
func replicated(t *testing.T, p *place) {
	t.Helper()
	offset := func(n *harness.Node, field string) int64 {
		info, err := n.Client().Info(t.Context(), "replication").Result()
		ok(t, err)
		_, rest, _ := strings.Cut(info, "\n"+field+":")
		value, _, _ := strings.Cut(rest, "\r")
		v, err := strconv.ParseInt(value, 10, 64)
		ok(t, err)
		return v
	}
	nodes, err := p.Masters(t.Context())
	ok(t, err)
	for _, master := range nodes {
		want := offset(master, "master_repl_offset")
		replicas, err := p.Replicas(t.Context(), master)
		ok(t, err)
		for _, replica := range replicas {
			eventually(t, 10*time.Second, func() error {
				if got := offset(replica, "slave_repl_offset"); got < want {
					return errors.New("a replica is behind")
				}
				return nil
			})
		}
	}
}
