package wire_test

import (
	"math"
	"reflect"
	"testing"

	"github.com/redsession/redsession/internal/wire"
)

func TestAValueThatContainsItselfIsRefused(t *testing.T) {
	cycle := &tree{}
	cycle.Next = cycle
	slice := []any{nil}
	slice[0] = slice
	m := map[string]any{}
	m["m"] = m
	var pointer any
	pointer = &pointer
	inMap := map[string]*tree{"t": cycle}

	for _, v := range []any{cycle, slice, m, pointer, inMap, []any{cycle}, [1]any{m}, struct{ X any }{slice}} {
		p, err := wire.For(reflect.TypeOf(v))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CheckValue(reflect.ValueOf(v)); err != wire.ErrDepth {
			t.Errorf("%T: %v", v, err)
		}
	}
}

func TestAValueOfATypeThatCannotComeBackIsRefusedInsideAny(t *testing.T) {
	for _, x := range []any{
		make(chan int), uintptr(1), withFunc{}, &embedsItself{}, embedsPointer{}, map[string]any{"c": make(chan int)},
		[]any{[]any{complex(1, 1)}}, inner{B: nothing{}},
	} {
		p, err := wire.For(reflect.TypeFor[map[string]any]())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CheckValue(reflect.ValueOf(map[string]any{"x": x})); err == nil {
			t.Errorf("%T passed", x)
		}
	}
}

func TestAValueAsDeepAsTheBytesMayBePasses(t *testing.T) {
	list := &tree{}
	for range 31 {
		list = &tree{Next: list}
	}
	var nest any = []any{}
	for range 31 {
		nest = map[string]any{"n": nest}
	}
	for _, v := range []any{list, []any{nil, 1, "a", inner{B: 5}}, nest, (*tree)(nil), map[string]any(nil)} {
		p, err := wire.For(reflect.TypeOf(v))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.CheckValue(reflect.ValueOf(v)); err != nil {
			t.Errorf("%T: %v", v, err)
		}
	}
}

func TestWiden(t *testing.T) {
	type holder struct {
		A any
		P *any
		L []any
		M map[string]any
		N map[int]any
		I map[string]inner
		R [2]any
		U int8
	}
	var seven any = int8(7)
	v := holder{
		A: int16(500),
		P: &seven,
		L: []any{int8(1), uint8(2), uint16(3), int32(4), uint32(5), int64(6), uint64(7), uint64(math.MaxUint64), float32(0.5), 0.25, "s", nil, true, []byte{1}},
		M: map[string]any{"l": []any{map[string]any{"x": int8(1)}}, "n": nil},
		N: map[int]any{3: int8(4)},
		I: map[string]inner{"i": {A: 1, B: int8(2)}},
		R: [2]any{int8(1), nil},
		U: 9,
	}
	var seven64 any = int64(7)
	want := holder{
		A: int64(500),
		P: &seven64,
		L: []any{int64(1), int64(2), int64(3), int64(4), int64(5), int64(6), int64(7), uint64(math.MaxUint64), 0.5, 0.25, "s", nil, true, []byte{1}},
		M: map[string]any{"l": []any{map[string]any{"x": int64(1)}}, "n": nil},
		N: map[int]any{3: int64(4)},
		I: map[string]inner{"i": {A: 1, B: int64(2)}},
		R: [2]any{int64(1), nil},
		U: 9,
	}
	p, err := wire.For(reflect.TypeFor[holder]())
	if err != nil {
		t.Fatal(err)
	}
	p.Widen(reflect.ValueOf(&v).Elem())
	if !reflect.DeepEqual(v, want) {
		t.Errorf("got %#v\nwant %#v", v, want)
	}
}
