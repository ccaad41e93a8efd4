package redsession

import (
	"strings"
	"testing"
)

var plain = new(peppers)

func TestNewIDsAreWellFormedAndDifferent(t *testing.T) {
	const tag = "aZ-_"
	locators, secrets, tags := map[string]bool{}, map[string]bool{}, map[string]bool{}
	const n = 1000
	for range n {
		id := newID(tag, plain)
		parsed, ok := parseID(id.text, plain)
		if !ok || parsed != id || len(id.text) != idLen || !strings.HasPrefix(id.text, tag) {
			t.Fatalf("%q is not well-formed", id.text)
		}
		next := id.renewed()
		if _, ok := parseID(next.text, plain); !ok || next.handle() != id.handle() || next == id {
			t.Fatalf("%q is renewed to %q", id.text, next.text)
		}
		locators[id.text[tagLen:handleLen]] = true
		secrets[id.text[handleLen+1:]], secrets[next.text[handleLen+1:]] = true, true
		tag := randomTag()
		if len(tag) != tagLen {
			t.Fatalf("tag %q", tag)
		}
		tags[tag] = true
	}
	if len(locators) != n || len(secrets) != 2*n || len(tags) < n-5 {
		t.Errorf("%d locators, %d secrets and %d tags are different, of %d", len(locators), len(secrets), len(tags), n)
	}
}

func TestEveryBitOfALocatorAndASecretIsUsed(t *testing.T) {
	last := map[byte]bool{} // of the secret: it has 2 bits
	inner := [idLen]map[byte]bool{}
	for range 2000 {
		id := newID("aaaa", plain)
		last[id.text[idLen-1]] = true
		for i := tagLen; i < idLen-1; i++ {
			if inner[i] == nil {
				inner[i] = map[byte]bool{}
			}
			inner[i][id.text[i]] = true
		}
	}
	if len(last) != 4 {
		t.Errorf("the last character takes %d values, not 4", len(last))
	}
	for i := tagLen; i < idLen-1; i++ {
		if want := 64; i != handleLen && len(inner[i]) != want {
			t.Errorf("character %d takes %d values, not %d", i, len(inner[i]), want)
		}
	}
}

func TestKeysAndVerifiers(t *testing.T) {
	id := newID("tag1", plain)
	if key, want := id.key("p:x"), "p:x:{tag1}:"+id.text[4:15]; key != want {
		t.Errorf("key %q, want %q", key, want)
	}
	v := id.verifier()
	if !strings.HasPrefix(v, "@a:") || len(v) != 3+22 || v != id.verifier() {
		t.Errorf("verifier %q", v)
	}
	moved := id
	moved.text = "tag2" + id.text[4:]
	for _, other := range []sessionID{id.renewed(), newID("tag1", plain), moved} {
		if other.verifier() == v {
			t.Errorf("%q and %q have the same verifier", id.text, other.text)
		}
	}
	if strings.Contains(v, id.text[handleLen+1:]) {
		t.Error("the verifier shows the secret")
	}
	if plain.digest(0, "a", "bc") == plain.digest(0, "b", "c") {
		t.Error("a digest does not depend on its domain")
	}
}

func TestPrincipalTags(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range []string{"1001", "1001", "1002", "x", "\x00", strings.Repeat("x", maxPrincipal)} {
		seen[plain.principalTag(p)] = true
	}
	for range 20 {
		seen[plain.principalTag("")] = true
	}
	if len(seen) != 25 {
		t.Errorf("%d tags of 5 principals and 20 of nobody", len(seen))
	}
}

func TestAPepperKeysTheDigests(t *testing.T) {
	a, b := []byte("0123456789abcdef"), []byte("0123456789abcdeg")
	both, onlyA := peppers{a, b, nil}, peppers{a}
	id := newID("tag1", &both)
	parsed, ok := parseID(id.text, &both)
	if !ok || len(parsed.candidates()) != 3 || len(id.candidates()) != 1 {
		t.Fatalf("%d candidates", len(parsed.candidates()))
	}
	verifiers := map[string]bool{}
	for _, c := range parsed.candidates() {
		verifiers[c.verifier()] = true
		match, found := parsed.match(func(v string) bool { return v == c.verifier() })
		if !found || match != c || match.renewed().pepper != 0 {
			t.Errorf("pepper %d: matched %d, %v", c.pepper, match.pepper, found)
		}
	}
	unpeppered, _ := parseID(id.text, plain)
	if len(verifiers) != 3 || !verifiers[unpeppered.verifier()] || id.verifier() != parsed.candidates()[0].verifier() {
		t.Errorf("verifiers %v", verifiers)
	}
	if _, found := parsed.match(func(string) bool { return false }); found {
		t.Error("an unknown ID matches")
	}
	if both.principalTag("x") != onlyA.principalTag("x") || both.principalTag("x") == plain.principalTag("x") {
		t.Error("the tag of a principal does not go by the current pepper")
	}
}

// spelled tells whether s can be an ID, without a decoder.
func spelled(s string) bool {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	if len(s) != 38 || s[15] != '.' || strings.Trim(s[:15]+s[16:], alphabet) != "" {
		return false
	}
	return strings.IndexByte(alphabet, s[37])%16 == 0 // 128 bits leave 4 of the last character
}

// What is accepted is exactly what can have been made: it encodes to itself.
func FuzzParseID(f *testing.F) {
	id := newID("aZ09", plain).text
	for _, s := range []string{id, id[:37], id + "A", id[:15], id[:36] + "\n\n", id[:37] + "B", strings.Repeat("A", 38), ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseID(s, plain)
		if ok != spelled(s) {
			t.Fatalf("parseID(%q) is %v", s, ok)
		}
		if !ok {
			return
		}
		if id.text != s {
			t.Errorf("%q became %q", s, id.text)
		}
		secret, err := base64url.DecodeString(s[16:])
		if err != nil || len(secret) != 16 || base64url.EncodeToString(secret) != s[16:] {
			t.Errorf("the secret of %q is %x, %v", s, secret, err)
		}
		if key := id.key("p"); len(key) != len("p:{}:")+15 || strings.Count(key, "{") != 1 || strings.Count(key, "}") != 1 {
			t.Errorf("the key of %q is %q", s, key)
		}
	})
}

// Who clears his pepper once he has handed it over has not made it one of zeros.
func TestPeppersAreCopiedAtOnce(t *testing.T) {
	current, previous := []byte("0123456789abcdef"), []byte("fedcba9876543210")
	option := WithPepper(current, previous)
	clear(current)
	clear(previous)
	var cfg config
	option(&cfg)
	if string(cfg.peppers[0]) != "0123456789abcdef" || string(cfg.peppers[1]) != "fedcba9876543210" {
		t.Errorf("%q", cfg.peppers)
	}
}
