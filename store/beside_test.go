package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A layer is put again between any two steps in which gc removes it: neither fails, gc goes on with what comes after, and
// the layer is whole.
func TestGCBesidePutLayer(t *testing.T) {
	toc := digest.FromString("layer")
	for at := range 4 {
		s := newStore(t)
		dead := s.path(layerRel(toc, ""))
		must[uint64](t)(s.PutLayer(LayerRow{TOC: toc}, testIndex("x"), []byte("split")))
		putObjects(t, s, "garbage")
		other := must[*Store](t)(Open(s.Root(), nil))
		steps := 0
		s.disk.before = func(op, path string) error {
			if op != "unlink" || path != dead && filepath.Dir(path) != dead {
				return nil
			}
			if steps++; steps-1 == at {
				row := &LayerRow{TOC: toc, IndexDigest: digest.FromBytes(testIndex("x")), SplitDigest: digest.FromString("split")}
				_, err := other.writeLayer(dead, row, testIndex("x"), []byte("split"))
				ok(t, err)
			}
			return nil
		}
		must[[]Finding](t)(s.GC(t.Context(), GCOptions{Grace: -1, Objects: testObjects}))
		s.disk.before = nil
		if steps != 3 {
			t.Errorf("gc removed a layer in %d steps", steps)
		}
		if hasObject(s, "garbage") {
			t.Errorf("step %d: gc did not go on", at)
		}
		n := must[uint64](t)(other.PutLayer(LayerRow{TOC: toc}, testIndex("x"), []byte("split")))
		if split := must[[]byte](t)(other.TarSplit(n)); string(split) != "split" {
			t.Errorf("step %d: tar-split %q", at, split)
		}
		must[*Mapped](t)(other.LayerIndex(n)).Close()
		wantClean(t, s)
	}
}

// Who puts a layer without its tar-split takes it from nobody.
func TestPutLayerWithoutTarSplit(t *testing.T) {
	s := newStore(t)
	toc := digest.FromString("layer")
	n := must[uint64](t)(s.PutLayer(LayerRow{TOC: toc}, testIndex(), []byte("split")))
	// Another process has looked for the layer before that, and found none.
	row := &LayerRow{TOC: toc, IndexDigest: digest.FromBytes(testIndex())}
	must[bool](t)(s.writeLayer(s.path(layerRel(toc, "")), row, testIndex(), nil))
	if split := must[[]byte](t)(s.TarSplit(n)); string(split) != "split" {
		t.Fatalf("%q", split)
	}
}

// Gc reports what a sparse file occupies, not how long it is.
func TestGCCountsBlocks(t *testing.T) {
	s := newStore(t)
	const size = 1 << 40
	path := s.path(objectRel(digest.FromString("sparse")))
	ok(t, s.disk.mkdir(filepath.Dir(path)))
	ok(t, os.WriteFile(path, []byte("begin"), 0o600))
	if err := os.Truncate(path, size); err != nil {
		t.Skip(err)
	}
	for _, dry := range []bool{true, false} {
		found := must[[]Finding](t)(s.GC(t.Context(), GCOptions{Grace: -1, DryRun: dry, Objects: testObjects}))
		if len(found) != 1 || found[0].Bytes > 1<<20 {
			t.Errorf("%+v", found)
		}
	}
}
