package store

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// One file changes the disk, so one file is where the crash test looks.
func TestOneFileChangesTheDisk(t *testing.T) {
	changes := regexp.MustCompile(`os\.(Rename|Remove|RemoveAll|Link|Symlink|Mkdir|MkdirAll)\(|unix\.(Unlink|Rename|Link|Syncfs)|\.Sync\(\)`)
	files := must[[]string](t)(filepath.Glob("*.go"))
	seen := false
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		found := changes.FindAllString(string(must[[]byte](t)(os.ReadFile(file))), -1)
		if file == "durable.go" {
			seen = len(found) > 0
		} else if len(found) > 0 {
			t.Errorf("%s: %v", file, found)
		}
	}
	if !seen {
		t.Error("durable.go changes nothing: the expression is wrong")
	}
}
