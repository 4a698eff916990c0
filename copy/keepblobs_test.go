package copy

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

var keep = Options{Layers: Layers{KeepBlobs: true}}

// five is a layout with a list of five platforms, one layer that all share, an attestation, and an artifact of a type
// that nobody knows. The last image has one layer twice.
func (w *world) five(algo string) string {
	b := w.build("five-" + strings.ReplaceAll(algo, ":", "-"))
	shared := tarOf(w.t, file{"etc/", nil}, file{"etc/passwd", []byte("root:x:0:0\n")})
	var entries []v1.Descriptor
	for i, p := range []string{"linux/amd64", "linux/arm64/v8", "linux/arm/v7", "linux/s390x"} {
		own := tarOf(w.t, file{"bin/tool", noise(uint64(i+20), 30<<10)})
		entries = append(entries, b.image(p, algo, shared, own))
	}
	twice := tarOf(w.t, file{"twice", []byte("here\n")})
	entries = append(entries, b.image("linux/riscv64", algo, shared, twice, shared, twice))
	entries = append(entries, b.attestation(entries[0]), b.unknown())
	return b.name(b.list(entries...), "x")
}

// unknown adds a manifest of a type that nobody knows.
func (b *builder) unknown() v1.Descriptor {
	d := b.json("application/vnd.example.bundle.v7+json", map[string]any{
		"mediaType": "application/vnd.example.bundle.v7+json", "blobs": []v1.Descriptor{b.blob("application/x-stuff", noise(99, 5000))},
	})
	d.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	return d
}

// rule 12, L36: with its blobs kept a list leaves the store as it came into it, every byte of it.
func TestKeepBlobs(t *testing.T) {
	for _, algo := range []string{algoGzip, algoZstd, algoChunked} {
		t.Run(algo, func(t *testing.T) {
			w := newWorld(t, 4)
			src := w.five(algo)
			w.copy(src, w.docker("a:1"), nil)
			w.front.Forget()
			w.copy(w.docker("a:1"), "store:x", &keep)
			for _, r := range w.front.Log() {
				if r.Method == "GET" && strings.Contains(r.Path, "/blobs/") && w.front.Count("GET", r.Path) > 2 {
					t.Errorf("%s is fetched %d times", r.Path, w.front.Count("GET", r.Path)) // configs to plan, too
				}
			}
			w.clean()
			for _, e := range endpoints() {
				if !e.lists {
					continue
				}
				at := e.ref(w, "of-"+e.name)
				if res := w.copy("store:x", at, &Options{Preserve: true}); res.Digest != digest.FromBytes(w.raw(src)) {
					t.Errorf("%s: digest %s", e.name, res.Digest)
				}
				identical(w, src, at)
			}
			// The files are there as well.
			if got := w.stored("store:x", w.situation(src).instances[0].image.Trust); len(got) == 0 {
				t.Error("no layers")
			}
		})
	}
}

// identical demands equal bytes of the top, and of every instance and every blob of a list without lists in it.
func identical(w *world, a, b string) {
	w.t.Helper()
	if !bytes.Equal(w.raw(a), w.raw(b)) {
		w.t.Fatalf("%s and %s have different manifests", a, b)
	}
	src, err := openSource(w.env, w.ref(b))
	if err != nil {
		w.t.Fatal(err)
	}
	defer src.close()
	x := w.situation(a)
	for i, in := range w.situation(b).instances {
		if !bytes.Equal(in.doc.raw, x.instances[i].doc.raw) {
			w.t.Errorf("%s and %s have different instances %d", a, b, i)
		}
		blobs := in.blobs
		if in.image != nil {
			blobs = append(in.image.Manifest.Layers, in.image.Manifest.Config)
		}
		for _, d := range blobs {
			readAll(w.t, src, d)
		}
	}
}

// clean demands that the store finds nothing wrong with itself, now and after gc.
func (w *world) clean() {
	w.t.Helper()
	for range 2 {
		found, err := w.env.Store.Check(w.t.Context(), store.CheckOptions{Verify: true, Objects: fill.IndexObjects})
		if err != nil || len(found) != 0 {
			w.t.Errorf("check: %+v (%v)", found, err)
		}
		if _, err := w.env.Store.GC(w.t.Context(), store.GCOptions{Grace: -1, Objects: fill.IndexObjects}); err != nil {
			w.t.Error(err)
		}
	}
}

// Without kept blobs nothing moves (acceptance 2 of issue 3), unless a change of digests is asked for, and then it is said.
func TestNoKeptBlobs(t *testing.T) {
	w := newWorld(t, 4)
	w.copy(w.five(algoGzip), "store:x", nil)
	w.front.Forget()
	for _, o := range []*Options{nil, {Preserve: true}, {Preserve: true, Compress: Compression{Algorithm: algoGzip}}} {
		if _, err := w.try("store:x", w.docker("out:1"), o); !errors.Is(err, ErrPreserve) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if n := w.front.Count("", ""); n != 0 {
		t.Errorf("%d requests before the refusal: %v", n, w.front.Log())
	}
	if _, err := w.try("store:x", "store:y", &keep); !errors.Is(err, ErrPreserve) {
		t.Errorf("blobs kept that are not there: %v", err)
	}
	res := w.copy("store:x", w.docker("out:1"), &Options{Compress: Compression{Algorithm: algoZstd}})
	if !strings.Contains(strings.Join(res.Notes, "\n"), "the digest is "+res.Digest.String()) {
		t.Errorf("nothing was said: %q", res.Notes)
	}
	// The artifacts came out as they were.
	was, is := w.situation("store:x").instances, w.situation(w.docker("out:1")).instances
	for i := 5; i < len(was); i++ {
		if !bytes.Equal(was[i].doc.raw, is[i].doc.raw) {
			t.Errorf("artifact %d changed", i)
		}
	}
	w.clean()
}

// A variant leaves the store only as it came, and only with its blobs.
func TestKeepVariant(t *testing.T) {
	w := newWorld(t, 4)
	src, _ := w.single()
	w.copy(src, w.docker("v:1"), &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: "hidden"})
	w.copy(w.docker("v:1"), "store:files", nil)
	if _, err := w.try("store:files", w.layout("out")+":x", nil); !errors.Is(err, ErrPreserve) {
		t.Errorf("without its blobs: %v", err)
	}
	w.front.Add(front.Rule{Path: "/blobs/", Do: front.IgnoreRange()}) // with its blobs kept a variant needs none
	w.copy(w.docker("v:1"), "store:blobs", &keep)
	w.copy("store:blobs", w.layout("out")+":x", nil)
	sameImage(w, w.docker("v:1"), w.layout("out")+":x")
	w.clean()
}

// A blob that is here whole for another reason counts as kept: as another image's, or because it was asked for later.
func TestKeepLater(t *testing.T) {
	w := newWorld(t, 4)
	src := w.five(algoGzip)
	amd, arm := platform(t, "linux/amd64"), platform(t, "linux/arm64")
	w.copy(src, "store:x", nil)
	w.copy(src, "store:amd", &Options{Platform: amd, Layers: Layers{KeepBlobs: true}})
	w.copy("store:x", w.layout("out")+":amd", &Options{Platform: amd})
	if _, err := w.try("store:x", w.layout("out")+":arm", &Options{Platform: arm}); !errors.Is(err, ErrPreserve) {
		t.Errorf("a platform whose blobs are not kept: %v", err)
	}
	w.copy(src, "store:x", &keep)
	w.copy("store:x", "store:y", &keep)
	if err := w.env.Store.RemoveName(w.ref("store:x").StoreName()); err != nil {
		t.Fatal(err)
	}
	w.clean() // gc takes nothing that store:y has
	w.copy("store:y", w.layout("out")+":all", nil)
	identical(w, src, w.layout("out")+":all")
	for _, name := range []string{"store:y", "store:amd"} {
		if err := w.env.Store.RemoveName(w.ref(name).StoreName()); err != nil {
			t.Fatal(err)
		}
	}
	w.clean()
	w.empty(w.env)
}

// What rotted in the store does not leave it.
func TestKeptRot(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	w.copy(src, "store:x", &keep)
	layers := w.situation(src).instances[0].image.Layers
	path, err := w.env.Store.BlobPath(layers[1].Digest)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/2] ^= 1
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, raw, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.try("store:x", "dir:"+filepath.Join(w.dir, "d"), nil); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("a rotten blob was copied: %v", err)
	}
	// One of another length is none.
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := w.try("store:x", "dir:"+filepath.Join(w.dir, "d"), nil); !errors.Is(err, ErrPreserve) {
		t.Errorf("a blob that is cut short: %v", err)
	}
}

// A damaged source leaves no name and no record, with blobs as without.
func TestKeepDamaged(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	damage(t, w, src)
	if _, err := w.try(src, "store:x", &keep); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Fatal(err)
	}
	w.clean()
	w.empty(w.env)
}

// Only the store takes layers apart.
func TestKeepElsewhere(t *testing.T) {
	w := newWorld(t, 1)
	src, _ := w.single()
	if _, err := w.try(src, w.docker("a:1"), &keep); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
}

// A plan says that a layer has to come although its files are here, when its blob is to be kept.
func TestKeepDryRun(t *testing.T) {
	w := newWorld(t, 1)
	src, _ := w.single()
	w.copy(src, "store:x", nil)
	for o, want := range map[*Options]string{new(Options): ActionHave, &keep: ActionUnpack} {
		plan, err := DryRun(t.Context(), w.env, w.ref(src), w.ref("store:x"), o)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range plan.Instances[0].Blobs {
			if i > 0 && b.Action != want {
				t.Errorf("keep %v: layer %d: %s", o.KeepBlobs, i, b.Action)
			}
		}
	}
}
