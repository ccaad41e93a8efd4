package wire_test

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/redsession/redsession/internal/wire"
)

func TestJSONCheck(t *testing.T) {
	p := wire.JSONFor(reflect.TypeFor[any]())
	for _, tt := range []struct {
		name, data string
		want       error
	}{
		{"null", `null`, nil},
		{"an object", ` {"a":[1,2.5e3,"b\n\u00e9",true,null]} `, nil},
		{"a pair of surrogates", `"\ud83d\ude00"`, nil},
		{"a pair in capitals", `"\uD83D\uDE00"`, nil},
		{"an escaped backslash before a u", `"\\ud83d"`, nil},
		{"32 arrays", strings.Repeat("[", 32) + strings.Repeat("]", 32), nil},
		{"brackets in strings", `"` + strings.Repeat("[{", 100) + `"`, nil},
		{"quotes in strings", `["\"[[[[", "\\"]`, nil},

		{"nothing", ``, wire.ErrJSON},
		{"blanks", `  `, wire.ErrJSON},
		{"a second value", `1 2`, wire.ErrJSON},
		{"an open string", `"abc`, wire.ErrJSON},
		{"an open escape", `"abc\`, wire.ErrJSON},
		{"half an escape", `"\u12`, wire.ErrJSON},
		{"half an escape of a surrogate", `"\ud83d\u`, wire.ErrReplace},
		{"not a number", `01`, wire.ErrJSON},
		{"closed too often", `]]]]`, wire.ErrJSON},
		{"a control character", "\"\x01\"", wire.ErrJSON},
		{"bytes that are not UTF-8", "\"\xff\"", wire.ErrUTF8},
		{"a key that is not UTF-8", "{\"\xff\":1}", wire.ErrUTF8},
		{"the first half of a pair", `"\ud83d"`, wire.ErrReplace},
		{"the first half and a letter", `"\ud83da"`, wire.ErrReplace},
		{"the first half and another escape", `"\ud83d\n"`, wire.ErrReplace},
		{"the first half twice", `"\ud83d\ud83d"`, wire.ErrReplace},
		{"the second half", `"\ude00"`, wire.ErrReplace},
		{"the second half in a key", `{"\ude00":1}`, wire.ErrReplace},
		{"33 arrays", strings.Repeat("[", 33) + strings.Repeat("]", 33), wire.ErrDepth},
		{"33 objects", strings.Repeat(`{"":`, 33) + `1` + strings.Repeat("}", 33), wire.ErrDepth},
		{"2M arrays", strings.Repeat("[", 2<<20), wire.ErrDepth},
		{"2M objects", "[" + strings.Repeat(`{"":0},`, 2<<20) + "0]", wire.ErrMemory},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var err error
			used := allocated(func() { _, err = p.Check([]byte(tt.data)) })
			if err != tt.want {
				t.Errorf("Check = %v, want %v", err, tt.want)
			}
			if used > 32<<20 {
				t.Errorf("%d bytes allocated", used)
			}
		})
	}
}

func TestJSONElementsAreWeighed(t *testing.T) {
	type large struct{ A [512]int64 }
	list := append(bytes.Repeat([]byte(`{},`), 1<<16), `{}`...)
	list = append(append([]byte{'['}, list...), ']')
	for typ, want := range map[reflect.Type]error{
		reflect.TypeFor[[]large]():    wire.ErrMemory,
		reflect.TypeFor[[]*large]():   wire.ErrMemory,
		reflect.TypeFor[[]Base]():     nil,
		reflect.TypeFor[[]any]():      nil,
		reflect.TypeFor[[]struct{}](): nil,
	} {
		if _, got := wire.JSONFor(typ).Check(list); got != want {
			t.Errorf("%v: %v, want %v", typ, got, want)
		}
	}
}

func TestJSONFacts(t *testing.T) {
	p := wire.JSONFor(reflect.TypeFor[any]())
	for data, want := range map[string]wire.JSONFacts{
		`["\ufffd"]`:                           {Replaced: true},
		`["\uFFFD"]`:                           {Replaced: true},
		`["\\ufffd", "` + "\ufffd" + `"]`:      {},
		`[123456789012345678]`:                 {},
		`[1234567890123456789]`:                {Long: true},
		`[-1.5e400]`:                           {Long: true},
		`["1234567890123456789", true, false]`: {},
	} {
		if got, err := p.Check([]byte(data)); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", data, got, err, want)
		}
	}
}

func TestJSONWiden(t *testing.T) {
	type holder struct {
		A any
		P *any
		L []any
		M map[string]map[string]any
		N json.Number
		Base
		R [1]any
	}
	const data = `{"A":1,"P":2,"L":[-9223372036854775808,9223372036854775807,9223372036854775808,18446744073709551615,
		1.0,1e2,1.5,1e19,1e20,-0,-0.0,100000000000000000000,"x",null,true,{"y":[3]}],"M":{"m":{"n":4}},"N":5,"R":[6]}`
	var v holder
	dec := json.NewDecoder(strings.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	if err := wire.JSONFor(reflect.TypeFor[holder]()).Widen(reflect.ValueOf(&v).Elem()); err != nil {
		t.Fatal(err)
	}
	var two any = int64(2)
	want := holder{
		A: int64(1), P: &two,
		L: []any{int64(math.MinInt64), int64(math.MaxInt64), uint64(1 << 63), uint64(math.MaxUint64), int64(1), int64(100),
			1.5, uint64(1e19), 1e20, math.Copysign(0, -1),
			math.Copysign(0, -1), 1e20, "x", nil, true, map[string]any{"y": []any{int64(3)}}},
		M: map[string]map[string]any{"m": {"n": int64(4)}}, N: "5", R: [1]any{int64(6)},
	}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("got  %#v\nwant %#v", v, want)
	}
	for _, i := range []int{9, 10} {
		if z := v.L[i].(float64); z != 0 || !math.Signbit(z) {
			t.Error("-0 lost its sign")
		}
	}

	for _, n := range []json.Number{"18446744073709551616", "-9223372036854775809", "123456789012345678901", "1e400", json.Number(strings.Repeat("9", 400)), "-"} {
		var v any = []any{n}
		if err := wire.JSONFor(reflect.TypeFor[any]()).Widen(reflect.ValueOf(&v).Elem()); err != wire.ErrNumber {
			t.Errorf("%s: %v, %v", n, v, err)
		}
	}
}

type (
	jsonOwn  struct{ S string }
	textOwn  struct{ s string }
	textByPt struct{ s string }
)

func (jsonOwn) MarshalJSON() ([]byte, error)     { return []byte(`"\ufffd"`), nil }
func (o textOwn) MarshalText() ([]byte, error)   { return []byte(o.s), nil }
func (o *textByPt) MarshalText() ([]byte, error) { return []byte(o.s), nil }

func TestCheckStrings(t *testing.T) {
	const bad = "\xff"
	type hidden struct {
		S string `json:"-"`
		s string
	}
	type withUnexported struct{ Base }
	for name, v := range map[string]any{
		"string": bad, "key": map[string]int{bad: 1}, "value": map[string]string{"": bad}, "slice": []string{"", bad},
		"array": [1]string{bad}, "any": []any{bad}, "field": Base{Name: bad}, "embedded": withUnexported{Base{Name: bad}},
		"pointer": &Base{Name: bad}, "text": textOwn{bad}, "text by pointer": []textByPt{{bad}}, "text key": map[textOwn]int{{bad}: 1},
		"named": []struct{ N json.Number }{{bad}},
	} {
		if wire.CheckStrings(reflect.ValueOf(v)) != wire.ErrUTF8 {
			t.Errorf("%s passed", name)
		}
	}
	for name, v := range map[string]any{
		"bytes": []byte(bad), "hidden": hidden{bad, bad}, "own JSON": jsonOwn{bad}, "good": []any{"é", nil, 1, Base{Name: "x"}},
		"nil": nil, "nil pointer": (*Base)(nil), "byte array": [1]byte{255}, "text": textOwn{"ok"},
	} {
		if err := wire.CheckStrings(reflect.ValueOf(v)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
