package copy

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/integration/front"
)

// rule 22: the list's signatures alone can be left behind, which a single image has none of; --remove-signatures wins.
func TestRemoveListSignatures(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	aside := "file://" + filepath.Join(w.dir, "aside")
	w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
	src := w.multi(algoGzip)
	list := w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.gpg, k.cosign}}}).Digest
	dir := "dir:" + filepath.Join(w.dir, "d")
	w.copy(w.docker("a:1"), dir, nil)
	w.copy(w.docker("a:1"), "store:a:1", nil)
	for _, dst := range []string{w.docker("b:1"), dir, "store:a:1"} {
		w.copy(w.docker("a:1"), dst, &Options{Signatures: Signing{RemoveList: true}})
		got := w.signaturesOf(dst)
		if len(got[list]) != 0 || len(got) != 3 {
			t.Errorf("%s: %d manifests have signatures, the list %d", dst, len(got), len(got[list]))
		}
		w.copy(w.docker("a:1"), dst, &Options{Signatures: Signing{RemoveList: true, Remove: true}})
		if got := w.signaturesOf(dst); len(got) != 0 && dst != w.docker("b:1") { // attachments stay
			t.Errorf("%s: %d manifests have signatures", dst, len(got))
		}
	}
	// An unsigned list of signed instances may be stripped.
	arm := w.situation(src).instances[1].doc.digest
	o := &Options{Select: Select{Strip: true}, Signatures: Signing{RemoveList: true}}
	o.Select.Digests = append(o.Select.Digests, arm)
	w.copy(w.docker("a:1"), w.docker("c:1"), o)
	if got := w.signaturesOf(w.docker("c:1")); len(got) != 1 || len(got[arm]) != 2 {
		t.Errorf("%d manifests have signatures", len(got))
	}
	single, _ := w.single()
	amd := plat(t, "linux/amd64")
	for src, o := range map[string]*Options{single: {}, w.docker("a:1"): {Platform: &amd}} {
		o.Signatures.RemoveList = true
		if _, err := w.try(src, w.docker("no:1"), o); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: %v", src, err)
		}
	}
	if n := w.front.Count("", "/v2/no/"); n != 0 {
		t.Errorf("%d requests for what was refused", n)
	}
}

// rule 57, rule 59: signing again with the same keys and name adds nothing, in place and from elsewhere.
func TestSignAgain(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	aside := "file://" + filepath.Join(w.dir, "aside")
	w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
	src, _ := w.single()
	sign := &Options{Signatures: Signing{Signers: []Signer{k.gpg, k.cosign}}}
	w.copy(src, w.docker("a:1"), sign)
	want := w.signaturesOf(w.docker("a:1"))
	w.copy(w.docker("a:1"), w.docker("a:1"), sign)
	if got := w.signaturesOf(w.docker("a:1")); !sameSignatures(got, want) {
		t.Error("signed in place once more")
	}
	w.copy(src, w.docker("a:1"), sign) // its source is not signed, so the OpenPGP signature is another, but still one
	for d, sigs := range w.signaturesOf(w.docker("a:1")) {
		if len(sigs) != 2 {
			t.Errorf("%s has %d signatures", d, len(sigs))
		}
	}
	// Another name is another claim.
	w.copy(w.docker("a:1"), w.docker("a:2"), sign)
	for d, sigs := range w.signaturesOf(w.docker("a:2")) {
		if len(sigs) != 4 {
			t.Errorf("%s has %d signatures", d, len(sigs))
		}
	}
}

// rule 59: two that sign one image at the same time lose nothing of each other, as long as the registry lets them see it.
func TestSignAtOnce(t *testing.T) {
	w := newWorld(t, 4)
	src, _ := w.single()
	res := w.copy(src, w.docker("a:1"), nil)
	tag, err := policy.AttachmentTag(res.Digest)
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := newKeys(t), newKeys(t)
	sign := func(k keys) error {
		_, err := w.try(w.docker("a:1"), w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.cosign}, Look: true}})
		return err
	}
	// The other signs after this copy's attachment was read and before it is written, then after it was written and
	// overwrites it, having read before.
	var once sync.Once
	w.front.Add(front.Rule{Method: http.MethodPost, Times: 1, Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		once.Do(func() {
			if err := sign(theirs); err != nil {
				t.Error(err)
			}
		})
		next.ServeHTTP(rw, r)
	}})
	if err := sign(mine); err != nil {
		t.Fatal(err)
	}
	both := w.signaturesOf(w.docker("a:1"))[res.Digest]
	if len(both) != 2 {
		t.Fatalf("%d signatures", len(both))
	}
	w.front.Behave()
	third := newKeys(t)
	before := w.reg.Manifest("a", tag)
	w.front.Add(front.Rule{Method: http.MethodPut, Path: "/manifests/" + tag, Times: 1, Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(rw, r)
		w.reg.AddManifest("a", tag, "application/vnd.oci.image.manifest.v1+json", before)
	}})
	if err := sign(third); err != nil {
		t.Fatal(err)
	}
	if n := len(w.signaturesOf(w.docker("a:1"))[res.Digest]); n != 3 {
		t.Errorf("%d signatures after one was overwritten", n)
	}
	// One that is overwritten for ever ends with an error.
	w.front.Add(front.Rule{Method: http.MethodPut, Path: "/manifests/" + tag, Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(rw, r)
		w.reg.AddManifest("a", tag, "application/vnd.oci.image.manifest.v1+json", before)
	}})
	if err := sign(newKeys(t)); err == nil || !strings.Contains(err.Error(), "others keep replacing") {
		t.Errorf("%v", err)
	}
}

// rule 59: without registries.d simple signatures lie where podman has them.
func TestUsualLookaside(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	w.env.Trust = &Trust{Lookaside: "file://" + filepath.Join(w.dir, "usual")}
	src, _ := w.single()
	w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.gpg}}})
	w.env.Trust.Policy = w.demand(k.simple())
	w.copy(w.docker("a:1"), "store:a:1", nil)
	w.env.Trust.Lookaside = "file://" + filepath.Join(w.dir, "another")
	if _, err := w.try(w.docker("a:1"), "store:a:2", nil); !errors.Is(err, policy.ErrRejected) {
		t.Error(err)
	}
	// What registries.d says comes first, for reading and for writing alone.
	r, err := policy.ParseRegistries(map[string][]byte{"x.yaml": []byte("default-docker:\n  lookaside-staging: file://" + w.dir + "/staging\n")})
	if err != nil {
		t.Fatal(err)
	}
	d := newDocker(&Env{Registry: w.env.Registry, Trust: &Trust{Registries: r, Lookaside: "file:///usual"}}, w.ref(w.docker("a:1")))
	if at := d.places(); at.Read != "file:///usual" || at.Write != "file://"+w.dir+"/staging" {
		t.Errorf("%+v", at)
	}
}
