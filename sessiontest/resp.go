package sessiontest

import (
	"bytes"
	"errors"
	"strconv"
)

// Redis's own bounds of its protocol, RESP.
const (
	maxArguments = 1 << 20
	maxBulk      = 512 << 20 // bytes of one string
	maxLine      = 64 << 10
)

var errNotRESP = errors.New("sessiontest: what the proxy carries is not plain RESP (is it TLS?)")

// request is a command and its bytes.
type request struct {
	args []string
	raw  []byte
}

// requests takes what a client writes apart into commands.
type requests struct {
	buf  []byte // the command that is not complete yet
	at   int    // where its next argument begins
	args []string
	left int // arguments that are still to come
}

// add gives the commands that b completes.
func (r *requests) add(b []byte) (list []request, err error) {
	r.buf = append(r.buf, b...)
	for {
		whole, err := r.next()
		if err != nil || !whole {
			return list, err
		}
		list = append(list, request{r.args, r.buf[:r.at:r.at]})
		*r = requests{buf: r.buf[r.at:]}
	}
}

func (r *requests) next() (whole bool, err error) {
	if r.at == 0 {
		n, end, err := r.header('*', maxArguments)
		if err != nil || end == 0 {
			return false, err
		}
		if n == 0 {
			return false, errNotRESP
		}
		r.left, r.at = n, end
	}
	for ; r.left > 0; r.left-- {
		n, from, err := r.header('$', maxBulk)
		to := from + n + len("\r\n")
		if err != nil || from == 0 || len(r.buf) < to {
			return false, err
		}
		if !bytes.HasSuffix(r.buf[:to], []byte("\r\n")) {
			return false, errNotRESP
		}
		r.args, r.at = append(r.args, string(r.buf[from:from+n])), to
	}
	return true, nil
}

// header reads a length; end is where it ends, and 0 while it is not complete.
func (r *requests) header(kind byte, limit int) (n, end int, err error) {
	b := r.buf[r.at:]
	line := bytes.IndexByte(b, '\n')
	if len(b) > 0 && b[0] != kind || line < 0 && len(b) > 16 || line >= 0 && line < 2 {
		return 0, 0, errNotRESP
	}
	if line < 0 {
		return 0, 0, nil
	}
	n, err = strconv.Atoi(string(b[1 : line-1]))
	if err != nil || n < 0 || n > limit {
		return 0, 0, errNotRESP
	}
	return n, r.at + line + 1, nil
}

// replies finds where the replies end in what a server sends, RESP 2 or 3.
type replies struct {
	line []byte // the one that is not complete yet
	skip int    // bytes of a string, with its line end, that are still to come
	left int    // values of the reply that are still to come
	head string // the first line of the reply
}

// next gives how many bytes of b belong to the present reply, and whether it ends
// with them.
func (r *replies) next(b []byte) (n int, whole bool, err error) {
	for n < len(b) {
		if r.skip > 0 {
			m := min(r.skip, len(b)-n)
			n, r.skip = n+m, r.skip-m
		} else {
			line, _, found := bytes.Cut(b[n:], []byte("\n"))
			if r.line = append(r.line, line...); len(r.line) > maxLine {
				return n, false, errNotRESP
			}
			if n += len(line); !found {
				return n, false, nil
			}
			n++
			err := r.value()
			if r.line = r.line[:0]; err != nil {
				return n, false, err
			}
		}
		if r.skip == 0 && r.left == 0 {
			return n, true, nil
		}
	}
	return n, false, nil
}

// value reads the line with which a value begins.
func (r *replies) value() error {
	line := bytes.TrimSuffix(r.line, []byte("\r"))
	if len(line) == 0 {
		return errNotRESP
	}
	if r.left == 0 {
		r.left, r.head = 1, string(line)
	}
	r.left--
	n, isLength := 0, bytes.IndexByte([]byte("$=!*~>%|"), line[0]) >= 0
	if isLength {
		var err error
		if n, err = strconv.Atoi(string(line[1:])); err != nil || n > maxBulk {
			return errNotRESP
		}
	}
	switch kind := line[0]; {
	case isLength && n < 0: // null
	case kind == '$' || kind == '=' || kind == '!':
		r.skip = n + len("\r\n")
	case kind == '*' || kind == '~' || kind == '>':
		r.left += n
	case kind == '%':
		r.left += 2 * n
	case kind == '|': // attributes, and then what they are about
		r.left += 2*n + 1
	case bytes.IndexByte([]byte("+-:_,#("), kind) < 0:
		return errNotRESP
	}
	return nil
}

// pushed: it is no reply to a command.
func (r *replies) pushed() bool { return r.head[0] == '>' }
