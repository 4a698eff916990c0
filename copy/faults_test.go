package copy

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

func isFillDiffID(err error) bool { return errors.Is(err, fill.ErrDiffID) }

// await blocks until ok, asking again every now and then.
func await(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("it did not come true in time")
		}
	}
}

// A registry without ranges: a plain image comes as a whole tar, once; a variant is refused and leaves nothing; where
// the variant was only preferred, or listed beside its plain sibling, the plain image is taken, and a note says why.
func TestWithoutRanges(t *testing.T) { // S20, S25, S26, rule 68
	faults := map[string]front.Action{
		"200": front.IgnoreRange(),
		"416": front.Status(http.StatusRequestedRangeNotSatisfiable, "RANGE"),
		"501": front.Status(http.StatusNotImplemented, "UNSUPPORTED"),
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 4)
			src, tars := w.single()
			chunkedOptions := func(layout string) *Options {
				return &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: layout}
			}
			w.copy(src, w.docker("plain:1"), chunkedOptions(sentinelNone))
			w.copy(src, w.docker("only:1"), chunkedOptions("only"))
			w.copy(src, w.docker("hidden:1"), chunkedOptions("hidden"))
			w.front.Add(front.Rule{Path: "/blobs/", Ranged: true, Do: fault})

			w.env = w.machine(4)
			_, err := w.try(w.docker("only:1"), "store:only", nil)
			if !errors.Is(err, registry.ErrNoRanges) {
				t.Errorf("variant: %v", err)
			}
			w.empty(w.env)

			w.front.Forget()
			w.copy(w.docker("plain:1"), "store:plain", nil)
			for i, raw := range w.stored("store:plain", manifest.TOCUnbound) {
				if !bytes.Equal(raw, tars[i]) {
					t.Errorf("layer %d is another tar", i)
				}
			}
			for _, l := range w.situation(w.docker("plain:1")).instances[0].image.Layers {
				if n := w.wholeReads(l.Digest); n != 1 {
					t.Errorf("layer %s was asked for whole %d times", l.Digest, n)
				}
			}

			amd, err := manifest.ParsePlatform("linux/amd64")
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range []*Options{nil, {Platform: &amd, Prefer: manifest.PreferVariant}} {
				w.env = w.machine(4)
				res := w.copy(w.docker("hidden:1"), "store:hidden", o)
				if len(res.Notes) != 1 || res.Instances != 1 {
					t.Errorf("%d instances, notes %q", res.Instances, res.Notes)
				}
				if got := w.stored("store:hidden", manifest.TOCUnbound); !bytes.Equal(got[1], tars[1]) {
					t.Error("another tar")
				}
			}
			w.env = w.machine(4)
			_, err = w.try(w.docker("hidden:1"), "store:hidden", &Options{Platform: &amd, Prefer: manifest.OnlyVariant})
			if !errors.Is(err, registry.ErrNoRanges) {
				t.Errorf("the variant by name: %v", err)
			}
			w.empty(w.env)
		})
	}
}

// wholeReads is how often a blob was asked for without a range.
func (w *world) wholeReads(d digest.Digest) int {
	n := 0
	for _, r := range w.front.Log() {
		if r.Method == http.MethodGet && r.Range == "" && strings.Contains(r.Path, d.String()) {
			n++
		}
	}
	return n
}

// Whatever a registry does, the tree is right or there is an error of the right kind and no name.
func TestFaults(t *testing.T) {
	faults := []struct {
		name string
		rule front.Rule
		ok   bool  // must end well
		want error // or with this
	}{
		{"truncated once", front.Rule{Times: 1, Do: front.Truncate(30)}, true, nil},
		{"truncated always", front.Rule{Do: front.Truncate(30)}, false, nil},
		{"reset once", front.Rule{Times: 1, Do: front.Reset(40)}, true, nil},
		{"reset before the answer", front.Rule{Times: 1, Do: front.Reset(-1)}, true, nil},
		{"busy once", front.Rule{Times: 1, Do: front.Status(429, "TOOMANYREQUESTS", "Retry-After", "0")}, true, nil},
		{"busy always", front.Rule{Do: front.Status(429, "TOOMANYREQUESTS", "Retry-After", "0")}, false, registry.ErrRetriesExhausted},
		{"unavailable once", front.Rule{Times: 1, Do: front.Status(503, "UNAVAILABLE", "Retry-After", "0")}, true, nil},
		{"unavailable always", front.Rule{Do: front.Status(503, "UNAVAILABLE", "Retry-After", "0")}, false, registry.ErrRetriesExhausted},
		{"wrong Content-Range", front.Rule{Ranged: true, Do: front.Header("Content-Range", "bytes 1-2/3")}, false, nil},
		{"gone", front.Rule{Do: front.Status(404, "BLOB_UNKNOWN")}, false, registry.ErrNotFound},
		{"forbidden", front.Rule{Do: front.Status(403, "DENIED")}, false, registry.ErrAuth},
		{"longer", front.Rule{Do: front.Resize(7)}, false, nil},
		{"shorter", front.Rule{Do: front.Resize(-7)}, false, nil},
		{"one part only", front.Rule{Do: front.FirstPartOnly()}, true, nil},
		{"parts swapped", front.Rule{Do: front.Swapped()}, true, nil},
		{"parts together", front.Rule{Do: front.Coalesced()}, true, nil},
	}
	for _, algo := range []string{algoGzip, algoChunked} {
		for _, f := range faults {
			t.Run(algo+" "+f.name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 2)
				b := w.build("src")
				tars := small(t)
				src := b.name(b.image("linux/amd64", algo, tars...), "x")
				w.copy(src, w.docker("a:1"), nil)
				layer := w.situation(src).instances[0].image.Layers[1]
				f.rule.Path, f.rule.Method = layer.Digest.String(), "GET"
				w.front.Add(f.rule)
				_, err := w.try(w.docker("a:1"), "store:a", nil)
				if f.ok && err != nil {
					t.Fatal(err)
				}
				if f.want != nil && !errors.Is(err, f.want) {
					t.Errorf("got %v, want %v", err, f.want)
				}
				if err != nil {
					if names, _ := w.env.Store.Names(); len(names) != 0 {
						t.Errorf("a name after %v", err)
					}
					return
				}
				for i, raw := range w.stored("store:a", w.situation(src).instances[0].image.Trust) {
					if !bytes.Equal(raw, tars[i]) {
						t.Errorf("layer %d is another tar", i)
					}
				}
			})
		}
	}
}

// A flipped bit anywhere in a blob is an error or does not matter, for every way a layer can be read.
func TestFlippedBits(t *testing.T) { // rule 16, rule 17
	content := tarOf(t, file{"a", []byte("some text, some text, some text\n")}, file{"b", noise(3, 600)})
	for _, way := range []struct{ algo, sentinel string }{
		{algoGzip, ""}, {algoZstd, ""}, {algoNone, ""}, {algoChunked, sentinelNone}, {algoChunked, "only"},
	} {
		t.Run(way.algo+way.sentinel, func(t *testing.T) {
			w := newWorld(t, 2)
			b := w.build("src")
			src := b.name(b.image("linux/amd64", way.algo, content), "x")
			w.copy(src, w.docker("a:1"), &Options{Sentinel: way.sentinel})
			im := w.situation(w.docker("a:1")).instances[0].image
			layer := im.DataLayers()[0]
			for off := 0; off < int(layer.Size); off += 97 {
				w.env = w.machine(2)
				w.front.Behave()
				w.front.Add(front.Rule{Method: "GET", Path: layer.Digest.String(), Do: front.FlipBit(off)})
				_, err := w.try(w.docker("a:1"), "store:a", nil)
				if err == nil {
					if way.algo != algoChunked {
						t.Errorf("byte %d: a blob with a wrong digest was taken", off)
					}
					if got := w.stored("store:a", im.Trust); !bytes.Equal(got[0], content) {
						t.Errorf("byte %d: wrong content", off)
					}
					continue
				}
				if !errors.Is(err, manifest.ErrDigestMismatch) && !errors.Is(err, chunked.ErrDigestMismatch) && !errors.Is(err, chunked.ErrMalformed) {
					t.Errorf("byte %d: not a verification failure: %v", off, err)
				}
				if names, _ := w.env.Store.Names(); len(names) != 0 {
					t.Errorf("byte %d: a name is left", off)
				}
				// To a registry or layout the blob goes whole, so any flip is found.
				if _, err := w.try(w.docker("a:1"), w.layout("out")+":x", nil); !errors.Is(err, manifest.ErrDigestMismatch) {
					t.Errorf("byte %d: copy to a layout: %v", off, err)
				}
			}
		})
	}
}

// The wrong bytes may be on disk too.
func TestDamagedLayout(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	layer := w.situation(src).instances[0].image.Layers[1]
	path := filepath.Join(w.ref(src).Path, "blobs", "sha256", layer.Digest.Encoded())
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"shorter": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "empty": {}, "other": bytes.Repeat([]byte{1}, len(good)),
	} {
		if err := os.WriteFile(path, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		for _, dst := range []string{"store:a", w.docker(name + ":1"), w.layout("out") + ":x"} {
			if _, err := w.try(src, dst, nil); !errors.Is(err, manifest.ErrDigestMismatch) {
				t.Errorf("%s to %s: %v", name, dst, err)
			}
		}
		if w.reg.Manifest(name, "1") != nil {
			t.Error("a tag is left")
		}
	}
}
