package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

func newStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantIs(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

// testIndex is this package's idea of a layer index: lines of "digest list size".
func testIndex(contents ...string) []byte {
	var b bytes.Buffer
	for _, c := range contents {
		fmt.Fprintln(&b, digest.FromString(c), digest.FromString("list "+c), len(c))
	}
	return b.Bytes()
}

func testObjects(index []byte) (refs []ObjectRef, err error) {
	for line := range strings.Lines(string(index)) {
		var d, l string
		var size int64
		if _, err := fmt.Sscan(line, &d, &l, &size); err != nil {
			return nil, err
		}
		refs = append(refs, ObjectRef{digest.Digest(d), digest.Digest(l), size})
	}
	return refs, nil
}

func checkAll() CheckOptions {
	return CheckOptions{Verify: true, Objects: testObjects, Index: func(b []byte) error {
		_, err := testObjects(b)
		return err
	}, View: func(b []byte) error {
		if !bytes.HasPrefix(b, []byte("tree")) {
			return errors.New("no tree")
		}
		return nil
	}}
}

func wantClean(t testing.TB, s *Store) {
	t.Helper()
	if f := must[[]Finding](t)(s.Check(context.Background(), checkAll())); len(f) > 0 {
		t.Fatalf("check: %+v", f)
	}
}

func filesBelow(t testing.TB, dir string) (files []string) {
	t.Helper()
	ok(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			files = append(files, rel)
		}
		return err
	}))
	return files
}

func TestBlob(t *testing.T) {
	s := newStore(t)
	ctx := context.Background()
	for _, d := range []digest.Digest{digest.FromString("x"), digest.SHA512.FromString("x")} {
		_, err := s.OpenBlob(d)
		wantIs(t, err, ErrNotFound)
		wantIs(t, s.PutBlob(ctx, d, strings.NewReader("y")), ErrDigestMismatch)
		wantIs(t, s.PutBlob(ctx, d, iotest.ErrReader(io.ErrUnexpectedEOF)), io.ErrUnexpectedEOF)
		if files := filesBelow(t, s.path("blobs/"+d.Algorithm().String())); len(files) > 0 {
			t.Fatalf("failed puts left %v", files)
		}
		ok(t, s.PutBlob(ctx, d, strings.NewReader("x")))
		ok(t, s.PutBlob(ctx, d, iotest.ErrReader(errors.New("must not be read"))))
		if n, there := s.HasBlob(d); n != 1 || !there {
			t.Fatalf("HasBlob: %d %v", n, there)
		}
		f := must[*os.File](t)(s.OpenBlob(d))
		if b := must[[]byte](t)(io.ReadAll(f)); string(b) != "x" {
			t.Fatalf("read %q", b)
		}
		if fi := must[os.FileInfo](t)(f.Stat()); fi.Mode().Perm() != 0o444 {
			t.Fatalf("mode %v", fi.Mode())
		}
		f.Close()
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	wantIs(t, s.PutBlob(cancelled, digest.FromString("z"), strings.NewReader("z")), context.Canceled)
	wantClean(t, s)
}

// Digests from outside become paths and keys: none that is not one may pass.
func TestBadDigests(t *testing.T) {
	s := newStore(t)
	hex := strings.Repeat("a", 64)
	for _, d := range []digest.Digest{"", "sha256", "sha256:", "sha256:../../../../etc/passwd", digest.Digest("sha256:" + hex[1:]),
		digest.Digest("sha256:" + strings.ToUpper(hex)), digest.Digest("../x:" + hex), digest.Digest("md5:" + hex[:32]), digest.Digest("sha256:" + hex + "/x")} {
		good := digest.FromString("x")
		for name, err := range map[string]error{
			"PutBlob":      s.PutBlob(context.Background(), d, strings.NewReader("")),
			"Put":          s.NewBatch().Put(d, 0, strings.NewReader("")),
			"PutManifest":  s.PutManifest(nil, d, ""),
			"SetDiffID":    s.SetDiffID(1, d),
			"AddSource":    s.AddSource(1, Source{Blob: d}),
			"Pin":          s.Pin("p", PinTarget{Blobs: []digest.Digest{d}}, PinOptions{}),
			"Commit":       s.Commit(Commit{Records: []Record{{Manifest: d, Config: good}}, Name: "n"}),
			"RemoveRecord": s.RemoveRecord(d),
			"PutSigs":      s.PutSignatures(d, nil),
		} {
			if err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("%s(%q): %v", name, d, err)
			}
		}
		for name, call := range map[string]func() error{
			"BlobPath":      func() error { _, err := s.BlobPath(d); return err },
			"OpenObject":    func() error { _, err := s.OpenObject(d, 0); return err },
			"OpenPartial":   func() error { _, err := s.OpenPartial(PartialKey{d, good, 0}, nil, 0); return err },
			"OpenPartial c": func() error { _, err := s.OpenPartial(PartialKey{good, d, 0}, nil, 0); return err },
			"LayerByTOC":    func() error { _, err := s.LayerByTOC(d); return err },
		} {
			if err := call(); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("%s(%q): %v", name, d, err)
			}
		}
		if d != "" {
			if _, err := s.PutLayer(LayerRow{TOC: d}, nil, nil); err == nil {
				t.Errorf("PutLayer(%q) succeeded", d)
			}
			if _, err := s.Find(storeDigest(d)); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("Find(%q): %v", d, err)
			}
			if err := s.Commit(Commit{Top: good, Kept: map[digest.Digest][]digest.Digest{good: {d}}}); err == nil || errors.Is(err, ErrNotFound) {
				t.Errorf("Commit kept %q: %v", d, err)
			}
		}
		if s.HasObject(d, 0) {
			t.Errorf("HasObject(%q)", d)
		}
	}
}

func TestBatch(t *testing.T) {
	s := newStore(t)
	b := s.NewBatch()
	x, y := digest.FromString("x"), digest.SHA512.FromString("yy")
	ok(t, b.Put(x, 1, strings.NewReader("x")))
	ok(t, b.Put(x, 1, strings.NewReader("x")))
	ok(t, b.Put(y, 2, strings.NewReader("yy")))
	wantIs(t, b.Put(digest.FromString("z"), 1, strings.NewReader("a")), ErrDigestMismatch)
	wantIs(t, b.Put(digest.FromString("a"), 2, strings.NewReader("a")), ErrDigestMismatch)
	d, n, err := b.PutNew(strings.NewReader("new"))
	if err != nil || d != digest.FromString("new") || n != 3 {
		t.Fatal(d, n, err)
	}
	if s.HasObject(x, 1) {
		t.Fatal("object before commit")
	}
	ok(t, b.Commit())
	ok(t, b.Abort())
	if !s.HasObject(x, 1) || !s.HasObject(y, 2) || !s.HasObject(d, 3) || s.HasObject(x, 2) {
		t.Fatal("objects after commit")
	}
	_, err = s.OpenObject(x, 2)
	wantIs(t, err, ErrCorrupt)
	f := must[*os.File](t)(s.OpenObject(d, 3))
	defer f.Close()
	if got := must[[]byte](t)(io.ReadAll(f)); string(got) != "new" {
		t.Fatalf("read %q", got)
	}

	b = s.NewBatch()
	ok(t, b.Put(x, 1, iotest.ErrReader(errors.New("must not be read"))))
	ok(t, b.Put(digest.FromString("dropped"), 7, strings.NewReader("dropped")))
	ok(t, b.Abort())
	if s.HasObject(digest.FromString("dropped"), 7) {
		t.Fatal("object after abort")
	}
	if left := must[[]os.DirEntry](t)(os.ReadDir(s.path("ingest"))); len(left) > 0 {
		t.Fatalf("left in ingest: %v", left)
	}
	wantClean(t, s)
}

// An object whose length shows that it rotted is replaced by one that was just verified.
func TestBatchReplacesRot(t *testing.T) {
	s := newStore(t)
	d := digest.FromString("whole")
	path := s.path(objectRel(d))
	ok(t, os.MkdirAll(filepath.Dir(path), 0o755))
	ok(t, os.WriteFile(path, []byte("who"), 0o444))
	link := path + "-" + digest.FromString("list").Encoded()
	ok(t, os.Link(path, link))
	b := s.NewBatch()
	ok(t, b.Put(d, 5, strings.NewReader("whole")))
	ok(t, b.Commit())
	if !s.HasObject(d, 5) {
		t.Fatal("still rotten")
	}
	if exists(link) {
		t.Error("the link to the rotten file is still there")
	}
	wantClean(t, s)
}

// Objects are readable to all by their own mode, whatever mode they have in their image: the directories must not be.
func TestDirectoriesArePrivate(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "parent")
	s := must[*Store](t)(Open(filepath.Join(parent, "root"), nil))
	putObjects(t, s, "x")
	putTOC(t, s, "l", "x")
	putBytes(t, s, []byte("blob"))
	ok(t, filepath.WalkDir(s.Root(), func(path string, e fs.DirEntry, err error) error {
		if fi := must[os.FileInfo](t)(os.Stat(path)); e.IsDir() && fi.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", path, fi.Mode())
		}
		return err
	}))
}

func TestSchema(t *testing.T) {
	s := newStore(t)
	must[*Store](t)(Open(s.Root(), nil))
	ok(t, s.update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keySchema, []byte(strconv.Itoa(schemaVersion+1)))
	}))
	_, err := Open(s.Root(), nil)
	wantIs(t, err, ErrSchema)
}

// Stores from before blobs were kept and from before they had an identity are taken over with what is in them, and the
// program of that time refuses them afterwards: their version is another.
func TestSchemaUpgrade(t *testing.T) {
	for version, older := range map[string]func(tx *bolt.Tx) error{
		"2": func(tx *bolt.Tx) error {
			return errors.Join(tx.DeleteBucket(bucketKept), tx.Bucket(bucketMeta).Delete(keyID))
		},
		"3": func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyID) },
	} {
		t.Run(version, func(t *testing.T) {
			s := newStore(t)
			im := putImage(t, s, "linux/amd64")
			ok(t, s.Commit(Commit{Records: []Record{im.record}, Manifests: im.manifests, Name: "img"}))
			ok(t, s.update(func(tx *bolt.Tx) error {
				return errors.Join(older(tx), tx.Bucket(bucketMeta).Put(keySchema, []byte(version)))
			}))
			_, err := s.Records()
			wantIs(t, err, ErrSchema)
			s = must[*Store](t)(Open(s.Root(), nil))
			if r, _, err := s.Resolve("img"); err != nil || len(r) != 1 {
				t.Fatal(r, err)
			}
			if id := must[Identity](t)(s.Identity()); id.ID == "" || id.Epoch == 0 {
				t.Fatal(id)
			}
			blob := putBytes(t, s, []byte("layer"))
			ok(t, s.Commit(Commit{Top: im.record.Manifest, Kept: map[digest.Digest][]digest.Digest{im.record.Manifest: {blob}}}))
			must[*Store](t)(Open(s.Root(), nil))
			wantClean(t, s)
		})
	}
}

func TestLockTimeout(t *testing.T) {
	s := newStore(t)
	other := must[*Store](t)(Open(s.Root(), &Options{LockTimeout: time.Millisecond}))
	unlock, err := s.lockIndex(context.Background(), unix.LOCK_EX)
	ok(t, err)
	_, err = other.Layer(1)
	wantIs(t, err, ErrLocked)
	unlock()
	other.lockTimeout = DefaultLockTimeout
	_, err = other.Layer(1)
	wantIs(t, err, ErrNotFound)
}

// Two stores on one root stand for two processes: their locks are on descriptors of their own.
func TestConcurrentTransactions(t *testing.T) {
	s := newStore(t)
	const each = 25
	done := make(chan error)
	for range 2 {
		other := must[*Store](t)(Open(s.Root(), nil))
		for range 2 {
			go func() {
				for range each {
					err := other.update(func(tx *bolt.Tx) error {
						b := tx.Bucket(bucketMeta)
						return b.Put([]byte("n"), numberKey(keyNumber(b.Get([]byte("n")))+1))
					})
					if err == nil {
						_, err = other.Records()
					}
					if err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
	}
	for range 4 {
		ok(t, <-done)
	}
	ok(t, s.view(func(tx *bolt.Tx) error {
		if n := binary.BigEndian.Uint64(tx.Bucket(bucketMeta).Get([]byte("n"))); n != 4*each {
			t.Errorf("counted %d of %d", n, 4*each)
		}
		return nil
	}))
}
