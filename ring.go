package redsession

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redsession/redsession/internal/script"
)

const (
	// ringAttempt is how long a client waits for the answers of an attempt. It is
	// one for the whole ring, and a part of its record: a repair waits longer
	// before it reads.
	ringAttempt = 500 * time.Millisecond
	// hedge is how long the nearest owners may take before the others are asked.
	hedge = 20 * time.Millisecond
	// clockMargin is how far the nodes' clocks may differ. It stands in the
	// scripts, too.
	clockMargin = 2000
)

// ring is the store on independent nodes with several copies of each session.
// The nodes do not know each other: clients do everything. DESIGN.md tells the
// rules, and what goes wrong without each.
type ring struct {
	*calls
	hash             *HashRing
	nodes            []*ringNode
	prefix, format   string
	peppers          *peppers
	markKey, ringKey string
	record           string        // of the ring, on every node
	lifetime         time.Duration // of this client's sessions
	clock            func() time.Time
	began            time.Time

	start   sync.Once
	news    news          // that something has changed
	tending chan struct{} // held by the one repair at a time in this client
	showing sync.Mutex    // of each node: what is shown of it
	report  *reporter
}

func newRing(c *config) store {
	hash := c.ring
	if hash.replicas == 1 {
		return newShards(c, hash)
	}
	r := &ring{
		calls: newCalls(), hash: hash, prefix: c.prefix, format: c.format(), peppers: &c.peppers,
		markKey: c.prefix + ":@mark", ringKey: c.prefix + ":@ring", record: ringRecord(hash), lifetime: c.lifetime, clock: c.clock, began: time.Now(),
		tending: make(chan struct{}, 1),
	}
	r.report = &reporter{calls: r.calls, hook: c.healthHook}
	for _, n := range c.nodes {
		r.nodes = append(r.nodes, newRingNode(r, n, c))
	}
	return r
}

// ringRecord is what all clients of a ring must agree upon.
func ringRecord(h *HashRing) string {
	nodes := h.Nodes()
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	fmt.Fprintf(&b, "placement 1\nreplicas %d\nattempt %d\n", h.replicas, ringAttempt.Milliseconds())
	for _, n := range nodes {
		fmt.Fprintf(&b, "node %q weight %d zone %q\n", n.Name, cmp.Or(n.Weight, 1), n.Zone)
	}
	return b.String()
}

// differs says how a node's record differs from ours; nothing if it has none.
func (r *ring) differs(record string) string { return ringDifference(record, r.record) }

func ringDifference(there, here string) string {
	if there == "" || there == here {
		return ""
	}
	var list []string
	a, b := strings.Split(strings.TrimSpace(there), "\n"), strings.Split(strings.TrimSpace(here), "\n")
	for _, line := range a {
		if !slices.Contains(b, line) {
			list = append(list, fmt.Sprintf("only there: %.100q", line))
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			list = append(list, fmt.Sprintf("only here: %.100q", line))
		}
	}
	const most = 6
	if len(list) > most {
		list = append(list[:most], "...")
	}
	return strings.Join(list, "; ")
}

// run starts what looks after the nodes, with the first call, which waits a moment
// for all of them: it could else do with a majority.
func (r *ring) run() error {
	r.start.Do(func() {
		defer r.greet()
		for _, n := range r.nodes {
			if r.begin() == nil {
				go n.keep()
			}
		}
		if r.begin() == nil {
			go r.tend()
		}
	})
	if r.ctx.Err() != nil {
		return errClosed
	}
	return nil
}

func (r *ring) greet() {
	timeout := time.NewTimer(5 * hedge)
	defer timeout.Stop()
	for {
		news := r.news.await()
		waiting := false
		for _, n := range r.nodes {
			waiting = waiting || n.life.Load() == nil && n.down.Load() == 0
		}
		if !waiting {
			return
		}
		select {
		case <-news:
		case <-timeout.C:
			return
		case <-r.ctx.Done():
			return
		}
	}
}

func (r *ring) close() error {
	first := r.calls.close()
	r.start.Do(func() {})
	if first {
		for _, n := range r.nodes {
			n.rdb.Close()
		}
	}
	r.wg.Wait()
	for _, n := range r.nodes {
		n.reads.Wait()
	}
	return nil
}

// changed wakes who waits for news of the nodes.
func (r *ring) changed() {
	r.news.tell()
	r.showing.Lock()
	defer r.showing.Unlock()
	for _, n := range r.nodes {
		if now := n.health(); now.State != n.shown.State {
			now.Since = time.Now()
			n.shown = now
			r.report.tell(now)
		} else {
			n.shown.Err = now.Err
		}
	}
}

func (r *ring) health() []NodeHealth {
	r.showing.Lock()
	defer r.showing.Unlock()
	var list []NodeHealth
	for _, n := range r.nodes {
		if n.shown.State != "" {
			list = append(list, n.shown)
		}
	}
	return list
}

func (r *ring) uptime() int64 { return max(1, int64(time.Since(r.began))) }

// now is the time in ms by the nodes' clocks, the median of them. This machine's
// clock serves only for the time since they were last heard.
func (r *ring) now(ctx context.Context) int64 {
	times := r.times(nil)
	if len(times) == 0 { // the clock was set
		var wg sync.WaitGroup
		for _, n := range r.nodes {
			if n.asks() {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(ctx, ringAttempt)
					defer cancel()
					_ = n.greet(ctx, n.rdb.Pipelined)
				})
			}
		}
		wg.Wait()
		times = r.times(nil)
	}
	if len(times) == 0 {
		return r.clock().UnixMilli()
	}
	return times[(len(times)-1)/2]
}

// times is what time it is by the nodes' clocks, as far as it is known, except
// one, in order.
func (r *ring) times(except *ringNode) []int64 {
	var times []int64
	client := r.clock()
	for _, n := range r.nodes {
		if m := n.clock.Load(); n != except {
			if passed, ok := m.since(client); ok {
				times = append(times, m.server+passed)
			}
		}
	}
	slices.Sort(times)
	return times
}

// strays tells whether the node's clock differs from that of most others.
func (r *ring) strays(n *ringNode) bool {
	m := n.clock.Load()
	passed, ok := m.since(r.clock())
	others := r.times(n)
	if !ok || len(others) < 2 {
		return false
	}
	off := m.server + passed - others[len(others)/2]
	next := m.server + passed - others[(len(others)-1)/2]
	return min(off, next) > clockMargin || max(off, next) < -clockMargin
}

// stamp is greater than base and than the nodes' clocks: 42 bits of
// milliseconds, and 11 at random against two writers who are at it at once.
func (r *ring) stamp(ctx context.Context, base int64) int64 {
	return max(r.now(ctx), base>>11+1)<<11 | rand.Int64N(1<<11)
}

// spot is where a session is.
type spot struct {
	keys     script.Keys
	owners   []*ringNode
	rotating bool // what a node lacks is brought by the rotation, as it was before
}

func (r *ring) spot(id sessionID) spot {
	s := spot{keys: script.Keys{Session: id.key(r.prefix), Mark: r.markKey}}
	var buf [8]int
	for _, i := range r.hash.AppendOwners(buf[:0], id.tag()) {
		s.owners = append(s.owners, r.nodes[i])
	}
	return s
}

func (s *spot) majority() int { return len(s.owners)/2 + 1 }

// quorumError: a majority of a session's owners cannot be asked.
type quorumError struct {
	why  string
	long bool // and for so long already that waiting is of no use
}

func (e *quorumError) Error() string { return e.why }

// quorum tells whether a majority of the owners counts just now.
func (r *ring) quorum(s *spot) error {
	counting, lost := 0, 0
	for _, n := range s.owners {
		if n.counts() {
			counting++
		} else if n.lost() {
			lost++
		}
	}
	if counting >= s.majority() {
		return nil
	}
	var why []string
	waiting := 0
	for _, n := range s.owners {
		if !n.counts() {
			why = append(why, n.state())
			if n.asks() {
				waiting++
			}
		}
	}
	text := fmt.Sprintf("%d of %d owners can be asked, and %d are needed: %s", counting, len(s.owners), s.majority(), strings.Join(why, "; "))
	if waiting > len(s.owners)-s.majority() {
		text += "; if this does not pass by itself, more was lost than the ring can bear, and Repair with AcceptLoss goes on with what is left"
	}
	return &quorumError{text, len(s.owners)-lost < s.majority()}
}

// gather waits until a majority of the owners counts. A node that was not heard
// yet is waited for, and one that may soon be back.
func (r *ring) gather(ctx context.Context, s *spot) error {
	if err := r.run(); err != nil {
		return err
	}
	for {
		news := r.news.await()
		err := r.quorum(s)
		if lost := (*quorumError)(nil); err == nil || errors.As(err, &lost) && lost.long {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return err
		case <-r.ctx.Done():
			return errClosed
		case <-time.After(lostAfter / 4): // whether one is lost by now
		}
	}
}

// ping asks every node.
func (r *ring) ping(ctx context.Context) error {
	if err := r.run(); err != nil {
		return failure(ctx, false, err)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(r.nodes))
	for i, n := range r.nodes {
		wg.Go(func() {
			_, errs[i] = await(ctx, r.calls, nil, func(ctx context.Context) (struct{}, error) {
				return struct{}{}, n.rdb.Ping(ctx).Err()
			})
			if errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", n.Name, sanitize(errs[i]))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return failure(ctx, false, err)
	}
	return nil
}
