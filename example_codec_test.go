package redsession_test

import (
	"bytes"
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"

	"github.com/redsession/redsession"
	"github.com/redsession/redsession/sessiontest"
)

// deflated is a codec for fields that hold much text: JSON, compressed.
type deflated struct{ json redsession.JSON }

// maxInflated bounds what a few stored bytes can become: a kilobyte of them can
// claim a megabyte.
const maxInflated = 1 << 20

func (deflated) Name() string { return "json.deflate" }

func (c deflated) Marshal(v any) ([]byte, error) {
	text, err := c.json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(text) > maxInflated {
		return nil, errors.New("too long")
	}
	var buf bytes.Buffer
	w, err := flate.NewWriter(&buf, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func (c deflated) Unmarshal(data []byte, v any) error {
	src := bytes.NewReader(data)
	text, err := io.ReadAll(io.LimitReader(flate.NewReader(src), maxInflated+1))
	switch {
	case err != nil:
		return err
	case len(text) > maxInflated:
		return errors.New("too long")
	case src.Len() > 0:
		return errors.New("trailing bytes")
	}
	return c.json.Unmarshal(text, v)
}

// A codec of one's own: compressed JSON.
func ExampleCodec() {
	type Draft struct {
		Author string `session:"author,principal"`
		Text   string `session:"text"`
	}

	srv, err := sessiontest.Run() // a server inside the process
	if err != nil {
		log.Fatal(err)
	}
	defer srv.Close()
	client, err := redsession.New[Draft](redsession.WithCodec(deflated{}), srv.Option())
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	ctx := context.Background()
	s, err := client.Create(ctx, Draft{Author: "ada", Text: strings.Repeat("It was a dark and stormy night. ", 100)})
	if err != nil {
		log.Fatal(err)
	}
	s, err = client.Load(ctx, s.ID())
	if err != nil {
		log.Fatal(err)
	}
	stored, err := deflated{}.Marshal(&s.Data.Text)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Data.Author, "wrote", len(s.Data.Text), "characters, kept in fewer than 100 bytes:", len(stored) < 100)
	// Output: ada wrote 3200 characters, kept in fewer than 100 bytes: true
}
