package redsession

import (
	"maps"
	"strconv"
	"strings"

	"github.com/redsession/redsession/internal/script"
)

// replica is a session as a node of a ring has it, or as several have it
// together. It is a join: whatever order replicas are joined in, and however
// often, the result is the same. It is not changed once it is made.
type replica struct {
	format                           string
	created, deadline, idle, touched int64 // ms; touched only grows
	buried                           bool  // a tombstone, which wins over everything
	low                              int64 // every verifier with a lesser stamp is dead
	ids                              map[string]idCell
	fields                           map[string]script.Cell
}

// idCell is the verifier of an ID: the greatest stamp wins, of equal ones that
// which retires it. follows is, once it is retired, the verifier of the ID for which
// that was done.
type idCell struct {
	stamp   int64
	follows string
}

func (c idCell) retired() bool { return c.follows != "" }

const (
	stampPrefix = "@s:"
	votePrefix  = "@r:"
)

// parseReplica reads a copy's hash; none for one that is empty.
func parseReplica(hash map[string]string) (*replica, error) {
	if len(hash) == 0 {
		return nil, nil
	}
	format, _, ok := strings.Cut(hash["@f"], ":")
	if !ok {
		return nil, &DecodeError{Field: "@f", reason: "not a format and a codec"}
	}
	r := &replica{format: hash["@f"], ids: map[string]idCell{}, fields: make(map[string]script.Cell, len(hash)/2)}
	if n, err := strconv.Atoi(format); err != nil || n != formatVersion {
		return nil, &DecodeError{reason: "its format is not known to this release"}
	}
	_, alive := hash["@t"]
	r.buried = !alive
	for name, to := range map[string]*int64{"@c": &r.created, "@d": &r.deadline, "@i": &r.idle, "@t": &r.touched} {
		if r.buried && (name == "@c" || name == "@t") {
			continue
		}
		if *to, ok = parseStamp(hash[name]); !ok {
			return nil, &DecodeError{Field: name, reason: "not a number in range"}
		}
	}
	if r.buried {
		return r, nil
	}
	if s, exists := hash["@l"]; exists {
		if r.low, ok = parseStamp(s); !ok {
			return nil, &DecodeError{Field: "@l", reason: "not a stamp"}
		}
	}
	for name, s := range hash {
		switch {
		case strings.HasPrefix(name, stampPrefix):
			stamp, ok := parseStamp(s)
			if !ok {
				return nil, &DecodeError{Field: name, reason: "not a stamp"}
			}
			field := name[len(stampPrefix):]
			value, exists := hash[field]
			r.fields[field] = script.Cell{Name: field, Value: value, Stamp: stamp, Removed: !exists}
		case strings.HasPrefix(name, verifierPrefix):
			cell, ok := parseIDCell(s)
			if !ok {
				return nil, &DecodeError{Field: name, reason: "not a stamp"}
			}
			if cell.stamp >= r.low {
				r.ids[name] = cell
			}
		}
	}
	return r, nil
}

func parseIDCell(s string) (idCell, bool) {
	text, follows, retired := strings.Cut(s, "r")
	stamp, ok := parseStamp(text)
	if !ok || retired && follows == "" {
		return idCell{}, false
	}
	return idCell{stamp, follows}, true
}

// idsOf is what can be read of a copy's IDs where the rest cannot be. One whose stamp cannot
// be read is the oldest: it opens the session as long as nothing else is known.
func idsOf(hash map[string]string) *replica {
	r := &replica{ids: map[string]idCell{}}
	if low, ok := parseStamp(hash["@l"]); ok {
		r.low = low
	}
	for name, s := range hash {
		if cell, _ := parseIDCell(s); strings.HasPrefix(name, verifierPrefix) && cell.stamp >= r.low {
			r.ids[name] = cell
		}
	}
	return r
}

func parseStamp(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 64) // no sign
	return int64(n), err == nil && n < 1<<53
}

// sameHash tells whether two copies are the same, but for the nodes' own votes.
func sameHash(a, b map[string]string) bool {
	votes := 0
	for name, s := range a {
		if strings.HasPrefix(name, votePrefix) {
			votes++
		} else if t, ok := b[name]; !ok || s != t {
			return false
		}
	}
	if len(a) == len(b) && votes == 0 {
		return true
	}
	for name := range b {
		if _, ok := a[name]; !ok && !strings.HasPrefix(name, votePrefix) {
			return false
		}
	}
	return true
}

// join is what a and b know together. Either may be nil: no copy.
func join(a, b *replica) *replica {
	switch {
	case a == b || b == nil:
		return a
	case a == nil:
		return b
	case a.buried:
		return a
	case b.buried:
		return b
	}
	r := *a
	r.touched, r.low = max(a.touched, b.touched), max(a.low, b.low)
	r.fields, r.ids = maps.Clone(a.fields), map[string]idCell{}
	for name, cell := range b.fields {
		if had, exists := r.fields[name]; !exists || less(had, cell) {
			r.fields[name] = cell
		}
	}
	for _, side := range []*replica{a, b} {
		for name, cell := range side.ids {
			if cell.stamp >= r.low {
				if had, exists := r.ids[name]; !exists || cell.stamp > had.stamp || cell.stamp == had.stamp && cell.follows > had.follows {
					r.ids[name] = cell
				}
			}
		}
	}
	return &r
}

// less orders the cells of one field: by stamp, then, so that copies do not
// differ for good, by bytes. Removed is the least.
func less(a, b script.Cell) bool {
	switch {
	case a.Stamp != b.Stamp:
		return a.Stamp < b.Stamp
	case a.Removed || b.Removed:
		return a.Removed && !b.Removed
	}
	return a.Value < b.Value
}

func (r *replica) equal(b *replica) bool {
	if r == b {
		return true
	}
	if b == nil || r.buried || b.buried {
		return b != nil && r.buried == b.buried
	}
	return r.touched == b.touched && r.low == b.low && maps.Equal(r.fields, b.fields) && maps.Equal(r.ids, b.ids)
}

// expires is when the session is over, by the nodes' clocks.
func (r *replica) expires() int64 { return min(r.touched+r.idle, r.deadline) }

// valid tells whether the ID of this verifier opens the session.
func (r *replica) valid(verifier string) bool {
	cell, known := r.ids[verifier]
	return known && !cell.retired()
}

// opens tells whether any ID does.
func (r *replica) opens() bool {
	for verifier := range r.ids {
		if r.valid(verifier) {
			return true
		}
	}
	return false
}

// newest is the greatest stamp in it.
func (r *replica) newest() (stamp int64) {
	for _, cell := range r.fields {
		stamp = max(stamp, cell.Stamp)
	}
	for _, cell := range r.ids {
		stamp = max(stamp, cell.stamp)
	}
	return stamp
}

// hash is the session as one Redis would have it. Its version is its newest
// stamp.
func (r *replica) hash() map[string]string {
	hash := make(map[string]string, len(r.fields)+7)
	for name, cell := range r.fields {
		if !cell.Removed {
			hash[name] = cell.Value
		}
	}
	for name, cell := range r.ids {
		if !cell.retired() {
			hash[name] = "1"
		}
	}
	hash["@f"] = r.format
	for name, n := range map[string]int64{"@v": r.newest(), "@c": r.created, "@d": r.deadline, "@i": r.idle, "@t": r.touched} {
		hash[name] = strconv.FormatInt(n, 10)
	}
	return hash
}

// copy is the replica as it is sent to a node.
func (r *replica) copy() *script.Copy {
	cp := &script.Copy{
		Format: r.format, Created: r.created, Deadline: r.deadline, Idle: r.idle, Touched: r.touched, Low: r.low,
		Verifiers: make([]string, 0, 2*len(r.ids)), Fields: make([]script.Cell, 0, len(r.fields)),
	}
	for name, cell := range r.ids {
		s := strconv.FormatInt(cell.stamp, 10)
		if cell.retired() {
			s += "r" + cell.follows
		}
		cp.Verifiers = append(cp.Verifiers, name, s)
	}
	for _, cell := range r.fields {
		cp.Fields = append(cp.Fields, cell)
	}
	return cp
}
