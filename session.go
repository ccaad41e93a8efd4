package redsession

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redsession/redsession/internal/script"
)

// Session is one session as it was when it was created or loaded. Change Data
// and pass it to [Client.Save].
//
// Printing or logging a Session shows its handle only: neither the ID, which is a
// credential, nor the data. Where fmt does not ask it (in an unexported field of
// another struct, or by %p) the data can show, and never the ID.
//
// A Session is not safe for concurrent use. Two loads of one ID give two
// independent Sessions. Pass it to the client that made it, or to one of the same
// options: its pepper and encryption go along with it, its prefix and servers are the
// client's, and a client of another codec refuses it.
type Session[T any] struct {
	// Data is the application's part.
	Data T

	secret    *concealed
	principal string
	records   records
	stored    map[string]string // the hash as far as it is known; never changed in place
	seen      seen
	since     time.Time // the ID was valid at some time after this
	envelope  *envelope // nil if it is not encrypted
	pending   *pending
}

// concealed is an ID that fmt does not print: what it finds in somebody else's unexported
// fields it prints without asking our Format, and for some verbs it follows one pointer.
type concealed struct{ *sessionID }

// records are the session's own records. Times are milliseconds of the server's
// clock.
type records struct {
	version  int64
	created  int64
	deadline int64
	idle     int64
	touched  int64
	codec    string
	sealed   bool // it is encrypted
}

// seen is a moment by the server's clock and by the client's.
type seen struct {
	server int64
	client time.Time
}

// pending is a write that may or may not have been applied. It is finished, as
// the same write, before anything else is done with the session.
type pending struct {
	change script.Change
	next   *sessionID // a rotation's, concealed like secret; nil for a save
	stamp  int64      // of next, on a ring
}

// ID is the session's ID, the secret to give to the browser. Whoever has it is
// logged in: do not log it; see Handle.
func (s *Session[T]) ID() string {
	if s.secret == nil {
		return ""
	}
	return s.secret.text
}

// Handle names the session for its whole life, rotations included. It opens
// nothing, and so is safe to log.
func (s *Session[T]) Handle() string {
	if s.secret == nil {
		return ""
	}
	return s.secret.handle()
}

// CreatedAt is when the session was created, by the server's clock.
func (s *Session[T]) CreatedAt() time.Time { return time.UnixMilli(s.records.created) }

// ExpiresAt is when the session expires if it is not used any more, by the
// server's clock: the idle timeout after its last refresh, at most Deadline.
func (s *Session[T]) ExpiresAt() time.Time { return time.UnixMilli(s.records.expires()) }

// Deadline is when the session expires in any case, by the server's clock.
func (s *Session[T]) Deadline() time.Time { return time.UnixMilli(s.records.deadline) }

// Version counts the session's saves, from 1 when it is created; on a ring with
// replicas it only grows with each. It is the version of this Session's own last
// load or save.
func (s *Session[T]) Version() int64 { return s.records.version }

func (s Session[T]) String() string { return "session " + s.Handle() }

// Format prints the handle, whatever the verb.
func (s Session[T]) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalJSON gives the handle only.
func (s Session[T]) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"handle": s.Handle()})
}

// LogValue gives the handle only.
func (s Session[T]) LogValue() slog.Value {
	return slog.GroupValue(slog.String("handle", s.Handle()))
}

func (r *records) expires() int64 { return min(r.touched+r.idle, r.deadline) }

// formatVersion is raised by a change that older programs would misread.
const formatVersion = 1

// format is @f of the sessions that this client creates.
func (c *config) format() string {
	f := strconv.Itoa(formatVersion) + ":" + c.codec.Name()
	if c.seals() {
		f += sealedSuffix
	}
	return f
}

// parseRecords reads a hash's records, and refuses one that this program or this
// codec does not understand.
func parseRecords(hash map[string]string, codec Codec) (records, error) {
	format, name, ok := strings.Cut(hash["@f"], ":")
	if n, err := strconv.Atoi(format); err != nil || !ok {
		return records{}, &DecodeError{Field: "@f", reason: "not a format and a codec"}
	} else if n != formatVersion {
		return records{}, &DecodeError{reason: fmt.Sprintf("format %d is not known to this release, which knows %d", n, formatVersion)}
	}
	name, sealed := strings.CutSuffix(name, sealedSuffix)
	if name != codec.Name() {
		if !validCodecName(name) {
			name = "of no valid name"
		}
		return records{}, &DecodeError{reason: fmt.Sprintf("written by codec %s, read by codec %s", name, codec.Name())}
	}
	r, err := parseNumbers(hash)
	r.codec, r.sealed = name, sealed
	return r, err
}

func parseNumbers(hash map[string]string) (records, error) {
	var r records
	for _, record := range []struct {
		name string
		to   *int64
	}{{"@v", &r.version}, {"@c", &r.created}, {"@d", &r.deadline}, {"@i", &r.idle}, {"@t", &r.touched}} {
		n, err := strconv.ParseUint(hash[record.name], 10, 64) // no sign
		if err != nil || n > 1<<53 {
			return records{}, &DecodeError{Field: record.name, reason: "not a number in range"}
		}
		*record.to = int64(n)
	}
	return r, nil
}

// changes is the difference between a session's data and what is stored, as far
// as it is known.
func changes(stored map[string]string, list []field, owns func(string) bool, same func(name, a, b string) bool) script.Change {
	var change script.Change
	kept := 0
	for _, f := range list {
		old, exists := stored[f.name]
		switch {
		case f.omit:
			if exists {
				change.Remove = append(change.Remove, f.name)
				kept++
			}
		case exists:
			kept++
			if data := string(f.data); data != old && !same(f.name, data, old) {
				change.Set = append(change.Set, f.name, data)
			}
		case !f.blank:
			// A field that is new to this hash is written once it has a value:
			// a zero could overwrite what another release has just put there.
			change.Set = append(change.Set, f.name, string(f.data))
		}
	}
	known := 0
	for name := range stored {
		if owns(name) {
			known++
		}
	}
	if known == kept {
		return change
	}
	// Only a map's entries can go away altogether.
	present := make(map[string]bool, len(list))
	for _, f := range list {
		present[f.name] = true
	}
	for name := range stored {
		if owns(name) && !present[name] {
			change.Remove = append(change.Remove, name)
		}
	}
	return change
}

func empty(c script.Change) bool { return len(c.Set)+len(c.Remove) == 0 }

// applied is the hash after a change.
func applied(stored map[string]string, c script.Change) map[string]string {
	after := make(map[string]string, len(stored)+len(c.Set)/2)
	for name, data := range stored {
		after[name] = data
	}
	for _, name := range c.Remove {
		delete(after, name)
	}
	for i := 0; i < len(c.Set); i += 2 {
		after[c.Set[i]] = c.Set[i+1]
	}
	return after
}

// checkSize bounds the user's part of a hash, and reports the field that is too
// much by itself, if one is.
func checkSize(hash map[string]string, maxSize int) (field string, ok bool) {
	size, fields := 0, 0
	for name, data := range hash {
		if strings.HasPrefix(name, "@") {
			continue
		}
		fields++
		size += len(name) + len(data)
		if len(name)+len(data) > maxSize {
			field = name
		}
	}
	return field, size <= maxSize && fields <= maxFields
}
