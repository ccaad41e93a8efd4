package harness_test

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

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/integration/harness"
)

func TestMembers(t *testing.T) {
	t.Parallel() // it waits some of its time
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		const keys, some = 2000, 600
		env := harness.StartCluster(t, on, harness.WithSpares(2))
		ctx := t.Context()
		nodes, first, second := env.Nodes(), env.Spares()[0], env.Spares()[1]
		cc := redis.NewClusterClient(&redis.ClusterOptions{Addrs: env.Addrs(), Dialer: env.Dialer()})
		t.Cleanup(func() { cc.Close() })
		for i := range keys {
			ok(t, cc.Set(ctx, fmt.Sprint("key", i), i, 0).Err())
		}

		read := func(ctx context.Context, i int) error {
			if err := is(cc.Get(ctx, fmt.Sprint("key", i%keys)), fmt.Sprint(i%keys)); err != nil {
				return fmt.Errorf("key %d: %w", i%keys, err)
			}
			return nil
		}
		// while reads all the time while f runs; no read may fail.
		while := func(t *testing.T, f func()) {
			t.Helper()
			reading, stop := context.WithCancel(ctx)
			var wg sync.WaitGroup
			defer wg.Wait()
			defer stop()
			wg.Go(func() {
				for i := 0; reading.Err() == nil; i++ {
					if err := read(ctx, i); err != nil {
						t.Error(err)
						return
					}
				}
			})
			f()
		}
		readable := func(t *testing.T) {
			t.Helper()
			cc.ReloadState(ctx)
			for i := range keys {
				eventually(t, func(ctx context.Context) error { return read(ctx, i) })
			}
		}
		owns := func(t *testing.T, n *harness.Node, want int) {
			t.Helper()
			if got, err := env.Slots(ctx, n); err != nil || got != want {
				t.Errorf("%s owns %d slots, %v, expected %d", n, got, err, want)
			}
		}
		follow := func(t *testing.T, master *harness.Node, want ...*harness.Node) {
			t.Helper()
			if got, err := env.Replicas(ctx, master); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s has the replicas %v, %v, expected %v", master, got, err, want)
			}
		}
		members := func(t *testing.T, spares []*harness.Node, more ...*harness.Node) {
			t.Helper()
			want := append(slices.Clone(nodes), more...)
			var addrs []string
			for _, n := range want {
				addrs = append(addrs, n.Addr())
			}
			if !slices.Equal(env.Nodes(), want) || !slices.Equal(env.Spares(), spares) || !slices.Equal(env.Addrs(), addrs) {
				t.Errorf("members %v at %v and spares %v", env.Nodes(), env.Addrs(), env.Spares())
			}
			ok(t, env.WaitReady(ctx))
		}
		id := func(t *testing.T, n *harness.Node) string {
			t.Helper()
			id, err := n.Client().ClusterMyID(ctx).Result()
			ok(t, err)
			return id
		}

		t.Run("spares", func(t *testing.T) {
			if first.Name() != "node-6" || env.Node("node-6") != first || env.Node(second.Addr()) != second {
				t.Errorf("%s and %s are not found by name and address", first, second)
			}
			ok(t, second.Kill(ctx))
			members(t, []*harness.Node{first, second})
			ok(t, env.Restore(ctx))
			if up, err := second.Running(ctx); !up || err != nil {
				t.Errorf("%s after Restore: running %t, %v", second, up, err)
			}
		})

		t.Run("join and follow", func(t *testing.T) {
			ok(t, env.Join(ctx, first))
			members(t, []*harness.Node{second}, first)
			ok(t, env.Join(ctx, second))
			members(t, nil, first, second)
			owns(t, first, 0)
			if masters, err := env.Masters(ctx); err != nil || len(masters) != 3 {
				t.Errorf("with a new one that owns nothing the masters are %v, %v", masters, err)
			}
			ok(t, env.Follow(ctx, second, first))
			follow(t, first, second)
			isReplica(t, second)
		})

		t.Run("move slots", func(t *testing.T) {
			before, err := nodes[0].Client().DBSize(ctx).Result()
			ok(t, err)
			while(t, func() { ok(t, env.MoveSlots(ctx, nodes[0], first, some)) })
			owns(t, first, some)
			after, err := nodes[0].Client().DBSize(ctx).Result()
			ok(t, err)
			moved, err := first.Client().DBSize(ctx).Result()
			ok(t, err)
			if moved == 0 || before != after+moved {
				t.Errorf("of %d keys %d have stayed and %d have moved", before, after, moved)
			}
			ok(t, env.WaitReady(ctx))
		})

		t.Run("promote", func(t *testing.T) {
			while(t, func() { ok(t, env.Promote(ctx, second)) })
			owns(t, second, some)
			owns(t, first, 0)
			follow(t, second, first)
		})

		t.Run("stop and restart", func(t *testing.T) {
			before, err := second.Client().DBSize(ctx).Result()
			ok(t, err)
			// What it has afterwards shall come from its files, not from an heir.
			timeout := func(ms string) {
				t.Helper()
				for _, n := range env.Nodes() {
					ok(t, n.Client().ConfigSet(ctx, "cluster-node-timeout", ms).Err())
				}
			}
			timeout("60000")
			ok(t, second.Stop(ctx))
			ok(t, second.Restart(ctx))
			timeout("2000")
			after, err := second.Client().DBSize(ctx).Result()
			ok(t, err)
			if before == 0 || after != before {
				t.Errorf("of %d keys it has kept %d", before, after)
			}
			ok(t, env.WaitReady(ctx))
			readable(t)
		})

		t.Run("refused", func(t *testing.T) {
			for _, c := range []struct {
				name, why string
				err       error
			}{
				{"a member joins", "no spare", env.Join(ctx, nodes[0])},
				{"an owner leaves", "owns 600 slots", env.Leave(ctx, second)},
				{"an owner follows", "owns 600 slots", env.Follow(ctx, second, nodes[0])},
				{"following a replica", "not a replica", env.Follow(ctx, first, nodes[3])},
				{"a master is promoted", "no replica", env.Promote(ctx, nodes[0])},
				{"more than it owns", "owns 600 slots", env.MoveSlots(ctx, second, nodes[0], some+1)},
				{"less than nothing", "owns 600 slots", env.MoveSlots(ctx, second, nodes[0], -1)},
				{"to itself", "has them", env.MoveSlots(ctx, second, second, 1)},
				{"to a replica", "no master", env.MoveSlots(ctx, second, first, 1)},
			} {
				if c.err == nil || !strings.Contains(c.err.Error(), c.why) {
					t.Errorf("%s: %v, expected that it says %q", c.name, c.err, c.why)
				}
			}
			owns(t, second, some)
		})

		t.Run("a move that is called off", func(t *testing.T) {
			within, stop := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- env.MoveSlots(within, nodes[2], second, 5000) }()
			eventually(t, func(ctx context.Context) error {
				if now, err := env.Slots(ctx, second); now == some || err != nil {
					return errors.Join(errors.New("nothing has moved"), err)
				}
				return nil
			})
			stop()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("it ends with %v", err)
			}
			ok(t, env.WaitReady(ctx))
			readable(t)
		})

		t.Run("move all slots", func(t *testing.T) {
			all, err := env.Slots(ctx, second)
			ok(t, err)
			while(t, func() { ok(t, env.MoveSlots(ctx, second, nodes[0], all)) })
			owns(t, second, 0)
			ok(t, env.WaitReady(ctx))
			follow(t, second, first) // it stays a master, with its replica
		})

		t.Run("leave and join again", func(t *testing.T) {
			if err := env.Leave(ctx, second); err == nil || !strings.Contains(err.Error(), "has replicas") {
				t.Errorf("a master with a replica leaves: %v", err)
			}
			was := id(t, second)
			ok(t, env.Leave(ctx, first))
			members(t, []*harness.Node{first}, second)
			ok(t, env.Leave(ctx, second))
			members(t, []*harness.Node{first, second})
			if _, err := env.Slots(ctx, second); err == nil {
				t.Error("a spare passed for a member")
			}
			ok(t, env.Join(ctx, second))
			members(t, []*harness.Node{first}, second)
			if id(t, second) == was {
				t.Error("it joined under its old ID")
			}
			readable(t)
		})

		t.Run("a move that fails, and one past a master that is away", func(t *testing.T) {
			from, heir := nodes[1], nodes[4]
			key, slot := "", int64(0)
			for i := 0; slot < 6000 || slot > 10922; i++ {
				key = fmt.Sprint("key", i)
				var err error
				slot, err = from.Client().ClusterKeySlot(ctx, key).Result()
				ok(t, err)
			}
			ok(t, second.Client().Do(ctx, "cluster", "setslot", slot, "importing", id(t, from)).Err())
			ok(t, from.Client().Do(ctx, "cluster", "setslot", slot, "migrating", id(t, second)).Err())
			host, port, err := net.SplitHostPort(second.Addr())
			ok(t, err)
			ok(t, from.Client().Migrate(ctx, host, port, key, 0, 5*time.Second).Err())
			eventually(t, func(context.Context) error {
				if err := env.WaitReady(soon(t)); err == nil || !strings.Contains(err.Error(), "in migration") {
					return fmt.Errorf("a cluster with a slot in migration is ready: %w", err)
				}
				return nil
			})

			ok(t, from.Kill(ctx))
			failed(t, env, from)
			eventually(t, func(ctx context.Context) error {
				// The target does not know it, but the others must.
				flags, _, err := seen(ctx, nodes[0], heir)
				if err == nil && flags != "master" {
					err = fmt.Errorf("%s takes %s for %s", nodes[0], heir, flags)
				}
				return err
			})
			// The old master will find its slots with two others, so it knows
			// nobody to follow.
			ok(t, env.MoveSlots(ctx, heir, nodes[0], 100))
			ok(t, env.Restore(ctx))
			isReplica(t, from)
			if now, err := env.MasterOf(ctx, key); now != second || err != nil {
				t.Errorf("the move has ended with %s, %v", now, err)
			}
			readable(t)
		})
	})
}

func TestOnlyAClusterChanges(t *testing.T) {
	env := harness.StartNodes(t, 2)
	ctx, n := t.Context(), env.Nodes()
	for _, err := range []error{
		env.Join(ctx, n[0]),
		env.Leave(ctx, n[0]),
		env.Follow(ctx, n[0], n[1]),
		env.Promote(ctx, n[0]),
		env.MoveSlots(ctx, n[0], n[1], 1),
	} {
		if err == nil || !strings.Contains(err.Error(), "no cluster") {
			t.Errorf("independent nodes: %v", err)
		}
	}
}
