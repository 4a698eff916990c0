package copy

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

const (
	oneBlob   = `{"mediaType":"text/plain","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}`
	schemaOne = `{"schemaVersion":1,"name":"x","fsLayers":[{"blobSum":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]}`
)

// rule 12
func TestBlobsOfUnknown(t *testing.T) {
	for raw, want := range map[string]int{
		`{"blobs":[` + oneBlob + `,` + oneBlob + `]}`:           2,
		`{"config":` + oneBlob + `,"layers":[` + oneBlob + `]}`: 2,
		`{"blobs":[],"subject":` + oneBlob + `}`:                0,
	} {
		if got, err := blobsOfUnknown([]byte(raw)); err != nil || len(got) != want {
			t.Errorf("%s: %v %v", raw, got, err)
		}
	}
	for raw, want := range map[string]error{
		schemaOne: manifest.ErrUnsupported, // rule 32
		`{}`:      manifest.ErrUnsupported, `{"layers":[],"manifests":[]}`: manifest.ErrUnsupported,
		`{"mediaType":"` + v1.MediaTypeImageManifest + `","layers":[]}`: manifest.ErrMalformed,
		`[]`: manifest.ErrMalformed, `{"blobs":[{"digest":"sha256:12"}]}`: manifest.ErrMalformed,
		`{"blobs":[{"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":-1}]}`: manifest.ErrMalformed,
	} {
		if got, err := blobsOfUnknown([]byte(raw)); !errors.Is(err, want) {
			t.Errorf("%s: %v %v", raw, got, err)
		}
	}
}

// rule 12: a manifest of a type that we do not know goes with its blobs, beside images that are edited.
func TestUnknownInList(t *testing.T) {
	w := newWorld(t, 4)
	b := w.build("unknown")
	blob := b.blob("text/plain", []byte("content"))
	artifact := b.json("application/vnd.oci.artifact.manifest.v1+json", map[string]any{
		"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "artifactType": "text/x", "blobs": []v1.Descriptor{blob},
	})
	src := b.name(b.list(b.image("linux/amd64", algoGzip, small(t)...), artifact), "x")
	for _, dst := range []string{w.docker("a:1"), w.layout("out") + ":x", "dir:" + t.TempDir()} {
		w.copy(src, dst, nil)
		if !bytes.Equal(w.raw(dst), w.raw(src)) {
			t.Errorf("%s: other bytes", dst)
		}
		w.copy(src, dst, &Options{Compress: Compression{Algorithm: algoZstd}})
		s := w.situation(dst)
		if s.instances[1].desc.Digest != artifact.Digest || len(s.instances[1].blobs) != 1 {
			t.Errorf("%s: %+v", dst, s.instances[1])
		}
	}
	if w.blobOf(w.layout("out")+":x", blob) == nil {
		t.Error("its blob is missing")
	}
	old := b.name(b.list(b.blob("application/vnd.docker.distribution.manifest.v1+prettyjws", []byte(schemaOne))), "old")
	if _, err := w.try(old, w.layout("old")+":x", nil); !errors.Is(err, manifest.ErrUnsupported) {
		t.Errorf("schema 1: %v", err)
	}
}

func FuzzUnknown(f *testing.F) {
	seeds := []string{`{"blobs":[` + oneBlob + `]}`, schemaOne, `{"config":` + oneBlob + `}`, `{}`}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		blobs, err := blobsOfUnknown(raw)
		if err == nil && !json.Valid(raw) {
			t.Error("no JSON")
		}
		for _, d := range blobs {
			if err := manifest.ValidDigest(d.Digest); err != nil || d.Size < 0 {
				t.Errorf("%+v", d)
			}
		}
	})
}
