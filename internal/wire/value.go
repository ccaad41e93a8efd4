package wire

import (
	"math"
	"reflect"
)

const maxHops = 1000

// CheckValue looks at a value before it is encoded. The library has no bound of
// its own: a value that contains itself would end the process. Only values that
// can contain themselves, or hold types that the plan does not know, cost
// anything here.
func (p *Plan) CheckValue(v reflect.Value) error {
	if !p.guarded {
		return nil
	}
	return p.root.checkValue(v, 0, 0)
}

// depth counts arrays and maps, as the bytes will have them; hops counts the
// pointers and interfaces too, which leave no bytes.
func (n *node) checkValue(v reflect.Value, depth, hops int) error {
	if depth > MaxDepth || hops > maxHops {
		return ErrDepth
	}
	switch n.op {
	case opPointer:
		if !v.IsNil() {
			return n.elem.checkValue(v.Elem(), depth, hops+1)
		}
	case opAny:
		if v.IsNil() {
			return nil
		}
		inner := v.Elem()
		switch inner.Kind() { // no need to ask for a plan
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int64, reflect.Float64:
			return nil
		}
		p, err := For(inner.Type())
		if err != nil || !p.guarded {
			return err
		}
		return p.root.checkValue(inner, depth, hops+1)
	case opSlice, opArray:
		if !n.elem.mayNest() {
			return nil
		}
		for i := range v.Len() {
			if err := n.elem.checkValue(v.Index(i), depth+1, hops+1); err != nil {
				return err
			}
		}
	case opMap:
		if !n.elem.mayNest() {
			return nil
		}
		for it := v.MapRange(); it.Next(); {
			if err := n.elem.checkValue(it.Value(), depth+1, hops+1); err != nil {
				return err
			}
		}
	case opStruct:
		for _, f := range n.fields.list {
			if !f.node.mayNest() {
				continue
			}
			if err := f.node.checkValue(v.FieldByIndex(f.index), depth+1, hops+1); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *node) mayNest() bool {
	switch n.op {
	case opPointer, opAny, opSlice, opArray, opMap, opStruct:
		return true
	}
	return false
}

// Widen makes int64 of the integers and float64 of the floats that the library
// put into interfaces, where it leaves each in the type of its encoding: what
// was stored as 5 comes back as int8, and as int16 once it has grown to 500. An
// integer that only a uint64 holds stays one. v must be settable.
func (p *Plan) Widen(v reflect.Value) {
	if p.root.any {
		p.root.widen(v)
	}
}

func (n *node) widen(v reflect.Value) {
	if !n.any {
		return
	}
	switch n.op {
	case opAny:
		if v.IsNil() {
			return
		}
		switch x := v.Interface().(type) {
		case string, bool: // nothing to set
		default:
			v.Set(reflect.ValueOf(widen(x)))
		}
	case opPointer:
		if !v.IsNil() {
			n.elem.widen(v.Elem())
		}
	case opSlice, opArray:
		for i := range v.Len() {
			n.elem.widen(v.Index(i))
		}
	case opMap:
		if m, ok := v.Interface().(map[string]any); ok {
			widen(m)
			return
		}
		elem := reflect.New(n.elem.typ).Elem()
		for it := v.MapRange(); it.Next(); {
			elem.Set(it.Value())
			n.elem.widen(elem)
			v.SetMapIndex(it.Key(), elem)
		}
	case opStruct:
		for _, f := range n.fields.list {
			n2 := f.node
			if n2.any {
				n2.widen(v.FieldByIndex(f.index))
			}
		}
	}
}

func widen(x any) any {
	switch x := x.(type) {
	case int8:
		return int64(x)
	case int16:
		return int64(x)
	case int32:
		return int64(x)
	case uint8:
		return int64(x)
	case uint16:
		return int64(x)
	case uint32:
		return int64(x)
	case uint64:
		if x <= math.MaxInt64 {
			return int64(x)
		}
	case float32:
		return float64(x)
	case []any:
		for i, e := range x {
			x[i] = widen(e)
		}
	case map[string]any:
		for k, e := range x {
			x[k] = widen(e)
		}
	}
	return x
}
