package integration

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
)

// A master that is demoted while a call waits for its replicas confirms nothing.
func TestAMasterThatIsDemotedConfirmsNothing(t *testing.T) {
	for _, call := range []struct {
		name string
		opts []redsession.Option
		do   func(ctx context.Context, c client[account], s *redsession.Session[account]) error
	}{
		{"Delete", nil, func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
			return c.Delete(ctx, s.ID())
		}},
		{"Save", []redsession.Option{redsession.WithMinReplicas(1, ample)}, func(ctx context.Context, c client[account], s *redsession.Session[account]) error {
			s.Data.Theme = "dark"
			return c.Save(ctx, s)
		}},
	} {
		t.Run(call.name, func(t *testing.T) {
			p := sentinel
			p.start(t)
			patient(t, p)
			loyal(t, p)
			b := newBench(t, p, byAddress)
			c := b.connect(call.opts...)
			s, _ := b.session()
			master := p.master(t, s.Handle())
			for _, n := range p.followers(t, master) {
				pause(t, n)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- call.do(ctx, c, s) }()
			eventually(t, 5*time.Second, func() error {
				info, err := master.Client().Info(t.Context(), "clients").Result()
				if err == nil && !strings.Contains(info, "blocked_clients:1") {
					err = errors.New("it does not wait")
				}
				return err
			})
			defer master.Client().Do(context.Background(), "replicaof", "no", "one")
			ok(t, master.Client().Do(t.Context(), "replicaof", "127.0.0.1", "1").Err())
			err := <-done
			if !errors.Is(err, redsession.ErrUnconfirmed) || redsession.SafeToRetry(err) {
				t.Errorf("%v, safe to retry: %v; want ErrUnconfirmed", err, redsession.SafeToRetry(err))
			}
		})
	}
}

// What is found to be in effect on the master alone, after more saves than the
// session remembers, is not confirmed by replicas.
func TestASaveThatIsSettledByALookIsUnconfirmed(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		patient(t, p)
		loyal(t, p)
		b := newBench(t, p, byAddress)
		c := b.connect(redsession.WithMinReplicas(1, brief))
		s, other := b.session()
		for _, n := range p.followers(t, p.master(t, s.Handle())) {
			pause(t, n)
		}
		s.Data.Theme = "dark"
		is(t, c.Save(t.Context(), s), redsession.ErrUnconfirmed)
		for i := range 9 {
			other.Data.Visits = i + 1
			ok(t, b.theirs.Save(t.Context(), other))
		}
		is(t, c.Save(t.Context(), s), redsession.ErrUnconfirmed)
	}, sentinel, cluster)
}

// A user who must not ask for replicas is told that the write was done unconfirmed.
func TestAWaitThatIsForbiddenIsUnconfirmed(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		b := newBench(t, p, byAddress)
		for _, n := range p.Nodes() {
			ok(t, n.Client().Do(t.Context(), "acl", "setuser", "nowait", "on", ">x", "~*", "&*", "+@all", "-wait").Err())
			defer n.Client().Do(context.Background(), "acl", "deluser", "nowait")
		}
		c := b.connect(redsession.WithCredentials("nowait", "x"), redsession.WithMinReplicas(1, ample))
		s, _ := b.session()
		s.Data.Theme = "dark"
		err := c.Save(t.Context(), s)
		if stored := p.stored(t, s.Handle()); stored["@v"] == "2" && (!errors.Is(err, redsession.ErrUnconfirmed) || redsession.SafeToRetry(err)) {
			t.Errorf("the save was done: %v, safe to retry: %v; want ErrUnconfirmed", err, redsession.SafeToRetry(err))
		}
	}, sentinel, cluster)
}

// A user who must not ask for the role (-@dangerous) still has his logouts waited
// for, also after a replica was late once.
func TestALogoutWithoutTheRoleWaits(t *testing.T) {
	on(t, func(t *testing.T, p *place) {
		patient(t, p)
		loyal(t, p)
		b := newBench(t, p, byAddress)
		for _, n := range p.Nodes() {
			ok(t, n.Client().Do(t.Context(), "acl", "setuser", "norole", "on", ">x", "~*", "&*", "+@all", "-@dangerous", "+cluster").Err())
			defer n.Client().Do(context.Background(), "acl", "deluser", "norole")
		}
		c := b.connect(redsession.WithCredentials("norole", "x"))
		logout := func() [][]string {
			s, _ := b.session()
			return b.wire.packets(func() { ok(t, c.Delete(t.Context(), s.ID())) })
		}
		logout()
		s, _ := b.session()
		replicas := p.followers(t, p.master(t, s.Handle()))
		for _, n := range replicas {
			pause(t, n)
		}
		logout() // late
		for _, n := range replicas {
			ok(t, n.Resume(t.Context()))
		}
		packets := logout()
		if last := strings.Join(packets[len(packets)-1], " "); !strings.Contains(last, "wait") {
			t.Errorf("a logout is not waited for any more: %v", packets)
		}
	}, cluster)
}

// A slot that moves to a master that has none yet, as when a cluster grows.
func TestALogoutOfASlotThatMovesToANewMaster(t *testing.T) {
	env := harness.StartCluster(t)
	p := &place{Env: env, name: "cluster"}
	w := newWire(p)
	c := newClient[account](t, redsession.WithCluster(env.Addrs()...), w.option())
	defer c.Close()
	user := somebody()
	s, u := c.create(t, account{User: user}), c.create(t, account{User: user})
	from := p.master(t, s.Handle())
	slot, err := from.Client().ClusterKeySlot(t.Context(), key(s.Handle())).Result()
	ok(t, err)
	// A master gives its slots away: it stands for one that joins.
	nodes, err := p.Masters(t.Context())
	ok(t, err)
	fresh := nodes[0]
	if fresh == from {
		fresh = nodes[1]
	}
	id, err := fresh.Client().ClusterMyID(t.Context()).Result()
	ok(t, err)
	for _, shard := range from.Client().ClusterShards(t.Context()).Val() {
		if !slices.ContainsFunc(shard.Nodes, func(n redis.Node) bool { return n.ID == id }) {
			continue
		}
		for _, r := range shard.Slots {
			for _, n := range env.Nodes() {
				n.Client().ClusterDelSlotsRange(t.Context(), int(r.Start), int(r.End))
			}
			ok(t, from.Client().ClusterAddSlotsRange(t.Context(), int(r.Start), int(r.End)).Err())
		}
	}
	eventually(t, 20*time.Second, func() error {
		for _, n := range nodes {
			if i := n.Client().ClusterInfo(t.Context()).Val(); !strings.Contains(i, "cluster_state:ok") {
				return errors.New(i)
			}
		}
		return nil
	})
	m := migration{t, p, slot, from, fresh}
	m.begin()
	for m.move(50) > 0 {
	}
	for name, call := range map[string]func(context.Context) error{
		"Delete": func(ctx context.Context) error { return c.Delete(ctx, s.ID()) },
		"Rotate": func(ctx context.Context) error { return c.Rotate(ctx, u) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		packets := w.packets(func() {
			if err := call(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
		cancel()
		if last := strings.Join(packets[len(packets)-1], " "); !strings.HasPrefix(last, "asking") || !strings.Contains(last, "wait") {
			t.Errorf("%s was not waited for where it was done: %v", name, packets)
		}
	}
}
