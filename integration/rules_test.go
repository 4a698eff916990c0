package integration

import (
	"fmt"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"testing"
)

// rules are the numbered rules of the specifications that this project was written from.
var rules = []struct {
	prefix string // before the number, in a test's comment
	last   int    // they begin with 1
	source string
}{
	{"L", 37, "spec/lists-and-store.md: lists, copy modes, signatures, the store"},
	{"rule ", 73, "spec/copy-rules.md: the copy engine"},
	{"S", 36, "spec/sentinel.md: sentinel variants"},
	{"D", 25, "spec/digests.md: the choice of a digest algorithm"},
}

// unproved are the rules that no test names, each with the reason.
var unproved = map[string]string{}

// ruleName is how a test says which rule it proves.
var ruleName = regexp.MustCompile(`\b(?:[LSD]|rule )[1-9][0-9]*\b`)

// TestRules demands that every rule is named by a test, so that none is lost.
func TestRules(t *testing.T) {
	named := make(map[string]bool)
	for _, dir := range packageDirs(t, "..") {
		tests, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range tests {
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, comment := range file.Comments {
				for _, rule := range ruleName.FindAllString(comment.Text(), -1) {
					named[rule] = true
				}
			}
		}
	}
	for _, set := range rules {
		for i := range set.last {
			rule := fmt.Sprint(set.prefix, i+1)
			switch reason, known := unproved[rule]; {
			case !named[rule] && !known:
				t.Errorf("no test names %q (%s)", "// "+rule, set.source)
			case named[rule] && known:
				t.Errorf("a test names %q, so it is no longer unproved: %s", "// "+rule, reason)
			}
		}
	}
}
