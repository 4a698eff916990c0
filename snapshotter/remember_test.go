package snapshotter

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// Images that are remembered are bounded in number and in bytes, and the latest is always one of them.
func TestRememberedImages(t *testing.T) {
	for _, size := range []int{1 << 10, 3 << 20, maxKnownBytes + 1} {
		g := &images{known: map[digest.Digest]*image{}}
		for i := range 2 * maxKnownImages {
			im := &image{Image: &manifest.Image{Manifest: &manifest.Manifest{Raw: make([]byte, size)}, Config: &manifest.Config{}}}
			name := digest.FromString(fmt.Sprint(i))
			g.remember(name, im)
			if g.known[name] != im {
				t.Fatalf("%d bytes: the latest image is forgotten", size)
			}
		}
		if want := max(1, min(maxKnownImages, maxKnownBytes/size)); len(g.known) != want {
			t.Errorf("%d bytes: %d images are remembered, not %d", size, len(g.known), want)
		}
	}
}
