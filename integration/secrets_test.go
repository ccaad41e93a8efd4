package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// secrets finds in a text what was planted, in whatever way it was written there.
type secrets struct {
	shapes map[uint64][]shape // by their first 8 bytes
	begins [1 << 16]bool      // with these two: most places in a text are passed by soon
}

func newSecrets() *secrets { return &secrets{shapes: map[uint64][]shape{}} }

// shape is a secret as it looks in some encoding.
type shape struct{ what, text string }

const (
	shortest = 8  // a secret that is sought: less could be there by chance
	enough   = 12 // bytes of one, for what is cut off is told as well
)

// plant has a secret sought, or its beginning.
func (s *secrets) plant(what, secret string) {
	if len(secret) < shortest {
		panic(what + " is too short to be sought")
	}
	for text := range shapes([]byte(beginning(secret))) {
		at := binary.LittleEndian.Uint64([]byte(text))
		if s.begins[uint16(at)] = true; !slices.Contains(s.shapes[at], shape{what, text}) {
			s.shapes[at] = append(s.shapes[at], shape{what, text})
		}
	}
}

// beginning ends with a whole character: a part of one is encoded otherwise.
func beginning(secret string) string {
	end := min(len(secret), enough)
	for end < len(secret) && !utf8.RuneStart(secret[end]) {
		end++
	}
	return secret[:end]
}

// find gives what is there, and where.
func (s *secrets) find(text string) map[string]string {
	var found map[string]string
	for i := range max(0, len(text)-7) {
		if !s.begins[uint16(text[i])|uint16(text[i+1])<<8] {
			continue
		}
		for _, shape := range s.shapes[binary.LittleEndian.Uint64([]byte(text[i:i+8]))] {
			if strings.HasPrefix(text[i:], shape.text) && found[shape.what] == "" {
				if found == nil {
					found = map[string]string{}
				}
				found[shape.what] = text[max(0, i-60):min(len(text), i+60)]
			}
		}
	}
	return found
}

// shapes are the encodings of a secret.
func shapes(b []byte) iter.Seq[string] {
	all := map[string]bool{string(b): true}
	inner := func(text string) string { return text[1 : len(text)-1] }
	for _, verb := range []string{"%x", "%X", "% x", "% X"} {
		all[fmt.Sprintf(verb, b)] = true
	}
	for _, verb := range []string{"%d", "%t", "%q", "%+q"} {
		all[inner(fmt.Sprintf(verb, b))] = true
	}
	var text bytes.Buffer
	for _, escapes := range []bool{true, false} { // of what means something in HTML, which slog leaves
		text.Reset()
		e := json.NewEncoder(&text)
		e.SetEscapeHTML(escapes)
		_ = e.Encode(string(b))
		all[inner(strings.TrimSuffix(text.String(), "\n"))] = true
	}
	all[strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}")] = true
	numbers, _ := json.Marshal(slices.Collect(func(yield func(int) bool) {
		for _, c := range b {
			if !yield(int(c)) {
				return
			}
		}
	}))
	all[inner(string(numbers))] = true
	all[strings.ReplaceAll(string(numbers), ",", ", ")[1:]] = true
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			// The characters that what stands before and behind has no part in.
			coded := encoding.EncodeToString(append(make([]byte, shift), b...))
			all[coded[(shift*8+5)/6:(shift+len(b))*8/6]] = true
		}
	}
	return maps.Keys(all)
}

// printed is v as all that prints, logs or encodes shows it, by itself and in what may
// hold it.
func printed(v any) iter.Seq2[string, string] {
	holders := map[string]any{
		"by itself": v, "in a slice": []any{v}, "in an array": [1]any{v}, "in a map": map[string]any{"k": v},
		"in a struct": struct{ V any }{v}, "behind a pointer": &struct{ V any }{v},
		"deep down": []any{map[string]any{"k": []any{struct{ V any }{v}}}},
	}
	return func(yield func(how, text string) bool) {
		for holder, v := range holders {
			if !formatted(holder, v, yield) {
				return
			}
			text, err := json.Marshal(v)
			if !yield(holder+" as JSON", fmt.Sprint(string(text), err)) {
				return
			}
			for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
				"slog's text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
				"slog's JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
			} {
				var b bytes.Buffer
				slog.New(handler(&b)).With("with", v).Info("m", "key", v, slog.Group("g", "in", v))
				if !yield(holder+" by "+name, b.String()) {
					return
				}
			}
		}
	}
}

// buried is v where fmt does not ask it how it wants to be printed, and others do not
// look.
func buried(v any) iter.Seq2[string, string] {
	holders := map[string]any{
		"in an unexported field": struct{ v any }{v}, "in one behind a pointer": &struct{ v any }{v},
		"in one of one": struct{ v struct{ v any } }{struct{ v any }{v}}, "in a slice of one": struct{ v []any }{[]any{v}},
		"in a map of one": struct{ v map[string]any }{map[string]any{"k": v}},
	}
	return func(yield func(how, text string) bool) {
		for holder, v := range holders {
			if !formatted(holder, v, yield) {
				return
			}
		}
		yield("by itself by %p", fmt.Sprintf("%p", v))
	}
}

func formatted(holder string, v any, yield func(how, text string) bool) bool {
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "% X", "%d", "%t"} {
		if !yield(holder+" by "+verb, fmt.Sprintf(verb, v)) {
			return false
		}
	}
	return true
}

// The search finds a secret in every encoding, at any place, also if it is cut off; and
// none where there is none.
func TestASecretIsFoundHoweverItIsWritten(t *testing.T) {
	type thing struct {
		Text  string
		Bytes []byte
	}
	for range 20 {
		secret, other := rand.Text()[:20], make([]byte, 20)
		rand.Read(other)
		for _, secret := range []string{secret, string(other), `"` + secret[:7] + "\n\\<\x00\xff" + secret, `["` + secret[:4] + `"]`} {
			s := newSecrets()
			s.plant("it", secret)
			texts := map[string]string{"cut off": beginning(secret), "quoted": strconv.Quote(secret), "quoted as ASCII": strconv.QuoteToASCII(secret)}
			for n := range 9 {
				around := make([]byte, n)
				rand.Read(around)
				all := slices.Concat(around, []byte(secret), around)
				for name, text := range map[string]string{
					"as it is": string(all), "hex": hex.EncodeToString(all), "HEX": strings.ToUpper(hex.EncodeToString(all)),
					"base64": base64.StdEncoding.EncodeToString(all), "base64url": base64.RawURLEncoding.EncodeToString(all),
				} {
					texts[fmt.Sprint(name, " behind ", n, " bytes")] = text
				}
			}
			for what, v := range map[string]any{"a string ": thing{Text: secret}, "bytes ": thing{Bytes: []byte(secret)}} {
				for how, text := range printed(v) {
					texts[what+how] = text
				}
				for how, text := range buried(v) {
					texts[what+how] = text
				}
			}
			for how, text := range texts {
				if s.find("before " + text + " behind")["it"] == "" {
					t.Errorf("%q is not found %s: %q", secret, how, text)
				}
			}
			unlike := newSecrets()
			unlike.plant("another", rand.Text())
			for how, text := range texts {
				if found := unlike.find(text); found != nil {
					t.Errorf("%s there is %q", how, found)
				}
			}
		}
	}
}
