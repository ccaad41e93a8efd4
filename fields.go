package redsession

import (
	"bytes"
	"encoding"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// field is one field of a session on its way to the hash.
type field struct {
	name  string
	data  []byte
	omit  bool // omitempty, and empty: not to be stored
	blank bool // the zero value: not worth adding to a hash that lacks the field
}

// mapping is how a T becomes fields of a hash and back. It is built once by New.
type mapping[T any] interface {
	// encode gives every field of v, in a fixed order.
	encode(v *T) ([]field, error)
	// decode fills v, a zero T, from the fields of a hash, which e opens.
	decode(hash map[string]string, e *envelope, v *T) error
	// owns tells whether a field of a hash is one of this T's.
	owns(name string) bool
	// same tells whether two encodings of a field mean the same value.
	same(name, a, b string) bool
	// principal is whose session v is, if T says so.
	principal(v *T) (p string, declared bool)
}

func newMapping[T any](codec Codec) (mapping[T], error) {
	t := reflect.TypeFor[T]()
	switch {
	case t.Kind() == reflect.Map && t.Key().Kind() == reflect.String:
		if err := supported(t.Elem(), codec); err != nil {
			return nil, fmt.Errorf("redsession: %v: values: %w", t, err)
		}
		return &mapMapping[T]{codec: codec, typ: t}, nil
	case t.Kind() == reflect.Struct:
		m := &structMapping[T]{codec: codec, index: make(map[string]int), principalAt: -1}
		if err := m.add(t, nil, nil); err != nil {
			return nil, err
		}
		if len(m.fields) == 0 && t.NumField() > 0 {
			return nil, fmt.Errorf("redsession: %v has no exported fields", t)
		}
		return m, nil
	}
	return nil, fmt.Errorf("redsession: %v is neither a struct nor a map with string keys", t)
}

// structMapping stores each exported field of a struct.
type structMapping[T any] struct {
	codec       Codec
	fields      []structField
	index       map[string]int // by name
	principalAt int            // in fields, or -1
}

type structField struct {
	name      string
	path      []int // through embedded structs
	typ       reflect.Type
	omitempty bool
	goName    string // for errors
}

// add plans the fields of t, which is T itself or a struct embedded in it.
func (m *structMapping[T]) add(t reflect.Type, path []int, outer []reflect.Type) error {
	for _, o := range outer {
		if o == t {
			return fmt.Errorf("redsession: %v embeds itself", t)
		}
	}
	outer = append(outer[:len(outer):len(outer)], t)
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, tagged := sf.Tag.Lookup("session")
		if tag == "-" {
			continue
		}
		fail := func(format string, args ...any) error {
			return fmt.Errorf("redsession: %v.%s: %s", t, sf.Name, fmt.Sprintf(format, args...))
		}
		here := append(path[:len(path):len(path)], i)
		name, options, _ := strings.Cut(tag, ",")
		if inner, ok := embedded(sf); ok && name == "" {
			if sf.Type.Kind() == reflect.Pointer && !sf.IsExported() {
				return fail("an embedded pointer to an unexported struct cannot be filled")
			}
			if options != "" {
				return fail("options on an embedded struct need a name")
			}
			if err := m.add(inner, here, outer); err != nil {
				return err
			}
			continue
		}
		if !sf.IsExported() {
			if tagged {
				return fail("a session tag on an unexported field")
			}
			continue
		}
		f := structField{name: name, path: here, typ: sf.Type, goName: fmt.Sprintf("%v.%s", t, sf.Name)}
		if f.name == "" {
			f.name = sf.Name
		}
		if strings.HasPrefix(f.name, "@") {
			return fail("the name %q is reserved: names that begin with @ are the session's own records", f.name)
		}
		if at, taken := m.index[f.name]; taken {
			return fail("the name %q is taken by %s", f.name, m.fields[at].goName)
		}
		if err := supported(sf.Type, m.codec); err != nil {
			return fail("%v", err)
		}
		for option := range strings.SplitSeq(options, ",") {
			switch option {
			case "":
			case "omitempty":
				f.omitempty = true
			case "principal":
				if m.principalAt >= 0 {
					return fail("a second principal, after %s", m.fields[m.principalAt].goName)
				}
				if !principalKind(sf.Type.Kind()) {
					return fail("a principal is a string or an integer, not %v", sf.Type)
				}
				m.principalAt = len(m.fields)
			default:
				return fail("unknown tag option %q", option)
			}
		}
		m.index[f.name] = len(m.fields)
		m.fields = append(m.fields, f)
	}
	return nil
}

// embedded is the struct whose fields count as the outer one's.
func embedded(sf reflect.StructField) (reflect.Type, bool) {
	t := sf.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t, sf.Anonymous && t.Kind() == reflect.Struct && !encodesItself(t)
}

func (m *structMapping[T]) encode(v *T) ([]field, error) {
	root := reflect.ValueOf(v).Elem()
	list := make([]field, len(m.fields))
	for i, f := range m.fields {
		list[i].name = f.name
		value, err := root.FieldByIndexErr(f.path)
		if err != nil { // inside an embedded pointer that is nil
			list[i].omit = true
			continue
		}
		list[i].blank = value.IsZero()
		if f.omitempty && isEmpty(value) {
			list[i].omit = true
			continue
		}
		if list[i].data, err = m.codec.Marshal(value.Addr().Interface()); err != nil {
			return nil, encodeError(f.name, m.codec, err)
		}
	}
	return list, nil
}

func (m *structMapping[T]) decode(hash map[string]string, e *envelope, v *T) error {
	root := reflect.ValueOf(v).Elem()
	for _, f := range m.fields {
		stored, ok := hash[f.name]
		if !ok {
			continue
		}
		data, err := e.open(f.name, stored)
		if err != nil {
			return err
		}
		if err := m.codec.Unmarshal(data, fieldAt(root, f.path).Addr().Interface()); err != nil {
			return &DecodeError{Field: f.name, reason: safeReason(err)}
		}
	}
	return nil
}

// fieldAt is FieldByIndex that makes the embedded structs it passes.
func fieldAt(v reflect.Value, path []int) reflect.Value {
	for i, x := range path {
		if i > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(x)
	}
	return v
}

func (m *structMapping[T]) owns(name string) bool {
	_, ok := m.index[name]
	return ok
}

func (m *structMapping[T]) same(name, a, b string) bool {
	return sameValue(m.codec, m.fields[m.index[name]].typ, a, b)
}

func (m *structMapping[T]) principal(v *T) (string, bool) {
	if m.principalAt < 0 {
		return "", false
	}
	value, err := reflect.ValueOf(v).Elem().FieldByIndexErr(m.fields[m.principalAt].path)
	if err != nil || value.IsZero() {
		return "", true
	}
	switch {
	case value.CanInt():
		return strconv.FormatInt(value.Int(), 10), true
	case value.CanUint():
		return strconv.FormatUint(value.Uint(), 10), true
	}
	return value.String(), true
}

func principalKind(k reflect.Kind) bool {
	return k == reflect.String || k >= reflect.Int && k <= reflect.Uint64
}

// mapMapping stores each entry of a map.
type mapMapping[T any] struct {
	codec Codec
	typ   reflect.Type
}

func (m *mapMapping[T]) encode(v *T) ([]field, error) {
	entries := reflect.ValueOf(v).Elem()
	list := make([]field, 0, entries.Len())
	value := reflect.New(m.typ.Elem())
	for it := entries.MapRange(); it.Next(); {
		name := it.Key().String()
		// A key is data, perhaps a stranger's: it must not be able to plant a
		// verifier or another record of ours.
		if strings.HasPrefix(name, "@") {
			return nil, fmt.Errorf("redsession: %v: a key begins with @, which is reserved", m.typ)
		}
		value.Elem().Set(it.Value())
		data, err := m.codec.Marshal(value.Interface())
		if err != nil {
			return nil, encodeError(name, m.codec, err)
		}
		list = append(list, field{name: name, data: data})
	}
	return list, nil
}

func (m *mapMapping[T]) decode(hash map[string]string, e *envelope, v *T) error {
	entries := reflect.MakeMapWithSize(m.typ, len(hash))
	for name, stored := range hash {
		if !m.owns(name) {
			continue
		}
		data, err := e.open(name, stored)
		if err != nil {
			return err
		}
		value := reflect.New(m.typ.Elem())
		if err := m.codec.Unmarshal(data, value.Interface()); err != nil {
			return &DecodeError{Field: name, reason: safeReason(err)}
		}
		entries.SetMapIndex(reflect.ValueOf(name).Convert(m.typ.Key()), value.Elem())
	}
	reflect.ValueOf(v).Elem().Set(entries)
	return nil
}

func (m *mapMapping[T]) owns(name string) bool { return !strings.HasPrefix(name, "@") }

func (m *mapMapping[T]) same(_, a, b string) bool {
	return sameValue(m.codec, m.typ.Elem(), a, b)
}

func (m *mapMapping[T]) principal(*T) (string, bool) { return "", false }

func encodeError(name string, codec Codec, err error) error {
	return fmt.Errorf("redsession: field %.64q cannot be encoded by codec %s: %s", name, codec.Name(), safeReason(err))
}

// sameValue compares by what the bytes decode to: maps have no order, and
// another program may encode the same value differently.
func sameValue(codec Codec, t reflect.Type, a, b string) bool {
	if a == b {
		return true
	}
	x, y := reflect.New(t), reflect.New(t)
	if codec.Unmarshal([]byte(a), x.Interface()) != nil || codec.Unmarshal([]byte(b), y.Interface()) != nil {
		return false
	}
	return identical(x, y, 0)
}

// identical is reflect.DeepEqual but for floats, which it compares by their bits: NaN is
// what it was, and -0 is not 0. What is nested too deep to come of bytes is not found
// identical: it may contain itself.
func identical(a, b reflect.Value, depth int) bool {
	if a.IsValid() != b.IsValid() || depth > 1000 {
		return false
	}
	if !a.IsValid() { // inside an interface that is nil
		return true
	}
	if a.Type() != b.Type() {
		return false
	}
	switch a.Kind() {
	case reflect.Float32, reflect.Float64:
		return math.Float64bits(a.Float()) == math.Float64bits(b.Float())
	case reflect.Pointer:
		return a.UnsafePointer() == b.UnsafePointer() || identical(a.Elem(), b.Elem(), depth+1)
	case reflect.Interface:
		return identical(a.Elem(), b.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		if a.Kind() == reflect.Slice && a.IsNil() != b.IsNil() || a.Len() != b.Len() {
			return false
		}
		if a.Kind() == reflect.Slice && a.Type().Elem().Kind() == reflect.Uint8 { // there may be many
			return bytes.Equal(a.Bytes(), b.Bytes())
		}
		for i := range a.Len() {
			if !identical(a.Index(i), b.Index(i), depth+1) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.IsNil() != b.IsNil() || a.Len() != b.Len() {
			return false
		}
		for it := a.MapRange(); it.Next(); {
			if !identical(it.Value(), b.MapIndex(it.Key()), depth+1) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range a.NumField() {
			if !identical(a.Field(i), b.Field(i), depth+1) {
				return false
			}
		}
		return true
	case reflect.Func:
		return a.IsNil() && b.IsNil()
	}
	return a.Equal(b)
}

// isEmpty is what omitempty leaves out: the zero value, a time that is zero,
// and a slice or a map without elements.
func isEmpty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	}
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok && v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface {
		return z.IsZero()
	}
	return v.IsZero()
}

// supported refuses the types that no codec can bring back, and those that this
// one cannot.
func supported(t reflect.Type, codec Codec) error {
	if err := supportedWithin(t, make(map[reflect.Type]bool)); err != nil {
		return err
	}
	if c, ok := codec.(interface{ checkType(reflect.Type) error }); ok {
		return c.checkType(t)
	}
	return nil
}

func supportedWithin(t reflect.Type, seen map[reflect.Type]bool) error {
	if seen[t] || encodesItself(t) {
		return nil
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer, reflect.Uintptr:
		return fmt.Errorf("unsupported type %v", t)
	case reflect.Interface:
		if t.NumMethod() > 0 {
			return fmt.Errorf("unsupported type %v: of the interfaces only any can be decoded", t)
		}
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return supportedWithin(t.Elem(), seen)
	case reflect.Map:
		switch k := t.Key(); {
		case k.Kind() == reflect.String, k.Kind() >= reflect.Int && k.Kind() <= reflect.Uint64:
		default:
			return fmt.Errorf("unsupported type %v: a map's keys are strings or integers", t)
		}
		return supportedWithin(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if sf := t.Field(i); sf.IsExported() && sf.Tag.Get("msgpack") != "-" && sf.Tag.Get("json") != "-" {
				if err := supportedWithin(sf.Type, seen); err != nil {
					return fmt.Errorf("%s: %w", sf.Name, err)
				}
			}
		}
	}
	return nil
}

// encodesItself tells whether a type brings its own encoding, so that its kind
// says nothing.
func encodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	for _, i := range []reflect.Type{
		reflect.TypeFor[encoding.BinaryUnmarshaler](),
		reflect.TypeFor[encoding.TextUnmarshaler](),
	} {
		if p.Implements(i) {
			return true
		}
	}
	return hasMethod(p, "UnmarshalJSON") || hasMethod(p, "UnmarshalMsgpack") || hasMethod(p, "DecodeMsgpack")
}

func hasMethod(t reflect.Type, name string) bool {
	_, ok := t.MethodByName(name)
	return ok
}
