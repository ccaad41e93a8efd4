package redsession

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redsession/redsession/internal/script"
)

var keyA, keyB, keyC = bytes.Repeat([]byte("A"), 32), bytes.Repeat([]byte("B"), 32), bytes.Repeat([]byte("C"), 32)

type letter struct {
	From, To string
	Pages    int
}

var secretLetter = letter{"a secret value", "another secret value", 5}

func encrypting(t testing.TB, opts ...Option) *Client[letter] {
	t.Helper()
	c, err := New[letter](append([]Option{server}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// hashOf is a session as the client stores it.
func hashOf(t *testing.T, c *Client[letter], id sessionID, data letter) map[string]string {
	t.Helper()
	e, err := c.cfg.newEnvelope()
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.mapping.encode(&data)
	if err != nil {
		t.Fatal(err)
	}
	n := newSession{envelope: e}
	for _, f := range list {
		n.fields = append(n.fields, f.name, e.seal(f.name, f.data))
	}
	return recordsOf(append(n.stored(id.key(c.cfg.prefix)), "@f", c.cfg.format(), id.verifier(), "1")...)
}

func openAs(c *Client[letter], id sessionID, hash map[string]string) (*Session[letter], error) {
	return c.open(loaded{id: id, hash: hash, now: 5000}, time.Now())
}

const removed = "(removed)"

func with(hash map[string]string, changes ...string) map[string]string {
	hash = maps.Clone(hash)
	for i := 0; i < len(changes); i += 2 {
		if hash[changes[i]] = changes[i+1]; changes[i+1] == removed {
			delete(hash, changes[i])
		}
	}
	return hash
}

func TestWhatWasTamperedWithIsRefused(t *testing.T) {
	c := encrypting(t, WithEncryption(keyA, keyB))
	// Who takes plain sessions too is no easier to deceive about one that is encrypted.
	lenient := encrypting(t, WithEncryption(keyA, keyB), WithPlainSessions(true))
	id, elsewhere := newID("tag1", plain), newID("tag1", plain)
	hash := hashOf(t, c, id, secretLetter)
	other := hashOf(t, c, elsewhere, secretLetter)
	byJSON := hashOf(t, encrypting(t, WithEncryption(keyA), WithCodec(JSON{})), id, secretLetter)
	otherPrefix := hashOf(t, encrypting(t, WithEncryption(keyA), WithPrefix("app")), id, secretLetter)
	underB := hashOf(t, encrypting(t, WithEncryption(keyB)), id, secretLetter)
	underC := hashOf(t, encrypting(t, WithEncryption(keyC)), id, secretLetter)
	if s, err := openAs(c, id, hash); err != nil || s.Data != secretLetter {
		t.Fatalf("untouched: %v", err)
	}
	if s, err := openAs(c, elsewhere, other); err != nil || s.Data != secretLetter {
		t.Fatalf("the other: %v", err)
	}

	type tampering struct {
		what  string
		hash  map[string]string
		field string // that the error names
	}
	list := []tampering{
		{"a value of another field", with(hash, "To", hash["From"]), "To"},
		{"a value of another session", with(hash, "To", other["To"]), "To"},
		{"a value of this session under another data key", with(hash, "Pages", underB["Pages"]), "Pages"},
		{"a plain value", with(hash, "Pages", "\x05"), "Pages"},
		{"no bytes", with(hash, "Pages", ""), "Pages"},
		{"one byte more", with(hash, "Pages", hash["Pages"]+"\x00"), "Pages"},
		{"a data key as a value", with(hash, "Pages", hash["@k"][keyIDLen:]), "Pages"},
		{"a long value of nothing", with(hash, "Pages", strings.Repeat("\x00", 100_000)), "Pages"},

		{"the data key of another session", with(hash, "@k", other["@k"]), ""},
		{"of the same session under another prefix", with(hash, "@k", otherPrefix["@k"]), ""},
		{"of the same session by another codec", with(hash, "@k", byJSON["@k"]), ""},
		{"by a key that is not known", with(hash, "@k", underC["@k"]), ""},
		{"by another key than it says", with(hash, "@k", underB["@k"][:keyIDLen]+hash["@k"][keyIDLen:]), ""},
		{"no data key", with(hash, "@k", removed), ""},
		{"one byte more", with(hash, "@k", hash["@k"]+"\x00"), ""},
		{"a value as a data key", with(hash, "@k", hash["@k"][:keyIDLen]+hash["From"]), ""},

		{"a clone of another session", with(other, elsewhere.verifier(), removed, id.verifier(), "1"), ""},
		{"without its suffix", with(hash, "@f", "1:msgpack"), ""},
		{"of another codec", with(hash, "@f", "1:json"+sealedSuffix), ""},
		{"by another spelling of the format", with(hash, "@f", "01:msgpack"+sealedSuffix), ""},
		{"sealed twice", with(hash, "@f", "1:msgpack"+sealedSuffix+sealedSuffix), ""},
		{"sealed by something else", with(hash, "@f", "1:msgpack+aes128gcm"), ""},
		{"of the format of tomorrow", with(hash, "@f", "2:msgpack"+sealedSuffix), ""},
		{"all of its fields plain", with(hash, "From", "\xa1x", "To", "\xa1y", "Pages", "\x05"), "From"},
	}
	for _, name := range []string{"From", "To", "Pages", "@k"} {
		field := strings.TrimPrefix(name, "@k")
		for n := range len(hash[name]) {
			list = append(list, tampering{fmt.Sprint(name, " cut to ", n), with(hash, name, hash[name][:n]), field})
			flipped := []byte(hash[name])
			flipped[n] ^= 1 << (n % 8)
			list = append(list, tampering{fmt.Sprint(name, " flipped at ", n), with(hash, name, string(flipped)), field})
		}
	}
	for _, tampered := range list {
		for who, c := range map[string]*Client[letter]{"strict": c, "lenient": lenient} {
			s, err := openAs(c, id, tampered.hash)
			e, ok := errors.AsType[*DecodeError](err)
			if !ok || s != nil || e.Field != tampered.field {
				t.Errorf("%s, %s: %v, want a *DecodeError of %q", tampered.what, who, err, tampered.field)
				continue
			}
			for _, secret := range []string{"secret", string(keyA), "AAAA", "\x05"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s: the error shows a value or a key: %v", tampered.what, err)
				}
			}
		}
	}
}

func TestWhoReadsWhat(t *testing.T) {
	a, b := WithEncryption(keyA), WithEncryption(keyB)
	id := newID("tag1", plain)
	for _, test := range []struct {
		what          string
		writer, reads []Option
		refusal       string
	}{
		{"the same key", []Option{a}, []Option{a}, ""},
		{"a previous key", []Option{a}, []Option{WithEncryption(keyB, keyC, keyA)}, ""},
		{"a key to come", []Option{b}, []Option{WithEncryption(keyA, keyB)}, ""},
		{"another key", []Option{a}, []Option{b}, "does not have"},
		{"no key", []Option{a}, nil, "is encrypted"},
		{"a plain one", nil, []Option{a}, "not encrypted"},
		{"a plain one, of which it was not said", []Option{a, WithPlainSessions(true)}, []Option{a}, "not encrypted"},
		{"a plain one, taken", nil, []Option{a, WithPlainSessions(false)}, ""},
		{"one that is made plain", []Option{a, WithPlainSessions(true)}, nil, ""},
		{"one made encrypted", []Option{a, WithPlainSessions(false)}, []Option{a}, ""},
		{"an encrypted one, where plain ones are made", []Option{a}, []Option{a, WithPlainSessions(true)}, ""},
	} {
		hash := hashOf(t, encrypting(t, test.writer...), id, secretLetter)
		s, err := openAs(encrypting(t, test.reads...), id, hash)
		switch e, ok := errors.AsType[*DecodeError](err); {
		case test.refusal == "" && (err != nil || s.Data != secretLetter):
			t.Errorf("%s: %v", test.what, err)
		case test.refusal != "" && (!ok || e.Field != "" || !strings.Contains(e.Error(), test.refusal)):
			t.Errorf("%s: %v, want %q", test.what, err, test.refusal)
		}
	}
}

// changeOf is what a save of s would send.
func changeOf(t *testing.T, c *Client[letter], s *Session[letter]) script.Change {
	t.Helper()
	change, err := c.changes(s)
	if err != nil {
		t.Fatal(err)
	}
	return change
}

func fieldsOf(change script.Change) (names []string) {
	for i := 0; i < len(change.Set); i += 2 {
		names = append(names, change.Set[i])
	}
	return names
}

func TestADataKeyIsWrappedAnewWithASaveOnly(t *testing.T) {
	id := newID("tag1", plain)
	old, next := encrypting(t, WithEncryption(keyA)), encrypting(t, WithEncryption(keyB, keyA))
	hash := hashOf(t, old, id, secretLetter)
	s, err := openAs(next, id, hash)
	if err != nil {
		t.Fatal(err)
	}
	if change := changeOf(t, next, s); !empty(change) {
		t.Errorf("without a change there is %q", fieldsOf(change))
	}
	s.Data.Pages++
	change := changeOf(t, next, s)
	if got := fmt.Sprint(fieldsOf(change)); got != "[Pages @k]" {
		t.Errorf("a change sends %s", got)
	}
	// Of two that wrap it at once either may win, and the fields of both are good.
	third := encrypting(t, WithEncryption(keyC, keyA))
	other, err := openAs(third, id, hash)
	if err != nil {
		t.Fatal(err)
	}
	other.Data.To = "x"
	rival := changeOf(t, third, other)
	all := encrypting(t, WithEncryption(keyA, keyB, keyC))
	for _, order := range [][]script.Change{{change, rival}, {rival, change}} {
		after := applied(applied(hash, order[0]), order[1])
		got, err := openAs(all, id, after)
		if want := (letter{secretLetter.From, "x", secretLetter.Pages + 1}); err != nil || got.Data != want {
			t.Errorf("%+v, %v", got, err)
		}
	}
	next.saved(s, change, receipt{})
	created := *s // which knows of no data key in the store, and has just wrapped it
	created.stored = with(s.stored, "@k", removed)
	created.Data.To = "y"
	if got := fmt.Sprint(fieldsOf(changeOf(t, next, &created))); got != "[To]" {
		t.Errorf("of a session that was just created a change sends %s", got)
	}
	s.Data.Pages++
	if got := fmt.Sprint(fieldsOf(changeOf(t, next, s))); got != "[Pages]" {
		t.Errorf("the next change sends %s", got)
	}
	if _, err := openAs(encrypting(t, WithEncryption(keyB)), id, s.stored); err != nil {
		t.Errorf("the former key is still needed: %v", err)
	}
}

func TestEachSealingIsAnother(t *testing.T) {
	e, err := encrypting(t, WithEncryption(keyA)).cfg.newEnvelope()
	if err != nil {
		t.Fatal(err)
	}
	for what, seal := range map[string]func() string{
		"field":    func() string { return e.seal("n", []byte("v")) },
		"data key": func() string { return e.wrap("k")[keyIDLen:] },
	} {
		nonces := map[string]bool{}
		for range 1000 {
			nonces[seal()[:12]] = true
		}
		if len(nonces) != 1000 {
			t.Errorf("%s: %d nonces for 1000", what, len(nonces))
		}
	}
	if n := len(e.wrap("k")); n != 64 {
		t.Errorf("a data key has %d bytes: more than 64 would make the hash a table", n)
	}
	for size := range 300 {
		if n := len(e.seal("n", make([]byte, size))); n != size+28 {
			t.Errorf("%d bytes become %d", size, n)
		}
	}
}

func TestKeysAreCheckedCopiedAndNotShown(t *testing.T) {
	long := bytes.Repeat([]byte("A"), 33)
	for _, bad := range [][][]byte{
		{nil}, {{}}, {keyA[:16]}, {keyA[:31]}, {long}, {keyA, nil}, {keyA, keyB[:24]}, {keyA, keyA}, {keyA, keyB, keyA}, {keyA, keyB, keyC, keyB},
	} {
		_, err := New[letter](server, WithEncryption(bad[0], bad[1:]...))
		if err == nil || !strings.Contains(err.Error(), "redsession: WithEncryption: ") || strings.Contains(err.Error(), "AAA") || strings.Contains(err.Error(), "BBB") {
			t.Errorf("%d keys: %v", len(bad), err)
		}
	}
	a, b := make([]byte, 32), make([]byte, 32) // two whose first 4 bytes of the digest are the same
	binary.BigEndian.PutUint64(a, 7824)
	binary.BigEndian.PutUint64(b, 126415)
	if _, err := New[letter](server, WithEncryption(keyA, a, keyB, b)); err == nil || !strings.Contains(err.Error(), "keys 2 and 4 of 4 are different") {
		t.Errorf("two keys of one id: %v", err)
	}
	if _, err := New[letter](server, WithPlainSessions(true)); err == nil || !strings.Contains(err.Error(), "WithEncryption") {
		t.Errorf("plain sessions without a key: %v", err)
	}

	key, previous := slices.Clone(keyA), slices.Clone(keyB)
	option := WithEncryption(key, previous)
	clear(key)
	clear(previous)
	c, id := encrypting(t, option), newID("tag1", plain)
	for _, writer := range []Option{WithEncryption(keyA), WithEncryption(keyB)} {
		if _, err := openAs(c, id, hashOf(t, encrypting(t, writer), id, secretLetter)); err != nil {
			t.Errorf("after the caller's keys were cleared: %v", err)
		}
	}

	s, err := openAs(c, id, hashOf(t, c, id, letter{}))
	if err != nil {
		t.Fatal(err)
	}
	secrets := [][]byte{keyA, keyB, s.envelope.dataKey[:]}
	for _, v := range []any{
		c, *c, s, *s, option,
		struct{ c *Client[letter] }{c}, struct{ c Client[letter] }{*c}, struct{ s *Session[letter] }{s}, struct{ s Session[letter] }{*s},
		struct{ o Option }{option}, []any{c, s}, map[string]any{"c": c, "s": s},
	} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%t"} {
			text := fmt.Sprintf(verb, v)
			for _, secret := range secrets {
				part := secret[:8]
				decimal := strings.Trim(fmt.Sprint(part), "[]")
				for _, shown := range []string{string(part), hex.EncodeToString(part), decimal, strings.ReplaceAll(decimal, " ", ", ")} {
					if strings.Contains(text, shown) {
						t.Errorf("%T by %s shows a key: %s", v, verb, text)
					}
				}
			}
		}
	}
}

func BenchmarkEncryption(b *testing.B) {
	c := encrypting(b, WithEncryption(keyA))
	e, err := c.cfg.newEnvelope()
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{100, 4096} {
		data := bytes.Repeat([]byte("x"), size)
		sealed := e.seal("a field", data)
		b.Run(fmt.Sprintf("seal/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				e.seal("a field", data)
			}
		})
		b.Run(fmt.Sprintf("open/%d", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.open("a field", sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	key := "session:{AAAA}:AAAAAAAAAAA"
	wrapped := e.wrap(key)
	b.Run("data key/new and wrap", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e, err := c.cfg.newEnvelope()
			if err != nil {
				b.Fatal(err)
			}
			e.wrap(key)
		}
	})
	b.Run("data key/unwrap", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.cfg.encryption.unwrap(e.format, key, wrapped); err != nil {
				b.Fatal(err)
			}
		}
	})
}
