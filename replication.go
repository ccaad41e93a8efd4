package redsession

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/internal/resp"
	"github.com/redsession/redsession/internal/script"
)

func (r *ring) comparesAndSets() bool { return false }

// create joins the whole session to all owners. Unlike on one Redis an attempt
// may be repeated as it is: should it arrive after a deletion, it meets the
// tombstone.
func (r *ring) create(ctx context.Context, tag string, n newSession) (sessionID, receipt, error) {
	var was doubt
	for try := 0; ; try++ {
		id := newID(tag, r.peppers)
		s := r.spot(id)
		if err := r.gather(ctx, &s); err != nil {
			return sessionID{}, receipt{}, failure(ctx, was, err)
		}
		now := r.now(ctx)
		stamp := r.stamp(ctx, 0)
		m := &replica{
			format: r.format, created: now, deadline: now + n.lifetime, idle: n.idle, touched: now,
			ids: map[string]idCell{id.verifier(): {stamp: stamp}}, fields: map[string]script.Cell{},
		}
		for _, cell := range cells(script.Change{Set: n.stored(s.keys.Session)}) {
			cell.Stamp = stamp
			m.fields[cell.Name] = cell
		}
		t := r.join(ctx, &s, m, id.verifier())
		if t.acks >= s.majority() {
			return id, receipt{now: now, version: stamp, touched: now}, nil
		}
		// The next one takes another ID: nobody has this one.
		was = was || t.unsure
		if !t.retriable(&s) || !r.pause(ctx, try) {
			return sessionID{}, receipt{}, failure(ctx, was, r.because(&s, &t))
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

// guarded makes a write that needs a live session and a valid ID.
func (r *ring) guarded(ctx context.Context, id sessionID, s *spot, g *script.Guarded, was doubt) (int64, error) {
	for try := 0; ; try++ {
		if err := r.gather(ctx, s); err != nil {
			return 0, failure(ctx, was, err)
		}
		if g.Stamp == 0 && g.What != script.TouchOnly {
			g.Stamp = r.stamp(ctx, g.Base)
		}
		t := r.guard(ctx, s, g, func(t *tally) bool {
			return t.acks >= s.majority() && t.met[script.CopyGone] == 0 && t.met[script.CopyHigher] == 0 && t.met[script.CopyRetired] == 0
		})
		was = was || t.unsure
		dead := t.met[script.CopyGone] > 0 || t.met[script.CopyRetired] > 0
		switch {
		case t.acks >= s.majority() && t.met[script.CopyHigher] == 0 && !dead:
			return t.now, nil
		case t.met[script.CopyAhead] > 0:
			g.Stamp = 0
			s.lookSoon()
		case dead || t.met[script.CopyMissing] > 0:
			l := r.find(ctx, id, s, false)
			if l.err != nil {
				if bool(was) && errors.Is(l.err, ErrUnavailable) {
					return 0, failure(ctx, was, errSilent)
				}
				return 0, l.err
			}
			if l.m == nil || !l.m.valid(id.verifier()) {
				return 0, ErrNotFound
			}
			g.Base = max(g.Base, l.m.newest())
			r.join(ctx, s, l.m, "") // for the copies that are behind
		case t.met[script.CopyHigher] > 0:
			g.Base = max(g.Base, t.stamp)
			g.Stamp = 0
			continue
		}
		if !t.retriable(s) || !r.pause(ctx, try) {
			return 0, failure(ctx, was, r.because(s, &t))
		}
	}
}

// guard makes one attempt at a guarded write.
func (r *ring) guard(ctx context.Context, s *spot, g *script.Guarded, enough func(*tally) bool) tally {
	fixed := *g // a late answer may still be about it
	return r.ask(ctx, s, enough, func(ctx context.Context, c redis.UniversalClient, sent *script.Sent) (script.CopyReply, error) {
		return script.Guard(ctx, c, sent, s.keys, &fixed)
	})
}

// lookSoon has all owners looked at soon.
func (s *spot) lookSoon() {
	for _, n := range s.owners {
		n.lookSoon()
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
	now, err := r.guarded(ctx, id, &s, g, doubt(w.again))
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
	now, err := r.guarded(ctx, id, s, g, false)
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

// unreadable is a tombstone for a session that cannot be read, if the ID opens it as far
// as its IDs can be read; else none. When the session ends cannot be read either. It is not
// settled before a majority has answered: what a few have may be from before a rotation.
func (r *ring) unreadable(ctx context.Context, l *lookup) (tombstone *replica, settled bool) {
	var ids *replica
	witnesses := 0
	for _, q := range l.asked {
		hash, _, err, done := q.read.Result()
		token, left := q.read.Witness()
		if done && errors.Is(err, resp.ErrTooLarge) {
			hash, token, left, err = r.cellsOf(ctx, q.node, l)
		}
		if !done || err != nil && !wrongType(err) {
			continue
		}
		ids = join(ids, idsOf(hash))
		if d, ok := left.(*departure); ok && q.node.witness(d.life, token, &d.attempt) {
			witnesses++
		}
	}
	if witnesses < l.spot.majority() {
		return nil, false
	}
	if ids == nil || !ids.valid(l.id.verifier()) {
		return nil, true
	}
	return &replica{buried: true, format: r.format, deadline: r.now(ctx) + r.lifetime.Milliseconds(), idle: r.lifetime.Milliseconds()}, true
}

// cellsOf reads of a copy that is too large to be read what tells whether the ID opens it.
func (r *ring) cellsOf(ctx context.Context, n *ringNode, l *lookup) (hash map[string]string, token string, left any, err error) {
	names := []string{"@l", l.id.verifier()}
	departed := &departure{n.life.Load(), attempt{began: time.Now()}}
	var cells *redis.Cmd
	var mark *redis.StringCmd
	if _, err = await(ctx, r.calls, nil, func(ctx context.Context) ([]redis.Cmder, error) {
		return n.rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			cells = p.Do(ctx, "hmget", l.spot.keys.Session, names[0], names[1])
			mark = p.HGet(ctx, r.markKey, "token")
			return nil
		})
	}); err != nil {
		return nil, "", nil, err
	}
	hash = map[string]string{}
	values, err := cells.Slice()
	for i, value := range values {
		if text, ok := value.(string); ok && i < len(names) {
			hash[names[i]] = text
		}
	}
	return hash, mark.Val(), departed, err
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
			var settled bool
			if tombstone, settled = r.unreadable(ctx, l); !settled {
				if r.pause(ctx, try) {
					continue
				}
				return failure(ctx, was, l.err)
			}
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
