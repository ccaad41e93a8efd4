package redsession

import (
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// maxReply bounds the time in which a reply may keep arriving.
const maxReply = 30 * time.Second

// steady gives the driver's read timeout to each part of a reply, not to the
// reply as a whole: a packet of many large sessions may take longer than a dead
// server is waited for.
func steady(conn net.Conn) net.Conn {
	s := &steadyConn{Conn: conn}
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
	wait atomic.Int64 // the timeout that the driver has set, ns; 0: none
	end  atomic.Int64 // when it ends at the latest, unix ns
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
	n, err := c.Conn.Read(p)
	if wait := c.wait.Load(); n > 0 && wait > 0 {
		if now := time.Now(); now.UnixNano() < c.end.Load() {
			c.Conn.SetReadDeadline(now.Add(time.Duration(wait)))
		}
	}
	return n, err
}

// unmade is a connection that could not be made: every use of it says why.
type unmade struct{ err error }

func (u *unmade) Read([]byte) (int, error)         { return 0, u.err }
func (u *unmade) Write([]byte) (int, error)        { return 0, u.err }
func (u *unmade) Close() error                     { return nil }
func (u *unmade) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (u *unmade) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (u *unmade) SetDeadline(time.Time) error      { return nil }
func (u *unmade) SetReadDeadline(time.Time) error  { return nil }
func (u *unmade) SetWriteDeadline(time.Time) error { return nil }
