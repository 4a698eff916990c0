package copy

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

const (
	ociImage, ociList       = v1.MediaTypeImageManifest, v1.MediaTypeImageIndex
	dockerImage, dockerList = manifest.DockerManifest, manifest.DockerList
)

// rule 26, rule 27, rule 28, rule 31, L18: the types that are tried, in order.
func TestForms(t *testing.T) {
	plain := func(string) error { return nil }
	zstd := func(mt string) error {
		if mt == dockerImage {
			return manifest.ErrUnsupported
		}
		return nil
	}
	onlyDocker, both := []string{dockerImage}, []string{ociImage, dockerImage}
	tests := []struct {
		name   string
		f      forms
		have   string
		forced string
		say    func(string) error
		want   []string
		err    error
	}{
		{"its own first", forms{}, ociImage, "", plain, []string{ociImage, dockerImage}, nil},
		{"its own first", forms{}, dockerImage, "", plain, []string{dockerImage, ociImage}, nil},
		{"what is declared, its own first", forms{accepts: both}, dockerImage, "", plain, []string{dockerImage, ociImage}, nil},
		{"only what is declared", forms{accepts: onlyDocker}, ociImage, "", plain, []string{dockerImage}, nil},
		{"zstd only where it can be said", forms{}, dockerImage, "", zstd, []string{ociImage}, nil},
		{"zstd nowhere", forms{accepts: onlyDocker}, ociImage, "", zstd, nil, manifest.ErrUnsupported},
		{"no change, no choice", forms{reason: "so"}, ociImage, "", plain, []string{ociImage}, nil},
		{"no change, even if not declared", forms{reason: "so", accepts: onlyDocker}, ociImage, "", plain, []string{ociImage}, nil},
		{"forced", forms{forced: FormatDocker}, ociImage, dockerImage, plain, []string{dockerImage}, nil},
		{"forced to what it is", forms{forced: FormatOCI, reason: "so"}, ociImage, ociImage, plain, []string{ociImage}, nil},
		{"forced, but no change", forms{forced: FormatDocker, reason: "so"}, ociImage, dockerImage, plain, nil, ErrPreserve},
		{"forced to what cannot say it", forms{forced: FormatDocker}, ociImage, dockerImage, zstd, nil, ErrUsage},
		{"a list", forms{}, dockerList, "", plain, []string{dockerList, ociList}, nil},
		{"a forced list", forms{forced: FormatOCI}, dockerList, ociList, plain, []string{ociList}, nil},
	}
	for _, tt := range tests {
		got, err := tt.f.choose(tt.have, tt.forced, tt.say)
		if !errors.Is(err, tt.err) || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v %v, want %v %v", tt.name, got, err, tt.want, tt.err)
		}
	}
}

// rule 26, rule 32: skopeo's words for the formats, and schema 1 is not made.
func TestParseFormat(t *testing.T) {
	for s, want := range map[string]Format{"": "", "oci": FormatOCI, "docker": FormatDocker, "v2s2": FormatDocker, "v2s1": "x", "OCI": "x"} {
		got, err := ParseFormat(s)
		if want == "x" {
			if !errors.Is(err, ErrUsage) {
				t.Errorf("%q: %v", s, err)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: %q %v", s, got, err)
		}
	}
	if FormatDocker.list() != dockerList || FormatOCI.list() != ociList || FormatDocker.image() != dockerImage || FormatOCI.image() != ociImage {
		t.Error("types of formats")
	}
}

// types are the manifest types of what a reference names, the top first.
func (w *world) types(ref string) []string {
	s := w.situation(ref)
	out := []string{s.top.mediaType}
	for _, in := range s.instances {
		if s.list != nil {
			out = append(out, in.desc.MediaType)
		}
	}
	return out
}

// rule 26, rule 24, rule 33, L5: there and back again, for a single image and for a list with its instances.
func TestFormat(t *testing.T) {
	w := newWorld(t, 4)
	single, tars := w.single()
	b := w.build("lists")
	amd, arm := b.image("linux/amd64", algoGzip, tars...), b.image("linux/arm/v7", algoNone, tars...)
	arm.Platform.OSVersion, arm.Platform.OSFeatures = "1.2", []string{"f"}
	amd.URLs = []string{"https://elsewhere.example/amd"}
	multi := b.name(b.list(amd, arm), "x")
	for _, tt := range []struct {
		src           string
		docker, inOCI []string
	}{
		{single, []string{dockerImage}, []string{ociImage}},
		{multi, []string{dockerList, dockerImage, dockerImage}, []string{ociList, ociImage, ociImage}},
	} {
		before := w.situation(tt.src)
		w.copy(tt.src, w.docker("a:docker"), &Options{Format: FormatDocker})
		if got := w.types(w.docker("a:docker")); !slices.Equal(got, tt.docker) {
			t.Errorf("%v, want %v", got, tt.docker)
		}
		w.checkTars(w.docker("a:docker"), tars)
		// Docker's is Docker's already, so its bytes stay.
		w.copy(w.docker("a:docker"), w.docker("a:same"), &Options{Format: FormatDocker, Preserve: true})
		if !bytes.Equal(w.raw(w.docker("a:same")), w.raw(w.docker("a:docker"))) {
			t.Error("other bytes without a change")
		}
		w.copy(w.docker("a:docker"), w.docker("a:oci"), &Options{Format: FormatOCI})
		if got := w.types(w.docker("a:oci")); !slices.Equal(got, tt.inOCI) {
			t.Errorf("%v, want %v", got, tt.inOCI)
		}
		w.checkTars(w.docker("a:oci"), tars)
		after := w.situation(w.docker("a:oci"))
		for i, in := range after.instances {
			was := before.instances[i]
			if in.image.Manifest.Config.Digest != was.image.Manifest.Config.Digest || in.image.Manifest.Config.MediaType != was.image.Manifest.Config.MediaType {
				t.Errorf("config %+v, was %+v", in.image.Manifest.Config, was.image.Manifest.Config)
			}
			for k, l := range in.image.Layers {
				if l.MediaType != was.image.Layers[k].MediaType || l.Digest != was.image.Layers[k].Digest {
					t.Errorf("layer %d is %s %s", k, l.Digest, l.MediaType)
				}
			}
			if a, b := asText(t, in.desc.Platform), asText(t, was.desc.Platform); a != b || len(in.desc.URLs) > 0 { // what was elsewhere had other bytes
				t.Errorf("entry %+v, was %+v", in.desc, was.desc)
			}
		}
	}
	for _, o := range []Options{{Format: FormatDocker, Preserve: true}, {Format: FormatDocker, Compress: Compression{Algorithm: algoZstd}}} {
		w.front.Forget()
		if _, err := w.try(single, w.docker("b:1"), &o); !errors.Is(err, ErrPreserve) && !errors.Is(err, ErrUsage) || w.front.Count("", "/v2/b/") != 0 {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := w.try(single, "store:b", &Options{Format: FormatDocker}); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
}

func asText(t *testing.T, v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// rule 24: where the type is all that changes, and no entry does, what is sent is the converted form and not the
// original (container/image's first version forgot to serialise it).
func TestPureConversion(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("a")
	src := b.name(b.list(b.attestation(v1.Descriptor{Digest: digest.FromString("x")})), "x")
	w.copy(src, w.docker("a:docker"), &Options{Format: FormatDocker})
	if got := w.types(w.docker("a:docker")); !slices.Equal(got, []string{dockerList, ociImage}) {
		t.Error(got)
	}
	if raw := w.raw(w.docker("a:docker")); !bytes.Contains(raw, []byte(dockerList)) || bytes.Contains(raw, []byte("annotations")) {
		t.Errorf("%s", raw)
	}
}

// refusingOf answers the upload of manifests of a type that are named by a digest, or by a tag.
func refusingOf(mediaType string, byDigest bool, answer front.Action) front.Rule {
	return front.Rule{Method: "PUT", Path: "/manifests/", Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Content-Type") == mediaType && strings.Contains(r.URL.Path, "sha256:") == byDigest {
			answer(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}}
}

// rule 29, rule 30: an instance that is rejected is offered in the other form, its blobs are not sent again, and the list
// says what was taken.
func TestInstanceRejected(t *testing.T) {
	invalid := front.Status(400, "MANIFEST_INVALID")
	w := newWorld(t, 4)
	b := w.build("lists")
	amd, arm := b.image("linux/amd64", algoGzip, small(t)...), b.image("linux/arm64", algoGzip, small(t)...)
	src := b.name(b.list(amd, arm, amd), "x")
	nested := b.name(b.list(b.list(amd), arm), "nested")

	w.front.Add(refusingOf(ociImage, true, invalid))
	res := w.copy(src, w.docker("a:1"), nil)
	if got := w.types(w.docker("a:1")); !slices.Equal(got, []string{ociList, dockerImage, dockerImage, dockerImage}) || len(res.Notes) != 2 {
		t.Errorf("%v, notes %v", got, res.Notes)
	}
	// Two layers and two configs; two instances twice, and the list.
	if up, put := w.front.Count("POST", "/uploads/"), w.front.Count("PUT", "/manifests/"); up != 4 || put != 5 {
		t.Errorf("%d uploads, %d manifests", up, put)
	}
	w.checkTars(w.docker("a:1"), small(t))
	if res := w.copy(nested, w.docker("a:nested"), nil); len(res.Notes) != 2 {
		t.Errorf("notes %v", res.Notes)
	}
	if got := w.types(w.docker("a:nested")); !slices.Equal(got, []string{ociList, ociList, dockerImage}) {
		t.Error(got)
	}
	if _, err := w.try(src, w.docker("b:1"), &Options{Preserve: true}); !errors.Is(err, registry.ErrRejected) { // rule 28
		t.Error(err)
	}
	w.front.Behave()
	w.front.Add(front.Rule{Method: "PUT", Path: "/manifests/sha256:", Do: invalid})
	_, err := w.try(src, w.docker("c:1"), nil)
	if !errors.Is(err, registry.ErrRejected) || !strings.Contains(err.Error(), "as "+ociImage) || !strings.Contains(err.Error(), "as "+dockerImage) {
		t.Errorf("not both forms: %v", err)
	}
}

// rule 40: the new blob's own facts replace the old one's, and what others said of the layer stays.
func TestRelabel(t *testing.T) {
	toc := (&manifest.TOCRef{Digest: digest.FromString("toc"), TOC: manifest.Range{Off: 1, Len: 2}, TOCRawLen: 3}).Annotations()
	old := v1.Descriptor{
		MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", Digest: digest.FromString("old"), Size: 7,
		URLs: []string{"https://x.example"}, Data: []byte("old"), Annotations: map[string]string{"com.example": "kept"},
	}
	for k, v := range toc {
		old.Annotations[k] = v
	}
	made := v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: digest.FromString("new"), Size: 9}
	got := relabel(old, made)
	if got.MediaType != made.MediaType || got.Digest != made.Digest || got.Size != 9 || got.URLs != nil || got.Data != nil || len(got.Annotations) != 1 || got.Annotations["com.example"] != "kept" {
		t.Errorf("%+v", got)
	}
	made.Annotations = toc
	if got := relabel(old, made); len(got.Annotations) != 1+len(toc) {
		t.Errorf("%+v", got)
	}
	if len(old.Annotations) != 1+len(toc) {
		t.Error("the original was written to")
	}
}

// rule 40: in a manifest, layer by layer, also where two images have one blob and say different things of it.
func TestAnnotationsStay(t *testing.T) {
	w := newWorld(t, 4)
	b := w.build("a")
	tars := small(t)
	d := b.image("linux/amd64", algoChunked, tars...)
	raw := w.manifestOf(b.name(d, "plain"), d)
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	m.Layers[1].Annotations["com.example"] = "kept"
	src := b.name(b.json(ociImage, m), "x")
	w.copy(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algoGzip}})
	layers := w.situation(w.docker("a:1")).instances[0].image.Layers
	if len(layers[0].Annotations) != 0 || len(layers[1].Annotations) != 1 || layers[1].Annotations["com.example"] != "kept" {
		t.Errorf("%+v", layers)
	}
	w.copy(src, w.docker("a:2"), &Options{Compress: Compression{Algorithm: algoGzip}, Format: FormatDocker})
	if l := w.situation(w.docker("a:2")).instances[0].image.Layers[1]; len(l.Annotations) != 0 || l.MediaType != "application/vnd.docker.image.rootfs.diff.tar.gzip" {
		t.Errorf("%+v", l)
	}
	// Docker's stays Docker's where it can say the new layers, and becomes OCI where it cannot (rule 27).
	w.copy(w.docker("a:2"), w.docker("a:3"), &Options{Compress: Compression{Algorithm: algoNone}})
	w.copy(w.docker("a:2"), w.docker("a:4"), &Options{Compress: Compression{Algorithm: algoZstd}})
	if a, b := w.types(w.docker("a:3")), w.types(w.docker("a:4")); a[0] != dockerImage || b[0] != ociImage {
		t.Error(a, b)
	}
	for _, name := range []string{"a:1", "a:2", "a:3", "a:4"} {
		w.checkTars(w.docker(name), tars)
	}
}

// manifestOf reads a manifest beside a reference.
func (w *world) manifestOf(ref string, d v1.Descriptor) []byte {
	w.t.Helper()
	src, err := openSource(w.env, w.ref(ref))
	if err != nil {
		w.t.Fatal(err)
	}
	doc, err := src.manifest(w.t.Context(), d)
	if err != nil {
		w.t.Fatal(err)
	}
	return doc.raw
}
