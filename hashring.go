package redsession

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Placement, version 1: a circle of 2^64 points is cut into equal sectors, and
// each node has one point in each of them. A key goes to the start of its sector
// and from there to the next points. It is all unsigned integers modulo 2^64, so
// that other languages come to the same owners; testdata/placement-v1.json has
// the vectors. Only the nodes count, not what joined or left before: a process
// that has just started agrees with one that saw a node come and go.

// sectorBits makes 2^18 sectors, of one table entry for each replica: enough for
// the fullest of 32 nodes to be less than 2 % above the mean.
const sectorBits = 18

// maxNodes is how many nodes an entry of two bytes tells apart.
const maxNodes = 65535

// Node is a node of a [HashRing].
type Node struct {
	// Name places the node: keys belong to a name. It is unique in the ring and
	// stays the same for the life of the node, on whatever machine it runs.
	Name string
	// Addr is the node's host:port. It may change, and places nothing.
	Addr string
	// Weight is how many keys the node gets, relative to the other nodes. 0, the
	// default, means 1.
	Weight int
	// Zone names what fails together, such as a data centre. The owners of a key
	// are spread over as many zones as possible. Empty, the default, means a zone
	// of its own.
	Zone string
}

// HashRing tells which nodes own a key. When a node joins or leaves, only keys
// that it gains or loses change their owner, and they come from all the other
// nodes or go to all of them.
//
// A HashRing is made by [NewHashRing]. It never changes and is safe for
// concurrent use: for other nodes, make another one.
type HashRing struct {
	nodes    []Node
	replicas int
	shift    uint // from a key's hash to its sector
	// The first owners of each sector, nearest first, as indexes into nodes: in
	// narrow up to 256 nodes, in wide beyond.
	narrow []uint8
	wide   []uint16
}

// NewHashRing makes the ring of some nodes. It gives each key as many owners as
// replicas says, the first one included, or all the nodes if there are fewer. The
// order in which nodes are listed does not matter.
//
// It fails if there are no nodes or more than 65,535, if a name is empty or
// there twice, if a weight is negative, or if replicas is less than 1.
//
// A ring takes 256 KiB for each replica, beyond 256 nodes 512 KiB, and about
// 2 ms for each node to make.
func NewHashRing(nodes []Node, replicas int) (*HashRing, error) {
	return newHashRing(nodes, replicas, sectorBits)
}

// newHashRing makes a ring of 2^k sectors.
func newHashRing(nodes []Node, replicas int, k uint) (*HashRing, error) {
	switch {
	case len(nodes) == 0:
		return nil, errors.New("redsession: a ring needs a node")
	case len(nodes) > maxNodes:
		return nil, fmt.Errorf("redsession: a ring has at most %d nodes, not %d", maxNodes, len(nodes))
	case replicas < 1:
		return nil, fmt.Errorf("redsession: a ring has at least 1 replica, not %d", replicas)
	}
	seen := make(map[string]bool, len(nodes))
	for i, n := range nodes {
		switch {
		case n.Name == "":
			return nil, fmt.Errorf("redsession: node %d of the ring has no name", i)
		case seen[n.Name]:
			return nil, fmt.Errorf("redsession: two nodes of the ring have the name %q", n.Name)
		case n.Weight < 0:
			return nil, fmt.Errorf("redsession: node %q of the ring has the negative weight %d", n.Name, n.Weight)
		}
		seen[n.Name] = true
	}
	r := &HashRing{nodes: slices.Clone(nodes), replicas: min(replicas, len(nodes)), shift: 64 - k}
	if entries := r.replicas << k; len(nodes) <= 256 {
		r.narrow = make([]uint8, entries)
		place(r.narrow, r.nodes, r.replicas, k)
	} else {
		r.wide = make([]uint16, entries)
		place(r.wide, r.nodes, r.replicas, k)
	}
	return r, nil
}

// Nodes gives a copy of the nodes, in the order in which NewHashRing got them.
func (r *HashRing) Nodes() []Node { return slices.Clone(r.nodes) }

// Owners gives the owners of a key, nearest first: the first one is its owner,
// and when that one leaves the ring, the second is. No node is there twice.
func (r *HashRing) Owners(key string) []Node {
	var few [8]int
	owners := make([]Node, 0, r.replicas)
	for _, i := range r.AppendOwners(few[:0], key) {
		owners = append(owners, r.nodes[i])
	}
	return owners
}

// AppendOwners appends the owners of a key to dst, as [HashRing.Owners] gives
// them, but each as its index in [HashRing.Nodes]. It allocates only if dst lacks
// the capacity.
func (r *HashRing) AppendOwners(dst []int, key string) []int {
	sector := int(xxhash.Sum64String(key) >> (r.shift & 63))
	first, end := sector*r.replicas, (sector+1)*r.replicas
	if r.narrow != nil {
		for _, i := range r.narrow[first:end] {
			dst = append(dst, int(i))
		}
		return dst
	}
	for _, i := range r.wide[first:end] {
		dst = append(dst, int(i))
	}
	return dst
}

// place fills the table of a ring.
func place[E uint8 | uint16](table []E, nodes []Node, replicas int, k uint) {
	// By name, so that of two that are equally far the one that comes first is
	// nearer.
	order := make([]int, len(nodes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(nodes[a].Name, nodes[b].Name) })

	walks := make([]walk, len(nodes))
	for i, n := range order {
		walks[i] = newWalk(nodes[n])
	}
	equal := !slices.ContainsFunc(walks, func(w walk) bool { return w.weight != walks[0].weight })
	var logs *[257]uint64 // nil if all weights are equal
	if !equal {
		logs = logTable()
	}
	zone, zones := numberZones(nodes, order)
	spread := replicas > 1 && zones > 1 && zones < len(nodes)
	taken := make([]int, zones)

	// Some sectors at a time, so that fill has the numbers of its walk at hand.
	const run = 32
	points := make([]point, run*len(nodes))
	near := make([]int, replicas)
	for q := 0; q < 1<<k; q += run {
		for i := range walks {
			walks[i].fill(points[i:], len(nodes), uint64(q), k, logs)
		}
		for s := range run {
			here := points[s*len(nodes) : (s+1)*len(nodes)]
			if spread {
				spreadOut(near, here, zone, taken)
			} else {
				nearest(near, here)
			}
			for i, p := range near {
				table[(q+s)*replicas+i] = E(order[p])
			}
		}
	}
}

// numberZones gives the number of each node's zone and how many zones there are.
func numberZones(nodes []Node, order []int) (zone []int, zones int) {
	numbers := make(map[string]int)
	zone = make([]int, len(order))
	for i, n := range order {
		name := nodes[n].Zone
		number, known := numbers[name]
		if !known || name == "" {
			number = zones
			numbers[name] = number
			zones++
		}
		zone[i] = number
	}
	return zone, zones
}

// point is where a node is in a sector: its distance from the start, and what
// decides between two at the same distance.
type point struct{ d, u uint64 }

func (p point) nearerThan(o point) bool { return p.d < o.d || p.d == o.d && p.u > o.u }

// nearest fills near with the indexes of the nearest points.
func nearest(near []int, points []point) {
	if len(near) == 1 {
		best, at := points[0], 0
		for i := 1; i < len(points); i++ {
			if points[i].nearerThan(best) {
				best, at = points[i], i
			}
		}
		near[0] = at
		return
	}
	last := len(near) - 1
	for i, p := range points {
		at := min(i, last)
		if i > last && !p.nearerThan(points[near[last]]) {
			continue
		}
		for ; at > 0 && p.nearerThan(points[near[at-1]]); at-- {
			near[at] = near[at-1]
		}
		near[at] = i
	}
}

// spreadOut fills near with the indexes of the nearest points, those first whose
// zone has the fewest so far.
func spreadOut(near []int, points []point, zone, taken []int) {
	clear(taken)
	for n := range near {
		best := -1
		for i, p := range points {
			if best >= 0 {
				a, b := taken[zone[i]], taken[zone[best]]
				if a > b || a == b && !p.nearerThan(points[best]) {
					continue
				}
			}
			if !slices.Contains(near[:n], i) {
				best = i
			}
		}
		near[n] = best
		taken[zone[best]]++
	}
}

// walk computes a node's point in each sector: the points are a permutation of
// the sectors, so that each node's are spread evenly.
type walk struct {
	h, c1, c2, c3, c4, c5, weight uint64
}

func newWalk(n Node) walk {
	h := xxhash.Sum64String(n.Name)
	c := func(i uint64) uint64 { return mix(h + i*0x9e3779b97f4a7c15) }
	return walk{h, c(1), c(2) | 1, c(3) | 1, c(4), c(5) | 1, uint64(max(n.Weight, 1))}
}

// fill sets every step-th of points to the node's, in the sectors from q.
// Without logs all weights are equal: the distance decreases with u, so that ^u
// gives the same order.
func (w *walk) fill(points []point, step int, q uint64, k uint, logs *[257]uint64) {
	c2, c3, c4, c5 := w.c2, w.c3, w.c4, w.c5
	half, more, top, mask := k/2&63, (k/2+1)&63, (64-k)&63, uint64(1)<<k-1
	x0, low, h2 := (q+w.c1)*c2, w.h*(2*q+1), 2*w.h
	for i := 0; i < len(points); i += step {
		x := x0 & mask
		x ^= x >> more
		x = (x*c3 + c4) & mask
		x ^= x >> half
		x = x * c5 & mask
		x ^= x >> more
		u := x<<top | low>>(k&63)
		p := &points[i]
		p.u = u
		if logs == nil {
			p.d = ^u
		} else {
			p.d = distance(logs, u) / w.weight
		}
		x0 += c2
		low += h2
	}
}

// mix is the finaliser of SplitMix64.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// distance is -log2(u / 2^64) in units of 2^-44, interpolated in a table. A node
// of twice the weight divides it by two, and so is the nearest twice as often.
func distance(logs *[257]uint64, u uint64) uint64 {
	u |= 1
	z := bits.LeadingZeros64(u) + 1
	m := u << z
	i := m >> 56
	return uint64(z)<<44 - (logs[i] + (logs[i+1]-logs[i])*(m<<8>>37)>>27)
}

// logTable is log2(1 + i/256) in units of 2^-44, by repeated squaring.
func logTable() *[257]uint64 {
	var t [257]uint64
	t[256] = 1 << 44
	for i := range uint64(256) {
		y := (256 + i) << 23
		for b := 43; b >= 0; b-- {
			y = y * y >> 31
			if y >= 1<<32 {
				y >>= 1
				t[i] |= 1 << b
			}
		}
	}
	return &t
}
