package copy

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// L32, L31: platforms of one list come one after the other under one name. Each is found by every spelling, and what is
// not here is said with what is.
func TestPlatformsOneByOne(t *testing.T) {
	w := newWorld(t, 4)
	src := w.multi(algoGzip)
	amd, arm, mips := platform(t, "linux/amd64"), platform(t, "linux/arm64"), platform(t, "linux/mips")
	list := w.situation(src)
	config := list.instances[0].image.Manifest.Config.Digest
	w.copy(src, "store:x", &Options{Platform: amd, Layers: Layers{KeepBlobs: true}})
	image := w.situation("store:x")
	if image.list != nil || image.top.digest != list.instances[0].doc.digest {
		t.Errorf("one platform's name stands for %s", image.top.digest)
	}
	w.copy(src, "store:x", &Options{Platform: arm, Layers: Layers{KeepBlobs: true}})
	if !bytes.Equal(w.raw("store:x"), w.raw(src)) {
		t.Error("two platforms' name does not stand for their list")
	}
	for i, p := range []*Options{{Platform: amd}, {Platform: arm}} {
		for _, ref := range []string{"store:x", "store:x@" + list.top.digest.String(), "store:@" + list.top.digest.String()} {
			d, err := Resolve(t.Context(), w.env, w.ref(ref), p)
			if err != nil || d != list.instances[i].doc.digest {
				t.Errorf("%s for %v: %s, %v", ref, p.Platform, d, err)
			}
			res := w.copy(ref, w.layout("out")+":x", p)
			if res.Digest != list.instances[i].doc.digest {
				t.Errorf("%s for %v was copied as %s", ref, p.Platform, res.Digest)
			}
		}
	}
	for _, ref := range []string{"store:" + config.Encoded()[:12], "store:" + config.Encoded(), "store:" + config.String(), "store:x@" + list.instances[0].doc.digest.String()} {
		if got := w.situation(ref).top.digest; got != list.instances[0].doc.digest {
			t.Errorf("%s is %s", ref, got)
		}
	}
	// The list is sparse: the attestation did not come.
	_, err := w.try("store:x", w.layout("out")+":y", nil)
	if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "linux/amd64") || !strings.Contains(err.Error(), "linux/arm64") {
		t.Errorf("the whole of a sparse list: %v", err)
	}
	w.copy("store:x", w.layout("out")+":y", &Options{Select: Select{Platforms: []v1.Platform{*amd, *arm}}})
	if !bytes.Equal(w.raw(w.layout("out")+":y"), w.raw(src)) {
		t.Error("a sparse list became another")
	}
	in, err := Inspect(t.Context(), w.env, w.ref("store:x"), &Options{})
	if err != nil || len(in.Instances) != 3 || in.Instances[0].Trust == "" || in.Instances[2].Trust != "" {
		t.Errorf("inspect: %+v, %v", in, err)
	}
	for _, ref := range []string{"store:x", "store:x@" + list.top.digest.String()} {
		if _, err := w.try(ref, w.layout("out")+":z", &Options{Platform: mips}); !errors.Is(err, manifest.ErrNotFound) {
			t.Errorf("%s for another platform: %v", ref, err)
		}
	}
}

// A digest names an image in the store too, until it is removed by it.
func TestNameOfDigest(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	d := w.situation(src).top.digest.String()
	w.copy(src, "store:x@"+d, &keep)
	w.clean() // with gc, which takes what has no name
	w.copy("store:x@"+d, w.layout("out")+":x", nil)
	if err := w.env.Store.Remove(w.ref("store:x@" + d)); err != nil {
		t.Fatal(err)
	}
	w.clean()
	w.empty(w.env)
	if _, err := w.try(src, "store:"+d[7:], nil); !errors.Is(err, ErrUsage) {
		t.Errorf("an ID as a name: %v", err)
	}
}

// What is being read stays, although its name goes and gc runs.
func TestReadHolds(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	w.copy(src, "store:x", &keep)
	from := newStoreSource(w.env, w.ref("store:x"))
	s, err := gather(t.Context(), from, &Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := from.hold(from.whole(s.instances)); err != nil {
		t.Fatal(err)
	}
	if err := w.env.Store.Remove(w.ref("store:x")); err != nil {
		t.Fatal(err)
	}
	w.clean()
	for _, l := range s.instances[0].image.Layers {
		readAll(t, from, l.Descriptor)
	}
	if err := from.close(); err != nil {
		t.Fatal(err)
	}
	w.clean()
	w.empty(w.env)
}
