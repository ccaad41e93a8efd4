package integration

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redsession/redsession"
)

// TestCloseLeavesNothing closes clients in every state, and looks for their
// goroutines, their connections, and what the servers know of them.
func TestCloseLeavesNothing(t *testing.T) {
	states := []struct {
		name string
		// use brings the client into its state, and returns what has to be over
		// soon after Close.
		use func(t *testing.T, p *place, w *wire, c client[account]) (over func(t *testing.T))
	}{
		{"never used", func(*testing.T, *place, *wire, client[account]) func(*testing.T) { return nil }},
		{"used", func(t *testing.T, p *place, _ *wire, c client[account]) func(*testing.T) {
			warmEverywhere(t, p, c)
			return nil
		}},
		{"servers refuse connections", func(t *testing.T, p *place, w *wire, c client[account]) func(*testing.T) {
			warmEverywhere(t, p, c)
			w.refuse(true)
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := c.Create(ctx, account{})
			is(t, err, redsession.ErrUnavailable)
			return nil
		}},
		{"calls under way", func(t *testing.T, p *place, _ *wire, c client[account]) func(*testing.T) {
			warmEverywhere(t, p, c)
			return underWay(t, c, 30)
		}},
		{"calls under way to a server that hangs", func(t *testing.T, p *place, w *wire, c client[account]) func(*testing.T) {
			s := c.create(t, account{User: somebody()})
			pause(t, p.master(t, s.Handle()))
			return underWayOn(t, c, 30, s)
		}},
		{"calls under way to servers that hang in the handshake", func(t *testing.T, p *place, w *wire, c client[account]) func(*testing.T) {
			for range 1000 {
				w.arm(hold, named("hello"))
			}
			return underWayOn(t, c, 10, stillborn(t, p))
		}},
	}
	everywhere(t, func(t *testing.T, p *place) {
		patient(t, p)
		addUser(t, p, "probe", "secret", "~*", "+@all")
		for _, state := range states {
			t.Run(state.name, func(t *testing.T) {
				other := stillborn(t, p)
				before := goroutines()
				w := newWire(p)
				c := newClient[account](t, p.topology(), w.option(), redsession.WithCredentials("probe", "secret"))
				over := state.use(t, p, w, c)

				began := time.Now()
				var wg sync.WaitGroup
				for range 3 { // from several goroutines, and again
					wg.Go(func() { ok(t, c.Close()) })
				}
				wg.Wait()
				ok(t, c.Close())
				if took := time.Since(began); took > time.Second {
					t.Errorf("Close took %v", took)
				}
				if over != nil {
					over(t)
				}
				for name, call := range calls(c, other) {
					began := time.Now()
					err := call(t.Context())
					if !errors.Is(err, redsession.ErrUnavailable) || time.Since(began) > 100*time.Millisecond {
						t.Errorf("%s after Close: %v after %v, want ErrUnavailable at once", name, err, time.Since(began))
					}
				}
				eventually(t, 3*time.Second, func() error {
					w.mu.Lock()
					defer w.mu.Unlock()
					if len(w.open) > 0 {
						return fmt.Errorf("%d connections are open", len(w.open))
					}
					return nil
				})
				ok(t, p.Restore(t.Context()))
				eventually(t, 3*time.Second, func() error {
					if list := clientsOf(t, p, "probe"); len(list) > 0 {
						return fmt.Errorf("the servers still have clients: %q", list)
					}
					return nil
				})
				eventually(t, 3*time.Second, func() error {
					if left := since(before); len(left) > 0 {
						return fmt.Errorf("%d goroutines are left:\n\n%s", len(left), strings.Join(left, "\n\n"))
					}
					return nil
				})
			})
		}
	})
}

// The caller's own driver client is not closed, nor are its connections; what
// redsession started is over.
func TestCloseLeavesTheCallersDriverOpen(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		w := newWire(p)
		rdb := p.driver(t, w.connect, 0)
		open := func() int {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.open)
		}
		ok(t, rdb.Ping(t.Context()).Err())
		c := newClient[account](t, redsession.WithRedis(rdb))
		warmEverywhere(t, p, c)
		connections := open()
		ok(t, c.Close())
		ok(t, c.Close())
		if got := open(); got != connections {
			t.Errorf("%d of %d connections are left", got, connections)
		}
		ok(t, rdb.Ping(t.Context()).Err())
		_, err := c.Load(t.Context(), stillborn(t, p).ID())
		is(t, err, redsession.ErrUnavailable)

		before := goroutines()
		c = newClient[account](t, redsession.WithRedis(rdb))
		over := underWay(t, c, 30)
		ok(t, c.Close())
		over(t)
		nothingOfOurs(t, before)
		again := newClient[account](t, redsession.WithRedis(rdb))
		defer again.Close()
		again.create(t, account{})
	})
}

// Close waits for what it has started, and cannot interrupt a driver that is not
// its own: it takes no longer than one of the driver's timeouts.
func TestCloseWithTheCallersDriverAndAServerThatHangs(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		patient(t, p)
		s := stillborn(t, p)
		rdb := p.driver(t, newWire(p).connect, time.Second)
		ok(t, rdb.Ping(t.Context()).Err())
		before := goroutines()
		c := newClient[account](t, redsession.WithRedis(rdb))
		c.load(t, s.ID())
		pause(t, p.master(t, s.Handle()))
		over := underWayOn(t, c, 10, s)
		began := time.Now()
		ok(t, c.Close())
		took := time.Since(began)
		t.Logf("Close took %v", took.Round(time.Millisecond))
		if took > 1500*time.Millisecond {
			t.Errorf("Close took %v", took)
		}
		over(t)
		ok(t, p.Restore(t.Context()))
		nothingOfOurs(t, before)
	})
}

// nothingOfOurs checks that no goroutine of redsession is left, or soon will be.
func nothingOfOurs(t *testing.T, before map[string]string) {
	t.Helper()
	eventually(t, 3*time.Second, func() error {
		for _, stack := range since(before) {
			if strings.Contains(stack, "/redsession/redsession.") || strings.Contains(stack, "/redsession/internal/") {
				return fmt.Errorf("a goroutine is left:\n\n%s", stack)
			}
		}
		return nil
	})
}

// underWay keeps n goroutines calling.
func underWay(t *testing.T, c client[account], n int) (over func(t *testing.T)) {
	t.Helper()
	return keepCalling(t, c, n, true, func() *redsession.Session[account] { return c.create(t, account{User: somebody()}) })
}

// underWayOn keeps n goroutines calling for a session that does not answer.
func underWayOn(t *testing.T, c client[account], n int, s *redsession.Session[account]) (over func(t *testing.T)) {
	t.Helper()
	return keepCalling(t, c, n, false, func() *redsession.Session[account] { return s })
}

func keepCalling(t *testing.T, c client[account], n int, answers bool, session func() *redsession.Session[account]) (over func(t *testing.T)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	var calling, answered atomic.Int64
	var wg sync.WaitGroup
	for range n {
		s := session()
		wg.Go(func() {
			for {
				for name, call := range calls(c, s) {
					if name == "Delete" || name == "Rotate" || name == "Ping" && !answers {
						continue
					}
					calling.Add(1)
					err := call(ctx)
					if err == nil {
						answered.Add(1)
						continue
					}
					if !errors.Is(err, redsession.ErrUnavailable) && !errors.Is(err, redsession.ErrUnconfirmed) {
						t.Errorf("%s, cut short by Close: %v", name, err)
					}
					if ctx.Err() != nil {
						t.Errorf("%s was not ended by Close", name)
					}
					return
				}
			}
		})
	}
	eventually(t, 10*time.Second, func() error {
		if calling.Load() < int64(n) || answers && answered.Load() < int64(5*n) {
			return errors.New("the calls have not begun")
		}
		return nil
	})
	return func(t *testing.T) {
		t.Helper()
		done := make(chan struct{})
		go func() { wg.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(time.Second):
			t.Error("a second after Close calls are still under way")
			<-done
		}
		cancel()
	}
}

// stillborn is a session for calls that do not reach the servers.
func stillborn(t *testing.T, p *place) *redsession.Session[account] {
	t.Helper()
	c := newClient[account](t, p.topology(), redsession.WithDialer(p.Dialer()))
	defer c.Close()
	return c.create(t, account{Name: "Ada"})
}

// addUser adds an ACL user to every data node, for the time of the test.
func addUser(t *testing.T, p *place, name, password string, rules ...any) {
	t.Helper()
	for _, n := range p.Nodes() {
		ok(t, n.Client().Do(t.Context(), append([]any{"acl", "setuser", name, "on", ">" + password, "&*"}, rules...)...).Err())
		t.Cleanup(func() {
			if err := n.Client().Do(context.Background(), "acl", "deluser", name).Err(); err != nil {
				t.Error(err)
			}
		})
	}
}

// clientsOf is what the data nodes know of the connections of a user.
func clientsOf(t *testing.T, p *place, user string) (list []string) {
	t.Helper()
	for _, n := range p.Nodes() {
		text, err := n.Client().ClientList(t.Context()).Result()
		ok(t, err)
		for line := range strings.Lines(text) {
			if strings.Contains(line, " user="+user+" ") {
				list = append(list, strings.TrimSpace(line))
			}
		}
	}
	return list
}

// goroutines is the stacks of all goroutines by their first word, the number.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := make(map[string]string)
	for stack := range strings.SplitSeq(string(buf), "\n\n") {
		number, _, _ := strings.Cut(strings.TrimPrefix(stack, "goroutine "), " ")
		all[number] = stack
	}
	return all
}

// since is the stacks of the goroutines that were not there before.
func since(before map[string]string) (left []string) {
	for number, stack := range goroutines() {
		if _, was := before[number]; !was {
			left = append(left, stack)
		}
	}
	return left
}
