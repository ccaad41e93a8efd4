package redsession

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/internal/reads"
	"github.com/redsession/redsession/internal/script"
)

func (r *ring) comparesAndSets() bool { return false }

// create joins the whole session to all owners. Unlike on one Redis an attempt
// may be repeated as it is: should it arrive after a deletion, it meets the
// tombstone.
func (r *ring) create(ctx context.Context, tag string, n newSession) (sessionID, receipt, error) {
	var was doubt
	for try := 0; ; try++ {
		id := newID(tag)
		s := r.spot(id)
		if err := r.gather(ctx, &s); err != nil {
			return "", receipt{}, failure(ctx, was, err)
		}
		now := r.now(ctx)
		stamp := r.stamp(ctx, 0)
		m := &replica{
			format: r.format, created: now, deadline: now + n.lifetime, idle: n.idle, touched: now,
			ids: map[string]idCell{id.verifier(): {stamp: stamp}}, fields: map[string]script.Cell{},
		}
		for i := 0; i < len(n.fields); i += 2 {
			m.fields[n.fields[i]] = script.Cell{Name: n.fields[i], Value: n.fields[i+1], Stamp: stamp}
		}
		t := r.join(ctx, &s, m, id.verifier())
		if t.acks >= s.majority() {
			return id, receipt{now: now, version: stamp, touched: now}, nil
		}
		// The next one takes another ID: nobody has this one.
		was = was || t.unsure
		if !t.retriable(&s) || !r.pause(ctx, try) {
			return "", receipt{}, failure(ctx, was, r.because(&s, &t))
		}
	}
}

// join joins m to all owners, and waits until a majority has it.
func (r *ring) join(ctx context.Context, s *spot, m *replica, created string) tally {
	var do func(context.Context, redis.UniversalClient, *script.Sent) (script.CopyReply, error)
	if m.buried {
		do = func(ctx context.Context, c redis.UniversalClient, sent *script.Sent) (script.CopyReply, error) {
			return script.Bury(ctx, c, sent, s.keys, m.format, m.deadline, m.idle)
		}
	} else {
		cp := m.copy()
		do = func(ctx context.Context, c redis.UniversalClient, sent *script.Sent) (script.CopyReply, error) {
			reply, err := script.Join(ctx, c, sent, s.keys, created, cp)
			if reply.Verdict == script.CopyGone && err == nil && created == "" {
				reply.Verdict, reply.Newer = script.CopyOK, true // a tombstone has all that m has
			}
			return reply, err
		}
	}
	return r.ask(ctx, s, func(t *tally) bool { return t.acks >= s.majority() }, do)
}

// retriable tells whether another attempt may do better.
func (t *tally) retriable(s *spot) bool {
	unreadable := t.met[script.CopyCorrupt] + t.met[script.CopyNewer]
	return unreadable <= len(s.owners)-s.majority() && (t.last == nil || retriable(t.last))
}

// because is why too few owners have done a write.
func (r *ring) because(s *spot, t *tally) error {
	switch err := r.quorum(s); {
	case t.met[script.CopyCorrupt] > 0:
		return &DecodeError{reason: "a copy's own records are missing or unreadable"}
	case t.met[script.CopyNewer] > 0:
		return &DecodeError{reason: "its format is not known to this release"}
	case t.met[script.CopyAhead] > 0:
		return errClocks
	case err != nil:
		return err
	case t.last != nil:
		return t.last
	}
	return errSilent
}

var errClocks = errors.New("the nodes' clocks differ by more than 2 s")

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
				q.parsed, q.err = true, err
				q.node.failed(err)
			}
			v.worst = err
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
	_, known := m.ids[id.verifier()]
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
		case l.m == nil || !l.m.valid(l.id.verifier()):
			result[i].err = ErrNotFound
		default:
			result[i] = loaded{hash: l.m.hash(), now: l.now}
		}
	}
	return result
}

// guarded makes a write that needs a live session and a valid ID. before is, for
// a rotation, the session as it was before: a load would find its own half-done
// work, and spread that to nodes that have not voted.
func (r *ring) guarded(ctx context.Context, id sessionID, s *spot, g *script.Guarded, was doubt, before *replica) (int64, doubt, error) {
	behind := 0
	for try := 0; ; try++ {
		if err := r.gather(ctx, s); err != nil {
			return 0, was, failure(ctx, was, err)
		}
		if g.Stamp == 0 && g.What != script.TouchOnly {
			g.Stamp = r.stamp(ctx, g.Base)
		}
		fixed := *g // a late answer may still be about it
		t := r.ask(ctx, s, func(t *tally) bool {
			return t.acks >= s.majority() && t.met[script.CopyGone] == 0 && t.met[script.CopyHigher] == 0 &&
				(t.met[script.CopyRetired] == 0 || g.What == script.Retire)
		}, func(ctx context.Context, c redis.UniversalClient, sent *script.Sent) (script.CopyReply, error) {
			return script.Guard(ctx, c, sent, s.keys, &fixed)
		})
		was = was || t.unsure
		dead := t.met[script.CopyGone] > 0 || t.met[script.CopyRetired] > 0
		switch {
		case t.acks >= s.majority() && t.met[script.CopyHigher] == 0 &&
			(!dead || g.What == script.Retire && t.met[script.CopyGone] == 0):
			return t.now, was, nil
		case t.met[script.CopyAhead] > 0:
			g.Stamp = 0
			for _, n := range s.owners {
				n.lookSoon()
			}
		case before != nil && t.met[script.CopyGone] == 0 && t.met[script.CopyRetired] <= len(s.owners)-s.majority() &&
			t.now < before.expires() && behind < 3:
			// It may still win. What one has that knows nothing, all may know.
			if t.met[script.CopyMissing] > 0 {
				behind++
				r.join(ctx, s, before, "")
			}
		case dead || t.met[script.CopyMissing] > 0:
			l := r.find(ctx, id, s, false)
			if l.err != nil {
				if bool(was) && errors.Is(l.err, ErrUnavailable) {
					return 0, was, failure(ctx, was, errSilent)
				}
				return 0, was, l.err
			}
			if l.m == nil || !l.m.valid(id.verifier()) {
				return 0, was, ErrNotFound
			}
			g.Base = max(g.Base, l.m.newest())
			r.join(ctx, s, l.m, "") // for the copies that are behind
		case t.met[script.CopyHigher] > 0:
			g.Base = max(g.Base, t.stamp)
			g.Stamp = 0
			continue
		}
		if !t.retriable(s) || !r.pause(ctx, try) {
			return 0, was, failure(ctx, was, r.because(s, &t))
		}
	}
}

func (r *ring) save(ctx context.Context, id sessionID, w *write) (receipt, error) {
	s := r.spot(id)
	g := &script.Guarded{Verifier: id.verifier(), What: script.SaveFields, Base: w.change.Base, Fields: cells(w.change)}
	touched := w.touched
	if w.due {
		l := r.find(ctx, id, &s, false)
		switch {
		case l.err != nil && w.again:
			return receipt{}, failure(ctx, true, errSilent)
		case l.err != nil:
			return receipt{}, l.err
		case l.m == nil || !l.m.valid(id.verifier()):
			return receipt{}, ErrNotFound
		}
		touched = max(l.m.touched, l.now)
		g.Asked, g.Base = l.now, max(g.Base, l.m.newest())
	}
	now, _, err := r.guarded(ctx, id, &s, g, doubt(w.again), nil)
	if err != nil {
		return receipt{}, err
	}
	return receipt{now: now, version: max(g.Stamp, g.Base), touched: touched}, nil
}

func cells(c script.Change) []script.Cell {
	list := make([]script.Cell, 0, len(c.Set)/2+len(c.Remove))
	for i := 0; i < len(c.Set); i += 2 {
		list = append(list, script.Cell{Name: c.Set[i], Value: c.Set[i+1]})
	}
	for _, name := range c.Remove {
		list = append(list, script.Cell{Name: name, Removed: true})
	}
	return list
}

// touch is a load, and only what that settled is prolonged, from when it asked:
// who kept touching some copies without reading would let the others expire.
func (r *ring) touch(ctx context.Context, id sessionID) (receipt, error) {
	s := r.spot(id)
	l := r.find(ctx, id, &s, false)
	if l.err != nil {
		return receipt{}, l.err
	}
	if l.m == nil || !l.m.valid(id.verifier()) {
		return receipt{}, ErrNotFound
	}
	return r.prolong(ctx, &s, id, l.now)
}

func (r *ring) prolong(ctx context.Context, s *spot, id sessionID, asked int64) (receipt, error) {
	g := &script.Guarded{Verifier: id.verifier(), What: script.TouchOnly, Asked: asked}
	now, _, err := r.guarded(ctx, id, s, g, false, nil)
	return receipt{now: now, touched: asked}, err
}

func (r *ring) refresh(ctx context.Context, list []refreshed) []touched {
	result := make([]touched, len(list))
	var wg sync.WaitGroup
	for i, one := range list {
		wg.Go(func() {
			s := r.spot(one.id)
			result[i].receipt, result[i].err = r.prolong(ctx, &s, one.id, one.loaded)
		})
	}
	wg.Wait()
	return result
}

// rotate lets the old ID go, for which each node has one vote, and who has a
// majority of the votes adds the new one. In a single step a node that missed a
// rotation would let the dead ID give birth to another one.
func (r *ring) rotate(ctx context.Context, id, next sessionID, w *write) (receipt, error) {
	s := r.spot(id)
	was := doubt(w.again)
	l := &lookup{id: id, spot: s, always: true, loose: bool(was)}
	r.load(ctx, []*lookup{l})
	switch {
	case l.err != nil && bool(was):
		return receipt{}, failure(ctx, true, errSilent)
	case l.err != nil:
		return receipt{}, l.err
	case l.m == nil || l.now >= l.m.expires():
		return receipt{}, ErrNotFound
	case l.m.valid(next.verifier()): // an earlier call has done it, perhaps not everywhere
		return r.finishRotation(ctx, &s, l.m, l.now)
	case !l.m.valid(id.verifier()) && !(bool(was) && l.m.knows(id)):
		return receipt{}, ErrNotFound
	}
	m := l.m
	before := *m
	before.ids = map[string]idCell{id.verifier(): {stamp: max(m.created<<11, m.low)}} // it was valid once
	g := &script.Guarded{
		Verifier: id.verifier(), What: script.Retire, Next: next.verifier(), Base: max(w.change.Base, m.newest()), Asked: l.now,
	}
	_, _, err := r.guarded(ctx, id, &s, g, was, &before)
	if err != nil {
		return receipt{}, err
	}
	stamp := r.stamp(ctx, max(g.Stamp, g.Base))
	grown := *m
	grown.touched, grown.low = max(m.touched, l.now), stamp // every other ID is dead
	grown.ids = map[string]idCell{next.verifier(): {stamp: stamp}}
	grown.fields = make(map[string]script.Cell, len(m.fields))
	for name, cell := range m.fields {
		grown.fields[name] = cell
	}
	for _, cell := range cells(w.change) {
		cell.Stamp = stamp
		grown.fields[cell.Name] = cell
	}
	return r.finishRotation(ctx, &s, &grown, l.now)
}

// finishRotation brings the session with its new ID to a majority.
func (r *ring) finishRotation(ctx context.Context, s *spot, m *replica, asked int64) (receipt, error) {
	for try := 0; ; try++ {
		t := r.join(ctx, s, m, "")
		if t.acks >= s.majority() {
			return receipt{now: max(t.now, asked), version: m.newest(), touched: m.touched}, nil
		}
		if !t.retriable(s) || !r.pause(ctx, try) {
			return receipt{}, failure(ctx, true, r.because(s, &t))
		}
	}
}

// unreadable is a tombstone for a session that cannot be read, if the ID is one of
// its own; else none. When the session ends cannot be read either.
func (r *ring) unreadable(ctx context.Context, l *lookup) *replica {
	for _, q := range l.asked {
		hash, _, _, done := q.read.Result()
		if cell, known := hash[l.id.verifier()]; done && known && !strings.Contains(cell, "r") {
			return &replica{buried: true, format: r.format, deadline: r.now(ctx) + r.lifetime.Milliseconds(), idle: r.lifetime.Milliseconds()}
		}
	}
	return nil
}

// delete leaves a tombstone where there is a session.
func (r *ring) delete(ctx context.Context, id sessionID) error {
	s := r.spot(id)
	var was doubt
	for try := 0; ; try++ {
		l := r.find(ctx, id, &s, true)
		var tombstone *replica
		switch {
		case errors.As(l.err, new(*DecodeError)):
			tombstone = r.unreadable(ctx, l)
		case l.err != nil && bool(was):
			return failure(ctx, true, errSilent)
		case l.err != nil:
			return l.err
		case l.m != nil && l.m.valid(id.verifier()):
			tombstone = &replica{buried: true, format: l.m.format, deadline: l.m.deadline, idle: l.m.idle}
		}
		if tombstone == nil {
			return nil
		}
		t := r.join(ctx, &s, tombstone, "")
		if t.acks >= s.majority() {
			return nil
		}
		if was = was || t.unsure; !t.retriable(&s) || !r.pause(ctx, try) {
			return failure(ctx, was, r.because(&s, &t))
		}
	}
}
