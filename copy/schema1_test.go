package copy

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// signedSchema1 is a signed manifest of schema 1 with these layers, bottom to top, and an empty one between them. It
// returns what was signed too.
func signedSchema1(layers ...digest.Digest) (signed, payload string) {
	const empty = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
	raw := fmt.Sprintf(`{
   "schemaVersion": 1, "name": "old", "tag": "1", "architecture": "amd64",
   "fsLayers": [{"blobSum": %q}, {"blobSum": %q}, {"blobSum": %q}],
   "history": [
      {"v1Compatibility": "{\"id\":\"c\",\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Cmd\":[\"sh\"]}}"},
      {"v1Compatibility": "{\"id\":\"b\",\"throwaway\":true}"},
      {"v1Compatibility": "{\"id\":\"a\"}"}
   ]
}`, layers[1], empty, layers[0])
	end := strings.LastIndex(raw, "\n}")
	b64 := base64.RawURLEncoding.EncodeToString
	header := b64(fmt.Appendf(nil, `{"formatLength":%d,"formatTail":%q}`, end, b64([]byte(raw[end:]))))
	return raw[:end] + fmt.Sprintf(`, "signatures": [{"signature": "x", "protected": %q}]`, header) + raw[end:], raw
}

// schema1 puts an image of schema 1 into the registry.
func (w *world) schema1() (ref, raw string, tars [][]byte) {
	w.t.Helper()
	tars = small(w.t)
	repo := w.env.Registry.Repo(w.host, "old")
	var layers []digest.Digest
	put := func(blob []byte) {
		d := v1.Descriptor{Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		if err := repo.PutBlob(w.t.Context(), d, opener(blob)); err != nil {
			w.t.Fatal(err)
		}
		layers = append(layers, d.Digest)
	}
	for _, tar := range tars {
		put([]byte(compress(w.t, algoGzip, string(tar))))
	}
	put(emptyLayer)
	if layers[2] != "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4" {
		w.t.Fatal(layers[2])
	}
	raw, _ = signedSchema1(layers...)
	if err := repo.PutManifest(w.t.Context(), "1", []byte(raw), manifest.DockerSchema1Signed); err != nil {
		w.t.Fatal(err)
	}
	return w.docker("old:1"), raw, tars
}

// layersOf are the layers that signedSchema1 was given.
func layersOf(t *testing.T, signed string) []digest.Digest {
	t.Helper()
	doc, err := manifest.NameDocument([]byte(signed), digest.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	s, err := manifest.ParseSchema1(doc.Raw())
	if err != nil {
		t.Fatal(err)
	}
	return s.Blobs
}

// emptyLayer is what docker put in place of layers without content.
var emptyLayer = []byte{0x1f, 0x8b, 8, 0, 0, 9, 0x6e, 0x88, 0, 0xff, 0x62, 0x18, 5, 0xa3, 0x60, 0x14, 0x8c, 0x58, 0, 8, 0, 0, 0xff, 0xff, 0x2e, 0xaf, 0xb5, 0xef, 0, 4, 0, 0}

// rule 32, rule 24: schema 1 goes as it is where it is taken, and becomes another manifest elsewhere, whose diffIDs are
// those of the tars.
func TestSchema1(t *testing.T) {
	w := newWorld(t, 4)
	src, raw, tars := w.schema1()
	_, payload := signedSchema1(layersOf(t, raw)...)
	dir := "dir:" + t.TempDir()
	for _, dst := range []string{w.docker("new:1"), dir} {
		w.copy(src, dst, &Options{Preserve: true})
		// What is read is what was signed; what is there, and goes on, has the signatures.
		if top := w.situation(dst).top; string(top.sent()) != raw || string(top.raw) != payload {
			t.Errorf("%s: other bytes", dst)
		}
	}
	for i, tt := range []struct {
		src, dst string
		o        Options
		want     string
	}{
		{src, w.layout("x") + ":x", Options{}, dockerImage},
		{dir, w.docker("b:1"), Options{Format: FormatDocker}, dockerImage},
		{src, w.docker("c:1"), Options{Format: FormatOCI}, ociImage},
		{src, w.docker("d:1"), Options{Compress: Compression{Algorithm: algoZstd}}, ociImage},
	} {
		res := w.copy(tt.src, tt.dst, &tt.o)
		if res.MediaType != tt.want || len(res.Notes) == 0 {
			t.Errorf("%d: %s, notes %v", i, res.MediaType, res.Notes)
		}
		w.checkTars(tt.dst, tars)
		for k, l := range w.situation(tt.dst).instances[0].image.Layers {
			if l.DiffID != digest.FromBytes(tars[k]) {
				t.Errorf("%d: layer %d has diffID %s", i, k, l.DiffID)
			}
		}
	}
	w.copy(src, "store:old", &Options{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}})
	if got := w.stored("store:old", manifest.TarOnly); len(got) != 2 || !bytes.Equal(got[0], tars[0]) {
		t.Errorf("%d layers in the store", len(got))
	}
	if _, err := w.try(src, w.layout("y")+":x", &Options{Preserve: true}); !errors.Is(err, ErrPreserve) {
		t.Error(err)
	}
	if _, err := w.try(src, w.docker("e:1"), &Options{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	// A registry that does not take it any more gets the other one, and no layer a second time (rule 29).
	w.front.Forget()
	w.front.Add(refusing(manifest.DockerSchema1Signed, front.Status(400, "MANIFEST_INVALID")))
	res := w.copy(src, w.docker("f:1"), nil)
	if up := w.front.Count("POST", "/v2/f/blobs/uploads/"); res.MediaType != dockerImage || up > 5 { // three mounts, and the config, which cannot be mounted
		t.Errorf("%s, %d uploads", res.MediaType, up)
	}
	if _, err := w.try(src, w.docker("g:1"), &Options{Preserve: true}); err == nil {
		t.Error("a promise was broken")
	}
	// A layer that is not what the manifest names makes no image.
	w.front.Behave()
	w.front.Add(front.Rule{Method: "GET", Path: "/v2/old/blobs/", Do: front.FlipBit(30)})
	if _, err := w.try(src, w.layout("z")+":x", nil); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Error(err)
	}
}
