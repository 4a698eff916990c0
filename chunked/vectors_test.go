package chunked

import (
	"embed"
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

//go:embed testdata/vectors/*.json
var vectorFiles embed.FS

// Layers that containers/storage wrote, one for each side of the format (testdata/README.md).
func TestVectors(t *testing.T) {
	// A line of what readLayer must find in each.
	want := map[string]string{
		"devices.json":   "null {Mode:8685 UID:0 GID:0 RdevMajor:1 RdevMinor:3 ",
		"hardlinks.json": "m {Mode:33188 UID:0 GID:0 RdevMajor:0 RdevMinor:0 Nlink:3 ",
		"holes.json":     "d/longzeros {Mode:33188 UID:0 GID:0 RdevMajor:0 RdevMinor:0 Nlink:1 Size:5242880 ",
		"metadata.json":  "owned {Mode:35309 UID:3000000 GID:4000000 ",
		"names.json":     "naïve – ☃ {Mode:33188 ",
		"nothing.json":   "tar ",
		"whiteouts.json": "d/gone {Mode:8192 UID:0 GID:0 RdevMajor:0 RdevMinor:0 Nlink:1 Size:0 MtimeSec:0 MtimeNsec:0} \"\" true",
		"xattrs.json":    " user.k=7600ff",
	}
	files, err := vectorFiles.ReadDir("testdata/vectors")
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d vectors, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(f.Name(), func(t *testing.T) {
			raw, err := vectorFiles.ReadFile("testdata/vectors/" + f.Name())
			if err != nil {
				t.Fatal(err)
			}
			var v struct {
				DiffID      digest.Digest     `json:"diffID"`
				Annotations map[string]string `json:"annotations"`
				Blob        []byte            `json:"blob"`
			}
			if err := json.Unmarshal(raw, &v); err != nil {
				t.Fatal(err)
			}
			ref, err := manifest.TOCRefOf(v1.Descriptor{
				MediaType: v1.MediaTypeImageLayerZstd, Digest: digest.FromBytes(v.Blob), Size: int64(len(v.Blob)), Annotations: v.Annotations,
			})
			if err != nil {
				t.Fatal(err)
			}
			got, err := readLayer(v.Blob, ref)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(got, "tar "+v.DiffID.Encoded()+"\n") || !strings.Contains(got, want[f.Name()]) {
				t.Errorf("tar is not %s, or no %q in\n%s", v.DiffID, want[f.Name()], got)
			}
		})
	}
}
