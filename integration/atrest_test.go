package integration_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// mapHeader is what a chunk map has before its marks (store/chunkmap.go): a magic of 16 bytes, a boot id, zeros.
const (
	mapBoot   = 16
	mapHeader = 64
)

// halfFilled is a store at rest in which one file of nine chunks was read to its middle, and what it came from.
type halfFilled struct {
	root    string
	far     *far
	image   *manifest.Image
	view    uint64
	want    shown
	partial string // its path, relative to root
}

func newHalfFilled(t *testing.T) *halfFilled {
	t.Helper()
	f := newFar(t)
	h := &halfFilled{root: t.TempDir(), far: f, image: f.publish(t, "half", "only", layerOf(content{"holed": holed(30, 5)}, nil))}
	h.want = goodTree(t, f, "half", h.image)
	l := openLocal(t, h.root, f)
	view, layers, err := l.add(t.Context(), f, "half", h.image)
	if err != nil {
		t.Fatal(err)
	}
	h.view = view
	readHead(t, l, layers[0], "holed", 7000) // five chunks, two of them holes
	l.close()
	for _, name := range filesBelow(t, filepath.Join(h.root, "partial")) {
		if !strings.HasSuffix(name, ".map") {
			h.partial = filepath.Join("partial", name)
		}
	}
	marks, err := os.ReadFile(filepath.Join(h.root, h.partial+".map"))
	if err != nil || !bytes.Equal(marks[mapHeader:], []byte{1, 1, 1, 1, 1, 0, 0, 0, 0}) {
		t.Fatalf("the map is %v, %v", marks[mapHeader:], err)
	}
	return h
}

// readHead reads the first n bytes of one file of a layer.
func readHead(t *testing.T, l *local, layer uint64, name string, n int) {
	t.Helper()
	ly, err := l.pool.Layer(layer)
	if err != nil {
		t.Fatal(err)
	}
	obj, ok := ly.Index().ObjectByPath(name)
	if !ok {
		t.Fatalf("no %s", name)
	}
	file, err := ly.Open(obj)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.ReadAt(t.Context(), make([]byte, n), 0); err != nil {
		t.Fatal(err)
	}
}

func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(dir, name)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// copied is a copy of the store whose file rel went through edit.
func copied(t *testing.T, root, rel string, edit func(b []byte) []byte) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(root)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(to, rel)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, edit(b), 0o600)); err != nil {
		t.Fatal(err)
	}
	return to
}

func flipped(at, bit int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 1 << bit; return b }
}

// check reads the tree twice, with the registry and then without it, and demands the right tree or errors both times.
func (h *halfFilled) check(t *testing.T, what, root string) (failed map[string]error) {
	t.Helper()
	h.far.front.Behave()
	l := openLocal(t, root, h.far)
	defer l.close()
	got, failed, err := l.read(t.Context(), h.view)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	sameOrFailed(t, what, h.want, got, failed)
	for _, err := range failed {
		if !strings.Contains(err.Error(), "object sha256:") {
			t.Errorf("%s: the error names no object: %v", what, err)
		}
	}
	h.far.front.Add(front.Rule{Do: front.Status(404, "BLOB_UNKNOWN")})
	again, failedAgain, err := l.read(t.Context(), h.view)
	if err != nil {
		t.Fatalf("%s: again: %v", what, err)
	}
	sameOrFailed(t, what+", again", h.want, again, failedAgain)
	return failed
}

// TestFlippedBitsInAPartialObject: after a reboot nothing of a partial object is believed, so a bit that flipped in it
// or in its map, at every 97th byte of the one and every byte of the other, changes nothing that is shown.
func TestFlippedBitsInAPartialObject(t *testing.T) {
	h := newHalfFilled(t)
	rebooted := copied(t, h.root, h.partial+".map", func(b []byte) []byte {
		copy(b[mapBoot:], "00000000-1111-2222-3333-444444444444")
		return b
	})
	for at := 0; at < len(holed(30, 5)); at += 97 {
		what := fmt.Sprintf("byte %d of the partial object", at)
		if failed := h.check(t, what, copied(t, rebooted, h.partial, flipped(at, at%8))); len(failed) > 0 {
			t.Errorf("%s: %v", what, failed)
		}
	}
	for at := range mapHeader + 9 {
		for _, bit := range []int{0, 5} {
			h.check(t, fmt.Sprintf("byte %d, bit %d of the map", at, bit), copied(t, rebooted, h.partial+".map", flipped(at, bit)))
		}
	}
	// One bit of the boot id itself is a reboot like any other.
	data := copied(t, h.root, h.partial, flipped(100, 3))
	h.check(t, "a flipped boot id", copied(t, data, h.partial+".map", flipped(mapBoot+3, 0)))
}

// TestAPartialObjectIsBelievedWithinABoot states the limit that docs/trust.md admits: within one boot a marked chunk is
// read as it lies, until the object is complete. Completion notices, throws the chunk away, and blames no source.
func TestAPartialObjectIsBelievedWithinABoot(t *testing.T) {
	h := newHalfFilled(t)
	h.far.front.Behave()
	l := openLocal(t, copied(t, h.root, h.partial, flipped(100, 3)), h.far)
	layer, err := l.pool.Layer(1)
	if err != nil {
		t.Fatal(err)
	}
	want := holed(30, 5)
	file, err := layer.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	got := make([]byte, 1000)
	if _, err := file.ReadAt(t.Context(), got, 0); err != nil || bytes.Equal(got, want[:1000]) {
		t.Errorf("the flipped byte was noticed (%v): docs/trust.md says less than is true", err)
	}
	if err := layer.Ensure(t.Context(), nil, fill.Foreground); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("completion: %v", err)
	}
	if _, err := file.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want[:1000]) {
		t.Errorf("after completion failed: %v", err)
	}
	if err := layer.Ensure(t.Context(), nil, fill.Foreground); err != nil {
		t.Error(err)
	}
	if row, err := l.store.Layer(1); err != nil || row.Quarantined {
		t.Errorf("the source was blamed for the disk: %+v, %v", row, err)
	}
}

// TestFlippedBitsAtRest: a bit that flips in what the store made of an image, at every 97th byte, is noticed before it
// shows: in the layer index, the tar-split and the view. The error names the layer or the view.
func TestFlippedBitsAtRest(t *testing.T) {
	f := newFar(t)
	files, more := smallLayer()
	im := f.publish(t, "small", "none", layerOf(files, more))
	root := t.TempDir()
	l := openLocal(t, root, f)
	view, layers, err := l.add(t.Context(), f, "small", im)
	if err != nil {
		t.Fatal(err)
	}
	want, failed, err := l.read(t.Context(), view)
	if err != nil || len(failed) > 0 {
		t.Fatal(err, failed)
	}
	diffID := im.DataLayers()[0].DiffID
	if err := l.pool.VerifyDiffID(t.Context(), layers[0], diffID); err != nil {
		t.Fatal(err)
	}
	l.close()
	var tree, index, split string
	for _, name := range filesBelow(t, root) {
		switch filepath.Base(name) {
		case "tree":
			tree = name
		case "index":
			index = name
		case "tar-split":
			split = name
		}
	}
	look := func(l *local) error {
		got, failed, err := l.read(t.Context(), view)
		if err != nil {
			return err
		}
		sameOrFailed(t, "at rest", want, got, failed)
		for _, err := range failed {
			return err
		}
		return nil
	}
	for _, c := range []struct {
		rel, names string
		look       func(l *local) error
	}{
		{tree, fmt.Sprintf("view %d", view), look},
		{index, fmt.Sprintf("layer %d", layers[0]), look},
		{split, fmt.Sprintf("layer %d", layers[0]), func(l *local) error {
			ly, err := l.pool.Layer(layers[0])
			if err != nil {
				return err
			}
			h := diffID.Algorithm().Digester()
			if err := ly.WriteTar(t.Context(), h.Hash()); err != nil {
				return err
			}
			if got := h.Digest(); got != diffID {
				t.Errorf("%s: a tar of digest %s, and no error", split, got)
			}
			return nil
		}},
	} {
		b, err := os.ReadFile(filepath.Join(root, c.rel))
		if err != nil {
			t.Fatal(err)
		}
		noticed := 0
		for at := 0; at < len(b); at += 97 {
			l := openLocal(t, copied(t, root, c.rel, flipped(at, at%8)), f)
			if err := c.look(l); err != nil {
				noticed++
				if !strings.Contains(err.Error(), c.names) {
					t.Errorf("%s, byte %d: the error does not name %s: %v", c.rel, at, c.names, err)
				}
			}
			l.close()
		}
		if noticed == 0 {
			t.Errorf("%s: no flip of %d bytes was noticed", c.rel, len(b))
		}
	}
}

// TestRotInACompleteObject states what docs/trust.md says: a reader does not notice it, check --verify does and names
// the object, and a repair leads to the right bytes again.
func TestRotInACompleteObject(t *testing.T) {
	f := newFar(t)
	files, more := smallLayer()
	im := f.publish(t, "small", "only", layerOf(files, more))
	root := t.TempDir()
	l := openLocal(t, root, f)
	view, layers, err := l.add(t.Context(), f, "small", im)
	if err != nil {
		t.Fatal(err)
	}
	ly, err := l.pool.Layer(layers[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := ly.Ensure(t.Context(), nil, fill.Foreground); err != nil {
		t.Fatal(err)
	}
	want, _, err := l.read(t.Context(), view)
	if err != nil {
		t.Fatal(err)
	}
	l.close()
	objects := filesBelow(t, filepath.Join(root, "objects"))
	if len(objects) != 3 {
		t.Fatal(objects)
	}
	for _, name := range objects {
		rotten := openLocal(t, copied(t, root, filepath.Join("objects", name), flipped(0, 1)), f)
		o := store.CheckOptions{Verify: true, Objects: fill.IndexObjects}
		found, err := rotten.store.Check(t.Context(), o)
		if err != nil || len(found) != 1 || !strings.Contains(found[0].Object, name) || found[0].Done {
			t.Errorf("check found %+v, %v", found, err)
		}
		o.Repair = true
		found, err = rotten.store.Check(t.Context(), o)
		if err != nil || len(found) != 1 || !found[0].Done {
			t.Errorf("repair: %+v, %v", found, err)
		}
		got, failed, err := rotten.read(t.Context(), view)
		if err != nil || len(failed) > 0 {
			t.Error(err, failed)
		}
		sameOrFailed(t, "repaired", want, got, failed)
		rotten.close()
	}
}
