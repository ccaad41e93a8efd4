package integration

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// wire is a network that can be watched and made to fail: a dialer for
// WithDialer whose connections know the commands that they carry.
type wire struct {
	dial  redsession.DialFunc
	proxy *sessiontest.Proxy // below dial

	mu      sync.Mutex
	refuses bool
	open    map[*wireConn]bool
	log     [][]string // every command written
	trips   []trip
}

// trip is a write, or several, and the reply that then came.
type trip struct {
	addr     string
	commands []string // names, in lower case
}

// effect is what happens to the one command that a fault meets.
type effect = sessiontest.Effect

const (
	cutReply   = sessiontest.CutReply
	hangReply  = sessiontest.DropReply
	cutRequest = sessiontest.CutBeforeRequest
	hold       = sessiontest.HoldRequest
)

type fault struct {
	*sessiontest.Fault
	struck <-chan struct{}
}

func newWire(p *place) *wire {
	proxy := sessiontest.NewProxy()
	return &wire{dial: proxy.Dialer(p.Dialer()), proxy: proxy, open: make(map[*wireConn]bool)}
}

// option lets a client of the place use the wire.
func (w *wire) option() redsession.Option { return redsession.WithDialer(w.connect) }

func (w *wire) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	w.mu.Lock()
	refuses := w.refuses
	w.mu.Unlock()
	if refuses {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
	}
	conn, err := w.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: conn, wire: w, addr: addr}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[c] = true
	return c, nil
}

// refuse makes every dial fail, and cuts what is open.
func (w *wire) refuse(yes bool) {
	w.mu.Lock()
	w.refuses = yes
	w.mu.Unlock()
	if yes {
		w.proxy.Cut()
	}
}

// arm makes the next command that matches fail.
func (w *wire) arm(e effect, match func([]string) bool) *fault {
	f := w.proxy.Arm(e, match)
	return &fault{f, f.Struck()}
}

// release lets a request that was held reach the server, on the connection on
// which it was sent.
func (f *fault) release(t testing.TB) {
	t.Helper()
	ok(t, f.Release())
}

// carried tells whether a command that matches has been written.
func (w *wire) carried(match func([]string) bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.log, match)
}

// count runs f and gives the round trips that it took, by address, those of the
// topology's upkeep aside.
func (w *wire) count(f func()) map[string]int {
	w.mu.Lock()
	w.trips = nil
	w.mu.Unlock()
	f()
	w.mu.Lock()
	defer w.mu.Unlock()
	byAddr := make(map[string]int)
	for _, t := range w.trips {
		if slices.ContainsFunc(t.commands, func(name string) bool { return !upkeep[name] }) {
			byAddr[t.addr]++
		}
	}
	return byAddr
}

var upkeep = map[string]bool{"cluster": true, "sentinel": true, "subscribe": true, "ping": true}

// wroteTo matches the scripts that are called for a session.
func wroteTo(handle string) func([]string) bool {
	return func(c []string) bool { return isScript(c) && c[3] == key(handle) }
}

// readOf matches the read of a session.
func readOf(handle string) func([]string) bool {
	return func(c []string) bool { return strings.EqualFold(c[0], "hgetall") && c[1] == key(handle) }
}

// creates matches the script that makes a session.
func creates(c []string) bool {
	return isScript(c) && len(c) > 5 && strings.HasSuffix(c[5], ":msgpack")
}

// anyScript matches every write.
func anyScript(c []string) bool { return isScript(c) }

func isScript(c []string) bool {
	return len(c) > 4 && (strings.EqualFold(c[0], "evalsha") || strings.EqualFold(c[0], "eval"))
}

func named(name string) func([]string) bool {
	return func(c []string) bool { return strings.EqualFold(c[0], name) }
}

// wireConn is a connection of a wire.
type wireConn struct {
	net.Conn
	wire *wire
	addr string

	mu      sync.Mutex
	partial []byte   // of a command that is not complete yet
	unread  []string // commands that have no reply yet
}

func (c *wireConn) Write(b []byte) (int, error) {
	c.parse(b)
	return c.Conn.Write(b)
}

func (c *wireConn) parse(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var commands [][]string
	commands, c.partial = parseCommands(append(c.partial, b...))
	for _, command := range commands {
		c.unread = append(c.unread, strings.ToLower(command[0]))
	}
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	c.wire.log = append(c.wire.log, commands...)
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 && len(c.unread) > 0 {
		c.wire.mu.Lock()
		c.wire.trips = append(c.wire.trips, trip{c.addr, c.unread})
		c.wire.mu.Unlock()
		c.unread = nil
	}
	return n, err
}

func (c *wireConn) Close() error {
	c.wire.mu.Lock()
	delete(c.wire.open, c)
	c.wire.mu.Unlock()
	return c.Conn.Close()
}

// parseCommands reads the complete commands of b, and gives the rest.
func parseCommands(b []byte) (commands [][]string, rest []byte) {
	for {
		command, n := parseCommand(b)
		if n == 0 {
			return commands, bytes.Clone(b)
		}
		commands, b = append(commands, command), b[n:]
	}
}

func parseCommand(b []byte) (command []string, n int) {
	line := func(kind byte) (int, bool) {
		end := bytes.Index(b[n:], []byte("\r\n"))
		if end < 1 || b[n] != kind {
			return 0, false
		}
		v, err := strconv.Atoi(string(b[n+1 : n+end]))
		n += end + 2
		return v, err == nil
	}
	count, ok := line('*')
	if !ok {
		return nil, 0
	}
	for range count {
		size, ok := line('$')
		if !ok || len(b) < n+size+2 {
			return nil, 0
		}
		command = append(command, string(b[n:n+size]))
		n += size + 2
	}
	return command, n
}
