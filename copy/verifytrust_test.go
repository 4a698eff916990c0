package copy

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// differing is what verify --trust shall say of the layers of views.
func differing() map[string][]chunked.Difference {
	return map[string][]chunked.Difference{
		"content":      {{Name: "etc/shadow", What: "content"}},
		"mode":         {{Name: "etc/shadow", What: "mode"}},
		"owner":        {{Name: "etc/shadow", What: "owner"}},
		"xattr":        {{Name: "etc/shadow", What: "xattr"}},
		"extra file":   {{Name: "etc/evil", What: "extra"}},
		"missing file": {{Name: "etc/shadow", What: "missing"}},
	}
}

// compare is VerifyTrust of one image.
func (w *world) compare(ref string) (Compared, error) {
	w.t.Helper()
	all, err := VerifyTrust(w.t.Context(), w.env, w.ref(ref), nil)
	if len(all) != 1 {
		w.t.Fatalf("%s: %d images, %v", ref, len(all), err)
	}
	return all[0], err
}

// Whatever the two readings of a layer disagree about, in a registry or a layout, is named with its file, whichever of
// both the config names; a variant of the same blob has one reading.
func TestVerifyTrust(t *testing.T) { // threat 1, threat 2, threat 3
	scanned, run := views(t)
	for kind, shown := range run {
		w := newWorld(t, 4)
		b := w.build("src")
		layer := b.twoViews(scanned, shown, nil)
		w.crafted(tagged(kind), layer, b, digest.FromBytes(scanned))
		b.name(b.imageOf([]v1.Descriptor{layer}, digest.FromBytes(shown)), "other")
		for _, ref := range []string{w.docker("plain:" + tagged(kind)), w.layout("src") + ":plain" + tagged(kind), w.layout("src") + ":other"} {
			got, err := w.compare(ref)
			var files []chunked.Difference
			ids := 0
			for _, d := range got.Differs {
				if d.Layer != layer.Digest {
					t.Errorf("%s: layer %s", ref, d.Layer)
				}
				if d.What == "diff_id" {
					ids++
				} else {
					files = append(files, chunked.Difference{Name: d.File, What: d.What})
				}
			}
			wantIDs := 0
			if ref == w.layout("src")+":other" {
				wantIDs = 1
			}
			if !errors.Is(err, ErrDiffID) || !slices.Equal(files, differing()[kind]) || ids != wantIDs || got.Layers != 1 || got.Trust != "TOCUnbound" {
				t.Errorf("%s %s: %+v, %v", kind, ref, got, err)
			}
		}
		for _, form := range variantForms() {
			if got, err := w.compare(w.docker(form + ":" + tagged(kind))); err != nil || got.Layers != 0 || got.Reason == "" {
				t.Errorf("%s %s: %+v, %v", kind, form, got, err)
			}
		}
	}
}

// A layer whose files agree may still have a tar-split that gives another tar.
func TestVerifyTrustTarSplit(t *testing.T) { // threat 4
	w := newWorld(t, 4)
	scanned, _ := views(t)
	padded := append(bytes.Clone(scanned), make([]byte, 10240)...)
	b := w.build("src")
	w.crafted("x", b.twoViews(scanned, scanned, padded), b, digest.FromBytes(scanned))
	got, err := w.compare(w.docker("plain:x"))
	if !errors.Is(err, ErrDiffID) || len(got.Differs) != 1 || got.Differs[0].What != "tar-split" || got.Differs[0].File != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// Honest images are the same in all places: every instance of a list, and of the store with blobs and without.
func TestVerifyTrustHonest(t *testing.T) {
	w := newWorld(t, 4)
	scanned, _ := views(t)
	b := w.build("src")
	layer := b.layer(algoChunked, scanned)
	w.crafted("x", layer, b, digest.FromBytes(scanned))
	plain := b.imageOf([]v1.Descriptor{layer}, digest.FromBytes(scanned))
	list := b.name(b.list(plain, b.variantOf(plain, manifest.SentinelTypeOCI, true)), "list")
	all, err := VerifyTrust(t.Context(), w.env, w.ref(list), nil)
	if err != nil || len(all) != 2 || all[0].Layers != 1 || all[1].Layers != 0 || len(all[0].Differs)+len(all[1].Differs) > 0 {
		t.Errorf("list: %+v, %v", all, err)
	}
	for _, o := range []*Options{nil, {Layers: Layers{KeepBlobs: true}}} {
		w.env = w.machine(4)
		w.copy(w.docker("plain:x"), "store:x", o)
		w.front.Forget()
		if got, err := w.compare("store:x"); err != nil || got.Layers != 1 || len(got.Differs) > 0 {
			t.Errorf("store: %+v, %v", got, err)
		}
		if n := len(w.front.Log()); n > 0 {
			t.Errorf("what the store has took %d requests", n)
		}
	}
	w.env = w.machine(4)
	w.copy(w.docker("bound:x"), "store:v", nil)
	if got := w.stored("store:v", manifest.TOCOnly); !bytes.Equal(got[0], scanned) {
		t.Error("another tar")
	}
	if got, err := w.compare("store:v"); err != nil || got.Layers != 0 {
		t.Errorf("variant in the store: %+v, %v", got, err)
	}
}
