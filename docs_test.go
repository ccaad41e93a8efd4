package redsession

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docs/SECURITY.md names tests, and cases of the conformance suite in quotes: each is there.
func TestTheTestsThatTheDocsNameAreThere(t *testing.T) {
	page, err := os.ReadFile("docs/SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	var tests strings.Builder
	err = filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && (strings.HasSuffix(path, "_test.go") || filepath.Dir(path) == filepath.Join("internal", "conformance")) && filepath.Ext(path) == ".go" {
			code, err := os.ReadFile(path)
			tests.Write(code)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	expect := func(line, doc, code string) {
		for _, m := range regexp.MustCompile(doc).FindAllStringSubmatch(line, -1) {
			if named++; !strings.Contains(tests.String(), strings.Replace(code, "%", m[1], 1)) {
				t.Errorf("there is no test %q", m[1])
			}
		}
	}
	for line := range strings.Lines(string(page)) {
		expect(line, "`((?:Test|Fuzz|Benchmark)\\w+)`", "\nfunc %(")
		if strings.HasPrefix(line, "|") {
			expect(line, `"([^"]+)"`, `{name: "%",`)
		}
	}
	if named < 30 {
		t.Errorf("only %d tests are named", named)
	}
}
