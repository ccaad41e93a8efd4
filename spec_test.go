package redsession

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// The stored bytes are a specification, docs/SPEC.md: these vectors hold for
// every release that writes format 1, and for other languages.
func TestSpecVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/spec-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec struct {
		Format int
		IDs    []struct{ ID, Prefix, Handle, Key, Verifier string }
		// Principals of sessions, and the tags that follow from them.
		Principals []struct{ Principal, Tag string }
		Peppered   []struct{ Pepper, ID, Verifier, Principal, Tag string }
		Encrypted  []encryptedVector
		Malformed  []string `json:"malformed_ids"`
	}
	if err := json.Unmarshal(raw, &spec); err != nil {
		t.Fatal(err)
	}
	if spec.Format != formatVersion || len(spec.IDs) == 0 || len(spec.Principals) == 0 || len(spec.Peppered) == 0 || len(spec.Encrypted) == 0 || len(spec.Malformed) == 0 {
		t.Fatalf("not the vectors of format %d", formatVersion)
	}
	for _, v := range spec.IDs {
		id, ok := parseID(v.ID, plain)
		if !ok {
			t.Errorf("%q is refused", v.ID)
			continue
		}
		if id.handle() != v.Handle || id.key(v.Prefix) != v.Key || id.verifier() != v.Verifier {
			t.Errorf("%q: handle %q, key %q, verifier %q", v.ID, id.handle(), id.key(v.Prefix), id.verifier())
		}
	}
	for _, v := range spec.Principals {
		if tag := plain.principalTag(v.Principal); tag != v.Tag {
			t.Errorf("principal %q: tag %q, not %q", v.Principal, tag, v.Tag)
		}
	}
	for _, v := range spec.Peppered {
		key, err := hex.DecodeString(v.Pepper)
		p := &peppers{key}
		id, ok := parseID(v.ID, p)
		if err != nil || !ok || id.verifier() != v.Verifier || p.principalTag(v.Principal) != v.Tag {
			t.Errorf("%q with a pepper: verifier %q, tag %q", v.ID, id.verifier(), p.principalTag(v.Principal))
		}
	}
	for _, v := range spec.Encrypted {
		v.check(t)
	}
	for _, s := range spec.Malformed {
		if _, ok := parseID(s, plain); ok {
			t.Errorf("%q is accepted", s)
		}
	}
}

// hexed is bytes that are written in hexadecimal.
type hexed string

func (h *hexed) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	*h = hexed(b)
	return err
}

// encryptedVector is a session's bytes, which were made by another implementation. All
// but the nonces follows from the rest.
type encryptedVector struct {
	Key      hexed
	DataKey  hexed  `json:"data_key"`
	RedisKey string `json:"redis_key"`
	Format   string
	Wrapped  hexed
	Fields   []struct {
		Name          string
		Plain, Sealed hexed
	}
	Refused []struct {
		Why, Name string
		Sealed    hexed
	}
	RefusedKeys []struct {
		Why     string
		Wrapped hexed
	} `json:"refused_keys"`
}

func (v *encryptedVector) check(t *testing.T) {
	keys, err := newEncryption([][]byte{[]byte(v.Key)})
	if err != nil {
		t.Fatal(err)
	}
	e, err := keys.unwrap(v.Format, v.RedisKey, string(v.Wrapped))
	if err != nil || hexed(e.dataKey[:]) != v.DataKey {
		t.Fatalf("%s: the data key: %v", v.RedisKey, err)
	}
	for _, f := range v.Fields {
		if plain, err := e.open(f.Name, string(f.Sealed)); err != nil || hexed(plain) != f.Plain {
			t.Errorf("%s: field %q: %q, %v", v.RedisKey, f.Name, plain, err)
		}
	}
	for _, f := range v.Refused {
		if _, err := e.open(f.Name, string(f.Sealed)); err == nil {
			t.Errorf("accepted: field %q, %s", f.Name, f.Why)
		}
	}
	for _, k := range v.RefusedKeys {
		if _, err := keys.unwrap(v.Format, v.RedisKey, string(k.Wrapped)); err == nil {
			t.Errorf("accepted: a data key, %s", k.Why)
		}
	}
}
