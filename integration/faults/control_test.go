package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// edit takes the place of a text in one of the module's files that is there
// exactly once.
type edit struct{ file, old, new string }

// control is the product without one of its rules, and a run that is to find out.
type control struct {
	rule  string
	edits []edit
	test  string
	args  string
}

const (
	onTheRing    = "TestOneNodeOfTheRingAtFaultIsNotNoticed"
	onTheCluster = "TestFaultsOfAClusterAreNotNoticed"
)

var table = []control{
	{"a deletion leaves a tombstone", []edit{
		{"internal/script/bury.lua",
			"local d, i = tonumber(ARGV[2]), tonumber(ARGV[3])",
			"redis.call('DEL', key)\nif key then return reply(OK) end\nlocal d, i = 0, 0"},
	}, onTheRing, "-faults 4 -kinds kill,cut,stale -profile deletes"},

	{"only witnesses count", []edit{
		{"attempt.go", "if then == nil || !then.complete {", "if then == nil {"},
		{"ringnode.go", "return n.asks() && n.life.Load().complete", "return n.asks()"},
	}, onTheRing, "-faults 10 -nodes 3 -kinds cut,flush -profile logins"},

	{"what a load has found is written back", []edit{
		{"lookup.go",
			`t := r.join(ctx, &l.spot, v.m, "")` + "\n\tswitch {",
			"if l != nil {\n\t\tl.finish(v.m, v.now)\n\t\treturn false\n\t}\n\t" + `t := r.join(ctx, &l.spot, v.m, "")` + "\n\tswitch {"},
	}, onTheRing, "-faults 6 -kinds pause,cut -profile saves -jitter 60ms"},

	{"an ID that was let go does nothing any more", []edit{
		{"internal/script/guard.lua", "local valid, retired = verifier(r[5])", "local valid, retired = verifier(r[5]), nil"},
	}, onTheRing, "-faults 4 -kinds pause,cut -profile rotations"},

	{"a load asks a majority", []edit{
		{"lookup.go",
			"near := r.question(list, func(l *lookup) int { return l.spot.majority() })",
			"near := r.question(list, func(l *lookup) int { return 1 })"},
		{"lookup.go", "\t\tif v.witnesses >= l.spot.majority() {\n\t\t\tswitch {", "\t\tif v.witnesses >= 1 {\n\t\t\tswitch {"},
		{"lookup.go", "v.agree >= l.spot.majority()", "v.agree >= 1"},
	}, onTheRing, "-faults 4 -kinds pause,cut -profile even"},

	{"a logout waits for a replica", []edit{
		{"durability.go", "if d == nil && matters && k.failsOver", "if d == nil && matters && false"},
	}, onTheCluster, "-kinds lag -profile deletes"},
}

// Without any one of its rules the product is found out by the test that it
// passes with them. A run may miss what needs a rare coincidence, so there are
// some more with other seeds.
func TestWithoutOneOfItsRulesItIsFoundOut(t *testing.T) {
	for _, c := range table {
		t.Run(c.rule, func(t *testing.T) {
			overlay := c.overlay(t)
			const runs = 8
			for seed := range runs {
				began := time.Now()
				out := c.run(t, overlay, seed+1)
				took := time.Since(began).Round(time.Second)
				found := regexp.MustCompile(`VIOLATION: ([^:\n]*)`).FindAllStringSubmatch(out, -1)
				var what []string
				for _, f := range found {
					what = append(what, f[1])
				}
				if slices.Sort(what); len(what) > 0 {
					t.Logf("found out by run %d, after %v: %s", seed+1, took, strings.Join(slices.Compact(what), "; "))
					return
				}
				if !regexp.MustCompile(`(?m)^ok `).MatchString(out) {
					t.Logf("run %d went wrong in another way:\n%s", seed+1, out[max(0, len(out)-5000):])
				}
				t.Logf("run %d found nothing in %v", seed+1, took)
			}
			t.Errorf("nobody noticed in %d runs", runs)
		})
	}
}

// overlay writes the changed files, and the list of them for the go command.
func (c *control) overlay(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	texts := map[string]string{}
	for _, e := range c.edits {
		name := filepath.Join(root, filepath.FromSlash(e.file))
		text, read := texts[name]
		if !read {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			text = string(data)
		}
		if n := strings.Count(text, e.old); n != 1 {
			t.Fatalf("%s has %d times, not once:\n%s", e.file, n, e.old)
		}
		texts[name] = strings.Replace(text, e.old, e.new, 1)
	}
	list := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range texts {
		to := filepath.Join(dir, fmt.Sprint(len(list.Replace), "-", filepath.Base(name)))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		list.Replace[name] = to
	}
	data, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}

// run runs the test on the changed product and returns what it printed.
func (c *control) run(t *testing.T, overlay string, seed int) string {
	t.Helper()
	args := []string{"test", "-overlay", overlay, "-vet=off", "-count=1", "-timeout", "5m", "-run", "^" + c.test + "$", ".",
		"-args", "-seed", fmt.Sprint(seed)}
	cmd := exec.CommandContext(t.Context(), "go", append(args, strings.Fields(c.args)...)...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	text := string(out)
	if strings.Contains(text, "[build failed]") || strings.Contains(text, "[setup failed]") || err == nil && !strings.Contains(text, "ok ") {
		t.Fatalf("the product without the rule cannot be tested:\n%s", text)
	}
	return text
}
