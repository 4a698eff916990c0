package copy

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// BenchmarkPlaces copies one image with a plain layer of 64 MiB from each local place into each.
func BenchmarkPlaces(b *testing.B) {
	dir := b.TempDir()
	layer := tarOf(b, file{"big", noise(1, 64<<20)})
	c := config(b, layer)
	m := asJSON(b, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: descOf(c).Digest, Size: int64(len(c))},
		Layers: []v1.Descriptor{{MediaType: v1.MediaTypeImageLayer, Digest: descOf(string(layer)).Digest, Size: int64(len(layer))}},
	})
	ref := func(transport, name string) manifest.Ref {
		return manifest.Ref{Transport: manifest.Transport(transport), Path: filepath.Join(dir, name), Index: -1}
	}
	d := ref("dir", "seed")
	place, err := createDir(d)
	if err != nil {
		b.Fatal(err)
	}
	for _, content := range []string{string(layer), c} {
		if err := place.put(b.Context(), descOf(content), opener([]byte(content))); err != nil {
			b.Fatal(err)
		}
	}
	if err := place.commit(b.Context(), made([]byte(m), v1.MediaTypeImageManifest)); err != nil {
		b.Fatal(err)
	}
	n := 0
	for _, from := range []string{"oci", "dir", "oci-archive", "docker-archive"} {
		src := ref(from, "from-"+from)
		if _, err := Copy(b.Context(), &Env{}, d, src, nil); err != nil {
			b.Fatal(err)
		}
		for _, to := range []string{"oci", "dir", "oci-archive", "docker-archive"} {
			b.Run(from+" to "+to, func(b *testing.B) {
				b.SetBytes(int64(len(layer)))
				b.ReportAllocs()
				for b.Loop() {
					n++
					if _, err := Copy(b.Context(), &Env{}, src, ref(to, fmt.Sprint(n)), nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
