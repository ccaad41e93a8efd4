//go:build linux

package harness_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/integration/harness"
)

// pid is the server's process id, as it sees it itself.
func pid(t *testing.T, n *harness.Node) int {
	t.Helper()
	info, err := n.Client().Info(t.Context(), "server").Result()
	ok(t, err)
	id, err := strconv.Atoi(regexp.MustCompile(`process_id:(\d+)`).FindStringSubmatch(info)[1])
	ok(t, err)
	return id
}

func gone(ctx context.Context, pids []int) error {
	for _, p := range pids {
		if err := syscall.Kill(p, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("process %d is still there", p)
		}
	}
	return nil
}

// inDocker lists what belongs to the harness of that process.
func inDocker(owner int) (names []string, err error) {
	pool, err := dockertest.NewPool(os.Getenv("DOCKER_HOST"))
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	filter := map[string][]string{"label": {fmt.Sprintf("redsession.harness.owner=%s:%d", host, owner)}}
	list, err := pool.Client.ListContainers(docker.ListContainersOptions{All: true, Filters: filter})
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		names = append(names, c.Names[0])
	}
	nets, err := pool.Client.FilteredListNetworks(docker.NetworkFilterOpts{"label": {filter["label"][0]: true}})
	for _, n := range nets {
		names = append(names, n.Name)
	}
	pool.Client.HTTPClient.CloseIdleConnections()
	return names, err
}

func TestCloseLeavesNothing(t *testing.T) {
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		first := harness.Spec{}
		on(&first)
		env, err := harness.Launch(t.Context(), first) // makes what is made once for the process
		ok(t, err)
		ok(t, env.Close())
		before := runtime.NumGoroutine()
		ok(t, launchAndClose(t, on))
		eventually(t, func(context.Context) error {
			if now := runtime.NumGoroutine(); now > before {
				var stacks strings.Builder
				pprof.Lookup("goroutine").WriteTo(&stacks, 1)
				return fmt.Errorf("%d goroutines were there before, and %d are now:\n%s", before, now, &stacks)
			}
			return nil
		})
	})
}

// launchAndClose closes a topology with a node paused, one down, one cut off
// and connections open.
func launchAndClose(t *testing.T, on harness.Option) error {
	t.Helper()
	ctx := t.Context()
	spec := harness.Spec{Topology: harness.Sentinel}
	on(&spec)
	env, err := harness.Launch(ctx, spec)
	ok(t, err)
	var pids []int
	var last *redis.Client
	for _, n := range append(env.Sentinels(), env.Nodes()...) {
		last = client(t, env, n)
		defer last.Close()
		ok(t, last.Ping(ctx).Err())
		if env.Backend() == harness.Process {
			pids = append(pids, pid(t, n))
		}
	}
	nodes := env.Nodes()
	ok(t, nodes[0].Pause(ctx))
	ok(t, nodes[1].Kill(ctx))
	ok(t, nodes[2].CutOff(ctx, harness.All))
	_ = last.Ping(soon(t)).Err()
	ok(t, env.Close())
	ok(t, env.Close())
	if err := gone(ctx, pids); err != nil {
		return err
	}
	if env.Backend() == harness.Docker {
		if left, err := inDocker(os.Getpid()); len(left) > 0 || err != nil {
			return fmt.Errorf("left in Docker: %v, %v", left, err)
		}
	}
	if left, _ := dirs(os.Getpid()); len(left) > 0 {
		return fmt.Errorf("left on disk: %v", left)
	}
	return nil
}

func dirs(owner int) ([]string, error) {
	all, err := os.ReadDir(os.TempDir())
	var names []string
	for _, d := range all {
		if strings.HasPrefix(d.Name(), fmt.Sprintf("redsession-harness-%d-", owner)) {
			names = append(names, d.Name())
		}
	}
	return names, err
}

// TestOrphan is no test of its own: TestDeadParent runs it in a process that
// it kills.
func TestOrphan(t *testing.T) {
	backend := os.Getenv("REDSESSION_TEST_ORPHAN")
	if backend == "" {
		return
	}
	env := harness.StartNodes(t, 2, harness.WithBackend(harness.Backend(strings.TrimPrefix(backend, "auto"))))
	ok(t, env.Nodes()[1].Pause(t.Context()))
	fmt.Printf("orphan %d\n", pid(t, env.Nodes()[0]))
	if os.Getenv("REDSESSION_TEST_WAIT") != "" {
		time.Sleep(time.Minute)
	}
}

func orphan(t *testing.T, backend harness.Backend, more ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOrphan$", "-test.v")
	cmd.Env = append(append(os.Environ(), "REDSESSION_TEST_ORPHAN="+string(backend)), more...)
	return cmd
}

func TestDeadParent(t *testing.T) {
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		var spec harness.Spec
		on(&spec)
		parent := orphan(t, spec.Backend, "REDSESSION_TEST_WAIT=1")
		out, err := parent.StdoutPipe()
		ok(t, err)
		ok(t, parent.Start())
		server := 0
		for lines := bufio.NewScanner(out); server == 0 && lines.Scan(); {
			_, _ = fmt.Sscanf(lines.Text(), "orphan %d", &server)
		}
		ok(t, parent.Process.Kill())
		_ = parent.Wait()
		if server == 0 {
			t.Fatal("it did not start")
		}
		if spec.Backend == harness.Process {
			// Its servers die with it, the paused one, too.
			eventually(t, func(ctx context.Context) error { return gone(ctx, []int{server}) })
		} else if left, err := inDocker(parent.Process.Pid); len(left) == 0 || err != nil {
			t.Fatalf("in Docker there is %v, %v", left, err)
		}
		// The next one removes what it left.
		next, err := orphan(t, spec.Backend).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, next)
		}
		if left, err := dirs(parent.Process.Pid); len(left) > 0 || err != nil {
			t.Errorf("left on disk: %v, %v", left, err)
		}
		if spec.Backend == harness.Docker {
			if left, err := inDocker(parent.Process.Pid); len(left) > 0 || err != nil {
				t.Errorf("left in Docker: %v, %v", left, err)
			}
		}
	})
}

// TestAskedForIsNeverSkipped: a test that asks for a backend that cannot be
// had fails.
func TestAskedForIsNeverSkipped(t *testing.T) {
	for _, env := range [][]string{
		{"REDSESSION_BACKEND=docker", "DOCKER_HOST=tcp://127.0.0.1:1"},
		{"REDSESSION_BACKEND=process", "REDSESSION_REDIS_SERVER=/nowhere/redis-server"},
		{"REDSESSION_BACKEND=podman"},
		{"REDSESSION_BACKEND=", "REDSESSION_REQUIRE=docker", "DOCKER_HOST=tcp://127.0.0.1:1", "REDSESSION_REDIS_SERVER=/nowhere/redis-server"},
	} {
		out, err := orphan(t, "auto", env...).CombinedOutput()
		if err == nil || strings.Contains(string(out), "--- SKIP") || !strings.Contains(string(out), "--- FAIL") {
			t.Errorf("with %v: %v\n%s", env, err, out)
		}
	}
}
