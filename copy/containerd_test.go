package copy

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// collected is how many blobs containerd has after a collection.
func (w *world) collected() int {
	w.t.Helper()
	if err := w.containerd.Collect(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	blobs, err := w.containerd.Blobs(w.t.Context(), "ours")
	if err != nil {
		w.t.Fatal(err)
	}
	return len(blobs)
}

// free demands that containerd has no lease and no unfinished blob.
func (w *world) free() {
	w.t.Helper()
	leases, err := w.containerd.Leases(w.t.Context(), "ours")
	ingests, err2 := w.containerd.Ingests(w.t.Context(), "ours")
	if err != nil || err2 != nil || len(leases)+len(ingests) != 0 {
		w.t.Errorf("left in containerd: %v %v (%v, %v)", leases, ingests, err, err2)
	}
}

// A list and all below it stays through collections as long as its name does; what another image took the name of goes.
func TestContainerdKeeps(t *testing.T) { // rule 49, L21
	w := newWorld(t, 4)
	list := w.multi(algoChunked)
	nested := w.nest()
	for _, src := range []string{list, nested} {
		at := w.inContainerd("list:1")
		if res := w.copy(src, at, nil); res.Digest != digest.FromBytes(w.raw(src)) || len(res.Notes) != 0 {
			t.Errorf("%+v", res)
		}
		w.collected()
		if res := w.copy(at, w.layout("back-"+hexOf(src)[:4])+":x", nil); res.Digest != digest.FromBytes(w.raw(src)) || len(res.Notes) != 0 {
			t.Errorf("back: %+v", res)
		}
		w.free()
	}
	before := w.collected()
	single, tars := w.single()
	w.copy(single, w.inContainerd("list:1"), nil)
	if after := w.collected(); after != len(tars)+2 || after >= before {
		t.Errorf("%d blobs, then %d", before, after)
	}
	w.checkTars(w.inContainerd("list:1"), tars)
}

// An image is found by its whole name, by the short one that somebody imported it under, and by its digest.
func TestContainerdNames(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	res := w.copy(src, w.inContainerd("app"), nil)
	at, err := w.containerd.Images(t.Context(), "ours")
	if err != nil || len(at) != 1 || at[0].Name != "docker.io/library/app:latest" || at[0].Target.Digest != res.Digest {
		t.Fatalf("%+v, %v", at, err)
	}
	refs := []string{"app", "docker.io/library/app:latest", "@" + res.Digest.String(), "other@" + res.Digest.String()}
	for range 2 {
		for _, ref := range refs {
			if got := digest.FromBytes(w.raw(w.inContainerd(ref))); got != res.Digest {
				t.Errorf("%s is %s", ref, got)
			}
		}
		if err := w.containerd.Rename(t.Context(), "ours", at[0].Name, "app:latest"); err != nil {
			break // the second time round
		}
	}
	for _, ref := range []string{"containerd:ours/none", "containerd:other/app", "containerd:ours/@" + digest.FromString("none").String(), "containerd:other/@" + res.Digest.String()} {
		if _, err := w.try(ref, w.layout("no")+":x", nil); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := w.try(src, w.inContainerd("@"+res.Digest.String()), nil); !errors.Is(err, ErrUsage) {
		t.Errorf("a destination without a name: %v", err)
	}
	if _, err := w.try(src, w.inContainerd("x@"+digest.FromString("else").String()), nil); !errors.Is(err, ErrPreserve) {
		t.Errorf("a destination with another digest: %v", err)
	}
	w.copy(src, w.inContainerd("x@"+res.Digest.String()), nil) // L16
	w.free()
}

// Of what was pulled for one platform the list goes on with that one, and the command says so; what was asked for by
// name must be there, and nothing appears where it is not.
func TestContainerdSparse(t *testing.T) { // L11, L12
	w := newWorld(t, 4)
	src := w.multi(algoGzip)
	at := w.inContainerd("list:1")
	res := w.copy(src, at, nil)
	in := w.situation(at).instances
	lose := func(d digest.Digest) {
		t.Helper()
		if err := w.containerd.Remove(t.Context(), "ours", d); err != nil {
			t.Fatal(err)
		}
	}
	// What arm64 does not share with amd64, as if it were never pulled, and the manifest of the attestation.
	lose(in[1].image.Layers[1].Digest)
	lose(in[2].doc.digest)
	got := w.copy(at, w.layout("sparse")+":x", nil)
	if got.Digest != res.Digest || got.Instances != 1 || len(got.Notes) != 1 || !strings.Contains(got.Notes[0], "linux/arm64") || !strings.Contains(got.Notes[0], "2 of the 3") {
		t.Errorf("%+v", got)
	}
	w.copy(w.layout("sparse")+":x", w.layout("amd")+":x", &Options{Platform: platform(t, "linux/amd64"), Preserve: false})
	plan, err := DryRun(t.Context(), w.env, w.ref(at), w.ref(w.layout("dry")+":x"), nil)
	if err != nil || !strings.Contains(plan.String(), "it is not there; its entry stays") {
		t.Errorf("%v, %v", plan, err)
	}
	if w.copy(at, "store:sparse", nil).Instances != 1 {
		t.Error("the store has another number of images")
	}
	for name, o := range map[string]*Options{
		"platform": {Platform: platform(t, "linux/arm64")},
		"select":   {Select: Select{Digests: []digest.Digest{in[1].doc.digest}}},
		"artifact": {Select: Select{Digests: []digest.Digest{in[2].doc.digest}}},
	} {
		if _, err := w.try(at, w.layout("no")+":x", o); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.try("containerd:ours/@"+in[1].doc.digest.String(), w.layout("no")+":x", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("the image itself: %v", err)
	}
	lose(in[0].image.Manifest.Config.Digest)
	if _, err := w.try(at, w.layout("no")+":x", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing of it: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "no")); err == nil {
		t.Error("something was written")
	}
	// The list alone is still there for who wants just that.
	w.copy(at, w.layout("index")+":x", &Options{Select: Select{IndexOnly: true}})
}

// A list in a list that was never pulled is left out as an image would be.
func TestContainerdSparseNested(t *testing.T) { // L14
	w := newWorld(t, 4)
	src := w.nest()
	at := w.inContainerd("nested:1")
	w.copy(src, at, nil)
	gone := 0
	for _, in := range w.situation(at).instances {
		if in.list != nil {
			gone++
			if err := w.containerd.Remove(t.Context(), "ours", in.doc.digest); err != nil {
				t.Fatal(err)
			}
		}
	}
	res := w.copy(at, w.layout("sparse")+":x", nil)
	if gone == 0 || len(res.Notes) != 1 || !bytes.Equal(w.raw(w.layout("sparse")+":x"), w.raw(src)) {
		t.Errorf("%d lists gone: %+v", gone, res)
	}
}

// containerd has no place for signatures, which is said before a blob is written.
func TestContainerdSignatures(t *testing.T) { // L20, rule 23
	w := newWorld(t, 2)
	src, _ := w.single()
	k := newKeys(t)
	w.copy(src, "dir:"+w.dir+"/signed", &Options{Signatures: Signing{Signers: []Signer{k.gpg}, Identity: "example.com/x:1"}})
	at := w.inContainerd("signed:1")
	if _, err := w.try("dir:"+w.dir+"/signed", at, nil); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "--remove-signatures") {
		t.Errorf("%v", err)
	}
	blobs, err := w.containerd.Blobs(t.Context(), "ours")
	if err != nil || len(blobs) != 0 {
		t.Errorf("%d blobs moved, %v", len(blobs), err)
	}
	w.copy("dir:"+w.dir+"/signed", at, &Options{Signatures: Signing{Remove: true}})
}

// A copy that fails or is cancelled leaves no name, no lease, and nothing that a collection would not take.
func TestContainerdFails(t *testing.T) { // rule 17, rule 49
	w := newWorld(t, 2)
	_, tars := w.single()
	b := w.build("broken")
	broken := b.name(b.image("linux/amd64", algoGzip, tars[0], tarOf(t, file{"new", noise(3, 300<<10)})), "x")
	damage(t, w, broken)
	at := w.inContainerd("x:1")
	for name, o := range map[string]*Options{"as it is": nil, "encoded": {Compress: Compression{Algorithm: algoZstd}}} {
		if _, err := w.try(broken, at, o); !errors.Is(err, manifest.ErrDigestMismatch) {
			t.Errorf("%s: %v", name, err)
		}
		w.free()
		if n := w.collected(); n != 0 {
			t.Errorf("%s: %d blobs stayed", name, n)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	src, _ := w.single()
	if _, err := Copy(ctx, w.env, w.ref(src), w.ref(at), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	w.free()
	if images, err := w.containerd.Images(t.Context(), "ours"); err != nil || len(images) != 0 {
		t.Errorf("%v, %v", images, err)
	}
}

// What is there is not sent again, and is kept although it was another's.
func TestContainerdHas(t *testing.T) {
	w := newWorld(t, 2)
	src, tars := w.single()
	w.copy(src, w.docker("x:1"), nil)
	w.copy(w.docker("x:1"), w.inContainerd("x:1"), nil)
	w.front.Forget()
	w.copy(w.docker("x:1"), w.inContainerd("y:1"), nil)
	for _, r := range w.front.Log() {
		if strings.Contains(r.Path, "/blobs/") && r.Bytes > 4096 {
			t.Errorf("sent again: %s", r)
		}
	}
	plan, err := DryRun(t.Context(), w.env, w.ref(w.docker("x:1")), w.ref(w.inContainerd("z:1")), nil)
	if err != nil || plan.Bytes[ActionHave] == 0 || plan.Bytes[ActionCopy] != 0 {
		t.Errorf("%v, %v", plan, err)
	}
	if n := w.collected(); n != len(tars)+2 {
		t.Errorf("%d blobs", n)
	}
}
