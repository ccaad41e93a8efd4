package redsession

import (
	"strings"
	"testing"
)

func TestNewIDsAreWellFormedAndDifferent(t *testing.T) {
	const tag = "aZ-_"
	locators, secrets, tags := map[string]bool{}, map[string]bool{}, map[string]bool{}
	const n = 1000
	for range n {
		id := newID(tag)
		parsed, ok := parseID(string(id))
		if !ok || parsed != id || len(id) != idLen || !strings.HasPrefix(string(id), tag) {
			t.Fatalf("%q is not well-formed", id)
		}
		next := id.renewed()
		if _, ok := parseID(string(next)); !ok || next.handle() != id.handle() || next == id {
			t.Fatalf("%q is renewed to %q", id, next)
		}
		locators[string(id[tagLen:handleLen])] = true
		secrets[string(id[handleLen+1:])], secrets[string(next[handleLen+1:])] = true, true
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
		id := newID("aaaa")
		last[id[idLen-1]] = true
		for i := tagLen; i < idLen-1; i++ {
			if inner[i] == nil {
				inner[i] = map[byte]bool{}
			}
			inner[i][id[i]] = true
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
	id := newID("tag1")
	if key, want := id.key("p:x"), "p:x:{tag1}:"+string(id[4:15]); key != want {
		t.Errorf("key %q, want %q", key, want)
	}
	v := id.verifier()
	if !strings.HasPrefix(v, "@a:") || len(v) != 3+22 || v != id.verifier() {
		t.Errorf("verifier %q", v)
	}
	for _, other := range []sessionID{id.renewed(), newID("tag1"), sessionID("tag2") + id[4:]} {
		if other.verifier() == v {
			t.Errorf("%q and %q have the same verifier", id, other)
		}
	}
	if strings.Contains(v, string(id[handleLen+1:])) {
		t.Error("the verifier shows the secret")
	}
	if digest("a", "bc") == digest("b", "c") {
		t.Error("a digest does not depend on its domain")
	}
}

func TestPrincipalTags(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range []string{"1001", "1001", "1002", "x", "\x00", strings.Repeat("x", maxPrincipal)} {
		seen[principalTag(p)] = true
	}
	for range 20 {
		seen[principalTag("")] = true
	}
	if len(seen) != 25 {
		t.Errorf("%d tags of 5 principals and 20 of nobody", len(seen))
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
	id := string(newID("aZ09"))
	for _, s := range []string{id, id[:37], id + "A", id[:15], id[:36] + "\n\n", id[:37] + "B", strings.Repeat("A", 38), ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, ok := parseID(s)
		if ok != spelled(s) {
			t.Fatalf("parseID(%q) is %v", s, ok)
		}
		if !ok {
			return
		}
		if string(id) != s {
			t.Errorf("%q became %q", s, id)
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
