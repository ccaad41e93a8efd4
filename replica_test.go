package redsession

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/internal/script"
)

// randomReplica has few stamps and values, so that they collide.
func randomReplica(rnd *rand.Rand, now int64) *replica {
	if rnd.IntN(12) == 0 {
		return &replica{format: "1:msgpack", deadline: now + 1000_000, idle: 100_000, buried: true}
	}
	r := &replica{
		format: "1:msgpack", created: now, deadline: now + 1000_000, idle: 100_000, touched: now - rnd.Int64N(3),
		low: []int64{0, 0, 12, 14}[rnd.IntN(4)], ids: map[string]idCell{}, fields: map[string]script.Cell{},
	}
	for n := range 3 {
		name := fmt.Sprint("@a:", n)
		if cell := (idCell{10 + rnd.Int64N(6), []string{"", "", "@a:x", "@a:y"}[rnd.IntN(4)]}); rnd.IntN(3) > 0 && cell.stamp >= r.low {
			r.ids[name] = cell
		}
		field := script.Cell{Name: fmt.Sprint("f", n), Stamp: 10 + rnd.Int64N(3)}
		if field.Removed = rnd.IntN(4) == 0; !field.Removed {
			field.Value = []string{"", "a", "ab", "b", "\xff", "\x00"}[rnd.IntN(6)]
		}
		if rnd.IntN(3) > 0 {
			r.fields[field.Name] = field
		}
	}
	return r
}

func TestJoiningIsTheSameInAnyOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20_000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		a, b, c := randomReplica(rnd, 1000), randomReplica(rnd, 1000), randomReplica(rnd, 1000)
		for what, pair := range map[string][2]*replica{
			"commutes":      {join(a, b), join(b, a)},
			"associates":    {join(join(a, b), c), join(a, join(b, c))},
			"is idempotent": {join(join(a, b), b), join(a, b)},
			"with nothing":  {join(a, nil), join(nil, a)},
		} {
			if !pair[0].equal(pair[1]) {
				t.Fatalf("seed %d: join %s: %+v, %+v", seed, what, pair[0], pair[1])
			}
		}
	}
}

// The scripts join as the client does, and say when a node had more.
func TestScriptsJoinAsTheClient(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { rdb.Close() })
	ctx := context.Background()
	now := time.Now().UnixMilli()
	for seed := range uint64(1500) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		keys := script.Keys{Session: fmt.Sprint("k", seed), Mark: "mark"}
		var want *replica
		for step := range 3 {
			sent := randomReplica(rnd, now)
			had := want
			want = join(want, sent)
			var reply script.CopyReply
			var err error
			if sent.buried {
				reply, err = script.Bury(ctx, rdb, nil, keys, sent.format, sent.deadline, sent.idle)
			} else {
				reply, err = script.Join(ctx, rdb, nil, keys, "", sent.copy())
			}
			if err != nil {
				t.Fatal(err)
			}
			hash := rdb.HGetAll(ctx, keys.Session).Val()
			got, err := parseReplica(hash)
			if err != nil || !got.equal(want) {
				t.Fatalf("seed %d, step %d: %q is %+v, want %+v, %v", seed, step, hash, got, want, err)
			}
			switch {
			case sent.buried:
			case want.buried:
				if reply.Verdict != script.CopyGone {
					t.Fatalf("seed %d, step %d: %v of a tombstone", seed, step, reply.Verdict)
				}
			case reply.Verdict != script.CopyOK || reply.Newer != !want.equal(sent):
				t.Fatalf("seed %d, step %d: %+v, had %+v, sent %+v", seed, step, reply, had, sent)
			}
			if ttl := rdb.PTTL(ctx, keys.Session).Val(); ttl <= 0 || ttl > 203*time.Second {
				t.Fatalf("seed %d: TTL %v", seed, ttl)
			}
		}
	}
}

func TestSameHashLooksPastVotes(t *testing.T) {
	t.Parallel()
	h := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	for _, c := range []struct {
		a, b map[string]string
		want bool
	}{
		{h(), h(), true},
		{h("a", "1"), h("a", "1"), true},
		{h("a", "1"), h("a", "2"), false},
		{h("a", "1"), h("b", "1"), false},
		{h("a", "1", "@r:x", "y"), h("a", "1"), true},
		{h("a", "1", "@r:x", "y"), h("a", "1", "@r:z", "y"), true},
		{h("a", "1", "@r:x", "y"), h("a", "1", "b", "2"), false},
		{h("a", "1", "b", "2"), h("a", "1", "@r:x", "y"), false},
	} {
		if sameHash(c.a, c.b) != c.want || sameHash(c.b, c.a) != c.want {
			t.Errorf("%v and %v: want %v", c.a, c.b, c.want)
		}
	}
}

// What can be read of the IDs of copies that cannot be read otherwise tells whether one
// opens the session.
func TestTheIDsOfUnreadableCopies(t *testing.T) {
	type h = map[string]string
	for _, c := range []struct {
		what   string
		hashes []h
		want   bool
	}{
		{"no copy", []h{{}}, false},
		{"another's", []h{{"@a:other": "5"}}, false},
		{"valid", []h{{"@a:id": "5"}}, true},
		{"valid in one copy", []h{{}, {"@a:id": "5"}}, true},
		{"retired", []h{{"@a:id": "5r@a:next"}}, false},
		{"retired in another copy", []h{{"@a:id": "5"}, {"@a:id": "5r@a:next"}}, false},
		{"less than the low water", []h{{"@a:id": "5", "@l": "6"}}, false},
		{"less than that of another copy", []h{{"@a:id": "5"}, {"@a:other": "6", "@l": "6"}}, false},
		{"at the low water", []h{{"@a:id": "6", "@l": "6"}}, true},
		{"a low water of garbage", []h{{"@a:id": "5", "@l": "x"}}, true},
		{"garbage", []h{{"@a:id": ""}}, true},
		{"garbage, and read in another copy", []h{{"@a:id": "x"}, {"@a:id": "5r@a:next"}}, false},
		{"garbage below a low water", []h{{"@a:id": "x"}, {"@l": "6"}}, false},
	} {
		var ids *replica
		for _, hash := range c.hashes {
			ids = join(ids, idsOf(hash))
		}
		if got := ids.valid("@a:id"); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// A client whose clock is far ahead cannot write stamps that nobody passes for
// an hour; one that follows such a stamp, however it came there, can.
func TestStampsAreBoundedByTheNodesClock(t *testing.T) {
	t.Parallel()
	server := miniredis.RunT(t)
	rdb := redis.NewClient(&redis.Options{Addr: server.Addr()})
	t.Cleanup(func() { rdb.Close() })
	ctx := context.Background()
	now := time.Now().UnixMilli()
	keys := script.Keys{Session: "k", Mark: "mark"}
	session := &script.Copy{
		Format: "1:msgpack", Created: now, Deadline: now + 1_000_000, Idle: 100_000, Touched: now,
		Verifiers: []string{"@a:id", fmt.Sprint(now << 11)}, Fields: []script.Cell{{Name: "f", Value: "v", Stamp: now << 11}},
	}
	if reply, err := script.Join(ctx, rdb, nil, keys, "@a:id", session); err != nil || reply.Verdict != script.CopyOK {
		t.Fatal(reply, err)
	}
	const hour = 3_600_000
	for _, c := range []struct {
		what        string
		stamp, base int64
		want        script.Verdict
	}{
		{"a second ahead", now + 1000, now, script.CopyOK},
		{"an hour ahead", now + hour, now, script.CopyAhead},
		{"an hour ahead, after one that was", now + hour + 1, now + hour, script.CopyOK},
		{"older than what is there", now - 1000, now, script.CopyHigher},
	} {
		g := script.Guarded{
			Verifier: "@a:id", What: script.SaveFields, Asked: now, Stamp: c.stamp << 11, Base: c.base << 11,
			Fields: []script.Cell{{Name: "f", Value: "w"}},
		}
		if reply, err := script.Guard(ctx, rdb, nil, keys, &g); err != nil || reply.Verdict != c.want {
			t.Errorf("a save %s: verdict %d, want %d, %v", c.what, reply.Verdict, c.want, err)
		}
	}
	part := &script.Copy{Low: (now + hour) << 11, Verifiers: []string{"@a:next", strconv.FormatInt((now+hour)<<11, 10)}}
	if reply, err := script.Join(ctx, rdb, nil, keys, "", part); err != nil || reply.Verdict != script.CopyAhead {
		t.Errorf("a new ID an hour ahead: %+v, %v", reply, err)
	}
	ahead := *session
	ahead.Fields = []script.Cell{{Name: "f", Value: "v", Stamp: (now + hour) << 11}}
	if reply, err := script.Join(ctx, rdb, nil, script.Keys{Session: "other", Mark: "mark"}, "@a:id", &ahead); err != nil || reply.Verdict != script.CopyAhead {
		t.Errorf("a creation an hour ahead: %+v, %v", reply, err)
	}
}

// Repair returns when its context ends, also while the client repairs by itself.
func TestRepairWaitsForNoOtherWithoutItsContext(t *testing.T) {
	c, err := New[letter](WithRing(Node{Name: "a", Addr: "127.0.0.1:1"}, Node{Name: "b", Addr: "127.0.0.1:2"}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tending := c.store.(*ring).tending
	tending <- struct{}{}
	defer func() { <-tending }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Repair(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
