package faults

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// Calls for histories made by hand. The session is created with cart=1, theme=2
// and visits=3; what is saved is the theme.
func born(call, ret int) op {
	return op{kind: create, call: ms(call), ret: ms(ret), outcome: done, next: none, field: none, values: [fields]int64{1, 2, 3}}
}

func finds(id int, theme int64, call, ret int) op {
	o := calls(load, id, done, call, ret)
	o.values = [fields]int64{1, theme, 3}
	return o
}

func saves(id int, theme int64, x outcome, call, ret int) op {
	o := calls(save, id, x, call, ret)
	o.field, o.value = 1, theme
	return o
}

func rotates(id, next int, call, ret int) op {
	o := calls(rotate, id, done, call, ret)
	o.next = next
	return o
}

func calls(k kind, id int, x outcome, call, ret int) op {
	return op{kind: k, id: id, outcome: x, call: ms(call), ret: ms(ret), next: none, field: none}
}

func atTheEnd(o op) op { o.last = true; return o }

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// What is right passes, and what is wrong is found and called by its name.
func TestTheCheckerKnowsRightFromWrong(t *testing.T) {
	const (
		alone = 1 << iota // without replication
		ring
		both = alone | ring
	)
	for _, c := range []struct {
		name  string
		on    int
		ops   []op
		wrong []string
	}{
		{"a life", both, []op{
			born(0, 1), finds(0, 2, 2, 3), saves(0, 10, done, 4, 5), finds(0, 10, 6, 7), calls(touch, 0, done, 8, 9), rotates(0, 1, 10, 11),
			calls(load, 0, absent, 12, 13), saves(1, 11, done, 14, 15), calls(remove, 1, done, 16, 17), calls(load, 1, absent, 18, 19),
		}, nil},

		// Fields.
		{"of two saves at once either may be the last", both, []op{
			born(0, 1), saves(0, 10, done, 2, 6), saves(0, 11, done, 3, 7), finds(0, 10, 8, 9),
		}, nil},
		{"during a save old and new may be seen", both, []op{
			born(0, 1), saves(0, 10, done, 2, 8), finds(0, 2, 3, 4), finds(0, 10, 5, 6),
		}, nil},
		{"but not the old after the new", both, []op{
			born(0, 1), saves(0, 10, done, 2, 8), finds(0, 10, 3, 4), finds(0, 2, 5, 6),
		}, []string{fieldOrder}},
		{"a lost write", both, []op{
			born(0, 1), saves(0, 10, done, 2, 3), saves(0, 11, done, 4, 5), atTheEnd(finds(0, 10, 8, 9)),
		}, []string{lostWrite, fieldOrder}},
		{"a lost first write", both, []op{
			born(0, 1), saves(0, 10, done, 2, 3), atTheEnd(finds(0, 2, 8, 9)),
		}, []string{lostWrite, fieldOrder}},
		{"a stale load", both, []op{
			born(0, 1), saves(0, 10, done, 2, 3), finds(0, 2, 4, 5), finds(0, 10, 6, 7),
		}, []string{staleRead, fieldOrder}},
		{"an unconfirmed save may come at any time", both, []op{
			born(0, 1), saves(0, 10, unknown, 2, 3), saves(0, 11, done, 4, 5), finds(0, 11, 6, 7), finds(0, 10, 8, 9),
		}, nil},
		{"and never", both, []op{
			born(0, 1), saves(0, 10, unknown, 2, 3), finds(0, 2, 6, 7), saves(0, 11, done, 8, 9), finds(0, 11, 10, 11),
		}, nil},
		{"but only once", alone, []op{
			born(0, 1), saves(0, 10, unknown, 2, 3), finds(0, 10, 4, 5), saves(0, 11, done, 6, 7), finds(0, 10, 8, 9),
		}, []string{fieldOrder}},
		{"but not three times", ring, []op{
			born(0, 1), saves(0, 10, unknown, 2, 3), finds(0, 10, 4, 5), saves(0, 11, done, 6, 7), finds(0, 10, 8, 9),
			saves(0, 12, done, 10, 11), finds(0, 10, 12, 13),
		}, []string{fieldOrder}},
		{"and not before it was called", both, []op{
			born(0, 1), finds(0, 10, 2, 3), saves(0, 10, unknown, 4, 5),
		}, []string{wrong, fieldOrder}},
		{"a save without effect has one", both, []op{
			born(0, 1), saves(0, 10, failed, 2, 3), finds(0, 10, 4, 5),
		}, []string{wrong, fieldOrder}},
		{"a value out of nowhere", both, []op{
			born(0, 1), finds(0, 77, 4, 5),
		}, []string{wrong, fieldOrder}},
		{"a save that was repeated within", alone, []op{
			born(0, 1), saves(0, 10, done, 2, 20), finds(0, 10, 3, 4), saves(0, 11, done, 5, 6), finds(0, 11, 7, 8), finds(0, 10, 9, 10),
		}, []string{fieldOrder}},
		{"counts as two on the ring", ring, []op{
			born(0, 1), saves(0, 10, done, 2, 20), finds(0, 10, 3, 4), saves(0, 11, done, 5, 6), finds(0, 11, 7, 8), finds(0, 10, 9, 10),
		}, nil},
		{"but not as three", ring, []op{
			born(0, 1), saves(0, 10, done, 2, 40), finds(0, 10, 3, 4), saves(0, 11, done, 5, 6), finds(0, 11, 7, 8), finds(0, 10, 9, 10),
			saves(0, 12, done, 11, 12), finds(0, 12, 13, 14), finds(0, 10, 15, 16),
		}, []string{fieldOrder}},
		{"nor after its end", ring, []op{
			born(0, 1), saves(0, 10, done, 2, 5), finds(0, 10, 3, 4), saves(0, 11, done, 4, 7), finds(0, 11, 7, 8), finds(0, 10, 9, 10),
		}, []string{fieldOrder}},
		{"a save that found nothing was seen before the logout", ring, []op{
			born(0, 1), saves(0, 10, absent, 2, 9), finds(0, 10, 3, 4), calls(remove, 0, done, 5, 6), calls(load, 0, absent, 10, 11),
		}, nil},
		{"it was repeated, and then found nothing", ring, []op{
			born(0, 1), saves(0, 10, absent, 2, 20), finds(0, 10, 3, 4), saves(0, 11, done, 5, 6), finds(0, 10, 7, 8),
			rotates(0, 1, 7, 12), finds(1, 10, 13, 14),
		}, nil},
		{"which one server does not allow", alone, []op{
			born(0, 1), saves(0, 10, absent, 2, 9), finds(0, 10, 3, 4), calls(remove, 0, done, 5, 6), calls(load, 0, absent, 10, 11),
		}, []string{wrong, fieldOrder}},

		// IDs.
		{"a logout is undone", both, []op{
			born(0, 1), calls(remove, 0, done, 2, 3), calls(load, 0, absent, 4, 5), finds(0, 2, 6, 7),
		}, []string{undone, idOrder}},
		{"a logout is undone by a save", both, []op{
			born(0, 1), calls(remove, 0, done, 2, 3), saves(0, 10, done, 4, 5),
		}, []string{undone, idOrder}},
		{"a logout that was seen is undone before it has returned", both, []op{
			born(0, 1), calls(remove, 0, done, 2, 9), calls(load, 0, absent, 3, 4), finds(0, 2, 5, 6),
		}, []string{idOrder}},
		{"an unconfirmed logout may come late", both, []op{
			born(0, 1), calls(remove, 0, unknown, 2, 3), finds(0, 2, 4, 5), calls(touch, 0, absent, 6, 7),
		}, nil},
		{"but is final", both, []op{
			born(0, 1), calls(remove, 0, unknown, 2, 3), calls(touch, 0, absent, 4, 5), finds(0, 2, 6, 7),
		}, []string{idOrder}},
		{"a logout that had no effect has one", both, []op{
			born(0, 1), calls(remove, 0, failed, 2, 3), calls(load, 0, absent, 4, 5),
		}, []string{vanished, idOrder}},
		{"a session has vanished", both, []op{
			born(0, 1), finds(0, 2, 2, 3), atTheEnd(calls(load, 0, absent, 4, 5)),
		}, []string{vanished, idOrder}},
		{"a session is away for a moment", both, []op{
			born(0, 1), calls(load, 0, absent, 2, 3), finds(0, 2, 4, 5),
		}, []string{vanished, idOrder}},
		{"an ID that was rotated away is alive", both, []op{
			born(0, 1), rotates(0, 1, 2, 3), finds(1, 2, 4, 5), finds(0, 2, 6, 7),
		}, []string{resurrected, idOrder}},
		{"it gives birth to another", both, []op{
			born(0, 1), rotates(0, 1, 2, 3), rotates(0, 2, 4, 5), finds(1, 2, 6, 7), finds(2, 2, 8, 9),
		}, []string{resurrected, idOrder}},
		{"two rotations at once both succeed", both, []op{
			born(0, 1), rotates(0, 1, 2, 5), rotates(0, 2, 3, 6),
		}, []string{idOrder}},
		{"a new ID is dead", both, []op{
			born(0, 1), rotates(0, 1, 2, 3), calls(load, 1, absent, 4, 5),
		}, []string{vanished, idOrder}},
		{"a logout by a dead ID ends the session", both, []op{
			born(0, 1), rotates(0, 1, 2, 3), calls(remove, 0, done, 4, 5), calls(load, 1, absent, 6, 7),
		}, []string{idOrder}},
		{"a logout by an ID that was just rotated away may", both, []op{
			born(0, 1), rotates(0, 1, 2, 4), calls(remove, 0, done, 3, 6), finds(1, 2, 4, 5), calls(load, 1, absent, 7, 8),
		}, nil},
		{"or not", both, []op{
			born(0, 1), rotates(0, 1, 2, 4), calls(remove, 0, done, 3, 6), finds(1, 2, 7, 8),
		}, nil},
		{"but not both", both, []op{
			born(0, 1), rotates(0, 1, 2, 4), calls(remove, 0, done, 3, 6), calls(load, 1, absent, 7, 8), finds(1, 2, 9, 10),
		}, []string{idOrder}},
		{"a rotation of what was deleted", both, []op{
			born(0, 1), calls(remove, 0, done, 2, 3), rotates(0, 1, 4, 5),
		}, []string{undone, idOrder}},
		{"an unconfirmed rotation may end the ID late", both, []op{
			born(0, 1), calls(rotate, 0, unknown, 2, 3), finds(0, 2, 4, 5), calls(load, 0, absent, 6, 7),
		}, nil},
		{"a rotation finds none for once", both, []op{
			born(0, 1), calls(rotate, 0, absent, 2, 3), atTheEnd(finds(0, 2, 4, 5)),
		}, []string{vanished, idOrder}},
		{"a rotation finds none, and then there is none", alone, []op{
			born(0, 1), calls(rotate, 0, absent, 2, 3), atTheEnd(calls(load, 0, absent, 4, 5)),
		}, []string{vanished, idOrder}},
		{"that was itself, on the ring", ring, []op{
			born(0, 1), calls(rotate, 0, absent, 2, 3), atTheEnd(calls(load, 0, absent, 4, 5)),
		}, []string{vanished}},
		{"or before the logout that it found", ring, []op{
			born(0, 1), calls(rotate, 0, absent, 2, 9), calls(load, 0, absent, 3, 4), calls(remove, 0, done, 5, 6),
		}, nil},
		{"a rotation finds none after a logout", both, []op{
			born(0, 1), calls(remove, 0, done, 2, 5), calls(rotate, 0, absent, 3, 4), calls(load, 0, absent, 6, 7),
		}, nil},
		{"two at once find none, on one server", alone, []op{
			born(0, 1), calls(rotate, 0, absent, 2, 4), calls(rotate, 0, absent, 3, 5), calls(load, 0, absent, 6, 7),
		}, []string{vanished, idOrder}},
		{"two at once find none, on the ring", ring, []op{
			born(0, 1), calls(rotate, 0, absent, 2, 4), calls(rotate, 0, absent, 3, 5), calls(load, 0, absent, 6, 7),
		}, []string{vanished}},
		{"one that found none lives on", ring, []op{
			born(0, 1), calls(rotate, 0, absent, 2, 4), calls(rotate, 0, absent, 3, 5), finds(0, 2, 6, 7),
		}, []string{vanished, idOrder}},
	} {
		for _, replicated := range []bool{false, true} {
			mode := alone
			if replicated {
				mode = ring
			}
			if c.on&mode == 0 {
				continue
			}
			t.Run(strings.TrimSuffix(c.name, ",")+map[bool]string{false: " (one server)", true: " (ring)"}[replicated], func(t *testing.T) {
				expect(t, checker{replicated: replicated}.check(byHand(c.ops)), c.wrong)
			})
		}
	}
}

// A session that no ID opens is counted where nobody has deleted it.
func TestTheCheckerCountsWhomARotationLoggedOut(t *testing.T) {
	ops := byHand([]op{born(0, 1), calls(rotate, 0, unknown, 2, 3), atTheEnd(calls(load, 0, absent, 4, 5))})
	v := checker{replicated: true}.check(ops)
	if len(v.violations) > 0 || v.stranded != 1 {
		t.Errorf("%d violations and %d logged out, want 0 and 1", len(v.violations), v.stranded)
	}
}

// The same seed strikes the same nodes in the same way.
func TestTheFaultsFollowFromTheSeed(t *testing.T) {
	a, b, c := plan(5, 60, 5, faultKinds), plan(5, 60, 5, faultKinds), plan(6, 60, 5, faultKinds)
	if !slices.Equal(a, b) {
		t.Error("one seed gave two plans")
	}
	if slices.Equal(a, c) {
		t.Error("two seeds gave one plan")
	}
	count := map[string]int{}
	for _, f := range a {
		count[f.kind]++
	}
	for _, k := range faultKinds {
		if count[k] != 10 {
			t.Errorf("%d times %s of 60 faults, want 10", count[k], k)
		}
	}
}
