package faults

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// kind of a call.
type kind string

const (
	create kind = "create"
	load   kind = "load"
	save   kind = "save"
	touch  kind = "touch"
	rotate kind = "rotate"
	remove kind = "delete"
)

var kindsOfCalls = []kind{create, load, save, touch, rotate, remove}

// outcome of a call, as the caller knows it.
type outcome string

const (
	done    outcome = "done"
	absent  outcome = "not found"
	unknown outcome = "unconfirmed" // it may have been applied, and may still be
	failed  outcome = "unavailable" // it surely had no effect
)

// fields of a session, each a register.
const fields = 3

var fieldNames = [fields]string{"cart", "theme", "visits"}

// removed is the value of a field that was removed; every other value is written
// once only.
const removed = 0

// forever is when a call returns whose effect may come at any time, or never.
const forever = math.MaxInt64

// op is one call in a history.
type op struct {
	kind    kind
	who     int // which goroutine
	session *session
	id      int           // which of the session's IDs it was called with
	next    int           // rotate: the ID that it made, none if it is not known
	field   int           // save, rotate: what it wrote, none if nothing
	value   int64         // what was written there
	values  [fields]int64 // create: what was written; load: what was found
	version int64         // load: that was found
	outcome outcome       //
	call    time.Duration // by one monotonic clock
	since   time.Duration // rotate: when its session was loaded
	ret     time.Duration //
	last    bool          // it was made when everything was over
}

const none = -1

// writes gives the value that the op writes to a field.
func (o *op) writes(field int) (int64, bool) {
	switch {
	case o.kind == create:
		return o.values[field], true
	case o.field == field:
		return o.value, true
	}
	return 0, false
}

// changes tells whether the op is a save: it changes the session and raises its
// version. A rotation may carry one.
func (o *op) changes() bool { return o.kind != create && o.field != none }

// settled is when the op's effect was surely there, if there is one.
func (o *op) settled() time.Duration {
	if o.outcome == unknown {
		return forever
	}
	return o.ret
}

func (o *op) String() string {
	var b strings.Builder
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	fmt.Fprintf(&b, "%11.3f %11.3f ms  g%02d  %-6s #%d", ms(o.call), ms(o.ret), o.who, o.kind, o.id)
	if o.next != none {
		fmt.Fprintf(&b, " -> #%d", o.next)
	}
	if o.field != none {
		fmt.Fprintf(&b, " %s=%s", fieldNames[o.field], text(o.value))
	}
	fmt.Fprintf(&b, ": %s", o.outcome)
	if o.outcome == done && (o.kind == load || o.kind == create) {
		for i, v := range o.values {
			fmt.Fprintf(&b, " %s=%s", fieldNames[i], text(v))
		}
		if o.version > 0 {
			fmt.Fprintf(&b, " version %d", o.version)
		}
	}
	if o.last {
		b.WriteString(" (at the end)")
	}
	return b.String()
}

func text(v int64) string {
	if v == removed {
		return "(none)"
	}
	return fmt.Sprint(v)
}

// session is one session and the IDs by which it was ever known, the oldest
// first. A session is known by one of them at a time.
type session struct {
	handle, user string
	slot         int          // of Redis Cluster
	saving       atomic.Int64 // saves that have begun

	mu    sync.Mutex
	ids   []string
	uses  int
	ended bool // somebody has deleted it
}

func (s *session) add(id string) (number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ids = append(s.ids, id)
	return len(s.ids) - 1
}

func (s *session) saves() int { return int(s.saving.Load()) }

func (s *session) known() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ids)
}

// bySession splits a history, in the order of the calls.
func bySession(ops []op) map[*session][]*op {
	slices.SortFunc(ops, func(a, b op) int { return cmp.Compare(a.call, b.call) })
	split := map[*session][]*op{}
	for i := range ops {
		split[ops[i].session] = append(split[ops[i].session], &ops[i])
	}
	return split
}
