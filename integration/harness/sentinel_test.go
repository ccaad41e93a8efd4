package harness_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/integration/harness"
)

func TestSentinel(t *testing.T) {
	t.Parallel() // it waits most of its time
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		env := harness.StartSentinel(t, on)
		ctx := t.Context()
		fc := redis.NewFailoverClient(&redis.FailoverOptions{
			MasterName:    env.MasterName(),
			SentinelAddrs: env.Addrs(),
			Dialer:        env.Dialer(),
		})
		t.Cleanup(func() { fc.Close() })
		write := func(t *testing.T, value string) {
			t.Helper()
			eventually(t, func(ctx context.Context) error { return fc.Set(ctx, "k", value, 0).Err() })
		}
		master := func(t *testing.T) *harness.Node {
			t.Helper()
			n, err := env.MasterOf(ctx, "k")
			ok(t, err)
			return n
		}

		t.Run("fresh", func(t *testing.T) {
			if len(env.Nodes()) != 3 || len(env.Sentinels()) != 3 || len(env.Addrs()) != 3 || env.Node(env.Addrs()[0]) != env.Sentinels()[0] {
				t.Errorf("nodes %v, sentinels %v, addresses %v", env.Nodes(), env.Sentinels(), env.Addrs())
			}
			if m := master(t); m != env.Nodes()[0] {
				t.Errorf("the master is %s", m)
			}
			replicas, err := env.Replicas(ctx, env.Nodes()[0])
			if err != nil || len(replicas) != 2 {
				t.Errorf("replicas %v, %v", replicas, err)
			}
			write(t, "1")
		})

		t.Run("kill", func(t *testing.T) {
			old := master(t)
			replicated(t, old, "k", "1", 2)
			ok(t, old.Kill(ctx))
			moved(t, env, old)
			ok(t, env.WaitServing(ctx))
			holds(t, master(t), "k", "1")
			write(t, "2")
			ok(t, old.Restart(ctx))
			ok(t, env.WaitReady(ctx))
			isReplica(t, old)
		})

		t.Run("cut off from peers", func(t *testing.T) {
			old := master(t)
			replicated(t, old, "k", "2", 2)
			inside := client(t, env, old)
			ok(t, inside.Ping(ctx).Err())
			ok(t, old.CutOff(ctx, harness.Peers))
			// Two masters: nothing tells this one that it was deposed.
			ok(t, inside.Set(ctx, "k", "lost", 0).Err())
			moved(t, env, old)
			ok(t, env.WaitServing(ctx))
			ok(t, inside.Set(ctx, "k", "lost, too", 0).Err())
			holds(t, master(t), "k", "2")
			ok(t, old.Heal(ctx))
			ok(t, env.WaitReady(ctx))
			isReplica(t, old)
			holds(t, old, "k", "2")
		})

		t.Run("sentinels", func(t *testing.T) {
			s := env.Sentinels()
			ok(t, s[0].Kill(ctx))
			ok(t, s[1].CutOff(ctx, harness.Clients))
			if err := client(t, env, s[1]).Ping(soon(t)).Err(); !isTimeout(err) {
				t.Errorf("the sentinel that is cut off: %v", err)
			}
			ok(t, env.WaitServing(ctx))
			if s[0].RestartEmpty(ctx) == nil {
				t.Error("a sentinel was emptied")
			}
			ok(t, env.Restore(ctx))
		})
	})
}

// moved waits until the sentinels have made another node the master.
func moved(t *testing.T, env *harness.Env, old *harness.Node) {
	t.Helper()
	eventually(t, func(ctx context.Context) error {
		now, err := env.MasterOf(ctx, "")
		if err == nil && now == old {
			err = fmt.Errorf("%s is still the master", old)
		}
		return err
	})
}
