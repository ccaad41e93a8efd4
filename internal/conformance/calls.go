package conformance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redsession/redsession"
)

var calls = []promise{
	{name: "a session is created, loaded, changed, saved and deleted", run: func(t *test) {
		c, other := open[profile](t), open[profile](t)
		before := t.now()
		s := c.create(someone())
		for what, got := range map[string]*session{"created": s, "loaded": other.load(s.ID())} {
			equal(t, what+" ID", got.ID(), s.ID())
			equal(t, what+" handle", got.Handle(), s.Handle())
			equal(t, what+" data", fmt.Sprint(got.Data), fmt.Sprint(someone()))
			t.version(what+" version", got.Version(), 1)
			if created := got.CreatedAt().UnixMilli(); created < before-t.lag() || created > t.now() {
				t.Errorf("%s: created at %d, and it was %d", what, created, before)
			}
			equal(t, what+" deadline", got.Deadline(), got.CreatedAt().Add(12*time.Hour))
			equal(t, what+" expiry", got.ExpiresAt(), got.CreatedAt().Add(30*time.Minute))
		}
		s.Data.Roles, s.Data.Note = append(s.Data.Roles, marker+"-more"), marker+"-note"
		c.save(s)
		t.version("version after a save", s.Version(), 2)
		got := other.load(s.ID())
		equal(t, "saved data", fmt.Sprint(got.Data), fmt.Sprint(s.Data))
		t.version("saved version", got.Version(), 2)
		equal(t, "saved creation", got.CreatedAt(), s.CreatedAt())
		t.ok(c.Touch(s.ID()))
		c.delete(s.ID())
		_, err := other.Load(s.ID())
		t.gone(err)
		equal(t, "the key is there", t.exists(s.ID()), false)
	}},
	{name: "a save tells the version that it made among those of others", one: true, run: func(t *test) {
		c := open[map[string]int](t)
		s := c.create(map[string]int{"a": 1})
		other := c.load(s.ID())
		for n := range 3 {
			other.Data["b"] = n + 1
			c.save(other)
		}
		s.Data["a"] = 2
		c.save(s)
		t.version("version", s.Version(), 5)
		t.version("stored version", c.load(s.ID()).Version(), 5)
		t.version("version of the other", other.Version(), 4)
	}},
	{name: "LoadMany answers one by one in their order", run: func(t *test) {
		c := open[profile](t)
		var ids []string
		for n := range 20 {
			data := someone()
			data.User, data.Visits = fmt.Sprint(marker, n%7), int64(n)
			ids = append(ids, c.create(data).ID())
		}
		deleted, corrupt, foreign, unknown := ids[3], ids[5], ids[7], newID(t)
		c.delete(deleted)
		t.plant(corrupt, "visits", marker)
		t.garble(foreign)
		asked := append(slices.Clone(ids), unknown, "", ids[0], "malformed", ids[0][:15]+unknown[15:])
		results := c.LoadMany(asked...)
		equal(t, "results", len(results), len(asked))
		for i, r := range results {
			switch id := asked[i]; {
			case id == corrupt:
				t.undecodable(r.Err, "visits")
			case id == foreign:
				t.undecodable(r.Err, "")
			case id == deleted || !slices.Contains(ids, id):
				t.gone(r.Err)
			case r.Err != nil:
				t.Errorf("%d: %v", i, r.Err)
			default:
				equal(t, "ID", r.Session.ID(), id)
				equal(t, "data", int(r.Session.Data.Visits), slices.Index(ids, id))
			}
		}
		equal(t, "results of no IDs", len(c.LoadMany()), 0)
	}},
	{name: "LoadMany of more than a packet holds", run: func(t *test) {
		c := open[profile](t)
		a, b := c.create(someone()).ID(), c.create(someone()).ID()
		asked := slices.Repeat([]string{a, b}, 700)
		for i, r := range c.LoadMany(asked...) {
			t.ok(r.Err)
			equal(t, "ID", r.Session.ID(), asked[i])
		}
	}},
	{name: "two loads of one ID are two sessions", run: func(t *test) {
		c := open[map[string]any](t)
		id := c.create(map[string]any{"list": []any{marker}, "in": map[string]any{"n": 1}}).ID()
		both := c.LoadMany(id, id)
		a, b, third := both[0].Session, both[1].Session, c.load(id)
		a.Data["list"].([]any)[0] = "changed"
		a.Data["in"].(map[string]any)["n"] = 2
		a.Data["new"] = true
		for _, s := range []*redsession.Session[map[string]any]{b, third} {
			equal(t, "data", fmt.Sprint(s.Data), fmt.Sprint(map[string]any{"list": []any{marker}, "in": map[string]any{"n": 1}}))
			if sent := t.wire.quiet(func() { c.save(s) }); sent != 0 {
				t.Errorf("a save of the unchanged one sent %d packets", sent)
			}
		}
	}},
	{name: "a session that a call refused is unchanged and can be saved", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		s.Data.Note = strings.Repeat(marker, 1<<17)
		t.is(c.Save(s), redsession.ErrTooLarge)
		t.is(c.Rotate(s), redsession.ErrTooLarge)
		t.version("version", s.Version(), 1)
		s.Data.Note = marker
		c.save(s)
		equal(t, "note", c.load(s.ID()).Data.Note, marker)
	}},
	{name: "a session that is none is refused", run: func(t *test) {
		c := open[profile](t)
		for _, s := range []*session{nil, {}, {Data: someone()}} {
			for name, err := range map[string]error{"Save": c.Client.Save(c.ctx, s), "Rotate": c.Client.Rotate(c.ctx, s)} {
				if t.note(err); err == nil || errors.Is(err, redsession.ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}},
	{name: "a ping asks every server", run: func(t *test) {
		c := open[profile](t)
		t.ok(c.Ping(c.ctx))
		t.wire.cut()
		t.is(c.Ping(c.within(200*time.Millisecond).ctx), redsession.ErrUnavailable)
		t.wire.heal()
		if t.ring == nil {
			t.ok(c.Ping(c.ctx))
		}
		t.poll(func() bool { return c.Ping(c.ctx) == nil }) // the pools of many nodes may hold many dead connections
	}},
	{name: "a closed client is unavailable and can be closed again", run: func(t *test) {
		c, other := open[profile](t), open[profile](t)
		sessions := each(c)
		t.ok(c.Close())
		t.ok(c.Close())
		for i, use := range uses {
			before := t.state(sessions[i].ID())
			t.is(use.call(c, sessions[i]), redsession.ErrUnavailable)
			t.unwritten(use.name, sessions[i].ID(), before)
		}
		_, err := c.Create(someone())
		t.is(err, redsession.ErrUnavailable)
		t.is(c.Delete(sessions[0].ID()), redsession.ErrUnavailable)
		t.is(c.Ping(c.ctx), redsession.ErrUnavailable)
		other.load(sessions[0].ID())
	}},
	{name: "a borrowed driver is not closed", redis: true, run: func(t *test) {
		rdb := t.target.Redis(t)
		c := with[profile](t, redsession.WithRedis(rdb), redsession.WithPrefix(t.prefix))
		for i, s := range each(c) {
			t.ok(uses[i].call(c, s))
		}
		t.ok(c.Close())
		t.ok(rdb.Ping(t.Context()).Err())
	}},
	{name: "a context that has ended sends nothing", run: func(t *test) {
		c := open[profile](t)
		sessions := each(c)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		late := c.in(ended)
		if sent := t.wire.quiet(func() {
			for i, use := range uses {
				err := use.call(late, sessions[i])
				t.is(err, redsession.ErrUnavailable)
				t.is(err, context.Canceled)
			}
			_, err := late.Create(someone())
			t.is(err, redsession.ErrUnavailable)
			t.is(err, context.Canceled)
			t.is(late.Delete(sessions[0].ID()), redsession.ErrUnavailable)
		}); sent != 0 {
			t.Errorf("%d packets", sent)
		}
		for i, use := range uses { // and what was refused can be done later
			t.ok(use.call(c, sessions[i]))
		}
	}},
	{name: "many goroutines share a client", run: func(t *test) {
		c := open[map[string]int](t)
		id := c.create(map[string]int{}).ID()
		t.together(16, func(n int) {
			for round := range 10 {
				s, err := c.Load(id)
				if err == nil {
					s.Data[fmt.Sprint(n)] = round + 1
					err = c.Save(s)
				}
				t.is(err, nil)
			}
		})
		s := c.load(id)
		equal(t, "fields", len(s.Data), 16)
		for name, n := range s.Data {
			equal(t, "field "+name, n, 10)
		}
		t.version("version", s.Version(), 161)
	}},
}
