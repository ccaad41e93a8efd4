package faults

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// calls is a table of the calls, by kind.
func (w *workload) calls() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-10s %8s %8s %10s %12s %12s %12s\n", "call", "calls", "done", "not found", "unconfirmed", "unavailable", "slowest")
	for _, k := range kindsOfCalls {
		c := w.tally[k]
		fmt.Fprintf(&b, "%-10s %8d %8d %10d %12d %12d %12v\n", k, c.calls, c.outcomes[done], c.outcomes[absent],
			c.outcomes[unknown], c.outcomes[failed], c.slowest.Round(time.Millisecond))
	}
	return b.String()
}

// judged says what was checked and how often what was found.
func judged(w *workload, v verdict) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sessions, %d parts checked: %d explained only by what the protocol leaves open, %d undecided\n",
		len(bySession(w.ops)), v.parts, v.slack, v.gaveUp)
	for _, what := range wrongs {
		fmt.Fprintf(&b, "%8d times %s\n", v.count(what), what)
	}
	fmt.Fprintf(&b, "%8d times an answer that no call may give\n", len(w.broken))
	return b.String()
}

// show prints what is wrong, the shortest histories first.
func show(t *testing.T, w *workload, v verdict) {
	for _, text := range w.broken[:min(5, len(w.broken))] {
		t.Errorf("VIOLATION: an answer that no call may give: %s", text)
	}
	slices.SortFunc(v.violations, func(a, b violation) int {
		return cmp.Or(cmp.Compare(len(a.part), len(b.part)), cmp.Compare(a.where, b.where))
	})
	shown := map[string]int{}
	for _, x := range v.violations {
		if shown[x.what]++; shown[x.what] > 2 {
			continue
		}
		t.Errorf("VIOLATION: %v%s", x, draw(t, x))
	}
	for what, n := range shown {
		if n > 2 {
			t.Errorf("VIOLATION: %s: %d more", what, n-2)
		}
	}
	if v.gaveUp > 0 {
		t.Errorf("the checker could not decide on %d of %d parts", v.gaveUp, v.parts)
	}
}

// draw writes porcupine's picture of a violation to a file, which stays.
func draw(t *testing.T, v violation) string {
	if v.model == nil {
		return ""
	}
	dir := os.TempDir()
	if f := flag.Lookup("test.artifacts"); f != nil && f.Value.String() == "true" {
		dir = t.ArtifactDir()
	}
	_, info := porcupine.CheckOperationsVerbose(*v.model, v.steps, time.Minute)
	name := filepath.Join(dir, fmt.Sprintf("violation-%d-%s.html", os.Getpid(), strings.NewReplacer(" ", "-", ",", "", "#", "").Replace(v.where)))
	if err := porcupine.VisualizePath(*v.model, info, name); err != nil {
		return fmt.Sprintf("\n\t(no picture: %v)", err)
	}
	return "\n\tpicture: " + name
}
