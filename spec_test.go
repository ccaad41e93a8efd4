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
		Malformed  []string `json:"malformed_ids"`
	}
	if err := json.Unmarshal(raw, &spec); err != nil {
		t.Fatal(err)
	}
	if spec.Format != formatVersion || len(spec.IDs) == 0 || len(spec.Principals) == 0 || len(spec.Peppered) == 0 || len(spec.Malformed) == 0 {
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
	for _, s := range spec.Malformed {
		if _, ok := parseID(s, plain); ok {
			t.Errorf("%q is accepted", s)
		}
	}
}
