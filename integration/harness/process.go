package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// processHost runs the servers as children of the test.
//
// On Linux every node has a loopback address of its own, from 127.0.0.0/8. Its
// relays listen there on the ports that it announces, its server on the next
// ones, and bind-source-addr makes its own connections come from there: so a
// relay can tell a peer from a client by the source address, and cut one and
// not the other. Where the system has but one loopback address the nodes
// differ by port, a cut from the peers is refused, and a replica counts as a
// client of its master.
type processHost struct {
	env     *Env
	program string
	dir     string

	mu      sync.Mutex
	servers []*process
}

func newProcessHost(ctx context.Context, e *Env) (*processHost, error) {
	program, err := serverProgram(ctx)
	if err != nil {
		return nil, err
	}
	sweepDirs()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		return nil, err
	}
	return &processHost{env: e, program: program, dir: dir}, nil
}

// The directory's name has the test's process id, so that a later run can
// remove those that a killed one left behind.
const dirPrefix = "redsession-harness-"

var sweepDirs = sync.OnceFunc(func() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, d := range dirs {
		id, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(d), dirPrefix), "-")
		if pid, err := strconv.Atoi(id); err == nil && !processAlive(pid) {
			_ = os.RemoveAll(d)
		}
	}
})

func (h *processHost) place(_ context.Context, nodes []*Node) error {
	if err := placeOnLoopback(nodes); err != nil {
		return err
	}
	at := func(ip string, port int) string { return net.JoinHostPort(ip, strconv.Itoa(port)) }
	for _, n := range nodes {
		target := at(n.bind.ip, n.bind.port)
		n.relay = &relay{board: h.env.board, node: n, listen: n.Addr(), target: func() string { return target }}
		if h.env.spec.Topology == Cluster {
			target := at(n.bind.ip, n.bind.bus)
			n.busRelay = &relay{board: h.env.board, node: n, bus: true, listen: at(n.ip, n.bus), target: func() string { return target }}
		}
		if loopbackPerNode {
			n.bind.source = n.bind.ip
			h.env.board.peers[n.ip] = n
		}
	}
	return nil
}

func (h *processHost) create(ctx context.Context, n *Node, files map[string][]byte) (server, error) {
	p := &process{node: n, program: h.program, home: filepath.Join(h.dir, n.name)}
	if err := os.Mkdir(p.home, 0o755); err != nil {
		return nil, err
	}
	if err := p.writeFiles(ctx, files); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.servers = append(h.servers, p)
	h.mu.Unlock()
	return p, nil
}

func (h *processHost) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	var errs []error
	for _, p := range h.servers {
		if up, _ := p.running(ctx); up {
			errs = append(errs, p.kill(ctx))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(h.dir))...)
}

// process is a server of the process backend.
type process struct {
	node    *Node
	program string
	home    string
	life    atomic.Pointer[life]
}

// life is one run of the program.
type life struct {
	proc *os.Process
	gone chan struct{} // closed when the process was waited for
}

func (p *process) address() string {
	return net.JoinHostPort(p.node.bind.ip, strconv.Itoa(p.node.bind.port))
}

func (p *process) running(context.Context) (bool, error) {
	l := p.life.Load()
	return l != nil && !closed(l.gone), nil
}

func (p *process) start(ctx context.Context) error {
	cmd := exec.Command(p.program, filepath.Join(p.home, confFile))
	if p.node.sentinel {
		cmd.Args = append(cmd.Args, "--sentinel")
	}
	cmd.Dir = p.home
	cmd.SysProcAttr = childAttr()
	log, err := os.OpenFile(filepath.Join(p.home, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log

	l := &life{gone: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// The system kills the child when its parent's thread ends, not only
		// when the parent does: so this thread is kept until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		l.proc = cmd.Process
		p.life.Store(l)
		started <- nil
		_ = cmd.Wait()
		// A server that exits by itself refuses connections, too. This comes
		// before gone: nobody starts the next life, and opens the relays for
		// it, until then.
		p.node.shutRelays()
		close(l.gone)
	}()
	return <-started
}

func (p *process) end(ctx context.Context, sig os.Signal) error {
	l := p.life.Load()
	if err := l.proc.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-l.gone:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *process) kill(ctx context.Context) error      { return p.end(ctx, os.Kill) }
func (p *process) terminate(ctx context.Context) error { return p.end(ctx, syscall.SIGTERM) }
func (p *process) pause(ctx context.Context) error     { return pauseProcess(ctx, p.life.Load().proc) }
func (p *process) resume(context.Context) error        { return resumeProcess(p.life.Load().proc) }

func (p *process) detach(context.Context) error {
	if !loopbackPerNode {
		return errors.New("a cut from the peers needs Docker here: it tells the nodes apart by their loopback addresses, which only Linux has")
	}
	return nil // the relays do it
}

func (p *process) attach(context.Context) error { return nil }

func (p *process) readFile(_ context.Context, name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(p.home, filepath.FromSlash(name)))
}

func (p *process) readFiles(_ context.Context, dir string) (map[string][]byte, error) {
	root, files := filepath.Join(p.home, filepath.FromSlash(dir)), map[string][]byte{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreGone(err)
		}
		content, err := os.ReadFile(name)
		if err == nil {
			within, _ := filepath.Rel(root, name)
			files[filepath.ToSlash(within)] = content
		}
		return ignoreGone(err)
	})
	return files, err
}

// ignoreGone passes over a file that the server has just removed or renamed.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (p *process) writeFiles(_ context.Context, files map[string][]byte) error {
	for name, content := range files {
		to := filepath.Join(p.home, filepath.FromSlash(name))
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (p *process) log(_ context.Context, lines int) (string, error) {
	b, err := os.ReadFile(filepath.Join(p.home, "log"))
	if err != nil {
		return "", err
	}
	all := bytes.SplitAfter(b, []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-1-lines):], nil)), nil
}

var versionPattern = regexp.MustCompile(`\bv=(\d+)\.(\d+)`)

// serverProgram finds the redis-server to run, 7.0 or later.
func serverProgram(ctx context.Context) (string, error) {
	var program string
	var err error
	if name := os.Getenv("REDSESSION_REDIS_SERVER"); name != "" {
		program, err = exec.LookPath(name)
	} else if program, err = exec.LookPath("redis-server"); err != nil {
		program, err = exec.LookPath("valkey-server")
	}
	if err != nil {
		return "", errors.New("harness: no redis-server on PATH")
	}
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("harness: %s --version: %w", program, err)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("harness: %s is no Redis server", program)
	}
	if major, _ := strconv.Atoi(string(m[1])); major < 7 {
		return "", fmt.Errorf("harness: %s is version %s.%s: 7.0 or later is needed", program, m[1], m[2])
	}
	return program, nil
}
