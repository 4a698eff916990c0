package integration_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// flips are the offsets at which a blob is damaged: every 97th byte, and every 7th of the TOC and the tar-split, which
// are short here.
func flips(size int64, toc *manifest.TOCRef) []int {
	var at []int
	for i := int64(0); i < size; i += 97 {
		at = append(at, int(i))
	}
	for _, r := range []manifest.Range{toc.TOC, toc.TarSplit} {
		for i := r.Off; i < r.End(); i += 7 {
			at = append(at, int(i))
		}
	}
	slices.Sort(at)
	return slices.Compact(at)
}

// TestFlippedBitsFromTheRegistry: whatever byte of a layer a registry gets wrong, every path shows what the image
// says or fails with an error that names the object, and what is kept afterwards is right.
func TestFlippedBitsFromTheRegistry(t *testing.T) {
	f := newFar(t)
	files, more := smallLayer()
	im := f.publish(t, "small", "only", layerOf(files, more))
	layer := im.DataLayers()[0]
	want := goodTree(t, f, "small", im)
	noticed := map[string]int{}
	for _, at := range flips(layer.Size, layer.TOC) {
		what := fmt.Sprintf("byte %d of %d (TOC %v, tar-split %v)", at, layer.Size, layer.TOC.TOC, layer.TOC.TarSplit)
		f.front.Behave()
		f.front.Add(front.Rule{Path: layer.Digest.String(), Do: front.FlipBit(at)})
		l := openLocal(t, t.TempDir(), f)
		view, _, err := l.add(t.Context(), f, "small", im)
		if err != nil {
			noticed["TOC or tar-split"]++
			if !errors.Is(err, manifest.ErrDigestMismatch) || !strings.Contains(err.Error(), layer.TOC.Digest.String()) {
				t.Errorf("%s: %v", what, err)
			}
			l.close()
			continue
		}
		got, failed, err := l.read(t.Context(), view)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		sameOrFailed(t, what, want, got, failed)
		for name, err := range failed {
			noticed["chunk"]++
			if !strings.Contains(err.Error(), "object sha256:") {
				t.Errorf("%s: the error of %s names no object: %v", what, name, err)
			}
		}
		// What was kept is right: with the registry gone too, nothing wrong comes out.
		f.front.Behave()
		f.front.Add(front.Rule{Do: front.Status(404, "BLOB_UNKNOWN")})
		got, failed, err = l.read(t.Context(), view)
		if err != nil {
			t.Fatalf("%s: again: %v", what, err)
		}
		sameOrFailed(t, what+", again", want, got, failed)
		l.close()
	}
	if noticed["TOC or tar-split"] == 0 || noticed["chunk"] == 0 {
		t.Errorf("flips noticed: %v", noticed)
	}
}

// goodTree is what an honest registry leads to.
func goodTree(t *testing.T, f *far, repo string, im *manifest.Image) shown {
	t.Helper()
	f.front.Behave()
	l := openLocal(t, t.TempDir(), f)
	defer l.close()
	view, _, err := l.add(t.Context(), f, repo, im)
	if err != nil {
		t.Fatal(err)
	}
	tree, failed, err := l.read(t.Context(), view)
	if err != nil || len(failed) > 0 {
		t.Fatal(err, failed)
	}
	return tree
}
