package oracle

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/storage/pkg/chunked/compressor"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// theirs compresses a tar with containers/storage and returns the blob and the annotations of its descriptor.
func theirs(t testing.TB, raw []byte, level *int) ([]byte, map[string]string) {
	t.Helper()
	var blob bytes.Buffer
	ann := map[string]string{}
	w, err := compressor.ZstdCompressor(&blob, ann, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return blob.Bytes(), ann
}

// layer is what a verifying reader makes of a blob.
type layer struct {
	blob  []byte
	toc   *chunked.TOC
	split *chunked.TarSplit
	index *chunked.Index
}

func readLayer(t testing.TB, blob []byte, ann map[string]string) *layer {
	t.Helper()
	ref, err := manifest.TOCRefOf(v1.Descriptor{
		MediaType: v1.MediaTypeImageLayerZstd, Digest: digest.FromBytes(blob), Size: int64(len(blob)), Annotations: ann,
	})
	if err != nil || ref == nil {
		t.Fatalf("no TOC in %v: %v", ann, err)
	}
	part := func(r manifest.Range) []byte { return blob[r.Off:r.End()] }
	l := &layer{blob: blob}
	if l.toc, err = chunked.ParseTOC(part(ref.TOC), ref, int64(len(blob))); err != nil {
		t.Fatal(err)
	}
	if l.split, err = chunked.ParseTarSplit(part(ref.TarSplit), l.toc.TarSplitDigest, ref.TarSplitRawLen); err != nil {
		t.Fatal(err)
	}
	b, err := chunked.BuildIndex(l.toc)
	if err != nil {
		t.Fatal(err)
	}
	if l.index, err = chunked.OpenIndex(b); err != nil {
		t.Fatal(err)
	}
	if err := chunked.CheckTarSplit(nil, l.index, l.split); err != nil {
		t.Fatal(err)
	}
	return l
}

// open returns the verified content of a regular file.
func (l *layer) open(name string) (io.ReadCloser, error) {
	clean, err := chunked.CleanName(name)
	if err != nil {
		return nil, err
	}
	obj, ok := l.index.ObjectByPath(clean)
	if !ok {
		return nil, fmt.Errorf("no content for %q", name)
	}
	r := chunked.NewFileReader(bytes.NewReader(l.blob), l.index.Chunks(obj))
	return io.NopCloser(io.NewSectionReader(r, 0, l.index.Object(obj).Size)), nil
}

// Layers that containers/storage has written are read as they were meant, and proved to be their tars.
func TestReadTheirs(t *testing.T) {
	three := 3
	for name, raw := range layers(t) {
		for _, level := range []*int{nil, &three} {
			t.Run(name, func(t *testing.T) {
				blob, ann := theirs(t, raw, level)
				l := readLayer(t, blob, ann)
				var back bytes.Buffer
				if err := chunked.ProveTar(nil, &back, l.index, l.split, l.open); err != nil {
					t.Fatal(err)
				}
				if digest.FromBytes(back.Bytes()) != digest.FromBytes(raw) {
					t.Error("the tar comes back with another digest")
				}
				for name, want := range contents(t, raw) {
					if len(want) == 0 {
						continue
					}
					r, err := l.open(name)
					if err != nil {
						t.Fatal(err)
					}
					if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%q: wrong content, %v", name, err)
					}
				}
			})
		}
	}
}

// Both writers say the same of a tar, but for chunks, offsets and what follows from those.
func TestSameEntries(t *testing.T) {
	for name, raw := range layers(t) {
		t.Run(name, func(t *testing.T) {
			blob, ann := theirs(t, raw, nil)
			want := readLayer(t, blob, ann).toc.Entries
			var buf bytes.Buffer
			w, err := chunked.Compress(&buf, bytes.NewReader(raw), nil)
			if err != nil {
				t.Fatal(err)
			}
			got := readLayer(t, buf.Bytes(), w.TOC.Annotations()).toc.Entries
			if len(got) != len(want) {
				t.Fatalf("%d entries, theirs are %d", len(got), len(want))
			}
			for i := range got {
				if g, w := plain(got[i]), plain(want[i]); g != w {
					t.Errorf("entry\n%s, theirs\n%s", g, w)
				}
			}
		})
	}
}

// plain spells what does not depend on the writer.
func plain(e chunked.Entry) string {
	e.Chunks = nil
	e.ModTime, e.AccessTime, e.ChangeTime = e.ModTime.UTC(), e.AccessTime.UTC(), e.ChangeTime.UTC()
	if len(e.Xattrs) == 0 {
		e.Xattrs = nil
	}
	return fmt.Sprintf("%+v", e)
}
