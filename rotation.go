package redsession

import (
	"context"
	"maps"
	"time"

	"github.com/redsession/redsession/internal/script"
)

// rotation is a session on its way to a new ID. The old one is let go first, for
// which each node has one vote, and who has a majority of the votes adds the new
// one. In a single step a node that missed a rotation would let the dead ID give
// birth to another one.
type rotation struct {
	*ring
	spot     spot
	id, next sessionID
	w        *write
	retire   script.Guarded
	newest   int64 // the greatest stamp that is known
	was      doubt // somebody may have voted for it
	within   int   // votes that it might get, at most
}

func (r *ring) rotate(ctx context.Context, id, next sessionID, w *write) (receipt, error) {
	ro := &rotation{ring: r, spot: r.spot(id), id: id, next: next, w: w, was: doubt(w.again), newest: w.change.Base}
	ro.spot.rotating = true
	ro.retire = script.Guarded{Verifier: id.verifier(), What: script.Retire, Next: next.verifier()}
	if !w.again && !w.due {
		if rc, done := ro.atOnce(ctx); done {
			return rc, nil
		}
	}
	return ro.patiently(ctx)
}

// atOnce makes one attempt at each step. That is all if a majority of the owners
// has a copy and nobody else rotates.
func (ro *rotation) atOnce(ctx context.Context) (receipt, bool) {
	if ro.gather(ctx, &ro.spot) != nil {
		return receipt{}, false
	}
	if t := ro.vote(ctx); !ro.won(&t) {
		return receipt{}, false
	}
	ro.spot.rotating = false
	m := &replica{} // a part, which nobody takes who has no copy
	stamp := ro.grow(ctx, m)
	t := ro.join(ctx, &ro.spot, m, "")
	return receipt{now: t.now, version: stamp, touched: ro.w.touched}, t.acks >= ro.spot.majority()
}

// grow gives m the new ID, and the change that goes along. However often it is
// tried, the ID has one stamp.
func (ro *rotation) grow(ctx context.Context, m *replica) (stamp int64) {
	if ro.w.stamp == 0 {
		ro.w.stamp = ro.stamp(ctx, ro.newest)
	}
	stamp = ro.w.stamp
	m.low = stamp // every other ID is dead
	m.ids = map[string]idCell{ro.next.verifier(): {stamp: stamp}}
	if m.fields = maps.Clone(m.fields); m.fields == nil {
		m.fields = map[string]script.Cell{}
	}
	for _, cell := range cells(ro.w.change) {
		cell.Stamp = stamp
		m.fields[cell.Name] = cell
	}
	return stamp
}

// patiently begins with a load, and goes on until the rotation is decided.
func (ro *rotation) patiently(ctx context.Context) (receipt, error) {
	old, next := ro.id.verifier(), ro.next.verifier()
	l := &lookup{id: ro.id, spot: ro.spot, always: true, loose: bool(ro.was)}
	ro.load(ctx, []*lookup{l})
	switch {
	case l.err != nil && bool(ro.was):
		return receipt{}, failure(ctx, true, errSilent)
	case l.err != nil:
		return receipt{}, l.err
	case l.m == nil:
		return receipt{}, ErrNotFound
	case l.now >= l.m.expires() && ro.w.stamp != 0: // a touch under way may prolong it under the new ID yet
		return receipt{}, failure(ctx, true, errSilent)
	case l.now >= l.m.expires():
		return receipt{}, ErrNotFound
	case l.m.valid(next): // an earlier attempt has done it, perhaps not everywhere
		return ro.finish(ctx, l.m, l.now)
	case ro.w.stamp != 0: // it has won
	case !l.m.valid(old) && !(bool(ro.was) && l.m.knows(ro.id)):
		return receipt{}, ErrNotFound
	default:
		ro.retire.Asked, ro.newest = l.now, max(ro.newest, l.m.newest())
		if err := ro.elect(ctx, l.m); err != nil {
			return receipt{}, err
		}
	}
	grown := *l.m
	grown.touched = max(grown.touched, l.now)
	ro.grow(ctx, &grown)
	return ro.finish(ctx, &grown, l.now)
}

// finish brings the session with its new ID to a majority.
func (ro *rotation) finish(ctx context.Context, m *replica, asked int64) (receipt, error) {
	for try := 0; ; try++ {
		t := ro.join(ctx, &ro.spot, m, "")
		if t.acks >= ro.spot.majority() {
			return receipt{now: max(t.now, asked), version: m.newest(), touched: m.touched}, nil
		}
		if !t.retriable(&ro.spot) || !ro.pause(ctx, try) {
			return receipt{}, failure(ctx, true, ro.because(&ro.spot, &t))
		}
	}
}

// vote asks all owners to let the old ID go for this rotation.
func (ro *rotation) vote(ctx context.Context) tally {
	ro.retire.Known = time.Since(ro.w.since).Microseconds()
	t := ro.guard(ctx, &ro.spot, &ro.retire, ro.won)
	ro.was = ro.was || t.unsure
	ro.newest = max(ro.newest, t.stamp)
	return t
}

func (ro *rotation) won(t *tally) bool {
	return t.acks >= ro.spot.majority() && t.met[script.CopyGone] == 0
}

// beaten tells whether so many have let the ID go for others that no majority is
// left.
func (ro *rotation) beaten(t *tally) bool {
	return t.met[script.CopyRetired] > len(ro.spot.owners)-ro.spot.majority()
}

// yields tells whether a rotation that has not won should give its votes back.
// It may take what others give back only where the ID was let go after the session
// was loaded: else nobody can tell whether the ID was still valid then. To show that
// takes a packet that is quick enough, so there are some tries. Who could not get a majority
// like that yields first, and among equals the lesser verifier; one that could does
// not.
func (ro *rotation) yields(t *tally, try int) bool {
	lesser, within := false, t.acks
	for _, rival := range t.rivals {
		lesser = lesser || rival&script.RivalGreater != 0
		if rival&script.RivalEarlier == 0 {
			within++
		}
	}
	ro.within = max(ro.within, within)
	switch {
	case len(t.rivals) == 0:
		return false
	case ro.within < ro.spot.majority() && lesser:
		return try >= 6
	case ro.within < ro.spot.majority():
		return try >= 9
	}
	return lesser && try >= 14
}

// elect gathers votes until the rotation has won or is over. A load on the way
// would find its own half-done work, and spread that to nodes that have not voted:
// what a node lacks is given to it as it was before.
func (ro *rotation) elect(ctx context.Context, m *replica) error {
	before := *m
	before.ids = map[string]idCell{ro.id.verifier(): {stamp: m.ids[ro.id.verifier()].stamp}} // it was valid once
	behind := 0
	for try := 0; ; try++ {
		if err := ro.gather(ctx, &ro.spot); err != nil {
			return failure(ctx, ro.was, err)
		}
		t := ro.vote(ctx)
		yields := ro.yields(&t, try)
		switch {
		case ro.won(&t):
			return nil
		case t.met[script.CopyGone] == 0 && !ro.beaten(&t) && !yields && t.now < m.expires() && behind < 3:
			if t.met[script.CopyMissing] > 0 {
				behind++
				ro.join(ctx, &ro.spot, &before, "")
			}
		case t.met[script.CopyGone]+t.met[script.CopyRetired]+t.met[script.CopyMissing] > 0:
			if over, err := ro.lost(ctx); over {
				return err
			}
			if yields {
				return ro.yield(ctx)
			}
		}
		wait := try
		if t.met[script.CopyRetired] > 0 { // it is not the nodes that need time
			wait = min(try, 1)
		}
		if !t.retriable(&ro.spot) || !ro.pause(ctx, wait) {
			return failure(ctx, ro.was, ro.because(&ro.spot, &t))
		}
	}
}

// lost tells by a load whether the rotation is over: the session is gone, or has
// another ID. That the old one opens nothing any more is not enough: this rotation
// may be why.
func (ro *rotation) lost(ctx context.Context) (over bool, err error) {
	l := ro.find(ctx, ro.id, &ro.spot, false)
	switch {
	case l.err != nil && bool(ro.was):
		return true, failure(ctx, true, errSilent)
	case l.err != nil:
		return true, l.err
	case l.m == nil || l.m.opens() && !l.m.valid(ro.id.verifier()) || !l.m.opens() && !bool(ro.was):
		return true, ErrNotFound
	case l.m.opens():
		ro.newest = max(ro.newest, l.m.newest())
		ro.join(ctx, &ro.spot, l.m, "") // for the copies that are behind
	}
	return false, nil
}

// yield gives the votes back, which are never counted again, and waits for the
// rotation that wins with them.
func (ro *rotation) yield(ctx context.Context) error {
	ro.w.yields = true
	release := ro.retire
	release.What = script.Release
	for try := 0; ; try++ {
		ro.guard(ctx, &ro.spot, &release, func(t *tally) bool { return t.acks >= ro.spot.majority() })
		if over, err := ro.lost(ctx); over {
			return err
		}
		if !ro.pause(ctx, try) {
			return failure(ctx, true, errSilent)
		}
	}
}
