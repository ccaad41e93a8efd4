// Package bench measures redsession against what else places keys on nodes. It is
// a module of its own, so that the SDK depends on none of it.
package bench

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/redsession/redsession"
)

// Nodes are n nodes of equal weight. Each set has other names, and a set of more
// nodes begins with those of fewer.
func Nodes(set, n int) []redsession.Node {
	nodes := make([]redsession.Node, n)
	for i := range nodes {
		nodes[i].Name = fmt.Sprintf("set-%d-node-%d", set, i)
	}
	return nodes
}

// ModN places a key by the remainder of its hash.
type ModN int

// Owner is the index of the node that owns a key.
func (n ModN) Owner(key string) int { return int(xxhash.Sum64String(key) % uint64(n)) }

// PointsPerNode is what ketama, and much that was modelled on it, gives a node.
const PointsPerNode = 160

// PointRing is the classic ring: each node has points on a circle, and owns what
// lies before each up to the next. Its points are XXH64 of the name and a number.
type PointRing []Point

// Point is one of a node's points.
type Point struct {
	At   uint64
	Node int
}

// NewPointRing makes the ring of some nodes.
func NewPointRing(nodes []redsession.Node) PointRing {
	var r PointRing
	for i, n := range nodes {
		for p := range PointsPerNode {
			r = append(r, Point{xxhash.Sum64String(fmt.Sprintf("%s-%d", n.Name, p)), i})
		}
	}
	slices.SortFunc(r, func(a, b Point) int { return cmp.Compare(a.At, b.At) })
	return r
}

// Owner is the index of the node that owns a key.
func (r PointRing) Owner(key string) int { return r.ownerAt(xxhash.Sum64String(key)) }

func (r PointRing) ownerAt(at uint64) int { return r[r.next(at)].Node }

// next is the index of the first point that is not before at.
func (r PointRing) next(at uint64) int {
	i, j := 0, len(r)
	for i < j {
		if m := int(uint(i+j) >> 1); r[m].At < at {
			i = m + 1
		} else {
			j = m
		}
	}
	if i == len(r) {
		return 0
	}
	return i
}

// AppendOwners appends the indexes of the first n nodes from a key's place on.
func (r PointRing) AppendOwners(dst []int, key string, n int) []int {
	first := len(dst)
	for i, left := r.next(xxhash.Sum64String(key)), len(r); left > 0 && len(dst) < first+n; left-- {
		if !slices.Contains(dst[first:], r[i].Node) {
			dst = append(dst, r[i].Node)
		}
		if i++; i == len(r) {
			i = 0
		}
	}
	return dst
}

// Change is what happens when the last node of a ring joins the others.
type Change struct {
	// Before and After are the nodes' shares of all keys.
	Before, After []float64
	// Moved is the part of the keys that get another owner, and Unchanged the part
	// that move between two nodes which were there before: keys moved for nothing.
	Moved, Unchanged float64
}

// Peak is the fullest node's share by the mean, before the change.
func (c Change) Peak() float64 { return slices.Max(c.Before) * float64(len(c.Before)) }

func newChange(n int) Change {
	return Change{Before: make([]float64, n), After: make([]float64, n+1)}
}

// count adds a part of the keys.
func (c *Change) count(part float64, before, after int) {
	c.Before[before] += part
	c.After[after] += part
	if before == after {
		return
	}
	c.Moved += part
	if after != len(c.Before) {
		c.Unchanged += part
	}
}

// All three are exact, none is a sample: a hash is taken to be uniform, and each
// part of its range on which neither ring changes its mind is counted as a whole.

// ChangeOfHashRing adds a node to the n first of a set in redsession's ring. The
// keys have to come from SectorKeys.
func ChangeOfHashRing(set, n int, keys []string) (Change, error) {
	c := newChange(n)
	nodes := Nodes(set, n+1)
	few, err := redsession.NewHashRing(nodes[:n], 1)
	if err != nil {
		return c, err
	}
	many, err := redsession.NewHashRing(nodes, 1)
	if err != nil {
		return c, err
	}
	var buf [1]int
	for _, key := range keys {
		before := few.AppendOwners(buf[:0], key)[0]
		c.count(1/float64(len(keys)), before, many.AppendOwners(buf[:0], key)[0])
	}
	return c, nil
}

// SectorKeys gives a key in each sector of redsession's placement, which has 2^18:
// all other keys of a sector have the same owners.
func SectorKeys() []string {
	const k = 18
	keys := make([]string, 1<<k)
	var buf [20]byte
	for left, i := len(keys), 0; left > 0; i++ {
		key := strconv.AppendInt(buf[:0], int64(i), 10)
		if q := xxhash.Sum64(key) >> (64 - k); keys[q] == "" {
			keys[q] = string(key)
			left--
		}
	}
	return keys
}

// ChangeOfModN adds a node to n with key mod n: both remainders repeat after
// n * (n + 1) hashes.
func ChangeOfModN(n int) Change {
	c := newChange(n)
	for h := range n * (n + 1) {
		c.count(1/float64(n*(n+1)), h%n, h%(n+1))
	}
	return c
}

// ChangeOfPointRing adds a node to the n first of a set in a ring of points.
func ChangeOfPointRing(set, n int) Change {
	c := newChange(n)
	nodes := Nodes(set, n+1)
	few, many := NewPointRing(nodes[:n]), NewPointRing(nodes)
	// The points of the smaller ring are among those of the larger.
	last := many[len(many)-1].At
	for _, p := range many {
		c.count(float64(p.At-last)/(1<<64), few.ownerAt(p.At), p.Node)
		last = p.At
	}
	return c
}
