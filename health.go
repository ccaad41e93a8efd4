package redsession

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// NodeState is what a client makes of a server just now.
type NodeState string

const (
	// Healthy: the last that was heard of it was an answer.
	Healthy NodeState = "healthy"
	// Suspect: it has left a request or a dial without an answer, and is probed;
	// calls still go there. On a ring also: it answers and does not count, since it
	// waits for its repair, say.
	Suspect NodeState = "suspect"
	// Down: it did so again. It is left alone, but for probes, until one of them is
	// answered; a call that needs it fails at once, and tries again as long as its
	// context lasts.
	Down NodeState = "down"
	// Gone: it was down, and nobody has asked for it for a minute, as for one that has
	// left its cluster. It is not probed any more.
	Gone NodeState = "gone"
)

// NodeHealth is what a client knows of one server.
type NodeHealth struct {
	Name  string // in the ring; elsewhere the same as Addr
	Addr  string // as it was dialled, "host:port"
	State NodeState
	Since time.Time // when it came into this state, by this machine's clock
	Err   error     // why it is not Healthy
}

const (
	// probePause is how long a probe follows the one before.
	probePause = 50 * time.Millisecond
	// forgetAfter is how long a server that is down must not have been asked for.
	forgetAfter = time.Minute
)

// endpoints is what a client's connections find out about the servers that they lead to.
// It is the circuit breaker: a server that does not answer costs one call or two its
// timeout, and not every call.
type endpoints struct {
	calls  *calls
	probe  func(addr string) error
	report *reporter

	mu   sync.Mutex
	list map[string]*endpoint
}

func newEndpoints(calls *calls, hook func(NodeHealth)) *endpoints {
	return &endpoints{calls: calls, report: &reporter{calls: calls, hook: hook}, list: map[string]*endpoint{}}
}

// endpoint is one of them; nil is one that is not watched here, like a ring's.
type endpoint struct {
	*endpoints
	addr  string
	ill   atomic.Bool // it is not Healthy
	asked atomic.Int64

	// With mu of endpoints held.
	state   NodeState
	since   time.Time
	cause   error
	conns   int
	unused  time.Time // since when there is none; zero: there never was
	probing bool
}

func (v *endpoints) at(addr string) *endpoint {
	if v == nil {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.list[addr]
	if s == nil {
		s = &endpoint{endpoints: v, addr: addr, state: Healthy, since: time.Now()}
		v.list[addr] = s
	}
	return s
}

// up is nil unless the server is to be left alone.
func (s *endpoint) up() error {
	if s == nil || !s.ill.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked.Store(time.Now().UnixNano())
	if s.state != Down {
		return nil
	}
	return &downError{s.addr, s.cause}
}

// downError: nothing was sent. It has no Unwrap, since the driver takes off one layer of
// what a handshake ends with.
type downError struct {
	addr  string
	cause error
}

func (e *downError) Error() string        { return e.addr + " is down: " + e.cause.Error() }
func (e *downError) Is(target error) bool { return errors.Is(e.cause, target) }
func (e *downError) As(target any) bool   { return errors.As(e.cause, target) }

func unsent(err error) bool {
	_, ok := errors.AsType[*downError](err)
	return ok
}

// heard notes that the server has answered.
func (s *endpoint) heard() {
	if s != nil && s.ill.Load() {
		s.mu.Lock()
		s.become(Healthy, nil)
		s.mu.Unlock()
	}
}

// failed notes that it did not. The first time raises suspicion.
func (s *endpoint) failed(cause error) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calls.ctx.Err() != nil {
		return
	}
	if s.state == Healthy {
		s.become(Suspect, cause)
	} else {
		s.become(Down, cause)
	}
	if !s.probing {
		s.asked.Store(time.Now().UnixNano())
		s.probing = s.calls.background(s.heal)
	}
}

// become is called with mu held.
func (s *endpoint) become(state NodeState, cause error) {
	s.cause = cause
	if s.state == state {
		return
	}
	if s.state == Down && state == Healthy {
		s.calls.news.tell()
	}
	s.state, s.since = state, time.Now()
	s.ill.Store(state != Healthy)
	s.report.tell(s.health())
	if s.conns == 0 {
		s.unused = s.since
	}
	if state == Gone {
		s.forget()
	}
}

// forget is called with mu held.
func (s *endpoint) forget() {
	if s.list[s.addr] == s {
		delete(s.list, s.addr)
	}
}

// heal asks the server until it answers.
func (s *endpoint) heal() {
	for {
		s.look()
		if s.healed() || !s.calls.sleep(s.calls.ctx, jitter(probePause)) {
			return
		}
	}
}

// look asks it once.
func (s *endpoint) look() bool {
	err := s.probe(s.addr)
	if err != nil {
		s.failed(err)
		return false
	}
	s.heard()
	return true
}

func (s *endpoint) healed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Down && time.Since(time.Unix(0, s.asked.Load())) > forgetAfter {
		s.become(Gone, s.cause)
	}
	s.probing = s.state == Suspect || s.state == Down
	return !s.probing
}

// linked counts the connections to the server.
func (s *endpoint) linked(n int) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > 0 {
		s.list[s.addr] = s
	}
	if s.conns += n; s.conns == 0 {
		s.unused = time.Now()
	}
}

// health is called with mu held.
func (s *endpoint) health() NodeHealth {
	h := NodeHealth{Name: s.addr, Addr: s.addr, State: s.state, Since: s.since}
	if s.cause != nil {
		h.Err = sanitize(s.cause)
	}
	return h
}

func (v *endpoints) health() []NodeHealth {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := make([]NodeHealth, 0, len(v.list))
	for s := range maps.Values(v.list) {
		switch {
		case s.state != Healthy, s.conns > 0:
			list = append(list, s.health())
		case s.unused.IsZero():
		case time.Since(s.unused) < forgetAfter:
			list = append(list, s.health())
		default:
			s.forget()
		}
	}
	slices.SortFunc(list, func(a, b NodeHealth) int { return cmp.Compare(a.Addr, b.Addr) })
	return list
}

// silent tells whether err, after this wait for an answer, says that the server does
// not give any: not that this end has closed the connection, or was short of time.
func silent(err error, wait time.Duration) bool {
	switch {
	case errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return false
	case errors.Is(err, os.ErrDeadlineExceeded):
		return wait > ioTimeout*9/10
	}
	return true
}

// reporter tells the user's hook what has changed, one after the other, and keeps
// nobody waiting.
type reporter struct {
	calls *calls
	hook  func(NodeHealth)

	mu    sync.Mutex
	queue []NodeHealth
	busy  bool
}

func (r *reporter) tell(h NodeHealth) {
	if r.hook == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue = append(r.queue, h)
	if !r.busy {
		r.busy = r.calls.background(r.run)
	}
}

func (r *reporter) run() {
	for {
		r.mu.Lock()
		if len(r.queue) == 0 {
			r.busy = false
			r.mu.Unlock()
			return
		}
		next := r.queue[0]
		r.queue = r.queue[1:]
		r.mu.Unlock()
		r.hook(next)
	}
}
