package redsession

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redsession/redsession/internal/reads"
)

// lookup is a load under way.
type lookup struct {
	id     sessionID
	spot   spot
	always bool // also of a session that has expired or whose ID is dead
	loose  bool // what is found need not be on a majority
	asked  []*question

	done bool
	m    *replica // settled: a majority has it; nil if there is none
	now  int64    // when it was asked, by the nodes' clocks
	err  error
}

// question is a read of one owner's copy.
type question struct {
	node   *ringNode
	read   *reads.Read
	parsed bool
	m      *replica
	err    error
}

// view is what the answers so far come to.
type view struct {
	m         *replica
	now       int64
	witnesses int
	agree     int // witnesses that hold m
	waiting   int
	worst     error
	behind    []*ringNode // that hold something else
}

// see joins the answers that have come.
func (l *lookup) see() view {
	v := view{now: math.MaxInt64}
	var first map[string]string
	var same *replica
	type held struct {
		node    *ringNode
		m       *replica
		witness bool
	}
	var all [8]held
	list := all[:0]
	for _, q := range l.asked {
		hash, now, err, done := q.read.Result()
		if !done {
			v.waiting++
			continue
		}
		if err != nil {
			if !q.parsed {
				q.parsed, q.err = true, tooLarge(err)
				if !errors.As(q.err, new(*DecodeError)) {
					q.node.failed(err)
				}
			}
			v.worst = q.err
			continue
		}
		if !q.parsed {
			q.parsed = true
			if first != nil && sameHash(first, hash) {
				q.m = same
			} else if q.m, q.err = parseReplica(hash); q.err != nil {
				v.worst = q.err
			}
		}
		if q.err != nil {
			v.worst = q.err
			continue
		}
		if first == nil {
			first, same = hash, q.m
		}
		token, left := q.read.Witness()
		witness := false
		if d, ok := left.(*departure); ok {
			witness = q.node.witness(d.life, token, &d.attempt)
		}
		if witness {
			v.witnesses++
			v.now = min(v.now, now)
		}
		v.m = join(v.m, q.m)
		list = append(list, held{q.node, q.m, witness})
	}
	for _, h := range list {
		switch {
		case v.m == nil:
		case h.m == nil || !v.m.equal(h.m):
			v.behind = append(v.behind, h.node)
		case h.witness:
			v.agree++
		}
	}
	return v
}

// load settles lookups: what it finds a majority of the owners has, so that no
// later load finds less.
func (r *ring) load(ctx context.Context, list []*lookup) {
	todo := list
	for try := 0; ; try++ {
		ready := r.ready(ctx, todo)
		again := r.round(ctx, ready)
		var open []*lookup
		for _, l := range todo {
			if !l.done && l.err != nil && !retriable(l.err) {
				l.fail(ctx)
			}
			if !l.done {
				open = append(open, l)
			}
		}
		if todo = open; len(todo) == 0 {
			return
		}
		if ctx.Err() != nil || !again && !r.pause(ctx, try) {
			break
		}
	}
	for _, l := range todo {
		l.fail(ctx)
	}
}

// ready gives the lookups for which a majority of the owners counts. If there
// is none it waits for one.
func (r *ring) ready(ctx context.Context, list []*lookup) []*lookup {
	if err := r.run(); err != nil {
		for _, l := range list {
			l.err = err
		}
		return nil
	}
	var ready []*lookup
	for _, l := range list {
		if err := r.quorum(&l.spot); err == nil {
			ready = append(ready, l)
		} else if l.err = err; err.(*quorumError).long {
			l.fail(ctx)
		}
	}
	if len(ready) > 0 {
		return ready
	}
	for _, l := range list {
		if l.done {
			continue
		}
		if l.err = r.gather(ctx, &l.spot); l.err == nil {
			return []*lookup{l}
		}
		return nil
	}
	return nil
}

func (l *lookup) fail(ctx context.Context) {
	if l.err == nil {
		l.err = ctx.Err()
	}
	l.done, l.err = true, failure(ctx, false, l.err)
}

// round makes one attempt at lookups. It reports whether one has met something
// newer, and so is to begin again at once.
func (r *ring) round(ctx context.Context, list []*lookup) (again bool) {
	if len(list) == 0 {
		return false
	}
	a := newAttempt()
	defer a.timer.Stop()
	for _, l := range list {
		l.asked = l.asked[:0]
	}
	near := r.question(list, func(l *lookup) int { return l.spot.majority() })
	defer near.Abandon()
	soon := time.NewTimer(hedge)
	defer soon.Stop()
	select {
	case <-near.Done():
	case <-soon.C:
	case <-ctx.Done():
	}
	open := decide(list)
	if len(open) == 0 {
		return false
	}
	rest := r.question(open, func(l *lookup) int { return len(l.spot.owners) })
	defer rest.Abandon()
	nearDone, restDone := near.Done(), rest.Done()
	soon.Reset(hedge)
	for late, over := false, false; ; {
		select {
		case <-nearDone:
			nearDone = nil
		case <-restDone:
			restDone = nil
		case <-soon.C:
			late = true
		case <-a.timer.C:
			over = true
		case <-ctx.Done():
			over = true
		}
		open = decide(open)
		// One that has a majority of the answers waits a moment for the rest, which
		// may make a majority agree.
		wait := nearDone != nil || restDone != nil
		if late {
			wait = false
			for _, l := range open {
				v := l.see()
				wait = wait || v.waiting > 0 && v.witnesses < l.spot.majority()
			}
		}
		if len(open) == 0 || over || !wait {
			break
		}
	}
	var wg sync.WaitGroup
	var newer atomic.Bool
	for _, l := range open {
		if v := l.see(); v.witnesses >= l.spot.majority() {
			wg.Go(func() {
				if r.writeBack(ctx, l, &v) {
					newer.Store(true)
				}
			})
		} else if l.err = v.worst; l.err == nil {
			l.err = r.because(&l.spot, &tally{})
		}
	}
	wg.Wait()
	return newer.Load()
}

// question asks so many of each session's owners, those that were not asked yet
// and nearest first.
func (r *ring) question(list []*lookup, want func(*lookup) int) *reads.Group {
	byNode := map[*ringNode][]*reads.Read{}
	total := 0
	for _, l := range list {
		n := want(l)
		// Those that count first.
		for _, counting := range []bool{true, false} {
			for _, node := range l.spot.owners {
				if len(l.asked) >= n || node.counts() != counting || !node.asks() || l.wasAsked(node) {
					continue
				}
				q := &question{node: node, read: &reads.Read{Key: l.spot.keys.Session}}
				l.asked = append(l.asked, q)
				byNode[node] = append(byNode[node], q.read)
				total++
			}
		}
	}
	group := reads.NewGroup(total)
	for node, some := range byNode {
		if err := r.begin(); err != nil {
			for _, read := range some {
				group.Finish(read, nil, 0, err)
			}
			continue
		}
		node.reads.Submit(node.rdb, group, some...)
		r.wg.Done()
	}
	return group
}

func (l *lookup) wasAsked(n *ringNode) bool {
	for _, q := range l.asked {
		if q.node == n {
			return true
		}
	}
	return false
}

// decide finishes the lookups that can be, and returns the others.
func decide(list []*lookup) []*lookup {
	var open []*lookup
	for _, l := range list {
		v := l.see()
		if v.witnesses >= l.spot.majority() {
			switch {
			case v.m == nil:
				l.finish(nil, v.now)
			case v.agree >= l.spot.majority() || l.loose:
				for _, n := range v.behind {
					n.owe(l.spot.keys.Session)
				}
				l.finish(v.m, v.now)
			case v.m.buried || l.always:
			case v.now >= v.m.expires():
				l.finish(nil, v.now)
			case v.m.low == 0 && !v.m.knows(l.id): // nobody ever had this ID: not worth a write
				l.finish(nil, v.now)
			}
		}
		if !l.done {
			open = append(open, l)
		}
	}
	return open
}

func (m *replica) knows(id sessionID) bool {
	_, known := id.match(func(v string) bool { _, ok := m.ids[v]; return ok })
	return known
}

func (l *lookup) finish(m *replica, now int64) {
	if m != nil && (m.buried || !l.always && now >= m.expires()) {
		m = nil
	}
	l.done, l.m, l.now, l.err = true, m, now, nil
}

// writeBack brings what was found to a majority. It reports whether something
// newer was met: that too must be on a majority, and what was found is history.
func (r *ring) writeBack(ctx context.Context, l *lookup, v *view) (newer bool) {
	t := r.join(ctx, &l.spot, v.m, "")
	switch {
	case t.acks < l.spot.majority():
		l.err = r.because(&l.spot, &t)
	case t.newer:
		return true
	default:
		l.finish(v.m, v.now)
	}
	return false
}

// find loads one session.
func (r *ring) find(ctx context.Context, id sessionID, s *spot, always bool) *lookup {
	l := &lookup{id: id, spot: *s, always: always}
	r.load(ctx, []*lookup{l})
	return l
}

func (r *ring) read(ctx context.Context, ids []sessionID) []loaded {
	list := make([]*lookup, len(ids))
	for i, id := range ids {
		list[i] = &lookup{id: id, spot: r.spot(id)}
	}
	r.load(ctx, list)
	result := make([]loaded, len(ids))
	for i, l := range list {
		switch {
		case l.err != nil:
			result[i].err = l.err
		case l.m == nil:
			result[i].err = ErrNotFound
		default:
			if id, ok := l.id.match(l.m.valid); ok {
				result[i] = loaded{id: id, hash: l.m.hash(), now: l.now}
			} else {
				result[i].err = ErrNotFound
			}
		}
	}
	return result
}
