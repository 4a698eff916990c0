package copy

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/store"
)

// L28, L29, L30, rule 59: several signatures of both kinds for the list and for each instance keep their order, count and
// bytes through dir:, the store and a registry and back, a digest each.
func TestCarryOrder(t *testing.T) {
	w := newWorld(t, 4)
	a, b := newKeys(t), newKeys(t)
	aside := "file://" + filepath.Join(w.dir, "aside")
	w.env.Trust = &Trust{Registries: w.lookasideAt(aside, aside)}
	src := w.multi(algoGzip)
	first := "dir:" + filepath.Join(w.dir, "first")
	w.copy(src, first, &Options{Signatures: Signing{Signers: []Signer{a.cosign, b.gpg, a.gpg, b.cosign}, Identity: "example.com/a:1"}})
	w.copy(first, first, &Options{Signatures: Signing{Signers: []Signer{a.gpg}, Identity: "example.com/a:2"}})
	want := w.signaturesOf(first)
	if len(want) != 4 {
		t.Fatalf("%d manifests have signatures", len(want))
	}
	for d, sigs := range want {
		if len(sigs) != 5 {
			t.Fatalf("%s has %d signatures", d, len(sigs))
		}
	}
	w.copy(first, "store:a", &keep)
	second := "dir:" + filepath.Join(w.dir, "second")
	w.copy("store:a", second, nil)
	for _, at := range []string{"store:a", second} {
		if got := w.signaturesOf(at); !sameSignatures(got, want) {
			t.Errorf("%s: %d manifests have signatures, or others", at, len(got))
		}
	}
	// A registry keeps the two kinds in two places, each in its order.
	w.copy("store:a", w.docker("a:1"), nil)
	got := w.signaturesOf(w.docker("a:1"))
	for d, sigs := range want {
		var sorted [][]byte
		for _, format := range []policy.Format{policy.FormatSimple, policy.FormatSigstore} {
			for _, raw := range sigs {
				if sig, err := policy.ParseSignature(raw); err != nil {
					t.Fatal(err)
				} else if sig.Format() == format {
					sorted = append(sorted, raw)
				}
			}
		}
		if !slices.EqualFunc(got[d], sorted, bytes.Equal) {
			t.Errorf("%s: %d signatures, or in another order", d, len(got[d]))
		}
	}
}

// L31: a digest names the list or the instance, with the signatures of its own and no others; none is an empty list, and
// an instance that is not there is an error.
func TestStoreByDigest(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src := w.multi(algoGzip)
	w.copy(src, "store:a", &Options{Signatures: Signing{Signers: []Signer{k.cosign}}})
	s := w.situation("store:a")
	list, amd := s.top.digest, s.instances[0].doc.digest
	other := w.build("other")
	unsigned := w.copy(other.name(other.image("linux/amd64", algoGzip, tarOf(t, file{"another", nil})), "x"), "store:b", nil).Digest
	if !bytes.Equal(w.raw("store:@"+list.String()), s.top.raw) || !bytes.Equal(w.raw("store:@"+amd.String()), s.instances[0].doc.raw) {
		t.Error("other bytes by digest")
	}
	from := newStoreSource(w.env, w.ref("store:a"))
	seen := make(map[string]bool)
	for d, want := range map[digest.Digest]int{list: 1, amd: 1, unsigned: 0, digest.FromString("nobody's"): 0} {
		sigs, err := from.signatures(t.Context(), subject{digest: d}, lookFor{})
		if err != nil || len(sigs) != want {
			t.Errorf("%s: %d signatures, %v", d, len(sigs), err)
		}
		for _, sig := range sigs {
			if raw, err := sig.Blob(); err != nil || seen[string(raw)] {
				t.Errorf("%s has another's signature, %v", d, err)
			} else {
				seen[string(raw)] = true
			}
		}
	}
	gone := digest.FromString("nobody's")
	if _, err := from.manifest(t.Context(), v1.Descriptor{Digest: gone}); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, err := w.try("store:@"+gone.String(), "dir:"+filepath.Join(w.dir, "no"), nil); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

// rule 15, L15, image#1953: a signature of the list satisfies no policy for its instances, and is carried all the same
// where each of them is signed; a list that is not signed does not matter then.
func TestSignedListOnly(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src := w.multi(algoGzip)
	top := w.situation(src).top.digest
	both := "dir:" + filepath.Join(w.dir, "both")
	w.copy(src, both, &Options{Signatures: Signing{Signers: []Signer{k.cosign}, Identity: "example.com/a:1"}})
	// The list's signature alone, and those of the instances alone.
	onlyList, onlyInstances := "dir:"+filepath.Join(w.dir, "list"), "dir:"+filepath.Join(w.dir, "instances")
	w.copy(both, onlyInstances, &Options{Signatures: Signing{RemoveList: true}})
	w.copy(src, onlyList, nil)
	sigs, err := parseSignatures(w.signaturesOf(both)[top])
	if err == nil {
		err = (&dir{path: filepath.Join(w.dir, "list"), kept: make(map[string]bool)}).putSignatures(t.Context(), subject{top, true}, sigs)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.env.Trust = &Trust{Policy: w.demand(named(k.sigstore(), "example.com/a:1"))}
	for ref, want := range map[string]int{both: 4, onlyInstances: 3} {
		dst := w.docker(filepath.Base(ref) + ":1")
		w.copy(ref, dst, nil)
		if got := w.signaturesOf(dst); len(got) != want {
			t.Errorf("%s: %d manifests have signatures", ref, len(got))
		}
	}
	w.front.Forget()
	if _, err := w.try(onlyList, w.docker("list:1"), nil); !errors.Is(err, policy.ErrRejected) {
		t.Error(err)
	}
	if n := len(w.front.Log()); n != 0 {
		t.Errorf("%d requests", n)
	}
	// Without instances it is about the list.
	w.copy(onlyList, w.docker("sparse:1"), &Options{Select: Select{IndexOnly: true}})
	if _, err := w.try(onlyInstances, w.docker("sparse:2"), &Options{Select: Select{IndexOnly: true}}); !errors.Is(err, policy.ErrRejected) {
		t.Error(err)
	}
}

// rule 25: what is signed, before or now, is what the user named: no layer is replaced by another form of it that the
// destination has already.
func TestSignedIsNotSubstituted(t *testing.T) {
	w := newWorld(t, 4)
	k := newKeys(t)
	src, _ := w.single()
	w.copy(src, w.docker("a:zstd"), &Options{Compress: Compression{Algorithm: algoZstd}})
	for _, dst := range []string{w.docker("a:1"), w.docker("a:2")} {
		res := w.copy(src, dst, &Options{Signatures: Signing{Signers: []Signer{k.cosign}}})
		if res.Digest != w.situation(src).top.digest || !bytes.Equal(w.raw(dst), w.raw(src)) {
			t.Errorf("%s is %s", dst, res.Digest)
		}
		src = w.docker("a:1") // signed now
	}
}
