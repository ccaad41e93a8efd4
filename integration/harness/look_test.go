package harness_test

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession/integration/harness"
)

func TestStats(t *testing.T) {
	onEachBackend(t, func(t *testing.T, on harness.Option) {
		env := harness.StartSingle(t, on)
		n, ctx := env.Nodes()[0], t.Context()
		c := client(t, env, n)
		// Connect: the driver has a second pool for pipelines.
		ok(t, c.Ping(ctx).Err())
		_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error { p.Ping(ctx); return nil })
		ok(t, err)
		stats := func() harness.Stats {
			t.Helper()
			s, err := env.Stats(ctx)
			ok(t, err)
			if _, there := s.Nodes[n.Name()]; !there {
				t.Fatalf("%s did not answer in time", n)
			}
			return s
		}
		stats() // connect

		before := stats()
		if d := stats().Sub(before).Nodes[n.Name()]; d.Reads != 0 || d.Errors != 0 {
			t.Errorf("nothing was sent, but there were %d reads and %d errors", d.Reads, d.Errors)
		}

		before = stats()
		for range 3 {
			ok(t, c.Set(ctx, "k", "v", 0).Err())
		}
		_, err = c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for range 10 {
				p.HGetAll(ctx, "h")
			}
			p.ClientID(ctx)
			return nil
		})
		ok(t, err)
		if c.HGetAll(ctx, "k").Err() == nil {
			t.Error("a string passed for a hash")
		}
		d := stats().Sub(before)
		want := map[string]int64{"set": 3, "hgetall": 11, "client|id": 1, "ping": 1, "info": 1}
		if !maps.Equal(d.Masters, want) || len(d.Replicas) != 0 {
			t.Errorf("commands %v and %v, expected %v", d.Masters, d.Replicas, want)
		}
		if node := d.Nodes[n.Name()]; node.Reads != 5 || node.Errors != 1 || !node.Master || !maps.Equal(node.Commands, want) {
			t.Errorf("the node's part is %+v", node)
		}

		before = stats()
		ok(t, n.Kill(ctx))
		ok(t, n.Restart(ctx))
		eventually(t, func(ctx context.Context) error { return c.Set(ctx, "k", "v", 0).Err() })
		if d := stats().Sub(before); d.Masters["set"] != 1 {
			t.Errorf("after a restart there were %d calls of set", d.Masters["set"])
		}
	})
}

func TestScan(t *testing.T) {
	env := harness.StartSingle(t)
	ctx := t.Context()
	c := client(t, env, env.Nodes()[0])
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.HSet(ctx, "hash", "field", "value")
		p.PExpire(ctx, "hash", time.Hour)
		p.Set(ctx, "string", "text", 0)
		p.ZAdd(ctx, "zset", redis.Z{Score: 1700000000123, Member: "member"})
		p.SAdd(ctx, "set", "element")
		p.RPush(ctx, "list", "first", "second")
		for i := range 2500 {
			p.Set(ctx, "many:"+string(rune('a'+i%26))+time.Duration(i).String(), i, time.Hour)
		}
		return nil
	})
	ok(t, err)

	want := map[string]map[string]string{
		"hash":   {"field": "value"},
		"string": {"": "text"},
		"zset":   {"member": "1700000000123"},
		"set":    {"element": ""},
		"list":   {"0": "first", "1": "second"},
	}
	found, many := 0, map[string]bool{}
	ok(t, env.Scan(ctx, func(e harness.Entry) error {
		data, ok := want[e.Key]
		if !ok {
			many[e.Key] = true
			return nil
		}
		found++
		if e.Type != e.Key || !maps.Equal(e.Data, data) || e.Node != env.Nodes()[0] {
			t.Errorf("%s: %+v", e.Key, e)
		}
		if e.Key == "hash" && (e.TTL <= 59*time.Minute || e.TTL > time.Hour) || e.Key != "hash" && e.TTL != harness.NoTTL {
			t.Errorf("%s has the TTL %v", e.Key, e.TTL)
		}
		for k, v := range data {
			if !e.Contains(e.Key[1:3]) || !e.Contains(k) || !e.Contains(v) || e.Contains("elsewhere") {
				t.Errorf("%s: Contains is wrong", e.Key)
			}
		}
		return nil
	}))
	if found != len(want) || len(many) != 2500 {
		t.Errorf("%d and %d keys were found", found, len(many))
	}

	stop := errors.New("stop")
	if err := env.Scan(ctx, func(harness.Entry) error { return stop }); err != stop {
		t.Errorf("a scan that is stopped: %v", err)
	}
	ok(t, c.XAdd(ctx, &redis.XAddArgs{Stream: "stream", Values: []string{"k", "v"}}).Err())
	if env.Scan(ctx, func(harness.Entry) error { return nil }) == nil {
		t.Error("a key that cannot be read was passed over")
	}
}
