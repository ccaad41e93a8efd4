package wire

import (
	"encoding"
	"fmt"
	"reflect"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// Plan is what there is to know of a Go type in order to check bytes that are
// about to be decoded into it. It is safe for concurrent use.
type Plan struct {
	root *node
	// guarded: a value may be cyclic or hold types that the plan does not know,
	// so that it is looked at before it is encoded.
	guarded bool
}

type op uint8

const (
	opBool op = iota
	opInt
	opUint
	opFloat32
	opFloat64
	opString
	opBytes     // []byte, and its like
	opByteArray // [n]byte, and its like
	opArray
	opSlice
	opMap
	opStruct
	opPointer
	opAny
	opTime
	opErrorText  // error, which msgpack stores as its text
	opNilOnly    // any other interface: nothing can be put into it
	opOwn        // has its own msgpack encoding
	opOwnAsBytes // has a binary or text encoding, stored as bytes
)

type node struct {
	op     op
	bits   int // of an integer
	typ    reflect.Type
	size   uint64
	key    *node
	elem   *node
	length uint64 // of an array
	fields *fieldSet
	any    bool // holds an interface somewhere
}

var plans sync.Map // reflect.Type to *planned

type planned struct {
	plan *Plan
	err  error
}

// For gives the plan of a type. Its error is an [Error] and says why values of
// the type cannot all be stored and read again.
func For(t reflect.Type) (*Plan, error) {
	if p, ok := plans.Load(t); ok {
		return p.(*planned).plan, p.(*planned).err
	}
	c := compiler{nodes: make(map[reflect.Type]*node)}
	p := &planned{}
	root, err := c.node(t)
	if err != nil {
		p.err = err
	} else {
		for _, n := range c.nodes {
			n.any = n.reaches(func(m *node) bool { return m.op == opAny }, map[*node]bool{})
		}
		p.plan = &Plan{root: root, guarded: root.any || root.cyclic(map[*node]bool{})}
	}
	got, _ := plans.LoadOrStore(t, p)
	return got.(*planned).plan, got.(*planned).err
}

// compiler makes the nodes of one plan; a type that contains itself gives a
// cycle of nodes.
type compiler struct {
	nodes map[reflect.Type]*node
}

var (
	timeType  = reflect.TypeFor[time.Time]()
	errorType = reflect.TypeFor[error]()
)

func refuse(t reflect.Type, format string, args ...any) error {
	return Error(fmt.Sprintf("type %v: %s", t, fmt.Sprintf(format, args...)))
}

func (c *compiler) node(t reflect.Type) (*node, error) {
	if n, ok := c.nodes[t]; ok {
		return n, nil
	}
	n := &node{typ: t, size: uint64(t.Size())}
	c.nodes[t] = n
	return n, c.fill(n, t)
}

// fill follows the library's choice of a decoder, in its order.
func (c *compiler) fill(n *node, t reflect.Type) (err error) {
	switch {
	case t == timeType:
		n.op = opTime
		return nil
	case t.Kind() == reflect.Interface:
		switch {
		case t.NumMethod() == 0:
			n.op = opAny
		case t == errorType:
			n.op = opErrorText
		default:
			n.op = opNilOnly
		}
		return nil
	case t.Kind() == reflect.Pointer:
		n.op = opPointer
		if n.elem, err = c.node(t.Elem()); err != nil {
			return err
		}
		// The library would follow type P *P until the stack is full.
		for e, seen := n, map[*node]bool{}; e != nil && e.op == opPointer; e = e.elem {
			if seen[e] {
				return refuse(t, "points to itself only")
			}
			seen[e] = true
		}
		return nil
	}

	own, err := ownEncoding(t)
	if err != nil {
		return err
	}
	switch own {
	case ownMsgpack:
		n.op = opOwn
		return nil
	case ownBinary, ownText:
		n.op = opOwnAsBytes
		return nil
	}

	switch k := t.Kind(); k {
	case reflect.Bool:
		n.op = opBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n.op, n.bits = opInt, t.Bits()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n.op, n.bits = opUint, t.Bits()
	case reflect.Float32:
		n.op = opFloat32
	case reflect.Float64:
		n.op = opFloat64
	case reflect.String:
		n.op = opString
	case reflect.Slice, reflect.Array:
		bytes := t.Elem().Kind() == reflect.Uint8
		if k == reflect.Array {
			n.op, n.length = opArray, uint64(t.Len())
			if bytes {
				n.op = opByteArray
			}
		} else {
			n.op = opSlice
			if bytes {
				n.op = opBytes
			}
		}
		if !bytes {
			n.elem, err = c.node(t.Elem())
		}
	case reflect.Map:
		n.op = opMap
		if n.key, err = c.node(t.Key()); err != nil {
			return err
		}
		// An interface as a key can hold what cannot be hashed, and a pointer
		// is never found again.
		if n.key.reaches(func(m *node) bool {
			return m.op == opAny || m.op == opPointer || m.op == opErrorText || m.op == opNilOnly
		}, map[*node]bool{}) {
			return refuse(t, "a key with an interface or a pointer in it")
		}
		n.elem, err = c.node(t.Elem())
	case reflect.Struct:
		n.op = opStruct
		n.fields, err = c.fields(t)
	default:
		return refuse(t, "cannot be stored")
	}
	return err
}

// reaches tells whether the values of a type can hold one of another.
func (n *node) reaches(what func(*node) bool, seen map[*node]bool) bool {
	if n == nil || seen[n] {
		return false
	}
	if what(n) {
		return true
	}
	seen[n] = true
	if n.key.reaches(what, seen) || n.elem.reaches(what, seen) {
		return true
	}
	if n.fields != nil {
		for _, f := range n.fields.list {
			if f.node.reaches(what, seen) {
				return true
			}
		}
	}
	return false
}

// cyclic tells whether a type contains itself. open holds the nodes on the way
// here as true, those that are done as false.
func (n *node) cyclic(open map[*node]bool) bool {
	if n == nil {
		return false
	}
	if onTheWay, seen := open[n]; seen {
		return onTheWay
	}
	open[n] = true
	found := n.key.cyclic(open) || n.elem.cyclic(open)
	if n.fields != nil {
		for _, f := range n.fields.list {
			found = found || f.node.cyclic(open)
		}
	}
	open[n] = false
	return found
}

// own is the family of a type's own encoding.
type own uint8

const (
	ownNone own = iota
	ownMsgpack
	ownBinary
	ownText
)

type method struct {
	own  own
	ifce reflect.Type
}

// In the order in which the library asks.
var (
	encoders = []method{
		{ownMsgpack, reflect.TypeFor[msgpack.CustomEncoder]()},
		{ownMsgpack, reflect.TypeFor[msgpack.Marshaler]()},
		{ownBinary, reflect.TypeFor[encoding.BinaryMarshaler]()},
		{ownText, reflect.TypeFor[encoding.TextMarshaler]()},
	}
	decoders = []method{
		{ownMsgpack, reflect.TypeFor[msgpack.CustomDecoder]()},
		{ownMsgpack, reflect.TypeFor[msgpack.Unmarshaler]()},
		{ownBinary, reflect.TypeFor[encoding.BinaryUnmarshaler]()},
		{ownText, reflect.TypeFor[encoding.TextUnmarshaler]()},
	}
)

func first(t reflect.Type, methods []method) own {
	for _, m := range methods {
		if t.Implements(m.ifce) {
			return m.own
		}
	}
	return ownNone
}

// ownEncoding gives the family of a type that is no pointer and no interface, and
// refuses those of which the library would not read what it wrote.
func ownEncoding(t reflect.Type) (own, error) {
	if first(t, decoders) != ownNone {
		return ownNone, refuse(t, "a decoder with a value receiver, which fills a copy")
	}
	p := reflect.PointerTo(t)
	enc, dec := first(t, encoders), first(p, decoders)
	if viaPointer := first(p, encoders); enc == ownNone {
		enc = viaPointer
	} else if enc != viaPointer {
		return ownNone, refuse(t, "its value and its pointer are encoded differently")
	}
	if enc != dec {
		return ownNone, refuse(t, "%s, but %s", encoderNames[enc], decoderNames[dec])
	}
	return enc, nil
}

var (
	encoderNames = [...]string{"no encoder of its own", "encodes itself as msgpack", "encodes itself with MarshalBinary", "encodes itself with MarshalText"}
	decoderNames = [...]string{"no decoder of its own", "decodes itself from msgpack", "decodes itself with UnmarshalBinary", "decodes itself with UnmarshalText"}
)

// plain is a struct that the library encodes field by field.
func plain(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != timeType &&
		first(t, encoders) == ownNone && first(t, decoders) == ownNone &&
		first(reflect.PointerTo(t), encoders) == ownNone && first(reflect.PointerTo(t), decoders) == ownNone
}
