// Package sessiontest is a Redis server inside the process, for the tests of
// programs that use redsession: nothing to install, a clock to turn, and faults
// to inject, in the server and on the way to it.
//
//	clock := sessiontest.NewClock(time.Now())
//	server := sessiontest.Start(t, sessiontest.WithClock(clock.Now))
//	client, err := redsession.New[Profile](server.Option())
//	...
//	clock.Advance(31 * time.Minute) // the session is idle for too long
//
// For a ring start several, and name their addresses:
//
//	redsession.WithRing(redsession.Node{Name: "a", Addr: a.Addr()}, redsession.Node{Name: "b", Addr: b.Addr()})
//
// For failures of the network, at the very command that a test names, put a [Proxy]
// between: it drops, delays, cuts or repeats requests and replies. It stands before
// real servers just as well.
//
//	proxy := sessiontest.NewProxy()
//	client, err := redsession.New[Profile](server.Option(), redsession.WithDialer(proxy.Dialer(nil)))
//	...
//	proxy.Arm(sessiontest.CutReply, func(command []string) bool { return command[0] == "eval" || command[0] == "evalsha" })
//
// The server is miniredis, taught to follow a clock. What is different from a real
// Redis:
//
//   - One node, without files: no Cluster, Sentinel or replicas, no TLS.
//   - No ACL, CLIENT TRACKING, CONFIG or eviction. Of INFO there is only a little,
//     and MULTI does not have that.
//   - Lua has no cmsgpack, struct or bit, and converts large numbers to strings
//     with all their digits, where a real Redis gives 14.
//   - SCAN gives everything at once, whatever the COUNT: no second page, no key
//     twice. In a pattern, ? is a character rather than a byte.
//   - An error that ends a script has the code ERR, whatever was its own.
//   - A key is gone at the very millisecond of its deadline, on a real Redis one
//     later. Time is in whole milliseconds.
//   - Blocking commands wait in real time.
//   - It is made for a few thousand keys: whenever time has moved, the next
//     command looks at all of them. With 10,000 keys that takes milliseconds.
package sessiontest

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/alicebob/miniredis/v2/server"

	"github.com/redsession/redsession"
)

// Server is an embedded Redis server on a port of its own on 127.0.0.1. It is
// made by [Start] or [Run] and safe for concurrent use; a process can have many.
type Server struct {
	redis    *miniredis.Miniredis
	commands *server.Server
	listener net.Listener
	addr     string
	accept   sync.WaitGroup
	peers    sync.Map // *server.Peer → *conn, nil for one of ours; see client
	names    sync.Map // of connections that have not begun → *conn

	// life is held during a restart and while a connection is taken in. Next comes
	// a connection's busy, then ticking, which is held while the lock of redis is
	// taken. Under mu none is taken.
	life    sync.Mutex
	ticking sync.Mutex
	now     func() time.Time
	last    time.Time    // what redis was told last
	told    atomic.Int64 // the same, in microseconds

	mu      sync.Mutex
	process process
	conns   map[*conn]struct{}
	fault   fault
	message string
	changed chan struct{} // closed when the fault is another
}

// Option configures a [Server].
type Option func(*Server)

// WithClock makes the server follow now, such as [Clock.Now]: TIME, inside of
// scripts too, and the TTLs of all keys. The clock may jump: keys keep their
// deadlines in either direction. Default: [time.Now], so that keys expire in
// real time.
func WithClock(now func() time.Time) Option { return func(s *Server) { s.now = now } }

// Start runs a server until the test has ended.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	s, err := Run(opts...)
	if err != nil {
		tb.Fatalf("sessiontest: %v", err)
	}
	tb.Cleanup(s.Close)
	return s
}

// Run runs a server until Close: for programs and examples.
func Run(opts ...Option) (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{
		redis:    miniredis.NewMiniRedis(),
		listener: listener,
		addr:     listener.Addr().String(),
		now:      time.Now,
		conns:    map[*conn]struct{}{},
		changed:  make(chan struct{}),
	}
	for _, opt := range opts {
		opt(s)
	}
	// Dial is how miniredis starts without a listener. We have our own, because
	// Down must not give the port away: another test could get it before Up.
	first, err := s.redis.Dial()
	if err != nil {
		listener.Close()
		return nil, err
	}
	first.Close()
	s.commands = s.redis.Server()
	s.process = s.newProcess()
	s.follow()
	s.redis.ClockTTL(true)
	s.commands.SetPreHook(s.before)
	s.accept.Go(s.serve)
	return s, nil
}

// Close ends the server and all connections to it, and waits for its
// goroutines.
func (s *Server) Close() {
	s.listener.Close()
	s.accept.Wait()
	s.end()
	s.redis.Close()
}

// Addr is where the server listens ("127.0.0.1:port").
func (s *Server) Addr() string { return s.addr }

// Option connects a [redsession.Client] to this server, by the server's clock.
func (s *Server) Option() redsession.Option {
	return redsession.Options(redsession.WithAddr(s.addr), redsession.WithClock(s.now))
}

// Keys lists the keys that are alive, in order.
func (s *Server) Keys() []string {
	s.follow()
	return s.redis.DB(0).Keys()
}

// Fields reads a hash: nil if there is none at this key.
func (s *Server) Fields(key string) map[string]string {
	s.follow()
	db := s.redis.DB(0)
	names, err := db.HKeys(key)
	if err != nil {
		return nil
	}
	fields := make(map[string]string, len(names))
	for _, name := range names {
		fields[name] = db.HGet(key, name)
	}
	return fields
}

// TTL is how long a key has yet to live: 0 for one that is not there or lives
// forever.
func (s *Server) TTL(key string) time.Duration {
	s.follow()
	return s.redis.DB(0).TTL(key)
}

// before runs before every command, and answers it if it returns true.
func (s *Server) before(p *server.Peer, cmd string, args ...string) bool {
	c, isNew := s.client(p, cmd)
	switch {
	case c == nil && cmd == "INFO": // of a script
		s.info(p, args)
		return true
	case c == nil:
		return false
	case isNew:
		return true
	case !c.inside:
		s.handle(c, p, cmd, args)
		return true
	case cmd == "INFO":
		s.info(p, args)
		return true
	case cmd == "CLIENT" && len(args) > 0 && strings.EqualFold(args[0], "SETINFO"):
		p.WriteOK()
		return true
	}
	return false
}
