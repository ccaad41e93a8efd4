// Package wire looks at encoded bytes before a decoder does.
//
// The bytes of a session come from a store that others can write to. The
// decoders behind it are made for bytes that can be trusted: a few kilobytes of
// hostile msgpack end the process by a stack overflow or by claiming more memory
// than there is, and a number that does not fit is cut without a word. [Check]
// and [Plan.Check] walk the bytes once, allocate nothing and refuse both;
// [CheckJSON] is their like for JSON.
//
// No error of this package tells anything of the data.
package wire

import (
	"encoding/binary"
	"math"
	"unicode/utf8"
)

const (
	// MaxDepth is how many arrays and maps may be open at a time.
	MaxDepth = 32

	// MaxSize is Redis's own limit for one value.
	MaxSize = 512 << 20

	// What a decoder may allocate for a value: baseBudget, and budgetPerByte
	// for each byte of it. One byte can claim a struct of kilobytes, so the
	// elements are weighed and not only counted.
	baseBudget    = 16 << 20
	budgetPerByte = 16
)

// Error is a reason to refuse bytes, a value or a type. Its text holds nothing
// of the data: at most the names of Go types.
type Error string

func (e Error) Error() string { return string(e) }

// The reasons that do not depend on a type.
const (
	ErrSize      Error = "larger than 512 MiB"
	ErrTruncated Error = "the bytes end too early"
	ErrLength    Error = "a length exceeds the bytes that are left"
	ErrTrailing  Error = "trailing bytes"
	ErrDepth     Error = "nested deeper than 32"
	ErrMemory    Error = "the decoded value would take too much memory"
	ErrReserved  Error = "a reserved code"
	ErrUTF8      Error = "invalid UTF-8"
	ErrExtension Error = "an extension that is not a timestamp"
	ErrTimestamp Error = "an invalid timestamp"
	ErrKey       Error = "a map whose keys are not strings, inside an interface"
	ErrName      Error = "a struct with a key that is not a string"
	ErrRepeated  Error = "a struct field that is given twice"
	ErrFields    Error = "an array with another number of elements than the struct has fields"
)

// Check walks one msgpack value and refuses bytes that are malformed, too deep,
// too costly to decode, or more than one value.
func Check(data []byte) error {
	r, err := newReader(data)
	if err != nil {
		return err
	}
	if err := r.skip(0, false); err != nil {
		return err
	}
	return r.end()
}

// reader walks bytes. It stays on the stack.
type reader struct {
	data []byte
	at   int
	left uint64 // of the budget
}

func newReader(data []byte) (reader, error) {
	if len(data) > MaxSize {
		return reader{}, ErrSize
	}
	return reader{data: data, left: baseBudget + budgetPerByte*uint64(len(data))}, nil
}

func (r *reader) end() error {
	if r.at != len(r.data) {
		return ErrTrailing
	}
	return nil
}

// charge takes n things of a size from the budget.
func (r *reader) charge(n, size uint64) error {
	if size != 0 && n > r.left/size {
		return ErrMemory
	}
	r.left -= n * size
	return nil
}

type kind uint8

const (
	kindNil kind = iota
	kindBool
	kindInt
	kindFloat32
	kindFloat64
	kindString
	kindBytes
	kindArray
	kindMap
	kindTime
)

func (k kind) String() string {
	return [...]string{"nil", "a bool", "an integer", "a float32", "a float64", "a string", "bytes", "an array", "a map", "a timestamp"}[k]
}

// item is the head of a value, with the body of those that have no elements.
type item struct {
	kind     kind
	negative bool   // an integer below zero: n is its two's complement
	n        uint64 // an integer, or the number of elements
	body     []byte // of a string or bytes
}

// next reads a head. The body of a string, of bytes and of a timestamp is
// checked and passed; what an array or a map claims to hold is there, as far as
// its shortest elements go.
func (r *reader) next() (item, error) {
	if r.at >= len(r.data) {
		return item{}, ErrTruncated
	}
	c := r.data[r.at]
	r.at++
	switch {
	case c <= 0x7f:
		return item{kind: kindInt, n: uint64(c)}, nil
	case c <= 0x8f:
		return r.container(kindMap, uint64(c&0x0f), 2)
	case c <= 0x9f:
		return r.container(kindArray, uint64(c&0x0f), 1)
	case c <= 0xbf:
		return r.text(uint64(c & 0x1f))
	case c >= 0xe0:
		return signed(int64(int8(c))), nil
	}
	switch c {
	case 0xc0:
		return item{kind: kindNil}, nil
	case 0xc2, 0xc3:
		return item{kind: kindBool}, nil
	case 0xc4, 0xc5, 0xc6:
		n, err := r.number(1 << (c - 0xc4))
		if err != nil {
			return item{}, err
		}
		body, err := r.take(n)
		return item{kind: kindBytes, body: body}, err
	case 0xc7, 0xc8, 0xc9:
		n, err := r.number(1 << (c - 0xc7))
		if err != nil {
			return item{}, err
		}
		return r.extension(n)
	case 0xca:
		_, err := r.take(4)
		return item{kind: kindFloat32}, err
	case 0xcb:
		_, err := r.take(8)
		return item{kind: kindFloat64}, err
	case 0xcc, 0xcd, 0xce, 0xcf:
		n, err := r.number(1 << (c - 0xcc))
		return item{kind: kindInt, n: n}, err
	case 0xd0, 0xd1, 0xd2, 0xd3:
		width := 1 << (c - 0xd0)
		n, err := r.number(width)
		shift := 64 - 8*width
		return signed(int64(n<<shift) >> shift), err
	case 0xd4, 0xd5, 0xd6, 0xd7, 0xd8:
		return r.extension(1 << (c - 0xd4))
	case 0xd9, 0xda, 0xdb:
		n, err := r.number(1 << (c - 0xd9))
		if err != nil {
			return item{}, err
		}
		return r.text(n)
	case 0xdc, 0xdd:
		n, err := r.number(2 << (c - 0xdc))
		if err != nil {
			return item{}, err
		}
		return r.container(kindArray, n, 1)
	case 0xde, 0xdf:
		n, err := r.number(2 << (c - 0xde))
		if err != nil {
			return item{}, err
		}
		return r.container(kindMap, n, 2)
	}
	return item{}, ErrReserved
}

func signed(n int64) item { return item{kind: kindInt, negative: n < 0, n: uint64(n)} }

// number reads a big-endian number of 1, 2, 4 or 8 bytes.
func (r *reader) number(width int) (uint64, error) {
	if len(r.data)-r.at < width {
		return 0, ErrTruncated
	}
	b := r.data[r.at:]
	r.at += width
	switch width {
	case 1:
		return uint64(b[0]), nil
	case 2:
		return uint64(binary.BigEndian.Uint16(b)), nil
	case 4:
		return uint64(binary.BigEndian.Uint32(b)), nil
	}
	return binary.BigEndian.Uint64(b), nil
}

func (r *reader) take(n uint64) ([]byte, error) {
	if n > uint64(len(r.data)-r.at) {
		return nil, ErrLength
	}
	b := r.data[r.at : r.at+int(n)]
	r.at += int(n)
	return b, nil
}

func (r *reader) container(k kind, n uint64, shortest uint64) (item, error) {
	if n > uint64(len(r.data)-r.at)/shortest {
		return item{}, ErrLength
	}
	return item{kind: k, n: n}, nil
}

func (r *reader) text(n uint64) (item, error) {
	body, err := r.take(n)
	if err != nil {
		return item{}, err
	}
	if !utf8.Valid(body) {
		return item{}, ErrUTF8
	}
	return item{kind: kindString, body: body}, nil
}

// extension reads the type and the body of one. Only timestamps are known: any
// other could reach whatever decoder the process has registered.
func (r *reader) extension(n uint64) (item, error) {
	t, err := r.number(1)
	if err != nil {
		return item{}, err
	}
	body, err := r.take(n)
	if err != nil {
		return item{}, err
	}
	if int8(t) != -1 {
		return item{}, ErrExtension
	}
	var nanoseconds uint64
	switch n {
	case 4:
	case 8:
		nanoseconds = binary.BigEndian.Uint64(body) >> 34
	case 12:
		nanoseconds = uint64(binary.BigEndian.Uint32(body))
	default:
		return item{}, ErrTimestamp
	}
	if nanoseconds >= 1e9 {
		return item{}, ErrTimestamp
	}
	return item{kind: kindTime}, nil
}

// skip walks one value of any shape, in the given number of open arrays and
// maps. What is decoded into an interface can have string keys only.
func (r *reader) skip(depth int, stringKeys bool) error {
	it, err := r.next()
	if err != nil {
		return err
	}
	return r.rest(it, depth, stringKeys)
}

// rest walks the elements of a value whose head was read. The costs are those
// of []any and map[string]any, also where the value is only passed over: a
// decoder of the caller's own may decode it that way.
func (r *reader) rest(it item, depth int, stringKeys bool) error {
	switch it.kind {
	case kindArray:
		if depth == MaxDepth {
			return ErrDepth
		}
		if err := r.chargeArray(it.n, interfaceSize); err != nil {
			return err
		}
		for range it.n {
			if err := r.skip(depth+1, stringKeys); err != nil {
				return err
			}
		}
	case kindMap:
		if depth == MaxDepth {
			return ErrDepth
		}
		if err := r.chargeMap(it.n, stringSize, interfaceSize); err != nil {
			return err
		}
		for range it.n {
			key, err := r.next()
			if err != nil {
				return err
			}
			if stringKeys && key.kind != kindString {
				return ErrKey
			}
			if err := r.rest(key, depth+1, stringKeys); err != nil {
				return err
			}
			if err := r.skip(depth+1, stringKeys); err != nil {
				return err
			}
		}
	}
	return nil
}

const (
	interfaceSize = 16 + 16 // the word pair, and what it points to
	stringSize    = 16
	sliceSize     = 24
	mapSize       = 48
)

func (r *reader) chargeArray(n, element uint64) error {
	if err := r.charge(1, sliceSize); err != nil {
		return err
	}
	return r.charge(n, element)
}

// chargeMap knows how Go lays out a map: groups of eight slots, at most 7/8
// full and doubling, with large entries out of line.
func (r *reader) chargeMap(n, key, element uint64) error {
	if err := r.charge(1, mapSize); err != nil || n == 0 {
		return err
	}
	if err := r.charge(max(8, 2*n), min(key, 128)+min(element, 128)+1); err != nil {
		return err
	}
	for _, size := range [...]uint64{key, element} {
		if size > 128 {
			if err := r.charge(n, size); err != nil {
				return err
			}
		}
	}
	return nil
}

// exact tells whether an integer is kept by a float with so many bits of
// mantissa.
func (it item) exact(mantissa int) bool {
	limit := uint64(1) << mantissa
	if it.negative {
		return -it.n <= limit
	}
	return it.n <= limit
}

// fits tells whether an integer is kept by a Go integer of so many bits.
func (it item) fits(bits int, unsigned bool) bool {
	switch {
	case unsigned:
		return !it.negative && it.n <= math.MaxUint64>>(64-bits)
	case it.negative:
		return int64(it.n) >= -1<<(bits-1)
	}
	return it.n <= 1<<(bits-1)-1
}
