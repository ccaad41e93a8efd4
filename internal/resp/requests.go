package resp

import "bytes"

// requests counts what the driver sends. Each is an array of strings.
type requests struct {
	line []byte // the beginning of a line that came in parts
	skip int    // bytes of a string that are still to come, with its line end
	left int    // strings that are still to come
}

// Asked is told the bytes that are about to be sent, before any reply to them can come.
func (g *Guard) Asked(p []byte) {
	if g.requests.left == 0 && g.requests.skip == 0 && g.question.Load() != subscription {
		g.question.Store(questionOf(p))
	}
	g.due.Add(g.requests.count(p))
}

func (r *requests) count(p []byte) (n int64) {
	for len(p) > 0 {
		if r.skip > 0 {
			passed := min(r.skip, len(p))
			r.skip -= passed
			p = p[passed:]
			continue
		}
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			r.line = append(r.line, p...)
			return n
		}
		line := p[:end]
		if len(r.line) > 0 {
			r.line = append(r.line, line...)
			line = r.line
		}
		p = p[end:]
		length, _ := length(line[1 : len(line)-2])
		if line[0] == '*' {
			r.left = length
		} else {
			r.skip = length + 2
			if r.left--; r.left == 0 {
				n++
			}
		}
		r.line = r.line[:0]
	}
	return n
}
