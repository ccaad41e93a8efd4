package faults

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// Redis replicates asynchronously: what a master confirmed just before it failed
// may be gone with it. This is all that a failover is allowed to take, and only
// where no later logout or rotation of the same session was confirmed, which wait
// for a replica: what came before them has been replicated as well.

// lag is how long after its confirmation a write may be lost, at most.
const lag = 2 * time.Second

// failover of a master that was killed or hangs.
type failover struct {
	slots    []bool        // its slots; nil is all
	from, to time.Duration // in between it failed
	promoted time.Duration // by then it had a successor

	number int           // of all of them
	since  time.Duration // what was settled later, of one session, may be lost
}

// loss is what a failover took of what was confirmed.
type loss struct{ saves, sessions int }

func (f *failover) hits(slot int) bool { return f.slots == nil || f.slots[slot] }

// of gives the checker of one session: with the failovers that concern it.
func (c checker) of(ops []*op) checker {
	all := c.failovers
	c.failovers = nil
	for i, f := range all {
		if !f.hits(ops[0].session.slot) {
			continue
		}
		f.number, f.since = i, f.from-lag
		for _, o := range ops {
			if o.kind == rotate && o.outcome == done && o.ret < f.from {
				f.since = max(f.since, o.call)
			}
		}
		c.failovers = append(c.failovers, f)
	}
	return c
}

// takes tells whether the failover may have taken what o wrote: not if a replica had
// it, or if it was the successor that confirmed it.
func (f *failover) takes(o *op) bool {
	waited := o.kind == rotate && o.settled() < f.from
	later := o.outcome == done && o.ret > f.promoted
	return o.call < f.to && o.settled() > f.since && !waited && !later
}

// splits tells whether one attempt of o may have met the master that failed, and
// another one its successor.
func (f *failover) splits(o *op) bool {
	return o.outcome != failed && o.call < f.to && o.settled() > f.from
}

// at makes a step that comes with the failover.
func (f *failover) at(o *op, does effect, older ...int64) porcupine.Operation {
	return porcupine.Operation{
		Input: step{does: does, op: o, older: older},
		Call:  int64(f.from), Return: int64(f.promoted),
	}
}

// before makes a step of an attempt of o that met the master that failed.
func (f *failover) before(o *op, does effect, value int64) porcupine.Operation {
	return at(o, does, value, f.to)
}

// mayBeLost tells whether a write may have been lost when r looked.
func (c checker) mayBeLost(o, r *op) bool {
	return slices.ContainsFunc(c.failovers, func(f failover) bool { return f.from < r.ret && f.takes(o) })
}

// mayHaveVanished tells whether the creation of the session may have been lost
// when r looked.
func (c checker) mayHaveVanished(ops []*op, r *op) bool {
	return slices.ContainsFunc(ops, func(o *op) bool { return o.kind == create && c.mayBeLost(o, r) })
}

// reverts are the steps by which failovers take back what was written to a field.
// Each does so once: to what the field may have been when the replica that was
// promoted had heard the last of its master.
func (c checker) reverts(ops []*op, field int, seen map[int64]bool) (part []porcupine.Operation) {
	for i := range c.failovers {
		f := &c.failovers[i]
		var last *op
		var older []int64
		for _, o := range ops {
			value, writing := o.writes(field)
			if !writing || o.outcome == failed || o.call >= f.to {
				continue
			}
			if f.takes(o) || f.splits(o) {
				last = o
			}
			if o.kind != create && seen[value] && f.splits(o) {
				part = append(part, f.before(o, mayWrite, value))
			}
			if seen[value] && !slices.Contains(older, value) && !c.outdated(ops, field, o, i) {
				older = append(older, value)
			}
		}
		if last != nil && len(older) > 0 {
			part = append(part, f.at(last, mayRevert, older...))
		}
	}
	return part
}

// outdated tells whether a write was overwritten, before the i-th failover, by one
// that neither that nor an earlier one can have taken.
func (c checker) outdated(ops []*op, field int, w *op, i int) bool {
	return slices.ContainsFunc(ops, func(o *op) bool {
		_, writing := o.writes(field)
		return writing && o.outcome == done && w.settled() < o.call && o.settled() < c.failovers[i].from &&
			!slices.ContainsFunc(c.failovers[:i+1], func(f failover) bool { return f.takes(o) })
	})
}

// slips are the steps by which failovers act on an ID: a session that was just
// created vanishes, and what ended the ID but was not confirmed is taken back.
func (c checker) slips(ops []*op, id int) (part []porcupine.Operation) {
	ending := inherited(ops, id)
	for _, o := range ops {
		if o.id == id && (o.kind == remove || o.kind == rotate) {
			ending = append(ending, o)
		}
	}
	for i := range c.failovers {
		f := &c.failovers[i]
		var last *op
		for _, o := range ending {
			if f.splits(o) {
				part = append(part, f.before(o, maySlip, 0))
				last = o
			}
		}
		if last != nil {
			part = append(part, f.at(last, settles))
		}
		for _, o := range ops {
			if o.kind == create && id == 0 && f.takes(o) {
				part = append(part, f.at(o, mayVanish))
			}
		}
	}
	return part
}

// confirmed counts what a load must have found counted by the version, if
// nothing was lost, and how much of it may have been lost.
func (c checker) confirmed(ops []*op, r *op) (must, lost int64) {
	must = 1
	for _, o := range ops {
		if o.changes() && o.outcome == done && o.ret < r.call {
			must++
			if c.mayBeLost(o, r) {
				lost++
			}
		}
	}
	return must, lost
}

// versions asks whether each load has found a version that counts every save
// once: all that were confirmed before, and none that began only later.
func (c checker) versions(ops []*op) (found []violation) {
	for _, r := range ops {
		if r.version == 0 || c.replicated {
			continue
		}
		must, lost := c.confirmed(ops, r)
		most := int64(1)
		for _, o := range ops {
			if o.changes() && o.outcome != failed && o.call < r.ret {
				most++
			}
		}
		if must-lost <= r.version && r.version <= most {
			continue
		}
		v := violation{what: miscounted, at: r, where: fmt.Sprintf("session %s: version %d, not %d to %d", r.session.handle, r.version, must-lost, most)}
		for _, o := range ops {
			if o.changes() || o == r {
				v.part = append(v.part, o)
			}
		}
		found = append(found, v)
	}
	return found
}

// losses counts what each failover took of what was confirmed: by how much the
// versions fell short, and whether the session is gone.
func (c checker) losses(ops []*op, failovers int) []loss {
	lost := make([]loss, failovers)
	missing, gone := int64(0), false
	for _, r := range ops {
		var last *failover
		for i := range c.failovers {
			if f := &c.failovers[i]; f.from < r.ret {
				last = f
			}
		}
		if last == nil {
			continue
		}
		if must, _ := c.confirmed(ops, r); r.version > 0 && must-r.version > missing {
			lost[last.number].saves += int(must - r.version - missing)
			missing = must - r.version
		}
		if r.outcome == absent && !gone && !c.ended(ops, r) && c.mayHaveVanished(ops, r) {
			lost[last.number].sessions++
			gone = true
		}
	}
	return lost
}
