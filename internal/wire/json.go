package wire

import (
	"encoding"
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// jsonBudget is baseBudget for JSON. It is larger because the costs are counted
// without looking at which element belongs to which type.
const jsonBudget = 64 << 20

// The reasons of JSON.
const (
	ErrJSON    Error = "not one value of JSON"
	ErrNumber  Error = "a number that neither int64, uint64 nor float64 holds"
	ErrReplace Error = "invalid UTF-8, or half of a surrogate pair"
)

// JSONPlan is what there is to know of a Go type in order to check JSON that is
// about to be decoded into it. It is safe for concurrent use.
type JSONPlan struct {
	// Any: the type holds an interface somewhere.
	Any bool
	// Nil: null is a value of the type, or is up to its own decoder.
	Nil bool

	maps    bool   // as many objects as there are may become maps
	element uint64 // the most that one element of an array can cost
	member  uint64 // the most that one member of an object can cost
}

var jsonPlans sync.Map // reflect.Type to *JSONPlan

// JSONFor gives the plan of a type.
func JSONFor(t reflect.Type) *JSONPlan {
	if p, ok := jsonPlans.Load(t); ok {
		return p.(*JSONPlan)
	}
	p := &JSONPlan{}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		p.Nil = true
	default:
		p.Nil = t != timeType && reflect.PointerTo(t).Implements(jsonUnmarshaler)
	}
	p.add(t, map[reflect.Type]bool{})
	got, _ := jsonPlans.LoadOrStore(t, p)
	return got.(*JSONPlan)
}

var (
	jsonMarshaler   = reflect.TypeFor[json.Marshaler]()
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func jsonDecodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler)
}

func (p *JSONPlan) add(t reflect.Type, seen map[reflect.Type]bool) {
	if seen[t] || jsonDecodesItself(t) {
		return
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Interface:
		p.Any, p.maps = true, true
	case reflect.Pointer:
		size := uint64(t.Elem().Size())
		p.element, p.member = max(p.element, size), max(p.member, size)
		p.add(t.Elem(), seen)
	case reflect.Slice:
		p.element = max(p.element, uint64(t.Elem().Size()))
		p.add(t.Elem(), seen)
	case reflect.Array:
		p.add(t.Elem(), seen)
	case reflect.Map:
		p.maps = true
		p.member = max(p.member, uint64(t.Key().Size()+t.Elem().Size()))
		p.add(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if sf := t.Field(i); (sf.IsExported() || sf.Anonymous) && sf.Tag.Get("json") != "-" {
				p.add(sf.Type, seen)
			}
		}
	}
}

// JSONFacts is what a check found that matters to the caller.
type JSONFacts struct {
	// Replaced: a string holds \ufffd, which is what encoding/json writes for
	// bytes that are not UTF-8.
	Replaced bool
	// Long: there is a number that an int64 may not hold.
	Long bool
}

// Check refuses bytes that are not one value of JSON, too deep, too costly to
// decode, or hold text that encoding/json would replace without a word.
func (p *JSONPlan) Check(data []byte) (JSONFacts, error) {
	if len(data) > MaxSize {
		return JSONFacts{}, ErrSize
	}
	if !utf8.Valid(data) {
		return JSONFacts{}, ErrUTF8
	}
	facts, counts, err := scanJSON(data)
	if err != nil {
		return facts, err
	}
	if !json.Valid(data) {
		return facts, ErrJSON
	}
	left := reader{left: jsonBudget + budgetPerByte*uint64(len(data))}
	for _, cost := range [...]struct{ n, size uint64 }{{counts.elements, p.element}, {counts.members, p.member}} {
		if err := left.charge(cost.n, cost.size); err != nil {
			return facts, err
		}
	}
	if p.maps {
		const small = mapSize + 8*(stringSize+interfaceSize+1)
		if err := left.charge(counts.objects, small); err != nil {
			return facts, err
		}
		if err := left.charge(counts.members+counts.elements, stringSize+interfaceSize); err != nil {
			return facts, err
		}
	}
	return facts, nil
}

type jsonCounts struct{ objects, members, elements uint64 }

// scanJSON looks at what json.Valid does not. On bytes that are not JSON it may
// find anything.
func scanJSON(data []byte) (facts JSONFacts, counts jsonCounts, err error) {
	depth := 0
	var inObject [MaxDepth + 1]bool
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case '{', '[':
			if depth++; depth > MaxDepth {
				return facts, counts, ErrDepth
			}
			inObject[depth] = c == '{'
			if inObject[depth] {
				counts.objects++
			} else {
				counts.elements++
			}
		case '}', ']':
			depth = max(depth-1, 0)
		case ',':
			if !inObject[depth] {
				counts.elements++
			}
		case ':':
			counts.members++
		case '"':
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] != '\\' {
					continue
				}
				i++
				if i >= len(data) || data[i] != 'u' {
					continue
				}
				r := escape(data[i+1:])
				i += 4
				switch {
				case r == 0xfffd:
					facts.Replaced = true
				case r >= 0xdc00 && r < 0xe000:
					return facts, counts, ErrReplace
				case r >= 0xd800 && r < 0xdc00:
					if i+2 >= len(data) || data[i+1] != '\\' || data[i+2] != 'u' {
						return facts, counts, ErrReplace
					}
					if low := escape(data[i+3:]); low < 0xdc00 || low >= 0xe000 {
						return facts, counts, ErrReplace
					}
					i += 6
				}
			}
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			start := i
			for i+1 < len(data) && strings.IndexByte("+-.0123456789eE", data[i+1]) >= 0 {
				i++
				facts.Long = facts.Long || data[i]|0x20 == 'e'
			}
			facts.Long = facts.Long || i-start+1 >= len("9223372036854775807")
		}
	}
	return facts, counts, nil
}

// escape reads the four digits of a \u escape, and gives -1 if they are not.
func escape(data []byte) int {
	if len(data) < 4 {
		return -1
	}
	n, err := strconv.ParseUint(string(data[:4]), 16, 16)
	if err != nil {
		return -1
	}
	return int(n)
}

// Widen makes a Go number of each json.Number that was decoded into an
// interface: int64 or uint64 where it has no fraction, else float64. A float64
// of 2 is written as 2, so that its type is gone anyway; this way what was read
// once does not change again. Digits that would get lost are an error. v must be
// settable.
func (p *JSONPlan) Widen(v reflect.Value) error {
	if !p.Any {
		return nil
	}
	return widenJSONValue(v)
}

func widenJSONValue(v reflect.Value) error {
	t := v.Type()
	if !JSONFor(t).Any {
		return nil
	}
	switch t.Kind() {
	case reflect.Interface:
		if v.IsNil() || !v.CanSet() {
			return nil
		}
		x, err := widenJSON(v.Interface())
		if err != nil {
			return err
		}
		v.Set(reflect.ValueOf(x))
	case reflect.Pointer:
		if !v.IsNil() {
			return widenJSONValue(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if err := widenJSONValue(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		elem := reflect.New(t.Elem()).Elem()
		for it := v.MapRange(); it.Next(); {
			elem.Set(it.Value())
			if err := widenJSONValue(elem); err != nil {
				return err
			}
			v.SetMapIndex(it.Key(), elem)
		}
	case reflect.Struct:
		for i := range t.NumField() {
			if sf := t.Field(i); sf.IsExported() || sf.Anonymous {
				if err := widenJSONValue(v.Field(i)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func widenJSON(x any) (_ any, err error) {
	switch x := x.(type) {
	case json.Number:
		return number(string(x))
	case []any:
		for i, e := range x {
			if x[i], err = widenJSON(e); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k, e := range x {
			if x[k], err = widenJSON(e); err != nil {
				return nil, err
			}
		}
	}
	return x, nil
}

func number(s string) (any, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return nil, ErrNumber
	}
	if f == 0 && math.Signbit(f) {
		return f, nil // -0, which no integer is
	}
	if strings.ContainsAny(s, ".eE") {
		switch {
		case f != math.Trunc(f):
		case f >= -1<<63 && f < 1<<63:
			return int64(f), nil
		case f > 0 && f < 1<<64:
			return uint64(f), nil
		}
		return f, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil {
		return n, nil
	}
	// A float64 of 1e20 is written in digits too. Those that come back as they
	// were lose nothing.
	if strconv.FormatFloat(f, 'f', -1, 64) == s {
		return f, nil
	}
	return nil, ErrNumber
}

// CheckStrings refuses a value with a string in it that is not UTF-8, among
// those that encoding/json would write. It must have been encoded already: that
// shows that it does not contain itself.
func CheckStrings(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Invalid:
		return nil
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
	}
	t := v.Type()
	if t.Implements(jsonMarshaler) || v.CanAddr() && reflect.PointerTo(t).Implements(jsonMarshaler) {
		return nil // its bytes are passed on as they are, and have been checked
	}
	if t.Implements(textMarshaler) {
		return checkText(v)
	}
	if v.CanAddr() && reflect.PointerTo(t).Implements(textMarshaler) {
		return checkText(v.Addr())
	}
	switch t.Kind() {
	case reflect.String:
		return checkString(v.String())
	case reflect.Pointer, reflect.Interface:
		return CheckStrings(v.Elem())
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return nil
		}
		for i := range v.Len() {
			if err := CheckStrings(v.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			if k := it.Key(); k.Kind() == reflect.String {
				if err := checkString(k.String()); err != nil {
					return err
				}
			} else if err := CheckStrings(k); err != nil {
				return err
			}
			if err := CheckStrings(it.Value()); err != nil {
				return err
			}
		}
	case reflect.Struct:
		for i := range t.NumField() {
			sf := t.Field(i)
			if !sf.IsExported() && !sf.Anonymous || sf.Tag.Get("json") == "-" {
				continue
			}
			if err := CheckStrings(v.Field(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkString(s string) error {
	if !utf8.ValidString(s) {
		return ErrUTF8
	}
	return nil
}

func checkText(v reflect.Value) error {
	if !v.CanInterface() {
		return nil
	}
	text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
	if err == nil && !utf8.Valid(text) {
		return ErrUTF8
	}
	return nil
}
