package conformance

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redsession/redsession"
)

// rings is about every ring.
var rings = []promise{
	{name: "a session is on its owners and nowhere else", ring: true, run: func(t *test) {
		c := open[profile](t)
		nodes := t.target.Nodes()
		for n := range 30 {
			s := t.full(c, profile{User: fmt.Sprint(marker, n)})
			key := t.key(s.ID())
			owners := t.owners(key)
			equal(t, "owners", len(owners), t.copies)
			for i, node := range nodes {
				there, err := node.Exists(t.Context(), key).Result()
				t.ok(err)
				equal(t, fmt.Sprintf("copies on node %d", i), there == 1, slices.Contains(owners, i))
			}
		}
	}},
	{name: "a client of another ring is refused and told the difference", ring: true, run: func(t *test) {
		c := open[profile](t)
		t.ok(c.Ping(c.ctx)) // so that each node knows the ring
		s := c.create(someone())
		state := t.state(s.ID())
		nodes := t.target.Ring
		weighted, moved, renamed := slices.Clone(nodes), slices.Clone(nodes), slices.Clone(nodes)
		weighted[0].Weight = 7
		moved[0].Zone = "elsewhere"
		renamed[0].Name = "somebody else"
		reversed := slices.Clone(nodes)
		slices.Reverse(reversed)
		open[profile](t, redsession.WithRing(reversed...)).load(s.ID()) // the order is no difference
		if len(nodes) > 1 {                                             // of one node these are the same for a ring without copies
			for what, other := range map[string]redsession.Option{
				"weight 7":      redsession.WithRing(weighted...),
				"elsewhere":     redsession.WithRing(moved...),
				"somebody else": redsession.WithRing(renamed...),
				"node-":         redsession.Options(redsession.WithRing(nodes[1:]...), redsession.WithReplicas(min(t.copies, len(nodes)-1))),
				"replicas":      redsession.WithReplicas(t.copies%len(nodes) + 1),
			} {
				wrong := with[profile](t, t.options(other)...)
				wrong = wrong.within(10 * time.Second)
				_, created := wrong.Create(someone())
				_, loaded := wrong.Load(s.ID())
				began := time.Now()
				for call, err := range map[string]error{"Create": created, "Load": loaded, "Delete": wrong.Delete(s.ID())} {
					t.is(err, redsession.ErrUnavailable)
					if err != nil && !strings.Contains(err.Error(), what) {
						t.Errorf("%s does not name %q: %v", call, what, err)
					}
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("%s: refused after %v", what, took)
				}
			}
		}
		t.unwritten("the session", s.ID(), state)
		equal(t, "keys", len(t.keys()), 1)
		c.load(s.ID())
	}},
	{name: "a ring that makes no sense is refused", ring: true, run: func(t *test) {
		good := t.target.Ring[0]
		for what, opts := range map[string][]redsession.Option{
			"node":         {redsession.WithRing()},
			"name":         {redsession.WithRing(redsession.Node{Addr: good.Addr})},
			good.Name:      {redsession.WithRing(good, redsession.Node{Name: good.Name, Addr: "127.0.0.1:1"})},
			"same address": {redsession.WithRing(good, redsession.Node{Name: "other", Addr: good.Addr})},
			"host:port":    {redsession.WithRing(redsession.Node{Name: "other", Addr: "localhost"})},
			"weight":       {redsession.WithRing(redsession.Node{Name: "other", Addr: good.Addr, Weight: -1})},
			"replica":      {redsession.WithRing(good), redsession.WithReplicas(0)},
			"WithReplicas": {redsession.WithAddr(good.Addr), redsession.WithReplicas(1)},
			"exclude":      {redsession.WithAddr(good.Addr), redsession.WithRing(good)},
		} {
			c, err := redsession.New[profile](opts...)
			if err == nil {
				c.Close()
				t.Errorf("accepted, want an error about %s", what)
			} else if t.note(err); !strings.Contains(err.Error(), what) {
				t.Errorf("%v: it does not name %q", err, what)
			}
		}
	}},
}

// owned are the addresses of the owners of someone's sessions.
func (t *test) owned(c *client[profile]) (addrs []string) {
	t.Helper()
	for _, i := range t.owners(t.key(c.create(someone()).ID())) {
		addrs = append(addrs, t.target.Ring[i].Addr)
	}
	return addrs
}

// full makes a session that has all its copies from the start.
func (t *test) full(c *client[profile], data profile) (s *session) {
	t.Helper()
	t.poll(func() bool {
		var err error
		if s, err = c.Create(data); err != nil {
			return false
		}
		t.settle(s.ID())
		hashes, _ := t.copiesOf(t.key(s.ID()))
		if whole := !slices.ContainsFunc(hashes, func(hash map[string]string) bool { return len(hash) == 0 }); whole {
			return true
		}
		_ = c.Delete(s.ID())
		return false
	})
	return s
}

// calm wants a call that must be quick to take the right number of packets once in
// a while: an owner that is slow for a moment is not waited for, and the rest are
// asked too, or it is left out until it has answered a probe.
func (t *test) calm(what string, right func(sent int) bool, id func() string, prepare, call func()) {
	t.Helper()
	var quick []int
	for range 10 {
		if prepare != nil {
			prepare()
		}
		t.settle(id())
		var took time.Duration
		sent := t.wire.during(func() {
			began := time.Now()
			call()
			took = time.Since(began)
			t.settle(id())
		})
		if took < 15*time.Millisecond {
			if quick = append(quick, sent); right(sent) {
				return
			}
		}
	}
	if len(quick) == 0 {
		t.Logf("%s: this machine is too slow to tell", what)
		return
	}
	t.Errorf("packets of %s: %v", what, quick)
}

// copies is about rings with several copies of each session, and what is other
// there than with one copy: no Update, since nobody decides; a save that is
// repeated counts as two; other round trips.
var copies = []promise{
	{name: "Update is refused and says why", many: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		state := t.state(s.ID())
		sent := t.wire.during(func() {
			got, err := c.Client.Update(c.ctx, s.ID(), func(*session) error { t.Error("it ran"); return nil })
			if t.note(err); got != nil || err == nil || !strings.Contains(err.Error(), "one copy") || !strings.Contains(err.Error(), "Save") {
				t.Errorf("%v, %v", got, err)
			}
		})
		equal(t, "packets", sent, 0)
		t.unwritten("state", s.ID(), state)
	}},
	{name: "round trips to copies", many: true, run: func(t *test) {
		c, eager := open[profile](t), open[profile](t, redsession.WithTouchInterval(0))
		s := t.full(c, someone())
		id := func() string { return s.ID() }
		var many []string
		for range 10 {
			many = append(many, t.full(c, someone()).ID())
		}
		most, all := t.copies/2+1, t.copies
		change := func() { s.Data.Visits++ }
		fresh := func() { s = c.create(someone()) }
		for _, step := range []struct {
			name    string
			packets int
			before  func()
			call    func()
		}{
			{"Create", all, nil, fresh},
			{"Load", most, nil, func() { c.load(s.ID()) }},
			{"Load with a touch", most + all, nil, func() { eager.load(s.ID()) }},
			{"Load of what is none", most, nil, func() { c.Load(s.ID()[:16] + newID(t)[16:]) }},
			{"LoadMany", most, nil, func() { c.LoadMany(many...) }},
			{"Save", all, change, func() { c.save(s) }},
			{"Save with no change", 0, nil, func() { c.save(s) }},
			{"Touch", most + all, nil, func() { t.ok(c.Touch(s.ID())) }},
			{"Rotate", 2 * all, nil, func() { c.rotate(s) }},
			{"Rotate with a change", 2 * all, change, func() { c.rotate(s) }},
			{"Delete", most + all, fresh, func() { c.delete(s.ID()) }},
			{"Delete of what is gone", most, nil, func() { c.delete(s.ID()) }},
		} {
			t.calm(step.name, func(sent int) bool { return sent == step.packets }, id, step.before, step.call)
		}
	}},
	{name: "LoadMany asks each node once", many: true, run: func(t *test) {
		c := open[profile](t)
		var ids []string
		for n := range 60 {
			ids = append(ids, t.full(c, profile{User: fmt.Sprint(marker, n)}).ID())
		}
		id := func() string { return ids[0] }
		nodes := len(t.target.Nodes())
		t.calm("LoadMany", func(sent int) bool { return sent <= nodes }, id, nil, func() { c.LoadMany(ids...) })
	}},
	{name: "a version grows with every save", many: true, run: func(t *test) {
		c, other := open[profile](t), open[profile](t)
		s := c.create(someone())
		last := s.Version()
		for n := range 20 {
			switch n % 3 {
			case 0:
				s.Data.Visits++
				c.save(s)
			case 1:
				theirs := other.load(s.ID())
				theirs.Data.Note = fmt.Sprint(n)
				other.save(theirs)
				s = c.load(s.ID())
			case 2:
				c.rotate(s)
			}
			if s.Version() <= last {
				t.Errorf("after step %d the version is %d, and was %d", n, s.Version(), last)
			}
			last = s.Version()
			equal(t, "as loaded", other.load(s.ID()).Version(), last)
		}
	}},
	{name: "a deleted session leaves a tombstone that ends", many: true, run: func(t *test) {
		c := open[profile](t)
		for _, opts := range [][]redsession.CreateOption{nil, {redsession.Lifetime(time.Minute)}, {redsession.Idle(time.Second)}} {
			s := c.create(someone(), opts...)
			c.delete(s.ID())
			t.settle(s.ID())
			hashes, ends := t.copiesOf(t.key(s.ID()))
			idle := s.ExpiresAt().Sub(s.CreatedAt())
			latest := min(t.now()+2*idle.Milliseconds(), s.Deadline().UnixMilli()) + 2000
			for i, hash := range hashes {
				if _, a := hash["@f"]; len(hash) != 3 || !a || hash["@d"] == "" || hash["@i"] == "" {
					t.Errorf("it is %q", hash)
				}
				if ends[i] < 0 || ends[i] > max(latest, s.Deadline().UnixMilli()+2000) || ends[i] < t.now() {
					t.Errorf("it ends at %d, and it is %d", ends[i], t.now())
				}
			}
		}
	}},
	{name: "verifiers that are retired do not pile up", many: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		for range 10 {
			c.rotate(s)
		}
		t.settle(s.ID())
		hashes, _ := t.copiesOf(t.key(s.ID()))
		for _, hash := range hashes {
			verifiers, votes := 0, 0
			for name := range hash {
				if strings.HasPrefix(name, "@a:") {
					verifiers++
				} else if strings.HasPrefix(name, "@r:") {
					votes++
				}
			}
			if verifiers != 1 || votes != 0 { // the dead are less than the low water
				t.Errorf("%d verifiers and %d votes", verifiers, votes)
			}
		}
	}},
	{name: "of rotations that split the votes one wins", many: true, three: true, run: func(t *test) {
		c := open[profile](t)
		owners := t.owned(c)
		var rivals []*client[profile] // each of which reaches another owner first
		for n := range owners {
			rivals = append(rivals, open[profile](t, redsession.WithDialer(t.wire.first(owners[n]))))
		}
		for round := range 6 {
			s := t.full(c, someone())
			running := rivals
			if round%2 == 1 { // with one that does not vote
				t.wire.aim(owners[len(owners)-1])
				t.wire.cut()
				running = rivals[:len(rivals)-1]
			}
			sessions, errs := make([]*session, len(running)), make([]error, len(running))
			for n, rival := range running {
				sessions[n] = rival.load(s.ID())
			}
			t.together(len(running), func(n int) { errs[n] = running[n].Rotate(sessions[n]) })
			won := 0
			for n, err := range errs {
				if err == nil {
					won++
					c.load(sessions[n].ID())
				} else {
					t.gone(err)
				}
			}
			equal(t, "rotations that won", won, 1)
			_, err := c.Load(s.ID())
			t.gone(err)
			t.heal(c)
		}
	}},
	{name: "a lost answer is made up for", many: true, run: func(t *test) {
		c := open[profile](t)
		for _, lost := range []int{1, t.copies, t.copies + 1} {
			during := func(call func()) {
				t.wire.lose(lost, nil)
				call()
				t.wire.set(func() {
					if t.wire.lost == lost {
						t.Error("no answer was lost")
					}
				})
				t.heal(c)
			}
			var s *session
			during(func() { s = c.create(someone()) })
			s.Data.Visits = 1
			during(func() { c.save(s) })
			got := c.load(s.ID())
			equal(t, "visits", got.Data.Visits, 1)
			old := s.ID()
			got.Data.Visits = 5
			during(func() { c.rotate(got) })
			_, err := c.Load(old)
			t.gone(err)
			got = c.load(got.ID())
			equal(t, "visits", got.Data.Visits, 5)
			during(func() { t.ok(c.Touch(got.ID())) })
			during(func() { c.delete(got.ID()) })
			equal(t, "exists", t.exists(got.ID()), false)
		}
	}},
	{name: "a save that is repeated is as if it came twice", many: true, run: func(t *test) {
		c := open[profile](t)
		for _, others := range []int64{1, 30} {
			s := c.create(someone())
			t.settle(s.ID())
			s.Data.Visits = 1
			t.unanswered(c, func(c *client[profile]) error { return c.Save(s) })
			other := c.load(s.ID())
			for n := range others {
				other.Data.Visits, other.Data.Note = 100+n, fmt.Sprint(marker, n)
				c.save(other)
			}
			c.save(s)
			got := c.load(s.ID())
			equal(t, "visits", got.Data.Visits, 1)
			equal(t, "the field of another", got.Data.Note, other.Data.Note)
			equal(t, "its version", s.Version(), got.Version())
			equal(t, "packets to save it", t.wire.quiet(func() { c.save(s) }), 0)
		}
	}},
	// Without one of two copies there is no majority.
	{name: "a node that is away takes nothing along and brings nothing back", many: true, three: true, run: func(t *test) {
		c, other := open[profile](t), open[profile](t)
		owners := t.owned(c)
		for n, away := range owners {
			sessions := each(c)
			doomed, saved, rotated := t.full(c, someone()), t.full(c, someone()), t.full(c, someone())
			old := rotated.ID()
			t.wire.aim(away)
			[]func(){t.wire.cut, func() { t.wire.silence(nil) }, func() { t.wire.slow(100 * time.Millisecond) }}[n]()
			created := c.create(someone())
			c.delete(doomed.ID())
			saved.Data.Note = fmt.Sprint(marker, n)
			c.save(saved)
			c.rotate(rotated)
			for i, use := range uses {
				if err := use.call(c, sessions[i]); err != nil {
					t.Errorf("%s: %v", use.name, err)
				}
			}
			check := func() {
				t.Helper()
				_, err := other.Load(doomed.ID())
				t.gone(err)
				_, err = other.Load(old)
				t.gone(err)
				equal(t, "note", other.load(saved.ID()).Data.Note, saved.Data.Note)
				other.load(created.ID())
				other.load(rotated.ID())
			}
			check()
			t.heal(other)
			t.wire.aim(owners[(n+1)%len(owners)]) // the next one is away
			t.wire.cut()
			check()
			t.heal(c)
		}
	}},
	{name: "without a majority nothing is done", many: true, run: func(t *test) {
		c := open[profile](t)
		sessions := each(c)
		states := map[string]string{}
		for _, s := range sessions {
			states[s.ID()] = t.state(s.ID())
		}
		t.wire.cut()
		began := time.Now()
		for i, use := range uses { // with time enough: it is known that it is of no use to wait
			t.is(use.call(c.within(20*time.Second), sessions[i]), redsession.ErrUnavailable)
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("took %v", took)
		}
		for id, state := range states {
			t.unwritten("a session", id, state)
		}
		t.heal(c)
		for i, use := range uses {
			t.ok(use.call(c, sessions[i]))
		}
	}},
	{name: "a copy that is missing is not missed", many: true, run: func(t *test) {
		c := open[profile](t)
		for n := range t.copies {
			for i, s := range each(c) {
				t.ok(t.at(s.ID())[n].Del(t.Context(), t.key(s.ID())).Err())
				t.ok(uses[i].call(c, s))
				c.load(s.ID())
				c.delete(s.ID())
				_, err := c.Load(s.ID())
				t.gone(err)
			}
		}
	}},
	{name: "a dead ID ends no session, also none that cannot be read", many: true, run: func(t *test) {
		c := open[profile](t)
		for _, damage := range [][]string{{"@d", marker}, {"@f", marker}, {"@s:visits", marker}} {
			for stale := range t.copies { // this copy has missed the rotation, and all are damaged
				s := t.full(c, someone())
				old, key, nodes := s.ID(), t.key(s.ID()), t.at(s.ID())
				before, err := nodes[stale].HGetAll(t.Context(), key).Result()
				t.ok(err)
				c.rotate(s)
				t.settle(s.ID())
				t.ok(nodes[stale].Del(t.Context(), key).Err())
				t.ok(nodes[stale].HSet(t.Context(), key, before).Err())
				for _, node := range nodes {
					t.ok(node.HSet(t.Context(), key, damage).Err())
				}
				hashes, _ := t.copiesOf(key)
				_, err = c.Load(s.ID())
				if !isDecodeError(err) {
					t.Errorf("%v, want a *DecodeError", err)
				}
				c.delete(old)
				c.delete(s.ID()[:16] + newID(t)[16:])
				after, _ := t.copiesOf(key)
				equal(t, "the copies", fmt.Sprint(after), fmt.Sprint(hashes))
				c.delete(s.ID())
				equal(t, "after a logout by its ID it exists", t.exists(s.ID()), false)
			}
		}
	}},
	{name: "a copy that cannot be read says nothing of the others", many: true, run: func(t *test) {
		c, other := open[profile](t), open[profile](t)
		s := t.full(c, someone())
		old, key, owners := s.ID(), t.key(s.ID()), t.owned(c)
		last := t.at(s.ID())[len(owners)-1]
		before, err := last.HGetAll(t.Context(), key).Result()
		t.ok(err)
		c.rotate(s)
		t.settle(s.ID())
		t.ok(last.Del(t.Context(), key).Err())
		before["@d"] = marker
		t.ok(last.HSet(t.Context(), key, before).Err())
		t.wire.set(func() {
			t.wire.aimed = map[string]bool{}
			for _, addr := range owners[:len(owners)-1] {
				t.wire.aimed[addr] = true
			}
		})
		t.wire.cut()
		t.is(c.within(time.Second).Delete(old), redsession.ErrUnavailable)    // by which it is valid there
		t.is(c.within(time.Second).Delete(s.ID()), redsession.ErrUnavailable) // which is unknown there
		after, err := last.HGetAll(t.Context(), key).Result()
		t.ok(err)
		equal(t, "the copy", fmt.Sprint(after), fmt.Sprint(before))
		t.heal(other)
		t.ok(last.Del(t.Context(), key).Err())
		other.load(s.ID())
	}},
	{name: "the clock may go back", many: true, moves: true, fake: true, run: func(t *test) {
		c := open[profile](t)
		sessions := each(c)
		t.elapse(-time.Hour)
		for i, use := range uses {
			t.ok(use.call(c, sessions[i]))
		}
		s := c.create(someone())
		equal(t, "created", s.CreatedAt().UnixMilli(), t.now())
		t.elapse(time.Hour)
		_, err := c.Load(s.ID())
		t.gone(err)
	}},
	{name: "the clock may leap", many: true, moves: true, fake: true, run: func(t *test) {
		c := open[profile](t)
		sessions := each(c)
		t.elapse(1000 * time.Hour)
		for i, use := range uses {
			t.gone(use.call(c, sessions[i]))
		}
		for range 3 {
			s := c.create(someone())
			equal(t, "created", s.CreatedAt().UnixMilli(), t.now())
			t.elapse(29 * time.Minute)
			t.ok(c.Touch(s.ID()))
			t.elapse(29 * time.Minute)
			s = c.load(s.ID())
			s.Data.Visits++
			c.save(s)
			t.elapse(29 * time.Minute)
			c.rotate(s)
		}
	}},
}
