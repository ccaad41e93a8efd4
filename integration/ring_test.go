package integration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// ringOf starts a ring of n nodes with 3 replicas, and a client of it.
func ringOf(t testing.TB, n int) (*harness.Env, *redsession.HashRing, client[account]) {
	t.Helper()
	env := harness.StartNodes(t, n)
	var nodes []redsession.Node
	for _, node := range env.Nodes() {
		nodes = append(nodes, redsession.Node{Name: node.Name(), Addr: node.Addr()})
	}
	hash, err := redsession.NewHashRing(nodes, 3)
	ok(t, err)
	c := newClient[account](t, redsession.WithRing(nodes...), redsession.WithDialer(env.Dialer()))
	t.Cleanup(func() { c.Close() })
	return env, hash, c
}

// filled makes sessions, many at once.
func filled(t testing.TB, c client[account], n int) []string {
	t.Helper()
	ids := make([]string, n)
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := g; i < n; i += 16 {
				s, err := c.Create(t.Context(), account{User: fmt.Sprint("user ", i), Visits: i})
				if err != nil {
					t.Errorf("Create: %v", err)
					return
				}
				ids[i] = s.ID()
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return ids
}

// completed waits until the node has been repaired.
func completed(t testing.TB, n *harness.Node) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		token, err := n.Client().HGet(t.Context(), "session:@mark", "token").Result()
		if err == nil && token == "" {
			err = errors.New("it is not complete")
		}
		return err
	})
}

// copiesOf counts the sessions on a node.
func copiesOf(t testing.TB, n *harness.Node) int {
	t.Helper()
	keys, err := n.Client().Keys(t.Context(), "session:{*").Result()
	ok(t, err)
	return len(keys)
}

// Nobody reads, and still every copy is back.
func TestEveryNodeInTurnComesBackEmpty(t *testing.T) {
	env, _, c := ringOf(t, 3)
	n := rounds(500)
	ids := filled(t, c, n)
	for _, node := range env.Nodes() {
		// What was sent to it may still be on its way.
		eventually(t, 10*time.Second, func() error {
			if got := copiesOf(t, node); got != n {
				return fmt.Errorf("%s has %d of %d copies", node, got, n)
			}
			return nil
		})
	}
	for _, node := range env.Nodes() {
		ok(t, node.RestartEmpty(t.Context()))
		began := time.Now()
		completed(t, node)
		t.Logf("%s was complete again after %v", node, time.Since(began).Round(time.Millisecond))
		if got := copiesOf(t, node); got != n {
			t.Errorf("%s has %d of %d copies", node, got, n)
		}
	}
	for i, r := range c.LoadMany(t.Context(), ids...) {
		if r.Err != nil || r.Session.Data.Visits != i {
			t.Fatalf("session %d: %v", i, r.Err)
		}
	}
}

// Two of three owners gone: only the sessions that have no majority left cannot be
// had, and all is well when the two return.
func TestTwoOfThreeOwnersAreGone(t *testing.T) {
	env, hash, c := ringOf(t, 6)
	ids := filled(t, c, 200)
	gone := map[string]bool{}
	for _, node := range env.Nodes()[:2] {
		gone[node.Name()] = true
		ok(t, node.CutOff(t.Context(), harness.Clients))
	}
	lost := func(id string) bool {
		n := 0
		for _, owner := range hash.Owners(id[:4]) {
			if gone[owner.Name] {
				n++
			}
		}
		return n == 2
	}
	some := 0
	for _, id := range ids {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := c.Load(ctx, id)
		cancel()
		if lost(id) {
			some++
			is(t, err, redsession.ErrUnavailable)
		} else {
			is(t, err, nil)
		}
	}
	if some == 0 || some == len(ids) {
		t.Fatalf("%d of %d sessions have lost their majority", some, len(ids))
	}
	var slowest time.Duration // by now nobody waits for them any more
	for _, id := range ids {
		began := time.Now()
		_, err := c.Load(t.Context(), id)
		slowest = max(slowest, time.Since(began))
		if lost(id) {
			is(t, err, redsession.ErrUnavailable)
		} else {
			is(t, err, nil)
		}
	}
	t.Logf("%d of %d sessions are unavailable; the slowest call took %v", some, len(ids), slowest)
	ok(t, env.Restore(t.Context()))
	for _, id := range ids {
		eventually(t, 10*time.Second, func() error {
			_, err := c.Load(t.Context(), id)
			return err
		})
	}
}

// Whatever somebody has put in a session's place, all others are repaired.
func TestAKeyOfAnotherTypeKeepsNobodyFromRepair(t *testing.T) {
	env, _, c := ringOf(t, 3)
	ids := filled(t, c, 20)
	broken, behind := env.Nodes()[0], env.Nodes()[1]
	garble := func(id string) {
		t.Helper()
		for _, n := range env.Nodes() {
			ok(t, n.Client().Set(t.Context(), key(id[:15]), "no hash", time.Hour).Err())
		}
	}
	garble(ids[0])
	ok(t, broken.RestartEmpty(t.Context()))
	completed(t, broken)
	if got := copiesOf(t, broken); got != len(ids)-1 {
		t.Errorf("%s has %d copies, want %d", broken, got, len(ids)-1)
	}
	garble(ids[1]) // also on the node that is repaired
	ok(t, behind.Client().Del(t.Context(), key(ids[2][:15])).Err())
	ok(t, c.Repair(t.Context()))
	if len(storedAt(t, behind, ids[2][:15])) == 0 {
		t.Error("a copy that a node had lost is still missing")
	}
}
