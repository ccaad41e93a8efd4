package conformance

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redsession/redsession"
)

var updates = []promise{
	{name: "concurrent updates lose none", one: true, run: func(t *test) {
		c, other := open[profile](t), open[profile](t)
		s := c.create(someone())
		t.together(20, func(n int) {
			t.is([]*client[profile]{c, other}[n%2].visit(s.ID()), nil)
		})
		got := c.load(s.ID())
		equal(t, "count", got.Data.Visits, markerNumber+20)
		t.version("version", got.Version(), 21)
	}},
	{name: "an update that was overtaken starts again on what is stored then", one: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		var seen []string
		got, err := c.Update(s.ID(), func(u *session) error {
			seen = append(seen, fmt.Sprint(u.Data.Visits-markerNumber, u.Version()))
			if len(seen) < 3 {
				t.ok(c.visit(s.ID()))
			}
			u.Data.Visits++
			return nil
		})
		t.ok(err)
		equal(t, "seen", fmt.Sprint(seen), "[0 1 1 2 2 3]")
		equal(t, "result", got.Data.Visits, markerNumber+3)
		t.version("version", got.Version(), 4)
		equal(t, "expiry", got.ExpiresAt().UnixMilli(), t.expires(s.ID()))
		equal(t, "stored", c.load(s.ID()).Data.Visits, markerNumber+3)
	}},
	{name: "another field's save is a conflict too and none of it is lost", one: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		s.Data.Note = "x"
		runs := 0
		_, err := c.Update(s.ID(), func(u *session) error {
			if runs++; runs == 1 {
				c.save(s)
			}
			u.Data.Visits = 1
			return nil
		})
		t.ok(err)
		equal(t, "runs", runs, 2)
		equal(t, "data", fmt.Sprint(c.load(s.ID()).Data), fmt.Sprint(profile{someone().User, someone().Roles, 1, "x"}))
	}},
	{name: "an update with no change saves nothing", one: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		state := t.state(s.ID())
		got, err := c.Update(s.ID(), func(*session) error { return nil })
		t.ok(err)
		t.version("version", got.Version(), 1)
		t.unwritten("state", s.ID(), state)
	}},
	{name: "an error of the function ends the update and saves nothing", one: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		state := t.state(s.ID())
		for _, own := range []error{errOwn, fmt.Errorf("%w %w", errOwn, redsession.ErrConflict), fmt.Errorf("%w %w", errOwn, redsession.ErrUnavailable)} {
			runs := 0
			got, err := c.Update(s.ID(), func(u *session) error { runs++; u.Data.Note = marker; return own })
			if err != own || got != nil || runs != 1 {
				t.Errorf("%v and %v after %d runs", got, err, runs)
			}
		}
		t.unwritten("state", s.ID(), state)
	}},
	{name: "an error of the function is given also when it ran again and the context has ended", one: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		own := fmt.Errorf("%w: %w", errOwn, redsession.ErrUnavailable) // of another session's store, say
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		runs := 0
		_, err := c.in(ctx).Update(s.ID(), func(u *session) error {
			if runs++; runs == 1 {
				t.ok(c.visit(s.ID()))
				u.Data.Visits = 1
				return nil
			}
			cancel()
			return own
		})
		if err != own {
			t.Errorf("%v, want the function's own", err)
		}
	}},
	{name: "an update that never gets its turn is a conflict", one: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		total := int64(0)
		for want, limit := range map[error]time.Duration{context.DeadlineExceeded: time.Second, context.Canceled: time.Minute} {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			runs := 0
			_, err := c.in(ctx).Update(s.ID(), func(u *session) error {
				t.ok(c.visit(s.ID()))
				u.Data.Note = marker
				if runs++; runs == 3 && want == context.Canceled {
					cancel()
				} else if runs == 3 {
					<-ctx.Done()
				}
				return nil
			})
			t.is(err, redsession.ErrConflict)
			t.is(err, want)
			total += int64(runs)
		}
		got := c.load(s.ID())
		equal(t, "note", got.Data.Note, "")
		equal(t, "visits", got.Data.Visits, markerNumber+total)
	}},
	{name: "an update of what is none does not run its function", one: true, run: func(t *test) {
		c := open[profile](t)
		_, err := c.Update(newID(t), func(*session) error { t.Error("it ran"); return nil })
		t.gone(err)
	}},
}

var rotation = []promise{
	{name: "a rotation keeps the handle and the data and kills the old ID", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		stale := c.load(s.ID())
		old, handle, created, deadline := s.ID(), s.Handle(), s.CreatedAt(), s.Deadline()
		c.rotate(s)
		equal(t, "handle", s.Handle(), handle)
		equal(t, "handle in the ID", s.ID()[:16], old[:16])
		equal(t, "same ID", s.ID() == old, false)
		t.version("version", s.Version(), 1)
		got := c.load(s.ID())
		equal(t, "data", fmt.Sprint(got.Data), fmt.Sprint(someone()))
		t.version("version", got.Version(), 1)
		equal(t, "created", got.CreatedAt(), created)
		equal(t, "deadline", got.Deadline(), deadline)
		state := t.state(s.ID())
		for _, use := range uses {
			dead := *stale
			if err := use.call(c, &dead); err != redsession.ErrNotFound {
				t.Errorf("%s by the old ID: %v", use.name, err)
			}
			equal(t, use.name+" keeps the ID", dead.ID(), old)
			t.unwritten(use.name, s.ID(), state)
		}
		t.ok(c.Delete(old))
		t.unwritten("after Delete by the old ID", s.ID(), state)
		for _, use := range uses { // and s is usable
			t.ok(use.call(c, s))
		}
	}},
	{name: "unsaved changes go along in a rotation", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		other := c.load(s.ID())
		other.Data.Visits = 2
		c.save(other)
		s.Data.Roles, s.Data.Note = []string{"admin"}, marker
		c.rotate(s)
		t.version("version", s.Version(), 3)
		got := c.load(s.ID())
		equal(t, "data", fmt.Sprint(got.Data), fmt.Sprint(profile{someone().User, []string{"admin"}, 2, marker}))
		t.version("version", got.Version(), 3)
		s.Data.Note = ""
		c.rotate(s)
		equal(t, "note is stored", fmt.Sprint(t.stored(s.ID())), "[roles user visits]")
		equal(t, "packets to save it", t.wire.quiet(func() { c.save(s) }), 0)
	}},
	{name: "a session has one verifier however often it rotates", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		seen := map[string]bool{}
		for range 12 {
			seen[s.ID()] = true
			c.rotate(s)
			verifiers := 0
			for name := range t.hash(s.ID()) {
				if strings.HasPrefix(name, "@a:") {
					verifiers++
				}
			}
			equal(t, "verifiers", verifiers, 1)
		}
		equal(t, "IDs", len(seen), 12)
	}},
	{name: "of two rotations of one ID the second is not found", run: func(t *test) {
		c := open[profile](t)
		a := c.create(someone())
		var list []*session
		for range 8 {
			list = append(list, c.load(a.ID()))
		}
		var mu sync.Mutex
		var won *session
		t.together(len(list), func(n int) {
			list[n].Data.Visits = int64(n)
			if err := c.Rotate(list[n]); err == nil {
				mu.Lock()
				defer mu.Unlock()
				if won != nil {
					t.Error("two have won")
				}
				won = list[n]
			} else {
				t.gone(err)
				equal(t, "ID", list[n].ID(), a.ID())
			}
		})
		if won == nil && t.copies > 1 { // each had the votes of some owners only: the session is over
			_, err := c.Load(a.ID())
			t.gone(err)
			return
		}
		if won == nil {
			t.Fatal("none has won")
		}
		equal(t, "visits", c.load(won.ID()).Data.Visits, won.Data.Visits)
		t.gone(c.Rotate(a))
	}},
}

var logout = []promise{
	{name: "a logout holds", run: func(t *test) {
		c := open[profile](t)
		for i, s := range each(c) {
			other := c.load(s.ID())
			c.delete(s.ID())
			for _, s := range []*session{s, other} {
				if err := uses[i].call(c, s); err != redsession.ErrNotFound {
					t.Errorf("%s: %v", uses[i].name, err)
				}
			}
			_, err := c.Load(s.ID())
			t.gone(err)
		}
		equal(t, "keys", len(t.keys()), 0)
	}},
	{name: "a logout can be repeated", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		for range 3 {
			c.delete(s.ID())
		}
		c.delete(newID(t))
		equal(t, "keys", len(t.keys()), 0)
	}},
	{name: "a logout while an update thinks holds", one: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		runs := 0
		_, err := c.Update(s.ID(), func(u *session) error {
			runs++
			u.Data.Visits++
			c.delete(s.ID())
			return nil
		})
		t.gone(err)
		equal(t, "runs", runs, 1)
		equal(t, "keys", len(t.keys()), 0)
	}},
	{name: "a logout holds against everything that is under way", run: func(t *test) {
		c, other := open[profile](t), open[profile](t)
		for range 5 {
			s := c.create(someone())
			deleted := make(chan struct{})
			t.together(1+2*len(uses), func(n int) {
				if n == 0 {
					defer close(deleted)
					_, err := other.Load(s.ID())
					t.is(err, nil)
					t.is(other.Delete(s.ID()), nil)
					return
				}
				use := uses[n%len(uses)]
				if strings.HasPrefix(use.name, "Rotate") {
					use = uses[0] // or the ID that is deleted would be the old one
				}
				mine, err := c.Load(s.ID())
				for ended := false; err == nil; {
					if err = use.call(c, mine); err == nil && ended {
						t.Errorf("%s after the logout", use.name)
						return
					}
					select {
					case <-deleted:
						ended = true
					default:
					}
				}
				t.gone(err)
			})
			equal(t, "exists", t.exists(s.ID()), false)
		}
		equal(t, "keys", len(t.keys()), 0)
	}},
	{name: "a logout of one session is none of another", run: func(t *test) {
		c := open[profile](t)
		a, b := c.create(someone()), c.create(someone())
		c.delete(a.ID())
		c.load(b.ID())
	}},
}
