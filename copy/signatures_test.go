package copy

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/manifest"
)

// rule 14, L15: a policy that rejects is asked before anything else is read, however much is copied, and about the list
// itself when nothing else is.
func TestRejectAll(t *testing.T) {
	w := newWorld(t, 4)
	w.copy(w.multi(algoGzip), w.docker("a:1"), nil)
	amd := w.situation(w.docker("a:1")).instances[0].doc.digest
	platform, err := manifest.ParsePlatform("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	w.env.Trust = &Trust{Policy: w.demand(`{"type":"reject"}`)}
	for name, o := range map[string]*Options{
		"all":      nil,
		"system":   {Platform: &platform},
		"specific": {Select: Select{Digests: []digest.Digest{amd}}},
		"index":    {Select: Select{IndexOnly: true}},
	} {
		for _, dst := range []string{w.layout("out") + ":x", "store:x", w.docker("b:1"), "dir:" + filepath.Join(w.dir, "d")} {
			w.front.Forget()
			_, err := w.try(w.docker("a:1"), dst, o)
			if !errors.Is(err, policy.ErrRejected) {
				t.Errorf("%s to %s: %v", name, dst, err)
			}
			if n := w.front.Count("GET", "/blobs/") + w.front.Count("POST", "") + w.front.Count("PUT", ""); n != 0 {
				t.Errorf("%s to %s: %d requests for blobs or to write", name, dst, n)
			}
		}
	}
	w.empty(w.env)
}

// L20, rule 49, rule 57, rule 58, L25, L23, L28: signatures are made for the list and for each instance over what is written, and then
// travel through every place that can hold them, byte for byte and apart.
func TestSignAndCarry(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	aside := "file://" + filepath.Join(w.dir, "aside")
	w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
	sign := Signing{Signers: []Signer{k.gpg, k.cosign}}
	w.copy(w.multi(algoGzip), w.docker("a:1"), &Options{Signatures: sign})
	want := w.signaturesOf(w.docker("a:1"))
	if len(want) != 4 { // the list, two images, one attestation
		t.Fatalf("%d manifests have signatures", len(want))
	}
	for d, sigs := range want {
		if len(sigs) != 2 {
			t.Errorf("%s has %d signatures", d, len(sigs))
		}
	}
	name := w.ref(w.docker("a:1"))
	signedAs := name.Repository() + ":1"
	w.env.Trust.Policy = w.demand(named(k.simple(), signedAs), named(k.sigstore(), signedAs))
	at := w.docker("a:1")
	for _, next := range []string{"dir:" + filepath.Join(w.dir, "d"), w.docker("b:2"), "dir:" + filepath.Join(w.dir, "e")} {
		w.copy(at, next, nil)
		if got := w.signaturesOf(next); !sameSignatures(got, want) {
			t.Errorf("%s: %d manifests have signatures, or others", next, len(got))
		}
		at = next
	}
	w.copy(at, "store:b:2", nil)
	for d, sigs := range want {
		if got, err := w.env.Store.Signatures(d); err != nil || !slices.EqualFunc(got, sigs, bytes.Equal) {
			t.Errorf("the store has %d signatures of %s: %v", len(got), d, err)
		}
	}
}

// rule 58, L20: an edited image is signed as it is written, and the signature is found under the new digest: the list's
// and each instance's.
func TestSignEdited(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src, _ := w.single()
	res := w.copy(src, w.docker("a:1"), &Options{
		Compress: Compression{Algorithm: algoChunked}, Signatures: Signing{Signers: []Signer{k.cosign}},
	})
	w.env.Trust = &Trust{Policy: w.demand(k.sigstore())}
	if res.Digest == w.situation(src).top.digest {
		t.Fatal("nothing was edited")
	}
	w.copy(w.docker("a:1"), "dir:"+filepath.Join(w.dir, "d"), nil)
	if got := w.signaturesOf(w.docker("a:1")); len(got) != 3 { // the index, the image, its variant
		t.Errorf("%d manifests have signatures", len(got))
	}
}

// rule 23, rule 22, L20: what cannot hold signatures is refused before a blob moves, unless they are left behind on purpose.
func TestNoPlaceForSignatures(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	single, _ := w.single()
	aside := "file://" + filepath.Join(w.dir, "aside")
	w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
	w.copy(single, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.gpg}}})
	dir := "dir:" + filepath.Join(w.dir, "d")
	w.copy(w.docker("a:1"), dir, nil)
	nowhere := *w.env
	nowhere.Trust = nil
	readOnly := *w.env
	readOnly.Trust = &Trust{Registries: w.lookasideAt("https://example.com/x", "https://example.com/x")}
	tests := []struct {
		env      *Env
		src, dst string
		want     error
	}{
		{w.env, w.docker("a:1"), w.layout("out") + ":x", ErrUsage},
		{w.env, w.docker("a:1"), "oci-archive:" + filepath.Join(w.dir, "out.tar"), ErrUsage},
		{w.env, w.docker("a:1"), "docker-archive:" + filepath.Join(w.dir, "out.tar"), ErrPreserve}, // it decompresses layers
		{&nowhere, dir, w.docker("c:1"), ErrUsage},
		{&readOnly, dir, w.docker("d:1"), ErrUsage},
	}
	for _, tt := range tests {
		w.front.Forget()
		_, err := Copy(t.Context(), tt.env, w.ref(tt.src), w.ref(tt.dst), nil)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), "signatures") {
			t.Errorf("%s: %v", tt.dst, err)
		}
		layers := w.situation(tt.src).instances[0].image.Manifest.Layers
		for _, l := range layers {
			if n := w.front.Count("", "/blobs/"+l.Digest.String()); n != 0 {
				t.Errorf("%s: %d requests for a layer", tt.dst, n)
			}
		}
		if n := w.front.Count("POST", ""); n != 0 {
			t.Errorf("%s: %d uploads", tt.dst, n)
		}
		if _, err := Copy(t.Context(), tt.env, w.ref(tt.src), w.ref(tt.dst), &Options{Signatures: Signing{Remove: true}}); err != nil {
			t.Errorf("%s without signatures: %v", tt.dst, err)
		}
	}
}

// rule 19, rule 21, L17: an edit that would make signatures wrong is refused, for the list and for an instance alone.
func TestEditsOfSigned(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	sign := Signing{Signers: []Signer{k.cosign}}
	w.copy(w.multi(algoGzip), w.docker("multi:1"), &Options{Signatures: sign})
	single, _ := w.single()
	w.copy(single, w.docker("single:1"), &Options{Signatures: sign})
	arm := w.situation(w.docker("multi:1")).instances[1].doc.digest
	for _, tt := range []struct {
		src string
		o   Options
	}{
		{"single:1", Options{Compress: Compression{Algorithm: algoZstd}}},
		{"multi:1", Options{Compress: Compression{Algorithm: algoZstd}}},
		{"multi:1", Options{Select: Select{Digests: []digest.Digest{arm}, Strip: true}}},
	} {
		tt.o.Signatures.Look = true
		w.front.Forget()
		_, err := w.try(w.docker(tt.src), w.docker("out:1"), &tt.o)
		if !errors.Is(err, ErrPreserve) || !strings.Contains(err.Error(), "--remove-signatures") {
			t.Errorf("%s %+v: %v", tt.src, tt.o, err)
		}
		if n := w.front.Count("POST", ""); n != 0 {
			t.Errorf("%s: %d uploads", tt.src, n)
		}
		tt.o.Signatures.Remove = true
		w.copy(w.docker(tt.src), w.docker("out:1"), &tt.o)
		if n := len(w.signaturesOf(w.docker("out:1"))); n != 0 {
			t.Errorf("%s: signatures of %d manifests after their removal", tt.src, n)
		}
	}
}

// rule 14, issue 3: signatures that are missing, wrong, of another image or name, or by another key are refused before a
// config or layer is read.
func TestBadSignatures(t *testing.T) {
	k, other := newKeys(t), newKeys(t)
	for name, sign := range map[string]Signing{
		"none":          {},
		"another key":   {Signers: []Signer{other.gpg, other.cosign}},
		"another name":  {Signers: []Signer{k.gpg, k.cosign}, Identity: "example.com/other:1"},
		"another image": {Signers: []Signer{forAnother{k.gpg}, forAnother{k.cosign}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 4)
			aside := "file://" + filepath.Join(w.dir, "aside")
			w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
			src, _ := w.single()
			w.copy(src, w.docker("a:1"), &Options{Signatures: sign})
			for kind, requirement := range map[string]string{"simple": k.simple(), "sigstore": k.sigstore()} {
				w.env.Trust.Policy = w.demand(requirement)
				w.front.Forget()
				_, err := w.try(w.docker("a:1"), "store:a:1", nil)
				if !errors.Is(err, policy.ErrRejected) {
					t.Errorf("%s: %v", kind, err)
				}
				if _, err := Verify(t.Context(), w.env, w.ref(w.docker("a:1")), nil); !errors.Is(err, policy.ErrRejected) {
					t.Errorf("%s: verify: %v", kind, err)
				}
				requests := w.front.Log()
				w.env.Trust.Policy = nil
				if n := w.imageBlobs(src); n != 0 {
					t.Errorf("%s: %d of %d requests were for the image's blobs", kind, n, len(requests))
				}
			}
			w.empty(w.env)
		})
	}
}

// forAnother signs as for another manifest.
type forAnother struct{ Signer }

func (f forAnother) Sign(c policy.Claim) (policy.Signature, error) {
	c.Digest = digest.FromString("another")
	return f.Signer.Sign(c)
}

// rule 14: bytes of a signature that were changed on the way are no signature, in the lookaside and in an attachment.
func TestTamperedSignatures(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	aside := filepath.Join(w.dir, "aside")
	w.env.Trust = &Trust{Registries: w.lookasideAt("file://"+aside, "file://"+aside)}
	src, _ := w.single()
	res := w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.gpg, k.cosign}}})
	path, err := policy.LookasidePath(w.ref(w.docker("a:1")), res.Digest, 1)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(aside, path))
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)-3] ^= 1
	if err := os.WriteFile(filepath.Join(aside, path), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	w.env.Trust.Policy = w.demand(k.simple())
	if _, err := w.try(w.docker("a:1"), "store:a:1", nil); !errors.Is(err, policy.ErrRejected) {
		t.Errorf("lookaside: %v", err)
	}
	tag, err := policy.AttachmentTag(res.Digest)
	if err != nil {
		t.Fatal(err)
	}
	w.reg.AddManifest("a", tag, "application/vnd.oci.image.manifest.v1+json",
		bytes.Replace(w.reg.Manifest("a", tag), []byte(`cosign/signature":"M`), []byte(`cosign/signature":"N`), 1))
	w.env.Trust.Policy = w.demand(k.sigstore())
	if _, err := w.try(w.docker("a:1"), "store:a:1", nil); !errors.Is(err, policy.ErrRejected) {
		t.Errorf("attachment: %v", err)
	}
	w.empty(w.env)
}

// L25, rule 59: a lookaside on the web is read up to the first signature that is not there.
func TestWebLookaside(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	aside := filepath.Join(w.dir, "aside")
	files := http.FileServer(http.Dir(aside))
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked = append(asked, filepath.Base(r.URL.Path))
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials for a lookaside")
		}
		files.ServeHTTP(rw, r)
	}))
	t.Cleanup(srv.Close)
	w.env.Trust = &Trust{Registries: w.lookasideAt(srv.URL, "file://"+aside)}
	src, _ := w.single()
	w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.gpg, newKeys(t).gpg}}})
	w.env.Trust.Policy = w.demand(k.simple())
	asked = nil
	w.copy(w.docker("a:1"), "store:a:1", nil)
	if want := []string{"signature-1", "signature-2", "signature-3"}; !slices.Equal(asked, want) {
		t.Errorf("asked for %q", asked)
	}
}

// L30, as decided here: a pull that brings no signatures keeps those that still hold; one that removes them keeps none.
func TestStoreKeepsSignatures(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src, _ := w.single()
	d := w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.cosign}}}).Digest
	count := func(want int) {
		t.Helper()
		if got, err := w.env.Store.Signatures(d); err != nil || len(got) != want {
			t.Errorf("%d signatures, want %d: %v", len(got), want, err)
		}
	}
	w.copy(w.docker("a:1"), "store:a:1", &Options{Signatures: Signing{Look: true}})
	count(1)
	w.copy(w.docker("a:1"), "store:a:1", nil)
	count(1)
	w.copy(src, w.docker("b:1"), nil) // the same image without signatures
	w.copy(w.docker("b:1"), "store:a:1", &Options{Signatures: Signing{Look: true}})
	count(1)
	w.copy(w.docker("a:1"), "store:a:1", &Options{Signatures: Signing{Look: true}}) // and none twice
	count(1)
	w.copy(w.docker("a:1"), "store:a:1", &Options{Signatures: Signing{Remove: true}})
	count(0)
}

// L30, image#1953: one platform's image in the store keeps its own signatures and those of the list it came from, apart.
func TestStoreKeepsListSignatures(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	w.copy(w.multi(algoGzip), w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.cosign}}})
	want := w.signaturesOf(w.docker("a:1"))
	s := w.situation(w.docker("a:1"))
	p, err := manifest.ParsePlatform("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	w.copy(w.docker("a:1"), "store:a:1", &Options{Platform: &p, Signatures: Signing{Look: true}})
	for _, d := range []digest.Digest{s.top.digest, s.instances[1].doc.digest} {
		if got, err := w.env.Store.Signatures(d); err != nil || !slices.EqualFunc(got, want[d], bytes.Equal) || len(got) != 1 {
			t.Errorf("%d signatures of %s: %v", len(got), d, err)
		}
	}
}

// L30: what the policy's keys no longer vouch for is not kept.
func TestStoreDropsSignatures(t *testing.T) {
	w := newWorld(t, 4)
	old, now := newKeys(t), newKeys(t)
	src, _ := w.single()
	d := w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{old.cosign}}}).Digest
	w.copy(w.docker("a:1"), "store:a:1", &Options{Signatures: Signing{Look: true}})
	w.copy(src, w.docker("a2:1"), &Options{Signatures: Signing{Signers: []Signer{now.cosign}}})
	w.env.Trust = &Trust{Policy: w.demand(now.sigstore())}
	w.copy(w.docker("a2:1"), "store:a:1", nil)
	want := w.signaturesOf(w.docker("a2:1"))[d]
	if got, err := w.env.Store.Signatures(d); err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("%d signatures: %v", len(got), err)
	}
}

// spec/cli.md 2.8: a required signature needs a policy that says whose.
func TestRequireSigned(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src, _ := w.single()
	w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.cosign}}})
	for name, p := range map[string]*policy.Policy{"no policy": nil, "accepts anything": w.demand(`{"type":"insecureAcceptAnything"}`)} {
		w.env.Trust = &Trust{Policy: p, RequireSigned: true}
		if _, err := w.try(w.docker("a:1"), "store:a:1", nil); !errors.Is(err, policy.ErrRejected) {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.env.Trust = &Trust{Policy: w.demand(k.sigstore()), RequireSigned: true}
	w.copy(w.docker("a:1"), "store:a:1", nil)
}

// rule 23: a tag that is made of a sha512 digest would be too long for a registry, which is known before a blob moves.
func TestSignatureOfLongDigest(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src, _ := w.single()
	wish, err := manifest.MustUse(digest.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	o := &Options{Digests: &wish, Signatures: Signing{Signers: []Signer{k.cosign}, Identity: "example.com/a:1"}}
	if _, err := w.try(src, w.docker("a:1"), o); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), "too long for a tag") {
		t.Error(err)
	}
	from, err := openSource(w.env, w.ref(src))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range w.situation(src).instances[0].image.Manifest.Layers { // the registry was only asked whether it can sha512
		raw, err := readBlob(t.Context(), from, l, 1<<20)
		if err != nil || w.reg.Blob("a", digest.SHA512.FromBytes(raw).String()) != nil || w.reg.Blob("a", l.Digest.String()) != nil {
			t.Errorf("layer %s was sent, %v", l.Digest, err)
		}
	}
	dir := "dir:" + filepath.Join(w.dir, "d")
	res := w.copy(src, dir, o)
	if got := w.signaturesOf(dir); res.Digest.Algorithm() != digest.SHA512 || len(got[res.Digest]) != 1 {
		t.Errorf("%s has %d signatures", res.Digest, len(got[res.Digest]))
	}
	if _, err := w.try(dir, w.docker("b:1"), nil); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
}

// rule 57: without a name to sign for nothing is copied.
func TestSignWithoutName(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src, _ := w.single()
	dst := "dir:" + filepath.Join(w.dir, "d")
	if _, err := w.try(src, dst, &Options{Signatures: Signing{Signers: []Signer{k.gpg}}}); !errors.Is(err, ErrUsage) {
		t.Errorf("%v", err)
	}
	w.copy(src, dst, &Options{Signatures: Signing{Signers: []Signer{k.gpg}, Identity: "example.com/a:1"}})
	w.env.Trust = &Trust{Policy: w.demand(named(k.simple(), "example.com/a:1"))}
	w.copy(dst, "store:a:1", nil)
}

func TestVerify(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src := w.multi(algoGzip)
	w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Signers: []Signer{k.cosign}}})
	w.env.Trust = &Trust{Policy: w.demand(k.sigstore())}
	w.front.Forget()
	verdicts, err := Verify(t.Context(), w.env, w.ref(w.docker("a:1")), nil)
	if err != nil || len(verdicts) != 4 {
		t.Fatalf("%d verdicts: %v", len(verdicts), err)
	}
	for i, v := range verdicts {
		if v.List != (i == 0) || v.Accepted == v.List || v.Signatures != 1 {
			t.Errorf("%d: %+v", i, v)
		}
	}
	if n := w.imageBlobs(src); n != 0 {
		t.Errorf("%d requests for blobs of the image", n)
	}
}
