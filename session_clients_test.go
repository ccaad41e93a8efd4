package redsession_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// A Session that a client is handed that did not make it is never spoiled.
func TestASessionOfAnotherClient(t *testing.T) {
	t.Parallel()
	server, another := sessiontest.Start(t), sessiontest.Start(t)
	with := func(opts ...redsession.Option) *redsession.Client[member] {
		c, err := redsession.New[member](append([]redsession.Option{server.Option()}, opts...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	pepper := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	own := with(redsession.WithPepper(pepper(1)), redsession.WithEncryption(pepper(2)))
	refused := errors.New("refused")
	for what, test := range map[string]struct {
		other *redsession.Client[member]
		want  error
	}{
		"of the same options": {with(redsession.WithPepper(pepper(1)), redsession.WithEncryption(pepper(2))), nil},
		"of another pepper":   {with(redsession.WithPepper(pepper(3))), nil},
		"without any":         {with(), nil},
		"of another key":      {with(redsession.WithEncryption(pepper(4))), nil},
		"of another prefix":   {with(redsession.WithPrefix("other")), redsession.ErrNotFound},
		"of another server":   {with(another.Option()), redsession.ErrNotFound},
		"of another codec":    {with(redsession.WithCodec(redsession.JSON{})), refused},
	} {
		created, err := own.Create(t.Context(), member{User: "u"})
		if err != nil {
			t.Fatal(err)
		}
		loaded, err := own.Load(t.Context(), created.ID())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []*redsession.Session[member]{loaded, created} {
			for call, err := range map[string]error{
				"Save":   func() error { s.Data.Note += "x"; return test.other.Save(t.Context(), s) }(),
				"Rotate": test.other.Rotate(t.Context(), s),
			} {
				if test.want == refused {
					if err == nil || !strings.Contains(err.Error(), "msgpack") || !strings.Contains(err.Error(), "json") {
						t.Errorf("%s by a client %s: %v, want an error that names both codecs", call, what, err)
					}
				} else if !errors.Is(err, test.want) {
					t.Errorf("%s by a client %s: %v, want %v", call, what, err, test.want)
				}
			}
			got, err := own.Load(t.Context(), s.ID())
			if err != nil {
				t.Errorf("after calls of a client %s: %v", what, err)
			} else if (got.Data.Note != "") != (test.want == nil) {
				t.Errorf("after calls of a client %s the note is %q", what, got.Data.Note)
			}
			if test.want == nil {
				break // the old ID is dead
			}
		}
	}
}
