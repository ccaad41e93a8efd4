package redsession

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"sync"

	"github.com/redsession/redsession/internal/wire"
	"github.com/vmihailenco/msgpack/v5"
)

// Codec turns the value of one field into bytes and back. [MsgPack] and [JSON]
// are two; [WithCodec] takes any.
//
// A Codec is used by many goroutines at once. It should give equal bytes for
// equal values, so that a save need not look further to see what has changed;
// it need not: where the bytes differ, the values that they decode to are
// compared. It must be able to read all that it writes, and must not fail
// worse than with an error on any bytes: they come from a store that others
// can write to.
//
// The text of an error of your own Codec is shown to nobody, because it could
// carry a value: the calls that meet it name the field, and say that the codec
// returned an error.
type Codec interface {
	// Name is recorded with each session, and a session is refused by clients
	// whose codec has another. It is 1 to 32 characters of a-z, 0-9, '.', '_'
	// and '-'. A codec that writes other bytes than before needs another name.
	Name() string

	// Marshal encodes the value that v points to. v is a pointer and not nil.
	Marshal(v any) ([]byte, error)

	// Unmarshal decodes data into the value that v points to. v is a pointer
	// and not nil, and the value is zero. It must refuse bytes that it does not
	// consume, and must not keep data.
	Unmarshal(data []byte, v any) error
}

// MsgPack is the default [Codec]: MessagePack, by vmihailenco/msgpack and its
// struct tag, with integers in the shortest form. Its zero value is ready for
// use.
//
// What is stored can be read again, and as it was: where the library would cut
// a number, take nil for a zero, or pass over bytes, there is an error. So
//   - an integer must fit the field's type, and be exact in a float; floats are
//     no integers, and a float64 is no float32;
//   - nil is for pointers, slices, maps and interfaces only;
//   - a string is valid UTF-8, and a string and a []byte are two things;
//   - an array has as many elements as the Go array;
//   - a timestamp is the only extension: types known to the library through its
//     Register functions are not supported, those with methods for it are.
//
// Inside an any, integers come back as int64 (as uint64 above its maximum),
// floats as float64, lists as []any, maps and structs as map[string]any; a map
// with other keys than strings is an error there. A time comes back as the same
// instant, in the local zone. A pointer to a nil pointer, slice or map comes
// back as nil itself.
//
// Some types are refused as a whole: those that the library cannot store, such
// as channels and functions; that embed a pointer to a struct (tag it noinline
// or give it a name); that use the tag option intern; that have two fields of
// one name; structs without any exported field; and those whose methods encode
// but do not decode, or the other way round.
type MsgPack struct{}

// Name is "msgpack".
func (MsgPack) Name() string { return "msgpack" }

// Marshal encodes the value that v points to.
func (MsgPack) Marshal(v any) ([]byte, error) {
	value, err := target(v)
	if err != nil {
		return nil, err
	}
	plan, err := wire.For(value.Type())
	if err != nil {
		return nil, reason(err)
	}
	if err := plan.CheckValue(value); err != nil {
		return nil, reason(err)
	}
	e := packers.Get().(*packer)
	e.buf.Reset()
	e.enc.Reset(&e.buf) // clears the flags too
	e.enc.UseCompactInts(true)
	e.enc.SetSortMapKeys(true)
	if err := e.enc.EncodeValue(value); err != nil {
		const byValue = "msgpack: Encode(non-addressable "
		if strings.HasPrefix(err.Error(), byValue) {
			return nil, codecError("a type that is encoded through its pointer is a value in a map or an interface")
		}
		return nil, errEncode
	}
	if err := plan.Check(e.buf.Bytes()); err != nil {
		return nil, reason(err)
	}
	data := bytes.Clone(e.buf.Bytes())
	if e.buf.Cap() <= maxPooled {
		packers.Put(e)
	}
	return data, nil
}

// Unmarshal decodes data into the zero value that v points to.
func (MsgPack) Unmarshal(data []byte, v any) error {
	value, err := target(v)
	if err != nil {
		return err
	}
	plan, err := wire.For(value.Type())
	if err != nil {
		return reason(err)
	}
	if err := plan.Check(data); err != nil {
		return reason(err)
	}
	d := unpackers.Get().(*unpacker)
	d.src.Reset(data)
	d.dec.Reset(&d.src)
	// Without UsePreallocateValues: it starts a goroutine for each type, for good.
	if err := d.dec.DecodeValue(value); err != nil {
		return errDecode // and d may be in the middle of something: not used again
	}
	if d.src.Len() != 0 { // left by a decoder of the caller's own
		return codecError(wire.ErrTrailing)
	}
	d.src.Reset(nil)
	if len(data) <= maxPooled {
		unpackers.Put(d)
	}
	plan.Widen(value)
	return nil
}

// checkType tells whether values of a type can be stored at all.
func (MsgPack) checkType(t reflect.Type) error {
	if _, err := wire.For(t); err != nil {
		return reason(err)
	}
	return nil
}

// maxPooled keeps the buffers of rare large values out of the pools.
const maxPooled = 64 << 10

type packer struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
}

type unpacker struct {
	src bytes.Reader
	dec *msgpack.Decoder
}

var (
	packers   = sync.Pool{New: func() any { return &packer{enc: msgpack.NewEncoder(nil)} }}
	unpackers = sync.Pool{New: func() any { return &unpacker{dec: msgpack.NewDecoder(nil)} }}
)

// JSON is a [Codec] by encoding/json and its struct tag, for sessions that other
// programs or people read. Its zero value is ready for use.
//
// Where encoding/json would put U+FFFD for text that is not UTF-8, there is an
// error; so there is for trailing bytes, for null where T is no pointer, slice,
// map or interface, and for what is nested deeper than 32.
//
// Inside an any, numbers without a fraction come back as int64 (as uint64 above
// its maximum), others as float64; so a float64 of 2 comes back as an int64. An
// integer that none of these holds exactly is an error.
type JSON struct{}

// Name is "json".
func (JSON) Name() string { return "json" }

// Marshal encodes the value that v points to.
func (c JSON) Marshal(v any) ([]byte, error) {
	value, err := target(v)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, jsonReason(err, errEncode)
	}
	data := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	plan := wire.JSONFor(value.Type())
	facts, err := plan.Check(data)
	if err != nil {
		return nil, reason(err)
	}
	if facts.Replaced { // by encoding/json, or in JSON of the caller's own?
		if err := wire.CheckStrings(value); err != nil {
			return nil, reason(err)
		}
	}
	if plan.Any && facts.Long {
		if err := c.Unmarshal(data, reflect.New(value.Type()).Interface()); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// Unmarshal decodes data into the zero value that v points to.
func (JSON) Unmarshal(data []byte, v any) error {
	value, err := target(v)
	if err != nil {
		return err
	}
	plan := wire.JSONFor(value.Type())
	if _, err := plan.Check(data); err != nil {
		return reason(err)
	}
	if !plan.Nil && string(bytes.TrimSpace(data)) == "null" {
		return codecError("null where " + value.Type().String() + " is expected")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return jsonReason(err, errDecode)
	}
	if err := plan.Widen(value); err != nil {
		return reason(err)
	}
	return nil
}

// target is the value that v points to.
func target(v any) (reflect.Value, error) {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return p, codecError("not a pointer to a value")
	}
	return p.Elem(), nil
}

// codecError is an error of the codecs of this package. Its text holds nothing
// of the data: a reason, and at most the names of Go types and an offset.
type codecError string

func (e codecError) Error() string { return string(e) }

const (
	errEncode codecError = "the value cannot be encoded"
	errDecode codecError = "the bytes cannot be decoded"
)

// safeReason is the text of an error of one of our codecs. That of all others
// could carry a value.
func safeReason(err error) string {
	var own codecError
	if errors.As(err, &own) {
		return own.Error()
	}
	return "the codec returned an error"
}

func reason(err error) error {
	var own wire.Error
	if errors.As(err, &own) {
		return codecError(own)
	}
	return errDecode
}

// jsonReason says what an error of encoding/json says, without the characters,
// numbers and keys of the data that its text has.
func jsonReason(err error, otherwise codecError) error {
	var (
		typ         *json.UnmarshalTypeError
		syntax      *json.SyntaxError
		unsupported *json.UnsupportedTypeError
		value       *json.UnsupportedValueError
		marshaler   *json.MarshalerError
	)
	switch {
	case errors.As(err, &marshaler):
		return otherwise
	case errors.As(err, &typ):
		kind, _, _ := strings.Cut(typ.Value, " ")
		switch kind {
		case "number", "string", "bool", "array", "object", "null":
		default:
			kind = "value"
		}
		return codecError(fmt.Sprintf("a JSON %s at offset %d does not fit %v", kind, typ.Offset, typ.Type))
	case errors.As(err, &syntax):
		return codecError(fmt.Sprintf("invalid JSON at offset %d", syntax.Offset))
	case errors.As(err, &unsupported):
		return codecError(fmt.Sprintf("JSON cannot hold type %v", unsupported.Type))
	case errors.As(err, &value):
		return codecError("a value that JSON cannot hold")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return codecError(wire.ErrTruncated)
	}
	return otherwise
}
