package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// key is where a session is: the handle's first 4 characters place it on a
// cluster.
func (s *story) key(handle string) string {
	return s.prefix + ":{" + handle[:4] + "}:" + handle[4:]
}

// showHash prints what Redis holds of a session.
func (s *story) showHash(ctx context.Context, handle, id string) error {
	key := s.key(handle)
	hash, err := s.rdb.HGetAll(ctx, key).Result()
	if err != nil {
		return err
	}
	ttl, err := s.rdb.PTTL(ctx, key).Result()
	if err != nil {
		return err
	}
	s.line("key", key, fmt.Sprintf("a hash that lives for another %v", ttl.Round(time.Second)))
	names := slices.SortedFunc(maps.Keys(hash), func(a, b string) int {
		return strings.Compare(order(a), order(b))
	})
	for _, name := range names {
		value, meaning := explain(name, hash[name])
		if len(name) > 9 {
			name = name[:8] + "…"
		}
		s.line(name, value, meaning)
	}
	_, secret, _ := strings.Cut(id, ".")
	s.promise(len(hash) > 0 && !strings.Contains(key+fmt.Sprint(hash), secret),
		"The secret is nowhere in it: who can read the store cannot log in")
	s.promise(ttl > 0, "It has a TTL: Redis forgets it by itself")
	return nil
}

// order puts the application's fields before the session's own records.
func order(name string) string {
	if strings.HasPrefix(name, "@") {
		return "1" + name
	}
	return "0" + name
}

func explain(name, value string) (shown, meaning string) {
	n, _ := strconv.ParseInt(value, 10, 64)
	switch {
	case strings.HasPrefix(name, "@a:"):
		return value, "a digest of the ID that is valid now"
	case name == "@c":
		return clock(time.UnixMilli(n)), "created"
	case name == "@d":
		return clock(time.UnixMilli(n)), "deadline"
	case name == "@i":
		return (time.Duration(n) * time.Millisecond).String(), "idle timeout"
	case name == "@t":
		return clock(time.UnixMilli(n)), "last refresh of the idle timeout"
	case name == "@v":
		return value, "version: counts the saves"
	case name == "@f":
		return value, "format and codec"
	case strings.HasPrefix(name, "@"):
		return strconv.Quote(value), "a record of redsession"
	}
	var decoded any
	if err := msgpack.Unmarshal([]byte(value), &decoded); err != nil {
		return strconv.Quote(value), "a field of Profile"
	}
	readable, err := json.Marshal(decoded)
	if err != nil {
		return fmt.Sprint(decoded), "a field of Profile"
	}
	return string(readable), "a field of Profile"
}

func clock(t time.Time) string { return t.Format("15:04:05") }

// wire records what the clients send. Only a demonstration needs such a thing.
type wire struct {
	mu   sync.Mutex
	sent bytes.Buffer
}

// during tells which fields of Profile were sent while f ran.
func (w *wire) during(f func()) []string {
	w.mu.Lock()
	w.sent.Reset()
	w.mu.Unlock()
	f()
	w.mu.Lock()
	defer w.mu.Unlock()
	var fields []string
	for _, name := range []string{"user_id", "theme", "cart"} {
		if bytes.Contains(w.sent.Bytes(), []byte("\r\n"+name+"\r\n")) {
			fields = append(fields, name)
		}
	}
	return fields
}

func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &tapped{Conn: c, wire: w}, nil
}

type tapped struct {
	net.Conn
	wire *wire
}

func (t *tapped) Write(b []byte) (int, error) {
	t.wire.mu.Lock()
	t.wire.sent.Write(b)
	t.wire.mu.Unlock()
	return t.Conn.Write(b)
}
