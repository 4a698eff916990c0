package integration_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// flipsPerKind is how many bytes of each kind of file are damaged, one after another.
const flipsPerKind = 150

// sick is a store with a layer by its TOC, one of a tar whose blob is kept, and one of which a file is here in part.
type sick struct {
	*halfFilled
	names  map[string]string // of images: where they came from
	views  map[string]shown
	chains map[string][]uint64
}

func newSick(t *testing.T) *sick {
	t.Helper()
	s := &sick{halfFilled: newHalfFilled(t), names: map[string]string{}, views: map[string]shown{}, chains: map[string][]uint64{}}
	files, more := smallLayer()
	s.far.publish(t, "toc", "none", layerOf(files, more))
	s.far.publishAs(t, "tar", &copy.Options{}, layerOf(content{"only-here": noise(50, 3000), "words": []byte("of a tar")}, nil))
	for _, repo := range []string{"toc", "tar"} {
		s.names["store:sick.test/"+repo+":1"] = s.far.ref(repo)
	}
	l := openLocal(t, s.root, s.far)
	s.pull(t, l)
	for name := range s.names {
		s.views[name] = s.tree(t, l, name)
	}
	l.close()
	return s
}

// pull copies the images into the store and names the layer again that is here in part.
func (s *sick) pull(t *testing.T, l *local) {
	t.Helper()
	env := &copy.Env{Registry: s.far.client, Store: l.store, Pool: l.pool}
	for name, from := range s.names {
		if _, err := copy.Copy(t.Context(), env, ref(t, from), ref(t, name), &copy.Options{Layers: copy.Layers{KeepBlobs: strings.Contains(name, "tar")}}); err != nil {
			t.Fatalf("pull %s: %v", name, err)
		}
	}
	_, layers, err := l.add(t.Context(), s.far, "half", s.image)
	if err != nil {
		t.Fatalf("pull half: %v", err)
	}
	readHead(t, l, layers[0], "holed", 7000) // what a repair made missing is here again
}

// tree reads what an image shows.
func (s *sick) tree(t *testing.T, l *local, name string) shown {
	t.Helper()
	records, _, err := l.store.Resolve(ref(t, name).StoreName())
	if err != nil || len(records) == 0 {
		t.Fatalf("%s: %v, %v", name, records, err)
	}
	view, err := l.pool.View(t.Context(), records[0].Layers)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	tree, failed, err := l.read(t.Context(), view)
	if err != nil || len(failed) > 0 {
		t.Fatalf("%s: %v, %v", name, failed, err)
	}
	return tree
}

func (s *sick) options(l *local, repair bool) store.CheckOptions {
	o := checkAll
	o.Chunks, o.Repair, o.Mend, o.Remake = fill.IndexChunks, repair, l.pool.Mend, l.pool.ViewOf
	return o
}

// heal does what an operator does: check --verify, check --repair, with --rebuild where nothing else will open the
// store, and a pull. It says whether the damage was noticed, and demands that nothing is left of it.
func (s *sick) heal(t *testing.T, what string) (noticed bool) {
	t.Helper()
	st, err := store.Open(s.root, &store.Options{Logger: quiet()})
	if err == nil {
		st.Close()
	} else {
		if !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrSchema) {
			t.Fatalf("%s: open: %v", what, err)
		}
		if _, err := store.Rebuild(s.root, &store.Options{Logger: quiet()}, checkAll.Index); err != nil {
			t.Fatalf("%s: rebuild: %v", what, err)
		}
		noticed = true
	}
	l := openLocal(t, s.root, s.far)
	found, err := l.store.Check(t.Context(), s.options(l, false))
	if err != nil {
		t.Fatalf("%s: check: %v", what, err)
	}
	noticed = noticed || len(found) > 0
	if _, err := l.store.Check(t.Context(), s.options(l, true)); err != nil {
		t.Fatalf("%s: repair: %v", what, err)
	}
	s.pull(t, l)
	l.close()

	l = openLocal(t, s.root, s.far)
	defer l.close()
	if left, err := l.store.Check(t.Context(), s.options(l, false)); err != nil || len(left) > 0 {
		t.Fatalf("%s: found %+v, and after the repair and a pull %+v, %v", what, found, left, err)
	}
	for name, want := range s.views {
		if got := s.tree(t, l, name); !maps.Equal(got, want) {
			t.Fatalf("%s: WRONG: %s shows %v, want %v", what, name, got, want)
		}
	}
	return noticed
}

// shownViews leaves out what gc would remove: trees that were replaced.
func (s *sick) shownViews(t *testing.T, files []string) []string {
	t.Helper()
	l := openLocal(t, s.root, s.far)
	defer l.close()
	return slices.DeleteFunc(files, func(name string) bool {
		n, err := strconv.ParseUint(filepath.Dir(name), 10, 64)
		if err == nil {
			_, err = l.store.ViewChain(n)
		}
		return err != nil
	})
}

// used is a place in a file that is not in an empty part of it, if a few tries find one.
func used(t *testing.T, path string, rnd *rand.Rand) (at int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if at = rnd.IntN(len(b)); b[at] != 0 {
			break
		}
	}
	return at
}

// damage flips a bit of a file in place, as a disk does.
func damage(t *testing.T, path string, at int, bit int) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 1 << bit
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600), os.Chmod(path, fi.Mode())); err != nil {
		t.Fatal(err)
	}
}

// TestRotHeals: whatever byte of whatever file at rest is wrong, check --verify says so, check --repair and a new pull
// leave a clean store, and the trees are right.
func TestRotHeals(t *testing.T) {
	for _, kind := range []struct {
		name, below string
		is          func(name string) bool
		all         bool // every flip is noticed
	}{
		{"layer index", "layers", func(n string) bool { return filepath.Base(n) == "index" }, true},
		{"tar-split", "layers", func(n string) bool { return filepath.Base(n) == "tar-split" }, true},
		{"view", "views", func(n string) bool { return filepath.Base(n) == "tree" }, true},
		{"blobs", "blobs", func(string) bool { return true }, true},
		{"objects", "objects", func(string) bool { return true }, true},
		{"partial object", "partial", func(n string) bool { return !strings.HasSuffix(n, ".map") }, false},
		{"map", "partial", func(n string) bool { return strings.HasSuffix(n, ".map") }, false},
		{"index.db", ".", func(n string) bool { return n == "index.db" }, false},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			s := newSick(t)
			rnd := rand.New(rand.NewPCG(7, uint64(len(kind.name))))
			noticed := 0
			flips := flipsPerKind
			if testing.Short() {
				flips /= 10
			}
			for range flips {
				files := slices.DeleteFunc(filesBelow(t, filepath.Join(s.root, kind.below)), func(n string) bool { return !kind.is(n) })
				if kind.below == "views" {
					files = s.shownViews(t, files)
				}
				if len(files) == 0 {
					t.Fatal("no such file")
				}
				slices.Sort(files)
				file := filepath.Join(s.root, kind.below, files[rnd.IntN(len(files))])
				fi, err := os.Stat(file)
				if err != nil {
					t.Fatal(err)
				}
				if fi.Size() == 0 {
					continue
				}
				at, bit := used(t, file, rnd), rnd.IntN(8)
				damage(t, file, at, bit)
				what := fmt.Sprintf("%s, byte %d, bit %d", strings.TrimPrefix(file, s.root), at, bit)
				if s.heal(t, what) {
					noticed++
				} else if kind.all {
					t.Errorf("%s: not noticed", what)
				}
			}
			t.Logf("%d of %d noticed", noticed, flips)
			if noticed == 0 && kind.name != "map" { // a mark that is none is a chunk to fetch, and no damage
				t.Error("no flip was noticed")
			}
		})
	}
}

// TestMissingFilesHeal: the same for files that are gone.
func TestMissingFilesHeal(t *testing.T) {
	s := newSick(t)
	for _, below := range []string{"layers", "views", "blobs", "objects", "partial"} {
		for _, name := range filesBelow(t, filepath.Join(s.root, below)) {
			if err := os.Remove(filepath.Join(s.root, below, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			s.heal(t, filepath.Join(below, name))
		}
	}
	if err := os.Remove(filepath.Join(s.root, "index.db")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Rebuild(s.root, &store.Options{Logger: quiet()}, checkAll.Index); err != nil {
		t.Fatal(err)
	}
	s.heal(t, "index.db")
}

// TestPullHeals: a new pull alone mends a layer's files, its row and a config, and a mount a view.
func TestPullHeals(t *testing.T) {
	s := newSick(t)
	for _, name := range append(filesBelow(t, filepath.Join(s.root, "layers")), filesBelow(t, filepath.Join(s.root, "views"))...) {
		below := "layers"
		if filepath.Base(name) == "tree" {
			below = "views"
		}
		path := filepath.Join(s.root, below, name)
		damage(t, path, 100, 2)
		l := openLocal(t, s.root, s.far)
		s.pull(t, l)
		for name, want := range s.views {
			if got := s.tree(t, l, name); !maps.Equal(got, want) {
				t.Errorf("%s: %v", name, got)
			}
		}
		if below == "views" { // the layer that is here in part has a view of its own
			if _, err := l.pool.View(t.Context(), []uint64{1}); err != nil {
				t.Error(err)
			}
		}
		if left, err := l.store.Check(t.Context(), s.options(l, false)); err != nil || len(left) > 0 {
			t.Errorf("%s: after a pull: %+v, %v", path, left, err)
		}
		l.close()
	}
}

// TestRotStopsGCForItself: gc frees what nothing leads to beside a layer whose index cannot be read, and a row that
// cannot be.
func TestRotStopsGCForItself(t *testing.T) {
	s := newSick(t)
	l := openLocal(t, s.root, s.far)
	records, err := l.store.Records()
	if err != nil {
		t.Fatal(err)
	}
	var toc *store.LayerRow
	for _, r := range records {
		row, err := l.store.Layer(r.Layers[0])
		if err != nil {
			t.Fatal(err)
		}
		if row.TOC != "" {
			toc = row
		}
	}
	l.close()
	damage(t, filepath.Join(s.root, "layers", "toc-sha256-"+toc.TOC.Encoded(), "index"), 200, 1)
	l = openLocal(t, s.root, s.far)
	defer l.close()
	if err := l.store.RemoveName(ref(t, "store:sick.test/tar:1").StoreName()); err != nil {
		t.Fatal(err)
	}
	found, err := l.store.GC(t.Context(), store.GCOptions{Grace: -1, Objects: fill.IndexObjects})
	if err != nil {
		t.Fatal(err)
	}
	said, freed := false, false
	for _, f := range found {
		said = said || f.Kind == "corrupt" && strings.Contains(f.Object, fmt.Sprintf("layer %d", toc.Number))
		freed = freed || strings.HasPrefix(f.Object, "objects/")
	}
	if !said || !freed {
		t.Errorf("gc beside a damaged index: %+v", found)
	}
	s.pull(t, l) // what was freed for it comes back
	for name, want := range s.views {
		if got := s.tree(t, l, name); !maps.Equal(got, want) {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestTarSplitOfAKnownLayer: an image that names a known layer's TOC without its tar-split does not keep the layer from
// having it, in whatever order the two come.
func TestTarSplitOfAKnownLayer(t *testing.T) {
	f := newFar(t)
	files, more := smallLayer()
	im := f.publish(t, "victim", "none", layerOf(files, more))
	layer := im.DataLayers()[0]
	bare := *layer.TOC
	bare.TarSplit, bare.TarSplitRawLen = manifest.Range{}, 0
	l := openLocal(t, t.TempDir(), f)
	n, err := l.addLayer(t.Context(), f, "victim", layer.Descriptor, &bare)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.store.TarSplit(n); !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	for _, toc := range []*manifest.TOCRef{layer.TOC, &bare} {
		again, err := l.addLayer(t.Context(), f, "victim", layer.Descriptor, toc)
		if err != nil || again != n {
			t.Fatal(again, err)
		}
		if err := l.pool.VerifyDiffID(t.Context(), n, layer.DiffID); err != nil {
			t.Error(err)
		}
	}
}
