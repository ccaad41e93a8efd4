package redsession

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/internal/reads"
	"github.com/redsession/redsession/internal/script"
)

const (
	// probeInterval is how often a node is looked at that gives no cause for it.
	probeInterval = time.Second
	// recoverInterval is how often one is looked at that does not count.
	recoverInterval = 100 * time.Millisecond
	// awayAfter is how long a node must be out of reach to have missed much.
	awayAfter = 2 * ringAttempt
	// lostAfter is how long it must be so until nobody waits for it any more.
	lostAfter = 4 * ringAttempt
)

// ringNode is a node of a ring, and what this client knows of it.
type ringNode struct {
	Node
	ring  *ring
	rdb   *redis.Client
	reads *reads.Coalescer

	mu   sync.Mutex
	owed map[string]bool      // keys of sessions of which it has missed a write
	life atomic.Pointer[life] // nil until it was first heard
	// down is since when it does not answer, in ns since the client was made; 0
	// while it does.
	down   atomic.Int64
	cause  atomic.Pointer[error] // of the last failure
	barred atomic.Bool           // which waiting does not mend
	clock  atomic.Pointer[moment]
	missed atomic.Bool // it was away, and may have missed writes
	wake   chan struct{}
	shown  NodeHealth // with showing of the ring held
}

// life is what is known of a node between two changes of it. An answer counts
// only if the same life was known when its request left and when it is judged.
type life struct {
	run      string // changes with every restart
	token    string // of the mark: changes with every completion, and goes with a flush
	evicted  int64
	complete bool
	fresh    bool   // it never was complete
	lacks    string // why it is not complete
	conflict string // how its ring differs from ours
}

// moment is a time by a node's clock, in ms, and by the client's: the one that
// WithClock sets, and the machine's.
type moment struct {
	server       int64
	client, real time.Time
}

// since is how much time has passed in ms. It is not known if the clocks do not
// agree: one was set, or the machine has slept.
func (m *moment) since(client time.Time) (int64, bool) {
	if m == nil {
		return 0, false
	}
	now := time.Now()
	passed, slept := client.Sub(m.client), now.Round(0).Sub(m.real.Round(0))-now.Sub(m.real)
	odd := passed - now.Sub(m.real)
	const most = time.Second
	return passed.Milliseconds(), max(odd, -odd, slept, -slept) < most
}

func newRingNode(r *ring, n Node, c *config) *ringNode {
	node := &ringNode{Node: n, ring: r, wake: make(chan struct{}, 1)}
	one := c.at(n.Addr)
	one.onConnect = func(ctx context.Context, conn *redis.Conn) error { return node.greet(ctx, conn.Pipelined) }
	node.rdb = connect(one, newDialer(one, r.calls).open, nil).(*redis.Client)
	node.reads = reads.New(r.ctx, ringAttempt)
	node.reads.Witness(r.markKey, func() any { return &departure{node.life.Load(), attempt{began: time.Now()}} })
	return node
}

// departure is what was known of a node when a packet left for it, and when that
// was.
type departure struct {
	life    *life
	attempt attempt
}

type pipelined func(ctx context.Context, fn func(redis.Pipeliner) error) ([]redis.Cmder, error)

// greet learns who the node is, on a connection that nobody has used yet or as a
// probe. What two connections found at the same time cannot be ordered, and one
// may have spoken to a server that is dead by now: so that which comes second
// asks again.
func (n *ringNode) greet(ctx context.Context, pipeline pipelined) error {
	for {
		before := n.life.Load()
		now, at, err := n.look(ctx, pipeline)
		if err != nil {
			return err
		}
		if n.learn(before, now) {
			n.clock.Store(at)
			return nil
		}
	}
}

func (n *ringNode) look(ctx context.Context, pipeline pipelined) (*life, *moment, error) {
	var info, ring *redis.StringCmd
	var mark *redis.Cmd
	var clock *redis.TimeCmd
	began := n.ring.clock()
	if _, err := pipeline(ctx, func(p redis.Pipeliner) error {
		info = p.Info(ctx, "server", "memory", "stats")
		mark = p.Do(ctx, "hmget", n.ring.markKey, "run", "token", "evicted") // HMGet takes any number for a length
		ring = p.Get(ctx, n.ring.ringKey)
		clock = p.Time(ctx)
		return nil
	}); err != nil && !errors.Is(err, redis.Nil) {
		return nil, nil, err
	}
	facts := map[string]string{}
	for line := range strings.Lines(info.Val()) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			facts[k] = v
		}
	}
	l := &life{run: facts["run_id"]}
	values, _ := mark.Slice()
	if l.run == "" || len(values) != 3 {
		return nil, nil, errors.New("INFO server has no run_id")
	}
	run, _ := values[0].(string)
	l.token, _ = values[1].(string)
	evicted, _ := values[2].(string)
	l.evicted, _ = strconv.ParseInt(facts["evicted_keys"], 10, 64)
	l.fresh = run == "" && l.token == ""
	l.conflict = n.ring.differs(ring.Val())
	switch policy := facts["maxmemory_policy"]; {
	case facts["maxmemory"] != "0" && facts["maxmemory"] != "" && policy != "noeviction":
		l.lacks = "it may evict sessions (maxmemory-policy " + policy + ", not noeviction)"
	case l.fresh:
		l.lacks = "it is new or was emptied, and not repaired yet"
	case run != l.run:
		l.lacks = "it was restarted, and not repaired yet"
	case evicted != strconv.FormatInt(l.evicted, 10):
		l.lacks = "it has evicted keys, and was not repaired yet"
	default:
		l.complete = l.token != ""
	}
	at := n.ring.clock()
	if at.Sub(began) > ringAttempt { // too long ago to set a clock by
		return l, n.clock.Load(), nil
	}
	return l, &moment{clock.Val().UnixMilli(), at, time.Now()}, nil
}

// learn reports false if somebody else has learned something different since
// before, so that now may be old.
func (n *ringNode) learn(before, now *life) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	cur := n.life.Load()
	if cur != nil && *cur == *now {
		return true
	}
	if cur != before {
		return false
	}
	n.life.Store(now)
	n.ring.changed()
	return true
}

// keep looks after the node until the client is closed.
func (n *ringNode) keep() {
	defer n.ring.wg.Done()
	for {
		ctx, cancel := context.WithTimeout(n.ring.ctx, ringAttempt)
		err := n.greet(ctx, n.rdb.Pipelined)
		cancel()
		n.heard(err)
		wait := recoverInterval
		if l := n.life.Load(); err == nil && l.complete {
			wait = probeInterval
		}
		timer := time.NewTimer(jitter(wait))
		select {
		case <-timer.C:
		case <-n.wake:
			n.ring.sleep(n.ring.ctx, jitter(recoverInterval/5))
		case <-n.ring.ctx.Done():
		}
		timer.Stop()
		if n.ring.ctx.Err() != nil {
			return
		}
	}
}

// heard notes whether the node answered a probe, or left a request without answer.
func (n *ringNode) heard(err error) {
	n.barred.Store(err != nil && !retriable(err))
	if err != nil {
		err = sanitize(err)
		n.cause.Store(&err)
		if n.down.CompareAndSwap(0, n.ring.uptime()) {
			n.ring.changed()
		}
		return
	}
	if since := n.down.Swap(0); since != 0 {
		if n.ring.uptime()-since > int64(awayAfter) {
			n.missed.Store(true)
		}
		n.ring.changed()
	}
}

// failed is told how a request to the node ended: one that does not answer is
// left alone until a probe was answered.
func (n *ringNode) failed(err error) {
	if err == nil || refused(err) || n.ring.ctx.Err() != nil || errors.Is(err, redis.ErrPoolTimeout) ||
		errors.Is(err, context.Canceled) || errors.Is(err, script.ErrAbandoned) {
		return
	}
	n.heard(err)
	n.lookSoon()
}

// maxOwed is of how many sessions it is remembered that a node has missed a
// write; with more, all are looked at.
const maxOwed = 10_000

// owe notes that the node has missed a write.
func (n *ringNode) owe(key string) {
	n.mu.Lock()
	if len(n.owed) >= maxOwed {
		n.missed.Store(true)
	} else {
		if n.owed == nil {
			n.owed = map[string]bool{}
		}
		n.owed[key] = true
	}
	n.mu.Unlock()
	if n.asks() {
		n.ring.changed() // it can have it now
	}
}

// owes gives what owe has noted, once.
func (n *ringNode) owes() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	keys := slices.Collect(maps.Keys(n.owed))
	n.owed = nil
	return keys
}

// lookSoon has the node looked at soon.
func (n *ringNode) lookSoon() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// asks tells whether it makes sense to send the node anything.
func (n *ringNode) asks() bool {
	l := n.life.Load()
	return l != nil && l.conflict == "" && n.down.Load() == 0
}

// counts tells whether what the node says now will count.
func (n *ringNode) counts() bool { return n.asks() && n.life.Load().complete }

// lost tells whether it makes no sense to wait for the node.
func (n *ringNode) lost() bool {
	if l := n.life.Load(); l != nil && l.conflict != "" {
		return true
	}
	since := n.down.Load()
	return since != 0 && (n.barred.Load() || n.ring.uptime()-since > int64(lostAfter))
}

// state is why the node does not count.
func (n *ringNode) state() string {
	l := n.life.Load()
	switch {
	case n.down.Load() != 0 || l == nil:
		if cause := n.cause.Load(); cause != nil {
			return fmt.Sprintf("%s is unreachable (%v)", n.Name, *cause)
		}
		return n.Name + " is unreachable"
	case l.conflict != "":
		return n.Name + " belongs to another ring: " + l.conflict
	case n.ring.strays(n):
		return n.Name + " does not count: " + errClocks.Error()
	default:
		return n.Name + " does not count: " + l.lacks
	}
}

// health is that of the node now, without since when; of one that was never heard of
// it has no state.
func (n *ringNode) health() NodeHealth {
	h := NodeHealth{Name: n.Name, Addr: n.Addr}
	switch {
	case n.down.Load() != 0:
		h.State, h.Err = Down, errors.New(n.state())
	case n.counts():
		h.State = Healthy
	case n.life.Load() != nil:
		h.State, h.Err = Suspect, errors.New(n.state())
	}
	return h
}
