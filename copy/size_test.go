package copy

import (
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

// L36, L37: a layer that an image has twice is one layer of the store in two places, and counts twice.
func TestDuplicateLayerAndSize(t *testing.T) {
	w := newWorld(t, 4)
	content := noise(1, 10_000)
	raw := tarOf(t, file{"a", content}, file{"empty", nil}, file{"dir/", nil})
	b := w.build("twice")
	src := b.name(b.image("linux/amd64", algoGzip, raw, raw), "x")
	w.copy(src, "store:x", nil)
	records, _, err := w.env.Store.Resolve(w.ref("store:x").StoreName())
	if err != nil {
		t.Fatal(err)
	}
	rec := records[0]
	if len(rec.Layers) != 2 || rec.Layers[0] != rec.Layers[1] {
		t.Errorf("layers %v", rec.Layers)
	}
	in := w.situation(src).instances[0]
	if want := int64(2*len(content) + len(in.doc.raw) + len(in.image.Config.Raw)); rec.Size != want {
		t.Errorf("size %d, want %d", rec.Size, want)
	}
	for i, got := range w.stored("store:x", manifest.TarOnly) {
		if string(got) != string(raw) {
			t.Errorf("layer %d has another tar", i)
		}
	}
}
