package redsession

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"
)

// The vectors hold for every release of placement version 1, and for other
// languages.
func TestHashRingVectors(t *testing.T) {
	raw, err := os.ReadFile("testdata/placement-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Placement int
		Cases     []struct {
			Name     string
			K        uint
			Replicas int
			Nodes    []Node
			Keys     map[string][]string
		}
	}
	if err := json.Unmarshal(raw, &vectors); err != nil {
		t.Fatal(err)
	}
	if vectors.Placement != 1 || len(vectors.Cases) == 0 {
		t.Fatal("not the vectors of placement version 1")
	}
	for _, c := range vectors.Cases {
		t.Run(c.Name, func(t *testing.T) {
			if len(c.Keys) == 0 {
				t.Fatal("no keys")
			}
			r := mustRing(t, c.Nodes, c.Replicas, c.K)
			for key, want := range c.Keys {
				if got := namesOf(r.Owners(key)); !slices.Equal(got, want) {
					t.Errorf("key %q: owners %q, not %q", key, got, want)
				}
			}
		})
	}
}

// What is built fast is what the specification says, written down here without
// regard to speed.
func TestHashRingAgainstSpecification(t *testing.T) {
	for _, c := range []struct {
		name           string
		nodes          []Node
		replicas       int
		weights, zones int
	}{
		{name: "equal", nodes: namedNodes("s", 12), replicas: 5},
		{name: "weighted", nodes: namedNodes("s", 12), replicas: 5, weights: 7},
		{name: "zones", nodes: namedNodes("s", 12), replicas: 5, zones: 3},
		{name: "weighted, in zones", nodes: namedNodes("s", 12), replicas: 7, weights: 5, zones: 4},
		{name: "one zone", nodes: namedNodes("s", 5), replicas: 5, zones: 1},
		{name: "all owners", nodes: namedNodes("s", 6), replicas: 9, weights: 3, zones: 2},
		{name: "one owner, weighted, in zones", nodes: namedNodes("s", 9), replicas: 1, weights: 4, zones: 2},
		{name: "256 nodes", nodes: namedNodes("s", 256), replicas: 3},
		{name: "257 nodes", nodes: namedNodes("s", 257), replicas: 3},
		{name: "300 nodes, weighted, in zones", nodes: namedNodes("s", 300), replicas: 4, weights: 6, zones: 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.nodes {
				if c.weights > 0 {
					c.nodes[i].Weight = i % (c.weights + 1) // some are 0, which is 1
				}
				if c.zones > 0 && (c.zones == 1 || i%5 > 0) { // some have none
					c.nodes[i].Zone = fmt.Sprint("zone-", i%c.zones)
				}
			}
			const k = 13 // odd: k/2 is rounded down
			r := mustRing(t, c.nodes, c.replicas, k)
			if wide := len(c.nodes) > 256; (r.wide != nil) != wide || (r.narrow != nil) == wide {
				t.Fatal("the table is of the wrong width")
			}
			for i := range 200 {
				key := fmt.Sprint("key-", i)
				got, want := namesOf(r.Owners(key)), specifiedOwners(c.nodes, c.replicas, k, key)
				if !slices.Equal(got, want) {
					t.Fatalf("key %q: owners %q, not %q", key, got, want)
				}
			}
		})
	}
}

func specifiedOwners(nodes []Node, replicas int, k uint, key string) []string {
	type candidate struct {
		Node
		d, u uint64
	}
	q, mask, t := xxhash.Sum64String(key)>>(64-k), uint64(1)<<k-1, logTable()
	var left []candidate
	for _, n := range nodes {
		h := xxhash.Sum64String(n.Name)
		c := func(i uint64) uint64 { return mix(h + i*0x9e3779b97f4a7c15) }
		x := (q + c(1)) * (c(2) | 1) & mask
		x ^= x >> (k/2 + 1)
		x = (x*(c(3)|1) + c(4)) & mask
		x ^= x >> (k / 2)
		x = x * (c(5) | 1) & mask
		x ^= x >> (k/2 + 1)
		u := x<<(64-k) | (h*(2*q+1))>>k
		left = append(left, candidate{n, distance(t, u) / uint64(max(1, n.Weight)), u})
	}
	var owners []string
	taken := make(map[string]int)
	for len(left) > 0 && len(owners) < replicas {
		next := slices.MinFunc(left, func(a, b candidate) int {
			return cmp.Or(
				cmp.Compare(taken[a.Zone], taken[b.Zone]),
				cmp.Compare(a.d, b.d),
				cmp.Compare(b.u, a.u),
				strings.Compare(a.Name, b.Name),
			)
		})
		owners = append(owners, next.Name)
		if next.Zone != "" {
			taken[next.Zone]++
		}
		left = slices.DeleteFunc(left, func(c candidate) bool { return c.Name == next.Name })
	}
	return owners
}

func TestHashRingLogarithm(t *testing.T) {
	table := logTable()
	for i, want := range map[int]uint64{0: 0, 1: 98948113678, 128: 10290769141363, 255: 17542566947543, 256: 1 << 44} {
		if table[i] != want {
			t.Errorf("log2(1 + %d/256) is %d, not %d", i, table[i], want)
		}
	}
	if d := distance(table, 1<<63); d != 1<<44 {
		t.Errorf("the distance of 2^63 is %d, not 2^44", d)
	}
	// It never increases with u, which is why equal weights need no logarithm.
	last := uint64(math.MaxUint64)
	for exp := range 64 {
		for i := range uint64(1 << 12) {
			u := 1<<exp | i<<52>>(64-exp)
			d := distance(table, u)
			if exact := 64 - math.Log2(float64(u|1)); math.Abs(float64(d)/(1<<44)-exact) > 4e-6 {
				t.Fatalf("the distance of %#x is %d, not about %v times 2^44", u, d, exact)
			}
			if d > last {
				t.Fatalf("the distance of %#x is %d, and that of a smaller one %d", u, d, last)
			}
			last = d
		}
	}
}

func TestHashRingErrors(t *testing.T) {
	tooMany := namedNodes("s", maxNodes+1)
	for _, c := range []struct {
		name     string
		nodes    []Node
		replicas int
		says     string
	}{
		{"no nodes", nil, 1, "needs a node"},
		{"no name", []Node{{Name: "a"}, {Addr: "b:6379"}}, 1, "node 1 of the ring has no name"},
		{"a name twice", []Node{{Name: "a"}, {Name: "b"}, {Name: "a", Addr: "other"}}, 1, `the name "a"`},
		{"a negative weight", []Node{{Name: "a", Weight: -1}}, 1, "negative weight -1"},
		{"no replicas", []Node{{Name: "a"}}, 0, "at least 1 replica, not 0"},
		{"negative replicas", []Node{{Name: "a"}}, -3, "at least 1 replica, not -3"},
		{"too many nodes", tooMany, 1, "at most 65535 nodes, not 65536"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := NewHashRing(c.nodes, c.replicas)
			if r != nil || err == nil || !strings.HasPrefix(err.Error(), "redsession: ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, %v: not an error with %q", r, err, c.says)
			}
		})
	}
}

func TestHashRingOfMoreReplicasThanNodes(t *testing.T) {
	r := mustRing(t, namedNodes("s", 3), 5, sectorBits)
	if got := len(r.Owners("key")); got != 3 {
		t.Errorf("%d owners of 3 nodes", got)
	}
}

func TestHashRingOfTheMostNodes(t *testing.T) {
	r := mustRing(t, namedNodes("s", maxNodes), 2, 8)
	seen := make(map[int]bool)
	for i := range 1000 {
		for _, owner := range r.AppendOwners(nil, fmt.Sprint("key-", i)) {
			seen[owner] = true
		}
	}
	if most := slices.Max(keysOf(seen)); most < maxNodes/2 || most >= maxNodes {
		t.Errorf("the greatest index is %d", most)
	}
}

// The owners are the same nodes whatever the order of the list, and Nodes gives
// that order.
func TestHashRingOrderOfListing(t *testing.T) {
	nodes := variedNodes(10)
	a := mustRing(t, nodes, 3, sectorBits)
	reversed := slices.Clone(nodes)
	slices.Reverse(reversed)
	b := mustRing(t, reversed, 3, sectorBits)
	if !slices.Equal(a.Nodes(), nodes) || !slices.Equal(b.Nodes(), reversed) {
		t.Error("Nodes are not in the order given")
	}
	for q := range sectorsOf(a) {
		if x, y := namesIn(a, q), namesIn(b, q); !slices.Equal(x, y) {
			t.Fatalf("sector %d: %q, and in another order %q", q, x, y)
		}
	}
	a.Nodes()[0].Name = "changed"
	nodes[1].Name = "changed"
	if a.Nodes()[0].Name == "changed" || a.Nodes()[1].Name == "changed" {
		t.Error("the ring's nodes can be changed from outside")
	}
}

// An address places nothing.
func TestHashRingAddresses(t *testing.T) {
	nodes := variedNodes(6)
	a := mustRing(t, nodes, 2, 14)
	for i := range nodes {
		nodes[i].Addr = "elsewhere:6379"
	}
	if b := mustRing(t, nodes, 2, 14); !slices.Equal(a.narrow, b.narrow) {
		t.Error("other addresses, other owners")
	}
}

// A node that joins, or read backwards one that leaves, changes a key's owner
// only to or from itself, and takes at most one place among the replicas, in every
// sector there is.
func TestHashRingChangesOnlyByTheNodeThatChanged(t *testing.T) {
	for _, c := range []struct {
		name  string
		nodes []Node
	}{
		{"equal", namedNodes("s", 9)},
		{"weighted", weightedNodes("s")},
		{"weighted, in zones", variedNodes(9)},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := len(c.nodes) - 1
			few := mustRing(t, c.nodes[:last], 3, sectorBits)
			many := mustRing(t, c.nodes, 3, sectorBits)
			gained := 0
			for q := range sectorsOf(few) {
				before, after := ownersIn(few, q), ownersIn(many, q)
				if after[0] != before[0] && after[0] != last {
					t.Fatalf("sector %d goes from node %d to %d, the new one is %d", q, before[0], after[0], last)
				}
				var stay int
				for _, i := range after {
					if slices.Contains(before, i) {
						stay++
					}
				}
				if slices.Contains(after, last) {
					gained++
					if stay != 2 {
						t.Fatalf("sector %d: %v, and with node %d %v", q, before, last, after)
					}
				} else if !slices.Equal(before, after) {
					t.Fatalf("sector %d: %v, and %v without the new node's doing", q, before, after)
				}
			}
			if gained == 0 {
				t.Error("the new node owns nothing")
			}
		})
	}
}

// Without zones, a replica is who is next when the nodes before it are gone.
func TestHashRingReplicasSucceed(t *testing.T) {
	nodes := weightedNodes("s")
	full := mustRing(t, nodes, 3, 14)
	for gone := range nodes {
		rest := mustRing(t, slices.Delete(slices.Clone(nodes), gone, gone+1), 2, 14)
		for q := range sectorsOf(full) {
			want := slices.DeleteFunc(namesIn(full, q), func(name string) bool { return name == nodes[gone].Name })
			if got := namesIn(rest, q); !slices.Equal(got, want[:2]) {
				t.Fatalf("sector %d without %s: %q, not %q", q, nodes[gone].Name, got, want[:2])
			}
		}
	}
}

// Of 9 nodes in 3 zones, 3 owners are in 3 zones, and 5 owners at most 2 in each.
// No node owns a key twice.
func TestHashRingZones(t *testing.T) {
	nodes := namedNodes("s", 9)
	for i := range nodes {
		nodes[i].Zone = fmt.Sprint("zone-", i/3)
		nodes[i].Weight = 1 + i // so that the near ones are often in one zone
	}
	for replicas := 1; replicas <= len(nodes); replicas++ {
		r := mustRing(t, nodes, replicas, 14)
		for q := range sectorsOf(r) {
			owners := ownersIn(r, q)
			var perZone [3]int
			for i, owner := range owners {
				perZone[owner/3]++
				if slices.Contains(owners[:i], owner) {
					t.Fatalf("sector %d: %v has a node twice", q, owners)
				}
			}
			if slices.Max(perZone[:])-slices.Min(perZone[:]) > 1 {
				t.Fatalf("sector %d: %v owners in the zones", q, perZone)
			}
		}
	}
}

// The share of the keys that each node owns, exactly: over all sectors, and as a
// mean over sets of names.
func TestHashRingBalance(t *testing.T) {
	for _, c := range []struct {
		nodes, sets int
		peak, moved float64 // at most: the fullest by the mean; moved keys off the ideal
	}{
		// The peaks of 8 nodes are so close to the limit that a mean over 16 sets
		// would still depend on the names.
		{8, 64, 1.006, 0.01},
		{32, 16, 1.018, 0.03},
	} {
		t.Run(fmt.Sprint(c.nodes, " nodes"), func(t *testing.T) {
			var peak, moved, unchanged float64
			for set := range c.sets {
				nodes := namedNodes(fmt.Sprint("set-", set), c.nodes+1)
				few := mustRing(t, nodes[:c.nodes], 1, sectorBits)
				many := mustRing(t, nodes, 1, sectorBits)
				peak += slices.Max(shares(few)) * float64(c.nodes) / float64(c.sets)
				for q := range sectorsOf(few) {
					if before, after := few.narrow[q], many.narrow[q]; before != after {
						moved++
						if int(after) != c.nodes {
							unchanged++
						}
					}
				}
			}
			moved /= float64(c.sets) * (1 << sectorBits)
			ideal := 1 / float64(c.nodes+1)
			t.Logf("peak/mean %.4f, moved %.3f %% (ideal %.3f %%)", peak, 100*moved, 100*ideal)
			if peak > c.peak {
				t.Errorf("the fullest node has %.4f times the mean, more than %.4f", peak, c.peak)
			}
			if math.Abs(moved/ideal-1) > c.moved {
				t.Errorf("%.3f %% of the keys moved, not about %.3f %%", 100*moved, 100*ideal)
			}
			if unchanged > 0 {
				t.Errorf("%v sectors moved between nodes that were there before", unchanged)
			}
		})
	}
}

// Weights from 1 to 8 get their shares.
func TestHashRingWeights(t *testing.T) {
	const sets = 16
	var mean [8]float64
	for set := range sets {
		nodes := weightedNodes(fmt.Sprint("set-", set))
		for i, share := range shares(mustRing(t, nodes, 1, sectorBits)) {
			mean[i] += share / sets
		}
	}
	for i, share := range mean {
		ideal := float64(i+1) / 36
		t.Logf("weight %d: %+.2f %%", i+1, 100*(share/ideal-1))
		if math.Abs(share/ideal-1) > 0.02 {
			t.Errorf("weight %d has %.4f of the keys, not about %.4f", i+1, share, ideal)
		}
	}
}

// A node that has left spreads its keys over all the others alike.
func TestHashRingFailoverSpreads(t *testing.T) {
	r := mustRing(t, namedNodes("s", 8), 2, sectorBits)
	var next [8]float64
	var lost float64
	for q := range sectorsOf(r) {
		if owners := ownersIn(r, q); owners[0] == 0 {
			next[owners[1]]++
			lost++
		}
	}
	for i, n := range next[1:] {
		if got := n * 7 / lost; math.Abs(got-1) > 0.1 {
			t.Errorf("node %d takes over %.2f times its part", i+1, got)
		}
	}
}

func TestHashRingAllocations(t *testing.T) {
	for _, n := range []int{8, 300} {
		r := mustRing(t, namedNodes("s", n), 3, 14)
		buf := make([]int, 0, 3)
		if got := testing.AllocsPerRun(1000, func() { buf = r.AppendOwners(buf[:0], "keya-000000") }); got != 0 {
			t.Errorf("%d nodes: AppendOwners allocates %v times", n, got)
		}
		if got := testing.AllocsPerRun(1000, func() { _ = r.Owners("keya-000000") }); got > 1 {
			t.Errorf("%d nodes: Owners allocates %v times", n, got)
		}
		if got := r.AppendOwners([]int{-1}, "keya-000000"); got[0] != -1 || len(got) != 4 {
			t.Errorf("%d nodes: AppendOwners appended to -1 gives %v", n, got)
		}
	}
}

func TestHashRingConcurrently(t *testing.T) {
	r := mustRing(t, variedNodes(9), 3, 14)
	want := r.Owners("keya-000000")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if got := r.Owners("keya-000000"); !slices.Equal(got, want) {
					t.Errorf("owners %v, not %v", got, want)
					return
				}
			}
		})
	}
	wg.Wait()
}

func ExampleHashRing_Owners() {
	ring, err := NewHashRing([]Node{
		{Name: "ams-1", Addr: "10.0.1.1:6379", Zone: "ams"},
		{Name: "ams-2", Addr: "10.0.1.2:6379", Zone: "ams"},
		{Name: "fra-1", Addr: "10.0.2.1:6379", Zone: "fra"},
		{Name: "fra-2", Addr: "10.0.2.2:6379", Zone: "fra", Weight: 2}, // a larger machine
	}, 2)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, key := range []string{"alice", "bob", "carol"} {
		owners := ring.Owners(key)
		fmt.Printf("%s: %s, then %s\n", key, owners[0].Name, owners[1].Name)
	}
	// Output:
	// alice: ams-1, then fra-2
	// bob: fra-2, then ams-1
	// carol: fra-2, then ams-2
}

func namedNodes(prefix string, n int) []Node {
	nodes := make([]Node, n)
	for i := range nodes {
		nodes[i] = Node{Name: fmt.Sprint(prefix, "-node-", i), Addr: fmt.Sprint("10.0.0.", i, ":6379")}
	}
	return nodes
}

// weightedNodes have the weights 1 to 8.
func weightedNodes(prefix string) []Node {
	nodes := namedNodes(prefix, 8)
	for i := range nodes {
		nodes[i].Weight = i + 1
	}
	return nodes
}

// variedNodes differ in weight and are in three zones, a few of them in their own.
func variedNodes(n int) []Node {
	nodes := namedNodes("varied", n)
	for i := range nodes {
		nodes[i].Weight = i % 4
		if i%4 > 0 {
			nodes[i].Zone = fmt.Sprint("zone-", i%3)
		}
	}
	return nodes
}

func mustRing(t testing.TB, nodes []Node, replicas int, k uint) *HashRing {
	t.Helper()
	r, err := newHashRing(nodes, replicas, k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sectorsOf(r *HashRing) int { return 1 << (64 - r.shift) }

// ownersIn are the owners of every key of a sector.
func ownersIn(r *HashRing, q int) []int {
	owners := make([]int, 0, 8)
	for _, i := range r.narrow[q*r.replicas : (q+1)*r.replicas] {
		owners = append(owners, int(i))
	}
	return owners
}

func namesIn(r *HashRing, q int) []string {
	var names []string
	for _, i := range ownersIn(r, q) {
		names = append(names, r.nodes[i].Name)
	}
	return names
}

func namesOf(nodes []Node) []string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}

// shares are the parts of the circle that the nodes own.
func shares(r *HashRing) []float64 {
	list := make([]float64, len(r.nodes))
	for q := range sectorsOf(r) {
		list[r.narrow[q*r.replicas]] += 1 / float64(sectorsOf(r))
	}
	return list
}

func keysOf(m map[int]bool) []int {
	var list []int
	for i := range m {
		list = append(list, i)
	}
	return list
}
