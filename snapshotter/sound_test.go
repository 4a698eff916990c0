package snapshotter

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestRotInMetadata: whatever bit of metadata.db is wrong, the daemon starts or says why not, and does not crash.
func TestRotInMetadata(t *testing.T) {
	root := t.TempDir()
	r := newRegistry()
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "content")), true)
	d := start(t, root, r, Options{})
	if _, err := d.pull("ns", im); err != nil {
		t.Fatal(err)
	}
	d.stop(t)
	path := filepath.Join(root, "snapshots", "metadata.db")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	rnd := rand.New(rand.NewPCG(5, 5))
	for i := range 150 {
		at := rnd.IntN(len(good))
		if i%2 == 0 { // where pages say what they are
			at = at/4096*4096 + at%80
		}
		bad := slices.Clone(good)
		bad[at] ^= 1 << rnd.IntN(8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if verifyMetadata(path) != nil {
			refused++
			if CheckMetadata(root) == nil {
				t.Errorf("byte %d: check does not notice", at)
			}
			if s, err := New(&Options{Root: root}); err == nil {
				t.Errorf("byte %d: a damaged metadata.db is opened", at)
				s.Close()
			}
			continue
		}
		s, err := New(&Options{Root: root})
		if err != nil {
			continue
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if refused == 0 {
		t.Error("no flip was noticed")
	}
}
