//go:build unix

package harness

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// upstream is a server behind a relay; every connection that it accepts comes
// out of the channel.
func upstream(t *testing.T) (*relay, chan *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan *net.TCPConn, 16)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns <- c.(*net.TCPConn)
		}
	}()
	b := newBoard()
	target := ln.Addr().String()
	r := &relay{board: b, node: &Node{name: "node"}, listen: "127.0.0.1:0", target: func() string { return target }}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.shut()
		b.close()
		ln.Close()
	})
	return r, conns
}

func dialRelay(t *testing.T, r *relay) *net.TCPConn {
	t.Helper()
	addr, _ := r.address()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func accept(t *testing.T, conns chan *net.TCPConn) *net.TCPConn {
	t.Helper()
	select {
	case c := <-conns:
		t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(10 * time.Second):
		t.Fatal("no connection came through")
		return nil
	}
}

func say(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, c net.Conn, want string) {
	t.Helper()
	buf := make([]byte, len(want))
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != want {
		t.Fatalf("heard %q, %v, expected %q", buf, err, want)
	}
}

func silence(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("expected silence, got %d bytes, %v", n, err)
	}
}

func TestRelayPasses(t *testing.T) {
	r, conns := upstream(t)
	c := dialRelay(t, r)
	say(t, c, "ping")
	s := accept(t, conns)
	hear(t, s, "ping")
	say(t, s, "pong")
	hear(t, c, "pong")

	// Half a connection may end before the other half.
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("after the end: %d, %v", n, err)
	}
	say(t, s, "last")
	s.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "last" {
		t.Fatalf("heard %q, %v", b, err)
	}

	// A reset stays a reset.
	c = dialRelay(t, r)
	s = accept(t, conns)
	reset(s)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("after a reset: %v", err)
	}
}

func TestRelayRefuses(t *testing.T) {
	r, conns := upstream(t)
	c := dialRelay(t, r)
	s := accept(t, conns)
	addr, _ := r.address()
	r.shut()
	r.shut()
	if _, err := net.Dial("tcp", addr); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("a dial: %v", err)
	}
	say(t, c, "still here") // the server decides on its end
	hear(t, s, "still here")
	r.listen = addr
	if err := errors.Join(r.open(), r.open()); err != nil {
		t.Fatal(err)
	}
	dialRelay(t, r)
	accept(t, conns)
}

func TestCutStallsBothDirections(t *testing.T) {
	r, conns := upstream(t)
	c := dialRelay(t, r)
	s := accept(t, conns)
	for range 3 {
		r.board.set(r.node, Clients)
		r.board.set(r.node, Clients)
		say(t, c, "to the server")
		say(t, s, "to the client")
		silence(t, s)
		silence(t, c)
		r.board.set(r.node, 0)
		r.board.set(r.node, 0)
		hear(t, s, "to the server")
		hear(t, c, "to the client")
	}
	// What was sent before the end arrives after it.
	r.board.set(r.node, Clients)
	say(t, c, "ghost")
	c.Close()
	silence(t, s)
	r.board.set(r.node, 0)
	hear(t, s, "ghost")
	if _, err := s.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("after the ghost: %v", err)
	}
}

func TestCutHoldsNewConnections(t *testing.T) {
	r, conns := upstream(t)
	r.board.set(r.node, Clients)
	c := dialRelay(t, r) // without Env.Dialer
	say(t, c, "lost")
	silence(t, c)
	r.board.set(r.node, 0)
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("after the cut: %v", err)
	}
	dialRelay(t, r)
	s := accept(t, conns)
	silence(t, s) // it is the second one, and nothing came of the first
}

// pattern is what the streams repeat. Its length is prime, so that bytes that
// are lost or come twice put a stream out of step.
var pattern = func() []byte {
	p := make([]byte, 65521)
	for i := range p {
		p[i] = byte(rand.Uint32())
	}
	return p
}()

// TestCutIsStrict streams both ways through a relay that is cut again and
// again: no byte is lost or comes twice, and none passes during a cut.
func TestCutIsStrict(t *testing.T) {
	r, conns := upstream(t)
	c := dialRelay(t, r)
	s := accept(t, conns)
	stop := make(chan struct{})
	var writers, readers sync.WaitGroup
	for _, w := range []*net.TCPConn{c, s} {
		writers.Go(func() {
			for at := 0; !closed(stop); {
				n := 1 + rand.IntN(len(pattern)-at)
				if _, err := w.Write(pattern[at : at+n]); err != nil {
					t.Error(err)
					return
				}
				at = (at + n) % len(pattern)
			}
			if err := w.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		readers.Go(func() {
			buf := make([]byte, len(pattern))
			for at := 0; ; {
				n, err := w.Read(buf[:len(pattern)-at])
				if !bytes.Equal(buf[:n], pattern[at:at+n]) {
					t.Error("bytes were lost or came twice")
					return
				}
				at = (at + n) % len(pattern)
				if err == io.EOF {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	passed := func() (sum int64) {
		r.board.mu.Lock()
		defer r.board.mu.Unlock()
		for l := range r.board.links {
			sum += l.passed.Load()
		}
		return sum
	}
	// On a busy machine it takes more of them for something to pass in between.
	const enough = 100 << 10
	late := time.Now().Add(30 * time.Second)
	for cuts := 0; cuts < 100 || passed() < enough && time.Now().Before(late); cuts++ {
		time.Sleep(time.Duration(rand.IntN(5)) * time.Millisecond)
		r.board.set(r.node, Clients)
		before := passed()
		time.Sleep(5 * time.Millisecond)
		if n := passed() - before; n != 0 {
			t.Errorf("%d bytes passed during a cut", n)
		}
		r.board.set(r.node, 0)
	}
	if n := passed(); n < enough {
		t.Errorf("only %d bytes passed", n)
	}
	close(stop)
	writers.Wait()
	readers.Wait()
}

func TestCutTellsPeersFromClients(t *testing.T) {
	if !loopbackPerNode {
		t.Skip("the system has one loopback address")
	}
	r, conns := upstream(t)
	peer := &Node{name: "peer"}
	r.board.mu.Lock()
	r.board.peers["127.9.8.7"] = peer
	r.board.mu.Unlock()
	addr, _ := r.address()
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 9, 8, 7)}}
	p, err := from.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ps := accept(t, conns)
	c := dialRelay(t, r)
	cs := accept(t, conns)

	for _, cut := range []struct {
		of                   *Node
		from                 Cut
		peerHears, userHears bool
	}{
		{r.node, Peers, false, true},
		{r.node, Clients, true, false},
		{r.node, All, false, false},
		{peer, Peers, false, true}, // its own connections, too
		{peer, Clients, true, true},
		{peer, All, false, true},
	} {
		r.board.set(cut.of, cut.from)
		for _, x := range []struct {
			from, to net.Conn
			hears    bool
		}{{p, ps, cut.peerHears}, {ps, p, cut.peerHears}, {c, cs, cut.userHears}, {cs, c, cut.userHears}} {
			say(t, x.from, "x")
			if x.hears {
				hear(t, x.to, "x")
			} else {
				silence(t, x.to)
			}
		}
		r.board.set(cut.of, 0)
		for _, x := range []struct {
			to    net.Conn
			hears bool
		}{{ps, cut.peerHears}, {p, cut.peerHears}, {cs, cut.userHears}, {c, cut.userHears}} {
			if !x.hears {
				hear(t, x.to, "x")
			}
		}
	}
}

func TestBoardEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	func() {
		r, conns := upstream(t)
		c := dialRelay(t, r)
		s := accept(t, conns)
		r.board.set(r.node, Clients)
		say(t, c, "x")
		held := dialRelay(t, r)
		say(t, held, "y")
		r.shut()
		r.board.close()
		if _, err := s.Read(make([]byte, 1)); err == nil {
			t.Error("the server's end is still open")
		}
		if err := r.board.await(t.Context(), nil, r.node); err == nil {
			t.Error("a wait outlived the board")
		}
	}()
	for range 200 {
		if runtime.NumGoroutine() <= before+1 { // upstream's listener ends with the test
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
}
