package faults

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// table says what came of each fault.
func (s *site) table(v verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %5s %8s %6s %8s   %-18s %-10s %-10s %7s %7s   %s\n", "fault", "times", "calls", "failed", "slowest",
		"after promotion", "lost saves", "sessions", "undone", "wrong", "the driver alone: failed; first success")
	line := func(name, times string, k *faultKind) {
		calls := s.calls(name)
		first, saves, sessions := "-", 0, 0
		if list := s.firsts(k); len(list) > 0 {
			first = fmt.Sprintf("%v, worst %v", list[len(list)/2].Round(time.Millisecond), list[len(list)-1].Round(time.Millisecond))
		}
		for i, l := range v.lost {
			if s.struck[i] == k {
				saves, sessions = saves+l.saves, sessions+l.sessions
			}
		}
		undone, wrong := s.found(v, name)
		fmt.Fprintf(&b, "%-10s %5s %8d %6d %8v   %-18s %-10d %-10d %7d %7d", name, times, calls.calls, calls.failed(),
			calls.slowest.Round(time.Millisecond), first, saves, sessions, undone, wrong)
		if k != nil {
			fmt.Fprintf(&b, "   %d%s", k.driver.failed, k.recovery())
		}
		b.WriteByte('\n')
	}
	for _, k := range s.kinds {
		line(k.name, fmt.Sprint(k.times), k)
	}
	line(calm, "", nil)
	return b.String()
}

// recovery says when the driver alone did its first call after the promotions.
func (k *faultKind) recovery() string {
	var b strings.Builder
	if list := k.driver.firsts; len(list) > 0 {
		fmt.Fprintf(&b, "; %v", slices.Max(list).Round(10*time.Millisecond))
		if len(list) > 1 {
			fmt.Fprintf(&b, " the worst of %d", len(list))
		}
	}
	if list := k.driver.nones; len(list) > 0 {
		fmt.Fprintf(&b, "; none within %v", slices.Max(list).Round(10*time.Millisecond))
		if len(list) > 1 {
			fmt.Fprintf(&b, " the longest of %d", len(list))
		}
	}
	return b.String()
}

// calls sums up the stages of a name.
func (s *site) calls(name string) (sum tally) {
	sum.outcomes = map[outcome]int{}
	for _, st := range s.w.stages {
		if st.name != name {
			continue
		}
		sum.calls += st.calls
		sum.slowest = max(sum.slowest, st.slowest)
		for x, n := range st.outcomes {
			sum.outcomes[x] += n
		}
		if sum.err == nil {
			sum.err = st.err
		}
	}
	return sum
}

// firsts is, of each failover of the kind, how long after the promotion the first
// call was done; sorted.
func (s *site) firsts(k *faultKind) (list []time.Duration) {
	for i := range s.failovers {
		if s.struck[i] == k {
			list = append(list, s.failovers[i].firstSuccess(s.w.ops, len(s.w.clients)))
		}
	}
	slices.Sort(list)
	return list
}

// found counts the violations that showed in the stages of a name. One that only
// a whole history shows is counted where the history ends.
func (s *site) found(v verdict, name string) (undoings, others int) {
	for _, x := range v.violations {
		at := x.at
		if at == nil {
			at = x.part[len(x.part)-1]
		}
		switch {
		case s.w.stage(at).name != name:
		case x.what == undone || x.what == resurrected:
			undoings++
		default:
			others++
		}
	}
	return undoings, others
}

// judge says whether the promises were kept.
func (s *site) judge(v verdict) {
	names := []string{calm}
	for _, k := range s.kinds {
		names = append(names, k.name)
		if list := s.firsts(k); *long && len(list) > 0 && list[len(list)-1] > k.within {
			s.Errorf("%s: a first call was done %v after the promotion, want at most %v", k.name, list[len(list)-1], k.within)
		}
	}
	for _, name := range names {
		if c := s.calls(name); c.failed() > 0 {
			s.Errorf("%s: %d of %d calls failed, the first: %v", name, c.failed(), c.calls, c.err)
		}
	}
}
