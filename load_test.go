package redsession

import (
	"errors"
	"maps"
	"strconv"
	"testing"
	"time"
)

// lines is a hash from pairs of a fuzz target's arguments; an empty name is none.
func lines(base map[string]string, pairs ...string) map[string]string {
	hash := maps.Clone(base)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i] != "" {
			hash[pairs[i]] = pairs[i+1]
		}
	}
	return hash
}

// Whatever is stored under a session's key, a load gives a session or says what cannot
// be read; and what it gives is not taken for changed.
func FuzzLoad(f *testing.F) {
	key := []byte("0123456789abcdef0123456789abcdef")
	structs, err := New[struct {
		Name  string
		Count int8
		Any   any
	}](server)
	if err != nil {
		f.Fatal(err)
	}
	sealed, err := New[map[string]any](server, WithEncryption(key), WithPlainSessions(false))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { structs.Close(); sealed.Close() })
	id := newID("tag1", plain)
	e, err := sealed.cfg.newEnvelope()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Name", "\xa1x", "Count", "\x05", "Any", "\x93\x01\x02\x03")
	f.Add("Name", "\xdc\xff\xff", "@t", "-1", "@x", "")
	f.Add("Count", "\xcd\x01\x2c", "Any", "\xc6\xff\xff\xff\xff", "@d", "99999999999999999999")
	f.Add("@f", e.format, dataKeyRecord, e.wrap(id.key("session")), "Name", e.seal("Name", []byte("\xa1x")))
	f.Add("@f", e.format, dataKeyRecord, "short", "Name", "")
	f.Add("@f", "2:msgpack", "@v", "", "@i", "0x10")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, n3, v3 string) {
		hash := lines(recordsOf("@f", "1:msgpack", id.verifier(), "1"), n1, v1, n2, v2, n3, v3)
		loadedIs(t, structs, id, hash)
		loadedIs(t, sealed, id, hash)
	})
}

func loadedIs[T any](t *testing.T, c *Client[T], id sessionID, hash map[string]string) {
	t.Helper()
	s, err := c.open(loaded{id: id, hash: hash, now: 2000}, time.Now())
	if err != nil {
		if decode := (*DecodeError)(nil); !errors.As(err, &decode) && !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", hash, err)
		}
		return
	}
	change, err := c.changes(s)
	if err != nil && !errors.Is(err, ErrTooLarge) {
		t.Errorf("%q: it was loaded as %+v and cannot be saved: %v", hash, s.Data, err)
	}
	if err == nil && !empty(change) {
		t.Errorf("%q: it was loaded as %+v, and saving it would write %q and remove %q", hash, s.Data, change.Set, change.Remove)
	}
}

// Whatever a node of a ring has under a session's key, it is refused or is a copy: the same
// after it was stored again, and after it was joined with itself.
func FuzzReplica(f *testing.F) {
	base := map[string]string{"@f": "1:msgpack", "@c": "1000", "@d": "9000", "@i": "2000", "@t": "1500", "@a:x": "5"}
	f.Add("name", "v", "@s:name", "7", "@l", "3")
	f.Add("@a:x", "5r@a:y", "@r:x", "token 17 @a:y", "@s:gone", "9")
	f.Add("@t", "", "@s:", "1", "", "")
	f.Add("@l", "6", "@s:@k", "8", "@k", "wrapped")
	f.Add("@a:y", "99999999999999999999", "@c", "-1", "@i", "1e3")
	f.Fuzz(func(t *testing.T, n1, v1, n2, v2, n3, v3 string) {
		r, err := parseReplica(lines(base, n1, v1, n2, v2, n3, v3))
		if err != nil {
			if decode := (*DecodeError)(nil); !errors.As(err, &decode) {
				t.Error(err)
			}
			return
		}
		if !join(r, r).equal(r) || !join(r, nil).equal(r) {
			t.Errorf("%+v is another one when it is joined with itself", r)
		}
		again, err := parseReplica(asStored(r))
		if err != nil || !again.equal(r) {
			t.Errorf("%+v was stored and read as %+v, %v", r, again, err)
		}
		clone := join(again, r)
		if !clone.equal(r) {
			t.Errorf("%+v joined with itself as stored is %+v", r, clone)
		}
	})
}

// Whatever three nodes have of a session, their copies joined are the same in any order and
// however often; a tombstone wins, and of a cell the greatest stamp.
func FuzzJoin(f *testing.F) {
	base := map[string]string{"@f": "1:msgpack", "@c": "1000", "@d": "9000", "@i": "2000", "@t": "1500", "@a:x": "5"}
	f.Add("name", "a", "@s:name", "7", "name", "b", "@s:name", "7", "@s:name", "7", "", "")
	f.Add("@a:y", "6", "@a:x", "5r@a:y", "@a:z", "6", "@a:x", "5r@a:z", "@l", "6", "@a:x", "9")
	f.Add("@t", "1600", "@d", "9001", "@t", "1700", "@c", "999", "@i", "1", "@d", "9002")
	f.Add("@f", "1:json", "@a:x", "6", "@f", "1:msgpack+aes256gcm", "@k", "key", "@s:@k", "8", "@a:x", "4")
	f.Fuzz(func(t *testing.T, a1, v1, a2, v2, b1, w1, b2, w2, c1, x1, c2, x2 string) {
		var copies []*replica
		for _, pairs := range [][]string{{a1, v1, a2, v2}, {b1, w1, b2, w2}, {c1, x1, c2, x2}} {
			if r, err := parseReplica(lines(base, pairs...)); err == nil {
				copies = append(copies, r)
			}
		}
		for len(copies) < 3 {
			copies = append(copies, nil)
		}
		a, b, c := copies[0], copies[1], copies[2]
		all := join(join(a, b), c)
		for order, other := range map[string]*replica{
			"acb": join(join(a, c), b), "bca": join(join(b, c), a), "a(bc)": join(a, join(b, c)), "abca": join(all, a), "itself": join(all, all),
		} {
			if !other.equal(all) {
				t.Errorf("%+v, %+v and %+v joined as %s are %+v, else %+v", a, b, c, order, other, all)
			}
		}
		for _, r := range copies {
			switch {
			case r == nil:
			case r.buried != all.buried && r.buried:
				t.Errorf("the tombstone %+v is lost in %+v", r, all)
			case all.buried:
			default:
				for name, cell := range r.fields {
					if all.fields[name].Stamp < cell.Stamp {
						t.Errorf("%q of %+v is lost in %+v", name, r, all)
					}
				}
				for name, cell := range r.ids {
					if got, kept := all.ids[name]; got.stamp < cell.stamp && cell.stamp >= all.low || kept && got.stamp < all.low {
						t.Errorf("%q of %+v is lost in %+v", name, r, all)
					}
				}
			}
		}
	})
}

// asStored is the hash that the scripts make of a copy.
func asStored(r *replica) map[string]string {
	cp := r.copy()
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	hash := map[string]string{"@f": cp.Format, "@c": number(cp.Created), "@d": number(cp.Deadline), "@i": number(cp.Idle)}
	if r.buried {
		return hash
	}
	hash["@t"] = number(cp.Touched)
	if cp.Low > 0 {
		hash["@l"] = number(cp.Low)
	}
	for i := 0; i < len(cp.Verifiers); i += 2 {
		hash[cp.Verifiers[i]] = cp.Verifiers[i+1]
	}
	for _, c := range cp.Fields {
		hash[stampPrefix+c.Name] = number(c.Stamp)
		if !c.Removed {
			hash[c.Name] = c.Value
		}
	}
	return hash
}
