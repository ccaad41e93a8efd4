package faults

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// What can be wrong.
const (
	lostWrite   = "an acknowledged write is lost"
	staleRead   = "a load has missed an acknowledged write"
	undone      = "a logout is undone"
	resurrected = "an ID that was rotated away is alive"
	vanished    = "a session has vanished"
	wrong       = "a load has found what nobody wrote"
	miscounted  = "a version does not count the saves"
	fieldOrder  = "no order of the calls explains a field"
	idOrder     = "no order of the calls explains an ID"
)

var wrongs = []string{lostWrite, staleRead, undone, resurrected, vanished, wrong, miscounted, fieldOrder, idOrder}

// violation is one thing that is wrong, with the part of the history that says so.
type violation struct {
	what  string
	where string
	part  []*op
	at    *op // that gave it away, if it is one
	model *porcupine.Model
	steps []porcupine.Operation
}

func (v violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", v.what, v.where)
	for _, o := range v.part {
		mark := " "
		if o == v.at {
			mark = ">"
		}
		fmt.Fprintf(&b, "\n\t%s %v", mark, o)
	}
	return b.String()
}

// verdict on a history.
type verdict struct {
	violations []violation
	parts      int    // that were checked
	slack      int    // of them explained only by what the protocol leaves open
	gaveUp     int    // of them too hard to decide
	stranded   int    // sessions that no ID opens, though nobody has deleted them
	lost       []loss // by each failover
}

func (v *verdict) add(o verdict) {
	v.violations = append(v.violations, o.violations...)
	v.parts += o.parts
	v.slack += o.slack
	v.gaveUp += o.gaveUp
	v.stranded += o.stranded
	for i, l := range o.lost {
		v.lost[i].saves += l.saves
		v.lost[i].sessions += l.sessions
	}
}

func (v *verdict) count(what string) (n int) {
	for _, x := range v.violations {
		if x.what == what {
			n++
		}
	}
	return n
}

// checker judges histories.
type checker struct {
	// replicated allows what the protocol of the ring leaves open: a save that
	// met a newer one and was repeated inside the call counts as two writes of
	// the same value, one that found nothing may have been seen before the deletion
	// or rotation, and a rotation that found nothing may have ended the ID before the
	// deletion or rotation that it found.
	replicated bool
	// repeated allows a save that found nothing to have been seen before: an earlier
	// attempt of the same call was applied, and then the session ended.
	repeated  bool
	failovers []failover    // which may lose what was confirmed just before, in the order of time
	patience  time.Duration // with one part; 0 means 20 s
}

func (c checker) check(ops []op) (all verdict) {
	all.lost = make([]loss, len(c.failovers))
	var mu sync.Mutex
	var wg sync.WaitGroup
	work := make(chan []*op)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for part := range work {
				v := c.session(part)
				mu.Lock()
				all.add(v)
				mu.Unlock()
			}
		})
	}
	for _, part := range bySession(ops) {
		work <- part
	}
	close(work)
	wg.Wait()
	return all
}

// session judges the history of one session: with plain questions, then each
// field and each ID on its own.
func (c checker) session(ops []*op) (v verdict) {
	failovers := len(c.failovers)
	c = c.of(ops)
	v.lost = c.losses(ops, failovers)
	v.violations = append(c.plain(ops), c.versions(ops)...)
	for field := range fields {
		c.field(&v, ops, field)
	}
	for id := range idsOf(ops) {
		c.id(&v, ops, id)
	}
	if stranded(ops) {
		v.stranded++
	}
	return v
}

// idsOf counts the IDs of a session that the history knows.
func idsOf(ops []*op) (n int) {
	for _, o := range ops {
		n = max(n, o.id+1, o.next+1)
	}
	return n
}

// plain asks what needs no search. What it finds the models would find as well,
// but it says what is wrong, and it shares no code with them.
func (c checker) plain(ops []*op) (found []violation) {
	complain := func(what string, at *op, relevant func(*op) bool) {
		v := violation{what: what, where: fmt.Sprintf("session %s, ID #%d", at.session.handle, at.id), at: at}
		for _, o := range ops {
			if o == at || relevant(o) {
				v.part = append(v.part, o)
			}
		}
		found = append(found, v)
	}
	for _, o := range ops {
		ofID := func(p *op) bool { return p.id == o.id || p.next == o.id || p.kind == remove || p.kind == rotate }
		switch o.outcome {
		case done:
			if o.kind == remove || o.kind == create {
				break // says nothing about what was there
			}
			for _, p := range ops {
				if p.id != o.id || p.outcome != done || p.ret >= o.call {
					continue
				}
				if p.kind == remove {
					complain(undone, o, ofID)
					break
				} else if p.kind == rotate {
					complain(resurrected, o, ofID)
					break
				}
			}
		case absent:
			if !c.ended(ops, o) && !c.mayHaveVanished(ops, o) {
				complain(vanished, o, ofID)
			}
		}
		if o.kind != load || o.outcome != done {
			continue
		}
		for field, value := range o.values {
			ofField := func(p *op) bool {
				_, writes := p.writes(field)
				return writes || p.kind == load && p.outcome == done
			}
			switch w := writer(ops, field, value); {
			case value == removed: // by whom is not known
			case w == nil, w.call > o.ret, w.outcome == failed, w.outcome == absent && !c.replicated && !c.repeated:
				complain(wrong, o, ofField)
			case w.outcome == done && c.overwritten(ops, field, w, o):
				what := staleRead
				if o.last {
					what = lostWrite
				}
				complain(what, o, ofField)
			}
		}
	}
	return found
}

// ended tells whether another call may have ended the ID that o has not found.
func (c checker) ended(ops []*op, o *op) bool {
	return slices.ContainsFunc(ops, func(p *op) bool {
		if p == o || p.call > o.ret || p.outcome == failed {
			return false
		}
		// On the ring a rotation that found none in the end may have ended the
		// ID itself, before others did; but one cannot excuse another.
		return p.kind == remove || p.kind == rotate && p.id == o.id &&
			(p.outcome != absent || c.replicated && o.kind != rotate || slices.ContainsFunc(c.failovers, func(f failover) bool { return f.splits(p) }))
	})
}

// writer is the op that wrote a value.
func writer(ops []*op, field int, value int64) *op {
	for _, o := range ops {
		if v, ok := o.writes(field); ok && v == value {
			return o
		}
	}
	return nil
}

// overwritten tells whether another write came surely after w and was
// acknowledged before r began, and has not been lost since.
func (c checker) overwritten(ops []*op, field int, w, r *op) bool {
	for _, o := range ops {
		if _, ok := o.writes(field); ok && o.outcome == done && w.ret < o.call && o.ret < r.call && !c.mayBeLost(o, r) {
			return true
		}
	}
	return false
}

// stranded tells whether none of the last loads has found the session, though
// nobody tried to delete it.
func stranded(ops []*op) bool {
	looked := false
	for _, o := range ops {
		if o.kind == remove || o.last && o.outcome != absent {
			return false
		}
		looked = looked || o.last
	}
	return looked
}

// step is an op as one register sees it.
type step struct {
	does  effect
	value int64
	op    *op
	older []int64 // mayRevert: to these
}

type effect string

const (
	// on a field
	reads     effect = "reads"
	writes    effect = "writes"
	mayWrite  effect = "may write"
	mayRevert effect = "may revert" // to an older value
	// on an ID
	begins    effect = "begins"
	ends      effect = "ends"  // and it was alive
	kills     effect = "kills" // whatever it was
	mayKill   effect = "may kill"
	maySlip   effect = "may slip" // be over on the master that is going to fail
	settles   effect = "settles"  // with its successor, if it has slipped
	mayVanish effect = "may vanish"
	findsIt   effect = "finds it"
	findsNone effect = "finds none"
)

func at(o *op, does effect, value int64, ret time.Duration) porcupine.Operation {
	return porcupine.Operation{ClientId: o.who, Input: step{does: does, value: value, op: o}, Call: int64(o.call), Return: int64(ret)}
}

func model(init any, next func(state any, s step) []any) porcupine.Model {
	m := porcupine.NondeterministicModel{
		Init: func() []any { return []any{init} },
		Step: func(state, input, _ any) []any { return next(state, input.(step)) },
		DescribeOperation: func(input, _ any) string {
			s := input.(step)
			return fmt.Sprintf("%s: %s", s.does, s.op)
		},
	}
	return m.ToModel()
}

// A field is a register. Whether the session is alive is the matter of its IDs.
var fieldModel = model(int64(removed), func(state any, s step) []any {
	switch {
	case s.does == writes:
		return []any{s.value}
	case s.does == mayWrite:
		return []any{state, s.value}
	case s.does == mayRevert:
		states := []any{state}
		for _, v := range s.older {
			states = append(states, v)
		}
		return states
	case s.value == state:
		return []any{state}
	}
	return nil
})

// phase of an ID: from unborn to alive to dead, and never back. It has slipped
// while what has ended it is not confirmed, and its master about to fail.
type phase string

const (
	unborn  phase = "unborn"
	alive   phase = "alive"
	slipped phase = "slipped"
	dead    phase = "dead"
)

var idModel = model(unborn, func(state any, s step) []any {
	switch {
	case s.does == begins && state == unborn:
		return []any{alive}
	case s.does == ends && state == alive, s.does == kills:
		return []any{dead}
	case s.does == mayKill, s.does == mayVanish && state == alive:
		return []any{state, dead}
	case s.does == maySlip && state == alive:
		return []any{alive, slipped}
	case s.does == settles && state == slipped:
		return []any{alive, dead}
	case s.does == mayVanish, s.does == maySlip, s.does == settles:
		return []any{state}
	case s.does == findsIt && state == alive, s.does == findsNone && state != alive:
		return []any{state}
	}
	return nil
})

// field checks that the loads and saves of one field are those of a register.
func (c checker) field(v *verdict, ops []*op, field int) {
	seen := map[int64]bool{}
	for _, o := range ops {
		if o.kind == load && o.outcome == done {
			seen[o.values[field]] = true
		}
	}
	view := func(slack bool) (part []porcupine.Operation) {
		for _, o := range ops {
			value, writing := o.writes(field)
			switch {
			case o.kind == load && o.outcome == done:
				part = append(part, at(o, reads, o.values[field], o.ret))
			case !writing || o.outcome == failed:
			case o.outcome == done:
				part = append(part, at(o, writes, value, o.ret))
				if slack && o.kind != create && seen[value] {
					part = append(part, at(o, mayWrite, value, o.ret))
				}
			case !seen[value]: // an uncertain write that nobody has seen may as well be none
			case o.outcome == unknown, slack, c.repeated: // coming last is the same as never
				part = append(part, at(o, writes, value, forever))
				if slack {
					part = append(part, at(o, mayWrite, value, forever))
				}
			}
		}
		return append(part, c.reverts(ops, field, seen)...)
	}
	where := fmt.Sprintf("session %s, field %s", ops[0].session.handle, fieldNames[field])
	strict := func() []porcupine.Operation { return view(false) }
	lenient := func() []porcupine.Operation { return view(true) }
	if !c.replicated {
		lenient = nil
	}
	c.judge(v, fieldOrder, where, &fieldModel, strict, lenient)
}

// id checks that an ID is alive from its birth on until it is rotated away or
// its session deleted, and never again.
func (c checker) id(v *verdict, ops []*op, id int) {
	view := func() (part []porcupine.Operation) {
		add := func(o *op, does effect, ret time.Duration) { part = append(part, at(o, does, 0, ret)) }
		for _, o := range ops {
			switch {
			case o.outcome == failed:
			case o.kind == create && id == 0, o.kind == rotate && o.next == id:
				add(o, begins, o.ret)
			case o.id != id || o.kind == create:
			case o.kind == remove:
				add(o, kills, o.settled())
			case o.kind == rotate && o.outcome == done:
				add(o, ends, o.ret)
				if c.replicated && o.since > 0 { // from when on it counts
					part[len(part)-1].Call = int64(o.since)
				}
			case o.kind == rotate && o.outcome == unknown:
				add(o, kills, forever)
			case o.kind == rotate && c.replicated: // why is a plain question
				add(o, kills, o.ret)
			case o.outcome == done:
				add(o, findsIt, o.ret)
			case o.outcome == absent:
				add(o, findsNone, o.ret)
			}
		}
		for _, o := range inherited(ops, id) {
			add(o, mayKill, o.settled())
		}
		return append(part, c.slips(ops, id)...)
	}
	where := fmt.Sprintf("session %s, ID #%d", ops[0].session.handle, id)
	c.judge(v, idOrder, where, &idModel, view, nil)
}

// inherited gives the deletions by an earlier ID which may have met the session
// before that ID was rotated away, and so may end it under this one.
func inherited(ops []*op, id int) (deletions []*op) {
	for id > 0 {
		var birth *op
		for _, o := range ops {
			if o.kind == rotate && o.next == id {
				birth = o
			}
		}
		if birth == nil {
			break
		}
		id = birth.id
		for _, o := range ops {
			if o.kind == remove && o.id == id && o.outcome != failed && o.call <= birth.ret {
				deletions = append(deletions, o)
			}
		}
	}
	return deletions
}

// judge looks for an order of the steps that explains them; where there is none,
// with the lenient view, if there is one.
func (c checker) judge(v *verdict, what, where string, m *porcupine.Model, strict, lenient func() []porcupine.Operation) {
	patience := c.patience
	if patience == 0 {
		patience = 20 * time.Second
	}
	v.parts++
	steps := strict()
	result := porcupine.CheckOperationsTimeout(*m, steps, patience)
	if result != porcupine.Ok && lenient != nil {
		steps = lenient()
		if result = porcupine.CheckOperationsTimeout(*m, steps, patience); result == porcupine.Ok {
			v.slack++
		}
	}
	switch result {
	case porcupine.Unknown:
		v.gaveUp++
	case porcupine.Illegal:
		x := violation{what: what, where: where, model: m, steps: steps}
		for _, s := range steps {
			if o := s.Input.(step).op; !slices.Contains(x.part, o) {
				x.part = append(x.part, o)
			}
		}
		v.violations = append(v.violations, x)
	}
}
