package conformance

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"regexp"
	"strings"

	"github.com/redsession/redsession"
)

// newID is an ID that no session has.
func newID(t *test) string {
	var b [9 + 3 + 16]byte
	rand.Read(b[:])
	text := base64.RawURLEncoding.EncodeToString
	id := text(b[:12])[:15] + "." + text(b[12:])
	t.note(nil, id)
	return id
}

const minPepper = 16

var ids = []promise{
	{name: "an ID is 38 safe characters and begins with the handle", run: func(t *test) {
		c := open[profile](t)
		shape := regexp.MustCompile(`^[A-Za-z0-9_-]{15}\.[A-Za-z0-9_-]{22}$`)
		seen := map[string]bool{}
		for range 100 {
			s := c.create(profile{})
			if !shape.MatchString(s.ID()) {
				t.Errorf("the ID of %v has another shape", s)
			}
			equal(t, "handle", s.Handle(), s.ID()[:15])
			equal(t, "exists", t.exists(s.ID()), true)
			seen[s.ID()[:15]], seen[s.ID()[16:]] = true, true
		}
		equal(t, "different handles and secrets", len(seen), 200)
	}},
	{name: "a malformed ID is not found and sends nothing", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		id, state := s.ID(), t.state(s.ID())
		last := map[byte]byte{'A': 'B', 'Q': 'R', 'g': 'h', 'w': 'x'} // another spelling of the same bits
		malformed := []string{
			"", ".", s.Handle(), s.Handle() + ".", id[16:], id[15:], id + "A", "A" + id, id[:37], id[1:],
			id + "\n", id[:37] + "\n", id[:36] + "\r\n", " " + id, id + " ", id + "\x00", id[:36] + "==",
			id[:15] + id[16:] + "A", id[:14] + "." + id[14:15] + id[16:] + "A", strings.Replace(id, ".", ":", 1),
			"{" + id[1:], "}" + id[1:], "*" + id[1:], "." + id[1:], id[:4] + "}" + id[5:], "é" + id[2:], "\xff" + id[1:],
			id[:16] + "+" + id[17:], id[:16] + "/" + id[17:], id[:16] + "." + id[17:], id[:16] + "é" + id[18:],
			id[:37] + string(last[id[37]]), strings.Repeat(id, 1000), strings.Repeat("A", 38),
			t.key(id), "@a:" + id, "../" + id[3:],
		}
		if sent := t.wire.quiet(func() {
			for _, bad := range malformed {
				_, loaded := c.Load(bad)
				_, updated := c.Update(bad, func(*session) error { t.Error("Update ran its function"); return nil })
				for name, err := range map[string]error{
					"Load": loaded, "Update": updated, "LoadMany": c.LoadMany(bad)[0].Err, "Touch": c.Touch(bad),
				} {
					if err != redsession.ErrNotFound {
						t.Errorf("%s of %q: %v", name, bad, err)
					}
				}
				if err := c.Delete(bad); err != nil {
					t.Errorf("Delete of %q: %v", bad, err)
				}
			}
		}); sent != 0 {
			t.Errorf("%d packets", sent)
		}
		t.unwritten("the session", id, state)
	}},
	{name: "a session opens with its own pepper only", run: func(t *test) {
		current, old := []byte(marker+strings.Repeat("c", minPepper)), []byte(marker+strings.Repeat("o", minPepper))
		bare, first := open[profile](t), open[profile](t, redsession.WithPepper(old))
		second := open[profile](t, redsession.WithPepper(current, old, nil))
		last := open[profile](t, redsession.WithPepper(current))
		a, b, c := bare.create(someone()), first.create(someone()), second.create(someone())
		type with struct {
			client *client[profile]
			opens  []*session
			others []*session
		}
		check := func(list ...with) {
			t.Helper()
			for i, w := range list {
				for _, s := range w.opens {
					equal(t, "handle", w.client.load(s.ID()).Handle(), s.Handle())
					t.ok(w.client.Touch(s.ID()))
				}
				for _, s := range w.others {
					_, err := w.client.Load(s.ID())
					t.is(err, redsession.ErrNotFound)
					t.is(w.client.Touch(s.ID()), redsession.ErrNotFound)
					t.is(w.client.LoadMany(s.ID())[0].Err, redsession.ErrNotFound)
					t.ok(w.client.Delete(s.ID()))
				}
				var ids []string
				for _, s := range append(w.opens, w.others...) {
					ids = append(ids, s.ID())
				}
				for j, r := range w.client.LoadMany(ids...) {
					if found := r.Err == nil; found != (j < len(w.opens)) {
						t.Errorf("client %d, session %d: %v", i, j, r.Err)
					}
				}
			}
		}
		list := func(s ...*session) []*session { return s }
		check(with{bare, list(a), list(b, c)}, with{first, list(b), list(a, c)}, with{second, list(a, b, c), nil}, with{last, list(c), list(a, b)})

		// They stay what they are when they are saved, and take the current one with a
		// rotation.
		for _, s := range list(a, b) {
			loaded := second.load(s.ID())
			loaded.Data.Note = "saved"
			second.save(loaded)
		}
		check(with{bare, list(a), nil}, with{first, list(b), nil}, with{second, list(a, b), nil})
		former := list(a, b)
		for i, s := range former {
			rotated := second.load(s.ID())
			t.ok(second.Rotate(rotated))
			former[i] = rotated
		}
		check(with{second, former, list(a, b)}, with{last, former, list(a, b)}, with{bare, nil, former}, with{first, nil, former})
		for _, s := range former {
			t.ok(second.Delete(s.ID()))
		}
		d := first.create(someone())
		t.ok(second.Delete(d.ID()))
		check(with{second, list(c), append(former, d)})
	}},
	{name: "a wrong secret opens nothing and touches nothing", moves: true, run: func(t *test) {
		c := open[profile](t, redsession.WithTouchInterval(0))
		s, other := c.create(someone()), c.create(someone())
		t.elapse(t.unit)
		state := t.state(s.ID())
		for what, id := range map[string]string{
			"a secret at random":         s.ID()[:16] + newID(t)[16:],
			"another session's secret":   s.ID()[:16] + other.ID()[16:],
			"the secret in another case": s.ID()[:16] + swapCase(s.ID()[16:37]) + s.ID()[37:],
			"another handle":             newID(t)[:16] + s.ID()[16:],
		} {
			t.note(nil, id)
			_, loaded := c.Load(id)
			_, updated := c.Update(id, func(*session) error { t.Error("Update ran its function"); return nil })
			for name, err := range map[string]error{
				"Load": loaded, "Update": updated, "LoadMany": c.LoadMany(other.ID(), id)[1].Err, "Touch": c.Touch(id),
			} {
				if err != redsession.ErrNotFound {
					t.Errorf("%s with %s: %v", name, what, err)
				}
			}
			if err := c.Delete(id); err != nil {
				t.Errorf("Delete with %s: %v", what, err)
			}
			t.unwritten(what, s.ID(), state)
		}
		equal(t, "keys", len(t.keys()), 2)
	}},
	{name: "a session of another prefix is not found", run: func(t *test) {
		c := open[profile](t)
		other := open[profile](t, redsession.WithPrefix(t.prefix+":other"))
		for i, s := range each(c) {
			state := t.state(s.ID())
			t.gone(uses[i].call(other, s))
			t.ok(other.Delete(s.ID()))
			t.unwritten(uses[i].name, s.ID(), state)
		}
		equal(t, "keys", len(t.keys()), len(uses))
	}},
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if u := strings.ToUpper(string(r)); u != string(r) {
			return rune(u[0])
		}
		return rune(strings.ToLower(string(r))[0])
	}, s)
}

var principals = []promise{
	{name: "sessions of one principal are in one place and anonymous ones anywhere", run: func(t *test) {
		c, untyped := open[profile](t), open[map[string]string](t)
		const user = marker + "-1001"
		tags := map[string]bool{}
		for range 4 {
			tags[c.create(profile{User: user}).ID()[:4]] = true
			tags[untyped.create(nil, redsession.Principal(user)).ID()[:4]] = true
			tags[c.create(profile{User: user}, redsession.Principal(user)).ID()[:4]] = true
		}
		equal(t, "tags of one principal", len(tags), 1)
		for n := range 8 {
			tags[c.create(profile{User: fmt.Sprint(marker, n)}).ID()[:4]] = true
			tags[c.create(profile{}).ID()[:4]] = true
			tags[untyped.create(nil).ID()[:4]] = true
			tags[untyped.create(nil, redsession.Principal("")).ID()[:4]] = true
		}
		equal(t, "tags with 8 more principals and 24 of nobody", len(tags), 33)
	}},
	{name: "an integer is a principal in decimal and 0 is nobody", run: func(t *test) {
		type userID int64
		type numbered struct {
			ID userID `session:",principal"`
		}
		type small struct {
			ID uint8 `session:",principal"`
		}
		untyped, wide, narrow := open[map[string]string](t), open[numbered](t), open[small](t)
		for _, n := range []userID{1, 200, -7, 1 << 62} {
			want := untyped.create(nil, redsession.Principal(fmt.Sprint(int64(n)))).ID()[:4]
			equal(t, fmt.Sprint(n), wide.create(numbered{n}).ID()[:4], want)
			if n == 200 {
				equal(t, "uint8", narrow.create(small{uint8(n)}).ID()[:4], want)
			}
		}
		tags := map[string]bool{}
		for range 8 {
			tags[wide.create(numbered{}).ID()[:4]] = true
		}
		equal(t, "tags of nobody", len(tags), 8)
	}},
	{name: "a principal has at most 256 bytes", run: func(t *test) {
		c, untyped := open[profile](t), open[map[string]string](t)
		most := marker + strings.Repeat("é", 121) + "x"
		c.create(profile{User: most})
		untyped.create(nil, redsession.Principal(most))
		equal(t, "keys", len(t.keys()), 2)
		equal(t, "packets", t.wire.quiet(func() {
			_, err := c.Create(profile{User: most + "x"})
			t.is(err, redsession.ErrTooLarge)
			_, err = untyped.Create(nil, redsession.Principal(most+"x"))
			t.is(err, redsession.ErrTooLarge)
		}), 0)
		equal(t, "keys", len(t.keys()), 2)
	}},
	{name: "a principal never changes", run: func(t *test) {
		c := open[profile](t)
		anonymous := someone()
		anonymous.User = ""
		for _, data := range []profile{someone(), anonymous} {
			for _, changed := range []string{marker + "-other", ""} {
				if changed == data.User {
					continue
				}
				s := c.create(data)
				for what, s := range map[string]*session{"created": s, "loaded": c.load(s.ID())} {
					state := t.state(s.ID())
					s.Data.User, s.Data.Note = changed, marker
					t.is(c.Save(s), redsession.ErrPrincipalChanged)
					t.is(c.Rotate(s), redsession.ErrPrincipalChanged)
					_, err := c.Update(s.ID(), func(s *session) error { s.Data.User, s.Data.Note = changed, marker; return nil })
					t.is(err, redsession.ErrPrincipalChanged)
					t.unwritten(what, s.ID(), state)
				}
				s.Data.User = data.User
				c.save(s)
			}
		}
	}},
	{name: "a principal that contradicts the data is refused", run: func(t *test) {
		c := open[profile](t)
		for _, data := range []profile{someone(), {}} {
			if _, err := c.Create(data, redsession.Principal(marker+"-other")); err == nil {
				t.Error("accepted")
			}
		}
		equal(t, "keys", len(t.keys()), 0)
	}},
}
