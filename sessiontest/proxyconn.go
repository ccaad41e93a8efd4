package sessiontest

import (
	"cmp"
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

var errReset error = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}

// proxyConn is a client's connection through a proxy. It is the connection to the
// server, read and written by the client itself, until a fault strikes; then the
// fault has the server's side, and the client waits for what the fault makes ready.
type proxyConn struct {
	net.Conn // to the server
	proxy    *Proxy
	redial   func(context.Context) (net.Conn, error) // the same server

	writing sync.Mutex // held during Write; taken before mu

	mu       sync.Mutex
	changed  chan struct{} // closed when anything is that a reader waits for
	phase    phase
	err      error // the client cannot use it any more, and why
	requests requests
	replies  replies
	greeting []request // what made the connection what it is
	owed     int       // replies that the server owes
	kept     []byte    // written by the client, not sent yet
	ready    []byte    // for the client, before anything else
	readers  int       // that read from the server just now
	readBy   time.Time // the client's deadlines
	writeBy  time.Time
}

type phase int

const (
	passing  phase = iota
	holding        // what the client writes is kept
	awaiting       // what the server sends is the fault's
	silent         // nothing passes any more
)

func (c *proxyConn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return 0, c.err
	}
	list, err := c.requests.add(b)
	if err != nil {
		c.mu.Unlock()
		c.end(err)
		return 0, err
	}
	pass, f := c.sort(list)
	c.mu.Unlock()
	if len(pass) > 0 {
		if _, err := c.Conn.Write(pass); err != nil {
			if f != nil {
				c.end(err)
				close(f.struck)
			}
			return 0, err
		}
	}
	if f != nil {
		c.strike(f)
	}
	return len(b), nil
}

// sort finds what of the client's commands passes, and the fault that one of them
// meets. Under mu.
func (c *proxyConn) sort(list []request) (pass []byte, f *Fault) {
	began := c.greeting
	for i, r := range list {
		if c.phase == passing {
			if f = c.proxy.meets(r.args); f != nil {
				f.command, f.conn, f.before = r.args, c, c.owed
				c.enter(f)
				switch f.effect {
				case CutRequest:
					pass = append(pass, r.raw[:len(r.raw)/2]...)
				case Duplicate:
					f.packet, f.answers = slices.Concat(began, list), len(began)+i+1
				}
			}
		}
		switch c.phase {
		case passing, awaiting:
			pass = append(pass, r.raw...)
		case holding:
			c.kept = append(c.kept, r.raw...)
		case silent:
			continue
		}
		c.owed++
		if greets[strings.ToLower(r.args[0])] {
			c.greeting = append(c.greeting, r)
		}
	}
	return pass, f
}

// greets are the commands on which what a connection does later depends.
var greets = map[string]bool{"hello": true, "auth": true, "select": true, "readonly": true}

// enter takes the server's side from the client. Under mu.
func (c *proxyConn) enter(f *Fault) {
	switch f.effect {
	case DropRequest, CutBeforeRequest, CutRequest:
		c.phase = silent
	default:
		c.phase = holding
	}
	if c.readers > 0 {
		c.Conn.SetReadDeadline(time.Unix(1, 0)) // away with them
	}
}

// strike does what the fault does, once what was written before has passed.
func (c *proxyConn) strike(f *Fault) {
	switch f.effect {
	case DropRequest, HoldRequest:
		close(f.struck)
	case CutBeforeRequest, CutRequest:
		c.end(errReset)
		close(f.struck)
	default:
		c.proxy.start(func() { c.answer(f) })
	}
}

// answer has the server take what is kept, and does with the reply to the fault's
// command what the fault does.
func (c *proxyConn) answer(f *Fault) error {
	if err := c.send(); err != nil {
		return c.fail(f, err)
	}
	var reply []byte
	for buf := make([]byte, 16<<10); ; {
		n, err := c.Conn.Read(buf)
		head, rest, bad := c.own(f, &reply, buf[:n])
		if err = cmp.Or(bad, err); err != nil && head == "" {
			return c.fail(f, err)
		}
		if head != "" {
			c.conclude(f, head, reply, rest)
			return refusal(head)
		}
	}
}

// own goes through replies until that to the fault's command is whole; then it gives
// its first line, and what comes after it.
func (c *proxyConn) own(f *Fault, reply *[]byte, b []byte) (head string, rest []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(b) > 0 {
		n, whole, err := c.replies.next(b)
		if err != nil {
			return "", nil, err
		}
		*reply, b = append(*reply, b[:n]...), b[n:]
		if !whole {
			continue
		}
		if !c.replies.pushed() {
			c.owed--
			if f.before == 0 {
				head := c.replies.head
				return head, b, c.scan(b)
			}
			f.before--
		}
		c.offer(*reply)
		*reply = nil
	}
	return "", nil, nil
}

// send writes what is kept, when no reader could get the reply.
func (c *proxyConn) send() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.readers > 0 {
		c.wait(time.Time{})
	}
	c.Conn.SetDeadline(time.Time{}) // the client's deadlines are not the network's
	for len(c.kept) > 0 {
		b := c.kept
		c.kept = nil
		c.mu.Unlock()
		_, err := c.Conn.Write(b)
		c.mu.Lock()
		if err != nil {
			return err
		}
	}
	if c.phase == holding {
		c.phase = awaiting
	}
	c.Conn.SetWriteDeadline(c.writeBy)
	return nil
}

// conclude does with the reply what the fault does; rest is what came after it.
func (c *proxyConn) conclude(f *Fault, head string, reply, rest []byte) {
	all := slices.Concat(reply, rest)
	if untaken(head) && f.effect != HoldRequest {
		c.proxy.rearm(f)
		c.resume(all)
		return
	}
	switch f.effect {
	case HoldRequest: // it has struck before
		c.resume(all)
		return
	case Duplicate:
		defer c.resume(all)
	case HoldReply:
		f.reply = all
	case CutInReply:
		c.mu.Lock()
		c.offer(reply[:len(reply)/2])
		c.mu.Unlock()
		c.end(errReset)
	case CutReply:
		c.end(errReset)
	case DropReply:
		c.quiet()
	}
	close(f.struck)
}

// untaken: the command is to be sent elsewhere, or with its script.
func untaken(head string) bool {
	for _, prefix := range []string{"-NOSCRIPT ", "-MOVED ", "-ASK "} {
		if strings.HasPrefix(head, prefix) {
			return true
		}
	}
	return false
}

// offer makes something ready for the client. Under mu.
func (c *proxyConn) offer(b []byte) {
	c.ready = append(c.ready, b...)
	c.notify()
}

// resume gives the client the server's side again, after some bytes.
func (c *proxyConn) resume(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.offer(b)
	if c.phase = passing; c.err != nil {
		c.shut()
		return
	}
	c.Conn.SetReadDeadline(c.readBy)
}

// quiet lets nothing pass any more.
func (c *proxyConn) quiet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase = silent; c.err != nil {
		c.shut()
	}
}

// fail: the server's side is gone before it has answered.
func (c *proxyConn) fail(f *Fault, err error) error {
	c.end(err)
	if f.effect != HoldRequest {
		close(f.struck)
	}
	return err
}

// leave takes the connection from the client. What it has sent still arrives.
func (c *proxyConn) leave(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = cmp.Or(c.err, err)
	c.notify()
	if c.phase == passing || c.phase == silent {
		c.shut()
	}
}

// end ends both sides.
func (c *proxyConn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err, c.phase = cmp.Or(c.err, err), silent
	c.notify()
	c.shut()
}

func (c *proxyConn) shut() {
	c.Conn.Close()
	c.proxy.forget(c)
}

func (c *proxyConn) Close() error {
	c.mu.Lock()
	c.ready = nil
	c.mu.Unlock()
	c.leave(net.ErrClosed)
	return nil
}

func (c *proxyConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case len(c.ready) > 0:
			n := copy(b, c.ready)
			c.ready = c.ready[n:]
			return n, nil
		case c.err != nil:
			return 0, c.err
		case c.phase != passing:
			if !c.wait(c.readBy) {
				return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
			}
		default:
			n, err := c.receive(b)
			if n > 0 || c.phase == passing && c.err == nil {
				return n, err
			}
		}
	}
}

// receive reads from the server. Under mu, but not while it waits.
func (c *proxyConn) receive(b []byte) (int, error) {
	c.readers++
	c.mu.Unlock()
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	c.readers--
	c.notify()
	return n, cmp.Or(c.scan(b[:n]), err)
}

// scan counts the replies in b. Under mu.
func (c *proxyConn) scan(b []byte) error {
	for len(b) > 0 {
		n, whole, err := c.replies.next(b)
		if err != nil {
			return err
		}
		if b = b[n:]; whole && !c.replies.pushed() {
			c.owed = max(0, c.owed-1) // a subscription answers more than once
		}
	}
	return nil
}

// notify wakes who waits. Under mu.
func (c *proxyConn) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait returns when something has changed, and false at the deadline. Under mu, but
// not while it waits.
func (c *proxyConn) wait(deadline time.Time) bool {
	changed := c.changed
	c.mu.Unlock()
	defer c.mu.Lock()
	var due <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-changed:
		return true
	case <-due:
		return false
	}
}

func (c *proxyConn) SetDeadline(t time.Time) error {
	return cmp.Or(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *proxyConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readBy = t
	c.notify()
	if c.phase != passing {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *proxyConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBy = t
	if c.phase == holding {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// peekedConn is a proxyConn at whose socket a driver may look.
type peekedConn struct {
	*proxyConn
	raw syscall.Conn
}

func (c *peekedConn) SyscallConn() (syscall.RawConn, error) {
	raw, err := c.raw.SyscallConn()
	return peek{raw, c.proxyConn}, err
}

type peek struct {
	syscall.RawConn
	conn *proxyConn
}

// Read shows the socket only while what comes from there is for the client.
func (p peek) Read(look func(fd uintptr) bool) error {
	p.conn.mu.Lock()
	err, passes := p.conn.err, p.conn.phase == passing && len(p.conn.ready) == 0
	p.conn.mu.Unlock()
	if err != nil || !passes {
		return err
	}
	return p.RawConn.Read(look)
}
