package harness_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/integration/harness"
)

// seen is how the node sees another one in CLUSTER NODES: its flags, and when
// it last answered a ping.
func seen(ctx context.Context, from, of *harness.Node) (flags string, pong time.Time, err error) {
	text, err := from.Client().ClusterNodes(ctx).Result()
	if err != nil {
		return "", pong, err
	}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); strings.HasPrefix(f[1], of.Addr()+"@") {
			ms, err := strconv.ParseInt(f[5], 10, 64)
			return f[2], time.UnixMilli(ms), err
		}
	}
	return "", pong, fmt.Errorf("%s does not know %s", from, of)
}

// failed waits until every other node takes n for failed.
func failed(t *testing.T, env *harness.Env, n *harness.Node) {
	t.Helper()
	for _, from := range env.Nodes() {
		if from == n {
			continue
		}
		eventually(t, func(ctx context.Context) error {
			f, _, err := seen(ctx, from, n)
			if err == nil && !strings.HasSuffix(f, ",fail") {
				err = fmt.Errorf("%s takes %s for %s", from, n, f)
			}
			return err
		})
	}
}

func TestCluster(t *testing.T) {
	t.Parallel() // it waits most of its time
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		const key, nodeTimeout = "key", 2 * time.Second
		env := harness.StartCluster(t, on, harness.WithNodeTimeout(nodeTimeout))
		ctx := t.Context()
		cc := redis.NewClusterClient(&redis.ClusterOptions{
			Addrs:         env.Addrs(),
			Dialer:        env.Dialer(),
			DialTimeout:   time.Second,
			DialerRetries: 1,
			ReadTimeout:   time.Second,
		})
		t.Cleanup(func() { cc.Close() })
		write := func(t *testing.T, value string) {
			t.Helper()
			eventually(t, func(ctx context.Context) error {
				cc.ReloadState(ctx)
				return cc.Set(ctx, key, value, 0).Err()
			})
		}
		// pair is the master of the key and its replica.
		pair := func(t *testing.T) (master, replica *harness.Node) {
			t.Helper()
			master, err := env.MasterOf(ctx, key)
			ok(t, err)
			replicas, err := env.Replicas(ctx, master)
			ok(t, err)
			if len(replicas) != 1 {
				t.Fatalf("%s has %d replicas", master, len(replicas))
			}
			return master, replicas[0]
		}

		t.Run("fresh", func(t *testing.T) {
			masters, err := env.Masters(ctx)
			ok(t, err)
			if len(env.Addrs()) != 6 || len(masters) != 3 {
				t.Fatalf("%d addresses, %d masters", len(env.Addrs()), len(masters))
			}
			for i, m := range masters {
				replicas, err := env.Replicas(ctx, m)
				ok(t, err)
				if m != env.Nodes()[i] || len(replicas) != 1 || replicas[0] != env.Nodes()[i+3] {
					t.Errorf("master %d is %s with the replicas %v", i, m, replicas)
				}
			}
			for i := range 100 {
				ok(t, cc.Set(ctx, fmt.Sprint("fresh", i), i, time.Minute).Err())
			}
			seen := 0
			ok(t, env.Scan(ctx, func(e harness.Entry) error { seen++; return nil }))
			if seen != 100 {
				t.Errorf("%d of 100 keys were found", seen)
			}
			ok(t, cc.ScriptLoad(ctx, "return 1").Err())
			ok(t, env.Flush(ctx))
			for _, n := range env.Nodes() {
				size, err := n.Client().DBSize(ctx).Result()
				scripts, serr := n.Client().ScriptExists(ctx, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db").Result()
				if err != nil || serr != nil || size != 0 || scripts[0] {
					t.Errorf("after the flush %s has %d keys, %v, %v, %v", n, size, scripts, err, serr)
				}
			}
		})

		t.Run("kill", func(t *testing.T) {
			master, replica := pair(t)
			write(t, "1")
			replicated(t, master, key, "1", 1)
			ok(t, master.Kill(ctx))
			failed(t, env, master)
			ok(t, env.WaitServing(ctx))
			if now, err := env.MasterOf(ctx, key); err != nil || now != replica {
				t.Fatalf("after the failover the master is %v, %v", now, err)
			}
			holds(t, replica, key, "1")
			if masters, err := env.Masters(ctx); err != nil || len(masters) != 3 {
				t.Errorf("masters %v, %v", masters, err)
			}
			write(t, "2")
			if err := env.WaitReady(soon(t)); err == nil {
				t.Error("a cluster with a dead node passed for a whole one")
			}
			ok(t, master.Restart(ctx))
			ok(t, env.WaitReady(ctx))
			isReplica(t, master)
		})

		t.Run("pause", func(t *testing.T) {
			master, replica := pair(t)
			ok(t, master.Pause(ctx))
			failed(t, env, master)
			ok(t, env.WaitServing(ctx))
			if now, err := env.MasterOf(ctx, key); err != nil || now != replica {
				t.Fatalf("after the failover the master is %v, %v", now, err)
			}
			write(t, "3")
			ok(t, master.Resume(ctx))
			ok(t, env.WaitReady(ctx))
			isReplica(t, master)
		})

		t.Run("cut off from peers", func(t *testing.T) {
			master, replica := pair(t)
			write(t, "4")
			replicated(t, master, key, "4", 1)
			inside := client(t, env, master)
			ok(t, inside.Ping(ctx).Err())
			// How long it takes itself for a master, cut off, is its node timeout:
			// here for as long as this test is not done with it.
			timeout := func(d time.Duration) {
				t.Helper()
				ok(t, master.Client().ConfigSet(ctx, "cluster-node-timeout", strconv.FormatInt(d.Milliseconds(), 10)).Err())
			}
			timeout(5 * time.Minute)
			ok(t, master.CutOff(ctx, harness.Peers))
			ok(t, master.CutOff(ctx, harness.Peers))
			failed(t, env, master)
			ok(t, env.WaitServing(ctx))
			if now, err := env.MasterOf(ctx, key); err != nil || now != replica {
				t.Fatalf("after the failover the master is %v, %v", now, err)
			}
			// The dangerous moment: there are two masters, and the old one says yes
			// to a write that nobody else will see.
			ok(t, inside.Set(ctx, key, "lost", 0).Err())
			fresh := client(t, env, master) // new connections get through, too
			ok(t, fresh.Set(ctx, key, "lost, too", 0).Err())
			holds(t, replica, key, "4")
			timeout(nodeTimeout)
			eventually(t, func(ctx context.Context) error {
				err := inside.Set(ctx, key, "refused", 0).Err()
				if redis.IsClusterDownError(err) {
					return nil
				}
				return fmt.Errorf("the cut off master answers %v", err)
			})
			if err := fresh.Get(ctx, key).Err(); !redis.IsClusterDownError(err) {
				t.Errorf("another connection to the cut off master: %v", err)
			}
			holds(t, replica, key, "4")
			ok(t, master.Heal(ctx))
			ok(t, master.Heal(ctx))
			ok(t, env.WaitReady(ctx))
			isReplica(t, master)
			holds(t, replica, key, "4")
		})

		t.Run("cut off from clients", func(t *testing.T) {
			master, replica := pair(t)
			inside := client(t, env, master)
			ok(t, inside.Ping(ctx).Err())
			ok(t, master.CutOff(ctx, harness.Clients))
			if err := inside.Ping(soon(t)).Err(); !isTimeout(err) {
				t.Errorf("a command on an open connection: %v", err)
			}
			// Its peers must not notice: they go on hearing from it for longer than
			// the node timeout.
			_, cut, err := seen(ctx, replica, master)
			ok(t, err)
			eventually(t, func(ctx context.Context) error {
				f, pong, err := seen(ctx, replica, master)
				if err == nil && pong.Sub(cut) <= 2*nodeTimeout {
					err = fmt.Errorf("%s takes it for %s, and last heard from it %v after the cut", replica, f, pong.Sub(cut))
				}
				return err
			})
			ok(t, master.Heal(ctx))
			ok(t, env.WaitReady(ctx))
			ok(t, client(t, env, master).Ping(ctx).Err())
		})

		t.Run("cut off from all and killed", func(t *testing.T) {
			_, replica := pair(t)
			ok(t, replica.CutOff(ctx, harness.All))
			ok(t, replica.Kill(ctx))
			ok(t, replica.Restart(ctx))
			failed(t, env, replica)
			if err := client(t, env, replica).Ping(soon(t)).Err(); !isTimeout(err) {
				t.Errorf("the cut did not outlive the restart: %v", err)
			}
			ok(t, env.Restore(ctx))
		})

		t.Run("cut off while paused and while down", func(t *testing.T) {
			_, replica := pair(t)
			ok(t, replica.Pause(ctx))
			ok(t, replica.CutOff(ctx, harness.Peers))
			ok(t, replica.Resume(ctx))
			failed(t, env, replica)
			ok(t, replica.Kill(ctx))
			ok(t, replica.Heal(ctx))
			ok(t, replica.CutOff(ctx, harness.All))
			ok(t, replica.Restart(ctx))
			if got := replica.CutFrom(); got != harness.All {
				t.Errorf("it is cut off from its %v", got)
			}
			ok(t, replica.Pause(ctx))
			ok(t, env.Restore(ctx))
			if got := replica.CutFrom(); got != 0 {
				t.Errorf("it is cut off from its %v", got)
			}
		})

		t.Run("restart empty", func(t *testing.T) {
			master, replica := pair(t)
			write(t, "5")
			id, err := replica.Client().ClusterMyID(ctx).Result()
			ok(t, err)
			ok(t, replica.RestartEmpty(ctx))
			if now, err := replica.Client().ClusterMyID(ctx).Result(); err != nil || now != id {
				t.Errorf("it came back as another member: %s, %v", now, err)
			}
			ok(t, env.WaitReady(ctx))
			eventually(t, func(ctx context.Context) error {
				if n, err := replica.Client().DBSize(ctx).Result(); n == 0 || err != nil {
					return errors.Join(errors.New("the replica is still empty"), err)
				}
				return nil
			})
			// A master that is back before it was missed takes its replica along.
			ok(t, master.RestartEmpty(ctx))
			ok(t, env.WaitReady(ctx))
			if now, err := env.MasterOf(ctx, key); err == nil && now == master {
				holds(t, master, key, "")
			}
		})
	})
}
