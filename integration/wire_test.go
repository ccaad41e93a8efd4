package integration

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redsession/redsession"
)

// wire is a network that can be watched and made to fail: a dialer for
// WithDialer whose connections know the commands that they carry.
type wire struct {
	dial redsession.DialFunc

	mu      sync.Mutex
	faults  []*fault // armed, each for one command
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

// effect is what happens to the one packet that a fault meets.
type effect int

const (
	// cutReply: the server takes the request, and the connection breaks before
	// its reply arrives.
	cutReply effect = iota
	// hangReply: the same, but the connection stays open and mute.
	hangReply
	// cutRequest: the request is lost, and the connection breaks.
	cutRequest
	// hold: the network keeps the request, and nothing comes back, until release.
	hold
)

func (e effect) String() string {
	return [...]string{"cut before the reply", "mute after the request", "cut before the request", "held"}[e]
}

type fault struct {
	effect effect
	match  func(command []string) bool
	struck chan struct{} // closed when it has met its packet, and the server has answered where it does

	command []string
	conn    *wireConn
	request []byte
}

func newWire(p *place) *wire {
	return &wire{dial: p.Dialer(), open: make(map[*wireConn]bool)}
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
	var open []*wireConn
	for c := range w.open {
		open = append(open, c)
	}
	w.mu.Unlock()
	for _, c := range open {
		if yes {
			c.cut()
		}
	}
}

// arm makes the next packet with a command that matches fail.
func (w *wire) arm(e effect, match func([]string) bool) *fault {
	f := &fault{effect: e, match: match, struck: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, f)
	return f
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
	replies []byte   // read, and to be given to the client
	broken  bool
	silence net.Conn // in place of the connection that a held request is on
}

func (c *wireConn) Write(b []byte) (int, error) {
	commands := c.parse(b)
	f := c.struckBy(commands)
	if f == nil {
		return c.Conn.Write(b)
	}
	switch f.effect {
	case hold:
		c.mu.Lock()
		f.request = bytes.Clone(b)
		c.silence, _ = net.Pipe()
		c.mu.Unlock()
	case cutRequest:
		c.cut()
	default:
		if _, err := c.Conn.Write(b); err != nil {
			return 0, err
		}
		reply := make([]byte, 64<<10)
		c.Conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := c.Conn.Read(reply)
		if err != nil {
			return 0, err
		}
		if kind := string(reply[:min(n, 4)]); kind == "-NOS" || kind == "-MOV" || kind == "-ASK" {
			// The server has not taken it. The next attempt will do.
			c.mu.Lock()
			c.replies = append(c.replies, reply[:n]...)
			c.mu.Unlock()
			c.wire.mu.Lock()
			c.wire.faults = append(c.wire.faults, f)
			c.wire.mu.Unlock()
			return len(b), nil
		}
		if f.effect == cutReply {
			c.cut()
		}
	}
	close(f.struck)
	return len(b), nil
}

func (c *wireConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	if c.broken {
		c.mu.Unlock()
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
	if len(c.replies) > 0 {
		n := copy(b, c.replies)
		c.replies = c.replies[n:]
		c.mu.Unlock()
		return n, nil
	}
	from := c.Conn
	if c.silence != nil {
		from = c.silence
	}
	c.mu.Unlock()
	n, err := from.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
	}
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
	c.mu.Lock()
	cut, silence := c.broken, c.silence
	c.broken = true
	c.mu.Unlock()
	switch {
	case silence != nil:
		return silence.Close() // the server does not see it
	case cut:
		return nil
	}
	return c.Conn.Close()
}

func (c *wireConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *wireConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silence != nil {
		return c.silence.SetReadDeadline(t)
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *wireConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silence != nil {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// cut breaks the connection for the client; the server sees it closed.
func (c *wireConn) cut() {
	c.mu.Lock()
	c.broken = true
	c.mu.Unlock()
	c.Conn.Close()
}

func (c *wireConn) parse(b []byte) [][]string {
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
	return commands
}

func (c *wireConn) struckBy(commands [][]string) *fault {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	for i, f := range c.wire.faults {
		if at := slices.IndexFunc(commands, f.match); at >= 0 {
			c.wire.faults = slices.Delete(c.wire.faults, i, i+1)
			f.command, f.conn = commands[at], c
			return f
		}
	}
	return nil
}

// release lets a request that was held reach the server, on the connection on
// which it was sent, and gives the server's reply.
func (f *fault) release(t testing.TB) string {
	t.Helper()
	select {
	case <-f.struck:
	default:
		t.Fatal("no request was held")
	}
	conn := f.conn.Conn
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(f.request); err != nil {
		t.Fatalf("the request that was held: %v", err)
	}
	reply := make([]byte, 64<<10)
	n, err := conn.Read(reply)
	if err != nil && err != io.EOF {
		t.Fatalf("the reply to the request that was held: %v", err)
	}
	if n == 0 || reply[0] == '-' {
		t.Fatalf("the server did not run the request that was held: %q", reply[:n])
	}
	return string(reply[:n])
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
