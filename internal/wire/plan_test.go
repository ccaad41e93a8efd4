package wire_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession/internal/wire"
	"github.com/vmihailenco/msgpack/v5"
)

type (
	inner struct {
		A int8
		B any
	}
	Base struct {
		ID   uint16
		Name string
	}
	renamed struct {
		Base
		X      int `msgpack:"x"`
		Y      int `msgpack:"why,alias:y,omitempty"`
		Gone   int `msgpack:"-"`
		hidden int
	}
	noinline struct {
		Base `msgpack:",noinline"`
		Name int
	}
	shadowed struct {
		Name int
		Base
	}
	forced struct {
		Tagged `msgpack:",inline"`
		X      int
	}
	Tagged    struct{ When tags }
	tags      struct{ A, B string }
	unexpBase struct {
		base
		X int
	}
	base    struct{ ID uint16 }
	inArray struct {
		//lint:ignore U1000 the library reads its tag
		_msgpack struct{} `msgpack:",as_array"`
		A        int8
		B        string
	}
	tree struct {
		Value    int8
		Children []tree
		Next     *tree
	}
	level   int8
	ownText struct{ s string }
	ownPack struct{ n int }
	manyAny struct{ A, B, C any }
)

func (o ownText) MarshalText() ([]byte, error)                { return []byte(o.s), nil }
func (o *ownText) UnmarshalText(b []byte) error               { o.s = string(b); return nil }
func (o ownPack) EncodeMsgpack(e *msgpack.Encoder) error      { return e.EncodeInt(int64(o.n)) }
func (o *ownPack) DecodeMsgpack(d *msgpack.Decoder) (e error) { o.n, e = d.DecodeInt(); return e }

var plainChecks = []struct {
	name string
	typ  any
	data string
	want string // a part of the error; empty: passes
}{
	{"127 in an int8", int8(0), "7f", ""},
	{"-128 in an int8", int8(0), "d080", ""},
	{"128 in an int8", int8(0), "cc80", "an integer does not fit int8"},
	{"-129 in an int8", int8(0), "d1ff7f", "an integer does not fit int8"},
	{"300 in an int8", int8(0), "cd012c", "an integer does not fit int8"},
	{"300 in a named int8", level(0), "cd012c", "an integer does not fit wire_test.level"},
	{"70000 in an int16", int16(0), "ce00011170", "does not fit"},
	{"2^31 in an int32", int32(0), "ce80000000", "does not fit"},
	{"-2^31 in an int32", int32(0), "d280000000", ""},
	{"2^63-1 in an int64", int64(0), "cf7fffffffffffffff", ""},
	{"2^63 in an int64", int64(0), "cf8000000000000000", "does not fit"},
	{"-2^63 in an int64", int64(0), "d38000000000000000", ""},
	{"2^63 in a duration", time.Duration(0), "cf8000000000000000", "does not fit"},
	{"255 in a uint8", uint8(0), "ccff", ""},
	{"256 in a uint8", uint8(0), "cd0100", "does not fit"},
	{"2^16 in a uint16", uint16(0), "ce00010000", "does not fit"},
	{"2^32 in a uint32", uint32(0), "cf0000000100000000", "does not fit"},
	{"-1 in a uint64", uint64(0), "ff", "an integer does not fit uint64"},
	{"-1 in 64 bits in a uint64", uint64(0), "d3ffffffffffffffff", "does not fit"},
	{"2^64-1 in a uint64", uint64(0), "cfffffffffffffffff", ""},
	{"a float in an int", int(0), "cb3ff0000000000000", "a float64 where int is expected"},
	{"a bool in an int", int(0), "c3", "a bool where int is expected"},
	{"nil in an int", int(0), "c0", "nil where int is expected"},
	{"nil in a bool", false, "c0", "nil where bool is expected"},
	{"nil in a string", "", "c0", "nil where string is expected"},
	{"nil in a float", 0.0, "c0", "nil where float64 is expected"},
	{"nil in a time", time.Time{}, "c0", "nil where time.Time is expected"},
	{"nil in a struct", inner{}, "c0", "nil where wire_test.inner is expected"},
	{"nil in an array", [2]int{}, "c0", "nil where [2]int is expected"},
	{"nil in a byte array", [2]byte{}, "c0", "nil where [2]uint8 is expected"},
	{"nil in a pointer", (*int)(nil), "c0", ""},
	{"nil in a slice", []int(nil), "c0", ""},
	{"nil in bytes", []byte(nil), "c0", ""},
	{"nil in a map", map[string]int(nil), "c0", ""},
	{"nil in a type with a text of its own", ownText{}, "c0", ""},
	{"1 in a bool", false, "01", "an integer where bool is expected"},
	{"a float32 in a float64", 0.0, "ca3fc00000", ""},
	{"a float64 in a float32", float32(0), "cb3ff8000000000000", "a float64 where float32 is expected"},
	{"2^24 in a float32", float32(0), "ce01000000", ""},
	{"2^24+1 in a float32", float32(0), "ce01000001", "does not fit"},
	{"-2^24-1 in a float32", float32(0), "d2feffffff", "does not fit"},
	{"2^53 in a float64", 0.0, "cf0020000000000000", ""},
	{"2^53+1 in a float64", 0.0, "cf0020000000000001", "an integer does not fit float64"},
	{"-2^53-1 in a float64", 0.0, "d3ffdfffffffffffff", "does not fit"},
	{"-2^63 in a float64", 0.0, "d38000000000000000", "does not fit"},
	{"2^64-1 in a float64", 0.0, "cfffffffffffffffff", "does not fit"},
	{"bytes in a string", "", "c40161", "bytes where string is expected"},
	{"a string in bytes", []byte{}, "a161", "a string where []uint8 is expected"},
	{"an array in bytes", []byte{}, "9101", "an array where []uint8 is expected"},
	{"bytes in a byte array", [2]byte{}, "c4020102", ""},
	{"too few bytes in a byte array", [2]byte{}, "c40101", "another number of elements"},
	{"too many bytes in a byte array", [2]byte{}, "c403010203", "another number of elements"},
	{"two in an array of two", [2]int{}, "920102", ""},
	{"one in an array of two", [2]int{}, "9101", "another number of elements than [2]int has"},
	{"three in an array of two", [2]int{}, "93010203", "another number of elements"},
	{"a map in a slice", []int{}, "80", "a map where []int is expected"},
	{"a slice in a map", map[string]int{}, "90", "an array where map[string]int is expected"},
	{"300 in a slice of int8", []int8{}, "9101 cd012c", "trailing"},
	{"300 in the second int8 of a slice", []int8{}, "9201 cd012c", "does not fit"},
	{"bytes as a key of a string map", map[string]string{}, "81 c40161 a161", "bytes where string is expected"},
	{"nil as a key of a string map", map[string]string{}, "81 c0 a161", "nil where string is expected"},
	{"nil as a value of a string map", map[string]string{}, "81 a161 c0", "nil where string is expected"},
	{"an integer key that does not fit", map[int8]bool{}, "81 cd012c c3", "does not fit"},
	{"a time", time.Time{}, "d6ff00000001", ""},
	{"a time as a string", time.Time{}, "b4 323030302d30312d30315430303a30303a30305a", "a string where time.Time is expected"},
	{"a time as an array", time.Time{}, "920000", "an array where time.Time is expected"},
	{"a time in a pointer", (*time.Time)(nil), "d6ff00000001", ""},
	{"a time in a string", "", "d6ff00000001", "a timestamp where string is expected"},
	{"a map behind an extension, which the library takes for a map", map[string]int{}, "d6ff00000001 80", "a timestamp where map"},

	{"a struct", inner{}, "82 a141 01 a142 c0", ""},
	{"a struct with a part of its fields", inner{}, "81 a142 01", ""},
	{"a struct with a field that does not fit", inner{}, "81 a141 cc80", "does not fit"},
	{"an unknown field", inner{}, "81 a15a 93 c0 c3 81 01 02", ""},
	{"an unknown field with trailing bytes", inner{}, "81 a15a 93 c0 c3 81 01 02 c0", "trailing"},
	{"an unknown field that is too deep", inner{}, "81 a15a" + strings.Repeat("91", 32) + "c0", "nested deeper"},
	{"a field given twice", inner{}, "82 a141 01 a141 02", "given twice"},
	{"an interface given twice, which makes the library panic", inner{}, "82 a142 01 a142 02", "given twice"},
	{"a field with bytes for a name", inner{}, "81 c40141 01", "a key that is not a string"},
	{"a field with nil for a name", inner{}, "81 c0 01", "a key that is not a string"},
	{"a struct as an array that is not tagged so", inner{}, "9201c0", "an array where"},
	{"a struct as an array", inArray{}, "9201a161", ""},
	{"a struct as a map though tagged as an array", inArray{}, "81 a141 01", ""},
	{"a struct as an array, too short", inArray{}, "9101", "number of elements"},
	{"a struct as an array, empty", inArray{}, "90", "number of elements"},
	{"a struct as an array, wrong inside", inArray{}, "92cc80a161", "does not fit"},
	{"an alias", renamed{}, "81 a179 c3", "a bool where int"},
	{"a field and its alias", renamed{}, "82 a179 01 a3776879 01", "given twice"},
	{"a field without its tag's name is unknown", renamed{}, "81 a159 c3", ""},
	{"a field tagged away is unknown", renamed{}, "81 a4476f6e65 c3", ""},
	{"an inlined field", renamed{}, "81 a24944 ce00010000", "does not fit uint16"},
	{"the name of the embedded struct", renamed{}, "81 a442617365 81 a24944 ce00010000", "does not fit uint16"},
	{"an inlined field beside the name of its struct", renamed{}, "82 a24944 01 a442617365 80", "given twice"},
	{"the name of an embedded struct beside its field", renamed{}, "82 a442617365 80 a24944 01", "given twice"},
	{"an embedded struct that is not inlined", noinline{}, "82 a442617365 81 a24944 01 a44e616d65 01", ""},
	{"an embedded struct that would be shadowed", shadowed{}, "82 a44e616d65 01 a442617365 81 a44e616d65 a161", ""},
	{"an embedded struct that is not exported", unexpBase{}, "82 a24944 01 a158 01", ""},
	{"a struct forced inline", forced{}, "81 a45768656e 81 a141 01", "an integer where string"},
	{"a tree of two levels", tree{}, "81 a84368696c6472656e 91 81 a556616c7565 01", ""},
	{"a tree whose leaf does not fit", tree{}, "81 a84368696c6472656e 91 81 a556616c7565 cc80", "does not fit"},
	{"a list of 33", tree{}, strings.Repeat("81 a44e657874", 32) + "80", "nested deeper"},
	{"a list of 32", tree{}, strings.Repeat("81 a44e657874", 31) + "80", ""},

	{"a text of its own as a string", ownText{}, "a161", ""},
	{"a text of its own as bytes", ownText{}, "c40161", ""},
	{"a text of its own as a map", ownText{}, "80", "a map where wire_test.ownText is expected"},
	{"an encoding of its own", ownPack{}, "05", ""},
	{"an encoding of its own, malformed", ownPack{}, "cd05", "end too early"},
	{"a raw message", msgpack.RawMessage{}, "93 01 81 01 02 c0", ""},
	{"a raw message with an extension", msgpack.RawMessage{}, "d401 00", "an extension"},
	{"an address", netip.Addr{}, "c4047f000001", ""},

	{"anything in any", new(any), "93 81 a161 c0 d6ff00000001 c40100", ""},
	{"an integer key in any", new(any), "81 01 02", "keys are not strings"},
	{"bytes as a key in any", new(any), "81 c40161 02", "keys are not strings"},
	{"nil as a key deep in any", map[string]any{}, "81 a161 91 81 c0 c0", "keys are not strings"},
	{"a text in an error", new(error), "a161", ""},
	{"an integer in an error, which makes the library panic", new(error), "01", "an integer where error is expected"},
	{"nil in another interface", new(fmt.Stringer), "c0", ""},
	{"anything else there, which makes the library panic", new(fmt.Stringer), "01", "an integer where fmt.Stringer is expected"},
}

func TestPlanCheck(t *testing.T) {
	for _, tt := range plainChecks {
		t.Run(tt.name, func(t *testing.T) {
			typ := reflect.TypeOf(tt.typ)
			if typ.Kind() == reflect.Pointer && typ.Elem().Kind() == reflect.Interface {
				typ = typ.Elem()
			}
			data := raw(tt.data)
			p, err := wire.For(typ)
			if err != nil {
				t.Fatal(err)
			}
			switch err := p.Check(data); {
			case tt.want == "" && err != nil:
				t.Errorf("Check = %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("Check = %v, want %q", err, tt.want)
			case err == nil:
				// What passes can be decoded.
				if err := msgpack.Unmarshal(data, reflect.New(typ).Interface()); err != nil {
					t.Errorf("passed, but the library says: %v", err)
				}
			}
		})
	}
}

func TestEveryTypeRefusesWhatCheckRefuses(t *testing.T) {
	for _, typ := range []reflect.Type{
		reflect.TypeFor[any](), reflect.TypeFor[[]any](), reflect.TypeFor[map[string]any](), reflect.TypeFor[[]int64](),
		reflect.TypeFor[tree](), reflect.TypeFor[msgpack.RawMessage](), reflect.TypeFor[inner](), reflect.TypeFor[string](),
	} {
		p, err := wire.For(typ)
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range checks {
			if tt.want != nil && p.Check(tt.data) == nil {
				t.Errorf("%v: %s: passed", typ, tt.name)
			}
		}
		for name, data := range hostile() {
			if allocs := testing.AllocsPerRun(1, func() { err = p.Check(data) }); allocs > 5 || err == nil {
				t.Errorf("%v: %s: %v, with %v allocations", typ, name, err, allocs)
			}
		}
	}
}

// One byte can claim a large struct, so that it is not enough to count.
func TestElementsAreWeighed(t *testing.T) {
	type large struct{ A [512]int64 }
	data := append(raw("dd 00010000"), bytes.Repeat(raw("80"), 1<<16)...)
	for typ, want := range map[reflect.Type]error{
		reflect.TypeFor[[]large]():              wire.ErrMemory,
		reflect.TypeFor[[]*large]():             wire.ErrMemory,
		reflect.TypeFor[[]map[string]large]():   nil, // empty maps weigh little
		reflect.TypeFor[[]struct{ A *large }](): nil,
		reflect.TypeFor[[]struct{}]():           nil,
	} {
		p, err := wire.For(typ)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Check(data); got != want {
			t.Errorf("%v: %v, want %v", typ, got, want)
		}
	}
}

func TestChecksDoNotAllocate(t *testing.T) {
	p, err := wire.For(reflect.TypeFor[tree]())
	if err != nil {
		t.Fatal(err)
	}
	data := raw("81 a84368696c6472656e 92 81 a556616c7565 01 80")
	if n := testing.AllocsPerRun(100, func() { err = p.Check(data) }); n != 0 || err != nil {
		t.Errorf("%v allocations, %v", n, err)
	}
}

type (
	selfPointer   *selfPointer
	withFunc      struct{ F func() }
	withUintptr   struct{ P uintptr }
	deepChan      struct{ M map[string][]*withChan }
	withChan      struct{ C chan int }
	embedsPointer struct{ *Base }
	embedsItself  struct {
		//lint:ignore U1000 for its type
		*embedsItself
		X int
	}
	interned struct {
		S string `msgpack:",intern"`
	}
	twice struct {
		A int `msgpack:"n"`
		B int `msgpack:"n"`
	}
	aliasTaken struct {
		A int
		B int `msgpack:"b,alias:A"`
	}
	outerLater struct {
		Base
		Name string
	}
	forcedShadow struct {
		Name string
		Base `msgpack:",inline"`
	}
	forcedPointer struct {
		*Base `msgpack:",inline"`
	}
	nothing struct {
		//lint:ignore U1000 for their types
		a, b int
	}
	embedsLevel struct {
		//lint:ignore U1000 for its type
		level
	}
	encodesOnly struct{ X int }
	decodesOnly struct{ X int }
	mixed       struct{ X int }
	fillsCopy   struct{ X *int }
	twoWays     struct{ X int }
)

func (encodesOnly) MarshalText() ([]byte, error)   { return nil, nil }
func (*decodesOnly) UnmarshalText([]byte) error    { return nil }
func (mixed) MarshalBinary() ([]byte, error)       { return nil, nil }
func (mixed) MarshalText() ([]byte, error)         { return nil, nil }
func (*mixed) UnmarshalText([]byte) error          { return nil }
func (fillsCopy) MarshalMsgpack() ([]byte, error)  { return nil, nil }
func (fillsCopy) UnmarshalMsgpack([]byte) error    { return nil }
func (twoWays) MarshalText() ([]byte, error)       { return nil, nil }
func (*twoWays) UnmarshalText([]byte) error        { return nil }
func (*twoWays) MarshalBinary() ([]byte, error)    { return nil, nil }
func (*twoWays) UnmarshalBinary(data []byte) error { return nil }

func TestTypesThatCannotComeBackAreRefused(t *testing.T) {
	for _, tt := range []struct {
		typ  reflect.Type
		want string
	}{
		{reflect.TypeFor[chan int](), "cannot be stored"},
		{reflect.TypeFor[complex128](), "cannot be stored"},
		{reflect.TypeFor[withFunc](), "cannot be stored"},
		{reflect.TypeFor[withUintptr](), "cannot be stored"},
		{reflect.TypeFor[deepChan](), "cannot be stored"},
		{reflect.TypeFor[selfPointer](), "points to itself"},
		{reflect.TypeFor[map[any]int](), "a key with an interface"},
		{reflect.TypeFor[map[[1]any]int](), "a key with an interface"},
		{reflect.TypeFor[map[*int]int](), "a pointer in it"},
		{reflect.TypeFor[embedsPointer](), "noinline"},
		{reflect.TypeFor[embedsItself](), "noinline"},
		{reflect.TypeFor[forcedPointer](), "noinline"},
		{reflect.TypeFor[interned](), "intern"},
		{reflect.TypeFor[twice](), `two fields are named "n"`},
		{reflect.TypeFor[aliasTaken](), `two fields are named "A"`},
		{reflect.TypeFor[outerLater](), `two fields are named "Name"`},
		{reflect.TypeFor[forcedShadow](), `two fields are named "Name"`},
		{reflect.TypeFor[nothing](), "all would be lost"},
		{reflect.TypeFor[sync.Mutex](), "all would be lost"},
		{reflect.TypeFor[embedsLevel](), "not exported"},
		{reflect.TypeFor[encodesOnly](), "no decoder of its own"},
		{reflect.TypeFor[decodesOnly](), "no encoder of its own"},
		{reflect.TypeFor[mixed](), "encodes itself with MarshalBinary, but decodes itself with UnmarshalText"},
		{reflect.TypeFor[fillsCopy](), "value receiver"},
		{reflect.TypeFor[struct{ *big.Int }](), "value receiver"},
		{reflect.TypeFor[twoWays](), "encoded differently"},
	} {
		p, err := wire.For(tt.typ)
		var own wire.Error
		if p != nil || !errors.As(err, &own) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("For(%v) = %v, want %q", tt.typ, err, tt.want)
		}
	}
}

func TestTypesThatComeBackAreTaken(t *testing.T) {
	for _, typ := range []reflect.Type{
		reflect.TypeFor[time.Time](), reflect.TypeFor[*time.Time](), reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix](),
		reflect.TypeFor[net.IP](), reflect.TypeFor[url.URL](), reflect.TypeFor[*big.Int](), reflect.TypeFor[big.Float](),
		reflect.TypeFor[msgpack.RawMessage](), reflect.TypeFor[struct{}](), reflect.TypeFor[tree](), reflect.TypeFor[struct{ time.Time }](),
		reflect.TypeFor[map[netip.Addr]time.Time](), reflect.TypeFor[map[[2]int]bool](), reflect.TypeFor[[]level](),
	} {
		if _, err := wire.For(typ); err != nil {
			t.Errorf("For(%v) = %v", typ, err)
		}
	}
}

func TestThePlanHasTheNamesThatTheLibraryWrites(t *testing.T) {
	_ = renamed{hidden: 0} // else it is unused
	for _, v := range []any{
		inner{}, renamed{Y: 1}, noinline{}, shadowed{}, forced{}, unexpBase{}, tree{}, Base{}, tags{}, manyAny{}, struct{}{},
		struct {
			A struct{ B int }
			Base
			C time.Time `msgpack:"'a,b'"`
		}{},
		struct {
			Base `msgpack:"renamed"`
			D    int `msgpack:" spaced , omitempty"`
		}{D: 1},
	} {
		p, err := wire.For(reflect.TypeOf(v))
		if err != nil {
			t.Fatal(err)
		}
		data, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		dec := msgpack.NewDecoder(bytes.NewReader(data))
		n, err := dec.DecodeMapLen()
		for range n {
			name, err := dec.DecodeString()
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, name)
			if err := dec.Skip(); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil || !slices.Equal(p.Names(), want) {
			t.Errorf("%T: the plan has %q, the library writes %q", v, p.Names(), want)
		}
		if err := p.Check(data); err != nil {
			t.Errorf("%T: what the library wrote: %v", v, err)
		}
	}
}

func TestPlansAreSafeForConcurrentUse(t *testing.T) {
	type only struct{ T *tree }
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			p, err := wire.For(reflect.TypeFor[only]())
			if err == nil {
				err = p.Check(raw("81 a154 c0"))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
