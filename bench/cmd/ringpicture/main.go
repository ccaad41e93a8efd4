// Command ringpicture draws docs/ring.svg: how evenly redsession's ring loads its
// nodes and which keys move when one is added, beside key mod n and a ring of 160
// points for each node. The same program draws the same bytes.
package main

import (
	"flag"
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	out := flag.String("o", "ring.svg", "the `file` to write")
	flag.Parse()
	svg, err := draw()
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(*out, svg, 0o644); err != nil {
		log.Fatal(err)
	}
}
