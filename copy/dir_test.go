package copy

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// wanted are the files of a reference's image in a dir: place, from its manifests alone.
func wanted(w *world, ref string) []string {
	s := w.situation(ref)
	all := map[string]bool{"manifest.json": true, "version": true}
	for _, in := range s.instances {
		if s.list != nil {
			all[in.doc.digest.Encoded()+".manifest.json"] = true
		}
		m, err := manifest.ParseManifest(in.doc.raw, in.doc.mediaType)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, d := range append(m.Layers, m.Config) {
			all[d.Digest.Encoded()] = true
		}
	}
	var out []string
	for name := range all {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func TestDirNames(t *testing.T) { // L23, rule 52
	w := newWorld(t, 2)
	single, _ := w.single()
	for _, src := range []string{single, w.multi(algoGzip)} {
		dir := t.TempDir()
		w.copy(src, "dir:"+dir, nil)
		if got, want := names(t, dir), wanted(w, src); !slices.Equal(got, want) {
			t.Errorf("files %q, want %q", got, want)
		}
		if v := read(t, filepath.Join(dir, "version")); v != "Directory Transport Version: 1.1\n" {
			t.Errorf("version %q", v)
		}
	}
}

// Another image replaces the first, whose files go with it; signatures stay with what they are for.
func TestDirReplaced(t *testing.T) { // L23
	w := newWorld(t, 2)
	single, tars := w.single()
	multi := w.multi(algoGzip)
	dir := t.TempDir()
	to := "dir:" + dir
	w.copy(multi, to, nil)
	instance := w.situation(multi).instances[0].doc.digest.Encoded()
	other := strings.Repeat("0", 64)
	for _, name := range []string{"signature-1", instance + ".signature-2", other + ".signature-1", "notes.txt", "signature-x"} {
		write(t, dir, name, "mine")
	}
	w.copy(multi, to, nil) // the same again
	got := names(t, dir)
	for name, want := range map[string]bool{
		"signature-1": true, instance + ".signature-2": true, other + ".signature-1": false, "notes.txt": true,
	} {
		if slices.Contains(got, name) != want {
			t.Errorf("after the same image again: %s there: %v, want %v", name, !want, want)
		}
	}
	w.copy(single, to, nil)
	want := append(wanted(w, single), "notes.txt", "signature-x")
	slices.Sort(want)
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("after another image: %q, want %q", got, want)
	}
	w.checkTars(to, tars)
}

func TestDirRefuses(t *testing.T) { // L23
	w := newWorld(t, 2)
	single, _ := w.single()
	newer, foreign, unfinished := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, newer, "version", "Directory Transport Version: 1.3\n")
	write(t, newer, "manifest.json", "{}")
	write(t, foreign, "thesis.tex", "years of work")
	write(t, unfinished, "version", dirVersion11)
	for _, c := range []struct {
		name, dir     string
		reads, writes error
	}{
		{"newer", newer, manifest.ErrUnsupported, manifest.ErrUnsupported},
		{"foreign", foreign, ErrNotFound, ErrUsage},
		{"unfinished", unfinished, ErrNotFound, nil},
		{"absent", filepath.Join(w.dir, "absent"), ErrNotFound, nil},
	} {
		if _, err := w.try("dir:"+c.dir, w.layout("x")+":y", nil); !errors.Is(err, c.reads) {
			t.Errorf("%s: read: %v, want %v", c.name, err, c.reads)
		}
		if _, err := w.try(single, "dir:"+c.dir, nil); !errors.Is(err, c.writes) {
			t.Errorf("%s: write: %v, want %v", c.name, err, c.writes)
		}
	}
	if got := names(t, foreign); len(got) != 1 {
		t.Errorf("a foreign directory became %q", got)
	}
}

// Names of other algorithms say so and make the version 1.2; going back to sha256 makes it 1.1 again.
func TestDirAlgorithms(t *testing.T) { // L23
	w := newWorld(t, 2)
	b := w.build("sha512")
	if err := os.MkdirAll(filepath.Join(b.dir, "blobs/sha512"), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, raw []byte) v1.Descriptor {
		d := digest.SHA512.FromBytes(raw)
		b.file("blobs/sha512/"+d.Encoded(), raw)
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
	}
	tar := small(t)[0]
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = b.json(v1.MediaTypeImageConfig, v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(tar)}},
	})
	m.Layers = []v1.Descriptor{put(v1.MediaTypeImageLayer, tar)}
	src := b.name(b.json(v1.MediaTypeImageManifest, m), "x")
	dir := t.TempDir()
	res := w.copy(src, "dir:"+dir, nil)
	if got := read(t, filepath.Join(dir, "sha512-"+m.Layers[0].Digest.Encoded())); got != string(tar) {
		t.Error("the layer's file holds something else")
	}
	if v := read(t, filepath.Join(dir, "version")); v != dirVersion12 {
		t.Errorf("version %q", v)
	}
	for _, to := range []string{"oci-archive:" + filepath.Join(w.dir, "a.tar"), w.layout("back") + ":x", "dir:" + t.TempDir()} {
		if back := w.copy("dir:"+dir, to, nil); back.Digest != res.Digest {
			t.Errorf("%s: digest %s, want %s", to, back.Digest, res.Digest)
		}
		w.checkTars(to, [][]byte{tar})
	}
	single, _ := w.single()
	w.copy(single, "dir:"+dir, nil)
	if v := read(t, filepath.Join(dir, "version")); v != dirVersion11 {
		t.Errorf("version %q after an image of sha256 only", v)
	}
	if got, want := names(t, dir), wanted(w, single); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
}

func TestStale(t *testing.T) { // L23
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	kept := map[string]bool{a: true, a + ".manifest.json": true, "manifest.json": true, "version": true}
	for name, want := range map[string]bool{
		"version": false, "manifest.json": false, a: false, b: true, "sha512-" + b + b: true, "sha256-" + b: false,
		a + ".manifest.json": false, b + ".manifest.json": true, a + ".signature-1": false, b + ".signature-1": true,
		b + ".signature-0": false, b + ".txt": false, "readme": false, ".tocsin-123": false, b + "signature-1": false,
	} {
		if got := stale(name, kept, true); got != want {
			t.Errorf("stale(%q) = %v", name, got)
		}
	}
	if stale("signature-1", kept, true) || !stale("signature-12", kept, false) {
		t.Error("signatures of the top stay exactly when it does")
	}
}

// A file whose bytes are not its name's is never passed on.
func TestDirDamaged(t *testing.T) { // rule 17
	w := newWorld(t, 2)
	src := w.multi(algoGzip)
	dir := t.TempDir()
	w.copy(src, "dir:"+dir, nil)
	for _, name := range names(t, dir) {
		if name == "version" {
			continue
		}
		raw := []byte(read(t, filepath.Join(dir, name)))
		flipped := bytes.Clone(raw)
		flipped[len(flipped)/2] ^= 1
		write(t, dir, name, string(flipped))
		to := w.layout("damaged-" + name[:8])
		if res, err := w.try("dir:"+dir, to+":x", nil); err == nil && name != dirManifest {
			t.Errorf("%s: copied as %s", name, res.Digest)
		} else if err == nil && bytes.Equal(w.raw(to+":x"), raw) {
			t.Errorf("%s: the bit is back", name)
		}
		write(t, dir, name, string(raw))
	}
}
