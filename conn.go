package redsession

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redsession/redsession/internal/resp"
)

// maxReply bounds the time in which a reply may keep arriving.
const maxReply = 30 * time.Second

// steady gives the driver's read timeout to each part of a reply, not to the
// reply as a whole: a packet of many large sessions may take longer than a dead
// server is waited for. It tells endpoint what becomes of requests, and sends none
// while that is down. The first answer goes to judge, whose error comes in its place, and all to guard.
func steady(conn net.Conn, endpoint *endpoint, guard *resp.Guard, judge func([]byte, error) error) net.Conn {
	s := &steadyConn{Conn: conn, endpoint: endpoint, guard: guard, judge: judge}
	endpoint.linked(1)
	if raw, ok := conn.(syscall.Conn); ok { // by which the driver sees a connection closed by the server
		return struct {
			*steadyConn
			syscall.Conn
		}{s, raw}
	}
	return s
}

type steadyConn struct {
	net.Conn
	endpoint *endpoint
	guard    *resp.Guard
	judge    func(answer []byte, err error) error // until the first answer
	asked    atomic.Bool                          // an answer is due
	wait     atomic.Int64                         // the timeout that the driver has set, ns; 0: none
	end      atomic.Int64                         // when it ends at the latest, unix ns
	closed   sync.Once
}

func (c *steadyConn) Close() error {
	c.closed.Do(func() { c.endpoint.linked(-1) })
	return c.Conn.Close()
}

// Write refuses the beginning of a request only: what follows must go along with it.
func (c *steadyConn) Write(p []byte) (int, error) {
	if !c.asked.Load() {
		if err := c.endpoint.up(); err != nil {
			return 0, err
		}
		c.asked.Store(true)
	}
	c.guard.Asked(p)
	n, err := c.Conn.Write(p)
	if err != nil && silent(err, ioTimeout) {
		c.endpoint.failed(err)
	}
	return n, err
}

func (c *steadyConn) SetReadDeadline(t time.Time) error {
	c.patience(t)
	return c.Conn.SetReadDeadline(t)
}

func (c *steadyConn) SetDeadline(t time.Time) error {
	c.patience(t)
	return c.Conn.SetDeadline(t)
}

func (c *steadyConn) patience(t time.Time) {
	now := time.Now()
	c.wait.Store(0)
	if t.After(now) {
		c.end.Store(now.Add(maxReply).UnixNano())
		c.wait.Store(int64(t.Sub(now)))
	}
}

func (c *steadyConn) Read(p []byte) (int, error) {
	if _, refused := c.guard.Check(nil); refused != nil {
		return 0, refused
	}
	n, err := c.Conn.Read(p)
	answered := n > 0
	if judge := c.judge; judge != nil {
		c.judge = nil
		if verdict := judge(p[:n], err); verdict != nil {
			n, err = 0, verdict
			c.judge = func([]byte, error) error { return verdict } // the driver may read again
		}
	}
	if good, refused := c.guard.Check(p[:n]); refused != nil {
		if n = good; n == 0 {
			err = refused // else the next time
		}
	}
	wait := time.Duration(c.wait.Load())
	switch {
	case answered:
		c.asked.Store(false)
		c.endpoint.heard()
		if now := time.Now(); wait > 0 && now.UnixNano() < c.end.Load() {
			c.Conn.SetReadDeadline(now.Add(wait))
		}
	case err != nil && c.asked.Load() && silent(err, wait):
		c.endpoint.failed(err)
	}
	return n, err
}

// unmade is a connection that could not be made: every use of it says why. One that lay
// in the pool is not used: the driver looks at the socket first.
type unmade struct{ err error }

func (u *unmade) Read([]byte) (int, error)              { return 0, u.err }
func (u *unmade) Write([]byte) (int, error)             { return 0, u.err }
func (u *unmade) SyscallConn() (syscall.RawConn, error) { return nil, u.err }
func (u *unmade) Close() error                          { return nil }
func (u *unmade) LocalAddr() net.Addr                   { return &net.TCPAddr{} }
func (u *unmade) RemoteAddr() net.Addr                  { return &net.TCPAddr{} }
func (u *unmade) SetDeadline(time.Time) error           { return nil }
func (u *unmade) SetReadDeadline(time.Time) error       { return nil }
func (u *unmade) SetWriteDeadline(time.Time) error      { return nil }
