package copy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// endpoint is a kind of place that holds blobs and manifests, as the suite sees it.
type endpoint struct {
	name  string
	ref   func(w *world, name string) string
	lists bool
	// plain places hold plain tars only, so that compressed layers change there, and the manifest with them.
	plain bool
}

// endpoints are all of them. A new place is one more line here.
func endpoints() []endpoint {
	path := func(transport string) func(*world, string) string {
		return func(w *world, name string) string { return transport + ":" + filepath.Join(w.dir, name) }
	}
	named := func(transport string) func(*world, string) string {
		return func(w *world, name string) string {
			return transport + ":" + filepath.Join(w.dir, name) + ":ours/image:v1"
		}
	}
	return []endpoint{
		{name: "docker", ref: func(w *world, name string) string { return w.docker(name + ":v1") }, lists: true},
		{name: "oci", ref: named("oci"), lists: true},
		{name: "dir", ref: path("dir"), lists: true},
		{name: "oci-archive", ref: named("oci-archive"), lists: true},
		{name: "docker-archive", ref: named("docker-archive"), plain: true},
		{name: "docker-daemon", ref: func(_ *world, name string) string { return "docker-daemon:place/" + name + ":v1" }, plain: true},
		{name: "containerd", ref: func(w *world, name string) string { return w.inContainerd("place/" + name + ":v1") }, lists: true},
	}
}

// TestEndpoints runs every pair of places with single images and lists: what is copied without a change is the same
// bytes, what has to change says its new digest, every blob can be read, and what cannot be held is refused first.
func TestEndpoints(t *testing.T) { // rule 24, rule 49, rule 50, rule 55, rule 3, L13, L26
	for _, im := range []struct {
		name string
		make func(w *world) (string, [][]byte)
		list bool
		// plain says that the layers are plain tars already.
		plain bool
	}{
		{name: "gzip", make: (*world).single},
		{name: "none", plain: true, make: func(w *world) (string, [][]byte) {
			tars := small(w.t)
			b := w.build("plain")
			return b.name(b.image("linux/amd64", algoNone, tars...), "x"), tars
		}},
		{name: "zstd", make: func(w *world) (string, [][]byte) {
			tars := append(small(w.t), tarOf(w.t), small(w.t)[0]) // an empty layer, and one layer twice
			b := w.build("zstd")
			return b.name(b.image("linux/amd64", algoZstd, tars...), "x"), tars
		}},
		{name: "list", list: true, make: func(w *world) (string, [][]byte) { return w.multi(algoChunked), nil }},
	} {
		t.Run(im.name, func(t *testing.T) {
			w := newWorld(t, 4)
			src, tars := im.make(w)
			for _, a := range endpoints() {
				from := a.ref(w, "from-"+a.name)
				if im.list && !a.lists {
					refusesList(w, src, from)
					continue
				}
				at := w.copy(src, from, nil)
				if want := digest.FromBytes(w.raw(src)); (!a.plain || im.plain) && at.Digest != want {
					t.Errorf("%s to %s: digest %s, want %s", src, from, at.Digest, want)
				}
				for _, b := range endpoints() {
					to := b.ref(w, a.name+"-to-"+b.name)
					if im.list && !b.lists {
						refusesList(w, from, to)
						continue
					}
					res := w.copy(from, to, nil)
					if !b.plain || a.plain || im.plain {
						sameImage(w, from, to)
					}
					if got := digest.FromBytes(w.raw(to)); got != res.Digest {
						t.Errorf("%s to %s: said %s, wrote %s", from, to, res.Digest, got)
					}
					if tars != nil {
						w.checkTars(to, tars)
					}
				}
			}
		})
	}
}

// sameImage demands equal bytes of the top, of every instance and of every blob of it.
func sameImage(w *world, a, b string) {
	w.t.Helper()
	if !bytes.Equal(w.raw(a), w.raw(b)) {
		w.t.Errorf("%s and %s have different manifests", a, b)
		return
	}
	src, err := openSource(w.env, w.ref(b))
	if err != nil {
		w.t.Fatal(err)
	}
	defer src.close()
	x, y := w.situation(a), w.situation(b)
	for i, in := range y.instances {
		if !bytes.Equal(in.doc.raw, x.instances[i].doc.raw) {
			w.t.Errorf("%s and %s have different instances %d", a, b, i)
		}
		m, err := manifest.ParseManifest(in.doc.raw, in.doc.mediaType)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, d := range append(m.Layers, m.Config) {
			readAll(w.t, src, d)
		}
	}
}

// refusesList demands that a list does not go there, that the error says what would help, and that nothing appears.
func refusesList(w *world, src, dst string) {
	w.t.Helper()
	w.front.Forget()
	_, err := w.try(src, dst, nil)
	if !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "--platform") {
		w.t.Errorf("%s to %s: %v", src, dst, err)
	}
	for _, r := range w.front.Log() {
		// Configs are read to make the plan, layers are not.
		if strings.Contains(r.Path, "/blobs/") && r.Bytes > 4096 {
			w.t.Errorf("a layer moved before the refusal: %s", r)
		}
	}
	nothingAt(w.t, w.ref(dst).Path)
	w.copy(src, dst, &Options{Platform: platform(w.t, "linux/amd64")})
	w.checkTars(dst, small(w.t))
	if path := w.ref(dst).Path; path != "" {
		if err := os.Remove(path); err != nil {
			w.t.Fatal(err)
		}
	}
}

// nothingAt demands that neither the file nor a temporary one beside it is there.
func nothingAt(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there (%v)", path, err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), tempPrefix+"*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

// TestEndpointsIntoStore: an image of every place becomes the same tree of files.
func TestEndpointsIntoStore(t *testing.T) {
	for _, e := range endpoints() {
		t.Run(e.name, func(t *testing.T) {
			w := newWorld(t, 4)
			src, tars := w.single()
			at := e.ref(w, "at")
			w.copy(src, at, nil)
			w.copy(at, "store:x", nil)
			for i, got := range w.stored("store:x", manifest.TarOnly) {
				if !bytes.Equal(got, tars[i]) {
					t.Errorf("layer %d has another tar", i)
				}
			}
		})
	}
}

// TestEndpointsBroken: a source whose layer is damaged leaves nothing at the destination, and what was there stays.
func TestEndpointsBroken(t *testing.T) { // rule 17
	for _, e := range endpoints() {
		for _, old := range []bool{false, true} {
			t.Run(e.name, func(t *testing.T) {
				w := newWorld(t, 2)
				src, tars := w.single()
				to := e.ref(w, "to")
				var before []byte
				if old {
					w.copy(src, to, nil)
					before = w.raw(to)
				}
				b := w.build("broken")
				im := b.image("linux/amd64", algoGzip, tars[0], tarOf(t, file{"new", noise(3, 300<<10)}))
				broken := b.name(im, "x")
				damage(t, w, broken)
				if _, err := w.try(broken, to, nil); !errors.Is(err, manifest.ErrDigestMismatch) && !errors.Is(err, ErrDiffID) {
					t.Fatalf("copied a damaged layer: %v", err)
				}
				if old {
					if !bytes.Equal(w.raw(to), before) {
						t.Error("the image from before is gone")
					}
					w.checkTars(to, tars)
				} else if path := w.ref(to).Path; strings.HasSuffix(e.name, "archive") {
					nothingAt(t, path)
				} else if raw, err := Raw(t.Context(), w.env, w.ref(to), false, &Options{}); err == nil {
					t.Errorf("an image is there: %s", raw)
				}
			})
		}
	}
}

// damage flips a bit near the end of the last layer of a reference to a layout.
func damage(t *testing.T, w *world, ref string) {
	t.Helper()
	layers := w.situation(ref).instances[0].image.Layers
	d := layers[len(layers)-1].Digest
	path := filepath.Join(w.ref(ref).Path, "blobs/sha256", d.Encoded())
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-20] ^= 1
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestEndpointsCancelled: a cancelled copy ends and leaves nothing.
func TestEndpointsCancelled(t *testing.T) {
	for _, e := range endpoints() {
		w := newWorld(t, 2)
		src, _ := w.single()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		to := e.ref(w, "to")
		if _, err := Copy(ctx, w.env, w.ref(src), w.ref(to), nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", e.name, err)
		}
		if strings.HasSuffix(e.name, "archive") {
			nothingAt(t, w.ref(to).Path)
		}
	}
}

// readAll reads a blob to its end and fails the test if it cannot be read.
func readAll(t *testing.T, src source, d v1.Descriptor) []byte {
	t.Helper()
	r, err := src.blob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatalf("blob %s: %v", d.Digest, err)
	}
	return raw
}

func platform(t *testing.T, s string) *v1.Platform {
	t.Helper()
	p, err := manifest.ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

// TestEndpointsVariant: a sentinel variant goes through every place that keeps manifests, and into a store from there by
// its table of contents; a place of plain tars gets the tars of those tables.
func TestEndpointsVariant(t *testing.T) {
	for _, mediaType := range sentinelTypes() {
		t.Run(mediaType, func(t *testing.T) { testEndpointsVariant(t, mediaType) })
	}
}

func testEndpointsVariant(t *testing.T, mediaType string) {
	w := newWorld(t, 4)
	src, tars := w.single()
	w.copy(src, w.docker("variant:1"), &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: "only", Layers: Layers{SentinelType: mediaType}})
	for _, e := range endpoints() {
		at := e.ref(w, "variant-"+e.name)
		if e.plain {
			w.copy(w.docker("variant:1"), at, nil) // S30
			w.checkTars(at, tars)
			continue
		}
		w.copy(w.docker("variant:1"), at, nil)
		sameImage(w, w.docker("variant:1"), at)
		w.env = w.machine(4)
		w.copy(at, "store:variant", nil)
		if got := w.stored("store:variant", manifest.TOCOnly); len(got) != 2 {
			t.Errorf("%s: %d layers in the store", e.name, len(got))
		}
	}
}

// TestEndpointsFromStore: the store has files, not layers. A docker archive wants plain tars, which the store can write
// as they were; for the others the form must be said, because the digests change.
func TestEndpointsFromStore(t *testing.T) {
	w := newWorld(t, 4)
	src, tars := w.single()
	w.copy(src, "store:x", nil)
	for _, e := range endpoints() {
		at := e.ref(w, "of-store-"+e.name)
		if e.plain {
			w.copy("store:x", at, nil)
			w.checkTars(at, tars)
			continue
		}
		if _, err := w.try("store:x", at, nil); !errors.Is(err, ErrPreserve) {
			t.Errorf("%s: %v", e.name, err)
		}
		w.copy("store:x", at, &Options{Compress: Compression{Algorithm: algoGzip}})
		w.checkTars(at, tars)
	}
}

// TestEndpointsLeftovers: what a killed copy left goes with the next one, what a living one writes stays.
func TestEndpointsLeftovers(t *testing.T) {
	for transport, prefix := range map[string]string{"dir:": tempPrefix, "oci-archive:": archiveTemp, "docker-archive:": archiveTemp} {
		w := newWorld(t, 2)
		src, _ := w.single()
		dir := t.TempDir()
		to := transport + dir
		if transport != "dir:" {
			to += "/a.tar"
		}
		w.copy(src, to, nil)
		write(t, dir, prefix+"123", "dead")
		alive, err := lockedTemp(dir, prefix)
		if err != nil {
			t.Fatal(err)
		}
		w.copy(src, to, nil)
		var left []string
		for _, name := range names(t, dir) {
			if strings.HasPrefix(name, prefix) {
				left = append(left, name)
			}
		}
		if len(left) != 1 || left[0] != filepath.Base(alive.Name()) {
			t.Errorf("%s: left %q", transport, left)
		}
		if err := alive.Close(); err != nil {
			t.Error(err)
		}
	}
}
