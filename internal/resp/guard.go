// Package resp looks at what a server sends before the driver does. The driver makes room
// for whatever length a reply claims, descends as deep as it nests and takes for granted
// what a Sentinel says, so that a few bytes of a server that was taken over, or of somebody
// on the way to it, would end the process.
package resp

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
)

const (
	maxDepth = 8
	maxLine  = 64 << 10
)

var (
	// ErrMalformed is of bytes that are no reply of a Redis server, or none that was asked for.
	ErrMalformed = errors.New("the server's reply cannot be read")
	// ErrTooLarge is of a reply beyond the limits, see [TooLargeError].
	ErrTooLarge = errors.New("the server's reply is too large")
)

// TooLargeError tells which reply it is: the driver gives the error to all commands of a
// packet.
type TooLargeError struct {
	Behind int // replies to the same packet that would have followed
}

func (e *TooLargeError) Error() string { return fmt.Sprintf("%v, %d behind it", ErrTooLarge, e.Behind) }

// Is tells that it is ErrTooLarge.
func (e *TooLargeError) Is(target error) bool { return target == ErrTooLarge }

// Limits are those of one reply. The memory that it takes is in proportion to them.
type Limits struct {
	Bytes    int // of all of it
	Elements int // of all arrays and maps; an entry of a map is two
}

// Guard follows the requests and the replies on one connection, as the RESP2 and RESP3
// protocols have them (https://redis.io/docs/latest/develop/reference/protocol-spec/).
// One goroutine may call Asked while another calls Check.
type Guard struct {
	limits   Limits
	requests requests
	question atomic.Int32 // the last one
	due      atomic.Int64 // replies
	err      error

	left  Limits        // of this reply
	line  []byte        // the beginning of a line that came in parts
	skip  int           // bytes of a string that are still to come, with its line end
	fresh bool          // a reply begins
	open  [maxDepth]int // elements that are still to come of each array and map
	maps  [maxDepth]bool
	depth int
	words // of a reply that is looked at more closely
}

// NewGuard makes the guard of a new connection.
func NewGuard(limits Limits) *Guard { return &Guard{limits: limits, left: limits, fresh: true} }

// Check is told the bytes that have come, and tells how many of them the driver may see. It
// gives an error, from then on always, if those are not all.
func (g *Guard) Check(p []byte) (n int, err error) {
	for n < len(p) && g.err == nil {
		var passed int
		if passed, g.err = g.next(p[n:]); g.err == nil {
			n += passed
		} else if g.err == ErrTooLarge {
			g.err = &TooLargeError{int(g.due.Load())}
		}
	}
	return n, g.err
}

// next looks at some of the bytes.
func (g *Guard) next(p []byte) (int, error) {
	if g.fresh && g.due.Add(-1) < 0 && g.question.Load() != subscription {
		return 0, ErrMalformed // nobody has asked for it
	}
	g.fresh = false
	if g.skip > 0 {
		n := min(g.skip, len(p))
		if !ended(p[:n], g.skip) {
			return 0, ErrMalformed
		}
		g.keep(p[:n])
		if g.skip -= n; g.skip == 0 {
			return n, g.element()
		}
		return n, nil
	}
	end := bytes.IndexByte(p, '\n') + 1
	switch {
	case end == 0 && len(g.line)+len(p) < maxLine:
		g.line = append(g.line, p...)
		return len(p), nil
	case end == 0, len(g.line)+end > maxLine:
		return 0, ErrMalformed
	case len(g.line) == 0:
		return end, g.token(p[:end])
	}
	line := append(g.line, p[:end]...)
	g.line = line[:0]
	return end, g.token(line)
}

// token is a line with its end: an element, or the head of one.
func (g *Guard) token(line []byte) error {
	end := len(line) - 2
	if end < 1 || line[end] != '\r' {
		return ErrMalformed
	}
	if g.left.Bytes -= len(line); g.left.Bytes < 0 {
		return ErrTooLarge
	}
	kind := line[0]
	if g.depth > 0 && !g.inside(kind, line) {
		return ErrMalformed
	}
	switch kind {
	case '+', '-', ':', '_', ',', '#', '(':
		g.word(kind)
		g.keep(line[1:])
		return g.element()
	case '$', '=', '!', '*', '~', '>', '%':
	default: // no attributes either: nobody asks for them
		return ErrMalformed
	}
	n, ok := length(line[1:end])
	switch {
	case !ok, kind == '>' && (g.depth > 0 || g.question.Load() != subscription):
		return ErrMalformed
	case n < 0 && kind != '$' && kind != '*':
		return ErrMalformed
	case n < 0:
		g.word('_')
		return g.element()
	}
	g.word(kind)
	switch kind {
	case '$', '=', '!':
		if g.left.Bytes -= 2; n > g.left.Bytes {
			return ErrTooLarge
		}
		g.left.Bytes -= n
		g.skip = n + 2
		return nil
	case '%':
		if n > g.left.Elements/2 {
			return ErrTooLarge
		}
		n *= 2
	}
	if n > g.left.Elements {
		return ErrTooLarge
	}
	g.left.Elements -= n
	if n == 0 {
		return g.element()
	}
	if g.depth == maxDepth {
		return ErrMalformed
	}
	g.open[g.depth], g.maps[g.depth] = n, kind == '%'
	g.depth++
	return nil
}

// inside tells whether an element may be one of an array or a map. At an error there, and
// at nothing where it wants a word, the driver stops, and takes the rest for its next reply.
func (g *Guard) inside(kind byte, line []byte) bool {
	switch {
	case kind == '-', kind == '!':
		return false
	case kind == '_', len(line) > 2 && line[1] == '-' && (kind == '$' || kind == '*'):
		return !g.maps[g.depth-1] && g.question.Load() == anything
	}
	return true
}

// element is called at the end of each: it may be the last one of what is around it.
func (g *Guard) element() error {
	for g.depth > 0 {
		if g.open[g.depth-1]--; g.open[g.depth-1] > 0 {
			return nil
		}
		g.depth--
	}
	g.left, g.fresh = g.limits, true
	return g.answer()
}

// ended tells whether the line end of a string of which so many bytes are still to come is
// where it should be, as far as it is in p.
func ended(p []byte, left int) bool {
	if at := left - 2; at >= 0 && at < len(p) && p[at] != '\r' {
		return false
	}
	return left > len(p) || p[left-1] == '\n'
}

// length is the number of a head; -1 stands for nothing.
func length(digits []byte) (n int, ok bool) {
	if string(digits) == "-1" {
		return -1, true
	}
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, false
		}
		if n > (math.MaxInt64-9)/10 {
			return math.MaxInt, true
		}
		n = n*10 + int(d-'0')
	}
	return n, len(digits) > 0
}
