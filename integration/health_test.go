package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// states is what a health hook was told, by address.
type states struct {
	mu   sync.Mutex
	told map[string][]redsession.NodeState
}

func (s *states) option() redsession.Option {
	s.told = map[string][]redsession.NodeState{}
	return redsession.WithHealthHook(func(h redsession.NodeHealth) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.told[h.Addr] = append(s.told[h.Addr], h.State)
	})
}

func (s *states) of(addr string) []redsession.NodeState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.told[addr])
}

// health is what a client makes of one server; its zero value if that is not listed.
func health(c client[account], addr string) redsession.NodeHealth {
	for _, h := range c.Health() {
		if h.Addr == addr {
			return h
		}
	}
	return redsession.NodeHealth{}
}

func comes(t *testing.T, c client[account], addr string, want redsession.NodeState) {
	t.Helper()
	eventually(t, 5*time.Second, func() error {
		if h := health(c, addr); h.State != want {
			return fmt.Errorf("%s is %q (%v), want %q", addr, h.State, h.Err, want)
		}
		return nil
	})
}

// A server that hangs costs the first calls their timeout. Then nothing is sent to it
// any more, so that no write is in doubt, and everybody can see why.
func TestAServerThatHangsIsLeftAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, p *place) {
		patient(t, p)
		var told states
		w := newWire(p)
		c := connect(t, p, w.option(), told.option())
		s := c.create(t, account{User: somebody(), Name: "Ada"})
		node := p.master(t, s.Handle())
		addr := node.Addr()
		if h := health(c, addr); h.State != redsession.Healthy || h.Err != nil || h.Name != addr {
			t.Errorf("at first: %+v", h)
		}
		pause(t, node)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { c.Touch(ctx, s.ID()) })
		comes(t, c, addr, redsession.Down)
		if h := health(c, addr); h.Err == nil || h.Since.IsZero() || time.Since(h.Since) > time.Minute {
			t.Errorf("down: %+v", h)
		}
		cancel()
		wg.Wait()

		for name, call := range calls(c, s) {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			if err := call(ctx); !errors.Is(err, redsession.ErrUnavailable) || !redsession.SafeToRetry(err) {
				if name != "Create" || p != cluster { // it may be for another master
					t.Errorf("%s, to a server that is down: %v", name, err)
				}
			}
			cancel()
		}
		for _, h := range c.Health() {
			if h.Addr != addr && h.State != redsession.Healthy {
				t.Errorf("another server: %+v", h)
			}
		}
		ok(t, node.Resume(t.Context()))
		comes(t, c, addr, redsession.Healthy)
		ok(t, c.Touch(t.Context(), s.ID()))
		want := []redsession.NodeState{redsession.Suspect, redsession.Down, redsession.Healthy}
		eventually(t, time.Second, func() error {
			if got := told.of(addr); !slices.Equal(got, want) {
				return fmt.Errorf("the hook was told %v, want %v", got, want)
			}
			return nil
		})
	})
}

// One that is killed is down at once, and used as soon as it is back.
func TestAServerThatIsBackIsUsed(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		restoreAfter(t, p)
		c := connect(t, p)
		s := c.create(t, account{Name: "Ada"})
		node := p.Nodes()[0]
		ok(t, node.Kill(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err := c.Load(ctx, s.ID())
		cancel()
		is(t, err, redsession.ErrUnavailable)
		comes(t, c, node.Addr(), redsession.Down)
		is(t, c.Ping(t.Context()), redsession.ErrUnavailable)
		loaded := make(chan error, 1)
		go func() { // it waits
			_, err := c.Load(t.Context(), s.ID())
			loaded <- err
		}()
		ok(t, node.Restart(t.Context()))
		ok(t, c.Ping(t.Context()))
		ok(t, <-loaded)
		comes(t, c, node.Addr(), redsession.Healthy)
	}, single)
}

// A ring tells what it makes of its nodes, also of one that is up and does not count.
func TestHealthOfARing(t *testing.T) {
	env := harness.StartNodes(t, 3)
	var nodes []redsession.Node
	for _, n := range env.Nodes() {
		nodes = append(nodes, redsession.Node{Name: n.Name(), Addr: n.Addr()})
	}
	for _, replicas := range []int{3, 1} {
		t.Run(fmt.Sprint("replicas ", replicas), func(t *testing.T) {
			var told states
			c := newClient[account](t, redsession.WithRing(nodes...), redsession.WithReplicas(replicas),
				redsession.WithDialer(env.Dialer()), redsession.WithPrefix(fmt.Sprint("ring", replicas)), told.option())
			defer c.Close()
			if list := c.Health(); len(list) != 0 {
				t.Errorf("before the first call: %+v", list)
			}
			ok(t, c.Ping(t.Context()))
			for _, n := range nodes {
				comes(t, c, n.Addr, redsession.Healthy)
				if h := health(c, n.Addr); h.Name != n.Name {
					t.Errorf("the name of %s is %q", n.Name, h.Name)
				}
			}
			if list := c.Health(); len(list) != 3 {
				t.Errorf("%d nodes: %+v", len(list), list)
			}
			victim := env.Nodes()[1]
			ok(t, victim.Kill(t.Context()))
			_ = c.Ping(t.Context())
			_ = c.Ping(t.Context())
			comes(t, c, victim.Addr(), redsession.Down)
			ok(t, victim.RestartEmpty(t.Context()))
			comes(t, c, victim.Addr(), redsession.Healthy)
			eventually(t, time.Second, func() error {
				got := told.of(victim.Addr())
				if !slices.Contains(got, redsession.Down) || got[len(got)-1] != redsession.Healthy {
					return fmt.Errorf("the hook was told %v", got)
				}
				return nil
			})
		})
	}
}
