package copy

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

const partBlock = 64 << 10

// bigBlob is an image at the registry with one plain layer of several blocks and a bit, and the layer's tar.
func bigBlob(w *world) (src string, layer v1.Descriptor, tar []byte) {
	w.t.Helper()
	b := w.build("big")
	tar = tarOf(w.t, file{"data", noise(7, 20*partBlock)})
	local := b.name(b.image("linux/amd64", algoNone, tar), "x")
	w.copy(local, w.docker("big:1"), nil)
	w.shrink()
	return w.docker("big:1"), w.situation(local).instances[0].image.Layers[0].Descriptor, tar
}

// shrink makes blobs big that are not.
func (w *world) shrink() {
	w.env.parts = partSizes{from: partBlock, block: partBlock, run: 4, near: -1}
}

// places to copy to, and where parts are there.
func partPlaces(w *world) map[string]string {
	out, dir := filepath.Join(w.dir, "out"), filepath.Join(w.dir, "dir")
	return map[string]string{
		"oci:" + out:   filepath.Join(out, "blobs"),
		"dir:" + dir:   dir,
		"store:here:1": w.env.Store.IngestDir(),
	}
}

func partsIn(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, partPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// layerAt reads a layer's tar back from a place.
func (w *world) layerAt(place string, d v1.Descriptor) []byte {
	w.t.Helper()
	if strings.HasPrefix(place, "store:") {
		return w.stored(place, manifest.TarOnly)[0]
	}
	from, err := openSource(w.env, w.ref(place))
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := from.blob(w.t.Context(), d)
	if err != nil {
		w.t.Fatal(err)
	}
	defer body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(body); err != nil {
		w.t.Fatal(err)
	}
	return out.Bytes()
}

// A copy that ends in the middle of a big blob is continued by the next: what was there is not fetched again, and it is
// hashed again. rule 17, rule 56
func TestBigBlobIsContinued(t *testing.T) {
	for _, kind := range []string{"oci:", "dir:", "store:"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, 2)
			src, d, tar := bigBlob(w)
			for place, dir := range partPlaces(w) {
				if !strings.HasPrefix(place, kind) {
					continue
				}
				w.front.Add(front.Rule{Path: d.Digest.String(), Method: "GET", Skip: 3, Do: front.Status(503, "UNAVAILABLE", "Retry-After", "0")})
				if _, err := w.try(src, place, nil); !errors.Is(err, registry.ErrRetriesExhausted) {
					t.Fatalf("the first copy: %v", err)
				}
				if n := len(partsIn(t, dir)); n != 1 {
					t.Fatalf("%d parts after the first copy", n)
				}
				w.front.Behave()
				w.front.Forget()
				w.copy(src, place, nil)
				if got := w.front.Bytes("GET", d.Digest.String()); got == 0 || got > d.Size-2*partBlock {
					t.Errorf("the second copy fetched %d bytes of %d", got, d.Size)
				}
				if !bytes.Equal(w.layerAt(place, d), tar) {
					t.Error("another blob came out")
				}
				if left := partsIn(t, dir); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
			}
		})
	}
}

// What a crash of the machine damaged is found out by its digest, and all of it is fetched again. rule 17
func TestDamagedPart(t *testing.T) {
	for _, kind := range []string{"oci:", "dir:", "store:"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, 2)
			src, d, tar := bigBlob(w)
			for place, dir := range partPlaces(w) {
				if !strings.HasPrefix(place, kind) {
					continue
				}
				if kind != "store:" {
					w.copy(w.small(), place, nil) // makes the directory
				}
				p, err := openPart(dir, d, w.env.parts.orDefault())
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(p.wrote(p.claim(1)[0]), p.leave(true)); err != nil {
					t.Fatal(err)
				}
				w.copy(src, place, nil)
				if !bytes.Equal(w.layerAt(place, d), tar) {
					t.Error("another blob came out")
				}
				if left := partsIn(t, dir); len(left) != 0 {
					t.Errorf("left: %v", left)
				}
			}
		})
	}
}

// small is an image without big blobs.
func (w *world) small() string {
	b := w.build("little")
	return b.name(b.image("linux/amd64", algoGzip, small(w.t)...), "x")
}

// A registry that sends wrong bytes, or has no ranges, leaves no part; the latter is asked for the whole blob once.
func TestPartsUnderMisbehaviour(t *testing.T) {
	for _, f := range []struct {
		name string
		rule front.Rule
		want error
	}{
		{"flipped", front.Rule{Do: front.FlipBit(5 * partBlock)}, manifest.ErrDigestMismatch},
		{"flipped at the end", front.Rule{Do: front.FlipBit(20 * partBlock)}, manifest.ErrDigestMismatch},
		{"no ranges", front.Rule{Ranged: true, Do: front.IgnoreRange()}, nil},
		{"416", front.Rule{Ranged: true, Do: front.Status(416, "RANGE")}, nil},
		{"gone", front.Rule{Do: front.Status(404, "BLOB_UNKNOWN")}, registry.ErrNotFound},
		{"truncated once", front.Rule{Times: 1, Do: front.Truncate(100)}, nil},
		{"reset once", front.Rule{Skip: 2, Times: 1, Do: front.Reset(100)}, nil},
	} {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t, 2)
			src, d, tar := bigBlob(w)
			f.rule.Path, f.rule.Method = d.Digest.String(), http.MethodGet
			for place, dir := range partPlaces(w) {
				w.front.Behave()
				w.front.Add(f.rule)
				w.shrink()
				_, err := w.try(src, place, nil)
				if !errors.Is(err, f.want) {
					t.Fatalf("%s: %v", place, err)
				}
				if err == nil && !bytes.Equal(w.layerAt(place, d), tar) {
					t.Errorf("%s: another blob came out", place)
				}
				if left := partsIn(t, dir); len(left) != 0 {
					t.Errorf("%s: left: %v", place, left)
				}
			}
		})
	}
}

// Several ranges are under way at once: the first waits here for the second. rule 47
func TestRangesAtOnce(t *testing.T) {
	w := newWorld(t, 4)
	src, d, tar := bigBlob(w)
	var mu sync.Mutex
	n, both := 0, make(chan struct{})
	w.front.Add(front.Rule{Path: d.Digest.String(), Method: "GET", Skip: 1, Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		if n++; n == 2 {
			close(both)
		}
		mu.Unlock()
		select {
		case <-both:
			next.ServeHTTP(rw, r)
		case <-r.Context().Done():
		}
	}})
	w.copy(src, w.layout("out"), nil)
	if !bytes.Equal(w.layerAt(w.layout("out"), d), tar) {
		t.Error("another blob came out")
	}
}

// Another process that is at the same blob is not disturbed: the blob comes in one piece.
func TestPartOfAnotherProcess(t *testing.T) {
	w := newWorld(t, 2)
	src, d, tar := bigBlob(w)
	dir := filepath.Join(w.dir, "out", "blobs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := openPart(dir, d, w.env.parts.orDefault())
	if err != nil || p == nil {
		t.Fatal(err)
	}
	if again, err := openPart(dir, d, w.env.parts.orDefault()); again != nil || err != nil {
		t.Fatalf("opened twice: %v", err)
	}
	w.copy(src, w.layout("out"), nil)
	if !bytes.Equal(w.layerAt(w.layout("out"), d), tar) || len(partsIn(t, dir)) != 1 {
		t.Error("another blob, or the part of somebody else is gone")
	}
	if err := p.leave(true); err != nil {
		t.Fatal(err)
	}
	// It stays for a week after its last byte.
	l, err := createLayout(w.ref(w.layout("out")))
	if err != nil || len(partsIn(t, dir)) != 1 {
		t.Fatalf("a young part was swept away: %v", err)
	}
	old := time.Now().Add(-partLife - time.Hour)
	if err := errors.Join(os.Chtimes(p.file.Name(), old, old), l.sweep()); err != nil {
		t.Fatal(err)
	}
	if len(partsIn(t, dir)) != 0 {
		t.Error("an old part is still there")
	}
}

// A part of another size than this blob's is begun anew, and so is one that is no regular journal.
func FuzzJournal(f *testing.F) {
	seeds := [][]byte{{}, {1, 0, 1}, bytes.Repeat([]byte{1}, 40), {0, 2, 255, 1}}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, journal []byte) {
		have, claimed, n := parseJournal(journal)
		if len(have) != len(journal) || len(claimed) != len(journal) || n != bytes.Count(journal, []byte{1}) {
			t.Fatalf("%v gave %v, %d", journal, have, n)
		}
	})
}

// A file of the part's name with something else in it is not believed.
func TestForeignPart(t *testing.T) {
	dir := t.TempDir()
	d := v1.Descriptor{Digest: digest.FromString("x"), Size: 3 * partBlock}
	sizes := partSizes{block: partBlock}.orDefault()
	name := filepath.Join(dir, partPrefix+"sha256-"+d.Digest.Encoded())
	if err := os.WriteFile(name, bytes.Repeat([]byte{1}, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := openPart(dir, d, sizes)
	if err != nil {
		t.Fatal(err)
	}
	if p.resumed != 0 || len(p.claim(9)) != 3 {
		t.Errorf("%d blocks believed", p.resumed)
	}
	if err := p.leave(false); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", name); err != nil {
		t.Fatal(err)
	}
	if p, err := openPart(dir, d, sizes); err == nil {
		t.Errorf("a link was followed: %v", p)
	}
}

// A registry that is near is asked twice: for the first block, and for all the rest at once. A far one is asked for a run
// of blocks at a time.
func TestNearBlobIsOneRequest(t *testing.T) {
	for _, c := range []struct {
		name     string
		near     time.Duration
		requests func(n int) bool
	}{
		{"near", time.Hour, func(n int) bool { return n == 2 }},
		{"far", -1, func(n int) bool { return n > 4 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 2)
			src, d, tar := bigBlob(w)
			w.env.parts.near = c.near
			for place := range partPlaces(w) {
				w.front.Forget()
				w.copy(src, place, nil)
				if n := w.front.Count("GET", d.Digest.String()); !c.requests(n) {
					t.Errorf("%s: %d requests", place, n)
				}
				if !bytes.Equal(w.layerAt(place, d), tar) {
					t.Errorf("%s: another blob came out", place)
				}
			}
		})
	}
}
