package redsession

import (
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"
)

// claims makes a map in which each node has 100 slots with an epoch.
func claims(epochs ...int64) slotMap {
	m := slotMap{epochs: make([]int64, slotCount)}
	for i, epoch := range epochs {
		m.slots = append(m.slots, redis.ClusterSlot{Start: 100 * i, End: 100*i + 99, Nodes: []redis.ClusterNode{{Addr: string(rune('a' + i))}}})
		for slot := 100 * i; slot < 100*i+100; slot++ {
			m.epochs[slot] = epoch
		}
	}
	return m
}

func TestAMapOfSlotsIsNotReplacedByAnOlderOne(t *testing.T) {
	for _, c := range []struct {
		name     string
		now, new slotMap
		believed bool
	}{
		{"the first", slotMap{}, claims(0, 0), true},
		{"the same", claims(1, 2), claims(1, 2), true},
		{"a promotion", claims(1, 2), claims(1, 3), true},
		{"before the promotion", claims(1, 3), claims(1, 2), false},
		{"newer of one slot and older of another", claims(3, 3), claims(4, 2), false},
		{"slots that nobody has any more", claims(1, 2), claims(1), false},
		{"slots that nobody had", claims(1), claims(1, 2), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &topology{last: c.now}
			if got := m.believe(c.new, false); got != c.believed {
				t.Errorf("believed: %v", got)
			}
			want := c.now
			if c.believed {
				want = c.new
			}
			if !slices.Equal(m.last.epochs, want.epochs) {
				t.Error("another map is kept")
			}
			if !m.believe(c.new, true) {
				t.Error("what most say is not believed")
			}
		})
	}
}

func TestEpochsAreReadFromClusterNodes(t *testing.T) {
	epochs, err := epochsOf(`07c37dfeb235213a872192d90877d0cd55635b91 127.0.0.1:30004@31004,hostname4 slave e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 0 1426238317239 4 connected
67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1 127.0.0.1:30002@31002,hostname2 master - 0 1426238316232 2 connected 5461-10922
292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f 127.0.0.1:30003@31003 master,fail - 0 1426238318243 17 disconnected 10923-16383 [93-<-67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1]
e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca 127.0.0.1:30001@31001 myself,master - 0 0 1 connected 0-5460
`)
	want := map[string]int64{
		"67ed2db8d677e59ec4a4cefb06858cf2a1a89fa1": 2,
		"292f8b365bb7edb5e285caf0b7e6ddc7265d2f4f": 17,
		"e7d1eecce10fd6bb5eb35b9f99a514335d9ba9ca": 1,
	}
	if err != nil || len(epochs) != len(want) {
		t.Fatal(epochs, err)
	}
	for id, epoch := range want {
		if epochs[id] != epoch {
			t.Errorf("%s: %d, want %d", id, epochs[id], epoch)
		}
	}
	for _, bad := range []string{"x", "a b master d e f g h"} {
		if _, err := epochsOf(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestANodesAddressIsThatByWhichItCanBeReached(t *testing.T) {
	for _, c := range []struct{ told, by, want string }{
		{"10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"},
		{"redis-2.example.com:6379", "redis-1.example.com:6379", "redis-2.example.com:6379"},
		{":7001", "10.0.0.1:7000", "10.0.0.1:7001"},
		{"?:7001", "10.0.0.1:7000", "10.0.0.1:7001"},
		{"10.0.0.2:0", "10.0.0.1:6380", "10.0.0.2:6380"},
		{"127.0.0.1:7001", "10.0.0.1:7000", "10.0.0.1:7001"},
		{"127.0.0.1:7001", "127.0.0.1:7000", "127.0.0.1:7001"},
		{"127.0.0.1:7001", "localhost:7000", "127.0.0.1:7001"},
		{"[::1]:7001", "[::1]:7000", "[::1]:7001"},
		{"[::1]:7001", "[fd00::1]:7000", "[fd00::1]:7001"},
	} {
		got := reachable(c.told, c.by)
		if got != c.want {
			t.Errorf("%s told by %s: %s, want %s", c.told, c.by, got, c.want)
		}
		if back := unalias(alias(got)); back != got {
			t.Errorf("%s has the alias %s, which stands for %s", got, alias(got), back)
		}
	}
	for addr, want := range map[string]string{
		"redis.example.com.:6379": "redis.example.com.:6379", "127.0.0.1.:6379": "127.0.0.1:6379", "nothing": "nothing",
	} {
		if got := unalias(addr); got != want {
			t.Errorf("%s stands for %s, want %s", addr, got, want)
		}
	}
}
