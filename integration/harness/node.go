package harness

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"path"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Node is one Redis server, or one sentinel. It is safe for concurrent use:
// faults on the same node wait for each other.
//
// Every fault returns when it is in effect, or an error. Each is bounded by
// its context, and by 30 s in any case.
type Node struct {
	env      *Env
	name     string
	sentinel bool
	client   *redis.Client                // for the tests
	probe    atomic.Pointer[redis.Client] // for the harness, another one in each life of the server

	// What it announces, and what the others and the clients know it by.
	ip        string
	port, bus int
	// Where the server itself listens, and the source of its own connections.
	bind struct {
		ip, source string
		port, bus  int
	}
	relay    *relay // before its port
	busRelay *relay // before its bus port; nil where there is none

	mu     sync.Mutex // held through each fault
	server server
	life   int         // counts the data directories
	paused atomic.Bool // changed with mu held

	elected time.Time // when Promote made it the master; goes with the Env's changing
}

func newNode(e *Env, name string, sentinel bool) *Node {
	n := &Node{env: e, name: name, sentinel: sentinel}
	n.client = n.connect()
	n.probe.Store(n.connect())
	return n
}

func (n *Node) connect() *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:                     n.name,
		Dialer:                   func(ctx context.Context, _, _ string) (net.Conn, error) { return n.dial(ctx) },
		PoolSize:                 64,
		DialerRetries:            1,
		DialTimeout:              2 * time.Second,
		ReadTimeout:              5 * time.Second,
		WriteTimeout:             5 * time.Second,
		MaxRetries:               -1,
		ContextTimeoutEnabled:    true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

// Name is unique within the Env: "node-0", "sentinel-2".
func (n *Node) Name() string { return n.name }

// Addr is the address that the node announces, to be dialled by [Env.Dialer].
func (n *Node) Addr() string { return net.JoinHostPort(n.ip, strconv.Itoa(n.port)) }

// DirectAddr is where the server can be reached past the relays, and so past
// every cut: for measurements and for the test's own looks. In Docker it
// changes with a restart, and is empty while the node is down.
func (n *Node) DirectAddr() string { return n.server.address() }

func (n *Node) String() string { return n.name }

// Client returns a client for the test's own commands. It reaches the server
// past the relays, so it works while the node is cut off; it never retries.
// It belongs to the Env and must not be closed.
func (n *Node) Client() *redis.Client { return n.client }

// Running tells whether the server is there, be it paused or cut off.
func (n *Node) Running(ctx context.Context) (bool, error) { return n.server.running(ctx) }

// Log returns the last lines of the server's log.
func (n *Node) Log(ctx context.Context, lines int) (string, error) {
	if n.server == nil {
		return "", errors.New("the server was not started")
	}
	return n.server.log(ctx, lines)
}

// fault runs f alone on this node, bounded, and names the node in its error.
func (n *Node) fault(ctx context.Context, what string, f func(context.Context) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	if err := f(ctx); err != nil {
		return fmt.Errorf("harness: %s %s: %w", what, n.name, err)
	}
	return nil
}

// create makes the server, to be started for the first time.
func (n *Node) create(ctx context.Context) error {
	return n.fault(ctx, "create", func(ctx context.Context) error {
		n.life = 1
		files := map[string][]byte{confFile: []byte(n.conf(n.env.spec))}
		if !n.sentinel {
			files[n.dataDir()+"/"] = nil
		}
		if t := n.env.spec.TLS; t != nil {
			maps.Copy(files, t.files(n))
		}
		s, err := n.env.host.create(ctx, n, files)
		n.server = s
		return err
	})
}

// begin starts a node that was just created.
func (n *Node) begin(ctx context.Context) error { return n.fault(ctx, "start", n.start) }

func (n *Node) start(ctx context.Context) error {
	if err := n.server.start(ctx); err != nil {
		return err
	}
	n.paused.Store(false)
	// The old one may be busy with its dead connections, or, after some dials
	// that failed, refuse to dial for a second.
	_ = n.probe.Swap(n.connect()).Close()
	// Clients get in as soon as the server speaks, which may be to say that it
	// is loading; the caller only when it serves.
	speaks := false
	err := Until(ctx, func(ctx context.Context) error {
		if up, err := n.server.running(ctx); err == nil && !up {
			return final{errors.New("the server has exited")}
		}
		err := n.ping(ctx)
		if _, reply := err.(redis.Error); !speaks && (err == nil || reply) {
			if err := n.openRelays(); err != nil {
				return err
			}
			speaks = true
		}
		return err
	})
	if err == nil && n.sentinel {
		n.hurry(ctx)
	}
	return err
}

// hurry shortens a sentinel's periods: it asks for news every 10 s, pings every
// second (and so can take a new master for down as soon as that is found late), tells of
// itself every 2 s, and when it was paused it trusts its clock only after 30 s.
// A test need not wait for that. A server that does not know the command is
// merely slower.
func (n *Node) hurry(ctx context.Context) {
	n.client.Do(ctx, "sentinel", "debug", "info-period", 300, "ping-period", 200, "publish-period", 300, "tilt-period", 3000)
}

// watch gives a sentinel its node timeout for good: it keeps what it is told.
func (n *Node) watch(ctx context.Context) error {
	return n.client.Do(ctx, "sentinel", "set", masterName, "down-after-milliseconds", n.env.spec.NodeTimeout.Milliseconds()).Err()
}

// ping returns nil when the server answers within half a second. It looks
// first: the driver logs each dial that fails.
func (n *Node) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if up, err := n.server.running(ctx); err != nil {
		return err
	} else if !up {
		return errors.New("the server is down")
	}
	probe := n.probe.Load()
	if probe.PoolStats().TotalConns == 0 {
		c, err := n.dial(ctx)
		if err != nil {
			return err
		}
		c.Close()
	}
	return probe.Ping(ctx).Err()
}

// dial makes a connection of the harness itself, past the relays.
func (n *Node) dial(ctx context.Context) (net.Conn, error) {
	if n.server == nil || n.server.address() == "" {
		return nil, errors.New("harness: the server is down")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", n.server.address())
	if t := n.env.spec.TLS; t != nil && err == nil {
		return tls.Client(conn, t.Client), nil
	}
	return conn, err
}

func (n *Node) openRelays() error {
	if n.busRelay != nil {
		if err := n.busRelay.open(); err != nil {
			return err
		}
	}
	return n.relay.open()
}

func (n *Node) shutRelays() {
	n.relay.shut()
	if n.busRelay != nil {
		n.busRelay.shut()
	}
}

func (n *Node) kill(ctx context.Context) error {
	up, err := n.server.running(ctx)
	if err == nil && up {
		err = n.server.kill(ctx)
	}
	if err == nil {
		n.paused.Store(false)
		n.shutRelays()
	}
	return err
}

// Kill ends the server with SIGKILL, also when it is paused. From then on
// connections are refused. A node that is down stays so.
func (n *Node) Kill(ctx context.Context) error {
	return n.fault(ctx, "kill", n.kill)
}

// Stop ends the server in good order, with SIGTERM. A node that is down stays so.
func (n *Node) Stop(ctx context.Context) error {
	return n.fault(ctx, "stop", func(ctx context.Context) error {
		up, err := n.server.running(ctx)
		if err != nil {
			return err
		}
		if n.paused.Load() {
			return errors.New("it is paused")
		}
		if up {
			if err := n.server.terminate(ctx); err != nil {
				return err
			}
		}
		n.shutRelays()
		return nil
	})
}

// Pause stops the server in its tracks: connections stay open, new ones are
// accepted by the system, nothing is answered until Resume. A paused node
// stays so.
func (n *Node) Pause(ctx context.Context) error {
	return n.fault(ctx, "pause", func(ctx context.Context) error {
		if n.paused.Load() {
			return nil
		}
		up, err := n.server.running(ctx)
		if err == nil && !up {
			err = errors.New("it is down")
		}
		if err == nil {
			err = n.server.pause(ctx)
		}
		if err == nil {
			n.paused.Store(true)
		}
		return err
	})
}

// Resume lets a paused server go on and waits until it answers. A node that is
// not paused stays as it is.
func (n *Node) Resume(ctx context.Context) error {
	return n.fault(ctx, "resume", func(ctx context.Context) error {
		if !n.paused.Load() {
			return nil
		}
		if err := n.server.resume(ctx); err != nil {
			return err
		}
		n.paused.Store(false)
		return Until(ctx, n.ping)
	})
}

// Restart starts a node that is down, with its data, and waits until it
// answers. A node that is not down stays as it is.
func (n *Node) Restart(ctx context.Context) error {
	return n.fault(ctx, "restart", func(ctx context.Context) error {
		up, err := n.server.running(ctx)
		if err != nil || up {
			return err
		}
		n.shutRelays() // it may have exited by itself
		if n.env.spec.Persistence == NoPersistence && !n.sentinel {
			return n.startOver(ctx, nil) // nor a file that a snapshot left
		}
		return n.start(ctx)
	})
}

// RestartEmpty kills the node if it runs, removes its data and starts it. A
// cluster node stays the same member, with the same slots. A sentinel has no
// data, so for it this is an error.
func (n *Node) RestartEmpty(ctx context.Context) error {
	return n.fault(ctx, "restart empty", func(ctx context.Context) error {
		return n.startOver(ctx, nil)
	})
}

// RestartWith is [Node.RestartEmpty], but the node finds the data of a
// [Node.Snapshot]: its own older data, or that of another node.
func (n *Node) RestartWith(ctx context.Context, snapshot []byte) error {
	return n.fault(ctx, "restart with a snapshot", func(ctx context.Context) error {
		if len(snapshot) == 0 {
			return errors.New("the snapshot is empty")
		}
		return n.startOver(ctx, n.env.spec.restored(snapshot))
	})
}

func (n *Node) startOver(ctx context.Context, data map[string][]byte) error {
	if n.sentinel {
		return errors.New("a sentinel has no data")
	}
	if err := n.kill(ctx); err != nil {
		return err
	}
	conf, err := n.server.readFile(ctx, confFile)
	if err != nil {
		return err
	}
	var nodes []byte
	if n.env.spec.Topology == Cluster {
		if nodes, err = n.server.readFile(ctx, path.Join(n.dataDir(), nodesFile)); err != nil {
			return err
		}
	}
	n.life++
	files := map[string][]byte{
		confFile:          []byte(n.moveData(string(conf))),
		n.dataDir() + "/": nil,
	}
	if nodes != nil {
		files[path.Join(n.dataDir(), nodesFile)] = nodes
	}
	for name, content := range data {
		files[path.Join(n.dataDir(), name)] = content
	}
	if err := n.server.writeFiles(ctx, files); err != nil {
		return err
	}
	return n.start(ctx)
}

// Snapshot returns the node's data as it is now, as an RDB file.
func (n *Node) Snapshot(ctx context.Context) ([]byte, error) {
	var rdb []byte
	err := n.fault(ctx, "snapshot", func(ctx context.Context) error {
		if n.paused.Load() {
			return errors.New("it is paused")
		}
		if err := n.client.Save(ctx).Err(); err != nil {
			return err
		}
		var err error
		rdb, err = n.server.readFile(ctx, path.Join(n.dataDir(), rdbFile))
		return err
	})
	return rdb, err
}

// Files returns what is in the node's data directory, by paths below it: what a
// thief of its disk has.
func (n *Node) Files(ctx context.Context) (map[string][]byte, error) {
	var files map[string][]byte
	err := n.fault(ctx, "read the files of", func(ctx context.Context) (err error) {
		files, err = n.server.readFiles(ctx, n.dataDir())
		return err
	})
	return files, err
}

// CutOff cuts the node off, in addition to what it is cut off from already.
// It works on a paused node and on one that is down, and outlives a restart.
func (n *Node) CutOff(ctx context.Context, from Cut) error {
	return n.fault(ctx, "cut off", func(ctx context.Context) error {
		if from == 0 || from&^All != 0 {
			return fmt.Errorf("unknown cut %d", from)
		}
		if from&Peers != 0 {
			if t := n.env.spec.Topology; t == Single || t == Independent {
				return errors.New("it has no peers to be cut off from")
			}
			if err := n.server.detach(ctx); err != nil {
				return err
			}
		}
		n.env.board.set(n, n.env.board.cut(n)|from)
		return nil
	})
}

// Heal undoes every cut of the node. One that is not cut off stays as it is.
func (n *Node) Heal(ctx context.Context) error {
	return n.fault(ctx, "heal", func(ctx context.Context) error {
		if n.env.board.cut(n)&Peers != 0 {
			if err := n.server.attach(ctx); err != nil {
				return err
			}
		}
		n.env.board.set(n, 0)
		return nil
	})
}

// CutFrom tells what the node is cut off from.
func (n *Node) CutFrom() Cut { return n.env.board.cut(n) }
