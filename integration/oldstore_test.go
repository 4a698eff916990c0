package integration_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/snapshotter"
	"github.com/tocsin/tocsin/store"
)

// old is what commit 3e15afa wrote; see testdata/3e15afa/README.md.
type old struct {
	root, layout string
	tree         shown // of the image only
}

func unpackOld(t testing.TB) old {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open("testdata/3e15afa/store.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o700)
		} else {
			var b []byte
			if b, err = io.ReadAll(tr); err == nil {
				err = os.WriteFile(path, b, h.FileInfo().Mode())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	o := old{root: filepath.Join(dir, "store"), layout: filepath.Join(dir, "layout")}
	raw, err := os.ReadFile(filepath.Join(dir, "tree.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &o.tree); err != nil {
		t.Fatal(err)
	}
	return o
}

// blob is a source in the layout.
func (o old) blob(_ context.Context, src store.Source) (fill.Source, error) {
	return fileSource(filepath.Join(o.layout, "blobs", src.Blob.Algorithm().String(), src.Blob.Encoded())), nil
}

type fileSource string

func (s fileSource) ReadRanges(_ context.Context, ranges []chunked.Range, fn func(chunked.Range, io.Reader) error) error {
	f, err := os.Open(string(s))
	if err != nil {
		return err
	}
	defer f.Close()
	for _, r := range ranges {
		if err := fn(r, io.NewSectionReader(f, r.Off, r.Len)); err != nil {
			return err
		}
	}
	return nil
}

func (o old) open(t *testing.T) *local {
	t.Helper()
	st, err := store.Open(o.root, &store.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	l := &local{st, fill.New(st, &fill.Options{Window: -1, Connect: o.blob})}
	t.Cleanup(l.close)
	return l
}

var checkAll = store.CheckOptions{
	Verify:  true,
	Objects: fill.IndexObjects,
	Index:   func(b []byte) error { _, err := chunked.OpenIndex(b); return err },
	View:    func(b []byte) error { _, err := chunked.OpenView(b); return err },
}

// TestOldStore: what commit 3e15afa wrote is opened, verified, listed and shown, and containerd's snapshots with it.
func TestOldStore(t *testing.T) {
	o := unpackOld(t)
	l := o.open(t)
	names, err := l.store.Names()
	if err != nil || !slices.Equal(slices.Sorted(maps.Keys(names)), []string{"example.test/none:1", "example.test/tar:1", "example.test/upstream:1"}) {
		t.Errorf("names: %v, %v", names, err)
	}
	if found, err := l.store.Check(t.Context(), checkAll); err != nil || len(found) > 0 {
		t.Errorf("check: %+v, %v", found, err)
	}
	records, err := l.store.Records()
	if err != nil || len(records) != 3 {
		t.Fatalf("records: %+v, %v", records, err)
	}
	for _, r := range records {
		view, err := l.pool.View(t.Context(), r.Layers)
		if err != nil {
			t.Fatal(err)
		}
		o.check(t, fmt.Sprint(r.Names), l, view)
	}
	views := o.mounted(t, l)
	if len(views) != 2 {
		t.Errorf("snapshots are mounted from the views %v", views)
	}
	for name, view := range views {
		o.check(t, name, l, view)
	}
}

func (o old) check(t *testing.T, what string, l *local, view uint64) {
	t.Helper()
	got, failed, err := l.read(t.Context(), view)
	if err != nil || len(failed) > 0 || !maps.Equal(got, o.tree) {
		t.Errorf("%s: view %d: %v, %v\n%v\nwant\n%v", what, view, err, failed, got, o.tree)
	}
}

// mounted opens the snapshots and gives the view under each that is not committed.
func (o old) mounted(t *testing.T, l *local) map[string]uint64 {
	t.Helper()
	s, err := snapshotter.New(&snapshotter.Options{Root: o.root, Store: l.store, Pool: l.pool, MountDir: filepath.Join(o.root, "mnt"), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var names []string
	err = s.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		if info.Kind != snapshots.KindCommitted {
			names = append(names, info.Name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	views := map[string]uint64{}
	for _, name := range names {
		mounts, err := s.Mounts(t.Context(), name)
		if err != nil || len(mounts) != 1 {
			t.Fatalf("%s: %v, %v", name, mounts, err)
		}
		from := mounts[0].Source
		for _, option := range mounts[0].Options {
			if lower, ok := strings.CutPrefix(option, "lowerdir="); ok {
				from = lower
			}
		}
		if views[name], err = strconv.ParseUint(filepath.Base(from), 10, 64); err != nil {
			t.Fatalf("%s: %v", name, mounts)
		}
	}
	return views
}

// TestOldImages: images that 3e15afa published are pulled from where they lie, and are the same tree.
func TestOldImages(t *testing.T) {
	o := unpackOld(t)
	o.root = t.TempDir()
	for name, instances := range map[string]int{"none": 1, "hidden": 2, "upstream": 2, "only": 1} {
		images := o.images(t, name)
		if len(images) != instances {
			t.Errorf("%s has %d instances, want %d", name, len(images), instances)
		}
		for _, im := range images {
			l := o.open(t)
			o.check(t, name, l, o.pull(t, l, im))
			l.close()
		}
	}
}

// pull adds the layers of an image of the layout and gives its view.
func (o old) pull(t *testing.T, l *local, im *manifest.Image) (view uint64) {
	t.Helper()
	var layers []uint64
	for _, layer := range im.DataLayers() {
		src := store.Source{Host: "layout", Repo: "old", Blob: layer.Digest, Size: layer.Size}
		conn, _ := o.blob(t.Context(), src)
		n, err := l.pool.AddLayer(t.Context(), fill.LayerSpec{Blob: layer.Descriptor, TOC: layer.TOC, Source: src}, conn)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, n)
	}
	view, err := l.pool.View(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	return view
}

// images are those that the layout has under a name: one, or the instances of a list.
func (o old) images(t *testing.T, name string) (images []*manifest.Image) {
	t.Helper()
	var index v1.Index
	raw, err := os.ReadFile(filepath.Join(o.layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == name })
	if at < 0 {
		t.Fatalf("no image %s in %s", name, o.layout)
	}
	found := []v1.Descriptor{index.Manifests[at]}
	if found[0].MediaType == v1.MediaTypeImageIndex {
		var list v1.Index
		if err := json.Unmarshal(o.read(t, found[0]), &list); err != nil {
			t.Fatal(err)
		}
		found = list.Manifests
	}
	for _, d := range found {
		m, err := manifest.ParseManifest(o.read(t, d), "")
		if err != nil {
			t.Fatal(err)
		}
		c, cerr := manifest.ParseConfig(o.read(t, m.Config))
		im, ierr := manifest.NewImage(m, c)
		if err := errors.Join(cerr, ierr); err != nil {
			t.Fatal(err)
		}
		images = append(images, im)
	}
	return images
}

func (o old) read(t *testing.T, d v1.Descriptor) []byte {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(o.layout, "blobs", d.Digest.Algorithm().String(), d.Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestOldProgramRefuses: a program of commit 3e15afa takes the schema versions 2 and 3 and says "unknown schema version"
// to every other; what has been opened since is another. And what a later program writes is refused the same way.
func TestOldProgramRefuses(t *testing.T) {
	o := unpackOld(t)
	o.open(t).close()
	edit := func(fn func(b *bolt.Bucket) error) {
		t.Helper()
		db, err := bolt.Open(filepath.Join(o.root, "index.db"), 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error { return fn(tx.Bucket([]byte("meta"))) })
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
	}
	edit(func(b *bolt.Bucket) error {
		if v, err := strconv.Atoi(string(b.Get([]byte("schema")))); err != nil || v < 4 {
			t.Errorf("the schema version is %d: 3e15afa opens it", v)
		}
		return b.Put([]byte("schema"), []byte("99"))
	})
	if _, err := store.Open(o.root, nil); !errors.Is(err, store.ErrSchema) || !strings.Contains(err.Error(), "99") {
		t.Errorf("a store of version 99: %v", err)
	}
}
