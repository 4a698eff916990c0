package copy

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

func entry(content, name string) v1.Descriptor {
	d := v1.Descriptor{Digest: digest.FromString(content)}
	if name != "" {
		d.Annotations = map[string]string{v1.AnnotationRefName: name}
	}
	return d
}

func TestFindEntry(t *testing.T) {
	a, b, c := entry("a", "one"), entry("b", ""), entry("c", "two")
	all := []v1.Descriptor{a, b, c}
	tests := []struct {
		name    string
		entries []v1.Descriptor
		ref     manifest.Ref
		want    string
		err     error
	}{
		{"by name", all, manifest.Ref{Name: "two", Index: -1}, "c", nil},
		{"by digest", all, manifest.Ref{Digest: b.Digest, Index: -1}, "b", nil},
		{"by position", all, manifest.Ref{Index: 1}, "b", nil},
		{"the only one", []v1.Descriptor{c}, manifest.Ref{Index: -1}, "c", nil},
		{"which?", all, manifest.Ref{Index: -1}, "", ErrUsage},
		{"none", nil, manifest.Ref{Index: -1}, "", ErrNotFound},
		{"no such name", all, manifest.Ref{Name: "three", Index: -1}, "", ErrNotFound},
		{"the only one has another name", []v1.Descriptor{c}, manifest.Ref{Name: "three", Index: -1}, "", ErrNotFound},
		{"no such position", all, manifest.Ref{Index: 3}, "", ErrNotFound},
		{"no such digest", all, manifest.Ref{Digest: digest.FromString("x"), Index: -1}, "", ErrNotFound},
	}
	for _, tt := range tests {
		got, err := findEntry(tt.entries, tt.ref)
		if !errors.Is(err, tt.err) || tt.want != "" && got.Digest != digest.FromString(tt.want) {
			t.Errorf("%s: %v %v", tt.name, got.Digest, err)
		}
	}
}

// L24, rule 51: a name moves, an unnamed entry is replaced, the same digest may have several names.
func TestNameEntry(t *testing.T) {
	show := func(entries []v1.Descriptor) (s string) {
		for _, e := range entries {
			for _, content := range []string{"a", "b"} {
				if e.Digest == digest.FromString(content) {
					s += content + ":" + e.Annotations[v1.AnnotationRefName] + " "
				}
			}
		}
		return s
	}
	tests := []struct {
		name    string
		entries []v1.Descriptor
		add     v1.Descriptor
		as      string
		want    string
	}{
		{"the first", nil, entry("a", ""), "x", "a:x "},
		{"the name moves", []v1.Descriptor{entry("a", "x")}, entry("b", ""), "x", "b:x "},
		{"another name", []v1.Descriptor{entry("a", "x")}, entry("a", ""), "y", "a:x a:y "},
		{"unnamed gets a name", []v1.Descriptor{entry("a", "")}, entry("a", ""), "x", "a:x "},
		{"unnamed again", []v1.Descriptor{entry("a", ""), entry("b", "x")}, entry("a", ""), "", "b:x a: "},
		{"unnamed beside named", []v1.Descriptor{entry("a", "x")}, entry("b", ""), "", "a:x b: "},
	}
	for _, tt := range tests {
		before := show(tt.entries)
		if got := show(nameEntry(tt.entries, tt.add, tt.as)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if after := show(tt.entries); after != before {
			t.Errorf("%s: the old entries changed", tt.name)
		}
	}
}

func TestLayoutRefusals(t *testing.T) {
	w := newWorld(t, 1)
	src, _ := w.single()
	if _, err := w.try("oci:"+t.TempDir(), w.layout("out"), nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("no layout: %v", err)
	}
	if _, err := w.try(src, w.layout("out")+":@0", nil); !errors.Is(err, ErrUsage) {
		t.Errorf("a position as a destination: %v", err)
	}
	b := w.build("new")
	b.file("oci-layout", []byte(`{"imageLayoutVersion":"2.0.0"}`))
	if _, err := w.try(src, w.layout("new"), nil); !errors.Is(err, manifest.ErrUnsupported) {
		t.Errorf("a layout of another version: %v", err)
	}
	b = w.build("odd")
	b.file("index.json", []byte(`{"manifests":`))
	if _, err := w.try(w.layout("odd"), w.layout("out"), nil); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("half an index: %v", err)
	}
	b.file("index.json", append([]byte(`{"manifests":[]}`), make([]byte, maxIndexSize)...))
	if _, err := w.try(w.layout("odd"), w.layout("out"), nil); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("a huge index: %v", err)
	}
}

// What a killed copy left in a layout is gone after the next one, but not what a living one is writing.
func TestSweep(t *testing.T) {
	w := newWorld(t, 1)
	src, _ := w.single()
	w.copy(src, w.layout("out")+":x", nil)
	dead := filepath.Join(w.dir, "out", "blobs", tempPrefix+"dead")
	if err := os.WriteFile(dead, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &layout{ref: w.ref(w.layout("out"))}
	alive, err := l.temp(v1.ImageBlobsDir)
	if err != nil {
		t.Fatal(err)
	}
	defer alive.Close()
	w.copy(src, w.layout("out")+":y", nil)
	if _, err := os.Stat(dead); !os.IsNotExist(err) {
		t.Errorf("%s is still there (%v)", dead, err)
	}
	if _, err := os.Stat(alive.Name()); err != nil {
		t.Error(err)
	}
}

// FuzzLayoutIndex reads hostile layouts: whatever index.json says, the answer is an error or the bytes that were named.
func FuzzLayoutIndex(f *testing.F) {
	good := []byte(`{"schemaVersion":2}`)
	named := v1.Index{Manifests: []v1.Descriptor{
		{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromBytes(good), Size: int64(len(good)), Annotations: map[string]string{v1.AnnotationRefName: "x"}},
		{Digest: "sha256:../../../../etc/passwd", Size: -1},
	}}
	raw, err := json.Marshal(named)
	if err != nil {
		f.Fatal(err)
	}
	seeds := []string{string(raw), `{}`, `null`, `[]`, `{"manifests":[{}]}`, `{"manifests":[null]}`,
		`{"manifests":[{"digest":"sha256:..","size":9223372036854775807}]}`, `{"manifests":{"a":1}}`}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add([]byte(s), "x", 0)
		f.Add([]byte(s), "", -1)
	}
	f.Fuzz(func(t *testing.T, index []byte, name string, position int) {
		dir := t.TempDir()
		blobs := filepath.Join(dir, "blobs", "sha256")
		if err := os.MkdirAll(blobs, 0o755); err != nil {
			t.Fatal(err)
		}
		for path, content := range map[string][]byte{
			filepath.Join(dir, layoutFile):                                 []byte(`{"imageLayoutVersion":"1.0.0"}`),
			filepath.Join(dir, indexFile):                                  index,
			filepath.Join(blobs, digest.FromBytes(good).Encoded()):         good,
			filepath.Join(blobs, digest.FromString("something").Encoded()): []byte("else"),
		} {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ref := manifest.Ref{Transport: manifest.OCI, Path: dir, Name: name, Index: position}
		l, err := openLayout(ref)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := l.top(t.Context())
		if err == nil && string(doc.raw) != string(good) {
			t.Errorf("read %q", doc.raw)
		}
	})
}
