package copy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/manifest"
)

// An archive, layout or directory that changes between two reads of one copy gives wrong bytes to neither of them: each
// read is compared by itself.
func TestPlacesChange(t *testing.T) { // rule 17
	w := newWorld(t, 2)
	single, _ := w.single()
	for _, dst := range []string{"oci-archive:" + w.dir + "/oci.tar", "docker-archive:" + w.dir + "/docker.tar", w.layout("copy") + ":x", "dir:" + w.dir + "/dir"} {
		w.copy(single, dst, nil)
		src, err := openSource(w.env, w.ref(dst))
		if err != nil {
			t.Fatal(err)
		}
		top, err := src.top(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		in, err := readInstance(t.Context(), src, descriptorOf(top), top)
		if err != nil {
			t.Fatal(err)
		}
		layer := in.image.Layers[1].Descriptor
		content, err := readBlob(t.Context(), src, layer, 1<<20)
		if err != nil || len(content) == 0 {
			t.Fatalf("%s: %d bytes, %v", dst, len(content), err)
		}
		flipAll(t, w.ref(dst).Path, content)
		if err := drained(t, src, layer); !errors.Is(err, manifest.ErrDigestMismatch) {
			t.Errorf("%s: read again: %v", dst, err)
		}
		if err := src.close(); err != nil {
			t.Error(err)
		}
	}
}

func drained(t *testing.T, src source, d v1.Descriptor) error {
	t.Helper()
	body, err := src.blob(t.Context(), d)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, body)
	return errors.Join(err, body.Close())
}

// flipAll changes a byte in every copy of some content in the files below dir, in place.
func flipAll(t *testing.T, dir string, content []byte) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		at := bytes.Index(raw, content)
		if at < 0 {
			return nil
		}
		found++
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		middle := at + len(content)/2
		_, err = f.WriteAt([]byte{raw[middle] ^ 1}, int64(middle))
		return errors.Join(err, f.Close())
	})
	if err != nil || found == 0 {
		t.Fatalf("changed %d files: %v", found, err)
	}
}

// A document is refused whose size is another one than its list says, and one of a store whose signatures lie.
func TestDocumentsOfDescriptors(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("sized")
	image := b.image("linux/amd64", algoGzip, small(t)...)
	for _, by := range []int64{-1, 1} {
		d := image
		d.Size += by
		src := b.name(b.list(d), "x")
		for _, dst := range []string{w.layout("out") + ":x", "store:x"} {
			if _, err := w.try(src, dst, &Options{}); !errors.Is(err, manifest.ErrDigestMismatch) {
				t.Errorf("%+d to %s: %v", by, dst, err)
			}
		}
	}
	body := forge.Schema1(digest.FromString("evil"))
	for name, raw := range forge.SignatureLies(body, forge.Schema1(digest.FromString("good"))) {
		d := digest.FromString(raw)
		if err := w.env.Store.PutManifest([]byte(raw), d, manifest.DockerSchema1Signed); err != nil {
			t.Fatal(err)
		}
		if _, err := newStoreSource(w.env, w.ref("store:x")).manifest(t.Context(), v1.Descriptor{Digest: d}); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
