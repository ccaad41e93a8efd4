package conformance

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"strings"

	"github.com/redsession/redsession"
)

// encryption is about sessions that are encrypted. That nothing of a value can be
// read in the store is looked at after every test, see inspect.
var encryption = []promise{
	{name: "an encrypted session shows names and no values", sealed: true, run: func(t *test) {
		sealed, plain := open[map[string]any](t), reach[map[string]any](t, t.plain(t)...)
		data := map[string]any{"a name": marker, "number": markerNumber, "bytes": []byte(marker), "in": map[string]any{marker: marker}}
		for what, c := range map[string]*client[map[string]any]{"plain": plain, "encrypted": sealed} {
			s := c.create(data)
			s.Data["later"] = strings.Repeat(marker, 100)
			c.save(s)
			c.rotate(s)
			state := t.state(s.ID())
			equal(t, what+" shows a name", strings.Contains(state, "a name"), true)
			equal(t, what+" shows a value", strings.Contains(state, marker), what == "plain")
		}
	}},
	{name: "what was saved is what is loaded", sealed: true, run: func(t *test) {
		c, other := open[map[string][]byte](t), open[map[string][]byte](t)
		random := mathrand.NewChaCha8([32]byte{1})
		r := mathrand.New(random)
		some := func(most int) []byte {
			b := make([]byte, r.IntN(most+1))
			random.Read(b)
			return b
		}
		id, want := c.create(nil).ID(), map[string][]byte{}
		for range 60 {
			s := c.load(id)
			if !maps.EqualFunc(s.Data, want, bytes.Equal) {
				t.Fatalf("%q, want %q", s.Data, want)
			}
			for range r.IntN(4) {
				name := "n" + string(some(20))
				s.Data[name] = some(3000)
				want[name] = s.Data[name]
			}
			for name := range want {
				if r.IntN(5) == 0 {
					delete(s.Data, name)
					delete(want, name)
				}
			}
			c.save(s)
			c, other = other, c
		}
	}},
	{name: "only what changed is encrypted anew", sealed: true, run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		before := t.bytes(s.ID())
		s = c.load(s.ID())
		s.Data.Note = marker
		c.save(s)
		s.Data.Visits++
		c.rotate(s)
		t.ok(c.Touch(s.ID()))
		after := t.bytes(s.ID())
		for _, name := range []string{"user", "roles", "@k", "@f"} {
			equal(t, name, fmt.Sprintf("%x", after[name]), fmt.Sprintf("%x", before[name]))
		}
		equal(t, "visits", after["visits"] == before["visits"], false)
		equal(t, "the bytes of @k", len(after["@k"]), 64)
		equal(t, "the bytes of a field of 1", len(t.bytes(c.create(profile{}).ID())["visits"]), 1+28)
	}},
	{name: "a new key takes over session by session", sealed: true, run: func(t *test) {
		next := anotherKey()
		old, both := open[profile](t), open[profile](t, redsession.WithEncryption(next, t.target.Key))
		early, fresh := open[profile](t, redsession.WithEncryption(t.target.Key, next)), open[profile](t, redsession.WithEncryption(next))
		s := old.create(someone())
		before := t.bytes(s.ID())

		mine := both.load(s.ID())
		equal(t, "packets of a save with no change", t.wire.quiet(func() { both.save(mine) }), 0)
		both.rotate(mine)
		equal(t, "after a rotation", t.bytes(mine.ID())["@k"], before["@k"])
		mine.Data.Visits = 1
		both.save(mine)
		after := t.bytes(mine.ID())
		equal(t, "the data key is wrapped anew", after["@k"] == before["@k"], false)
		equal(t, "roles", after["roles"], before["roles"])
		mine.Data.Visits = 2
		both.save(mine)
		equal(t, "wrapped by the new key already", t.bytes(mine.ID())["@k"], after["@k"])

		equal(t, "by the new key", fresh.load(mine.ID()).Data.Visits, 2)
		equal(t, "by whom the new key was told", early.load(mine.ID()).Data.Visits, 2)
		_, err := old.Load(mine.ID())
		t.undecodable(err, "")
		_, err = fresh.Load(old.create(someone()).ID())
		t.undecodable(err, "")
		early.load(both.create(someone()).ID())
	}},
	{name: "clients that wrap a data key at once do not matter to each other", sealed: true, run: func(t *test) {
		next := anotherKey()
		early, both := open[profile](t, redsession.WithEncryption(t.target.Key, next)), open[profile](t, redsession.WithEncryption(next, t.target.Key))
		s := open[profile](t).create(someone())
		clients := []*client[profile]{early, both}
		t.together(8, func(n int) {
			c := clients[n%2]
			for range 5 {
				s, err := c.Load(s.ID())
				if err != nil {
					t.Error(err)
					return
				}
				s.Data.Visits, s.Data.Note = int64(n), fmt.Sprint(marker, n)
				t.is(c.Save(s), nil)
			}
		})
		equal(t, "what is loaded", fmt.Sprint(early.load(s.ID()).Data), fmt.Sprint(both.load(s.ID()).Data))
	}},
	{name: "who has not the key can touch and delete, not read or write", sealed: true, run: func(t *test) {
		c := open[profile](t)
		for reason, stranger := range map[string]*client[profile]{
			"is encrypted": reach[profile](t, append(t.plain(t), redsession.WithTouchInterval(0))...),
			"does not have": open[profile](t, redsession.WithTouchInterval(0),
				redsession.WithEncryption(anotherKey(), anotherKey()), redsession.WithPlainSessions(true)),
		} {
			s := c.create(someone())
			state := t.state(s.ID())
			_, err := stranger.Load(s.ID())
			for call, err := range map[string]error{"Load": err, "LoadMany": stranger.LoadMany(s.ID())[0].Err, "Update": stranger.visit(s.ID())} {
				if e := t.undecodable(err, ""); !strings.Contains(e.Error(), reason) {
					t.Errorf("%s: %v: it does not say that it %s", call, e, reason)
				}
			}
			t.unwritten(reason, s.ID(), state)

			s.Data.Note = marker // a session that it was handed is not written in plain text
			t.ok(stranger.Save(s))
			equal(t, "note", c.load(s.ID()).Data.Note, marker)

			t.ok(stranger.Touch(s.ID()))
			c.load(s.ID())
			stranger.delete(s.ID())
			_, err = c.Load(s.ID())
			t.gone(err)
		}
	}},
	{name: "encryption is introduced while clients are running", sealed: true, run: func(t *test) {
		without, strict := reach[profile](t, t.plain(t)...), open[profile](t)
		first, second := open[profile](t, redsession.WithPlainSessions(true)), open[profile](t, redsession.WithPlainSessions(false))
		for _, c := range []*client[profile]{without, first} {
			s := c.create(someone())
			for n, c := range []*client[profile]{without, first, second} {
				s := c.load(s.ID())
				s.Data.Visits, s.Data.Note = int64(n), marker
				c.save(s)
				equal(t, "visits", without.load(s.ID()).Data.Visits, int64(n)) // it stays plain
			}
			_, err := strict.Load(s.ID())
			if e := t.undecodable(err, ""); !strings.Contains(e.Error(), "not encrypted") {
				t.Error(e)
			}
			equal(t, "format", t.hash(s.ID())["@f"], "1:msgpack")
			strict.delete(s.ID())
		}
		for _, c := range []*client[profile]{second, strict} {
			s := c.create(someone())
			for n, c := range []*client[profile]{first, second, strict} {
				s := c.load(s.ID())
				s.Data.Visits = int64(n)
				c.save(s)
				equal(t, "visits", strict.load(s.ID()).Data.Visits, int64(n))
			}
			_, err := without.Load(s.ID())
			t.undecodable(err, "")
			equal(t, "format", t.hash(s.ID())["@f"], "1:msgpack"+sealedSuffix)
		}
	}},
	{name: "what was put elsewhere or damaged is refused by name", sealed: true, run: func(t *test) {
		c := open[profile](t)
		lenient := open[profile](t, redsession.WithPlainSessions(true))
		other := t.bytes(c.create(someone()).ID())
		for _, tampering := range []struct {
			what  string
			field string
			plant func(own map[string]string) []string
		}{
			{"another field", "roles", func(own map[string]string) []string { return []string{"roles", own["user"]} }},
			{"another session's", "visits", func(map[string]string) []string { return []string{"visits", other["visits"]} }},
			{"a plain value", "visits", func(map[string]string) []string { return []string{"visits", "\x01"} }},
			{"nothing", "visits", func(map[string]string) []string { return []string{"visits", ""} }},
			{"cut", "user", func(own map[string]string) []string { return []string{"user", own["user"][:40]} }},
			{"flipped", "user", func(own map[string]string) []string {
				return []string{"user", own["user"][:40] + "!" + own["user"][41:]}
			}},
			{"another session's data key", "", func(map[string]string) []string { return []string{"@k", other["@k"]} }},
			{"no data key", "", func(map[string]string) []string { return []string{"@k", ""} }},
			{"a cut data key", "", func(own map[string]string) []string { return []string{"@k", own["@k"][:63]} }},
			{"a plain format", "", func(map[string]string) []string { return []string{"@f", "1:msgpack"} }},
			{"another's fields", "", func(own map[string]string) []string {
				var fields []string
				for name, value := range other {
					if !strings.HasPrefix(name, "@a:") {
						fields = append(fields, name, value)
					}
				}
				return fields
			}},
		} {
			s := c.create(someone())
			t.plantBytes(s.ID(), tampering.plant(t.bytes(s.ID()))...)
			state := t.state(s.ID())
			for _, c := range []*client[profile]{c, lenient} {
				_, err := c.Load(s.ID())
				if e, ok := errors.AsType[*redsession.DecodeError](err); !ok || e.Field != tampering.field {
					t.Errorf("%s: %v, want a *DecodeError of field %q", tampering.what, err, tampering.field)
				}
			}
			t.unwritten(tampering.what, s.ID(), state)
			c.delete(s.ID())
			equal(t, "exists", t.exists(s.ID()), false)
		}
	}},
}

// bytes is what is stored of a session, as it is.
func (t *test) bytes(id string) map[string]string {
	t.Helper()
	t.settle(id)
	hash, _ := t.whole(t.key(id))
	return hash
}

func anotherKey() []byte {
	key := make([]byte, 32)
	rand.Read(key)
	return key
}
