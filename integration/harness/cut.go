package harness

import (
	"context"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
)

// Cut says whom a node is cut off from. In a cut, as on a network that loses
// packets, nothing is refused and nothing is closed:
//   - an open connection stalls in both directions; what was written meanwhile
//     arrives after [Node.Heal], also when its sender has closed or exited
//     since;
//   - a new connection by [Env.Dialer] hangs until the node is healed or the
//     dial's context ends. One that is made without it may be accepted, but is
//     never answered, and is reset by Heal.
type Cut uint8

const (
	// Peers cuts a node from the other nodes: cluster bus, replication and
	// Sentinel. Its clients still reach it: the dangerous partition. A single
	// or independent node has no peers, and cutting it from them is an error.
	Peers Cut = 1 << iota
	// Clients cuts a node from its clients. The other nodes still reach it.
	Clients
	// All is both.
	All = Peers | Clients
)

func (c Cut) String() string {
	var parts []string
	if c&Peers != 0 {
		parts = append(parts, "peers")
	}
	if c&Clients != 0 {
		parts = append(parts, "clients")
	}
	if len(parts) == 0 {
		return "nobody"
	}
	return strings.Join(parts, " and ")
}

// board knows who is cut off from whom, and holds every relayed connection.
type board struct {
	mu     sync.Mutex
	peers  map[string]*Node // by source address; a caller that is not in it is a client
	cuts   map[*Node]Cut
	change chan struct{} // closed and replaced whenever cuts changes
	links  map[*link]struct{}
	closed bool

	ctx   context.Context // ends when the board is closed
	stop  context.CancelFunc
	tasks sync.WaitGroup // every goroutine of the relays
}

func newBoard() *board {
	b := &board{
		peers:  map[string]*Node{},
		cuts:   map[*Node]Cut{},
		change: make(chan struct{}),
		links:  map[*link]struct{}{},
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b
}

// caller is the node that a connection comes from, nil for a client.
func (b *board) caller(c net.Conn) *Node {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peers[host]
}

// blocked tells whether nothing may pass between the two; from is nil for a
// client. The caller holds mu.
func (b *board) blocked(from, to *Node) bool {
	if from == nil {
		return b.cuts[to]&Clients != 0
	}
	return (b.cuts[from]|b.cuts[to])&Peers != 0
}

// set replaces a node's cut. When it returns, no byte passes any more where
// the cut forbids it.
func (b *board) set(n *Node, cut Cut) {
	b.mu.Lock()
	b.cuts[n] = cut
	close(b.change)
	b.change = make(chan struct{})
	// A link that is being made meanwhile reads the cuts under the same lock.
	links := slices.Collect(maps.Keys(b.links))
	var shut, open []*link
	for _, l := range links {
		if b.blocked(l.from, l.to) {
			shut = append(shut, l)
		} else {
			open = append(open, l)
		}
	}
	for _, l := range shut {
		l.shut()
	}
	for _, l := range open {
		l.open()
	}
	b.mu.Unlock()
}

func (b *board) cut(n *Node) Cut {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.cuts[n]
}

// await returns when nothing is blocked between the two any more.
func (b *board) await(ctx context.Context, from, to *Node) error {
	for {
		b.mu.Lock()
		blocked, change := b.blocked(from, to), b.change
		b.mu.Unlock()
		if !blocked {
			return nil
		}
		select {
		case <-change:
		case <-b.ctx.Done():
			return net.ErrClosed
		case <-ctx.Done():
			if ctx.Err() == context.DeadlineExceeded {
				return os.ErrDeadlineExceeded // a net.Error with Timeout, as from a real dial
			}
			return ctx.Err()
		}
	}
}

// close ends every relayed connection and waits for the relays' goroutines.
// The relays must be closed before.
func (b *board) close() {
	b.mu.Lock()
	b.closed = true
	b.stop()
	links := slices.Collect(maps.Keys(b.links))
	b.mu.Unlock()
	for _, l := range links {
		l.kill()
	}
	b.tasks.Wait()
}
