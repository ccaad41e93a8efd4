package bench

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/dgryski/go-rendezvous"
	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
)

var sizes = []int{8, 128}

// sets is how many sets of names a mean is taken of.
const sets = 16

func BenchmarkOwner(b *testing.B) {
	for _, n := range sizes {
		nodes := Nodes(0, n)
		ours := hashRing(b, nodes, 1)
		var buf [1]int
		goRedis := goRedisHash(b, nodes)
		hrw := rendezvous.New(namesOf(nodes), xxhash.Sum64String)
		points := NewPointRing(nodes)
		perKey(b, "redsession", n, func(key string) int { return ours.AppendOwners(buf[:0], key)[0] })
		perKey(b, "go-redis", n, func(key string) int { return len(goRedis.Get(key)) })
		perKey(b, "go-rendezvous", n, func(key string) int { return len(hrw.Lookup(key)) })
		perKey(b, "key-mod-n", n, ModN(n).Owner)
		perKey(b, "160-points", n, points.Owner)
	}
}

// Rendezvous, as go-redis has it, gives one owner only.
func BenchmarkThreeOwners(b *testing.B) {
	for _, n := range sizes {
		nodes := Nodes(0, n)
		ours := hashRing(b, nodes, 3)
		points := NewPointRing(nodes)
		var buf [3]int
		perKey(b, "redsession", n, func(key string) int { return ours.AppendOwners(buf[:0], key)[2] })
		perKey(b, "160-points", n, func(key string) int { return points.AppendOwners(buf[:0], key, 3)[2] })
	}
}

// BenchmarkOwnerAgainstRendezvous lets the two take turns every few microseconds,
// so that whatever else the machine does slows both, and takes the median turn.
func BenchmarkOwnerAgainstRendezvous(b *testing.B) {
	for _, c := range []struct {
		nodes int
		most  float64 // of go-redis's time
	}{{8, 0.3}, {128, 0.1}} {
		b.Run(fmt.Sprint("nodes=", c.nodes), func(b *testing.B) {
			nodes := Nodes(0, c.nodes)
			ours := hashRing(b, nodes, 1)
			goRedis := goRedisHash(b, nodes)
			hrw := rendezvous.New(namesOf(nodes), xxhash.Sum64String)
			keys := someKeys()
			const turn = 256
			var buf [1]int
			var t [3][]float64
			for i := 0; b.Loop(); i++ {
				from := i * turn % len(keys)
				batch := keys[from : from+turn]
				for _, key := range batch { // not only for the first of them to fetch
					sink += int(key[0]) + int(key[len(key)-1])
				}
				start := time.Now()
				for _, key := range batch {
					sink += ours.AppendOwners(buf[:0], key)[0]
				}
				one := time.Now()
				for _, key := range batch {
					sink += len(goRedis.Get(key))
				}
				two := time.Now()
				for _, key := range batch {
					sink += len(hrw.Lookup(key))
				}
				for i, d := range []time.Duration{one.Sub(start), two.Sub(one), time.Since(two)} {
					t[i] = append(t[i], float64(d)/turn)
				}
			}
			us, them, other := median(t[0]), median(t[1]), median(t[2])
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(us, "redsession-ns")
			b.ReportMetric(them, "go-redis-ns")
			b.ReportMetric(us/them, "x-go-redis")
			b.ReportMetric(us/other, "x-go-rendezvous")
			if len(t[0]) >= 1000 && us/them > c.most {
				b.Errorf("%.1f ns, and go-redis %.1f ns: %.2f of its time, more than %.2f", us, them, us/them, c.most)
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	for _, n := range sizes {
		for _, replicas := range []int{1, 3} {
			b.Run(fmt.Sprintf("nodes=%d/replicas=%d", n, replicas), func(b *testing.B) {
				nodes := Nodes(0, n)
				b.ReportAllocs()
				for b.Loop() {
					hashRing(b, nodes, replicas)
				}
			})
		}
	}
}

// BenchmarkBalance measures no time, but loads and moved keys.
func BenchmarkBalance(b *testing.B) {
	keys := SectorKeys()
	for _, n := range []int{8, 32} {
		for _, ring := range []struct {
			name   string
			change func(set int) (Change, error)
		}{
			{"redsession", func(set int) (Change, error) { return ChangeOfHashRing(set, n, keys) }},
			{"key-mod-n", func(int) (Change, error) { return ChangeOfModN(n), nil }},
			{"160-points", func(set int) (Change, error) { return ChangeOfPointRing(set, n), nil }},
		} {
			b.Run(fmt.Sprintf("%s/nodes=%d", ring.name, n), func(b *testing.B) {
				var peak, moved, unchanged float64
				for b.Loop() {
					peak, moved, unchanged = 0, 0, 0
					for set := range sets {
						c, err := ring.change(set)
						if err != nil {
							b.Fatal(err)
						}
						peak += c.Peak() / sets
						moved += 100 * c.Moved / sets
						unchanged += 100 * c.Unchanged / sets
					}
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(peak, "peak/mean")
				b.ReportMetric(moved, "%moved")
				b.ReportMetric(100/float64(n+1), "%ideal")
				b.ReportMetric(unchanged, "%moved-between-unchanged")
			})
		}
	}
}

// What the picture and the benchmarks call exact agrees with a sample of keys.
func TestChangesAgainstSample(t *testing.T) {
	const n, samples = 8, 200_000
	nodes := Nodes(0, n+1)
	ours, err := ChangeOfHashRing(0, n, SectorKeys())
	if err != nil {
		t.Fatal(err)
	}
	few, many := hashRing(t, nodes[:n], 1), hashRing(t, nodes, 1)
	pointsFew, pointsMany := NewPointRing(nodes[:n]), NewPointRing(nodes)
	for _, c := range []struct {
		name          string
		exact         Change
		before, after func(key string) int
	}{
		{"redsession", ours,
			func(key string) int { return few.AppendOwners(nil, key)[0] },
			func(key string) int { return many.AppendOwners(nil, key)[0] }},
		{"key mod n", ChangeOfModN(n), ModN(n).Owner, ModN(n + 1).Owner},
		{"160 points", ChangeOfPointRing(0, n), pointsFew.Owner, pointsMany.Owner},
	} {
		t.Run(c.name, func(t *testing.T) {
			sampled := newChange(n)
			for i := range samples {
				key := fmt.Sprint("sample-", i)
				sampled.count(1.0/samples, c.before(key), c.after(key))
			}
			near := func(what string, exact, sampled float64) {
				if math.Abs(exact-sampled) > 0.005 {
					t.Errorf("%s: %.4f, in a sample %.4f", what, exact, sampled)
				}
			}
			near("moved", c.exact.Moved, sampled.Moved)
			near("moved between unchanged nodes", c.exact.Unchanged, sampled.Unchanged)
			for i := range n {
				near(fmt.Sprint("share of node ", i), c.exact.Before[i], sampled.Before[i])
			}
			for i := range n + 1 {
				near(fmt.Sprint("later share of node ", i), c.exact.After[i], sampled.After[i])
			}
		})
	}
	if ours.Unchanged != 0 {
		t.Errorf("redsession moves %v between unchanged nodes", ours.Unchanged)
	}
}

func TestPointRingOwners(t *testing.T) {
	r := NewPointRing(Nodes(0, 5))
	for i := range 1000 {
		key := fmt.Sprint("key-", i)
		owners := r.AppendOwners(nil, key, 9)
		if owners[0] != r.Owner(key) {
			t.Fatalf("key %q: owners %v, owner %d", key, owners, r.Owner(key))
		}
		if slices.Sort(owners); !slices.Equal(owners, []int{0, 1, 2, 3, 4}) {
			t.Fatalf("key %q: owners %v", key, owners)
		}
	}
}

// sink keeps the compiler from leaving a lookup out.
var sink int

func perKey(b *testing.B, name string, n int, owner func(key string) int) {
	b.Run(fmt.Sprintf("%s/nodes=%d", name, n), func(b *testing.B) {
		keys := someKeys()
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			sink += owner(keys[i])
			if i++; i == len(keys) {
				i = 0
			}
		}
	})
}

func someKeys() []string {
	keys := make([]string, 1<<14)
	for i := range keys {
		keys[i] = fmt.Sprintf("keya-%06d", i)
	}
	return keys
}

func hashRing(tb testing.TB, nodes []redsession.Node, replicas int) *redsession.HashRing {
	tb.Helper()
	r, err := redsession.NewHashRing(nodes, replicas)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// goRedisHash is the hash that a go-redis Ring uses unless told otherwise. It is
// internal there; a ring of no servers hands it out.
func goRedisHash(tb testing.TB, nodes []redsession.Node) redis.ConsistentHash {
	tb.Helper()
	ring := redis.NewRing(&redis.RingOptions{})
	defer ring.Close()
	return ring.Options().NewConsistentHash(namesOf(nodes))
}

func namesOf(nodes []redsession.Node) []string {
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	return names
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}
