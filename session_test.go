package redsession

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"
)

// recordsOf is the hash of a session without fields.
func recordsOf(changes ...string) map[string]string {
	hash := map[string]string{"@f": "1:json", "@v": "3", "@c": "1000", "@d": "9000", "@i": "2000", "@t": "4000", "@a:x": "1", "@new": "?"}
	for i := 0; i < len(changes); i += 2 {
		if hash[changes[i]] = changes[i+1]; changes[i+1] == "-" {
			delete(hash, changes[i])
		}
	}
	return hash
}

func TestRecordsAreReadOrRefused(t *testing.T) {
	r, err := parseRecords(recordsOf(), JSON{})
	if want := (records{version: 3, created: 1000, deadline: 9000, idle: 2000, touched: 4000, codec: "json"}); err != nil || r != want {
		t.Fatalf("%+v, %v", r, err)
	}
	r, err = parseRecords(recordsOf("@d", "9007199254740992", "@v", "0"), JSON{})
	if err != nil || r.deadline != 1<<53 || r.version != 0 {
		t.Errorf("the bounds: %+v, %v", r, err)
	}
	type refusal struct {
		hash  map[string]string
		field string
		says  string
	}
	refusals := []refusal{
		{recordsOf("@f", "2:json"), "", "format 2"},
		{recordsOf("@f", "2:a new codec, written in another way"), "", "format 2"},
		{recordsOf("@f", "1:msgpack"), "", "msgpack json"},
		{recordsOf("@f", "1:"), "", "json"},
		{recordsOf("@f", "1:\x1b[31msecret"), "", "no valid name json"},
		{recordsOf("@f", "1:"+strings.Repeat("x", 33)), "", "no valid name json"},
	}
	for _, f := range []string{"-", "", "1", ":", "json", "json:1", "one:json"} {
		refusals = append(refusals, refusal{recordsOf("@f", f), "@f", ""})
	}
	for _, name := range []string{"@v", "@c", "@d", "@i", "@t"} {
		for _, value := range []string{"-", "", "x", "-1", "1.0", "1e3", "0x1", " 1", "1 ", "nan", "1\x00", "9007199254740993", "99999999999999999999"} {
			refusals = append(refusals, refusal{recordsOf(name, value), name, ""})
		}
	}
	for _, test := range refusals {
		_, err := parseRecords(test.hash, JSON{})
		e, ok := errors.AsType[*DecodeError](err)
		if !ok || e.Field != test.field || strings.Contains(e.Error(), "secret") {
			t.Errorf("%q: %v", test.hash, err)
			continue
		}
		for _, part := range strings.Fields(test.says) {
			if !strings.Contains(e.Error(), part) {
				t.Errorf("%q does not say %q", e, part)
			}
		}
	}
}

func TestExpiryIsByIdleTimeoutAndLifetime(t *testing.T) {
	for _, test := range []struct{ touched, idle, deadline, want int64 }{
		{1000, 500, 9000, 1500}, {8800, 500, 9000, 9000}, {1000, 8000, 9000, 9000}, {8500, 500, 9000, 9000},
	} {
		r := records{touched: test.touched, idle: test.idle, deadline: test.deadline}
		if got := r.expires(); got != test.want {
			t.Errorf("%+v: %d", test, got)
		}
		s := Session[Base]{records: r}
		if s.ExpiresAt() != time.UnixMilli(test.want) || s.Deadline() != time.UnixMilli(test.deadline) {
			t.Errorf("%+v: %v and %v", test, s.ExpiresAt(), s.Deadline())
		}
	}
}

func TestSizesAreOfTheUsersFieldsOnly(t *testing.T) {
	fields := func(n int) map[string]string {
		hash := recordsOf("@w", strings.Repeat("w", 1000))
		for i := range n {
			hash[fmt.Sprint("f", i)] = ""
		}
		return hash
	}
	for _, test := range []struct {
		hash  map[string]string
		max   int
		field string
		ok    bool
	}{
		{recordsOf(), 1, "", true},
		{recordsOf("ab", "cde"), 5, "", true},
		{recordsOf("ab", "cde"), 4, "ab", false},
		{recordsOf("ab", "cde", "f", "g"), 7, "", true},
		{recordsOf("ab", "cde", "f", "g"), 6, "", false},
		{recordsOf("", "12345"), 4, "", false},
		{fields(maxFields), 1 << 20, "", true},
		{fields(maxFields + 1), 1 << 20, "", false},
	} {
		if field, ok := checkSize(test.hash, test.max); field != test.field || ok != test.ok {
			t.Errorf("%d fields, at most %d bytes: %q, %v", len(test.hash), test.max, field, ok)
		}
	}
}

func TestATouchIsDueByTheServersClock(t *testing.T) {
	now := time.Unix(1000, 0)
	c, err := New[Base](server, WithTouchInterval(time.Minute), WithClock(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const minute = 60_000
	for _, test := range []struct {
		seen    int64         // by the server's clock, ms after the touch
		since   time.Duration // by the client's
		idle    int64
		wantDue bool
	}{
		{0, 0, 30 * minute, false},
		{minute - 1, 0, 30 * minute, false},
		{minute, 0, 30 * minute, true},
		{0, time.Minute - 1, 30 * minute, false},
		{0, time.Minute, 30 * minute, true},
		{minute / 2, time.Minute / 2, 30 * minute, true},
		{minute / 2, time.Minute/2 - time.Millisecond, 30 * minute, false},
		{0, -time.Hour, 30 * minute, false},     // the client's clock was set back
		{minute, -time.Hour, 30 * minute, true}, // which makes the server's no less
		{minute / 2, 0, minute, true},           // half of a short idle timeout
		{minute/2 - 1, 0, minute, false},
	} {
		const touched = 1 << 40
		s := &Session[Base]{
			records: records{touched: touched, idle: test.idle},
			seen:    seen{server: touched + test.seen, client: now.Add(-test.since)},
		}
		if got := c.touchDue(s); got != test.wantDue {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

func TestAnEmptySessionIsHarmless(t *testing.T) {
	var s Session[Base]
	if s.ID() != "" || s.Handle() != "" || s.Version() != 0 || s.String() != "session " {
		t.Errorf("%q %q %d %q", s.ID(), s.Handle(), s.Version(), s.String())
	}
	var none *Session[Base]
	for _, v := range []any{s, &s, none} {
		if text := fmt.Sprintf("%v %+v %#v %s", v, v, v, v); strings.Contains(text, "PANIC") {
			t.Error(text)
		}
		if _, err := json.Marshal(v); err != nil {
			t.Error(err)
		}
	}
	var b bytes.Buffer
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "s", s, "p", &s)
	if !strings.Contains(b.String(), "s.handle=") {
		t.Error(b.String())
	}
}

// What stands in somebody else's unexported field is printed by fmt itself.
func TestASessionInsideOfAnotherStructHidesItsID(t *testing.T) {
	id := newID("tag1", plain)
	c, err := New[Base](server)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.open(loaded{id: id, now: 5000, hash: maps.Collect(func(yield func(string, string) bool) {
		for name, value := range recordsOf("@f", "1:msgpack", id.verifier(), "1", "Name", "\xa1x") {
			if !yield(name, value) {
				return
			}
		}
	})}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	next := id.renewed()
	s.pending = &pending{next: &next}
	holder := struct {
		value   Session[Base]
		pointer *Session[Base]
	}{*s, s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		for _, text := range []string{fmt.Sprintf(verb, holder), fmt.Sprintf(verb, &holder)} {
			for _, id := range []sessionID{id, next} {
				secret := id.text[handleLen+1:]
				if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
					t.Errorf("%s shows the secret: %s", verb, text)
				}
			}
		}
	}
}

func TestAClientInsideOfAnotherStructHidesItsSecrets(t *testing.T) {
	const secret = "hunter2 hunter2 hunter2 hunter2!"
	c, err := New[Base](server, WithCredentials("app", secret), WithPepper([]byte(secret)), WithEncryption([]byte(secret)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	holder := struct {
		value   Client[Base]
		pointer *Client[Base]
	}{*c, c}
	var list []string // of numbers, as fmt prints bytes
	for _, b := range []byte(secret)[:8] {
		list = append(list, strconv.Itoa(int(b)))
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, text := range []string{fmt.Sprintf(verb, holder), fmt.Sprintf(verb, &holder), fmt.Sprintf(verb, c), fmt.Sprintf(verb, *c)} {
			for _, shown := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), strings.Join(list, " "), "0x68, 0x75, 0x6e"} {
				if strings.Contains(text, shown) {
					t.Errorf("%s shows a secret: %s", verb, text)
				}
			}
		}
	}
}
