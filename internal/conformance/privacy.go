package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/redsession/redsession"
)

func isDecodeError(err error) bool {
	_, ok := err.(*redsession.DecodeError)
	return ok
}

var privacy = []promise{
	{name: "a session prints as its handle", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		type holder struct {
			S any
			P *session
			V session
		}
		for what, v := range map[string]any{
			"pointer": s, "value": *s, "slice": []*session{s}, "values": []session{*s}, "map": map[string]session{"s": *s},
			"struct": holder{s, s, *s}, "pointer to struct": &holder{s, s, *s}, "pointer to pointer": holder{S: &s},
			"results": c.LoadMany(s.ID()), "array": [1]session{*s},
		} {
			out := map[string]string{}
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%20.3v", "%t"} {
				out[verb] = fmt.Sprintf(verb, v)
			}
			out["error"] = fmt.Errorf("about %v", v).Error()
			out["Sprintln"] = fmt.Sprintln(v, v)
			text, err := json.Marshal(v)
			out["JSON"] = string(text)
			t.ok(err)
			for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
				"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
				"slog JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
			} {
				var b bytes.Buffer
				log := slog.New(handler(&b)).With("with", v)
				log.Log(context.Background(), slog.LevelInfo, "m", "key", v, slog.Group("g", "in", v))
				out[name] = b.String()
			}
			for verb, text := range out {
				if leak := t.leaks(text); leak != "" {
					t.Errorf("%s by %s shows %s: %s", what, verb, leak, text)
				}
				if (what == "pointer" || what == "value") && verb != "%20.3v" && !strings.Contains(text, s.Handle()) {
					t.Errorf("%s by %s does not show the handle: %s", what, verb, text)
				}
			}
		}
	}},
	{name: "a client prints nothing of its configuration", run: func(t *test) {
		c := with[profile](t, redsession.WithAddr("127.0.0.1:1"), redsession.WithCredentials("name", marker))
		for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
			for what, v := range map[string]any{"pointer": c.Client, "value": *c.Client} {
				if text := fmt.Sprintf(verb, v); strings.Contains(text, marker) {
					t.Errorf("a %s by %s: %s", what, verb, text)
				}
			}
		}
		_, err := c.within(soon).Load(newID(t)) // and its errors neither: they are searched at the end
		t.is(err, redsession.ErrUnavailable)
	}},
	{name: "nothing stored is an ID or a secret", run: func(t *test) {
		c := open[profile](t)
		s := c.create(someone())
		for range 3 {
			s.Data.Visits++
			c.save(s)
			c.rotate(s)
		}
		a, b := c.create(someone()), c.create(someone())
		for name := range t.hash(a.ID()) {
			if _, both := t.hash(b.ID())[name]; strings.HasPrefix(name, "@a:") && both {
				t.Error("two sessions have the same verifier")
			}
		}
	}},
}

// leaks tells what of a session shows in a text: its secret or a value.
func (s *suite) leaks(text string) string {
	if s.tellsSecret(text) {
		return "a session's secret"
	}
	for _, value := range []string{marker, fmt.Sprint(markerNumber), fmt.Sprintf("%x", marker), fmt.Sprint([]byte(marker)[:6])[1:20]} {
		if strings.Contains(text, value) {
			return "a value"
		}
	}
	return ""
}

// tellsSecret looks for the secrets of all IDs made so far.
func (s *suite) tellsSecret(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 22; i <= len(text); i++ {
		if s.ids[text[i-22:i]] {
			return true
		}
	}
	return false
}

// searchErrors looks for secrets and values in all errors that were met.
func (s *suite) searchErrors(t *testing.T) {
	for at, err := range s.errs {
		for e := range tree(err) {
			if leak := s.leaks(fmt.Sprintf("%v %+v", e, e)); leak != "" {
				t.Errorf("an error tells %s: %s", leak, at)
			}
		}
	}
	if len(s.errs) == 0 {
		t.Error("no errors were searched")
	}
}

// tree is an error and all that it wraps.
func tree(err error) iter.Seq[error] {
	return func(yield func(error) bool) {
		var walk func(error) bool
		walk = func(err error) bool {
			if err == nil {
				return true
			}
			if !yield(err) {
				return false
			}
			switch e := err.(type) {
			case interface{ Unwrap() error }:
				return walk(e.Unwrap())
			case interface{ Unwrap() []error }:
				for _, inner := range e.Unwrap() {
					if !walk(inner) {
						return false
					}
				}
			}
			return true
		}
		walk(err)
	}
}

// scan lists a node's keys.
func scan(ctx context.Context, node *redis.Client, pattern string) (keys []string, err error) {
	seen := map[string]bool{}
	for it := node.Scan(ctx, 0, pattern, 1000).Iterator(); ; {
		if !it.Next(ctx) {
			return keys, it.Err()
		}
		if key := it.Val(); !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
}

// inspect looks at every key that a prefix has in the store.
func (s *suite) inspect(t *testing.T, prefix string) (keys int) {
	ctx := context.Background()
	for _, node := range s.target.Nodes() {
		list, err := scan(ctx, node, prefix+":*")
		if err != nil {
			t.Error(err)
		}
		for _, key := range list {
			if isOfNode(key) {
				continue
			}
			kind, err := node.Type(ctx, key).Result()
			if err != nil || kind != "hash" {
				continue // gone, or not ours
			}
			ttl, hash := node.PTTL(ctx, key).Val(), node.HGetAll(ctx, key).Val()
			if len(hash) == 0 {
				continue // gone meanwhile
			}
			if keys++; ttl < 0 {
				t.Errorf("the key %s has no TTL", key)
			}
			var all strings.Builder
			all.WriteString(key)
			for name, value := range hash {
				all.WriteString("\n" + name + "\n" + value)
			}
			if s.tellsSecret(all.String()) {
				t.Errorf("the key %s has a session's secret", key)
			}
			if strings.HasSuffix(hash["@f"], sealedSuffix) {
				maps.DeleteFunc(hash, func(name, _ string) bool { return strings.HasPrefix(name, "@") && name != "@k" })
				if leak := s.leaks(fmt.Sprint(hash)); leak != "" {
					t.Errorf("the key %s is encrypted and has %s", key, leak)
				}
			}
		}
	}
	return keys
}

// sweep looks at everything that the suite has left, and removes it.
func (s *suite) sweep(t *testing.T) {
	if keys := s.inspect(t, s.root); keys == 0 {
		t.Error("no keys were looked at")
	}
	for _, node := range s.target.Nodes() {
		list, err := scan(context.Background(), node, s.root+":*")
		for _, key := range list {
			if err == nil {
				err = node.Del(context.Background(), key).Err()
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
}
