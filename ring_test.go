package redsession_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

type member struct {
	User string `session:"user,principal"`
	Note string `session:"note"`
}

// ringOf starts n embedded nodes and a client of them with so many replicas.
func ringOf(t *testing.T, n, replicas int, opts ...[]sessiontest.Option) ([]*sessiontest.Server, *redsession.Client[member]) {
	t.Helper()
	var servers []*sessiontest.Server
	var nodes []redsession.Node
	for i := range n {
		var own []sessiontest.Option
		if i < len(opts) {
			own = opts[i]
		}
		servers = append(servers, sessiontest.Start(t, own...))
		nodes = append(nodes, redsession.Node{Name: fmt.Sprint("node-", i), Addr: servers[i].Addr()})
	}
	return servers, ringClient(t, nodes, replicas)
}

func ringClient(t *testing.T, nodes []redsession.Node, replicas int) *redsession.Client[member] {
	t.Helper()
	client, err := redsession.New[member](redsession.WithRing(nodes...), redsession.WithReplicas(replicas))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func made(t *testing.T, c *redsession.Client[member], n int) []*redsession.Session[member] {
	t.Helper()
	var list []*redsession.Session[member]
	for i := range n {
		s, err := c.Create(t.Context(), member{User: fmt.Sprint("user ", i)})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func sessions(s *sessiontest.Server) int {
	n := 0
	for _, key := range s.Keys() {
		if strings.Contains(key, "{") {
			n++
		}
	}
	return n
}

// whole tells whether the node has been completed: its mark has a token.
func whole(s *sessiontest.Server) bool { return s.Fields("session:@mark")["token"] != "" }

func TestNodeThatComesBackEmptyIsRepairedAndRevivesNothing(t *testing.T) {
	t.Parallel()
	servers, c := ringOf(t, 3, 3)
	list := made(t, c, 50)
	servers[1].Down()
	for i, s := range list {
		s.Data.Note = "changed"
		if err := c.Save(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			if err := c.Delete(t.Context(), s.ID()); err != nil {
				t.Fatal(err)
			}
		}
	}
	servers[1].RestartEmpty()
	waitFor(t, "the repair", func() bool { return whole(servers[1]) })
	if got := sessions(servers[1]); got != 50 {
		t.Errorf("%d copies and tombstones, want 50", got)
	}
	servers[0].Down() // so that the repaired one has its say
	for i, s := range list {
		switch got, err := c.Load(t.Context(), s.ID()); {
		case i%5 == 0:
			if !errors.Is(err, redsession.ErrNotFound) {
				t.Errorf("a logout was undone: %v", err)
			}
		case err != nil:
			t.Errorf("Load: %v", err)
		case got.Data.Note != "changed":
			t.Error("a save was lost")
		}
	}
}

func TestTwoOfFiveReplicasComeBackEmpty(t *testing.T) {
	t.Parallel()
	servers, c := ringOf(t, 7, 5)
	list := made(t, c, 50)
	servers[1].RestartEmpty()
	servers[4].RestartEmpty()
	waitFor(t, "both repairs", func() bool { return whole(servers[1]) && whole(servers[4]) })
	servers[2].Down()
	servers[3].Down()
	for _, s := range list {
		if _, err := c.Load(t.Context(), s.ID()); err != nil {
			t.Errorf("Load: %v", err)
		}
	}
}

func TestRingThatWasRestartedAsAWholeGoesOnWithWhatIsLeft(t *testing.T) {
	t.Parallel()
	servers, c := ringOf(t, 3, 3)
	list := made(t, c, 20)
	if err := c.Delete(t.Context(), list[0].ID()); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		s.Restart()
	}
	_, err := c.Load(within(t, 2*time.Second), list[1].ID())
	if !errors.Is(err, redsession.ErrUnavailable) || !strings.Contains(err.Error(), "AcceptLoss") {
		t.Fatalf("Load: %v, want ErrUnavailable and what to do", err)
	}
	if err := c.Repair(within(t, 2*time.Second)); !errors.Is(err, redsession.ErrUnavailable) {
		t.Fatalf("Repair: %v, want ErrUnavailable", err)
	}
	var done []string
	if err := c.Repair(within(t, 20*time.Second), redsession.AcceptLoss(), redsession.OnProgress(func(p redsession.RepairProgress) {
		if p.Done {
			done = append(done, p.Node)
		}
	})); err != nil {
		t.Fatalf("Repair with AcceptLoss: %v", err)
	}
	if len(done) != 3 {
		t.Errorf("repaired: %v", done)
	}
	for i, s := range list {
		if _, err := c.Load(t.Context(), s.ID()); i == 0 != errors.Is(err, redsession.ErrNotFound) || i > 0 && err != nil {
			t.Errorf("session %d: %v", i, err)
		}
	}
}

func TestNodeWhoseClockIsAnHourAheadDoesNotCount(t *testing.T) {
	t.Parallel()
	ahead := sessiontest.WithClock(func() time.Time { return time.Now().Add(time.Hour) })
	servers, c := ringOf(t, 3, 3, nil, nil, []sessiontest.Option{ahead})
	s := made(t, c, 1)[0]
	waitFor(t, "its mark to be revoked", func() bool { return !whole(servers[2]) })
	if off := time.Until(s.CreatedAt()); off > time.Minute || off < -time.Minute {
		t.Errorf("created %v from now", off)
	}
	for n := range 5 {
		s.Data.Note = fmt.Sprint(n)
		if err := c.Save(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	servers[1].Down()
	_, err := c.Load(within(t, 2*time.Second), s.ID())
	if !errors.Is(err, redsession.ErrUnavailable) || !strings.Contains(err.Error(), "clocks") {
		t.Errorf("Load: %v, want ErrUnavailable because of a clock", err)
	}
}

func TestWithTwoReplicasBothAreNeeded(t *testing.T) {
	t.Parallel()
	servers, c := ringOf(t, 2, 2)
	s := made(t, c, 1)[0]
	servers[1].Down()
	waitFor(t, "the node to be given up", func() bool {
		began := time.Now()
		_, err := c.Load(t.Context(), s.ID())
		if !errors.Is(err, redsession.ErrUnavailable) || !strings.Contains(err.Error(), "node-1 is unreachable") {
			t.Fatalf("Load: %v", err)
		}
		return time.Since(began) < 100*time.Millisecond // by the breaker, not by a timeout
	})
	servers[1].Up()
	if _, err := c.Load(within(t, 10*time.Second), s.ID()); err != nil {
		waitFor(t, "the node to be seen again", func() bool { _, err := c.Load(t.Context(), s.ID()); return err == nil })
	}
}

func TestRepairIsForReplicas(t *testing.T) {
	t.Parallel()
	_, c := ringOf(t, 2, 1)
	if err := c.Repair(t.Context()); err == nil || errors.Is(err, redsession.ErrUnavailable) {
		t.Errorf("on a ring without replicas: %v", err)
	}
	_, c = ringOf(t, 3, 3)
	if err := c.Repair(t.Context(), redsession.RepairRate(0)); err == nil {
		t.Error("RepairRate(0) passed")
	}
	made(t, c, 3)
	if err := c.Repair(t.Context()); err != nil {
		t.Errorf("of a ring that is well: %v", err)
	}
}

func TestARepairReturnsWhenItsContextEndsWhateverANodeDoes(t *testing.T) {
	t.Parallel()
	servers, c := ringOf(t, 3, 3)
	made(t, c, 600) // several batches
	for _, when := range []string{"at the start", "half-way"} {
		for _, ending := range []struct {
			cause error
			start func() (context.Context, context.CancelFunc)
		}{
			{context.DeadlineExceeded, func() (context.Context, context.CancelFunc) {
				return context.WithTimeout(t.Context(), 100*time.Millisecond)
			}},
			{context.Canceled, func() (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(100*time.Millisecond, cancel)
				return ctx, cancel
			}},
		} {
			hang := sync.OnceFunc(servers[0].Hang)
			if when == "at the start" {
				hang()
			}
			var returned atomic.Bool
			ctx, cancel := ending.start()
			began := time.Now()
			err := c.Repair(ctx, redsession.OnProgress(func(redsession.RepairProgress) {
				if hang(); returned.Load() {
					t.Error("progress after it has returned")
				}
			}))
			returned.Store(true)
			if took := time.Since(began); took > 400*time.Millisecond {
				t.Errorf("a node that hangs %s: it took %v", when, took)
			}
			cancel()
			if !errors.Is(err, redsession.ErrUnavailable) || !errors.Is(err, ending.cause) || !strings.Contains(err.Error(), "node-0") {
				t.Errorf("a node that hangs %s: %v, want ErrUnavailable because of %v of node-0", when, err, ending.cause)
			}
			servers[0].Up()
			waitFor(t, "a repair", func() bool { return c.Repair(within(t, 5*time.Second)) == nil })
		}
	}
}

// A load that finds a rotation half done spreads it, which must not take the
// rotation its votes.
func TestRotationsAndLoadsAtOnceLogNobodyOut(t *testing.T) {
	t.Parallel()
	_, c := ringOf(t, 3, 3)
	for _, s := range made(t, c, 60) {
		old := s.ID()
		ctx, cancel := context.WithCancel(t.Context())
		var loads sync.WaitGroup
		for range 4 {
			loads.Go(func() {
				for ctx.Err() == nil {
					c.Load(ctx, old)
				}
			})
		}
		err := c.Rotate(t.Context(), s)
		cancel()
		loads.Wait()
		if err != nil {
			t.Fatalf("Rotate: %v", err)
		}
		if _, err := c.Load(t.Context(), s.ID()); err != nil {
			t.Fatalf("Load by the new ID: %v", err)
		}
		if _, err := c.Load(t.Context(), old); !errors.Is(err, redsession.ErrNotFound) {
			t.Fatalf("Load by the old ID: %v", err)
		}
	}
}
