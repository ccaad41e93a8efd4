package conformance

import (
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
)

// foreign is about bytes that others put there.
var foreign = []promise{
	{name: "a session of another codec is refused by name", run: func(t *test) {
		list := []*client[profile]{}
		for _, codec := range []redsession.Codec{redsession.MsgPack{}, redsession.JSON{}, backwards{}} {
			list = append(list, open[profile](t, redsession.WithCodec(codec)))
		}
		names := []string{"msgpack", "json", "back-wards.2"}
		for w, writer := range list {
			s := writer.create(someone())
			state := t.state(s.ID())
			for r, reader := range list {
				if r == w {
					continue
				}
				_, loaded := reader.Load(s.ID())
				for call, err := range map[string]error{"Load": loaded, "Update": reader.visit(s.ID())} {
					text := t.undecodable(err, "").Error()
					if !strings.Contains(text, names[w]) || !strings.Contains(text, names[r]) {
						t.Errorf("%s: %q does not name %s and %s", call, text, names[w], names[r])
					}
				}
				t.unwritten("state", s.ID(), state)
			}
			list[(w+1)%len(list)].delete(s.ID())
			equal(t, "exists", t.exists(s.ID()), false)
		}
	}},
	{name: "a session of a newer format is refused and left as it is", run: func(t *test) {
		c := open[profile](t, redsession.WithTouchInterval(0))
		for i, s := range each(c) {
			for _, format := range []string{"2:msgpack", "2:something else", "999:" + marker} {
				t.plant(s.ID(), "@f", format)
				state := t.state(s.ID())
				err := uses[i].call(c, s)
				if !isDecodeError(err) || !strings.Contains(err.Error(), "format") {
					t.Errorf("%s of a session of format %s: %v", uses[i].name, format, err)
				}
				t.unwritten(uses[i].name, s.ID(), state)
			}
			c.delete(s.ID())
			equal(t, "exists", t.exists(s.ID()), false)
		}
	}},
	{name: "a session whose records are unreadable is no session and can be deleted", run: func(t *test) {
		c := open[profile](t)
		for _, record := range t.records("@c", "@d", "@i", "@t", "@f") {
			for _, value := range []string{"", marker, "-1", "1e3", "0x10", " 1", "1.5", "nan", "inf", "9007199254740994", "99999999999999999999", "(missing)"} {
				if record == "@t" && value == "(missing)" && t.copies > 1 {
					continue // a tombstone
				}
				s := c.create(someone())
				t.plant(s.ID(), record, value)
				if value == "(missing)" {
					t.past(s.ID(), func(node *redis.Client, key string) error { return node.HDel(t.Context(), key, record).Err() })
				}
				state := t.state(s.ID())
				_, err := c.Load(s.ID())
				t.undecodable(err, record)
				t.undecodable(c.visit(s.ID()), record)
				t.unwritten(record+" "+value, s.ID(), state)
				c.delete(s.ID())
				equal(t, "after a deletion with "+record+" "+value+" it exists", t.exists(s.ID()), false)
			}
		}
	}},
	{name: "a write meets unreadable records and writes nothing", run: func(t *test) {
		c := open[profile](t)
		for _, record := range t.records("@d", "@i", "@t") {
			for _, value := range []string{"", marker, "nan", "(missing)"} {
				if record == "@t" && value == "(missing)" && t.copies > 1 {
					continue // a tombstone
				}
				for i, s := range each(c) {
					switch uses[i].name {
					case "Load", "LoadMany", "Update":
						continue
					}
					t.plant(s.ID(), record, value)
					if value == "(missing)" {
						t.past(s.ID(), func(node *redis.Client, key string) error { return node.HDel(t.Context(), key, record).Err() })
					}
					state := t.state(s.ID())
					at := fmt.Sprintf("%s with %s %q", uses[i].name, record, value)
					if err := uses[i].call(c, s); !isDecodeError(err) {
						t.Errorf("%s: %v", at, err)
					}
					t.unwritten(at, s.ID(), state)
				}
			}
		}
	}},
	{name: "a key of another type is unreadable and stays", run: func(t *test) {
		c := open[profile](t)
		for i, s := range each(c) {
			t.garble(s.ID())
			t.undecodable(uses[i].call(c, s), "")
			c.Delete(s.ID())
			for _, node := range t.at(s.ID()) {
				if got, err := node.Get(t.Context(), t.key(s.ID())).Result(); err != nil || got != marker {
					t.Errorf("%s: %q, %v", uses[i].name, got, err)
				}
			}
		}
	}},
	{name: "a field of garbage is named and the session can be deleted", run: func(t *test) {
		garbage := map[string][]string{
			"msgpack": {"", "\xc1", "\xa3a", marker, "\x01\x01", "\xcd\x01", "\x81", "\xdf\xff\xff\xff\xff", "\xc0\xc0",
				strings.Repeat("\x91", 100_000), "\xdb\xff\xff\xff\xff" + marker, "\xc7\x01\x55\x00", "\xd3\x7f\xff\xff\xff\xff\xff\xff\xff"},
			"json": {"", marker, `{"` + marker, `"` + marker + `"`, "7340912655" + "0000000000000", "1 2", "[1]x", `"\u00"`,
				strings.Repeat("[", 100_000), "\xff\xfe"},
		}
		type typed struct {
			Number int8   `session:"number"`
			Text   string `session:"text"`
		}
		for _, codec := range codecs {
			c := open[typed](t, redsession.WithCodec(codec))
			for _, bytes := range garbage[codec.Name()] {
				s := c.create(typed{1, marker})
				t.plant(s.ID(), "number", bytes)
				state := t.state(s.ID())
				_, loaded := c.Load(s.ID())
				_, updated := c.Update(s.ID(), func(*redsession.Session[typed]) error { return nil })
				t.undecodable(loaded, "number")
				t.undecodable(updated, "number")
				t.undecodable(c.LoadMany(s.ID())[0].Err, "number")
				t.unwritten("state", s.ID(), state)
				t.ok(c.Touch(s.ID()))
				c.delete(s.ID())
				equal(t, "exists", t.exists(s.ID()), false)
			}
		}
	}},
	{name: "an error about a value does not tell the value", run: func(t *test) {
		type number struct{ F int8 }
		type moment struct{ F time.Time }
		type wide struct{ F any }
		for _, codec := range codecs {
			any1 := open[wide](t, redsession.WithCodec(codec))
			numbers, moments := open[number](t, redsession.WithCodec(codec)), open[moment](t, redsession.WithCodec(codec))
			chatty := open[struct{ F chatterbox }](t, redsession.WithCodec(codec))
			for _, value := range []any{marker, int64(markerNumber), float64(markerNumber) + 0.5, []any{marker}, map[string]any{marker: marker}} {
				id := any1.create(wide{value}).ID()
				for _, load := range []func() error{
					func() error { _, err := numbers.Load(id); return err },
					func() error { _, err := moments.Load(id); return err },
					func() error { _, err := chatty.Load(id); return err },
				} {
					t.undecodable(load(), "F") // what it says is searched at the end
				}
			}
			s, err := chatty.Create(struct{ F chatterbox }{chatterbox{refuse: true}})
			if err == nil {
				t.Errorf("%v was created", s)
			}
		}
	}},
}

// records are a session's own records that a test damages: where there is one
// copy also its version.
func (t *test) records(names ...string) []string {
	if t.copies == 1 {
		names = append(names, "@v")
	}
	return names
}

// garble puts something else in the place of a session.
func (t *test) garble(id string) {
	t.Helper()
	t.past(id, func(node *redis.Client, key string) error {
		t.ok(node.Del(t.Context(), key).Err())
		return node.Set(t.Context(), key, marker, time.Hour).Err()
	})
}

// chatterbox is a type whose errors tell values.
type chatterbox struct{ refuse bool }

func (c chatterbox) MarshalText() ([]byte, error) {
	if c.refuse {
		return nil, fmt.Errorf("cannot encode %s", marker)
	}
	return []byte(marker), nil
}

func (c *chatterbox) UnmarshalText(b []byte) error { return fmt.Errorf("cannot decode %s", b) }
