package sessiontest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/redsession/redsession"
)

// Proxy is a network that fails where a test wants it to: at a command that a
// client sends, before, in or after its request or its reply. It is a dialer, for
// [redsession.WithDialer] or the Dialer of go-redis's options, so that it stands
// before any server. Until a fault strikes, its connections are as without it.
//
// It reads commands, so the protocol must be plain: it cannot see through TLS, and
// fails a connection that carries it.
//
// A Proxy is made by [NewProxy], safe for concurrent use, and to be closed.
type Proxy struct {
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu    sync.Mutex // a leaf but for match
	conns map[*proxyConn]struct{}
	armed []*Fault
}

// Effect is what becomes of a command that a [Fault] strikes. What the client wrote
// before it still reaches the server; what it writes after it on the same connection
// shares its fate.
//
// The effects that let the server take the command wait for an answer that says it
// did: after NOSCRIPT, MOVED or ASK they wait for the next command that matches.
type Effect int

const (
	// DropRequest: the request is lost, and the connection stays open and mute.
	DropRequest Effect = iota
	// HoldRequest: the same, until [Fault.Release] lets it arrive after all, even
	// if the client has closed the connection by then.
	HoldRequest
	// CutBeforeRequest: the connection breaks, and the request is lost.
	CutBeforeRequest
	// CutRequest: the connection breaks when a half of the request has arrived.
	CutRequest
	// CutReply: the server takes the request, and the connection breaks before the
	// reply.
	CutReply
	// CutInReply: the connection breaks when a half of the reply has arrived.
	CutInReply
	// DropReply: the reply is lost, and the connection stays open and mute.
	DropReply
	// HoldReply: the same, until Release.
	HoldReply
	// Duplicate: all is well, but Release has the server take the request once more,
	// whole as it was written (the other commands of a pipeline or a transaction
	// too), from a connection of its own.
	Duplicate
)

func (e Effect) String() string {
	return [...]string{"DropRequest", "HoldRequest", "CutBeforeRequest", "CutRequest",
		"CutReply", "CutInReply", "DropReply", "HoldReply", "Duplicate"}[e]
}

// NewProxy makes a proxy that lets everything pass.
func NewProxy() *Proxy {
	p := &Proxy{conns: map[*proxyConn]struct{}{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Dialer dials by next and through the proxy. A nil next means a [net.Dialer].
func (p *Proxy) Dialer(next redsession.DialFunc) redsession.DialFunc {
	if next == nil {
		next = new(net.Dialer).DialContext
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		c := &proxyConn{Conn: conn, proxy: p, changed: make(chan struct{})}
		c.redial = func(ctx context.Context) (net.Conn, error) { return next(ctx, network, addr) }
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.ctx.Err() != nil {
			conn.Close()
			return nil, &net.OpError{Op: "dial", Net: network, Err: net.ErrClosed}
		}
		p.conns[c] = struct{}{}
		if raw, ok := conn.(syscall.Conn); ok { // by which the driver looks at an idle connection
			return &peekedConn{c, raw}, nil
		}
		return c, nil
	}
}

// Arm makes the next command that matches meet the effect, once. Of several faults
// that match the first one armed strikes. A command is its name, spelled as the client
// does, and its arguments; match must not call the Proxy or the Fault.
//
// redsession writes a session by scripts (EVALSHA, and EVAL where the server does not
// know the script yet) and reads it by HGETALL; a connection begins with HELLO.
func (p *Proxy) Arm(effect Effect, match func(command []string) bool) *Fault {
	f := &Fault{proxy: p, effect: effect, match: match, struck: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = append(p.armed, f)
	return f
}

// Cut breaks all connections, as a server that is restarted does: a client finds
// those that are idle closed, and makes new ones.
func (p *Proxy) Cut() {
	for _, c := range p.open() {
		c.leave(errReset)
	}
}

// Close ends all connections, drops what faults keep, and waits for the proxy's
// goroutines.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.cancel()
	p.mu.Unlock()
	for _, c := range p.open() {
		c.end(net.ErrClosed)
	}
	p.work.Wait()
}

func (p *Proxy) open() []*proxyConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.conns))
}

func (p *Proxy) forget(c *proxyConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// start runs f unless the proxy is closed.
func (p *Proxy) start(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() == nil {
		p.work.Go(f)
	}
}

// meets gives the fault that strikes a command, if one does.
func (p *Proxy) meets(command []string) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := slices.IndexFunc(p.armed, func(f *Fault) bool { return f.match(command) })
	if at < 0 {
		return nil
	}
	f := p.armed[at]
	p.armed = slices.Delete(p.armed, at, at+1)
	return f
}

// rearm: the server has not taken the command.
func (p *Proxy) rearm(f *Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = slices.Insert(p.armed, 0, f)
}

// Fault is one failure of the network, made by [Proxy.Arm].
type Fault struct {
	proxy  *Proxy
	effect Effect
	match  func([]string) bool
	struck chan struct{}

	// Of the command that it strikes; fixed once struck is closed.
	command []string
	conn    *proxyConn
	before  int       // replies that come before its own
	reply   []byte    // that is held, and what came with it
	packet  []request // to be sent again, after what its connection began with
	answers int       // replies to it, up to the command's own

	release  sync.Once
	released error
}

// Struck is closed when the fault has met its command and done its work: where the
// server takes the request, not before it has answered or its connection has ended.
func (f *Fault) Struck() <-chan struct{} { return f.struck }

// Command is the command that was struck, nil before.
func (f *Fault) Command() []string {
	select {
	case <-f.struck:
		return f.command
	default:
		return nil
	}
}

// Release lets what HoldRequest, HoldReply or Duplicate keeps go its way, once. Of a
// request it returns when the server has answered it, with an error if the answer is
// one. Before the fault has struck it is an error, and later Release can be called
// again.
func (f *Fault) Release() error {
	select {
	case <-f.struck:
	default:
		return fmt.Errorf("sessiontest: %v has not struck yet", f.effect)
	}
	f.release.Do(func() {
		switch f.effect {
		case HoldRequest:
			f.released = f.conn.answer(f)
		case HoldReply:
			f.conn.resume(f.reply)
		case Duplicate:
			f.released = f.repeat()
		default:
			f.released = fmt.Errorf("sessiontest: %v keeps nothing", f.effect)
		}
	})
	return f.released
}

// ReleaseAfter calls Release d after the fault has struck: a delay. It returns f.
func (f *Fault) ReleaseAfter(d time.Duration) *Fault {
	f.proxy.start(func() {
		select {
		case <-f.struck:
		case <-f.proxy.ctx.Done():
			return
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			f.Release()
		case <-f.proxy.ctx.Done():
		}
	})
	return f
}

// repeat sends the packet once more, from a connection that begins as the first did.
func (f *Fault) repeat() error {
	ctx := f.proxy.ctx
	conn, err := f.conn.redial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	for _, r := range f.packet {
		if _, err := conn.Write(r.raw); err != nil {
			return err
		}
	}
	var parts replies
	for buf := make([]byte, 16<<10); ; {
		n, err := conn.Read(buf)
		for b := buf[:n]; len(b) > 0; {
			n, whole, err := parts.next(b)
			if err != nil {
				return err
			}
			if b = b[n:]; !whole || parts.pushed() {
				continue
			}
			if f.answers--; f.answers == 0 {
				return refusal(parts.head)
			}
		}
		if err != nil {
			return err
		}
	}
}

// refusal is the error that a reply is, if it is one.
func refusal(head string) error {
	if head[0] != '-' && head[0] != '!' {
		return nil
	}
	return errors.New("sessiontest: the server answered " + head)
}
