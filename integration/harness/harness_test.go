package harness_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/redsession/redsession/integration/harness"
)

func TestMain(m *testing.M) {
	logging.Disable() // the driver logs each dial that fails, and here they should
	os.Exit(m.Run())
}

// onEachBackend runs the test on both backends, or on that of
// REDSESSION_BACKEND alone. One that cannot be had is skipped; where
// REDSESSION_REQUIRE names it, that is a failure.
func onEachBackend(t *testing.T, test func(t *testing.T, on harness.Option)) {
	for _, b := range []harness.Backend{harness.Process, harness.Docker} {
		if only := os.Getenv("REDSESSION_BACKEND"); only != "" && only != string(b) {
			continue
		}
		t.Run(string(b), func(t *testing.T) {
			if err := harness.Available(t.Context(), b); err != nil {
				if slices.Contains(strings.Split(os.Getenv("REDSESSION_REQUIRE"), ","), string(b)) {
					t.Fatal(err)
				}
				t.Skip(err)
			}
			test(t, harness.WithBackend(b))
		})
	}
}

// ok ends the test on an error.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually ends the test when cond does not come true in 30 s.
func eventually(t *testing.T, cond func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ok(t, harness.Until(ctx, cond))
}

// soon is a context that ends in a moment.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// client returns what a program under test would use to speak to one node. Its
// timeouts are for a busy machine: who expects that there is no answer gives a
// context that ends [soon].
func client(t *testing.T, env *harness.Env, n *harness.Node) *redis.Client {
	c := redis.NewClient(&redis.Options{
		Addr:                     n.Addr(),
		Dialer:                   env.Dialer(),
		DialerRetries:            1,
		DialTimeout:              10 * time.Second,
		ReadTimeout:              10 * time.Second,
		MaxRetries:               -1,
		ContextTimeoutEnabled:    true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// conversation is a connection that the node has answered on, so that what is
// written to it later is sure to be on its way.
func conversation(t *testing.T, env *harness.Env, n *harness.Node) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := env.Dialer()(ctx, "tcp", n.Addr())
	ok(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, "PING\r\n")
	ok(t, err)
	ok(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	pong := make([]byte, len("+PONG\r\n"))
	if _, err := io.ReadFull(c, pong); err != nil || string(pong) != "+PONG\r\n" {
		t.Fatalf("%s answers %q, %v", n, pong, err)
	}
	return c
}

// unanswered sends a command, fails the test when there is an answer, and
// closes the connection.
func unanswered(t *testing.T, c net.Conn, command string) {
	t.Helper()
	_, err := io.WriteString(c, command+"\r\n")
	ok(t, err)
	ok(t, c.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	if n, err := c.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("%s on an open connection: %d bytes, %v", command, n, err)
	}
	ok(t, c.Close())
}

// replicated writes to a master and ends the test unless so many replicas have
// it. WAIT speaks of the writes of its own connection alone, and that it has
// waited in vain is no error.
func replicated(t *testing.T, master *harness.Node, key, value string, replicas int) {
	t.Helper()
	conn := master.Client().Conn()
	defer conn.Close()
	ok(t, conn.Set(t.Context(), key, value, 0).Err())
	got, err := conn.Wait(t.Context(), replicas, 10*time.Second).Result()
	ok(t, err)
	if got < int64(replicas) {
		t.Fatalf("%d of %d replicas of %s have %q under %s", got, replicas, master, value, key)
	}
}

// isReplica fails the test unless the node is one.
func isReplica(t *testing.T, n *harness.Node) {
	t.Helper()
	info, err := n.Client().Info(t.Context(), "replication").Result()
	ok(t, err)
	if !strings.Contains(info, "role:slave\r\n") {
		t.Errorf("%s is no replica:\n%s", n, info)
	}
}

// holds fails the test unless the node has value under key; "" is for none.
func holds(t *testing.T, n *harness.Node, key, value string) {
	t.Helper()
	got, err := n.Client().Get(t.Context(), key).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	if got != value {
		t.Errorf("%s has %q under %s, expected %q", n, got, key, value)
	}
}

func isTimeout(err error) bool {
	var nerr net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &nerr) && nerr.Timeout()
}

func TestSingle(t *testing.T) {
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		env := harness.StartSingle(t, on, harness.WithConf("maxmemory 100mb", "maxmemory-policy noeviction"))
		n, ctx := env.Nodes()[0], t.Context()
		c := client(t, env, n)
		set := func(t *testing.T, value string) { t.Helper(); ok(t, c.Set(ctx, "k", value, 0).Err()) }

		t.Run("conf", func(t *testing.T) {
			got, err := c.ConfigGet(t.Context(), "maxmemory").Result()
			ok(t, err)
			if got["maxmemory"] != "104857600" {
				t.Errorf("maxmemory is %q", got["maxmemory"])
			}
		})
		t.Run("kill and restart", func(t *testing.T) {
			set(t, "1")
			ok(t, n.Kill(ctx))
			ok(t, n.Kill(ctx))
			_ = c.Get(ctx, "k").Err() // ends the open connection, if nothing else did
			if err := c.Get(ctx, "k").Err(); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("a command to a dead server: %v", err)
			}
			if up, err := n.Running(ctx); up || err != nil {
				t.Errorf("running: %t, %v", up, err)
			}
			ok(t, n.Restart(ctx))
			ok(t, n.Restart(ctx))
			holds(t, n, "k", "1")
			eventually(t, func(ctx context.Context) error { return c.Get(ctx, "k").Err() })
		})
		t.Run("restart with older data", func(t *testing.T) {
			old, err := n.Snapshot(ctx)
			ok(t, err)
			set(t, "2")
			ok(t, n.RestartWith(ctx, old))
			holds(t, n, "k", "1")
			eventually(t, func(ctx context.Context) error { return c.Set(ctx, "k", "3", 0).Err() })
			ok(t, n.Kill(ctx))
			ok(t, n.Restart(ctx))
			holds(t, n, "k", "3")
		})
		t.Run("restart empty", func(t *testing.T) {
			ok(t, n.RestartEmpty(ctx))
			holds(t, n, "k", "")
			eventually(t, func(ctx context.Context) error { return c.Set(ctx, "k", "4", 0).Err() })
			ok(t, n.Stop(ctx))
			ok(t, n.Stop(ctx))
			ok(t, n.Restart(ctx))
			holds(t, n, "k", "4")
			got, err := n.Client().ConfigGet(ctx, "maxmemory").Result()
			ok(t, err)
			if got["maxmemory"] != "104857600" {
				t.Errorf("maxmemory is %q", got["maxmemory"])
			}
		})
		t.Run("pause and resume", func(t *testing.T) {
			eventually(t, func(ctx context.Context) error { return c.Ping(ctx).Err() })
			open := conversation(t, env, n)
			ok(t, n.Pause(ctx))
			ok(t, n.Pause(ctx))
			if err := c.Ping(soon(t)).Err(); !isTimeout(err) {
				t.Errorf("a command to a stopped server: %v", err)
			}
			unanswered(t, open, "SET k 5")
			ok(t, n.Resume(ctx))
			ok(t, n.Resume(ctx))
			// The server finds in its sockets what was sent meanwhile.
			eventually(t, func(ctx context.Context) error { return is(n.Client().Get(ctx, "k"), "5") })
			ok(t, n.Pause(ctx))
			ok(t, n.Kill(ctx))
			ok(t, n.Restart(ctx))
			holds(t, n, "k", "5")
		})
		t.Run("cut off from clients", func(t *testing.T) {
			eventually(t, func(ctx context.Context) error { return c.Ping(ctx).Err() })
			open := conversation(t, env, n)
			ok(t, n.CutOff(ctx, harness.Clients))
			ok(t, n.CutOff(ctx, harness.Clients))
			if err := c.Ping(soon(t)).Err(); !isTimeout(err) {
				t.Errorf("a command on an open connection: %v", err)
			}
			unanswered(t, open, "SET k 6")
			holds(t, n, "k", "5")
			if _, err := env.Dialer()(soon(t), "tcp", n.Addr()); !isTimeout(err) {
				t.Errorf("a dial: %v", err)
			}
			ok(t, n.Heal(ctx))
			ok(t, n.Heal(ctx))
			// The network delivers what it had accepted, though its sender has gone.
			eventually(t, func(ctx context.Context) error { return is(n.Client().Get(ctx, "k"), "6") })
			ok(t, c.Set(ctx, "k", "7", 0).Err())
		})
		t.Run("cut off and restarted", func(t *testing.T) {
			ok(t, n.CutOff(ctx, harness.All&^harness.Peers))
			ok(t, n.Kill(ctx))
			ok(t, n.Restart(ctx))
			if err := c.Ping(soon(t)).Err(); !isTimeout(err) {
				t.Errorf("the cut did not outlive the restart: %v", err)
			}
			ok(t, env.Restore(ctx))
			ok(t, c.Ping(ctx).Err())
		})
		t.Run("exit by itself", func(t *testing.T) {
			_ = c.Shutdown(ctx).Err()
			eventually(t, func(ctx context.Context) error {
				if up, err := n.Running(ctx); up || err != nil {
					return errors.Join(errors.New("it still runs"), err)
				}
				return nil
			})
			ok(t, n.Restart(ctx))
			holds(t, n, "k", "7")
		})
		t.Run("no peers", func(t *testing.T) {
			if n.CutOff(ctx, harness.Peers) == nil || n.CutOff(ctx, harness.All) == nil || n.CutOff(ctx, 0) == nil {
				t.Error("a cut that cuts nothing passed for one")
			}
			if n.CutFrom() != 0 {
				t.Errorf("cut off from its %v", n.CutFrom())
			}
		})
	})
}

// is returns nil when the command's value is want.
func is(cmd *redis.StringCmd, want string) error {
	got, err := cmd.Result()
	if err == nil && got != want {
		err = errors.New("it is " + got)
	}
	return err
}

func TestNodesAreIndependent(t *testing.T) {
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		env := harness.StartNodes(t, 3, on)
		ctx := t.Context()
		nodes := env.Nodes()
		if len(nodes) != 3 || len(env.Addrs()) != 3 || len(env.Sentinels()) != 0 || env.MasterName() != "" {
			t.Fatalf("%d nodes, addresses %v", len(nodes), env.Addrs())
		}
		for i, n := range nodes {
			ok(t, client(t, env, n).Set(ctx, "who", n.Name(), 0).Err())
			if env.Node(n.Name()) != n || env.Node(env.Addrs()[i]) != n {
				t.Errorf("%s is not found by its name or address", n)
			}
		}
		ok(t, nodes[0].Kill(ctx))
		ok(t, nodes[1].CutOff(ctx, harness.Clients))
		if err := client(t, env, nodes[0]).Ping(ctx).Err(); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the dead node: %v", err)
		}
		if err := client(t, env, nodes[1]).Ping(soon(t)).Err(); !isTimeout(err) {
			t.Errorf("the node that is cut off: %v", err)
		}
		ok(t, client(t, env, nodes[2]).Ping(ctx).Err())
		if masters, err := env.Masters(ctx); err != nil || len(masters) != 3 {
			t.Errorf("%d masters, %v", len(masters), err)
		}
		ok(t, env.Restore(ctx))
		for _, n := range nodes {
			ok(t, is(client(t, env, n).Get(ctx, "who"), n.Name()))
		}
	})
}

func TestPersistence(t *testing.T) {
	t.Parallel() // it waits most of its time
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		for _, p := range []harness.Persistence{harness.Snapshots, harness.NoPersistence} {
			t.Run(string(p), func(t *testing.T) {
				env := harness.StartSingle(t, on, harness.WithPersistence(p))
				n, ctx := env.Nodes()[0], t.Context()
				ok(t, n.Client().Set(ctx, "k", "1", 0).Err())
				old, err := n.Snapshot(ctx)
				ok(t, err)
				files, err := n.Files(ctx)
				if ok(t, err); !bytes.Equal(files["dump.rdb"], old) {
					t.Errorf("of the files %q none is the snapshot", slices.Collect(maps.Keys(files)))
				}
				ok(t, n.RestartEmpty(ctx))
				holds(t, n, "k", "")
				ok(t, n.RestartWith(ctx, old))
				holds(t, n, "k", "1")
				ok(t, n.Stop(ctx))
				ok(t, n.Restart(ctx))
				if p == harness.NoPersistence {
					holds(t, n, "k", "")
				} else {
					holds(t, n, "k", "1")
					ok(t, n.Client().Set(ctx, "k", "2", 0).Err())
					ok(t, n.Kill(ctx))
					ok(t, n.Restart(ctx))
					holds(t, n, "k", "1") // what the kill left: the last snapshot
				}
			})
		}
	})
}
