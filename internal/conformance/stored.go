package conformance

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
)

// placeOn has the suite run on a ring.
func (s *suite) placeOn(t *testing.T, target *Target) {
	hash, err := redsession.NewHashRing(target.Ring, target.Replicas)
	if err != nil {
		t.Fatal(err)
	}
	s.ring, s.copies = hash, min(target.Replicas, len(target.Ring))
	nodes, others := target.Nodes, target.Options
	target.For = func(key string) *redis.Client { return nodes()[s.owners(key)[0]] }
	target.Options = func(t testing.TB) []redsession.Option {
		return append(others(t), redsession.WithRing(target.Ring...), redsession.WithReplicas(target.Replicas))
	}
}

// owners are the nodes that have a key, nearest first, by their places in Nodes.
func (s *suite) owners(key string) []int {
	_, tag, _ := strings.Cut(key, "{")
	return s.ring.AppendOwners(nil, tag[:4])
}

// at are admin clients of the servers that have the session.
func (t *test) at(id string) []*redis.Client { return t.having(t.key(id)) }

func (t *test) having(key string) []*redis.Client {
	if t.copies == 1 {
		return []*redis.Client{t.target.For(key)}
	}
	var list []*redis.Client
	for _, i := range t.owners(key) {
		list = append(list, t.target.Nodes()[i])
	}
	return list
}

// copiesOf are a key's hashes, and when they end.
func (t *test) copiesOf(key string) (hashes []map[string]string, ends []int64) {
	t.Helper()
	for _, node := range t.having(key) {
		hash, err := node.HGetAll(t.Context(), key).Result()
		t.ok(err)
		end, err := node.Do(t.Context(), "pexpiretime", key).Int64()
		t.ok(err)
		hashes, ends = append(hashes, hash), append(ends, end)
	}
	return hashes, ends
}

// settle waits a little until all copies are alike: a call returns when most
// are.
func (t *test) settle(id string) {
	t.Helper()
	for end := time.Now().Add(time.Second); t.copies > 1 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		hashes, _ := t.copiesOf(t.key(id))
		for _, hash := range hashes {
			maps.DeleteFunc(hash, func(name, _ string) bool { return strings.HasPrefix(name, "@r:") }) // each node's own
		}
		if !slices.ContainsFunc(hashes, func(h map[string]string) bool { return !maps.Equal(h, hashes[0]) }) {
			return
		}
	}
}

// hash is what is stored of a session, decrypted. Of several copies it is what they say
// together, without the cells' stamps, as one Redis would have it.
func (t *test) hash(id string) map[string]string {
	t.Helper()
	hash, _ := t.whole(t.key(id))
	return t.opened(t.key(id), hash)
}

// whole is a session's hash, and when it ends in ms: -1 is never, -2 that there
// is none.
func (t *test) whole(key string) (map[string]string, int64) {
	t.Helper()
	hashes, ends := t.copiesOf(key)
	if t.copies == 1 {
		return hashes[0], ends[0]
	}
	joined := map[string]string{}
	for _, hash := range hashes {
		if _, alive := hash["@t"]; len(hash) > 0 && !alive {
			return map[string]string{}, -2 // a tombstone
		}
		for name, value := range hash {
			switch before, known := joined[name]; {
			case strings.HasPrefix(name, "@s:"):
				if field := name[3:]; !known || number(value) > number(before) {
					joined[name] = value
					delete(joined, field)
					if v, exists := hash[field]; exists {
						joined[field] = v
					}
				}
			case !strings.HasPrefix(name, "@"): // with its stamp
			case !known || number(value) > number(before) || strings.HasSuffix(value, "r"):
				joined[name] = value
			}
		}
	}
	low := number(joined["@l"])
	for name, value := range joined {
		switch {
		case strings.HasPrefix(name, "@a:"):
			if joined[name] = "1"; strings.HasSuffix(value, "r") || number(value) < low {
				delete(joined, name)
			}
		case strings.HasPrefix(name, "@s:"), strings.HasPrefix(name, "@r:"), name == "@l":
			delete(joined, name)
		}
	}
	if len(joined) == 0 {
		return joined, -2
	}
	end := min(number(joined["@t"])+number(joined["@i"]), number(joined["@d"]))
	if t.now() >= end {
		end = -2
	}
	return joined, end
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(strings.TrimSuffix(s, "r"), 10, 64)
	return n
}

// plant writes fields of a session past the client, encrypted where it is.
func (t *test) plant(id string, fields ...string) {
	t.Helper()
	t.settle(id)
	hashes, _ := t.copiesOf(t.key(id))
	t.plantBytes(id, t.sealed(t.key(id), hashes[0], fields)...)
}

// plantBytes writes fields as they are.
func (t *test) plantBytes(id string, fields ...string) {
	t.Helper()
	t.settle(id)
	fields = slices.Clone(fields)
	if t.copies > 1 {
		hashes, _ := t.copiesOf(t.key(id))
		stamp := int64(0)
		for name, value := range hashes[0] {
			if strings.HasPrefix(name, "@s:") || strings.HasPrefix(name, "@a:") {
				stamp = max(stamp, number(value))
			}
		}
		newer := fmt.Sprint(stamp + 1<<11)
		for i := 0; i < len(fields); i += 2 {
			switch name := fields[i]; {
			case strings.HasPrefix(name, "@a:"):
				fields[i+1] = newer
			case !strings.HasPrefix(name, "@"):
				fields = append(fields, "@s:"+name, newer)
			}
		}
	}
	t.past(id, func(node *redis.Client, key string) error { return node.HSet(t.Context(), key, fields).Err() })
}

// past does something to all copies of a session, past the client.
func (t *test) past(id string, do func(node *redis.Client, key string) error) {
	t.Helper()
	t.settle(id)
	for _, node := range t.at(id) {
		t.ok(do(node, t.key(id)))
	}
}

// bury is a logout past the client, by whoever and by whatever ID.
func (t *test) bury(id string) {
	t.Helper()
	t.past(id, func(node *redis.Client, key string) error {
		if t.copies == 1 {
			return node.Del(t.Context(), key).Err()
		}
		names, err := node.HKeys(t.Context(), key).Result()
		t.ok(err)
		names = slices.DeleteFunc(names, func(name string) bool { return name == "@f" || name == "@d" || name == "@i" })
		return node.HDel(t.Context(), key, names...).Err()
	})
}

// expires is when the session ends, in ms: -1 is never, -2 that it is gone.
func (t *test) expires(id string) int64 {
	t.Helper()
	_, ends := t.whole(t.key(id))
	return ends
}

func (t *test) exists(id string) bool {
	t.Helper()
	return t.expires(id) != -2
}

// state is all that is stored of a session: it is the same where nothing was
// written.
func (t *test) state(id string) string {
	t.Helper()
	t.settle(id)
	hashes, ends := t.copiesOf(t.key(id))
	return fmt.Sprintf("%q until %d", hashes, ends)
}

// unwritten wants the session's state to be what it was.
func (t *test) unwritten(what, id, state string) {
	t.Helper()
	if now := t.state(id); now != state {
		t.Errorf("%s: something was written: %s, was %s", what, now, state)
	}
}

// keys are those of all sessions of this test. On a ring that is what a majority
// of the owners has: an attempt to create that was too slow may leave less, under
// an ID that nobody has.
func (t *test) keys() []string {
	t.Helper()
	all := map[string]bool{}
	for _, node := range t.target.Nodes() {
		some, err := scan(t.Context(), node, t.prefix+":*")
		t.ok(err)
		for _, key := range some {
			if !isOfNode(key) && !all[key] {
				if t.copies > 1 {
					hashes, _ := t.copiesOf(key)
					hashes = slices.DeleteFunc(hashes, func(hash map[string]string) bool { return len(hash) == 0 })
					if _, ends := t.whole(key); ends == -2 || len(hashes) <= t.copies/2 {
						continue // a tombstone, or never confirmed
					}
				}
				all[key] = true
			}
		}
	}
	return slices.Collect(maps.Keys(all))
}

// isOfNode tells whether a key is a node's own: of a ring, what it belongs to.
// These have no TTL.
func isOfNode(key string) bool {
	return strings.HasSuffix(key, ":@mark") || strings.HasSuffix(key, ":@ring")
}

// version wants this version of a session. With copies it is a stamp, and only
// grows.
func (t *test) version(what string, got, want int64) {
	t.Helper()
	if t.copies == 1 {
		equal(t, what, got, want)
	}
}

// packets wants so many packets of a call on a session of one copy, or with
// copies at least so many to a majority of them and so many to all.
func (t *test) packets(what string, sent, single, most, all int) {
	t.Helper()
	want := single
	if t.copies > 1 { // more if an owner was slow, see calm
		want = most*(t.copies/2+1) + all*t.copies
	}
	if sent < want || t.copies == 1 && sent > want {
		t.Errorf("%s: %d packets, want %d", what, sent, want)
	}
}

// sent is how many packets f sends about a session, the late ones too.
func (t *test) sent(id string, f func()) int {
	return t.wire.during(func() { f(); t.settle(id) })
}
