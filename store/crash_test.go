package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

var errCrash = errors.New("crash")

// machine stops the world before its operation number stop, and knows what a power cut would take with it: the bytes
// of files that were not synced, and names in directories that were not.
type machine struct {
	stop, done int
	dirty      map[string]bool
	names      []pendingName
	log        []string
}

type pendingName struct {
	dir  string
	undo func()
}

func (m *machine) before(op, path string) error {
	if m.done >= m.stop {
		return errCrash
	}
	m.done++
	m.log = append(m.log, op+" "+path)
	switch op {
	case "write", "truncate":
		m.dirty[path] = true
	case "fsync":
		delete(m.dirty, path)
	case "rename":
		from, to, _ := strings.Cut(path, "\x00")
		if m.dirty[from] {
			delete(m.dirty, from)
			m.dirty[to] = true
		}
		m.names = append(m.names, pendingName{filepath.Dir(to), func() { os.Rename(to, from) }})
	case "link", "mkdir":
		m.names = append(m.names, pendingName{filepath.Dir(path), func() { os.RemoveAll(path) }})
	case "fsyncdir":
		kept := m.names[:0]
		for _, n := range m.names {
			if n.dir != path {
				kept = append(kept, n)
			}
		}
		m.names = kept
	case "syncfs":
		m.names, m.dirty = nil, map[string]bool{}
	case "create", "unlink", "commit":
	default:
		panic("the crash test does not know " + op)
	}
	return nil
}

// cutPower loses what was not synced. Bytes become zeros rather than nothing, which is the worse case for a chunk map.
func (m *machine) cutPower(t *testing.T) {
	for path := range m.dirty {
		if fi, err := os.Lstat(path); err == nil {
			ok(t, os.Chmod(path, 0o600))
			ok(t, os.WriteFile(path, make([]byte, fi.Size()), 0))
			ok(t, os.Chmod(path, fi.Mode().Perm()))
		}
	}
	for i := len(m.names) - 1; i >= 0; i-- {
		m.names[i].undo()
	}
}

// promise is what must hold after a crash, because a call that had made it returned nil.
type promise func(s *Store) error

func has(what string, holds func(s *Store) bool) promise {
	return func(s *Store) error {
		if !holds(s) {
			return fmt.Errorf("%s was promised and is gone", what)
		}
		return nil
	}
}

// life uses every method that changes the disk, and collects the promises up to its end or the crash.
func life(t *testing.T, root string, d *disk) (promises []promise, err error) {
	s, err := open(root, &Options{Logger: slog.New(slog.DiscardHandler)}, d, "00000000-0000-0000-0000-000000000001")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var layer, view uint64
	work, err := s.Begin()
	if err != nil {
		return nil, err
	}
	f := newTestFile(4)
	im := lifeImage()
	for _, step := range []struct {
		do   func() error
		then promise
	}{
		{func() error {
			return s.PutBlob(context.Background(), im.record.Config, reader(lifeConfig))
		}, has("blob", func(s *Store) bool { _, there := s.HasBlob(im.record.Config); return there })},
		{func() error { return lifeBatch(s, "one", "two") }, has("batch", func(s *Store) bool { return hasObject(s, "one") && hasObject(s, "two") })},
		{func() error { s.smallBatch = 0; return lifeBatch(s, "big", "box") }, has("batch", func(s *Store) bool { return hasObject(s, "big") && hasObject(s, "box") })},
		{func() (err error) {
			layer, err = s.PutLayer(LayerRow{DiffID: digest.FromString("l")}, testIndex("one", "two", "big", "box"), []byte("split"))
			return err
		}, has("layer", func(s *Store) bool { _, err := s.TarSplit(layer); return err == nil })},
		{func() error { return s.SetDiffID(layer, digest.FromString("l")) }, nil},
		{func() error { return fillOnce(s, f) }, has("filled object", func(s *Store) bool { return s.HasObject(f.key().Digest, f.key().Size) })},
		{func() (err error) { view, err = s.PutView(Chain{Layers: []uint64{layer}}, []byte("tree")); return err },
			has("view", func(s *Store) bool { _, there, _ := s.ViewByKey(Chain{Layers: []uint64{layer}}); return there })},
		{func() (err error) {
			view, err = s.ReplaceView(view, Chain{Layers: []uint64{layer}}, []byte("tree again"))
			return err
		}, nil},
		{func() error {
			im.record.Layers = []uint64{layer}
			if err := s.PutBlob(context.Background(), lifeKept, reader("a layer's blob")); err != nil {
				return err
			}
			return s.Commit(Commit{Records: []Record{im.record}, Manifests: im.manifests, Name: "img",
				Kept: map[digest.Digest][]digest.Digest{im.record.Manifest: {lifeKept}}})
		}, has("image", keptWhole)},
		{func() error { return work.End() }, nil},
		{func() error { return s.Pin("p", PinTarget{Layers: []uint64{layer}}, PinOptions{Process: true}) }, nil},
		{func() error {
			_, err := s.GC(context.Background(), GCOptions{Grace: -1, Objects: testObjects})
			return err
		}, nil},
		{func() error { return s.Unpin("p") }, nil},
		{func() error { return s.Advance(Identity{Layer: 40, View: 40}) }, nil},
	} {
		if err := step.do(); err != nil {
			return promises, err
		}
		if step.then != nil {
			promises = append(promises, step.then)
		}
		if len(promises) == 7 { // the first gc takes what only the image does not need
			promises = promises[:4:4]
			promises = append(promises, has("image", keptWhole))
		}
	}
	return nil, lifeEnd(s)
}

// lifeEnd takes everything away again.
func lifeEnd(s *Store) error {
	if err := s.RemoveName("img"); err != nil {
		return err
	}
	_, err := s.GC(context.Background(), GCOptions{Grace: -1, Objects: testObjects})
	return err
}

const lifeConfig = `{"os":"linux"}`

var lifeKept = digest.FromString("a layer's blob")

// keptWhole says that the image has its name, its record and the blob that was kept with it.
func keptWhole(s *Store) bool {
	r, _, err := s.Resolve("img")
	if err != nil || len(r) != 1 {
		return false
	}
	kept, err := s.Kept(r[0].Manifest)
	_, there := s.HasBlob(lifeKept)
	return err == nil && len(kept) == 1 && there
}

func lifeImage() image {
	m := raw(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": []any{},
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest.FromString(lifeConfig), "size": len(lifeConfig)}})
	return image{Record{Manifest: m.Digest, Config: digest.FromString(lifeConfig), Platform: "linux/amd64"}, []RawManifest{m}}
}

func lifeBatch(s *Store, contents ...string) error {
	b := s.NewBatch()
	for _, c := range contents {
		if err := b.Put(digest.FromString(c), 3, reader(c)); err != nil {
			return errors.Join(err, b.Abort())
		}
	}
	return b.Commit()
}

// L33, rule 56: every prefix of what the store does to the disk leaves a store that opens and checks clean: after a kill, which
// loses nothing that was written, and after a power cut, which loses everything that was not synced.
func TestCrash(t *testing.T) {
	whole := &machine{stop: 1 << 30, dirty: map[string]bool{}}
	if _, err := life(t, t.TempDir(), &disk{before: whole.before}); err != nil {
		t.Fatal(err)
	}
	if whole.done < 100 {
		t.Fatalf("only %d operations: the test does not see them all", whole.done)
	}
	t.Logf("%d operations", whole.done)
	step := 1
	if testing.Short() {
		step = 7
	}
	for _, power := range []bool{false, true} {
		t.Run(fmt.Sprintf("power cut %v", power), func(t *testing.T) {
			t.Parallel()
			for stop := 0; stop <= whole.done; stop += step {
				crashAt(t, stop, power)
			}
		})
	}
}

func crashAt(t *testing.T, stop int, power bool) {
	root := t.TempDir()
	m := &machine{stop: stop, dirty: map[string]bool{}}
	promises, err := life(t, root, &disk{before: m.before})
	if err != nil && !errors.Is(err, errCrash) {
		t.Fatalf("stop %d: %v", stop, err)
	}
	boot := "00000000-0000-0000-0000-000000000001"
	if power {
		m.cutPower(t)
		boot = "00000000-0000-0000-0000-000000000002"
	}
	last := "nothing"
	if len(m.log) > 0 {
		last = m.log[len(m.log)-1]
	}
	s, err := open(root, nil, &disk{}, boot)
	if err != nil {
		t.Fatalf("open after %d operations (%s): %v", stop, last, err)
	}
	defer s.Close()
	findings, err := s.Check(context.Background(), checkAll())
	if err != nil || len(findings) > 0 {
		t.Fatalf("check after %d operations (%s): %+v %v", stop, last, findings, err)
	}
	for _, p := range promises {
		if err := p(s); err != nil {
			t.Fatalf("after %d operations (%s): %v", stop, last, err)
		}
	}
	if err := fillOnce(s, newTestFile(4)); err != nil { // whatever state its map is in
		t.Fatalf("fill after %d operations (%s): %v", stop, last, err)
	}
	if err := lifeEnd(s); err != nil && !errors.Is(err, ErrNotFound) {
		t.Fatalf("gc after %d operations (%s): %v", stop, last, err)
	}
	findings, err = s.Check(context.Background(), checkAll())
	if err != nil || len(findings) > 0 {
		t.Fatalf("check after gc after %d operations (%s): %+v %v", stop, last, findings, err)
	}
}
