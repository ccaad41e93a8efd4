package redsession

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/quick"
	"time"

	"github.com/redsession/redsession/internal/hostile"
	"github.com/vmihailenco/msgpack/v5"
)

func fromHex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

type (
	codecColour string
	codecLevel  int8
	CodecBase   struct {
		ID   uint32
		Tags []string
	}
	codecItem struct {
		SKU   string
		Count uint16
		Price *float64
	}
	codecTree struct {
		Value int
		Left  *codecTree
		Right *codecTree
	}
	codecAll struct {
		CodecBase
		String   string
		Bytes    []byte
		Bool     bool
		Int      int
		Int8     int8
		Int16    int16
		Int32    int32
		Int64    int64
		Uint     uint
		Uint8    uint8
		Uint16   uint16
		Uint32   uint32
		Uint64   uint64
		Float32  float32
		Float64  float64
		Array    [3]int16
		ByteArr  [4]byte
		Duration time.Duration
		Colour   codecColour
		Level    codecLevel
		Levels   []codecLevel
		Pointer  *string
		Items    []codecItem
		ByName   map[string]codecItem
		ByNumber map[int32]string
		Strings  map[string]string
		Flags    map[string]bool
		Counts   map[codecColour]int
		Tree     *codecTree
		Nested   [][]uint8
		Matrix   [2][2]float64
		Renamed  int `msgpack:"r" json:"r"`
	}
)

// roundTrip encodes and decodes a value, and fails the test if it changed.
func roundTrip(t *testing.T, c Codec, v any) {
	t.Helper()
	p := reflect.New(reflect.TypeOf(v))
	p.Elem().Set(reflect.ValueOf(v))
	data, err := c.Marshal(p.Interface())
	if err != nil {
		t.Errorf("%s: Marshal(%#v): %v", c.Name(), v, err)
		return
	}
	got := reflect.New(p.Type().Elem())
	if err := c.Unmarshal(data, got.Interface()); err != nil {
		t.Errorf("%s: Unmarshal(%q) of %#v: %v", c.Name(), data, v, err)
		return
	}
	if !alike(got.Elem(), p.Elem()) {
		t.Errorf("%s: %#v came back as %#v", c.Name(), v, got.Elem())
	}
}

// alike is reflect.DeepEqual where NaN is NaN, and an instant is the same in
// any zone.
func alike(a, b reflect.Value) bool {
	if !a.IsValid() || !b.IsValid() {
		return a.IsValid() == b.IsValid()
	}
	if a.Type() != b.Type() {
		return false
	}
	if x, ok := a.Interface().(time.Time); ok {
		return x.Equal(b.Interface().(time.Time))
	}
	switch a.Kind() {
	case reflect.Float32, reflect.Float64:
		return a.Float() == b.Float() && math.Signbit(a.Float()) == math.Signbit(b.Float()) || a.Float() != a.Float() && b.Float() != b.Float()
	case reflect.Pointer, reflect.Interface:
		return a.IsNil() == b.IsNil() && (a.IsNil() || alike(a.Elem(), b.Elem()))
	case reflect.Slice, reflect.Array:
		if a.Len() != b.Len() || a.Kind() == reflect.Slice && a.IsNil() != b.IsNil() {
			return false
		}
		for i := range a.Len() {
			if !alike(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() || a.IsNil() != b.IsNil() {
			return false
		}
		for it := a.MapRange(); it.Next(); {
			if !alike(it.Value(), b.MapIndex(it.Key())) {
				return false
			}
		}
		return true
	case reflect.Struct:
		exported := false
		for i := range a.NumField() {
			if !a.Type().Field(i).IsExported() {
				continue
			}
			exported = true
			if !alike(a.Field(i), b.Field(i)) {
				return false
			}
		}
		if exported {
			return true
		}
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

var codecs = []Codec{MsgPack{}, JSON{}}

func TestWhatIsStoredComesBack(t *testing.T) {
	one, empty := 1.5, ""
	addr := netip.MustParseAddr("2001:db8::1%eth0")
	for _, c := range codecs {
		for _, v := range []any{
			"", "a", "héllo\x00\u2028<>&\ufffd", strings.Repeat("long", 20000),
			true, false, 0, 1, -1, 127, 128, -128, -129, math.MaxInt64, math.MinInt64,
			int8(-128), int16(-32768), int32(math.MinInt32), uint8(255), uint16(65535), uint32(math.MaxUint32), uint64(math.MaxUint64),
			0.0, math.Copysign(0, -1), 1.5, math.MaxFloat64, math.SmallestNonzeroFloat64, float32(0.1), float32(math.MaxFloat32),
			[]byte(nil), []byte{}, []byte{0, 255, 128}, [3]byte{1, 2, 3}, [2]string{"a", ""},
			[]string(nil), []string{}, []string{"", "b"}, []int{1, -500}, [][]int{nil, {}, {1}},
			map[string]string(nil), map[string]string{}, map[string]string{"k": "v", "": ""}, map[string]bool{"t": true},
			map[int]string{-5: "x"}, map[string]map[string]int{"a": nil, "b": {"c": 1}}, map[codecColour]codecLevel{"red": -1},
			&one, &empty, (*string)(nil),
			time.Time{}, time.Unix(0, 0), time.Date(2026, 11, 23, 9, 0, 0, 123456789, time.UTC), time.Date(1900, 1, 1, 0, 0, 0, 1, time.UTC),
			time.Date(3000, 1, 1, 0, 0, 0, 0, time.UTC), new(time.Time), []time.Time{time.Unix(1, 2)}, map[string]time.Time{"": time.Unix(1<<33, 999999999)},
			time.Hour, time.Duration(math.MinInt64),
			addr, netip.Addr{}, &addr, []netip.Addr{addr}, map[netip.Addr]int{addr: 1}, netip.MustParsePrefix("10.0.0.0/8"),
			codecColour("red"), codecLevel(-3), []codecLevel{1, -2},
			codecItem{}, codecItem{SKU: "x", Price: &one}, []codecItem{{SKU: "x"}, {}}, []*codecItem{nil, {Count: 3}},
			codecTree{Value: 1, Left: &codecTree{Value: 2, Right: &codecTree{Value: 3}}},
			struct{}{}, struct{ CodecBase }{CodecBase{1, []string{"a"}}},
			[]any(nil), []any{}, []any{nil, true, "s", int64(5), int64(-5), int64(500), int64(math.MaxInt64), int64(math.MinInt64), uint64(math.MaxUint64), 0.5, math.Copysign(0, -1), 1e20, 1e300},
			map[string]any{"a": map[string]any{"b": []any{int64(1), map[string]any{}}}, "n": nil},
			struct{ A, B any }{int64(3), []any{"x"}}, map[int]any{1: int64(2)}, [2]any{int64(1)},
		} {
			roundTrip(t, c, v)
		}
		var nothing any
		data, err := c.Marshal(&nothing)
		var got any
		if err == nil {
			err = c.Unmarshal(data, &got)
		}
		if err != nil || got != nil {
			t.Errorf("%s: a nil any: %v, %v", c.Name(), got, err)
		}
	}
	for _, v := range []any{
		math.Inf(1), math.Inf(-1), math.NaN(), float32(math.Inf(1)), []any{math.NaN()}, // JSON has no such numbers
		map[float64]bool{0.5: true}, map[[2]int]string{{1, 2}: "x"},
		[]any{[]byte{1}, time.Unix(5, 6), 2.0}, // each is a type of its own in msgpack only
		msgpack.RawMessage{0x93, 1, 2, 3},
	} {
		roundTrip(t, MsgPack{}, v)
	}
	roundTrip(t, JSON{}, json.RawMessage(`{"\ufffd":[1e400,"\ufffd"]}`))
	roundTrip(t, JSON{}, *big.NewInt(1).Lsh(big.NewInt(1), 100))
}

func TestRandomValuesComeBack(t *testing.T) {
	for _, c := range codecs {
		check := func(v codecAll) bool {
			roundTrip(t, c, v)
			return !t.Failed()
		}
		if err := quick.Check(check, &quick.Config{MaxCount: 300}); err != nil {
			t.Error(err)
		}
	}
}

func TestEqualValuesGiveEqualBytesWhereKeysAreSorted(t *testing.T) {
	m := map[string]any{}
	for i := range 50 {
		m[fmt.Sprint(i)] = map[string]string{"a": "1", "b": "2", "c": "3"}
	}
	for _, c := range codecs {
		want, err := c.Marshal(&m)
		for range 20 {
			got, err2 := c.Marshal(&m)
			if err != nil || err2 != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: %v, %v, or other bytes", c.Name(), err, err2)
			}
		}
	}
}

// Each of these the library decodes without an error, to another value.
func TestMsgPackLosesNothingSilently(t *testing.T) {
	for _, tt := range []struct {
		name string
		data string
		into any
		want string
	}{
		{"trailing bytes", "a161 00", new(string), "trailing bytes"},
		{"trailing bytes after a struct", "80 c0", new(codecItem), "trailing bytes"},
		{"300 as int8", "cd012c", new(int8), "an integer does not fit int8"},
		{"-1 as uint64", "ff", new(uint64), "an integer does not fit uint64"},
		{"2^63 as int64", "cf8000000000000000", new(int64), "an integer does not fit int64"},
		{"2^53+1 as float64", "cf0020000000000001", new(float64), "an integer does not fit float64"},
		{"nil as a number", "c0", new(int), "nil where int is expected"},
		{"nil as a string", "c0", new(string), "nil where string is expected"},
		{"nil as a struct", "c0", new(codecItem), "nil where redsession.codecItem is expected"},
		{"nil as a time", "c0", new(time.Time), "nil where time.Time is expected"},
		{"nil in a list", "91c0", new([]int), "nil where int is expected"},
		{"text that is not UTF-8", "a1ff", new(string), "invalid UTF-8"},
		{"text that is not UTF-8, in a map of any", "81 a161 a1ff", new(map[string]any), "invalid UTF-8"},
		{"a key that is not UTF-8", "81 a1ff c0", new(any), "invalid UTF-8"},
		{"a short array", "9101", new([2]int), "another number of elements than [2]int has"},
		{"300 in a field", "81 a5 436f756e74 ce00010000", new(codecItem), "an integer does not fit uint16"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := fromHex(tt.data)
			err := MsgPack{}.Unmarshal(data, tt.into)
			if err == nil || err.Error() != tt.want || safeReason(err) != tt.want {
				t.Errorf("Unmarshal = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestMsgPackRefusesToWriteWhatItCouldNotRead(t *testing.T) {
	deep := &codecTree{}
	for range 32 {
		deep = &codecTree{Left: deep}
	}
	cycle := &codecTree{}
	cycle.Left = cycle
	for _, tt := range []struct {
		v    any
		want string
	}{
		{"\xff", "invalid UTF-8"},
		{map[string]int{"\xff": 1}, "invalid UTF-8"},
		{[]any{"\xff"}, "invalid UTF-8"},
		{codecItem{SKU: "\xed\xa0\x80"}, "invalid UTF-8"},
		{deep, "nested deeper than 32"},
		{cycle, "nested deeper than 32"},
		{[]any{map[int]int{1: 1}}, "a map whose keys are not strings, inside an interface"},
		{map[string]any{"f": func() {}}, "type func(): cannot be stored"},
		{struct{ C chan int }{}, "type chan int: cannot be stored"},
		{struct{ *CodecBase }{}, "type struct { *redsession.CodecBase }: field CodecBase: embeds a pointer to a struct; tag it noinline, or give it a name"},
		{msgpack.RawMessage{}, "the bytes end too early"},
		{msgpack.RawMessage{1, 2}, "trailing bytes"},
		{msgpack.RawMessage{0xc1}, "a reserved code"},
		{map[string]codecByPointer{"f": {}}, "a type that is encoded through its pointer is a value in a map or an interface"},
	} {
		p := reflect.New(reflect.TypeOf(tt.v))
		p.Elem().Set(reflect.ValueOf(tt.v))
		if data, err := (MsgPack{}).Marshal(p.Interface()); err == nil || err.Error() != tt.want {
			t.Errorf("Marshal of a %T = %x, %v, want %q", tt.v, data, err, tt.want)
		}
	}
}

type codecByPointer struct{ s string }

func (p *codecByPointer) MarshalText() ([]byte, error)    { return []byte(p.s), nil }
func (p *codecByPointer) UnmarshalText(data []byte) error { p.s = string(data); return nil }

func TestMsgPackIsCompact(t *testing.T) {
	five, half := int64(5), 0.5
	for _, tt := range []struct {
		v    any
		want string
	}{
		{&five, "05"},
		{new(uint64), "00"},
		{&half, "cb3fe0000000000000"},
		{new(float64), "cb0000000000000000"}, // a float stays one
	} {
		if data, err := (MsgPack{}).Marshal(tt.v); err != nil || hex.EncodeToString(data) != tt.want {
			t.Errorf("%T: %x, %v, want %s", tt.v, data, err, tt.want)
		}
	}
}

func TestNumbersInAnyComeBackAsInt64AndFloat64(t *testing.T) {
	type holder struct{ V any }
	for _, c := range codecs {
		for _, x := range []any{
			int(5), int8(5), int16(500), int32(70000), int64(1 << 40), uint(5), uint8(200), uint16(500), uint32(70000), uint64(1 << 40),
			time.Duration(7), codecLevel(-1),
		} {
			var want int64
			if v := reflect.ValueOf(x); v.CanInt() {
				want = v.Int()
			} else {
				want = int64(v.Uint())
			}
			in := map[string][]holder{"k": {{x}, {map[string]any{"n": []any{x}}}}}
			var out map[string][]holder
			data, err := c.Marshal(&in)
			if err == nil {
				err = c.Unmarshal(data, &out)
			}
			expect := map[string][]holder{"k": {{want}, {map[string]any{"n": []any{want}}}}}
			if err != nil || !reflect.DeepEqual(out, expect) {
				t.Errorf("%s: %T: %#v, %v", c.Name(), x, out, err)
			}
		}
		in, out := []any{float32(0.5)}, []any(nil)
		data, err := c.Marshal(&in)
		if err == nil {
			err = c.Unmarshal(data, &out)
		}
		if err != nil || !reflect.DeepEqual(out, []any{0.5}) {
			t.Errorf("%s: float32: %#v, %v", c.Name(), out, err)
		}
	}
}

// Promise: hostile bytes cannot crash or fill the process.
func TestHostileBytesAreAnErrorAndCostLittle(t *testing.T) {
	targets := []func() any{
		func() any { return new(any) }, func() any { return new([]any) }, func() any { return new([]int64) },
		func() any { return new(map[string]any) }, func() any { return new(struct{ A any }) }, func() any { return new(codecAll) },
		func() any { return new(string) }, func() any { return new([]byte) }, func() any { return new(msgpack.RawMessage) },
		func() any { return new(map[string][]string) },
	}
	for _, c := range codecs {
		payloads := hostile.MsgPack()
		if c.Name() == "json" {
			payloads = hostile.JSON()
		}
		for name, data := range payloads {
			for _, target := range targets {
				v := target()
				if name == "a list of keys that cannot be hashed" && reflect.TypeOf(v) == reflect.TypeFor[*msgpack.RawMessage]() {
					continue // which takes any msgpack
				}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				start := time.Now()
				err := c.Unmarshal(data, v)
				took := time.Since(start)
				runtime.ReadMemStats(&after)
				if err == nil {
					t.Errorf("%s: %s into %T: no error", c.Name(), name, v)
				}
				// encoding/json goes on after an error, and makes garbage meanwhile.
				bound := uint64(32 << 20)
				if c.Name() == "json" {
					bound += 24 * uint64(len(data))
				}
				if used := after.TotalAlloc - before.TotalAlloc; used > bound {
					t.Errorf("%s: %s into %T: %d MiB", c.Name(), name, v, used>>20)
				}
				if took > 10*time.Second { // a slow machine is no failure
					t.Errorf("%s: %s into %T: %v", c.Name(), name, v, took)
				}
			}
		}
	}
}

func TestAnInterfaceGivenTwiceIsAnError(t *testing.T) {
	var v struct{ A any }
	if err := (MsgPack{}).Unmarshal(fromHex("82 a141 01 a141 02"), &v); err == nil || err.Error() != "a struct field that is given twice" {
		t.Error(err)
	}
}

func TestJSONLosesNothingSilently(t *testing.T) {
	for _, tt := range []struct {
		data string
		into any
		want string
	}{
		{`"a" 1`, new(string), "not one value of JSON"},
		{``, new(string), "not one value of JSON"},
		{"\"\xff\"", new(string), "invalid UTF-8"},
		{`"\ud800"`, new(string), "invalid UTF-8, or half of a surrogate pair"},
		{`null`, new(int), "null where int is expected"},
		{` null `, new(codecItem), "null where redsession.codecItem is expected"},
		{`null`, new(time.Time), "null where time.Time is expected"},
		{`300`, new(int8), "a JSON number at offset 3 does not fit int8"},
		{`{"Count":70000}`, new(codecItem), "a JSON number at offset 14 does not fit uint16"},
		{`{"Count":"hunter2"}`, new(codecItem), "a JSON string at offset 18 does not fit uint16"},
		{`1e400`, new(float64), "a JSON number at offset 5 does not fit float64"},
		{`18446744073709551616`, new(any), "a number that neither int64, uint64 nor float64 holds"},
		{`{"a":[1e400]}`, new(map[string]any), "a number that neither int64, uint64 nor float64 holds"},
		{strings.Repeat("[", 33) + strings.Repeat("]", 33), new(any), "nested deeper than 32"},
		{`"2026"`, new(time.Time), "the bytes cannot be decoded"},
	} {
		if err := (JSON{}).Unmarshal([]byte(tt.data), tt.into); err == nil || err.Error() != tt.want || safeReason(err) != tt.want {
			t.Errorf("Unmarshal(%q) = %v, want %q", tt.data, err, tt.want)
		}
	}
}

type codecJSON string

func (j codecJSON) MarshalJSON() ([]byte, error) { return []byte(j), nil }

func TestJSONRefusesToWriteWhatItCouldNotRead(t *testing.T) {
	var nest any
	for range 33 {
		nest = []any{nest}
	}
	cycle := &codecTree{}
	cycle.Left = cycle
	for _, tt := range []struct {
		v    any
		want string
	}{
		{"\xff", "invalid UTF-8"},
		{map[string]int{"\xff": 1}, "invalid UTF-8"},
		{codecItem{SKU: "a\xff"}, "invalid UTF-8"},
		{json.RawMessage("\"\xff\""), "invalid UTF-8"},
		{codecJSON(`"\ud800"`), "invalid UTF-8, or half of a surrogate pair"},
		{[]any{json.Number("123456789012345678901")}, "a number that neither int64, uint64 nor float64 holds"},
		{[]any{big.NewInt(0).Lsh(big.NewInt(1), 70)}, "a number that neither int64, uint64 nor float64 holds"},
		{nest, "nested deeper than 32"},
		{cycle, "a value that JSON cannot hold"},
		{math.NaN(), "a value that JSON cannot hold"},
		{make(chan int), "JSON cannot hold type chan int"},
		{codecJSON(`{`), "the value cannot be encoded"},
	} {
		p := reflect.New(reflect.TypeOf(tt.v))
		p.Elem().Set(reflect.ValueOf(tt.v))
		if data, err := (JSON{}).Marshal(p.Interface()); err == nil || err.Error() != tt.want {
			t.Errorf("Marshal of a %T = %q, %v, want %q", tt.v, data, err, tt.want)
		}
	}
}

func TestJSONIsForReading(t *testing.T) {
	s := "<a href='x'>&</a>"
	if data, err := (JSON{}).Marshal(&s); err != nil || string(data) != `"`+s+`"` {
		t.Errorf("%q, %v", data, err)
	}
}

const codecSecret = "hunter2"

type codecLeaky struct{}

var errLeaky = errors.New(codecSecret)

func (codecLeaky) MarshalText() ([]byte, error)     { return nil, errLeaky }
func (*codecLeaky) UnmarshalText(data []byte) error { return fmt.Errorf("cannot parse %q", data) }

// Promise: values never appear in an error.
func TestErrorsOfTheCodecsHoldNothingOfTheData(t *testing.T) {
	secret := codecSecret
	for _, c := range codecs {
		var errs []error
		add := func(err error) { errs = append(errs, err) }
		for _, v := range []any{
			codecLeaky{}, map[string]any{"k": codecLeaky{}}, codecSecret + "\xff", map[string]string{codecSecret + "\xff": ""},
			[]any{codecSecret, make(chan int)},
		} {
			p := reflect.New(reflect.TypeOf(v))
			p.Elem().Set(reflect.ValueOf(v))
			_, err := c.Marshal(p.Interface())
			add(err)
		}
		data, err := c.Marshal(&secret)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []any{
			new(int), new(time.Time), new(codecLeaky), new(netip.Addr), new([]string), new(map[string]int), new(codecItem), new(bool), new(float32),
		} {
			add(c.Unmarshal(data, v))
		}
		add(c.Unmarshal(append(data, data...), new(string)))
		keyed, err := c.Marshal(&map[string]any{codecSecret: codecSecret})
		if err != nil {
			t.Fatal(err)
		}
		add(c.Unmarshal(keyed, new(map[string]int)))
		add(c.Unmarshal(keyed, new(map[int]string)))
		for i, err := range errs {
			if err == nil {
				t.Errorf("%s: case %d: no error", c.Name(), i)
			} else if text := err.Error(); strings.Contains(text, codecSecret) || strings.Contains(fmt.Sprintf("%+v %#v", err, err), codecSecret) || safeReason(err) != text {
				t.Errorf("%s: case %d: %q", c.Name(), i, text)
			}
		}
	}
}

func TestTheTextOfAnotherCodecsErrorIsNotShown(t *testing.T) {
	if got := safeReason(errLeaky); got != "the codec returned an error" {
		t.Error(got)
	}
	wrapped := fmt.Errorf("%s: %w", codecSecret, codecError("trailing bytes"))
	if got := safeReason(wrapped); got != "trailing bytes" {
		t.Error(got)
	}
}

func TestCodecsWantAPointerToAValue(t *testing.T) {
	for _, c := range codecs {
		for _, v := range []any{nil, 1, (*int)(nil)} {
			if _, err := c.Marshal(v); err == nil {
				t.Errorf("%s: Marshal(%#v): no error", c.Name(), v)
			}
			if err := c.Unmarshal([]byte("1"), v); err == nil {
				t.Errorf("%s: Unmarshal into %#v: no error", c.Name(), v)
			}
		}
	}
}

func TestDataIsNotKept(t *testing.T) {
	type all struct {
		S string
		B []byte
		A any
		R msgpack.RawMessage
		J json.RawMessage
		M map[string]any
	}
	v := all{"string", []byte("bytes"), "any", msgpack.RawMessage{0xa1, 'r'}, json.RawMessage(`"j"`), map[string]any{"key": "value"}}
	for _, c := range codecs {
		if c.Name() == "json" {
			v.R = nil
		}
		data, err := c.Marshal(&v)
		if err != nil {
			t.Fatal(err)
		}
		var got all
		if err := c.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		clear(data)
		if !reflect.DeepEqual(got, v) {
			t.Errorf("%s: %#v after the bytes were cleared", c.Name(), got)
		}
	}
}

func TestADecoderOfTheCallersThatReadsTooLittleIsAnError(t *testing.T) {
	if err := (MsgPack{}).Unmarshal(fromHex("920102"), new(codecLazy)); err == nil || err.Error() != "trailing bytes" {
		t.Error(err)
	}
	// The pool is none the worse.
	var s string
	if err := (MsgPack{}).Unmarshal(fromHex("a161"), &s); err != nil || s != "a" {
		t.Errorf("%q, %v", s, err)
	}
}

type codecLazy struct{}

func (codecLazy) EncodeMsgpack(e *msgpack.Encoder) error { return e.EncodeNil() }
func (*codecLazy) DecodeMsgpack(d *msgpack.Decoder) error {
	_, err := d.DecodeArrayLen()
	return err
}

// Promise: nothing starts a goroutine that Close does not end. The library does,
// for each type that it preallocates, and for each embedded pointer.
func TestDecodingStartsNoGoroutine(t *testing.T) {
	before := runtime.NumGoroutine()
	for _, v := range fuzzSeeds() {
		data, err := (MsgPack{}).Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := (MsgPack{}).Unmarshal(data, reflect.New(reflect.TypeOf(v).Elem()).Interface()); err != nil {
			t.Fatal(err)
		}
	}
	if after := runtime.NumGoroutine(); after > before {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}

func TestMsgPackChecksTypes(t *testing.T) {
	if err := (MsgPack{}).checkType(reflect.TypeFor[codecAll]()); err != nil {
		t.Error(err)
	}
	if err := (MsgPack{}).checkType(reflect.TypeFor[map[string]chan int]()); err == nil || safeReason(err) != err.Error() {
		t.Error(err)
	}
}

func TestCodecsAreSafeForConcurrentUse(t *testing.T) {
	var wg sync.WaitGroup
	for _, c := range codecs {
		for range 4 {
			wg.Go(func() {
				for range 200 {
					n := rand.IntN(1000)
					roundTrip(t, c, map[string]any{"n": int64(n), "s": strings.Repeat("x", n)})
				}
			})
		}
	}
	wg.Wait()
}

// fuzzTargets are decoded into by the fuzz tests.
var fuzzTargets = []reflect.Type{
	reflect.TypeFor[any](),
	reflect.TypeFor[codecAll](),
	reflect.TypeFor[struct {
		A, B any
		L    []any
		M    map[string]any
		T    time.Time
		P    *time.Time
	}](),
	reflect.TypeFor[map[string]codecItem](),
	reflect.TypeFor[[]netip.Addr](),
	reflect.TypeFor[codecTree](),
	reflect.TypeFor[string](),
	reflect.TypeFor[[]byte](),
	reflect.TypeFor[bool](),
	reflect.TypeFor[int](),
	reflect.TypeFor[int64](),
	reflect.TypeFor[float64](),
	reflect.TypeFor[time.Duration](),
}

// What decodes can be encoded, and comes back as it was. What was encoded is encoded again
// to the same bytes, or where a map is in no order to what is no change: so a session that
// was only loaded is not written.
func fuzzCodec(t *testing.T, c Codec, data []byte) {
	for _, typ := range fuzzTargets {
		first := reflect.New(typ)
		if err := c.Unmarshal(data, first.Interface()); err != nil {
			if safeReason(err) != err.Error() {
				t.Errorf("%v: %v, which is not an error of the codec's own", typ, err)
			}
			continue
		}
		encoded, err := c.Marshal(first.Interface())
		if err != nil {
			t.Errorf("%v: %#v was decoded and cannot be encoded: %v", typ, first.Elem(), err)
			continue
		}
		second := reflect.New(typ)
		if err := c.Unmarshal(encoded, second.Interface()); err != nil {
			t.Errorf("%v: %#v was encoded as %q and cannot be decoded: %v", typ, first.Elem(), encoded, err)
			continue
		}
		if !alike(first, second) {
			t.Errorf("%v: %#v came back as %#v", typ, first.Elem(), second.Elem())
		}
		again, err := c.Marshal(second.Interface())
		if sorted := c.Name() == "json" || !unordered(typ); err != nil || sorted && !bytes.Equal(again, encoded) {
			t.Errorf("%v: %#v was encoded as %q and then as %q, %v", typ, first.Elem(), encoded, again, err)
		}
		if !sameValue(c, typ, string(encoded), string(again)) {
			t.Errorf("%v: %q and %q are both %#v, and taken for a change", typ, encoded, again, first.Elem())
		}
	}
}

// unordered tells whether msgpack sorts the maps of a type: those that it does not know
// by their very type it does not.
func unordered(t reflect.Type) bool {
	return t == reflect.TypeFor[codecAll]() || t == reflect.TypeFor[map[string]codecItem]()
}

func FuzzMsgPackUnmarshal(f *testing.F) {
	for _, data := range hostile.MsgPack() {
		if len(data) < 100 {
			f.Add(data)
		}
	}
	for _, v := range fuzzSeeds() {
		data, err := (MsgPack{}).Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzzCodec(t, MsgPack{}, data) })
}

func FuzzJSONUnmarshal(f *testing.F) {
	for _, data := range hostile.JSON() {
		if len(data) < 100 {
			f.Add(data)
		}
	}
	for _, v := range fuzzSeeds() {
		data, err := (JSON{}).Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { fuzzCodec(t, JSON{}, data) })
}

func fuzzSeeds() []any {
	name, price := "x", 1.5
	list := []any{nil, true, int64(-5), uint64(math.MaxUint64), 0.5, "s", map[string]any{"k": []any{}}}
	all := codecAll{
		CodecBase: CodecBase{1, []string{"t"}}, String: "s", Bytes: []byte{1}, Int8: -8, Uint64: 1 << 63, Float32: 0.1, Pointer: &name,
		Items: []codecItem{{SKU: "a", Price: &price}}, ByName: map[string]codecItem{"b": {Count: 1}}, ByNumber: map[int32]string{-1: "n"},
		Strings: map[string]string{"k": "v"}, Flags: map[string]bool{"f": true}, Tree: &codecTree{Left: &codecTree{}}, Nested: [][]uint8{{1}},
	}
	return []any{
		&name, &price, &list, &all,
		&map[string]any{"T": time.Unix(1, 2), "A": int64(1), "L": list, "M": map[string]any{"m": int64(1)}},
		&[]netip.Addr{netip.MustParseAddr("::1%z")},
	}
}

var benchValues = []struct {
	name string
	v    any
}{
	{"string", func() any { s := "the quick brown fox"; return &s }()},
	{"int64", func() any { n := int64(1 << 40); return &n }()},
	{"struct", &codecItem{SKU: "A-1001", Count: 3}},
	{"map of 10", func() any {
		m := map[string]string{}
		for i := range 10 {
			m[fmt.Sprintf("key-%d", i)] = "some value"
		}
		return &m
	}()},
	{"any map of 10", func() any {
		m := map[string]any{}
		for i := range 10 {
			m[fmt.Sprintf("key-%d", i)] = int64(i * 100)
		}
		return &m
	}()},
}

func BenchmarkCodecs(b *testing.B) {
	for _, c := range codecs {
		for _, bv := range benchValues {
			data, err := c.Marshal(bv.v)
			if err != nil {
				b.Fatal(err)
			}
			b.Run(c.Name()+"/marshal/"+bv.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := c.Marshal(bv.v); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run(c.Name()+"/unmarshal/"+bv.name, func(b *testing.B) {
				b.ReportAllocs()
				v := reflect.New(reflect.TypeOf(bv.v).Elem())
				for b.Loop() {
					v.Elem().SetZero()
					if err := c.Unmarshal(data, v.Interface()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
