package store

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A scratch file has no name and is gone from memory and disk after Close.
func TestScratch(t *testing.T) {
	s := must[*Store](t)(Open(t.TempDir(), nil))
	t.Cleanup(func() { s.Close() })
	m := must[*Mapped](t)(s.Scratch(3 << 20))
	b := m.Bytes()
	if len(b) != 3<<20 {
		t.Fatalf("%d bytes", len(b))
	}
	b[0], b[len(b)-1] = 1, 2
	left, err := os.ReadDir(filepath.Join(s.Root(), "ingest"))
	if err != nil || len(left) != 0 {
		t.Errorf("under ingest: %v, %v", left, err)
	}
	mapped := func() bool {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Skip(err)
		}
		return strings.Contains(string(maps), s.Root()+"/ingest/")
	}
	if !mapped() {
		t.Error("it is not in a file")
	}
	if err := m.Close(); err != nil || mapped() {
		t.Errorf("after Close: %v", err)
	}
	for _, n := range []int64{0, -1, 1 << 62} {
		if _, err := s.Scratch(n); err == nil {
			t.Errorf("%d bytes were given", n)
		}
	}
}
