package conformance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redsession/redsession"
)

// soon is what a test gives a call that cannot succeed.
const soon = 150 * time.Millisecond

// unanswered makes a call that writes and never gets an answer, however often it
// tries.
func (t *test) unanswered(c *client[profile], call func(*client[profile]) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	lost := 3
	if t.copies > 1 {
		lost = t.copies // of one attempt
	}
	t.wire.lose(lost, cancel)
	err := call(c.in(ctx))
	t.heal(c)
	t.is(err, redsession.ErrUnconfirmed)
	t.is(err, context.Canceled)
}

// heal mends the network. On a ring the client must find that out for each node:
// until then it writes to the others.
func (t *test) heal(c *client[profile]) {
	t.Helper()
	t.wire.heal()
	if t.copies == 1 {
		return
	}
	t.ok(c.Delete(t.full(c, someone()).ID()))
}

var faults = []promise{
	{name: "a lost answer is made up for and nothing is done twice", one: true, run: func(t *test) {
		c := open[profile](t)
		for _, lost := range []int{1, 2} {
			during := func(call func()) {
				t.wire.lose(lost, nil)
				call()
				t.wire.set(func() {
					if t.wire.lost != 0 {
						t.Errorf("%d answers were not lost", t.wire.lost)
					}
				})
				t.wire.heal()
			}
			var s *session
			during(func() { s = c.create(someone()) })
			for _, key := range t.keys() {
				node := t.target.For(key)
				hash, ttl := node.HGetAll(t.Context(), key).Val(), node.PTTL(t.Context(), key).Val()
				if key != t.key(s.ID()) && (len(hash) != 1 || hash["@f"] != "0" || ttl <= 0 || ttl > time.Minute) {
					t.Errorf("an attempt that was given up has left %q for %v", hash, ttl)
				}
			}
			s.Data.Visits = 1
			during(func() { c.save(s) })
			t.version("version", s.Version(), 2)
			during(func() { t.ok(c.visit(s.ID())) })
			got := c.load(s.ID())
			equal(t, "visits", got.Data.Visits, 2)
			t.version("version", got.Version(), 3)
			old := s.ID()
			got.Data.Visits = 5
			during(func() { c.rotate(got) })
			_, err := c.Load(old)
			t.gone(err)
			got = c.load(got.ID())
			equal(t, "visits", got.Data.Visits, 5)
			t.version("version", got.Version(), 4)
			during(func() { t.ok(c.Touch(got.ID())) })
			during(func() { c.delete(got.ID()) })
			equal(t, "exists", t.exists(got.ID()), false)
		}
	}},
	{name: "a write that is never answered is unconfirmed and can be repeated", run: func(t *test) {
		c := open[profile](t)
		sessions := each(c)
		t.unanswered(c, func(c *client[profile]) error { _, err := c.Create(someone()); return err })
		t.unanswered(c, func(c *client[profile]) error { return c.Delete(sessions[0].ID()) })
		equal(t, "deleted", t.exists(sessions[0].ID()), false)
		c.delete(sessions[0].ID())
		for i, use := range uses[2:] {
			s := sessions[i+2]
			id, version := s.ID(), s.Version()
			t.unanswered(c, func(c *client[profile]) error { return use.call(c, s) })
			equal(t, "ID", s.ID(), id)
			equal(t, "version", s.Version(), version) // that it has loaded
		}
		for i, use := range uses[2:] {
			s := sessions[i+2]
			switch use.name {
			case "Save":
				c.save(s)
			case "Rotate", "Rotate with a change":
				old := s.ID()
				c.rotate(s)
				equal(t, "same ID", s.ID() == old, false)
				_, err := c.Load(old)
				t.gone(err)
			}
			got, once := c.load(s.ID()), int64(1)
			if use.name == "Touch" || use.name == "Rotate" {
				once = 0
			}
			equal(t, use.name+": visits", got.Data.Visits, markerNumber+once)
			t.version(use.name+": version", got.Version(), 1+once)
			if use.name != "Update" {
				equal(t, use.name+": its version", s.Version(), got.Version())
				equal(t, use.name+": its data", fmt.Sprint(s.Data), fmt.Sprint(got.Data))
				equal(t, use.name+": packets to save it", t.wire.quiet(func() { c.save(s) }), 0)
			}
		}
	}},
	{name: "a write that was repeated tells the expiry that is stored", moves: true, run: func(t *test) {
		c := open[profile](t)
		for i, use := range uses {
			if use.name != "Save" && !strings.HasPrefix(use.name, "Rotate") {
				continue
			}
			s := each(c)[i]
			t.unanswered(c, func(c *client[profile]) error { return use.call(c, s) })
			t.elapse(t.unit)
			if use.name == "Save" {
				c.save(s)
			} else {
				c.rotate(s)
			}
			equal(t, use.name, s.ExpiresAt().UnixMilli(), t.expires(s.ID()))
			equal(t, use.name+", as loaded", s.ExpiresAt(), open[profile](t, redsession.WithTouchInterval(25*time.Minute)).load(s.ID()).ExpiresAt())
		}
	}},
	{name: "changes after an unconfirmed save are saved too", run: func(t *test) {
		c := open[profile](t)
		for _, end := range []func(*session) error{c.Save, c.Rotate} {
			s := c.create(someone())
			t.settle(s.ID())
			s.Data.Visits = 1
			t.unanswered(c, func(c *client[profile]) error { return c.Save(s) })
			other := c.load(s.ID())
			other.Data.Roles = []string{"admin"}
			c.save(other)
			s.Data.Note = marker
			t.ok(end(s))
			equal(t, "data", fmt.Sprint(c.load(s.ID()).Data), fmt.Sprint(profile{someone().User, []string{"admin"}, 1, marker}))
			t.version("version", s.Version(), 4)
		}
	}},
	{name: "an unconfirmed rotation is finished by what comes next", run: func(t *test) {
		c := open[profile](t)
		for name, end := range map[string]func(*session) error{"Save": c.Save, "Rotate": c.Rotate} {
			for _, change := range []bool{false, true} {
				s := c.create(someone())
				t.settle(s.ID())
				old := s.ID()
				for range 2 {
					t.unanswered(c, func(c *client[profile]) error { return c.Rotate(s) })
					equal(t, "ID", s.ID(), old)
				}
				if change {
					s.Data.Note = marker
				}
				t.ok(end(s))
				if s.ID() == old {
					t.Errorf("%s has not finished the rotation", name)
				}
				_, err := c.Load(old)
				t.gone(err)
				equal(t, name, c.load(s.ID()).Data.Note, s.Data.Note)
			}
		}
	}},
	{name: "a logout holds against a save that is repeated", run: func(t *test) {
		c := open[profile](t)
		for i, use := range uses {
			if use.name != "Save" && !strings.HasPrefix(use.name, "Rotate") {
				continue
			}
			s := each(c)[i]
			id := s.ID()
			t.unanswered(c, func(c *client[profile]) error { return use.call(c, s) })
			t.bury(id)
			t.gone(c.Save(s))
			t.gone(c.Rotate(s))
			equal(t, use.name, t.exists(id), false)
		}
	}},
	{name: "a save that is repeated undoes nothing that others saved meanwhile", one: true, run: func(t *test) {
		c := open[profile](t)
		for _, others := range []int64{1, 7, 8, 9, 30} {
			s := c.create(someone())
			s.Data.Visits, s.Data.Note = 1, marker
			t.unanswered(c, func(c *client[profile]) error { return c.Save(s) })
			other := c.load(s.ID())
			for n := range others {
				other.Data.Visits = 100 + n
				c.save(other)
			}
			err := c.Save(s)
			if others < 8 {
				t.is(err, nil)
			} else if err != nil { // one cannot tell any more
				t.is(err, redsession.ErrUnconfirmed)
				t.is(c.Save(s), redsession.ErrUnconfirmed)
			}
			got := c.load(s.ID())
			equal(t, fmt.Sprintf("data after %d saves", others), fmt.Sprint(got.Data), fmt.Sprint(other.Data))
			t.version("version", got.Version(), 2+others)
			got.Data.Visits = 7 // loaded anew it can be saved
			c.save(got)
			equal(t, "visits", c.load(s.ID()).Data.Visits, 7)
		}
	}},
	{name: "many saves in between do not hinder a save", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		other := c.load(s.ID())
		for n := range int64(30) {
			other.Data.Visits = n
			c.save(other)
		}
		s.Data.Note = marker
		c.save(s)
		t.version("version", s.Version(), 32)
		got := c.load(s.ID()).Data
		equal(t, "data", fmt.Sprint(got.Visits, " ", got.Note), "29 "+marker)
	}},
	{name: "a touch that fails does not make a load fail", run: func(t *test) {
		c := open[profile](t, redsession.WithTouchInterval(0))
		s := c.create(someone())
		t.wire.lose(100, nil)
		c.load(s.ID())
		for _, r := range c.LoadMany(s.ID(), s.ID()) {
			t.is(r.Err, nil)
		}
	}},
	{name: "servers that are away are no logout", run: func(t *test) {
		c := open[profile](t)
		sessions := each(c)
		t.wire.cut()
		for i, use := range uses {
			err := use.call(c.within(soon), sessions[i])
			if t.is(err, redsession.ErrUnavailable); t.copies == 1 { // a ring knows after a second that they are away
				t.is(err, context.DeadlineExceeded)
			}
		}
		_, err := c.within(soon).Create(someone())
		t.is(err, redsession.ErrUnavailable)
		t.is(c.within(soon).Delete(sessions[0].ID()), redsession.ErrUnavailable)
		results := c.within(soon).LoadMany(sessions[0].ID(), "malformed", sessions[1].ID())
		t.is(results[0].Err, redsession.ErrUnavailable)
		t.gone(results[1].Err)
		t.is(results[2].Err, redsession.ErrUnavailable)
		equal(t, "keys", len(t.keys()), len(uses))
		t.heal(c)
		for i, use := range uses {
			t.ok(use.call(c, sessions[i]))
		}
	}},
	{name: "a call waits for servers that come back", run: func(t *test) {
		c := open[profile](t)
		sessions := each(c)
		t.wire.cut()
		time.AfterFunc(soon, t.wire.heal)
		t.together(len(uses), func(n int) { t.is(uses[n].call(c, sessions[n]), nil) })
	}},
	{name: "a call returns when its context ends", run: func(t *test) {
		c := open[profile](t)
		for n, s := range each(c) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			t.wire.silence(cancel)
			began := time.Now()
			err := uses[n].call(c.in(ctx), s)
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s took %v", uses[n].name, took)
			}
			t.is(err, context.Canceled)
			switch name := uses[n].name; {
			case name == "Load", name == "LoadMany", name == "Update", // which has not come to its save
				t.copies > 1 && !strings.HasPrefix(name, "Rotate") && name != "Save": // which has not either
				t.is(err, redsession.ErrUnavailable)
			default:
				t.is(err, redsession.ErrUnconfirmed)
			}
			t.heal(c)
			t.ok(uses[n].call(c, s))
		}
	}},
	{name: "a first call returns when its context ends though others wait longer", run: func(t *test) {
		id := newID(t)
		c := open[profile](t)
		c.create(someone()) // so that there is something to look at
		for range 3 {
			fresh := with[profile](t, t.options()...)
			t.wire.silence(nil)
			var patient sync.WaitGroup
			patient.Go(func() { _, _ = fresh.within(4 * time.Second).Load(id) })
			time.Sleep(50 * time.Millisecond)
			began := time.Now()
			_, err := fresh.within(soon).Load(id)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
			t.is(err, redsession.ErrUnavailable)
			t.wire.heal()
			patient.Wait()
		}
	}},
	{name: "a call without a deadline ends after WithTimeout", run: func(t *test) {
		c := open[profile](t, redsession.WithTimeout(soon))
		s := c.create(someone())
		t.wire.silence(nil)
		began := time.Now()
		_, err := c.in(context.Background()).Load(s.ID())
		if took := time.Since(began); took < soon || took > 10*time.Second {
			t.Errorf("took %v", took)
		}
		t.is(err, redsession.ErrUnavailable)
		t.is(err, context.DeadlineExceeded)
	}},
	{name: "closing ends what is under way", run: func(t *test) {
		c := open[profile](t)
		sessions := each(c)
		t.wire.silence(nil)
		closed := make(chan error)
		time.AfterFunc(soon, func() { closed <- c.Close() })
		began := time.Now()
		t.together(len(uses), func(n int) {
			if err := uses[n].call(c, sessions[n]); err == nil {
				t.Errorf("%s succeeded", uses[n].name)
			}
		})
		t.is(<-closed, nil)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("took %v", took)
		}
	}},
}
