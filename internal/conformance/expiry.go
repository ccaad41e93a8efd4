package conformance

import (
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
)

// touched is when a session was last touched, as stored.
func (t *test) touched(id string) int64 {
	t.Helper()
	ms, err := strconv.ParseInt(t.hash(id)["@t"], 10, 64)
	t.ok(err)
	return ms
}

// liveOut uses a session in short steps until it ends, which must be at its
// deadline: the use keeps it alive, and no longer than that.
func (t *test) liveOut(create func() *session, use func(*session) error) {
	t.Helper()
	t.patiently(func() bool {
		s := create()
		deadline, used := s.Deadline().UnixMilli(), s.CreatedAt().UnixMilli()
		for idle := s.ExpiresAt().UnixMilli() - used; ; {
			t.elapse(t.unit)
			before := t.now()
			err := use(s)
			now := t.now()
			if t.target.Advance == nil && now-used >= idle/2 {
				return false // more than the touch interval may have passed without a use
			}
			if used = before; err != nil {
				t.gone(err)
				if now < deadline {
					t.Errorf("in use, it ended %d ms before its deadline", deadline-now)
				}
				t.poll(func() bool { return !t.exists(s.ID()) })
				return true
			}
			if ends := t.expires(s.ID()); before > deadline || ends > deadline || ends == -1 {
				t.Errorf("it is %d ms past the deadline, the key ends %d ms after it", before-deadline, ends-deadline)
				return true
			}
		}
	})
}

// refreshes checks after how long a load refreshes the idle timeout.
func (t *test) refreshes(c *client[profile], interval time.Duration, opts ...redsession.CreateOption) {
	t.Helper()
	idle := func(s *session) time.Duration { return s.ExpiresAt().Sub(s.CreatedAt()) }
	t.patiently(func() bool {
		s := c.create(someone(), opts...)
		created := t.touched(s.ID())
		if t.target.Advance != nil {
			t.elapse(interval - time.Millisecond)
		}
		loaded, err := c.Load(s.ID())
		saved := 0
		if err == nil {
			saved = t.wire.during(func() { err = c.Save(loaded) })
		}
		if t.now()-created >= interval.Milliseconds() {
			return false
		}
		t.ok(err)
		equal(t, "touched", t.touched(s.ID()), created)
		equal(t, "packets of a save with no change", saved, 0)
		equal(t, "expiry", loaded.ExpiresAt(), s.ExpiresAt())

		if t.target.Advance != nil {
			t.elapse(time.Millisecond)
		} else {
			t.elapse(interval)
		}
		before := t.now()
		loaded, err = c.Load(s.ID())
		if t.target.Advance == nil && t.now()-created >= idle(s).Milliseconds() {
			return false
		}
		t.ok(err)
		touched := t.touched(s.ID())
		if touched < before {
			t.Errorf("%v after the last touch there was none", interval)
		}
		equal(t, "expiry once touched", loaded.ExpiresAt(), time.UnixMilli(touched).Add(idle(s)))
		equal(t, "the key's expiry", t.expires(s.ID()), loaded.ExpiresAt().UnixMilli())
		return true
	})
}

var expiry = []promise{
	{name: "a session ends at its very millisecond for every call", moves: true, run: func(t *test) {
		c := open[profile](t)
		life, more := 3*t.unit, 1000*t.unit
		ends := map[string][]redsession.CreateOption{
			"idle": {redsession.Idle(life), redsession.Lifetime(more)}, "lifetime": {redsession.Idle(more), redsession.Lifetime(life)},
		}
		offsets := []time.Duration{-time.Millisecond, 0, time.Millisecond}
		if t.target.Advance == nil {
			offsets = offsets[1:] // one cannot be so exact
		}
		for _, offset := range offsets {
			sessions := map[string][]*session{}
			for what, opts := range ends {
				sessions[what] = each(c, opts...)
			}
			t.elapse(life + offset)
			for what, list := range sessions {
				for i, use := range uses {
					s, at := list[i], fmt.Sprintf("%s at %s + %v", use.name, what, offset)
					err := use.call(c, s)
					if offset >= 0 {
						if err != redsession.ErrNotFound {
							t.Errorf("%s: %v", at, err)
						}
						t.ok(c.Delete(s.ID()))
						t.poll(func() bool { return !t.exists(s.ID()) })
						continue
					}
					t.is(err, nil)
					want := s.Deadline().UnixMilli()
					if what == "idle" {
						want = t.now() + life.Milliseconds()
					}
					equal(t, at, t.expires(s.ID()), want)
				}
			}
		}
		s := c.create(someone(), ends["idle"]...)
		_, err := c.Update(s.ID(), func(s *session) error { t.elapse(life); s.Data.Visits++; return nil })
		t.gone(err)
		t.poll(func() bool { return !t.exists(s.ID()) })
	}},
	{name: "use keeps a session alive until its lifetime ends", moves: true, run: func(t *test) {
		c := open[profile](t)
		n := 0
		t.liveOut(func() *session {
			return c.create(someone(), redsession.Idle(4*t.unit), redsession.Lifetime(10*t.unit))
		}, func(s *session) error {
			n++
			return uses[n%len(uses)].call(c, s)
		})
	}},
	{name: "a session with a short idle timeout of its own lives when it is used", moves: true, run: func(t *test) {
		c := open[profile](t, redsession.WithTouchInterval(20*time.Minute))
		create := func() *session {
			return c.create(someone(), redsession.Idle(4*t.unit), redsession.Lifetime(12*t.unit))
		}
		t.liveOut(create, func(s *session) error { _, err := c.Load(s.ID()); return err })
		t.liveOut(create, func(s *session) error {
			// Without a touch that is due it sends nothing, and so does not notice the end.
			if err := c.Save(s); err != nil || t.exists(s.ID()) {
				return err
			}
			return redsession.ErrNotFound
		})
	}},
	{name: "an idle timeout is refreshed after a sixteenth", moves: true, run: func(t *test) {
		t.refreshes(open[profile](t, redsession.WithIdleTimeout(32*t.unit)), 2*t.unit)
		t.refreshes(open[profile](t), 2*t.unit, redsession.Idle(32*t.unit))
	}},
	{name: "an idle timeout is refreshed after the touch interval", moves: true, run: func(t *test) {
		c := open[profile](t, redsession.WithIdleTimeout(100*t.unit), redsession.WithTouchInterval(3*t.unit))
		t.refreshes(c, 3*t.unit)
		t.refreshes(c, 3*t.unit, redsession.Idle(50*t.unit))
		t.refreshes(c, 2*t.unit, redsession.Idle(4*t.unit)) // half of its own
	}},
	{name: "with a touch interval of 0 every load refreshes", moves: true, run: func(t *test) {
		c := open[profile](t, redsession.WithTouchInterval(0))
		s := c.create(someone())
		for range 3 {
			t.elapse(t.unit / 50)
			before := t.now()
			if loaded := c.load(s.ID()); t.touched(s.ID()) < before || loaded.ExpiresAt().UnixMilli() != t.expires(s.ID()) {
				t.Error("not refreshed")
			}
			t.packets("a save with no change", t.sent(s.ID(), func() { c.save(s) }), 1, 1, 1)
		}
	}},
	{name: "Touch refreshes at once and changes nothing else", moves: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		before := t.hash(s.ID())
		t.elapse(t.unit)
		t.ok(c.Touch(s.ID()))
		after := t.hash(s.ID())
		equal(t, "expiry", t.expires(s.ID()), t.touched(s.ID())+30*60_000)
		if moved := t.touched(s.ID()) - s.CreatedAt().UnixMilli(); moved < t.unit.Milliseconds() {
			t.Errorf("touched %d ms after the creation", moved)
		}
		delete(before, "@t")
		delete(after, "@t")
		equal(t, "the rest", fmt.Sprintf("%q", after), fmt.Sprintf("%q", before))
	}},
	{name: "a save with no change sends a touch that is due", moves: true, run: func(t *test) {
		c := open[profile](t, redsession.WithTouchInterval(t.unit))
		s := c.create(someone())
		t.elapse(t.unit * 5 / 4) // the client only guesses the server's time
		t.packets("a touch", t.sent(s.ID(), func() { c.save(s) }), 1, 1, 1)
		equal(t, "expiry", s.ExpiresAt().UnixMilli(), t.expires(s.ID()))
		if s.ExpiresAt().Sub(s.CreatedAt()) < 30*time.Minute+t.unit {
			t.Error("not touched")
		}
		t.version("version", c.load(s.ID()).Version(), 1)
		t.elapse(t.unit * 5 / 4)
		c.delete(s.ID())
		t.gone(c.Save(s))
	}},
	{name: "idle timeout and lifetime are the session's own", moves: true, run: func(t *test) {
		short := open[profile](t, redsession.WithIdleTimeout(time.Second), redsession.WithLifetime(2*time.Second))
		long := open[profile](t, redsession.WithIdleTimeout(time.Hour), redsession.WithLifetime(1000*time.Hour))
		for what, s := range map[string]*session{
			"of the client": long.create(someone()),
			"of its own":    short.create(someone(), redsession.Idle(time.Hour), redsession.Lifetime(1000*time.Hour)),
		} {
			t.elapse(t.unit)
			for _, c := range []*client[profile]{short, long} {
				t.ok(c.Touch(s.ID()))
				got := c.load(s.ID())
				equal(t, what, got.ExpiresAt().UnixMilli(), t.touched(s.ID())+3_600_000)
				equal(t, what, t.expires(s.ID()), t.touched(s.ID())+3_600_000)
				equal(t, what, got.Deadline(), got.CreatedAt().Add(1000*time.Hour))
			}
		}
		capped := long.create(someone(), redsession.Lifetime(time.Minute))
		equal(t, "capped", capped.ExpiresAt(), capped.Deadline())
		equal(t, "capped", t.expires(capped.ID()), capped.Deadline().UnixMilli())
	}},
	{name: "an idle timeout or a lifetime that is none is refused", run: func(t *test) {
		c := open[profile](t)
		for _, d := range []time.Duration{0, -1, -time.Hour, time.Microsecond, 1 << 62} {
			_, idle := c.Create(someone(), redsession.Idle(d))
			_, lifetime := c.Create(someone(), redsession.Lifetime(d))
			if t.note(idle); idle == nil || lifetime == nil {
				t.Errorf("%v is accepted", d)
			}
		}
		equal(t, "keys", len(t.keys()), 0)
	}},
	{name: "a key that has lost its TTL ends all the same", moves: true, run: func(t *test) {
		c := open[profile](t)
		sessions := each(c, redsession.Idle(3*t.unit))
		sessions = append(sessions, each(c, redsession.Lifetime(3*t.unit))...)
		for _, s := range sessions {
			t.past(s.ID(), func(node *redis.Client, key string) error { return node.Persist(t.Context(), key).Err() })
		}
		t.elapse(3 * t.unit)
		for i, s := range sessions {
			use, state := uses[i%len(uses)], t.state(s.ID())
			if err := use.call(c, s); err != redsession.ErrNotFound {
				t.Errorf("%s: %v", use.name, err)
			}
			t.unwritten(use.name, s.ID(), state)
			c.delete(s.ID())
			equal(t, "exists", t.exists(s.ID()), false)
		}
	}},
	{name: "a live key that has lost its TTL gets it back", run: func(t *test) {
		c := open[profile](t, redsession.WithTouchInterval(0))
		for i, s := range each(c) {
			t.past(s.ID(), func(node *redis.Client, key string) error { return node.Persist(t.Context(), key).Err() })
			t.ok(uses[i].call(c, s))
			t.poll(func() bool {
				_, ends := t.copiesOf(t.key(s.ID()))
				return !slices.Contains(ends, -1)
			})
			equal(t, uses[i].name, t.expires(s.ID()), t.touched(s.ID())+30*60_000)
		}
	}},
	{name: "a client whose clock is an hour wrong sees and does the same", moves: true, run: func(t *test) {
		now := time.Now
		if t.target.Now != nil {
			now = t.target.Now
		}
		var skew atomic.Int64 // a ring's client looks at the clock all the time
		right := open[profile](t)
		wrong := open[profile](t, redsession.WithClock(func() time.Time { return now().Add(time.Duration(skew.Load())) }))
		for _, off := range []time.Duration{time.Hour, -time.Hour} {
			skew.Store(int64(off))
			s := right.create(someone())
			for what, got := range map[string]*session{"loaded": wrong.load(s.ID()), "loaded right": right.load(s.ID())} {
				equal(t, what, got.CreatedAt(), s.CreatedAt())
				equal(t, what, got.Deadline(), s.Deadline())
				equal(t, what, got.ExpiresAt(), s.ExpiresAt())
			}
			made := wrong.create(someone())
			if off := made.CreatedAt().UnixMilli() - t.now(); off > 0 || off < -60_000 {
				t.Errorf("created %d ms from now", off)
			}
			t.elapse(t.unit)
			for i, s := range each(right) {
				t.elapse(t.unit / 10)
				t.ok(uses[i].call(wrong, s))
				t.ok(uses[i].call(wrong, wrong.load(s.ID())))
			}
			// A clock that jumps between a load and a save.
			s = wrong.load(made.ID())
			skew.Store(int64(-off))
			for _, c := range []*client[profile]{wrong, right} {
				t.ok(c.Save(s))
				t.ok(c.Touch(s.ID()))
				c.load(s.ID())
			}
		}
	}},
}
