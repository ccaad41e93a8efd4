package conformance

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redsession/redsession"
)

// wire is the network between the clients of a test and the servers. It counts
// what passes, and breaks on purpose.
type wire struct {
	dial redsession.DialFunc
	many bool // calls return before all their packets are out

	mu      sync.Mutex
	aimed   map[string]bool // the addresses that what follows is about; nil: all
	packets int             // with commands of ours
	lost    int             // answers to scripts that are still to be lost
	ended   func()          // called when the last of them is; then all are lost
	silent  bool
	asked   func() // called when there is silence and a command of ours is sent
	down    bool
	delay   time.Duration
	rate    int // bytes a second; 0: as fast as it goes
	conns   map[*conn]struct{}
}

func newWire(dial redsession.DialFunc) *wire {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &wire{dial: dial, conns: map[*conn]struct{}{}}
}

// aim lets what breaks until heal break for one address only.
func (w *wire) aim(addr string) { w.set(func() { w.aimed = map[string]bool{addr: true} }) }

func (w *wire) hits(addr string) bool { return w.aimed == nil || w.aimed[addr] }

// lose loses the next n answers to scripts that ran, and the connections with
// them; if ended is not nil, it calls that and loses all further ones.
func (w *wire) lose(n int, ended func()) { w.set(func() { w.lost, w.ended = n, ended }) }

// silence lets commands through, and no answers. It calls asked, if that is not
// nil, for every command.
func (w *wire) silence(asked func()) { w.set(func() { w.silent, w.asked = true, asked }) }

// slow delays every answer.
func (w *wire) slow(d time.Duration) { w.set(func() { w.delay = d }) }

// narrow lets answers through at so many bytes a second.
func (w *wire) narrow(rate int) { w.set(func() { w.rate = rate }) }

// cut ends all connections and lets none be made.
func (w *wire) cut() {
	w.set(func() {
		w.down = true
		for c := range w.conns {
			if w.hits(c.addr) {
				c.Conn.Close()
			}
		}
	})
}

func (w *wire) heal() {
	w.set(func() {
		w.lost, w.ended, w.silent, w.asked, w.down, w.delay, w.rate, w.aimed = 0, nil, false, nil, false, 0, 0, nil
	})
}

func (w *wire) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// during is how many packets with commands of ours f sends. What a client of a
// ring still has to bring to a third copy is waited for.
func (w *wire) during(f func()) int {
	count := func() (n int) { w.set(func() { n = w.packets }); return n }
	before := count()
	for w.many {
		time.Sleep(80 * time.Millisecond)
		if now := count(); now != before {
			before = now
			continue
		}
		break
	}
	f()
	return count() - before
}

// quiet is the same of an f that should send nothing, and can be repeated: on a
// machine that is slow a client of a ring may have something to make up for at
// any time.
func (w *wire) quiet(f func()) (sent int) {
	for range 3 {
		if sent = w.during(f); sent == 0 || !w.many {
			break
		}
	}
	return sent
}

func (w *wire) open(ctx context.Context, network, addr string) (net.Conn, error) {
	refused := &net.OpError{Op: "dial", Net: network, Err: io.ErrClosedPipe}
	w.mu.Lock()
	down := w.down && w.hits(addr)
	w.mu.Unlock()
	if down {
		return nil, refused
	}
	raw, err := w.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down && w.hits(addr) {
		raw.Close()
		return nil, refused
	}
	c := &conn{Conn: raw, wire: w, addr: addr}
	w.conns[c] = struct{}{}
	return c, nil
}

// first is a dialer by which one server hears everything before the others do.
func (w *wire) first(addr string) redsession.DialFunc {
	return func(ctx context.Context, network, to string) (net.Conn, error) {
		c, err := w.open(ctx, network, to)
		if err != nil || to == addr {
			return c, err
		}
		return &lateConn{c}, nil
	}
}

// lateConn sends everything a moment later.
type lateConn struct{ net.Conn }

func (c *lateConn) Write(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond)
	return c.Conn.Write(p)
}

type conn struct {
	net.Conn
	wire *wire
	addr string
	rest []byte // the beginning of a command

	// guarded by wire.mu
	asked string // the command that the last packet is about
	probe bool   // it is one of those by which a client looks after a ring
}

// drivers are the commands that a driver sends on its own account, or a client
// of a ring on each new connection.
var drivers = " hello client auth select cluster command readonly ping info role sentinel subscribe unsubscribe get set "

func ours(command string) bool { return command != "" && !strings.Contains(drivers, " "+command+" ") }

func (c *conn) Write(p []byte) (int, error) {
	c.rest = append(c.rest, p...)
	counted, probe, asked := false, false, ""
	for {
		name, key, size := command(c.rest)
		if size == 0 {
			break
		}
		c.rest = c.rest[size:]
		// A client that looks after a ring begins by INFO, or is about the mark.
		probe = probe || name == "info" || name == "scan" || strings.HasPrefix(name, "eval") && isOfNode(key)
		if asked == "" || ours(name) && !ours(asked) {
			asked = name // what the packet is about
		}
		c.wire.set(func() {
			if c.asked, c.probe = asked, probe; ours(name) && !probe && !counted {
				counted = true
				c.wire.packets++
				if c.wire.asked != nil && c.wire.hits(c.addr) {
					c.wire.asked()
				}
			}
		})
	}
	return c.Conn.Write(p)
}

// command is the name of the command that b begins with, the first key if it is a
// script, and its size: 0 while it is not complete.
func command(b []byte) (name, key string, size int) {
	number := func(from int) (n, next int) { // of "*3\r\n", "$5\r\n"
		end := bytes.Index(b[min(from, len(b)):], []byte("\r\n"))
		if end < 0 {
			return 0, 0
		}
		n, _ = strconv.Atoi(string(b[from+1 : from+end]))
		return n, from + end + 2
	}
	args, at := number(0)
	for i := range args {
		n, next := number(at)
		if at = next + n + 2; next == 0 || at > len(b) {
			return "", "", 0
		}
		switch i {
		case 0:
			name = strings.ToLower(string(b[next : next+n]))
		case 3:
			key = string(b[next : next+n])
		}
	}
	return name, key, at
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		n, err := c.Conn.Read(p)
		if err != nil {
			return n, err
		}
		var lost, silent bool
		var delay time.Duration
		c.wire.set(func() {
			// An error means that nothing was done: the driver may know.
			if !c.wire.hits(c.addr) {
				return
			}
			ran := strings.HasPrefix(c.asked, "eval") && !c.probe && p[0] != '-'
			if lost = ran && (c.wire.lost > 0 || c.wire.ended != nil); lost {
				if c.wire.lost--; c.wire.lost == 0 && c.wire.ended != nil {
					c.wire.ended()
				}
			}
			silent = c.wire.silent && ours(c.asked)
			if ours(c.asked) {
				if delay = c.wire.delay; c.wire.rate > 0 {
					delay += time.Duration(n) * time.Second / time.Duration(c.wire.rate)
				}
			}
		})
		time.Sleep(delay)
		if lost {
			c.Conn.Close()
			return 0, io.EOF
		}
		if !silent {
			return n, nil
		}
	}
}

func (c *conn) Close() error {
	c.wire.set(func() { delete(c.wire.conns, c) })
	if err := c.Conn.Close(); !errors.Is(err, net.ErrClosed) { // by the wire itself
		return err
	}
	return nil
}
