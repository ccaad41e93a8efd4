package conformance

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/redsession/redsession"
)

type (
	name  string
	level int8
	tags  []string
	marks map[name]level

	nested struct {
		A     int      `msgpack:"a" json:"a"`
		B     []string `msgpack:"b" json:"b"`
		Deep  *nested
		Shown map[string]nested
	}
	// Embedded is embedded, and so is unexported; Pointed by a pointer.
	Embedded struct {
		Inside string
		Below
	}
	// Below is embedded in what is embedded.
	Below struct {
		Lower int `session:"lower"`
	}
	Pointed struct{ At, AtToo int }
	hidden  struct{ Seen string }

	kinds struct {
		Bool    bool
		Int     int
		Int8    int8
		Int16   int16
		Int32   int32
		Int64   int64
		Uint    uint
		Uint8   uint8
		Uint16  uint16
		Uint32  uint32
		Uint64  uint64
		Float32 float32
		Float64 float64
		String  string `session:"a name with: {strange} things"`
		Bytes   []byte
		Array   [3]int
		Slice   []string
		Slices  [][]int
		Nested  nested
		Nesteds []nested
		Map     map[string]int
		Numbers map[int]string
		Lists   map[string][]string
		Any     any
		Anys    map[string]any

		Name  name
		Level level
		Tags  tags
		Marks marks

		Ptr       *int
		PtrString *string
		PtrStruct *nested
		PtrTime   *time.Time
		Time      time.Time
		Duration  time.Duration
		Skipped   chan int `session:"-"`
		_         int

		Embedded
		*Pointed
		hidden
	}
)

// samples are values of every kind: none, some and extreme ones.
func samples() []kinds {
	at := time.Date(2026, 2, 3, 4, 5, 6, 789_012_345, time.FixedZone("", 3600))
	deep := &nested{A: -1, B: []string{}, Deep: &nested{A: 3}}
	return []kinds{
		{},
		{
			Bool: true, Int: 1, Int8: 2, Int16: 3, Int32: 4, Int64: 5, Uint: 6, Uint8: 7, Uint16: 8, Uint32: 9, Uint64: 10,
			Float32: 1.5, Float64: -2.25, String: marker, Bytes: []byte("\x00\xff" + marker), Array: [3]int{1, 2, 3},
			Slice: []string{"b", "", "a"}, Slices: [][]int{{1}, nil, {}}, Nested: *deep, Nesteds: []nested{{}, *deep},
			Map: map[string]int{"a": 1, "": 2}, Numbers: map[int]string{-1: "x", 300: "y"}, Lists: map[string][]string{"a": {"b"}},
			Any: marker, Anys: map[string]any{
				"int": int64(5), "big": int64(1 << 40), "negative": int64(-3), "float": 1.5, "text": "t", "yes": true, "none": nil,
				"list": []any{int64(1), "x", []any{}}, "map": map[string]any{"n": int64(7)},
			},
			Name: marker, Level: -4, Tags: tags{"x"}, Marks: marks{"y": 1},
			Ptr: new(int), PtrString: new(string), PtrStruct: deep, PtrTime: &at, Time: at, Duration: 90 * time.Minute,
			Embedded: Embedded{Inside: "i", Below: Below{Lower: 9}}, Pointed: &Pointed{At: 1, AtToo: 2}, hidden: hidden{Seen: "s"},
		},
		{
			Int: math.MinInt64, Int8: math.MinInt8, Int16: math.MinInt16, Int32: math.MinInt32, Int64: math.MaxInt64,
			Uint: math.MaxUint64, Uint8: math.MaxUint8, Uint16: math.MaxUint16, Uint32: math.MaxUint32, Uint64: math.MaxUint64,
			Float32: math.MaxFloat32, Float64: math.SmallestNonzeroFloat64, String: strings.Repeat("\x00é\r\n\"{}", 1000),
			Bytes: make([]byte, 20_000), Slice: []string{}, Map: map[string]int{}, Anys: map[string]any{}, Nesteds: []nested{},
			Any: int64(math.MaxInt64), Time: time.Unix(0, 0), Duration: math.MinInt64, Pointed: &Pointed{At: -1},
		},
	}
}

// utc makes equal times the same: what comes back may be in another zone.
func (k kinds) utc() kinds {
	k.Time = k.Time.UTC()
	if k.PtrTime != nil {
		at := k.PtrTime.UTC()
		k.PtrTime = &at
	}
	return k
}

// optional is every kind with omitempty.
type optional struct {
	Bool     bool              `session:"bool,omitempty"`
	Int      int               `session:"int,omitempty"`
	Float    float64           `session:"float,omitempty"`
	String   name              `session:"string,omitempty"`
	Bytes    []byte            `session:"bytes,omitempty"`
	Slice    []string          `session:"slice,omitempty"`
	Array    [2]int            `session:"array,omitempty"`
	Map      map[string]string `session:"map,omitempty"`
	Struct   nested            `session:"struct,omitempty"`
	Ptr      *int              `session:"ptr,omitempty"`
	Time     time.Time         `session:"time,omitempty"`
	Duration time.Duration     `session:"duration,omitempty"`
	Any      any               `session:"any,omitempty"`
	Kept     int               `session:"kept"`
}

// stored are the names of a session's fields, except its own records.
func (t *test) stored(id string) []string {
	t.Helper()
	var names []string
	for name := range t.hash(id) {
		if !strings.HasPrefix(name, "@") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

var codecs = []redsession.Codec{redsession.MsgPack{}, redsession.JSON{}}

var mapping = []promise{
	{name: "every kind of value comes back as it was", run: func(t *test) {
		for _, codec := range codecs {
			c := open[kinds](t, redsession.WithCodec(codec))
			for from, first := range samples() {
				for to, next := range samples() {
					s := c.create(first)
					loaded := c.load(s.ID())
					for _, s := range []*redsession.Session[kinds]{loaded, s} {
						s.Data = next
						c.save(s)
					}
					for what, both := range map[string][2]kinds{
						"created": {c.load(c.create(first).ID()).Data, first}, "saved": {c.load(s.ID()).Data, next},
					} {
						if got, want := both[0].utc(), both[1].utc(); !reflect.DeepEqual(got, want) {
							t.Errorf("%s, sample %d to %d, %s:\n%+v, want\n%+v", codec.Name(), from, to, what, got, want)
						}
					}
				}
			}
			names := t.stored(c.create(samples()[1]).ID())
			equal(t, "fields", len(names), reflect.TypeFor[kinds]().NumField()-5+2+2+1)
			for _, name := range []string{"Skipped", "_", "Embedded", "Pointed", "hidden", "Below"} {
				equal(t, name, slices.Contains(names, name), false)
			}
		}
	}},
	{name: "an embedded pointer comes and goes with its fields", run: func(t *test) {
		c := open[kinds](t)
		s := c.create(kinds{})
		equal(t, "At is stored", slices.Contains(t.stored(s.ID()), "At"), false)
		s.Data.Pointed = &Pointed{At: 3}
		c.save(s)
		if got := c.load(s.ID()).Data.Pointed; got == nil || *got != (Pointed{At: 3}) {
			t.Errorf("set: %+v", got)
		}
		s = c.load(s.ID())
		s.Data.Pointed = nil
		c.save(s)
		if got := c.load(s.ID()).Data.Pointed; got != nil {
			t.Errorf("removed: %+v", got)
		}
		equal(t, "At is stored", slices.Contains(t.stored(s.ID()), "At"), false)
	}},
	{name: "what is empty with omitempty is not stored", run: func(t *test) {
		full := optional{Bool: true, Int: 1, Float: 1, String: marker, Bytes: []byte{0}, Slice: []string{""}, Array: [2]int{1},
			Map: map[string]string{"": ""}, Struct: nested{A: 1}, Ptr: new(int), Time: time.Unix(0, 0), Duration: 1, Any: false}
		emptied := optional{Bytes: []byte{}, Slice: []string{}, Map: map[string]string{}, Time: time.Time{}.Local()}
		for _, codec := range codecs {
			c := open[optional](t, redsession.WithCodec(codec))
			for what, empty := range map[string]optional{"the zero value": {}, "emptied": emptied} {
				created := c.create(empty)
				equal(t, "created with "+what, fmt.Sprint(t.stored(created.ID())), "[kept]")
				created.Data = full
				c.save(created)
				for _, s := range []*redsession.Session[optional]{created, c.load(c.create(full).ID())} {
					equal(t, "full", len(t.stored(s.ID())), reflect.TypeFor[optional]().NumField())
					s.Data = empty
					c.save(s)
					equal(t, "saved with "+what, fmt.Sprint(t.stored(s.ID())), "[kept]")
					if got := c.load(s.ID()).Data; !reflect.DeepEqual(got, optional{}) {
						t.Errorf("%s came back as %+v", what, got)
					}
				}
			}
		}
	}},
	{name: "a map stores each entry", run: func(t *test) {
		c := open[map[string]any](t)
		data := map[string]any{"": "", "user id": marker, "ü": int64(1), "a\x00b\r\n$1": []any{int64(2)}, "x@y": nil,
			strings.Repeat("k", 3000): 1.5, "none": map[string]any{}, "session": true}
		s := c.create(data)
		equal(t, "fields", fmt.Sprint(t.stored(s.ID())), fmt.Sprint(slices.Sorted(maps.Keys(data))))
		got := c.load(s.ID())
		if !reflect.DeepEqual(got.Data, data) {
			t.Errorf("%v", got.Data)
		}
		delete(got.Data, "")
		delete(got.Data, "ü")
		got.Data["session"], got.Data["new"] = false, int64(300)
		c.save(got)
		if again := c.load(s.ID()); !reflect.DeepEqual(again.Data, got.Data) {
			t.Errorf("%v, want %v", again.Data, got.Data)
		}
		got.Data = nil
		c.save(got)
		equal(t, "fields", len(t.stored(s.ID())), 0)
		equal(t, "entries", len(c.load(s.ID()).Data), 0)
		named := open[marks](t)
		equal(t, "named types", fmt.Sprint(named.load(named.create(marks{"a": 1, "b": -1}).ID()).Data), "map[a:1 b:-1]")
	}},
	{name: "integers of any come back as int64", run: func(t *test) {
		type any1 struct{ Any any }
		for _, codec := range codecs {
			c, m := open[any1](t, redsession.WithCodec(codec)), open[map[string]any](t, redsession.WithCodec(codec))
			for _, n := range []any{0, 5, int8(-1), int64(300), uint8(200), uint32(1 << 31), uint64(1 << 62), int64(math.MinInt64)} {
				want := reflect.ValueOf(n).Convert(reflect.TypeFor[int64]()).Interface()
				for what, got := range map[string]any{
					"a field":   c.load(c.create(any1{n}).ID()).Data.Any,
					"in a list": c.load(c.create(any1{[]any{n}}).ID()).Data.Any.([]any)[0],
					"in a map":  m.load(m.create(map[string]any{"in": map[string]any{"n": n}}).ID()).Data["in"].(map[string]any)["n"],
					"an entry":  m.load(m.create(map[string]any{"n": n}).ID()).Data["n"],
				} {
					if got != want {
						t.Errorf("%s, %T as %s: %T %v", codec.Name(), n, what, got, got)
					}
				}
			}
		}
	}},
	{name: "a key of a map cannot be one of the session's records", run: func(t *test) {
		c := open[map[string]string](t)
		victim := c.create(map[string]string{"a": marker})
		attacker := victim.Handle() + newID(t)[15:]
		sum := sha256.Sum256([]byte("redsession:id:" + attacker))
		verifier := "@a:" + base64.RawURLEncoding.EncodeToString(sum[:16])
		for _, key := range []string{"@", "@v", "@d", "@i", "@t", "@f", "@w", "@c", "@k", "@p", "@x", "@a:", verifier, "@@", "@s:a", "@r:x", "@l"} {
			before := t.state(victim.ID())
			bad := map[string]string{"a": "b", key: "1"}
			fresh := c.load(victim.ID())
			fresh.Data = bad
			_, created := c.Create(bad)
			saved, rotated := c.Save(fresh), c.Rotate(fresh)
			_, updated := c.Update(victim.ID(), func(s *redsession.Session[map[string]string]) error { s.Data[key] = "1"; return nil })
			for call, err := range map[string]error{"Create": created, "Save": saved, "Rotate": rotated, "Update": updated} {
				if err == nil {
					t.Errorf("%s accepts the key %q", call, key)
				}
			}
			t.unwritten(key, victim.ID(), before)
			_, err := c.Load(attacker)
			t.gone(err)
		}
		equal(t, "keys", len(t.keys()), 1)
		t.plant(victim.ID(), verifier, "1") // the same by other means does open it
		c.load(attacker)
	}},
	{name: "what another release stores survives", run: func(t *test) {
		type old struct {
			Name   string
			Before string
		}
		type next struct {
			Name  string
			After int
			List  []string
			Maybe string `session:",omitempty"`
		}
		older, newer, free := open[old](t), open[next](t), open[map[string]any](t)
		id := older.create(old{Name: marker, Before: marker + "-b"}).ID()

		s := newer.load(id)
		s.Data.Name = marker + "-1"
		newer.save(s)
		equal(t, "fields of a save with zeros that are new", fmt.Sprint(t.stored(id)), "[Before Name]")
		s.Data.After, s.Data.List, s.Data.Maybe = 7, []string{}, "m"
		newer.save(s)
		equal(t, "fields", fmt.Sprint(t.stored(id)), "[After Before List Maybe Name]")

		o := older.load(id)
		equal(t, "name", o.Data.Name, marker+"-1")
		equal(t, "before", o.Data.Before, marker+"-b")
		o.Data.Name, o.Data.Before = "", ""
		older.save(o)
		older.rotate(o)
		o.Data.Before = marker + "-c"
		older.rotate(o)
		t.ok(older.Touch(o.ID()))
		_, err := older.Update(o.ID(), func(o *redsession.Session[old]) error { o.Data.Name = "n"; return nil })
		t.ok(err)
		equal(t, "the newer one's data", fmt.Sprint(newer.load(o.ID()).Data), fmt.Sprint(next{"n", 7, []string{}, "m"}))
		equal(t, "all data", fmt.Sprint(free.load(o.ID()).Data), fmt.Sprintf("map[After:7 Before:%s-c List:[] Maybe:m Name:n]", marker))

		z := newer.load(o.ID()) // a zero is written where there is a value
		z.Data.After = 0
		newer.save(z)
		equal(t, "After", fmt.Sprint(free.load(o.ID()).Data["After"]), "0")
	}},
	{name: "what is unknown inside of a field survives until that field changes", run: func(t *test) {
		type inner struct{ A int }
		type wide struct{ A, B int }
		type outer[V any] struct {
			In    V
			Other int
		}
		for _, codec := range codecs {
			narrow, full := open[outer[inner]](t, redsession.WithCodec(codec)), open[outer[wide]](t, redsession.WithCodec(codec))
			s := narrow.load(full.create(outer[wide]{In: wide{1, 2}}).ID())
			s.Data.Other = 1
			narrow.save(s)
			equal(t, "untouched", full.load(s.ID()).Data, outer[wide]{wide{1, 2}, 1})
			s.Data.In.A = 3
			narrow.save(s)
			equal(t, "changed", full.load(s.ID()).Data, outer[wide]{wide{3, 0}, 1})
		}
	}},
	{name: "a codec of one's own", run: func(t *test) {
		c := open[profile](t, redsession.WithCodec(backwards{}))
		s := c.create(someone())
		s.Data.Note = marker
		c.save(s)
		equal(t, "data", fmt.Sprint(c.load(s.ID()).Data), fmt.Sprint(s.Data))
		equal(t, "note", t.hash(s.ID())["note"], reversed(`"`+marker+`"`))
		equal(t, "format", t.hash(s.ID())["@f"], "1:back-wards.2"+t.suffix())
	}},
}

// backwards is a codec that is neither of the two.
type backwards struct{}

func (backwards) Name() string { return "back-wards.2" }

func (backwards) Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return []byte(reversed(string(b))), err
}

func (backwards) Unmarshal(b []byte, v any) error {
	return json.Unmarshal([]byte(reversed(string(b))), v)
}

func reversed(s string) string {
	b := []byte(s)
	slices.Reverse(b)
	return string(b)
}
