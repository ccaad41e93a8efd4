package conformance

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"time"

	"github.com/redsession/redsession"
)

var saves = []promise{
	{name: "fields do not overwrite each other", run: func(t *test) {
		c := open[profile](t)
		a := c.create(someone())
		b := c.load(a.ID())
		a.Data.Roles = []string{"a"}
		b.Data.Note = "b"
		c.save(b)
		c.save(a)
		b.Data.Visits = 3
		c.rotate(b)
		got := c.load(b.ID()).Data
		want := profile{User: someone().User, Roles: []string{"a"}, Visits: 3, Note: "b"}
		equal(t, "data", fmt.Sprint(got), fmt.Sprint(want))
	}},
	{name: "of two saves of one field the last wins", run: func(t *test) {
		c := open[profile](t)
		a := c.create(someone())
		b := c.load(a.ID())
		a.Data.Note, b.Data.Note = "a", "b"
		c.save(a)
		c.save(b)
		equal(t, "note", c.load(a.ID()).Data.Note, "b")
		a.Data.Note = ""
		c.save(a)
		equal(t, "note", c.load(a.ID()).Data.Note, "")
		b.Data.Visits = 1 // b's note is as it was: it is not written again
		c.save(b)
		equal(t, "note", c.load(a.ID()).Data.Note, "")
	}},
	{name: "only what changed is removed from a map", run: func(t *test) {
		c := open[map[string]int](t)
		a := c.create(map[string]int{"a": 1, "b": 2})
		b := c.load(a.ID())
		b.Data["c"] = 3
		c.save(b)
		delete(a.Data, "a")
		a.Data["d"] = 4
		c.save(a)
		equal(t, "data", fmt.Sprint(c.load(a.ID()).Data), "map[b:2 c:3 d:4]")
	}},
	{name: "a save with no change sends nothing", run: func(t *test) {
		for _, codec := range codecs {
			c := open[kinds](t, redsession.WithCodec(codec))
			for i, data := range samples() {
				s := c.create(data)
				state := t.state(s.ID())
				for what, s := range map[string]*redsession.Session[kinds]{"created": s, "loaded": c.load(s.ID())} {
					if sent := t.wire.quiet(func() { c.save(s) }); sent != 0 {
						t.Errorf("%s, sample %d %s: %d packets", codec.Name(), i, what, sent)
					}
					s.Data.Int++
					s.Data.Slice = append(s.Data.Slice, "x")
					s.Data.Int--
					s.Data.Slice = s.Data.Slice[:len(s.Data.Slice)-1]
					if data.Slice == nil {
						s.Data.Slice = nil
					}
					if sent := t.wire.quiet(func() { c.save(s) }); sent != 0 {
						t.Errorf("%s, sample %d %s, changed back: %d packets", codec.Name(), i, what, sent)
					}
					t.version("version", s.Version(), 1)
				}
				t.unwritten("state", s.ID(), state)
			}
		}
	}},
	{name: "a map in another order is no change", run: func(t *test) {
		type unordered struct {
			Ints  map[string]int
			Keys  map[int]string
			Any   any
			Lists map[string][]map[string]bool
		}
		fill := func() (u unordered) {
			u = unordered{Ints: map[string]int{}, Keys: map[int]string{}, Lists: map[string][]map[string]bool{}}
			in := map[string]any{}
			for n := range 40 {
				k := fmt.Sprint(n)
				u.Ints[k], u.Keys[n], in[k] = n, k, map[string]any{k: int64(n), "b" + k: "x"}
				u.Lists[k] = []map[string]bool{{k: true, "b": false}}
			}
			u.Any = in
			return u
		}
		for _, codec := range codecs {
			c := open[unordered](t, redsession.WithCodec(codec))
			m := open[map[string]unordered](t, redsession.WithCodec(codec))
			s, entries := c.create(fill()), m.create(map[string]unordered{"a": fill(), "b": fill()})
			state := t.state(s.ID()) + t.state(entries.ID())
			if sent := t.wire.quiet(func() {
				for range 10 {
					s.Data = fill()
					c.save(s)
					entries.Data["a"] = fill()
					m.save(entries)
				}
			}); sent != 0 {
				t.Errorf("%s: %d packets", codec.Name(), sent)
			}
			equal(t, "state", t.state(s.ID())+t.state(entries.ID()), state)
			s.Data.Ints["7"]++
			c.save(s)
			equal(t, "a change in it", c.load(s.ID()).Data.Ints["7"], 8)
		}
	}},
	{name: "NaN is no change and minus zero is one", run: func(t *test) {
		type floats struct {
			F    float64
			Any  any
			List []float32
			Map  map[int]float64
			In   struct{ P *float64 }
		}
		fill := func(of float64) (f floats) {
			f = floats{F: of, Any: map[string]any{"a": of, "b": 1.5}, List: []float32{float32(of)}, Map: map[int]float64{}}
			for n := range 20 {
				f.Map[n] = of
			}
			f.In.P = &of
			return f
		}
		c := open[floats](t)
		s := c.create(fill(math.NaN()))
		for what, s := range map[string]*redsession.Session[floats]{"created": s, "loaded": c.load(s.ID())} {
			if sent := t.wire.quiet(func() {
				for range 5 {
					c.save(s)
				}
			}); sent != 0 {
				t.Errorf("NaN, %s: %d packets", what, sent)
			}
		}
		for _, codec := range codecs {
			c := open[floats](t, redsession.WithCodec(codec))
			s := c.create(fill(0))
			s.Data = fill(math.Copysign(0, -1))
			c.save(s)
			got := c.load(s.ID()).Data
			for what, f := range map[string]float64{"F": got.F, "List": float64(got.List[0]), "Map": got.Map[7], "In": *got.In.P} {
				equal(t, codec.Name()+": "+what+" is minus zero", math.Signbit(f), true)
			}
			if sent := t.wire.quiet(func() { c.save(s) }); sent != 0 {
				t.Errorf("%s: %d packets to save it again", codec.Name(), sent)
			}
		}
	}},
	{name: "another program's encoding of the same value is no change", run: func(t *test) {
		type small struct {
			N    int
			List []string
			M    map[string]uint8
			F    float64
			In   struct{ A, B int }
		}
		data := small{N: 5, List: []string{"x"}, M: map[string]uint8{"a": 1, "b": 2}, F: 1.5}
		data.In.A, data.In.B = 1, 2
		for codec, theirs := range map[redsession.Codec][]string{
			redsession.MsgPack{}: {
				"N", "\xd3\x00\x00\x00\x00\x00\x00\x00\x05", "List", "\xdd\x00\x00\x00\x01\xdb\x00\x00\x00\x01x",
				"M", "\xde\x00\x02\xd9\x01b\xcc\x02\xa1a\xcd\x00\x01", "F", "\xca\x3f\xc0\x00\x00",
				"In", "\x82\xa1B\xd0\x02\xa1A\x01",
			},
			redsession.JSON{}: {
				"N", " 5\n", "List", "[\n\"\\u0078\"]", "M", `{"b": 2, "a": 1}`, "F", "15e-1", "In", `{"B":2,"A":1}`,
			},
		} {
			c := open[small](t, redsession.WithCodec(codec))
			s := c.create(data)
			t.plant(s.ID(), theirs...)
			s = c.load(s.ID())
			equal(t, codec.Name(), fmt.Sprint(s.Data), fmt.Sprint(data))
			state := t.state(s.ID())
			if sent := t.wire.quiet(func() { c.save(s) }); sent != 0 {
				t.Errorf("%s: %d packets", codec.Name(), sent)
			}
			t.unwritten("state", s.ID(), state)
			s.Data.N = 6
			c.save(s)
			after := t.hash(s.ID())
			for i := 2; i < len(theirs); i += 2 {
				equal(t, theirs[i], after[theirs[i]], theirs[i+1])
			}
			equal(t, "N", c.load(s.ID()).Data.N, 6)
		}
	}},
	{name: "nil and empty are different values", run: func(t *test) {
		for _, codec := range codecs {
			c := open[profile](t, redsession.WithCodec(codec))
			s := c.create(profile{})
			s.Data.Roles = []string{}
			c.save(s)
			t.version("version", s.Version(), 2)
			equal(t, "is nil", c.load(s.ID()).Data.Roles == nil, false)
			s.Data.Roles = nil
			c.save(s)
			equal(t, "is nil", c.load(s.ID()).Data.Roles == nil, true)
		}
	}},
	{name: "after a save a session is as if just loaded", moves: true, run: func(t *test) {
		c := open[map[string]int](t)
		s := c.create(map[string]int{"a": 1})
		for n := range 4 {
			t.elapse(t.unit)
			s.Data["a"] = n + 2
			s.Data[fmt.Sprint("x", n)] = n
			delete(s.Data, fmt.Sprint("x", n-1))
			switch n {
			case 0, 2:
				c.save(s)
			case 1:
				c.rotate(s)
			case 3:
				var err error
				s, err = c.Update(s.ID(), func(u *redsession.Session[map[string]int]) error {
					maps.Copy(u.Data, s.Data)
					return nil
				})
				t.ok(err)
			}
			equal(t, "expiry", s.ExpiresAt().UnixMilli(), t.expires(s.ID()))
			loaded := c.load(s.ID())
			equal(t, "version", s.Version(), loaded.Version())
			equal(t, "ID", s.ID(), loaded.ID())
			equal(t, "expiry as loaded", s.ExpiresAt(), loaded.ExpiresAt())
			if sent := t.wire.quiet(func() { c.save(s) }); sent != 0 {
				t.Errorf("%d packets to save it again", sent)
			}
		}
	}},
	{name: "more fields than a script can unpack at once", run: func(t *test) {
		c := open[map[string]string](t)
		data := map[string]string{}
		for n := range 4096 {
			data[fmt.Sprint("field ", n)] = marker
		}
		s := c.create(data, redsession.Lifetime(time.Minute)) // shorter than the idle timeout
		if late := t.expires(s.ID()) - s.Deadline().UnixMilli(); late > 0 {
			t.Errorf("the key ends %d ms after the session's deadline", late)
		}
		equal(t, "entries", len(c.load(s.ID()).Data), 4096)
		for name := range s.Data {
			if strings.HasSuffix(name, "7") {
				delete(s.Data, name)
			} else {
				s.Data[name] = "changed"
			}
		}
		want := len(s.Data)
		c.save(s)
		if late := t.expires(s.ID()) - s.Deadline().UnixMilli(); late > 0 {
			t.Errorf("after a save the key ends %d ms after the session's deadline", late)
		}
		got := c.load(s.ID())
		equal(t, "entries", len(got.Data), want)
		for name, v := range got.Data {
			equal(t, name, v, "changed")
		}
		for name := range got.Data {
			got.Data[name] = "rotated"
		}
		c.rotate(got)
		equal(t, "entries", len(c.load(got.ID()).Data), want)
	}},
	{name: "a session may have as many fields and bytes as it may, whatever the call", run: func(t *test) {
		const most = 1000
		overhead := 0
		if t.target.Key != nil {
			overhead = 28
		}
		type data = map[string]string
		c := open[data](t, redsession.WithMaxSize(most))
		exact := func(name string) data { // all in one field, encoded
			return data{name: strings.Repeat("x", most-len(name)-3-overhead)}
		}
		s := c.create(data{"a": marker})
		for step, call := range []func(data){
			func(d data) { s.Data = d; c.save(s) },
			func(d data) { s.Data = d; c.rotate(s) },
			func(d data) {
				var err error
				s, err = c.Update(s.ID(), func(s *redsession.Session[data]) error { s.Data = d; return nil })
				t.ok(err)
			},
		} {
			name := strings.Repeat("n", step+1)
			call(exact(name)) // in the place of the former one, of another name
			got := c.load(s.ID()).Data
			equal(t, "fields", len(got), 1)
			equal(t, "bytes of the value", len(got[name]), len(exact(name)[name]))
			long := exact(name)
			long[name] += "x"
			s.Data = long
			t.is(c.Save(s), redsession.ErrTooLarge)
			_, err := c.Create(long)
			t.is(err, redsession.ErrTooLarge)
			s.Data = exact(name)
		}

		wide := open[data](t)
		many := func(n int) data {
			d := make(data, n)
			for i := range n {
				d[fmt.Sprint("f", i)] = ""
			}
			return d
		}
		full := wide.create(nil)
		full.Data = many(4096)
		wide.save(full)
		full.Data["one more"] = ""
		t.is(wide.Save(full), redsession.ErrTooLarge)
		delete(full.Data, "f7") // and one less
		wide.save(full)
		equal(t, "fields", len(wide.load(full.ID()).Data), 4096)
	}},
	{name: "saves that are together too large are refused by a load until it is smaller", run: func(t *test) {
		c := open[map[string]string](t, redsession.WithMaxSize(1000))
		wide := open[map[string]string](t)
		for _, half := range []func(of string) map[string]string{
			func(of string) map[string]string { return map[string]string{of: strings.Repeat("x", 600)} },
			func(of string) map[string]string {
				d := map[string]string{}
				for n := range 2049 {
					d[fmt.Sprint(of, n)] = ""
				}
				return d
			},
		} {
			client := c
			if len(half("a")) > 1 {
				client = wide
			}
			a := client.create(nil)
			b := client.load(a.ID())
			a.Data, b.Data = half("a"), half("b")
			client.save(a)
			client.save(b)
			_, err := client.Load(a.ID())
			t.undecodable(err, "")
			_, err = client.Update(a.ID(), func(*redsession.Session[map[string]string]) error { return nil })
			t.undecodable(err, "")
			t.ok(client.Touch(a.ID()))
			a.Data = nil
			client.save(a)
			equal(t, "fields", len(client.load(a.ID()).Data), len(half("b")))
			a.Data = half("a")
			client.save(a)
			client.delete(a.ID())
			_, err = client.Load(a.ID())
			t.gone(err)
		}
	}},
	{name: "a session has at most 4096 fields and WithMaxSize bytes", run: func(t *test) {
		most, overhead := 1000, 0
		if t.target.Key != nil {
			overhead = 28
		}
		c, wide := open[map[string]string](t, redsession.WithMaxSize(most)), open[map[string]string](t)
		exact := func(size int) map[string]string { // in two fields, encoded
			return map[string]string{"a": strings.Repeat("x", 300), "b": strings.Repeat("y", size-300-3-3-2-2*overhead)}
		}
		s := c.create(exact(most))
		equal(t, "size", len(c.load(s.ID()).Data["b"]), most-308-2*overhead)
		over, many := exact(most+1), map[string]string{}
		for n := range 4097 {
			many[fmt.Sprint(n)] = ""
		}
		state := t.state(s.ID())
		for _, try := range []struct {
			c    *client[map[string]string]
			data map[string]string
		}{{c, over}, {wide, many}} {
			if sent := t.wire.quiet(func() {
				_, err := try.c.Create(try.data)
				t.is(err, redsession.ErrTooLarge)
				s.Data = try.data
				t.is(try.c.Save(s), redsession.ErrTooLarge)
				t.is(try.c.Rotate(s), redsession.ErrTooLarge)
			}); sent != 0 {
				t.Errorf("%d packets", sent)
			}
			sent := t.wire.during(func() {
				_, err := try.c.Update(s.ID(), func(s *redsession.Session[map[string]string]) error { s.Data = try.data; return nil })
				t.is(err, redsession.ErrTooLarge)
			})
			if t.copies == 1 {
				equal(t, "packets of Update, which loads", sent, 1)
			}
			t.unwritten("state", s.ID(), state)
		}
		s.Data = map[string]string{"a": marker}
		c.save(s)

		_, err := c.Load(wide.create(over).ID())
		t.undecodable(err, "")
		_, err = c.Load(wide.create(map[string]string{"a": "x", "long": strings.Repeat(marker, most)}).ID())
		t.undecodable(err, "long")
		delete(many, "0")
		full := wide.create(many)
		wide.load(full.ID())
		t.plant(full.ID(), "one too many", "\xa0")
		_, err = wide.Load(full.ID())
		t.undecodable(err, "")
		wide.delete(full.ID())
		equal(t, "exists", t.exists(full.ID()), false)
	}},
}
