package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Env is a running topology. It is safe for concurrent use and must be closed;
// the Start functions see to that themselves.
type Env struct {
	spec      Spec
	sentinels []*Node
	byAddr    map[string]*Node // all of them
	board     *board
	host      host

	changing sync.Mutex // held through each change of a cluster
	mu       sync.Mutex
	nodes    []*Node        // data nodes; a topology's first master first
	spares   []*Node        // data nodes that are no members of the cluster
	vacant   map[*Node]bool // members that are masters without slots, and are meant to be

	closeOnce sync.Once
	closeErr  error
}

// host is a backend's side of one Env.
type host interface {
	// place decides on the nodes' addresses (ip, port, bus, bind, relays).
	place(ctx context.Context, nodes []*Node) error
	// create makes a node's server with the files in its home, not yet started.
	create(ctx context.Context, n *Node, files map[string][]byte) (server, error)
	// close ends and removes everything; it is called once, also after a place
	// or create that failed.
	close() error
}

// server is one Redis server of a backend.
type server interface {
	// address is where the harness reaches the server past the relays, cut or not.
	address() string
	running(ctx context.Context) (bool, error)
	start(ctx context.Context) error
	// kill ends a running or paused server at once, terminate ends it in good
	// order. Both return when it is gone.
	kill(ctx context.Context) error
	terminate(ctx context.Context) error
	pause(ctx context.Context) error
	resume(ctx context.Context) error
	// detach cuts the server from the other nodes as far as the relays do not,
	// attach undoes it. Both may be called again, and while it is down.
	detach(ctx context.Context) error
	attach(ctx context.Context) error
	// readFile, readFiles and writeFiles go by names below the server's home;
	// readFiles gives all files of a directory, by their paths in it.
	readFile(ctx context.Context, name string) ([]byte, error)
	readFiles(ctx context.Context, dir string) (map[string][]byte, error)
	writeFiles(ctx context.Context, files map[string][]byte) error
	log(ctx context.Context, lines int) (string, error)
}

// StartSingle starts one server.
func StartSingle(tb testing.TB, opts ...Option) *Env {
	tb.Helper()
	return start(tb, Spec{Topology: Single}, opts)
}

// StartNodes starts n servers that do not know of each other.
func StartNodes(tb testing.TB, n int, opts ...Option) *Env {
	tb.Helper()
	return start(tb, Spec{Topology: Independent, Nodes: n}, opts)
}

// StartSentinel starts a master, two replicas and three sentinels.
func StartSentinel(tb testing.TB, opts ...Option) *Env {
	tb.Helper()
	return start(tb, Spec{Topology: Sentinel}, opts)
}

// StartCluster starts a Redis Cluster of three masters with a replica each,
// and its spares.
func StartCluster(tb testing.TB, opts ...Option) *Env {
	tb.Helper()
	return start(tb, Spec{Topology: Cluster}, opts)
}

func start(tb testing.TB, spec Spec, opts []Option) *Env {
	tb.Helper()
	for _, o := range opts {
		o(&spec)
	}
	began := time.Now()
	env, err := Launch(tb.Context(), spec)
	if err != nil {
		if errors.Is(err, ErrNoBackend) && os.Getenv("REDSESSION_REQUIRE") == "" {
			tb.Skip(err)
		}
		tb.Fatal(err)
	}
	tb.Logf("harness: %s on %s ready after %v", spec.Topology, env.Backend(), time.Since(began).Round(time.Millisecond))
	tb.Cleanup(func() {
		if tb.Failed() {
			env.WriteLogs(tb.Output(), 15) // short, for what failed is said above
		}
		if err := env.Close(); err != nil {
			tb.Error(err)
		}
	})
	return env
}

// Launch starts what spec describes and waits until it is ready. It is for
// those who have no testing.TB, such as a TestMain whose tests share one Env.
func Launch(ctx context.Context, spec Spec) (*Env, error) {
	if err := spec.fill(); err != nil {
		return nil, err
	}
	var err error
	if spec.Backend == Auto {
		spec.Backend, err = Detect(ctx)
	} else {
		err = Available(ctx, spec.Backend)
	}
	if err != nil {
		return nil, err
	}
	e := &Env{spec: spec, board: newBoard(), byAddr: map[string]*Node{}, vacant: map[*Node]bool{}}
	count := map[Topology]int{Single: 1, Independent: spec.Nodes, Sentinel: 3, Cluster: 6}[spec.Topology]
	for i := range count + spec.Spares {
		e.nodes = append(e.nodes, newNode(e, fmt.Sprintf("node-%d", i), false))
	}
	e.nodes, e.spares = e.nodes[:count:count], e.nodes[count:]
	if spec.Topology == Sentinel {
		for i := range 3 {
			e.sentinels = append(e.sentinels, newNode(e, fmt.Sprintf("sentinel-%d", i), true))
		}
	}
	if spec.Backend == Docker {
		e.host, err = newDockerHost(ctx, e)
	} else {
		e.host, err = newProcessHost(ctx, e)
	}
	if err == nil {
		err = e.bringUp(ctx)
	}
	if err != nil {
		var logs strings.Builder
		if ctx.Err() == nil {
			e.WriteLogs(&logs, 5)
		}
		err = fmt.Errorf("harness: start %s on %s: %w\n%s", spec.Topology, spec.Backend, err, &logs)
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

func (e *Env) bringUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := e.host.place(ctx, e.all()); err != nil {
		return err
	}
	for _, n := range e.all() {
		e.byAddr[n.Addr()] = n
	}
	if err := each(ctx, e.all(), (*Node).create); err != nil {
		return err
	}
	if err := each(ctx, e.servers(), (*Node).begin); err != nil {
		return err
	}
	switch e.spec.Topology {
	case Cluster:
		if err := e.formCluster(ctx); err != nil {
			return err
		}
	case Sentinel:
		// Replicas first: a sentinel asks for them when it starts.
		if err := Until(ctx, e.replicasLinked); err != nil {
			return err
		}
		if err := each(ctx, e.sentinels, (*Node).begin); err != nil {
			return err
		}
		if err := e.WaitReady(ctx); err != nil {
			return err
		}
		if err := each(ctx, e.sentinels, (*Node).watch); err != nil {
			return err
		}
	}
	return e.WaitReady(ctx)
}

// Close ends every server and connection and removes what was stored. It may
// be called more than once.
func (e *Env) Close() error {
	e.closeOnce.Do(func() {
		for _, n := range e.all() {
			if n.relay != nil {
				n.relay.shut()
			}
			if n.busRelay != nil {
				n.busRelay.shut()
			}
			_, _ = n.client.Close(), n.probe.Load().Close()
		}
		if e.host != nil {
			e.closeErr = e.host.close()
		}
		e.board.close()
	})
	return e.closeErr
}

// Backend is what runs the servers, never Auto.
func (e *Env) Backend() Backend { return e.spec.Backend }

// Topology is how the servers belong together.
func (e *Env) Topology() Topology { return e.spec.Topology }

// Nodes returns the data nodes, of a cluster its members in the order in which
// they joined. In a fresh cluster the masters are 0 to 2 and node i+3 is the
// replica of node i; under Sentinel the master is node 0.
func (e *Env) Nodes() []*Node {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.nodes)
}

// Spares returns the servers that are no members of the cluster, see [WithSpares].
func (e *Env) Spares() []*Node {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.spares)
}

// Sentinels returns the sentinels, none in another topology.
func (e *Env) Sentinels() []*Node { return slices.Clone(e.sentinels) }

// Node returns the data node, spare or sentinel of that name or announced address,
// nil if there is none.
func (e *Env) Node(nameOrAddr string) *Node {
	for _, n := range e.all() {
		if n.name == nameOrAddr || n.Addr() == nameOrAddr {
			return n
		}
	}
	return nil
}

// servers returns the data nodes and the spares.
func (e *Env) servers() []*Node {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Concat(e.nodes, e.spares)
}

func (e *Env) all() []*Node { return slices.Concat(e.servers(), e.sentinels) }

// Addrs returns what a client is given: the announced addresses of the
// sentinels where there are any, else those of the data nodes.
func (e *Env) Addrs() []string {
	nodes := e.Sentinels()
	if len(nodes) == 0 {
		nodes = e.Nodes()
	}
	addrs := make([]string, len(nodes))
	for i, n := range nodes {
		addrs[i] = n.Addr()
	}
	return addrs
}

// MasterName is the name of the master that the sentinels watch, empty in
// another topology.
func (e *Env) MasterName() string {
	if e.spec.Topology == Sentinel {
		return masterName
	}
	return ""
}

// Dialer returns the function that every client under test must dial with. It
// takes the addresses that the nodes announce; any other is dialled as it is.
func (e *Env) Dialer() func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var d net.Dialer
		n, ok := e.byAddr[addr]
		if !ok {
			return d.DialContext(ctx, network, addr)
		}
		fail := func(err error) (net.Conn, error) {
			to := &net.TCPAddr{IP: net.ParseIP(n.ip), Port: n.port}
			return nil, &net.OpError{Op: "dial", Net: network, Addr: to, Err: err}
		}
		if err := e.board.await(ctx, nil, n); err != nil {
			return fail(err)
		}
		to, open := n.relay.address()
		if !open {
			return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
		}
		return d.DialContext(ctx, network, to)
	}
}

// Client is short for n.Client.
func (e *Env) Client(n *Node) *redis.Client { return n.Client() }

// WriteLogs writes the last lines of every node's log.
func (e *Env) WriteLogs(w io.Writer, lines int) {
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	for _, n := range e.all() {
		log, err := n.Log(ctx, lines)
		if err != nil {
			log = err.Error() + "\n"
		}
		fmt.Fprintf(w, "--- log of %s (%s)\n%s", n.name, n.Addr(), log)
	}
}

// each runs f on every node at the same time and joins the errors.
func each(ctx context.Context, nodes []*Node, f func(*Node, context.Context) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if err := f(n, ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", n.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
