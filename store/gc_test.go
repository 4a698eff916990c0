package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func reader(s string) io.Reader { return strings.NewReader(s) }

func putBytes(t testing.TB, s *Store, b []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(b)
	ok(t, s.PutBlob(context.Background(), d, bytes.NewReader(b)))
	return d
}

func putObjects(t testing.TB, s *Store, contents ...string) {
	t.Helper()
	b := s.NewBatch()
	for _, c := range contents {
		ok(t, b.Put(digest.FromString(c), int64(len(c)), reader(c)))
	}
	ok(t, b.Commit())
}

func hasObject(s *Store, c string) bool { return s.HasObject(digest.FromString(c), int64(len(c))) }

// gcAll runs gc without a grace period.
func gcAll(t testing.TB, s *Store, o GCOptions) []Finding {
	t.Helper()
	o.Grace, o.Objects = -1, testObjects
	f := must[[]Finding](t)(s.GC(context.Background(), o))
	wantClean(t, s)
	return f
}

// gcStore holds one named image over layer "kept" and garbage of every kind.
func gcStore(t testing.TB) (s *Store, im image, kept uint64) {
	s = newStore(t)
	putObjects(t, s, "kept", "shared", "dead", "orphan")
	kept = putTOC(t, s, "kept", "kept", "shared")
	dead := putTOC(t, s, "dead", "dead", "shared")
	must[uint64](t)(s.PutView(Chain{Layers: []uint64{dead}}, []byte("tree")))
	im = putImage(t, s, "linux/amd64", kept)
	ok(t, s.Commit(Commit{Records: []Record{im.record}, Manifests: im.manifests, Name: "img"}))
	old := putImage(t, s, "linux/arm64", dead)
	ok(t, s.Commit(Commit{Records: []Record{old.record}, Manifests: old.manifests, Name: "old",
		Signatures: map[digest.Digest][][]byte{old.record.Manifest: {[]byte("sig")}}}))
	ok(t, s.RemoveName("old"))
	putBytes(t, s, []byte("orphan blob"))
	return s, im, kept
}

func TestGC(t *testing.T) {
	s, im, kept := gcStore(t)
	before := filesBelow(t, s.Root())
	dry := gcAll(t, s, GCOptions{DryRun: true})
	if after := filesBelow(t, s.Root()); !slices.Equal(before, after) {
		t.Fatalf("dry run changed files: %v", after)
	}
	if f := must[[]Finding](t)(s.GC(context.Background(), GCOptions{Objects: testObjects})); len(f) != 0 {
		t.Fatalf("gc inside the grace period: %+v", f)
	}
	var dropped []uint64
	wet := gcAll(t, s, GCOptions{DropView: func(n uint64) error {
		_, err := s.ViewChain(n)
		wantIs(t, err, ErrNotFound) // the row goes first
		if !exists(s.path(viewRel(n))) {
			t.Error("the tree went before the daemon knew")
		}
		dropped = append(dropped, n)
		return nil
	}})
	objects := func(fs []Finding) (names []string) {
		for _, f := range fs {
			names = append(names, f.Object)
		}
		slices.Sort(names)
		return names
	}
	if !slices.Equal(objects(dry), objects(wet)) || len(wet) == 0 {
		t.Errorf("dry run said %v, gc did %v", objects(dry), objects(wet))
	}
	if !slices.Equal(dropped, []uint64{1}) {
		t.Errorf("dropped views %v", dropped)
	}
	if !hasObject(s, "kept") || !hasObject(s, "shared") || hasObject(s, "dead") || hasObject(s, "orphan") {
		t.Error("objects")
	}
	if rows := must[[]LayerRow](t)(s.Layers()); len(rows) != 1 || rows[0].Number != kept {
		t.Errorf("layers %+v", rows)
	}
	if records := must[[]Record](t)(s.Records()); len(records) != 1 || records[0].Manifest != im.record.Manifest {
		t.Errorf("records %+v", records)
	}
	if blobs := filesBelow(t, s.path("blobs")); len(blobs) != 1 {
		t.Errorf("blobs %v", blobs)
	}
	if f := gcAll(t, s, GCOptions{}); len(f) != 0 {
		t.Errorf("second gc: %+v", f)
	}
	ok(t, s.RemoveName("img"))
	gcAll(t, s, GCOptions{})
	for _, dir := range []string{"blobs", "objects", "layers", "views", "partial", "ingest"} {
		if left := filesBelow(t, s.path(dir)); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}

func TestGCKeepsListAndInstances(t *testing.T) {
	s := newStore(t)
	a, b := putImage(t, s, "linux/amd64"), putImage(t, s, "linux/arm64")
	list := listOf(a, b)
	ok(t, s.Commit(Commit{Records: []Record{a.record}, Manifests: append(append(a.manifests, b.manifests...), list), Name: "img", Top: list.Digest}))
	gcAll(t, s, GCOptions{})
	for _, d := range []digest.Digest{list.Digest, a.record.Manifest, b.record.Manifest} {
		if _, _, err := s.Manifest(d); err != nil {
			t.Error(err)
		}
	}
	if _, there := s.HasBlob(b.record.Config); !there {
		t.Error("the config of an instance without a record is gone")
	}
}

func TestPinsKeep(t *testing.T) {
	s := newStore(t)
	putObjects(t, s, "a", "b")
	loose := putBytes(t, s, []byte("loose"))
	a, b := putTOC(t, s, "a", "a"), putTOC(t, s, "b", "b")
	view := must[uint64](t)(s.PutView(Chain{Layers: []uint64{b}}, []byte("tree")))
	im := putImage(t, s, "linux/amd64")
	ok(t, s.PutManifest(im.manifests[0].Raw, im.record.Manifest, im.manifests[0].MediaType))
	wantIs(t, s.Pin("x", PinTarget{Layers: []uint64{99}}, PinOptions{}), ErrNotFound)
	wantIs(t, s.Pin("x", PinTarget{Views: []uint64{99}}, PinOptions{}), ErrNotFound)
	wantIs(t, s.Pin("", PinTarget{}, PinOptions{}), ErrConflict)

	ok(t, s.Pin("snapshot/1", PinTarget{Layers: []uint64{a}}, PinOptions{}))
	ok(t, s.Pin("mount/x", PinTarget{Views: []uint64{view}}, PinOptions{Process: true}))
	ok(t, s.Pin("m", PinTarget{Manifests: []digest.Digest{im.record.Manifest}, Blobs: []digest.Digest{loose}},
		PinOptions{Expires: s.now().Add(time.Hour)}))
	if f := gcAll(t, s, GCOptions{}); len(f) != 0 {
		t.Fatalf("gc took %+v", f)
	}
	if pins := must[[]PinInfo](t)(s.Pins("snapshot/")); len(pins) != 1 || pins[0].ID != "snapshot/1" || pins[0].Process {
		t.Fatalf("pins %+v", pins)
	}
	if pins := must[[]PinInfo](t)(s.Pins("")); len(pins) != 3 {
		t.Fatalf("pins %+v", pins)
	}

	later := s.now().Add(2 * time.Hour)
	s.now = func() time.Time { return later }
	gcAll(t, s, GCOptions{})
	if _, there := s.HasBlob(loose); there || !hasObject(s, "a") || !hasObject(s, "b") {
		t.Fatal("expiry")
	}
	ok(t, s.Unpin("snapshot/1"))
	ok(t, s.Unpin("snapshot/1"))
	gcAll(t, s, GCOptions{})
	if hasObject(s, "a") || !hasObject(s, "b") {
		t.Fatal("unpin")
	}
	ok(t, s.Close()) // ends process pins
	gcAll(t, s, GCOptions{})
	if hasObject(s, "b") {
		t.Fatal("process pin outlived its store")
	}
	if left := filesBelow(t, s.path("pins")); len(left) != 0 {
		t.Fatalf("lock files left: %v", left)
	}
}

// What becomes reachable after the mark is found before the unlinks: here a pin that is made by the callback which
// gc calls between them.
func TestGCSeesLatePins(t *testing.T) {
	s := newStore(t)
	putObjects(t, s, "late", "dead")
	must[uint64](t)(s.PutView(Chain{Layers: nil}, []byte("tree")))
	f := gcAll(t, s, GCOptions{DropView: func(uint64) error {
		n := putTOC(t, s, "late", "late")
		return s.Pin("p", PinTarget{Layers: []uint64{n}}, PinOptions{})
	}})
	if !hasObject(s, "late") || hasObject(s, "dead") {
		t.Fatalf("gc: %+v", f)
	}
}

func TestGCKeepsViewThatDaemonHolds(t *testing.T) {
	s := newStore(t)
	n := must[uint64](t)(s.PutView(Chain{Layers: nil}, []byte("tree")))
	f := gcAll(t, s, GCOptions{DropView: func(uint64) error { return errors.New("busy") }})
	if len(f) != 1 || f[0].Kind != "kept" || !exists(s.path(viewRel(n))) {
		t.Fatalf("%+v", f)
	}
	if f = gcAll(t, s, GCOptions{}); len(f) != 1 || exists(s.path(viewRel(n))) {
		t.Fatalf("next gc: %+v", f)
	}
}

// A layer whose index cannot be read might need any object. What is in use keeps them all; what is not and has a source
// keeps none.
func TestGCBlind(t *testing.T) {
	s, _, _ := gcStore(t)
	kept := digest.FromString("kept")
	path := s.path(layerRel(kept, "") + "/" + indexFile)
	ok(t, os.Chmod(path, 0o600))
	ok(t, os.WriteFile(path, []byte("rot"), 0o600))
	n := must[*LayerRow](t)(s.LayerByTOC(kept)).Number
	ok(t, s.AddSource(n, src("a")))
	ok(t, s.Pin("mount/x", PinTarget{Layers: []uint64{n}}, PinOptions{}))
	must[[]Finding](t)(s.GC(context.Background(), GCOptions{Grace: -1, Objects: testObjects}))
	if !hasObject(s, "kept") || !hasObject(s, "orphan") {
		t.Fatal("objects went although a layer in use could not be read")
	}
	ok(t, s.Unpin("mount/x"))
	found := must[[]Finding](t)(s.GC(context.Background(), GCOptions{Grace: -1, Objects: testObjects}))
	if hasObject(s, "orphan") || !slices.ContainsFunc(found, func(f Finding) bool { return f.Kind == "corrupt" }) {
		t.Fatalf("a damaged layer that nobody uses keeps objects, or is not reported: %+v", found)
	}
	if exists(s.path(layerRel(digest.FromString("dead"), ""))) {
		t.Fatal("what needs no objects may go")
	}
}

func TestGCPartials(t *testing.T) {
	s := newStore(t)
	open, closed, wanted := newTestFile(2), newTestFile(3), newTestFile(4)
	p := open.open(t, s)
	closed.open(t, s).Close()
	wanted.open(t, s).Close()
	k := wanted.key()
	index := []byte(string(k.Digest) + " " + string(k.List) + " 32\n")
	n := must[uint64](t)(s.PutLayer(LayerRow{TOC: digest.FromString("t")}, index, nil))
	ok(t, s.Pin("p", PinTarget{Layers: []uint64{n}}, PinOptions{}))
	gcAll(t, s, GCOptions{})
	wantPartials(t, s, 4)
	if !exists(p.path) || !exists(s.path(partialRel(k.Digest, k.List))) {
		t.Fatal("took one in use or wanted")
	}
	for i := range open.n {
		open.fill(t, p, i)
	}
	ok(t, p.Finish())
	ok(t, os.WriteFile(s.path(partialRel(open.key().Digest, k.List))+".map", nil, 0o600))
	gcAll(t, s, GCOptions{})
	wantPartials(t, s, 2)
}

func TestGCLeftovers(t *testing.T) {
	s := newStore(t)
	putObjects(t, s, "x")
	putBytes(t, s, []byte("x"))
	dead := []string{"blobs/sha256/.tmp-1", "objects/sha256/" + digest.FromString("x").Encoded()[:2] + "/.tmp-2", "ingest/index.new", "ingest/batch-1/7",
		layerRel(digest.FromString("half"), "") + "/index", "views/9/tree"}
	for _, rel := range dead {
		ok(t, s.disk.write(s.path(rel), 0o600, fillBytes(nil)))
	}
	foreign := s.path("blobs/sha256/README")
	ok(t, os.WriteFile(foreign, nil, 0o600))
	b := s.NewBatch() // at work: must not be disturbed
	ok(t, b.Put(digest.FromString("live"), 4, reader("live")))
	gcAll(t, s, GCOptions{})
	for _, rel := range dead {
		if exists(s.path(rel)) {
			t.Errorf("%s is still there", rel)
		}
	}
	if !exists(foreign) {
		t.Error("took a file that is none of ours")
	}
	ok(t, b.Commit())
	if !hasObject(s, "live") {
		t.Error("gc broke a batch")
	}
}

// A batch that finds an old object makes it young before gc can take it, or sees that gc was faster.
func TestGCAgainstReuse(t *testing.T) {
	s := newStore(t)
	putObjects(t, s, "reused")
	path := s.path(objectRel(digest.FromString("reused")))
	old := time.Now().Add(-48 * time.Hour)
	ok(t, os.Chtimes(path, old, old))
	b := s.NewBatch()
	ok(t, b.Put(digest.FromString("reused"), 6, nil))
	must[[]Finding](t)(s.GC(context.Background(), GCOptions{Objects: testObjects}))
	ok(t, b.Commit())
	if !hasObject(s, "reused") {
		t.Fatal("gc took an object that a batch had found")
	}
	ok(t, os.Chtimes(path, old, old))
	must[[]Finding](t)(s.GC(context.Background(), GCOptions{Objects: testObjects}))
	if hasObject(s, "reused") {
		t.Fatal("gc kept an old object")
	}
}

// Writers, readers and gc at once; what was committed stays whole.
func TestGCConcurrent(t *testing.T) {
	s := newStore(t)
	done := make(chan error)
	const writers, rounds = 3, 8
	for w := range writers {
		go func() { done <- commitRounds(s, w, rounds) }()
	}
	for range writers {
		for running := true; running; {
			select {
			case err := <-done:
				ok(t, err)
				running = false
			default:
				must[[]Finding](t)(s.GC(context.Background(), GCOptions{Objects: testObjects}))
			}
		}
	}
	wantClean(t, s)
	if names := must[map[string]digest.Digest](t)(s.Names()); len(names) != writers {
		t.Fatalf("names %v", names)
	}
	for w := range writers {
		if !hasObject(s, content(w, rounds-1)) {
			t.Errorf("writer %d lost its content", w)
		}
	}
}

func content(w, i int) string { return strings.Repeat(string(rune('a'+w)), i+1) }

func commitRounds(s *Store, w, rounds int) error {
	for i := range rounds {
		c := content(w, i)
		b := s.NewBatch()
		if err := b.Put(digest.FromString(c), int64(len(c)), reader(c)); err != nil {
			return err
		}
		if err := b.Commit(); err != nil {
			return err
		}
		n, err := s.PutLayer(LayerRow{TOC: digest.FromString("toc " + c)}, testIndex(c), nil)
		if err != nil {
			return err
		}
		config := []byte("{}" + c)
		m := raw(map[string]any{"mediaType": "x", "c": c})
		if err := s.PutBlob(context.Background(), digest.FromBytes(config), bytes.NewReader(config)); err != nil {
			return err
		}
		err = s.Commit(Commit{Name: string(rune('a' + w)), Manifests: []RawManifest{m},
			Records: []Record{{Manifest: m.Digest, Config: digest.FromBytes(config), Layers: []uint64{n}}}})
		if err != nil {
			return err
		}
	}
	return nil
}

// What gc takes while Check looks is not missing.
func TestCheckBesideGC(t *testing.T) {
	for _, beforeIndex := range []bool{true, false} {
		s := newStore(t)
		putObjects(t, s, "x")
		must[uint64](t)(s.PutLayer(LayerRow{DiffID: digest.FromString("tar")}, testIndex("x"), nil))
		collect := func() {
			must[[]Finding](t)(s.GC(context.Background(), GCOptions{Grace: -1, Objects: testObjects}))
		}
		o := checkAll()
		o.Index = func([]byte) error {
			if beforeIndex {
				collect()
			}
			return nil
		}
		o.Objects = func(index []byte) ([]ObjectRef, error) {
			refs, err := testObjects(bytes.Clone(index))
			collect()
			return refs, err
		}
		if f := must[[]Finding](t)(s.Check(context.Background(), o)); len(f) != 0 {
			t.Errorf("check: %+v", f)
		}
		if hasObject(s, "x") {
			t.Fatal("gc took nothing")
		}
	}
}

// While the index of some layer cannot be read nobody knows who needs an object, so Check repairs none.
func TestCheckRepairsNothingBlindly(t *testing.T) {
	s := newStore(t)
	putObjects(t, s, "x")
	n := must[uint64](t)(s.PutLayer(LayerRow{DiffID: digest.FromString("tar")}, testIndex("x"), nil))
	dir := must[string](t)(s.layerDir(n))
	for _, path := range []string{dir + "/" + indexFile, s.path(objectRel(digest.FromString("x")))} {
		ok(t, os.Chmod(path, 0o600))
		ok(t, os.WriteFile(path, []byte("?"), 0o600))
	}
	o := checkAll()
	o.Repair = true
	if f := must[[]Finding](t)(s.Check(context.Background(), o)); len(f) != 2 || !exists(s.path(objectRel(digest.FromString("x")))) {
		t.Errorf("check: %+v", f)
	}
}

// The names that an EROFS view uses are links, and they go before their object.
func TestLinks(t *testing.T) {
	s := newStore(t)
	x, list := digest.FromString("x"), digest.FromString("list x")
	wantIs(t, s.LinkObject(x, list, 1), ErrNotFound)
	putObjects(t, s, "x")
	wantIs(t, s.LinkObject(x, list, 2), ErrCorrupt)
	ok(t, s.LinkObject(x, list, 1))
	ok(t, s.LinkObject(x, list, 1))
	link := s.path(objectRel(x)) + "-" + list.Encoded()
	if a, b := must[os.FileInfo](t)(os.Stat(link)), must[os.FileInfo](t)(os.Stat(s.path(objectRel(x)))); !os.SameFile(a, b) {
		t.Fatal("not the same file")
	}
	wantClean(t, s)
	ok(t, os.Remove(link))
	ok(t, os.WriteFile(link, []byte("?"), 0o600))
	if f := must[[]Finding](t)(s.Check(context.Background(), checkAll())); len(f) != 1 {
		t.Fatalf("check: %+v", f)
	}
	ok(t, s.LinkObject(x, list, 1))
	n := putTOC(t, s, "l", "x")
	ok(t, s.Pin("p", PinTarget{Layers: []uint64{n}}, PinOptions{}))
	if f := gcAll(t, s, GCOptions{}); len(f) != 0 {
		t.Fatalf("gc: %+v", f)
	}
	ok(t, s.Unpin("p"))
	gcAll(t, s, GCOptions{})
	if left := filesBelow(t, s.path("objects")); len(left) != 0 {
		t.Fatalf("left %v", left)
	}
}
