package chunked

import (
	"bytes"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Every digest inside of a blob is of the algorithm that was asked for, and our own reader takes all of them. The frames
// are the same whatever the algorithm, and so is the tar.
func TestCompressAlgorithm(t *testing.T) { // D15, rule 61
	raw := makeTar(t, manyKinds()...)
	plain, _ := compress(t, raw, nil)
	for _, o := range []WriterOptions{
		{},
		{Algorithm: digest.SHA256, DiffID: digest.SHA512},
		{Algorithm: digest.SHA384, DiffID: digest.SHA256},
		{Algorithm: digest.SHA512, DiffID: digest.SHA512},
	} {
		blob, w := compress(t, raw, &o)
		toc := checkBlob(t, raw, blob, w)
		alg, diffID := o.Algorithm, o.DiffID
		if alg == "" {
			alg, diffID = digest.SHA256, digest.SHA256
		}
		if w.DiffID != diffID.FromBytes(raw) || w.Digest != alg.FromBytes(blob) {
			t.Errorf("%+v: tar %s, blob %s", o, w.DiffID, w.Digest)
		}
		if n := w.TOC.TOC.Off - 8; !bytes.Equal(blob[:n], plain[:n]) {
			t.Errorf("%+v: other frames", o)
		}
		for _, d := range []digest.Digest{w.TOC.Digest, toc.TarSplitDigest} {
			if d.Algorithm() != alg {
				t.Errorf("%+v: %s", o, d)
			}
		}
		ref, err := manifest.TOCRefOf(v1.Descriptor{Digest: w.Digest, Size: w.Size, Annotations: w.TOC.Annotations()})
		if err != nil || ref.Digest != w.TOC.Digest {
			t.Errorf("%+v: annotations are read as %v, %v", o, ref, err)
		}
		for _, e := range toc.Entries {
			checkAlgorithm(t, blob, &e, alg)
		}
	}
	for _, o := range []WriterOptions{{Algorithm: "md5"}, {DiffID: "sha999"}} {
		if _, err := Compress(&bytes.Buffer{}, bytes.NewReader(raw), &o); !errors.Is(err, manifest.ErrUnsupported) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// checkAlgorithm demands that a file and its chunks are named in alg, each by its content.
func checkAlgorithm(t *testing.T, blob []byte, e *Entry, alg digest.Algorithm) {
	t.Helper()
	if e.Size == 0 {
		return
	}
	content := make([]byte, e.Size)
	if _, err := NewFileReader(bytes.NewReader(blob), e.Chunks).ReadAt(content, 0); err != nil {
		t.Errorf("%q: %v", e.Name, err)
	}
	if e.Digest != alg.FromBytes(content) {
		t.Errorf("%q is %s, want %s", e.Name, e.Digest, alg)
	}
	for _, c := range e.Chunks {
		if c.Digest != alg.FromBytes(content[c.Off:c.End()]) {
			t.Errorf("%q: chunk at %d is %s, want %s", e.Name, c.Off, c.Digest, alg)
		}
	}
}
