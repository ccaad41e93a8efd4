package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/redsession/redsession/internal/wire"
	"github.com/vmihailenco/msgpack/v5"
)

// Of none of these the library's decoder runs code of the caller's own, so that
// it must take whatever passes.
var fuzzed = []reflect.Type{
	reflect.TypeFor[any](),
	reflect.TypeFor[map[string]any](),
	reflect.TypeFor[[]any](),
	reflect.TypeFor[manyAny](),
	reflect.TypeFor[inner](),
	reflect.TypeFor[renamed](),
	reflect.TypeFor[noinline](),
	reflect.TypeFor[unexpBase](),
	reflect.TypeFor[tree](),
	reflect.TypeFor[inArray](),
	reflect.TypeFor[[]string](),
	reflect.TypeFor[[]byte](),
	reflect.TypeFor[[3]byte](),
	reflect.TypeFor[[2]any](),
	reflect.TypeFor[map[string]string](),
	reflect.TypeFor[map[string]bool](),
	reflect.TypeFor[map[int16]*level](),
	reflect.TypeFor[map[[2]int8][]time.Time](),
	reflect.TypeFor[map[float64]float32](),
	reflect.TypeFor[**time.Duration](),
	reflect.TypeFor[[]error](),
	reflect.TypeFor[uint64](),
	reflect.TypeFor[float32](),
	reflect.TypeFor[string](),
	reflect.TypeFor[bool](),
	reflect.TypeFor[msgpack.RawMessage](),
}

// Nothing makes the check panic; what passes, the library decodes without a
// panic, without an error and within the budget.
func FuzzWireCheck(f *testing.F) {
	for _, c := range checks {
		f.Add(c.data)
	}
	for _, c := range plainChecks {
		f.Add(raw(c.data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		structure := wire.Check(data)
		bound := 8 * (16<<20 + 16*uint64(len(data))) // growing slices and maps leaves garbage
		for _, typ := range fuzzed {
			p, err := wire.For(typ)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Check(data); err != nil {
				continue
			}
			if structure != nil {
				t.Errorf("%v passed, the structure did not: %v", typ, structure)
			}
			v := reflect.New(typ)
			dec := msgpack.NewDecoder(bytes.NewReader(data))
			if used := allocated(func() { err = dec.DecodeValue(v.Elem()) }); used > bound {
				t.Errorf("%v: %d bytes allocated for %d", typ, used, len(data))
			}
			if err != nil {
				t.Errorf("%v passed, the library says: %v", typ, err)
			}
			p.Widen(v.Elem())
			if err := p.CheckValue(v.Elem()); err != nil {
				t.Errorf("%v: what was decoded cannot be encoded: %v", typ, err)
			}
		}
	})
}

// What passes is JSON, and none of its text is replaced when it is decoded.
func FuzzJSONCheck(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"b\n\u00e9"]}`, `"\ud83d\ude00"`, `"\ud83d"`, `[[[[`, `{"A":{"A":1}}`, `1e400`, `"\ufffd`} {
		f.Add([]byte(s))
	}
	const replacement = "\ufffd"
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, typ := range fuzzed {
			facts, err := wire.JSONFor(typ).Check(data)
			if err != nil || typ.Kind() != reflect.Interface {
				continue
			}
			var v any
			dec := json.NewDecoder(bytes.NewReader(data))
			dec.UseNumber()
			if err := dec.Decode(&v); err != nil {
				t.Errorf("passed, encoding/json says: %v", err)
			}
			if text := fmt.Sprint(v); strings.Contains(text, replacement) && !facts.Replaced && !bytes.Contains(data, []byte(replacement)) {
				t.Errorf("%q was decoded as %q", data, text)
			}
		}
	})
}
