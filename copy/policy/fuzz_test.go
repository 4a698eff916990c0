package policy

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

// addAll adds seeds, of which there must be some.
func addAll(f *testing.F, seeds ...[]byte) {
	f.Helper()
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
}

// Whatever a policy says, an image without signatures comes in only by
// insecureAcceptAnything.
func FuzzPolicy(f *testing.F) {
	addAll(f, []byte(everything), []byte(`{"default":[{"type":"reject"}]}`),
		[]byte(`{"default":[{"type":"insecureAcceptAnything"}],"transports":{"dir":{"/a":[{"type":"reject"}]},"docker":{"*.com":[{"type":"signedBy","keyType":"GPGKeys","keyData":"QUJD","signedIdentity":{"type":"remapIdentity","prefix":"a.com","signedPrefix":"b.com/c"}}]}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := Parse(raw)
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, manifest.ErrUnsupported) || p != nil {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, s := range []string{"docker://a.com/b:c", "oci:/a/b:c", "dir:/a/b", "docker-archive:/a:b:c", "store:a.com/b:c"} {
			r := mustRef(t, s)
			err := p.Check(Image{Ref: r, Manifest: theManifest}, nil)
			reqs, _, findErr := p.find(r)
			if findErr != nil || len(reqs) == 0 {
				t.Fatalf("%s: no requirements, %v", s, findErr)
			}
			for _, req := range reqs {
				if err == nil && req.kind != acceptAnything {
					t.Fatalf("%s: %s without a signature", s, req.kind)
				}
			}
			if err != nil && !errors.Is(err, ErrRejected) {
				t.Fatalf("%s: %v", s, err)
			}
		}
	})
}

// A message is accepted only with the one content that the key has signed.
func FuzzSimpleSigning(f *testing.F) {
	key := newEntity(f, 0, true)
	ring := mustRing(f, publicRing(f, key))
	sig := signSimple(f, key, mustClaim(f, "e.com/r:v1", theDigest))
	want, err := ring.Verify(sig, noon)
	if err != nil {
		f.Fatal(err)
	}
	foreign := signSimple(f, newEntity(f, 0, false), mustClaim(f, "e.com/r:v2", theDigest))
	addAll(f, sig.blob, foreign.blob, bytes.Repeat(sig.blob, 2), append(bytes.Clone(foreign.blob), sig.blob...))
	f.Fuzz(func(t *testing.T, blob []byte) {
		got, err := ring.Verify(NewSimple(blob), noon)
		if err == nil && got != want || err != nil && !errors.Is(err, ErrBadSignature) {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}

// A payload that is read says the same after it is written again.
func FuzzSigstorePayload(f *testing.F) {
	claim := mustClaim(f, "e.com/r:v1", theDigest)
	full, err := claim.marshal(typeSigstore)
	if err != nil {
		f.Fatal(err)
	}
	addAll(f, full, []byte(strings.Replace(string(full), creator, "cosign", 1)),
		[]byte(`{"critical":{"identity":{"docker-reference":"r"},"image":{"docker-manifest-digest":"`+digestA+`"},"type":"cosign container image signature"},"optional":null}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		first, err := parseClaim(raw, typeSigstore)
		if err != nil {
			return
		}
		if manifest.ValidDigest(first.Digest) != nil || first.Reference == "" {
			t.Fatalf("%+v", first)
		}
		again, err := first.marshal(typeSigstore)
		if err != nil {
			t.Fatal(err)
		}
		second, err := parseClaim(again, typeSigstore)
		if err != nil || second.Reference != first.Reference || second.Digest != first.Digest || second.Creator != first.Creator {
			t.Fatalf("%+v becomes %+v, %v", first, second, err)
		}
	})
}

// A blob that is read comes back byte for byte, but for the prefix of a simple
// signature; read again it is the same signature.
func FuzzSignature(f *testing.F) {
	sigstore, err := sigs("x")[0].Blob()
	if err != nil {
		f.Fatal(err)
	}
	addAll(f, []byte("\xc4\x0d\x03"), []byte("\x00simple-signing\n\xa3\x01"), sigstore)
	f.Fuzz(func(t *testing.T, blob []byte) {
		s, err := ParseSignature(blob)
		if err != nil {
			return
		}
		back, err := s.Blob()
		if err != nil || !bytes.Equal(back, bytes.TrimPrefix(blob, []byte("\x00simple-signing\n"))) {
			t.Fatalf("%q becomes %q, %v", blob, back, err)
		}
	})
}

// Keys come from files that an administrator wrote; bad ones must not do
// anything but fail.
func FuzzKeys(f *testing.F) {
	pair := newPair(f, "P-256")
	addAll(f, pair.public, pair.private, publicRing(f, newEntity(f, 0, true)), []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n=AAAA\n-----END PGP PUBLIC KEY BLOCK-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, err1 := ParsePublicKey(raw)
		_, err2 := ParseKeyRing(raw)
		_, err3 := NewKeySigner(raw, nil)
		_, err4 := NewOpenPGPSigner(raw, "", nil)
		for _, err := range []error{err1, err2, err3, err4} {
			if err != nil && !errors.Is(err, ErrNoKey) {
				t.Fatal(err)
			}
		}
	})
}

func FuzzRegistries(f *testing.F) {
	addAll(f, []byte("default-docker:\n  lookaside: https://a\ndocker:\n  e.com:\n    lookaside-staging: file:///x\n    use-sigstore-attachments: true\n"),
		[]byte("docker: &a\n  x: {sigstore: 'http://b'}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := ParseRegistries(map[string][]byte{"a.yaml": raw})
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		ref := mustRef(t, "docker://e.com/a:b")
		for _, base := range []string{r.For(ref).Read, r.For(ref).Write} {
			if base == "" {
				continue
			}
			if _, err := LookasideURL(base, ref, theDigest, 1); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A manifest that is read as an attachment either takes a signature more or
// is refused for a reason.
func FuzzAttachment(f *testing.F) {
	one, _, err := AddSignatures(nil, sigs("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one.Manifest, one.Config)
	f.Add(emptyAttachment().Manifest, []byte(emptyConfig))
	f.Fuzz(func(t *testing.T, raw, config []byte) {
		before, err := AttachmentLayers(raw)
		if err != nil {
			return
		}
		got, added, err := AddSignatures(&Attachment{raw, config}, sigs("new"))
		if err != nil || len(added) == 0 {
			return
		}
		after, err := AttachmentLayers(got.Manifest)
		if err != nil || len(after) != len(before)+1 {
			t.Fatalf("%d layers become %d, %v", len(before), len(after), err)
		}
	})
}
