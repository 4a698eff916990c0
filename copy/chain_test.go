package copy

import (
	"errors"
	"path/filepath"
	"testing"
)

// A list of five platforms, an attestation and an artifact go through every kind of place and back into a registry, and
// are what they were: every digest, and every signature in its order where the places can hold them. Where one cannot,
// and where the store has no blobs, nothing moves (rule 23, rule 53, L28, L31).
func TestChain(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	aside := "file://" + filepath.Join(w.dir, "aside")
	w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
	src := w.five(algoGzip)
	signed, plain := w.docker("signed:1"), w.docker("plain:1")
	w.copy(src, signed, &Options{Signatures: Signing{Signers: []Signer{k.gpg, k.cosign, k.gpg}}})
	w.copy(src, plain, nil)
	want := w.signaturesOf(signed)
	if len(want) != 8 { // the list, five images, two artifacts
		t.Fatalf("%d manifests have signatures", len(want))
	}

	oci, dir := w.layout("oci")+":x", "dir:"+filepath.Join(w.dir, "d")
	w.front.Forget()
	if _, err := w.try(signed, oci, nil); !errors.Is(err, ErrUsage) {
		t.Errorf("signatures into a layout: %v", err)
	}
	if n := w.imageBlobs(src); n > 6 { // configs, to plan
		t.Errorf("%d blobs were read before the refusal", n)
	}
	for _, way := range [][]string{
		{plain, oci, dir, "store:plain", w.docker("plain-again:1")},
		{signed, dir + "-signed", "store:signed", w.docker("signed-again:1")},
	} {
		for i, to := range way[1:] {
			o := &Options{Preserve: true, Layers: Layers{KeepBlobs: w.ref(to).Transport == "store"}}
			if res := w.copy(way[i], to, o); res.Digest != w.situation(src).top.digest {
				t.Errorf("%s: %s", to, res.Digest)
			}
			identical(w, src, to)
			if way[0] == signed && !sameSignatures(w.signaturesOf(to), want) {
				t.Errorf("%s has other signatures", to)
			}
		}
		w.clean()
	}

	w.env = w.machine(4)
	w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
	for _, from := range []string{dir, dir + "-signed"} {
		w.copy(from, "store:files", nil)
		w.front.Forget()
		if _, err := w.try("store:files", w.docker("files:1"), nil); !errors.Is(err, ErrPreserve) {
			t.Errorf("without its blobs: %v", err)
		}
		if log := w.front.Log(); len(log) != 0 {
			t.Errorf("before the refusal: %v", log)
		}
	}
}
