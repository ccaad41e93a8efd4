package harness

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// relay listens in a node's place and passes connections on to its server.
// The gates for the cuts are here, so they work the same in both backends and
// without any privilege.
type relay struct {
	board  *board
	node   *Node
	bus    bool          // it is the cluster bus: every caller is a peer
	target func() string // where the server itself listens
	listen string        // the fixed address, or one with port 0

	mu   sync.Mutex
	addr string // the address of ln, kept when it is closed
	ln   *net.TCPListener
}

// open begins to accept connections; an open relay stays as it is.
func (r *relay) open() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ln != nil {
		return nil
	}
	ln, err := net.Listen("tcp", r.listen)
	if err != nil {
		return err
	}
	r.ln, r.addr = ln.(*net.TCPListener), ln.Addr().String()
	r.board.tasks.Add(1)
	go r.accept(r.ln)
	return nil
}

// shut refuses connections from now on: what a client of a dead server sees.
// Those that are open are the server's own to end.
func (r *relay) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ln != nil {
		r.ln.Close()
		r.ln = nil
	}
}

// address returns where to dial, and false while connections are refused.
func (r *relay) address() (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addr, r.ln != nil
}

func (r *relay) accept(ln *net.TCPListener) {
	defer r.board.tasks.Done()
	for {
		c, err := ln.AcceptTCP()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(pollEvery) // out of file descriptors: later ones may succeed
			continue
		}
		r.board.tasks.Add(1)
		go r.serve(c)
	}
}

// stranger is a peer of which the address does not tell which one it is.
var stranger = new(Node)

func (r *relay) serve(c *net.TCPConn) {
	b := r.board
	defer b.tasks.Done()
	from := b.caller(c)
	if from == nil && r.bus {
		from = stranger
	}

	b.mu.Lock()
	blocked := b.blocked(from, r.node)
	b.mu.Unlock()
	if blocked {
		r.hold(c, from)
		return
	}

	var d net.Dialer
	ctx, cancel := context.WithTimeout(b.ctx, opTimeout)
	defer cancel()
	s, err := d.DialContext(ctx, "tcp", r.target())
	if err != nil {
		reset(c)
		return
	}
	l := &link{from: from, to: r.node, near: c, far: s.(*net.TCPConn), dead: make(chan struct{}), gate: make(chan struct{})}
	close(l.gate)

	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		reset(c)
		reset(l.far)
		return
	}
	if b.blocked(from, r.node) {
		l.shut() // the cut came between the two dials
	}
	b.links[l] = struct{}{}
	b.mu.Unlock()

	var pumps sync.WaitGroup
	pumps.Go(func() { l.pump(l.far, l.near) })
	pumps.Go(func() { l.pump(l.near, l.far) })
	pumps.Wait()
	b.mu.Lock()
	delete(b.links, l)
	b.mu.Unlock()
	l.near.Close()
	l.far.Close()
}

// hold keeps a connection that should not have come about: on a network that
// loses packets its first one would not have arrived. So nothing that it
// carries is delivered, and it ends with the cut.
func (r *relay) hold(c *net.TCPConn, from *Node) {
	ctx, cancel := context.WithCancel(r.board.ctx)
	r.board.tasks.Go(func() {
		_ = r.board.await(ctx, from, r.node)
		reset(c)
	})
	_, _ = io.Copy(io.Discard, c)
	cancel()
}

// link is one relayed connection, from its caller (near) to a server (far).
type link struct {
	from, to  *Node // from is nil for a client
	near, far *net.TCPConn

	mu   sync.RWMutex  // held for reading across each write
	gate chan struct{} // closed while bytes may pass

	once sync.Once
	dead chan struct{} // closed when the link is torn down

	passed atomic.Int64 // bytes, in both directions
}

// shut stops the bytes. When it returns, no write is under way: the deadline
// ends those that a full buffer holds up, and what they did not write stays
// with the pump, for later.
func (l *link) shut() {
	past := time.Unix(1, 0)
	l.near.SetWriteDeadline(past)
	l.far.SetWriteDeadline(past)
	l.mu.Lock()
	if closed(l.gate) {
		l.gate = make(chan struct{})
	}
	l.mu.Unlock()
}

func (l *link) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !closed(l.gate) {
		l.near.SetWriteDeadline(time.Time{})
		l.far.SetWriteDeadline(time.Time{})
		close(l.gate)
	}
}

// pass waits until bytes may pass and returns true, holding mu for reading;
// false when the link was torn down.
func (l *link) pass() bool {
	for {
		l.mu.RLock()
		gate := l.gate
		if closed(gate) {
			return true
		}
		l.mu.RUnlock()
		select {
		case <-gate:
		case <-l.dead:
			return false
		}
	}
}

func (l *link) pump(dst, src *net.TCPConn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		for p := buf[:n]; len(p) > 0; {
			if !l.pass() {
				return
			}
			m, werr := dst.Write(p)
			l.passed.Add(int64(m))
			l.mu.RUnlock()
			p = p[m:]
			// The deadline is shut's: the rest of p waits at the gate.
			if werr != nil && !errors.Is(werr, os.ErrDeadlineExceeded) {
				l.kill()
				return
			}
		}
		if err == nil {
			continue
		}
		// The end of a connection is news too, and waits for the gate.
		if !l.pass() {
			return
		}
		l.mu.RUnlock()
		if err != io.EOF || dst.CloseWrite() != nil {
			l.kill()
		}
		return
	}
}

// kill resets both sides.
func (l *link) kill() {
	l.once.Do(func() {
		close(l.dead)
		reset(l.near)
		reset(l.far)
	})
}

func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

func closed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
