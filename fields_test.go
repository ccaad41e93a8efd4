package redsession

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redsession/redsession/internal/script"
)

// What New refuses of T.
type (
	Base      struct{ Name string }
	Other     struct{ Name string }
	lower     struct{ Name string }
	ItselfPtr struct {
		A int
		*ItselfPtr
	}
	Round  struct{ *Around }
	Around struct{ *Round }
	Deep   struct {
		In []map[string]*struct{ C chan int }
	}
	Opaque  struct{ _ int }
	codedBy struct{ F func() } // its own encoding says how

	twoNames struct {
		A int `session:"x"`
		B int `session:"x"`
	}
	nameOfAnother struct {
		A int `session:"B"`
		B int
	}
	throughEmbedding struct {
		Name int
		Base
	}
	byTwoEmbedded struct {
		Base
		*Other
	}
	twoPrincipals struct {
		A string `session:",principal"`
		B int    `session:",principal"`
	}
	Owner struct {
		ID string `session:",principal"`
	}
	principalsEmbedding struct {
		Owner
		Mine string `session:",principal"`
	}
)

func (codedBy) MarshalText() ([]byte, error) { return []byte("x"), nil }
func (*codedBy) UnmarshalText([]byte) error  { return nil }

func newOf[T any]() error {
	c, err := New[T](server)
	if err == nil {
		c.Close()
	}
	return err
}

func TestShapesThatAreRefused(t *testing.T) {
	for _, test := range []struct {
		want string // parts of the message
		err  error
	}{
		{"int neither", newOf[int]()},
		{"string neither", newOf[string]()},
		{"*redsession.Base neither", newOf[*Base]()},
		{"[]string neither", newOf[[]string]()},
		{"interface neither", newOf[any]()},
		{"map[int]string neither", newOf[map[int]string]()},
		{"redsession.Opaque exported", newOf[Opaque]()},

		{"F chan", newOf[struct{ F chan int }]()},
		{"F func", newOf[struct{ F func() }]()},
		{"F complex64", newOf[struct{ F complex64 }]()},
		{"F complex128", newOf[struct{ F complex128 }]()},
		{"F uintptr", newOf[struct{ F uintptr }]()},
		{"F io.Reader", newOf[struct{ F io.Reader }]()},
		{"F error", newOf[struct{ F error }]()},
		{"F chan int", newOf[struct{ F []chan int }]()},
		{"F func()", newOf[struct{ F *func() }]()},
		{"F error", newOf[struct{ F [2]error }]()},
		{"F fmt.Stringer", newOf[struct{ F map[string]fmt.Stringer }]()},
		{"F float64 keys", newOf[struct{ F map[float64]int }]()},
		{"F keys", newOf[struct{ F map[Base]int }]()},
		{"F keys", newOf[struct{ F map[any]int }]()},
		{"D In C chan int", newOf[struct{ D Deep }]()},
		{"values chan int", newOf[map[string]chan int]()},
		{"values error", newOf[map[string][]error]()},
		{"values C chan int", newOf[map[string]Deep]()},

		{"redsession.twoNames.B x redsession.twoNames.A", newOf[twoNames]()},
		{"nameOfAnother.B nameOfAnother.A", newOf[nameOfAnother]()},
		{"Base.Name throughEmbedding.Name", newOf[throughEmbedding]()},
		{"Other.Name Base.Name", newOf[byTwoEmbedded]()},
		{"A @v reserved", newOf[struct {
			A int `session:"@v"`
		}]()},
		{"A @ reserved", newOf[struct {
			A int `session:"@"`
		}]()},
		{"A @mine reserved", newOf[struct {
			A int `session:"@mine,omitempty"`
		}]()},

		{"twoPrincipals.B second twoPrincipals.A", newOf[twoPrincipals]()},
		{"principalsEmbedding.Mine second Owner.ID", newOf[principalsEmbedding]()},
		{"A principal bool", newOf[struct {
			A bool `session:",principal"`
		}]()},
		{"A principal float64", newOf[struct {
			A float64 `session:",principal"`
		}]()},
		{"A principal []uint8", newOf[struct {
			A []byte `session:",principal"`
		}]()},
		{"A principal *string", newOf[struct {
			A *string `session:",principal"`
		}]()},
		{"A principal interface", newOf[struct {
			A any `session:",principal"`
		}]()},
		{"A principal time.Time", newOf[struct {
			A time.Time `session:",principal"`
		}]()},

		{"A option omitempt", newOf[struct {
			A int `session:"a,omitempt"`
		}]()},
		{"A option Principal", newOf[struct {
			A string `session:",Principal"`
		}]()},
		{"A option", newOf[struct {
			A int `session:"a, omitempty"`
		}]()},
		{"a unexported", newOf[struct {
			a int `session:"a"`
		}]()},
		{"a unexported", newOf[struct {
			a int `session:",omitempty"`
		}]()},
		{"Base options name", newOf[struct {
			Base `session:",omitempty"`
		}]()},

		{"ItselfPtr embeds itself", newOf[ItselfPtr]()},
		{"Round embeds itself", newOf[Round]()},
		{"lower pointer unexported", newOf[struct{ *lower }]()},
	} {
		if test.err == nil {
			t.Errorf("accepted: %s", test.want)
			continue
		}
		for _, part := range append(strings.Fields(test.want), "redsession: ") {
			if !strings.Contains(test.err.Error(), part) {
				t.Errorf("%q does not say %q", test.err, part)
			}
		}
	}
}

func TestShapesThatAreFine(t *testing.T) {
	type List struct {
		Next *List
		All  []List
		By   map[string]List
	}
	for i, err := range []error{
		newOf[struct{}](), newOf[Base](), newOf[map[string]any](), newOf[map[string]Base](), newOf[map[string]map[int8]string](),
		newOf[struct {
			Base
			Other Other
		}](),
		newOf[struct{ lower }](), newOf[struct{ *Base }](), newOf[List](),
		newOf[struct {
			A int `session:"-"`
			B int `session:"A"`
			c int
			d int      `session:"-"`
			e chan int `session:"-"`
			F func()   `session:"-"`
		}](),
		newOf[struct{ time.Time }](), newOf[struct{ F codedBy }](), newOf[struct{ F []*codedBy }](),
		newOf[struct {
			A int `session:",,omitempty,"`
		}](),
		newOf[struct {
			A time.Duration `session:"a b: {c},principal,omitempty"`
		}](),
		newOf[struct {
			Base `session:"-"`
			Name int
		}](), newOf[struct {
			Base `session:"base"`
		}](),
	} {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func mappingOf[T any](t *testing.T, codec Codec) mapping[T] {
	t.Helper()
	m, err := newMapping[T](codec)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFieldsHaveTheirNamesAndTheirOrder(t *testing.T) {
	type T struct {
		B    int
		A    int `session:"z"`
		Gone int `session:"-"`
		Base
		*Other  `session:"other"`
		C       string `session:",omitempty"`
		private int
	}
	m := mappingOf[T](t, MsgPack{})
	list, err := m.encode(&T{B: 1, Gone: 1, private: 1})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range list {
		got = append(got, fmt.Sprintf("%s:%x:%v:%v", f.name, f.data, f.omit, f.blank))
	}
	want := "[B:01:false:false z:00:false:true Name:a0:false:true other:c0:false:true C::true:true]"
	if fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	for name, want := range map[string]bool{"B": true, "z": true, "Name": true, "other": true, "C": true, "A": false,
		"Gone": false, "private": false, "Base": false, "Other": false, "@v": false, "": false} {
		if m.owns(name) != want {
			t.Errorf("owns(%q) is %v", name, !want)
		}
	}
}

func TestPrincipals(t *testing.T) {
	type userID uint32
	type account string
	type by struct {
		*Owner
		X int
	}
	type u struct {
		ID userID `session:",principal"`
	}
	type a struct {
		ID account `session:",principal"`
	}
	type i struct {
		ID int8 `session:",principal"`
	}
	principal := func(p string, declared bool) string { return fmt.Sprint(p, " ", declared) }
	for i, test := range [][2]string{
		{principal(mappingOf[u](t, JSON{}).principal(&u{ID: 4294967295})), "4294967295 true"},
		{principal(mappingOf[u](t, JSON{}).principal(&u{})), " true"},
		{principal(mappingOf[a](t, JSON{}).principal(&a{ID: "007"})), "007 true"},
		{principal(mappingOf[i](t, JSON{}).principal(&i{ID: -128})), "-128 true"},
		{principal(mappingOf[by](t, JSON{}).principal(&by{Owner: &Owner{"x"}})), "x true"},
		{principal(mappingOf[by](t, JSON{}).principal(&by{})), " true"},
		{principal(mappingOf[Base](t, JSON{}).principal(&Base{"x"})), " false"},
		{principal(mappingOf[map[string]string](t, JSON{}).principal(&map[string]string{"user": "x"})), " false"},
	} {
		if test[0] != test[1] {
			t.Errorf("%d: %q, want %q", i, test[0], test[1])
		}
	}
}

// failing cannot encode or decode, and says the value.
type failing struct{ named }

func (failing) Marshal(any) ([]byte, error)     { return nil, errors.New("a secret value") }
func (failing) Unmarshal(b []byte, _ any) error { return fmt.Errorf("a secret value %s", b) }
func decodesTo[T any](m mapping[T], hash map[string]string) error {
	var v T
	return m.decode(hash, nil, &v)
}

func TestErrorsOfACodecNameTheFieldOnly(t *testing.T) {
	codec := failing{"failing"}
	m, free := mappingOf[Base](t, codec), mappingOf[map[string]string](t, codec)
	_, structEncode := m.encode(&Base{"a secret value"})
	_, mapEncode := free.encode(&map[string]string{"Name": "a secret value"})
	hash := map[string]string{"Name": "a secret value", "@v": "x", "@a:y": "1"}
	for i, err := range []error{structEncode, mapEncode, decodesTo(m, hash), decodesTo(free, hash)} {
		if err == nil || !strings.Contains(err.Error(), `"Name"`) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%d: %v", i, err)
		}
		if e, ok := errors.AsType[*DecodeError](err); ok != (i >= 2) || ok && e.Field != "Name" {
			t.Errorf("%d: %T %v", i, err, err)
		}
	}
}

func TestEmptyIsWhatOmitemptyLeavesOut(t *testing.T) {
	for _, test := range []struct {
		v    any
		want bool
	}{
		{0, true}, {"", true}, {false, true}, {0.0, true}, {time.Duration(0), true}, {[2]int{}, true}, {Base{}, true},
		{[]int(nil), true}, {[]int{}, true}, {map[string]int{}, true}, {map[string]int(nil), true},
		{(*int)(nil), true}, {time.Time{}, true}, {time.Time{}.In(time.FixedZone("x", 60)), true}, {struct{ F any }{}, true},
		{1, false}, {"x", false}, {true, false}, {[]int{0}, false}, {map[string]int{"": 0}, false}, {new(int), false},
		{time.Unix(0, 0), false}, {[2]int{0, 1}, false}, {Base{"x"}, false}, {new(time.Time), false},
	} {
		v := reflect.New(reflect.TypeOf(test.v)).Elem()
		v.Set(reflect.ValueOf(test.v))
		if got := isEmpty(v); got != test.want {
			t.Errorf("%T %v: %v", test.v, test.v, got)
		}
	}
	var holder struct{ None, Zero any }
	holder.Zero = 0
	if v := reflect.ValueOf(holder); !isEmpty(v.Field(0)) || isEmpty(v.Field(1)) {
		t.Error("an any is empty when it is nil, and only then")
	}
}

func TestChanges(t *testing.T) {
	owns := func(name string) bool { return !strings.HasPrefix(name, "@") && name != "theirs" }
	same := func(_, a, b string) bool { return strings.EqualFold(a, b) }
	f := func(name, data string) field { return field{name: name, data: []byte(data), blank: data == "0"} }
	omitted := func(name string) field { return field{name: name, omit: true} }
	stored := map[string]string{"a": "1", "b": "x", "@v": "7", "@a:x": "1", "theirs": "t"}
	for _, test := range []struct {
		name string
		list []field
		want string // set and removed
	}{
		{"nothing", []field{f("a", "1"), f("b", "x")}, "[] []"},
		{"another encoding of the same", []field{f("a", "1"), f("b", "X")}, "[] []"},
		{"a value", []field{f("a", "2"), f("b", "x")}, "[a 2] []"},
		{"to zero", []field{f("a", "0"), f("b", "x")}, "[a 0] []"},
		{"all", []field{f("b", "y"), f("a", "2")}, "[b y a 2] []"},
		{"a new one", []field{f("a", "1"), f("b", "x"), f("c", "3")}, "[c 3] []"},
		{"a new one that is zero", []field{f("a", "1"), f("b", "x"), f("c", "0")}, "[] []"},
		{"emptied", []field{omitted("a"), f("b", "x")}, "[] [a]"},
		{"still empty", []field{f("a", "1"), f("b", "x"), omitted("c")}, "[] []"},
		{"gone from a map", []field{f("b", "x")}, "[] [a]"},
		{"gone and new", []field{f("b", "x"), f("c", "3")}, "[c 3] [a]"},
		{"all gone", nil, "[] [a b]"},
		{"gone, emptied, changed and new", []field{omitted("b"), f("c", "4")}, "[c 4] [a b]"},
	} {
		c := changes(stored, test.list, owns, same)
		slices.Sort(c.Remove)
		if got := fmt.Sprint(c.Set, c.Remove); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		if empty(c) != (test.want == "[] []") {
			t.Errorf("%s: empty is %v", test.name, empty(c))
		}
		after := applied(stored, c)
		for name := range stored {
			if !owns(name) && after[name] != stored[name] {
				t.Errorf("%s: %q became %q", test.name, name, after[name])
			}
		}
		if again := changes(after, test.list, owns, same); !empty(again) {
			t.Errorf("%s: applied, there is still %v", test.name, again)
		}
	}
	if got := fmt.Sprint(stored); got != "map[@a:x:1 @v:7 a:1 b:x theirs:t]" {
		t.Errorf("what was stored became %s", got)
	}
	if c := changes(nil, []field{f("a", "0"), f("b", "1")}, owns, same); fmt.Sprint(c.Set) != "[b 1]" {
		t.Errorf("of nothing: %v", c)
	}
}

func TestAppliedIsACopy(t *testing.T) {
	stored := map[string]string{"a": "1", "b": "2"}
	after := applied(stored, script.Change{Set: []string{"a", "3", "c", "4"}, Remove: []string{"b", "none"}})
	if got := fmt.Sprint(after, stored); got != "map[a:3 c:4] map[a:1 b:2]" {
		t.Error(got)
	}
}

func TestSameValues(t *testing.T) {
	const zero, negative = "\x00\x00\x00\x00\x00\x00\x00\x00", "\x80\x00\x00\x00\x00\x00\x00\x00"
	const nan = "\x7f\xf8\x00\x00\x00\x00\x00\x00"
	for _, test := range []struct {
		codec Codec
		t     reflect.Type
		a, b  string
		want  bool
	}{
		{JSON{}, reflect.TypeFor[map[string]int](), `{"a":1,"b":2}`, `{"b":2, "a":1}`, true},
		{JSON{}, reflect.TypeFor[map[string]int](), `{"a":1,"b":2}`, `{"a":1}`, false},
		{JSON{}, reflect.TypeFor[any](), `{"a":[1,{"x":null}]}`, "{ \"a\": [ 1, { \"x\": null } ] }", true},
		{JSON{}, reflect.TypeFor[any](), `1`, `"1"`, false},
		{JSON{}, reflect.TypeFor[[]int](), `[]`, `null`, false},
		{JSON{}, reflect.TypeFor[int](), `1`, `nonsense`, false},
		{JSON{}, reflect.TypeFor[int](), `nonsense`, `nonsense `, false},
		{JSON{}, reflect.TypeFor[int](), `nonsense`, `nonsense`, true},
		{MsgPack{}, reflect.TypeFor[int](), "\x05", "\xd3\x00\x00\x00\x00\x00\x00\x00\x05", true},
		{MsgPack{}, reflect.TypeFor[int](), "\x05", "\xd3\x00\x00\x00\x00\x00\x00\x00\x06", false},
		{MsgPack{}, reflect.TypeFor[string](), "\xa1x", "\xd9\x01x", true},
		{MsgPack{}, reflect.TypeFor[[]string](), "\xc0", "\x90", false},

		{JSON{}, reflect.TypeFor[float64](), `0`, `-0`, false},
		{JSON{}, reflect.TypeFor[float64](), `-0`, `-0.0`, true},
		{JSON{}, reflect.TypeFor[map[string][]float32](), `{"a":[0],"b":[1]}`, `{"b":[1],"a":[-0]}`, false},
		{JSON{}, reflect.TypeFor[time.Time](), `"2030-01-02T03:04:05Z"`, ` "2030-01-02T03:04:05.0Z"`, true},
		{JSON{}, reflect.TypeFor[time.Time](), `"2030-01-02T03:04:05Z"`, `"2030-01-02T03:04:06Z"`, false},
		{MsgPack{}, reflect.TypeFor[float64](), "\xcb" + zero, "\xcb" + negative, false},
		{MsgPack{}, reflect.TypeFor[float64](), "\xcb" + negative, "\xca\x80\x00\x00\x00", true},
		{MsgPack{}, reflect.TypeFor[any](), "\xcb" + zero, "\xcb" + negative, false},
		{MsgPack{}, reflect.TypeFor[struct{ F *float64 }](), "\x81\xa1F\xcb" + zero, "\x81\xa1F\xcb" + negative, false},
		{MsgPack{}, reflect.TypeFor[[1]float64](), "\x91\xcb" + nan, "\x91\xca\x7f\xc0\x00\x00", true},
		{MsgPack{}, reflect.TypeFor[[]any](), "\x91\xcb" + nan, "\xdc\x00\x01\xcb" + nan, true},
		{MsgPack{}, reflect.TypeFor[map[string]float64](), "\x82\xa1a\xcb" + nan + "\xa1b\xc0", "\x82\xa1b\xc0\xa1a\xcb" + nan, false}, // no value
		{MsgPack{}, reflect.TypeFor[map[string]*float64](), "\x82\xa1a\xcb" + nan + "\xa1b\xc0", "\x82\xa1b\xc0\xa1a\xcb" + nan, true},
		{MsgPack{}, reflect.TypeFor[map[int]float64](), "\x82\x01\xcb" + nan + "\x02\xcb" + zero, "\x82\x02\xcb" + zero + "\x01\xcb" + nan, true},
		{MsgPack{}, reflect.TypeFor[map[int]float64](), "\x82\x01\xcb" + nan + "\x02\xcb" + zero, "\x82\x02\xcb" + negative + "\x01\xcb" + nan, false},
		{MsgPack{}, reflect.TypeFor[map[int]int](), "\x82\x01\x01\x02\x02", "\x82\x01\x01\x03\x02", false},
	} {
		if got := sameValue(test.codec, test.t, test.a, test.b); got != test.want {
			t.Errorf("%s, %v: %q and %q: %v", test.codec.Name(), test.t, test.a, test.b, got)
		}
	}
}

// ringed is a value that contains itself, as a decoder of the caller's own could make one.
type ringed struct{ next *ringed }

func TestAValueThatContainsItselfEndsAComparison(t *testing.T) {
	a, b := new(ringed), new(ringed)
	a.next, b.next = a, b
	identical(reflect.ValueOf(a), reflect.ValueOf(b), 0) // and returns
}
