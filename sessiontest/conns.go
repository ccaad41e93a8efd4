package sessiontest

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"

	"github.com/alicebob/miniredis/v2/server"
)

// conn is a client's connection.
type conn struct {
	net.Conn
	first []byte        // what Read gives before what the client sends
	busy  sync.Mutex    // held while a command runs
	ended chan struct{} // closed by Server.end

	inside bool // past handle; only for the goroutine that runs the commands

	// Under Server.mu:
	over bool         // whether ended is closed
	peer *server.Peer // runs the present command, or ran the last one
}

func (c *conn) Read(b []byte) (int, error) {
	if len(c.first) > 0 {
		n := copy(b, c.first)
		c.first = c.first[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

// serve accepts connections until the listener is closed.
func (s *Server) serve() {
	for n := 0; ; n++ {
		accepted, err := s.listener.Accept()
		if err != nil {
			return
		}
		// miniredis does not say from which connection a command is. So each one
		// begins with a command of ours, its name; see client.
		name := strconv.Itoa(n)
		c := &conn{
			Conn:  accepted,
			first: fmt.Appendf(nil, "*1\r\n$%d\r\n%s\r\n", len(name), name),
			ended: make(chan struct{}),
		}
		s.life.Lock()
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.names.Store(name, c)
		s.commands.ServeConn(c)
		s.life.Unlock()
	}
}

// client finds the connection from which a command is: none for a command of
// ours and for one that a script calls. The latter runs under the lock of
// miniredis, which follow needs, and at the time at which its script began; it
// comes from a peer that has a context from the start. The very first command of
// a client is its connection's name, and new.
func (s *Server) client(p *server.Peer, cmd string) (c *conn, isNew bool) {
	if known, ok := s.peers.Load(p); ok {
		return known.(*conn), false
	}
	if p.Ctx != nil {
		return nil, false
	}
	named, ok := s.names.LoadAndDelete(cmd)
	if !ok { // not from a connection of ours
		return nil, false
	}
	c = named.(*conn)
	s.peers.Store(p, c)
	p.OnDisconnect(func() {
		s.peers.Delete(p)
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	})
	return c, true
}

// run runs a client's command, unless its connection has been ended.
func (s *Server) run(c *conn, p *server.Peer, cmd string, args []string) {
	c.busy.Lock()
	defer c.busy.Unlock()
	s.mu.Lock()
	over := c.over
	c.peer = p
	s.mu.Unlock()
	if over {
		p.Close()
		return
	}
	c.inside = true
	s.commands.Dispatch(p, append([]string{cmd}, args...))
	c.inside = false
}

// command runs a command of our own.
func (s *Server) command(args ...string) {
	own := server.NewPeer(bufio.NewWriter(io.Discard))
	s.peers.Store(own, (*conn)(nil))
	defer s.peers.Delete(own)
	s.commands.Dispatch(own, args)
}

// end ends all connections. When it returns, no command of theirs runs or ever
// will, not even one that has arrived.
func (s *Server) end() {
	s.mu.Lock()
	conns := slices.Collect(maps.Keys(s.conns))
	var peers []*server.Peer
	for _, c := range conns {
		if !c.over {
			c.over = true
			close(c.ended)
		}
		if c.peer != nil {
			peers = append(peers, c.peer)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	for _, p := range peers {
		p.Close()
	}
	s.command("TIME") // wakes blocking commands; they see that their peer is closed
	for _, c := range conns {
		c.wait()
	}
}

// wait waits for the command that runs.
func (c *conn) wait() {
	c.busy.Lock()
	defer c.busy.Unlock()
}
