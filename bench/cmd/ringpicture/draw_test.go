package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"testing"
)

// The picture shows what the code does now, not what it did once.
func TestPictureIsCurrent(t *testing.T) {
	want, err := draw()
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(want)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	const file = "../../../docs/ring.svg"
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the command draws: in bench/, go run ./cmd/ringpicture -o ../docs/ring.svg", file)
	}
}
