package integration

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/integration/harness"
	"github.com/redsession/redsession/internal/hostile"
)

// verbatim passes for another codec, and stores what it is given.
type verbatim struct{ redsession.Codec }

func (verbatim) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (verbatim) Unmarshal(data []byte, v any) error { *v.(*[]byte) = slices.Clone(data); return nil }

// victim is a store whose bytes somebody tampers with: one server, or a ring that keeps
// three copies.
type victim struct {
	*harness.Env
	store []redsession.Option
	ring  *redsession.HashRing // nil: one server
}

func tamperedWith(t *testing.T, test func(t *testing.T, v *victim)) {
	t.Run("single", func(t *testing.T) {
		env := harness.StartSingle(t)
		test(t, &victim{Env: env, store: []redsession.Option{redsession.WithAddr(env.Addrs()[0]), redsession.WithDialer(env.Dialer())}})
	})
	t.Run("ring", func(t *testing.T) {
		env := harness.StartNodes(t, 3)
		var nodes []redsession.Node
		for _, n := range env.Nodes() {
			nodes = append(nodes, redsession.Node{Name: n.Name(), Addr: n.Addr()})
		}
		hash, err := redsession.NewHashRing(nodes, 3)
		ok(t, err)
		test(t, &victim{env, []redsession.Option{redsession.WithRing(nodes...), redsession.WithDialer(env.Dialer())}, hash})
	})
}

// of makes a client of the victim's.
func of[T any](t *testing.T, v *victim, opts ...redsession.Option) client[T] {
	t.Helper()
	c := newClient[T](t, append(slices.Clone(v.store), opts...)...)
	t.Cleanup(func() { c.Close() })
	return c
}

// plant writes to so many copies of a session, those that are read first, past all clients.
func (v *victim) plant(t *testing.T, copies int, handle string, pairs ...string) {
	t.Helper()
	nodes := v.Nodes()
	if v.ring != nil {
		nodes = nil
		for _, owner := range v.ring.Owners(handle[:4])[:copies] {
			nodes = append(nodes, v.Nodes()[slices.IndexFunc(v.Nodes(), func(n *harness.Node) bool { return n.Name() == owner.Name })])
		}
		newer := strconv.FormatInt(time.Now().Add(time.Second).UnixMilli()<<11, 10)
		for i := 0; i < len(pairs); i += 2 {
			if !strings.HasPrefix(pairs[i], "@") {
				pairs = append(pairs, "@s:"+pairs[i], newer)
			}
		}
	}
	for _, n := range nodes {
		for some := range slices.Chunk(pairs, 20_000) {
			ok(t, n.Client().HSet(t.Context(), key(handle), some).Err())
		}
	}
}

// affordable wants a call to take no more than so much memory, kept or not, and next to no
// time; at best, for others use the machine too.
func affordable(t *testing.T, what string, bound uint64, call func() error) error {
	t.Helper()
	for try := 0; ; try++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		err := call()
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		used := after.TotalAlloc - before.TotalAlloc
		if used <= bound && (took < time.Second || raced) {
			return err
		}
		if try == 4 {
			t.Errorf("%s: %d MiB, %v", what, used>>20, took)
			return err
		}
	}
}

// Who can write to the servers, even who has the key, ends one session by any of the
// payloads that the decoders die of, and nothing else.
func TestHostileFieldsAreNamedAndCostLittle(t *testing.T) {
	type reader struct {
		name string
		call func(id string) error
	}
	tamperedWith(t, func(t *testing.T, v *victim) {
		for _, sealed := range []bool{false, true} {
			if raced && sealed {
				continue // it takes minutes
			}
			for codec, payloads := range map[redsession.Codec]map[string][]byte{
				redsession.MsgPack{}: hostile.MsgPack(), redsession.JSON{}: hostile.JSON(),
			} {
				opts := []redsession.Option{redsession.WithCodec(codec)}
				if sealed {
					opts = append(opts, redsession.WithEncryption(encryptionKey))
				}
				large := append(slices.Clone(opts), redsession.WithMaxSize(16<<20))
				attacker := of[map[string][]byte](t, v, append(slices.Clone(large), redsession.WithCodec(verbatim{codec}))...)
				bounded := of[struct {
					F any `session:"f"`
				}](t, v, opts...)
				anything := of[struct {
					F any `session:"f"`
				}](t, v, large...)
				strict := of[struct {
					F struct{ A int } `session:"f"`
				}](t, v, large...)
				entries, numbers := of[map[string]any](t, v, large...), of[map[string][]int64](t, v, large...)
				readers := []reader{
					{"a struct, bounded by WithMaxSize", func(id string) error { _, err := bounded.Load(t.Context(), id); return err }},
					{"a struct with any", func(id string) error { _, err := anything.Load(t.Context(), id); return err }},
					{"a struct that lacks the field in it", func(id string) error { _, err := strict.Load(t.Context(), id); return err }},
					{"a map of any", func(id string) error { return entries.LoadMany(t.Context(), id)[0].Err }},
					{"a map of lists", func(id string) error { _, err := numbers.Load(t.Context(), id); return err }},
				}
				if v.ring == nil {
					readers = append(readers, reader{"Update", func(id string) error {
						_, err := entries.Update(t.Context(), id, func(*redsession.Session[map[string]any]) error { return nil })
						return err
					}})
				}
				for name, data := range payloads {
					s := attacker.create(t, map[string][]byte{"f": []byte("1")})
					if sealed {
						s.Data["f"] = data
						ok(t, attacker.Save(t.Context(), s))
					} else {
						v.plant(t, 2, s.Handle(), "f", string(data))
					}
					for _, r := range readers {
						at := fmt.Sprintf("%s, sealed %v: %s into %s", codec.Name(), sealed, name, r.name)
						bound := uint64(32 << 20)
						if codec == (redsession.JSON{}) { // encoding/json goes on after an error, and makes garbage meanwhile
							bound += 24 * uint64(len(data))
						}
						err := affordable(t, at, bound, func() error { return r.call(s.ID()) })
						if decode, ok := errors.AsType[*redsession.DecodeError](err); !ok || decode.Field != "f" {
							t.Errorf("%s: %v, want a *DecodeError of the field", at, err)
						}
					}
					ok(t, entries.Touch(t.Context(), s.ID()))
					ok(t, entries.Delete(t.Context(), s.ID()))
					entries.dead(t, s.ID())
				}
			}
		}
	})
}

// What is not a field's value can be as large, and as much: a call gives an error or
// does what it should, and a session can always be ended.
func TestHostileRecordsAreRefusedOrHarmless(t *testing.T) {
	many := func(n int, prefix, value string) (pairs []string) {
		for i := range n {
			pairs = append(pairs, prefix+strconv.Itoa(i), value)
		}
		return pairs
	}
	stamp := strconv.FormatInt(time.Now().UnixMilli()<<11, 10)
	long, name := strings.Repeat("1", 1<<20), strings.Repeat("n", 1<<20)
	const loads = "it loads"
	records := []struct {
		what         string
		pairs        []string
		single, ring string // the field that Load names, or loads
	}{
		{"10,000 fields", many(10_000, "f", "\x01"), "", ""},
		{"a name of 1 MiB", []string{name, "\x01"}, name, name},
		{"a codec of 1 MiB", []string{"@f", "1:" + long}, "", ""},
		{"a time of 1 MiB", []string{"@t", long}, "@t", "@t"},
		{"a data key of 1 MiB", []string{"@k", long}, "", loads}, // of a ring only with a stamp
		{"a low water of 1 MiB", []string{"@l", long}, loads, "@l"},
		{"a stamp of 1 MiB", []string{"@s:a", long}, loads, "@s:a"},
		{"1 MiB of writes", []string{"@w", long}, loads, loads},
		{"an unknown record of 1 MiB", []string{"@x", long}, loads, loads},
		{"a value of 64 MiB", []string{"f", strings.Repeat("x", 64<<20)}, "", ""},
		{"70,000 fields", many(70_000, "f", "\x01"), "", ""},
		{"70,000 verifiers", many(70_000, "@a:v", stamp), "", ""},
		{"30,000 stamps", many(30_000, "@s:f", stamp), loads, loads},
		{"10,000 stamps", many(10_000, "@s:f", stamp), loads, loads},
		{"10,000 verifiers", many(10_000, "@a:v", stamp), loads, loads},
		{"10,000 dead verifiers", many(10_000, "@a:v", stamp+"r@a:next"), loads, loads},
		{"10,000 votes", many(10_000, "@r:v", "token 1 @a:next"), loads, loads},
	}
	tamperedWith(t, func(t *testing.T, v *victim) {
		c := of[map[string]any](t, v)
		calls := map[string]func(s *redsession.Session[map[string]any]) error{
			"Load":  func(s *redsession.Session[map[string]any]) error { _, err := c.Load(t.Context(), s.ID()); return err },
			"Touch": func(s *redsession.Session[map[string]any]) error { return c.Touch(t.Context(), s.ID()) },
			"Save": func(s *redsession.Session[map[string]any]) error {
				s.Data["b"] = true
				return c.Save(t.Context(), s)
			},
			"Rotate": func(s *redsession.Session[map[string]any]) error { return c.Rotate(t.Context(), s) },
			"Delete": func(s *redsession.Session[map[string]any]) error { return c.Delete(t.Context(), s.ID()) },
		}
		for _, test := range records {
			want := test.single
			if v.ring != nil {
				want = test.ring
			}
			for name, call := range calls {
				s := c.create(t, map[string]any{"a": true})
				v.plant(t, 3, s.Handle(), test.pairs...)
				at := test.what + ": " + name
				err := affordable(t, at, 32<<20, func() error { return call(s) })
				decode, undecodable := errors.AsType[*redsession.DecodeError](err)
				switch {
				case name == "Load" && want != loads:
					if !undecodable || decode.Field != want {
						t.Errorf("%s: %.100v, want a *DecodeError of field %.20q", at, err, want)
					}
				case name == "Delete" || want == loads:
					is(t, err, nil)
				case name == "Rotate" && errors.Is(err, redsession.ErrUnconfirmed):
					continue // neither the old ID nor the new one opens it
				case err != nil && !undecodable:
					t.Errorf("%s: %v", at, err)
				}
				ok(t, c.Delete(t.Context(), s.ID()))
				c.dead(t, s.ID())
			}
		}
	})
}

// A reply that is too large ends its connection, which carries others'.
func TestASessionThatIsTooLargeHarmsNoOther(t *testing.T) {
	tamperedWith(t, func(t *testing.T, v *victim) {
		c := of[map[string]any](t, v)
		var list []*redsession.Session[map[string]any]
		for range 32 {
			list = append(list, c.create(t, map[string]any{"a": true}))
		}
		large, other := list[5], c.create(t, map[string]any{})
		for _, n := range v.Nodes() {
			ok(t, n.Client().Set(t.Context(), key(other.Handle()), "no hash", time.Hour).Err())
		}
		v.plant(t, 3, large.Handle(), "f", strings.Repeat("x", 16<<20))
		var wg sync.WaitGroup
		for _, s := range list {
			wg.Go(func() {
				for range 20 {
					_, err := c.Load(t.Context(), s.ID())
					if refused := errors.As(err, new(*redsession.DecodeError)); refused != (s == large) || err != nil && !refused {
						t.Errorf("Load of a session, too large %v: %v", s == large, err)
					}
				}
			})
		}
		wg.Wait()
		ids := make([]string, len(list))
		for i, s := range list {
			ids[i] = s.ID()
		}
		ids[2] = other.ID()
		for i, r := range c.LoadMany(t.Context(), ids...) {
			bad := i == 2 || i == 5
			if refused := errors.As(r.Err, new(*redsession.DecodeError)); refused != bad || r.Err != nil && !refused {
				t.Errorf("LoadMany of what cannot be read, %v: %v", bad, r.Err)
			}
		}
		if v.ring != nil {
			last := v.Nodes()[2]
			ok(t, last.RestartEmpty(t.Context()))
			ok(t, c.Repair(t.Context()))
			if got := copiesOf(t, last); got != len(list)-1 {
				t.Errorf("%s has %d copies after its repair, want %d", last, got, len(list)-1)
			}
		}
		ok(t, c.Delete(t.Context(), large.ID()))
		c.dead(t, large.ID())
	})
}
