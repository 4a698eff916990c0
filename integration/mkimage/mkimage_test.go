package mkimage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func names(t *testing.T, layer Layer) []string {
	t.Helper()
	var buf bytes.Buffer
	if err := layer.Tar(t.Context(), &buf); err != nil {
		t.Fatal(err)
	}
	var all []string
	for reader := tar.NewReader(&buf); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, header.Name)
	}
}

func readBlob(t *testing.T, dir string, d digest.Digest) []byte {
	t.Helper()
	raw, err := os.ReadFile(blobPath(dir, d))
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(raw) != d {
		t.Errorf("blob %s has other bytes", d)
	}
	return raw
}

func unmarshal[T any](t *testing.T, raw []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func decompress(t *testing.T, compression string, raw []byte) []byte {
	t.Helper()
	var reader io.Reader = bytes.NewReader(raw)
	var err error
	switch compression {
	case "gzip":
		reader, err = gzip.NewReader(reader)
	case "zstd":
		reader, err = zstd.NewReader(reader)
	}
	if err == nil {
		raw, err = io.ReadAll(reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWrite(t *testing.T) {
	for _, compression := range []string{"gzip", "zstd", "none"} {
		t.Run(compression, func(t *testing.T) {
			dir := t.TempDir()
			layers := append([]Layer{File("/bin/x", []byte("x")), NotUTF8()}, Awkward()...)
			o := &Options{Compression: compression}
			desc, err := Write(t.Context(), dir, "a", layers, o)
			if err != nil {
				t.Fatal(err)
			}
			manifest := unmarshal[v1.Manifest](t, readBlob(t, dir, desc.Digest))
			config := unmarshal[v1.Image](t, readBlob(t, dir, manifest.Config.Digest))
			if len(manifest.Layers) != 4 || len(config.RootFS.DiffIDs) != 4 || len(config.History) != 4 {
				t.Fatalf("%d layers, %d diff_ids, %d history", len(manifest.Layers), len(config.RootFS.DiffIDs), len(config.History))
			}
			for i, layer := range manifest.Layers {
				blob := readBlob(t, dir, layer.Digest)
				if int64(len(blob)) != layer.Size {
					t.Errorf("layer %d: size %d, said %d", i, len(blob), layer.Size)
				}
				if got := digest.FromBytes(decompress(t, compression, blob)); got != config.RootFS.DiffIDs[i] {
					t.Errorf("layer %d: diff_id %s, said %s", i, got, config.RootFS.DiffIDs[i])
				}
			}
			again, err := Write(t.Context(), t.TempDir(), "a", layers, o)
			if err != nil || again.Digest != desc.Digest {
				t.Errorf("written again: %s, %v, want %s", again.Digest, err, desc.Digest)
			}
		})
	}
}

func TestIndexKeepsOneImageOfAName(t *testing.T) {
	dir := t.TempDir()
	for _, step := range []struct {
		name, content string
	}{{"a", "1"}, {"b", "2"}, {"a", "3"}} {
		if _, err := Write(t.Context(), dir, step.name, []Layer{File("f", []byte(step.content))}, nil); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, desc := range unmarshal[v1.Index](t, raw).Manifests {
		got = append(got, desc.Annotations[v1.AnnotationRefName])
	}
	if !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("names %q", got)
	}
}

func TestDiff(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	for name, dirs := range map[string][]string{"same": {lower, upper}, "gone": {lower}, "new": {upper}} {
		for _, dir := range dirs {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(path, created, created); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := names(t, Diff("", lower, upper)); !slices.Contains(got, ".wh.gone") || !slices.Contains(got, "new") || slices.Contains(got, "same") {
		t.Errorf("difference holds %q", got)
	}
	if got := names(t, Diff("", "", upper)); !slices.Contains(got, "same") || !slices.Contains(got, "new") || slices.Contains(got, ".wh.gone") {
		t.Errorf("difference to nothing holds %q", got)
	}
	if err := Diff("", lower, filepath.Join(upper, "absent")).Tar(t.Context(), io.Discard); err == nil {
		t.Error("a tree that is not there made a layer")
	}
}

func TestNotUTF8KeepsItsBytes(t *testing.T) {
	if got := names(t, NotUTF8()); !slices.Contains(got, "bytes/caf\xe9\xff") {
		t.Errorf("names %q", got)
	}
}

func TestUnknownCompression(t *testing.T) {
	if _, err := Write(t.Context(), t.TempDir(), "a", nil, &Options{Compression: "lz4"}); err == nil {
		t.Error("lz4 was accepted")
	}
}

func TestMany(t *testing.T) {
	layers := Many(manyPerLayer + 101)
	if len(layers) != 2 {
		t.Fatalf("%d layers", len(layers))
	}
	got := names(t, layers[1])
	if want := 1 + 2 + 101; len(got) != want || !slices.Contains(got, "many/0501/file-050100") {
		t.Errorf("%d names in the second layer, want %d; the last is %q", len(got), want, got[len(got)-1])
	}
}
