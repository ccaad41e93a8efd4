// Command testreport reads what go test -json wrote, prints what failed and a
// line of counts, and fails if anything failed, was skipped, or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
)

type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64
}

type report struct {
	passed, failed, skipped int
	packages                []string
	output                  map[string]*strings.Builder
}

func main() {
	sum := flag.Bool("sum", false, "print the counts only")
	flag.Parse()
	r := report{output: make(map[string]*strings.Builder)}
	for _, name := range flag.Args() {
		if err := r.read(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if !*sum {
		for _, p := range r.packages {
			fmt.Println(p)
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	if r.failed+r.skipped > 0 || r.passed == 0 {
		os.Exit(1)
	}
}

func (r *report) read(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil { // what the build says is not JSON
			fmt.Println(lines.Text())
			continue
		}
		r.add(e)
	}
	return lines.Err()
}

// add counts a test when it ends; a package counts only if it fails by itself.
func (r *report) add(e event) {
	id := e.Package + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		if r.output[id] == nil {
			r.output[id] = new(strings.Builder)
		}
		r.output[id].WriteString(e.Output)
		return
	case "pass":
		if e.Test != "" {
			r.passed++
		}
	case "fail", "build-fail":
		r.failed++
		r.show("FAIL", id)
	case "skip":
		if e.Test != "" {
			r.skipped++
			r.show("SKIP", id)
		}
	default:
		return
	}
	if e.Test == "" && e.Package != "" {
		r.packages = append(r.packages, fmt.Sprintf("%-5s %-60s %6.1fs", e.Action, e.Package, e.Elapsed))
	}
	delete(r.output, id)
}

func (r *report) show(what, id string) {
	fmt.Printf("--- %s: %s\n", what, id)
	if out := r.output[id]; out != nil {
		fmt.Print(out.String())
	}
}
