package main

import (
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/sessiontest"
)

func TestDemo(t *testing.T) {
	before := runtime.NumGoroutine()
	var out strings.Builder
	if err := run(t.Context(), &out, where{prefix: "demo"}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		"1. Login on A (client.Create)\n",
		"a hash that lives for another 30m0s\n",
		"   ✓ The secret is nowhere in it",
		"   ✓ B knows user 1001",
		"   ✓ Only the changed field went over the wire\n",
		"   ✓ Both changes are there",
		"   ✓ The old ID opens nothing any more: redsession: session not found\n",
		"   ✓ The ID is dead on B: redsession: session not found\n",
		"   ✓ The slow request's save is refused: redsession: session not found\n",
		"   ✓ Nothing of it is left in Redis",

		"\nThe same on a ring: 5 Redis servers, n1 to n5,",
		"   owners     n2, n5, n1 ",
		"   ✓ These 3 hold both, and no other node holds anything\n",
		"a hash that lives for another 1h0m0s",
		"   ✓ Every field has a stamp",
		"\n9. n2 is taken down, and the next request comes to B",
		"   ✓ B knows user 1001 and the cart, and A sees what B has saved: the dark theme\n",
		"   ✓ The phone's ID is dead on A and on B: redsession: session not found\n",
		"   ✓ Home has the dark theme that was saved",
		"   ✓ Loads like these have put n2 right",
		"   ✓ Home is still logged in: what n2 does not have counts for nothing\n",
		"   phone      a tombstone  ",
		"   ✓ n2 counts again",
		"promises were kept.\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing: %q", want)
		}
	}
	if id := regexp.MustCompile(`\.[\w-]{22}`).FindString(out.String()); id != "" {
		t.Errorf("it shows a whole secret: %s", id)
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines before, %d after", before, runtime.NumGoroutine())
		}
	}
	t.Log("\n" + out.String())
}

func TestABrokenPromiseIsAnError(t *testing.T) {
	var out strings.Builder
	s := story{out: &out}
	s.promise(true, "water is wet")
	s.gone(nil, "the moon is gone")
	if s.broken != 1 || s.promises != 2 || !strings.Contains(out.String(), "✗ the moon is gone: <nil>") {
		t.Errorf("%d of %d broken:\n%s", s.broken, s.promises, out.String())
	}
}

// TestRing tells the part on servers that are none of the demo's own, and looks
// whether it leaves nothing behind.
func TestRing(t *testing.T) {
	var addrs []string
	var servers []*sessiontest.Server
	for range 3 {
		server := sessiontest.Start(t)
		servers, addrs = append(servers, server), append(addrs, server.Addr())
	}
	var out strings.Builder
	w := where{ring: strings.Join(addrs, ","), prefix: "mine"}
	if err := run(t.Context(), &out, w); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, server := range servers {
		if keys := server.Keys(); len(keys) > 0 {
			t.Errorf("it left %q", keys)
		}
	}
	if n := strings.Count(out.String(), "a tombstone  "); n != 3 {
		t.Errorf("%d tombstones, not 3:\n%s", n, out.String())
	}
	t.Log("\n" + out.String())

	const theirs = "node of somebody's ring"
	client := redis.NewClient(&redis.Options{Addr: addrs[2]})
	defer client.Close()
	if err := client.Set(t.Context(), "mine:@ring", theirs, 0).Err(); err != nil {
		t.Fatal(err)
	}
	err := run(t.Context(), new(strings.Builder), w)
	if err == nil || !strings.Contains(err.Error(), "choose another -prefix") {
		t.Errorf("on somebody's ring: %v", err)
	}
	if got := client.Get(t.Context(), "mine:@ring").Val(); got != theirs {
		t.Errorf("somebody's ring is damaged: %q", got)
	}
}

func TestNoServer(t *testing.T) {
	for _, w := range []where{
		{addr: "nowhere"},
		{cluster: "nowhere"},
		{addr: "127.0.0.1:1", cluster: "127.0.0.1:1"},
		{ring: "nowhere,anywhere,elsewhere"},
		{ring: "127.0.0.1:1,127.0.0.1:2"},
		{ring: "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"},
		{addr: "127.0.0.1:1", ring: "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"},
	} {
		w.prefix = "demo"
		if err := run(t.Context(), new(strings.Builder), w); err == nil {
			t.Errorf("%+v: no error", w)
		}
	}
}
