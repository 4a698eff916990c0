package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tocsin/tocsin/manifest"
	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"
)

var keyKinds = []string{"P-256", "P-384", "P-521", "Ed25519", "RSA"}

func TestSigstore(t *testing.T) {
	claim := mustClaim(t, "busybox:v1", theDigest)
	for _, kind := range keyKinds {
		pair, other := newPair(t, kind), newPair(t, kind)
		sig := pair.sign(t, claim)
		got, err := pair.verifier(t).Verify(sig)
		if err != nil || got.Reference != "docker.io/library/busybox:v1" || got.Digest != theDigest || !got.Time.IsZero() {
			t.Errorf("%s: %+v, %v", kind, got, err)
		}
		if _, err := other.verifier(t).Verify(sig); !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s: another key: %v", kind, err)
		}
		// What cosign itself would read.
		layer := sig.Layer()
		if layer.MediaType != "application/vnd.dev.cosign.simplesigning.v1+json" || layer.Annotations["dev.cosignproject.cosign/signature"] == "" {
			t.Errorf("%s: layer %+v", kind, layer)
		}
	}
}

// resign returns a signature of any payload.
func resign(t *testing.T, pair keyPair, payload string, mediaType string) Signature {
	t.Helper()
	key, err := parsePrivateKey(pair.private, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.Sign(rand.Reader, sum(crypto.SHA256, []byte(payload)), crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return NewSigstore(mediaType, []byte(payload), map[string]string{AnnotationSignature: b64(raw)})
}

func TestSigstoreRefuses(t *testing.T) {
	pair := newPair(t, "P-256")
	key := pair.verifier(t)
	good := payloadOf(t, typeSigstore)
	if _, err := key.Verify(resign(t, pair, good, MediaTypeSigstore)); err != nil {
		t.Fatal(err)
	}
	signature := resign(t, pair, good, MediaTypeSigstore).annotations[AnnotationSignature]
	for _, c := range []struct {
		name string
		sig  Signature
	}{
		{"another media type", resign(t, pair, good, "application/vnd.in-toto+json")},
		{"simple signing's type", resign(t, pair, payloadOf(t, typeSimple), MediaTypeSigstore)},
		{"no annotation", NewSigstore(MediaTypeSigstore, []byte(good), nil)},
		{"empty annotation", NewSigstore(MediaTypeSigstore, []byte(good), map[string]string{AnnotationSignature: ""})},
		{"no base64", NewSigstore(MediaTypeSigstore, []byte(good), map[string]string{AnnotationSignature: "?"})},
		{"another payload", NewSigstore(MediaTypeSigstore, []byte(good+" "), map[string]string{AnnotationSignature: signature})},
		{"not JSON", resign(t, pair, "x", MediaTypeSigstore)},
		{"too long", resign(t, pair, good+strings.Repeat(" ", maxPayload), MediaTypeSigstore)},
		{"simple", NewSimple([]byte(good))},
		{"zero value", Signature{}},
	} {
		if claim, err := key.Verify(c.sig); !errors.Is(err, ErrBadSignature) || claim != (Claim{}) {
			t.Errorf("%s: %+v, %v", c.name, claim, err)
		}
	}
}

// A change of any byte of payload or signature is noticed.
func TestSigstoreTampering(t *testing.T) {
	for _, kind := range keyKinds {
		pair := newPair(t, kind)
		key := pair.verifier(t)
		sig := pair.sign(t, mustClaim(t, "e.com/r:v1", theDigest))
		for i := range sig.payload {
			bad := slices.Clone(sig.payload)
			bad[i] ^= 1
			if _, err := key.Verify(NewSigstore(sig.mediaType, bad, sig.annotations)); !errors.Is(err, ErrBadSignature) {
				t.Fatalf("%s: payload byte %d: %v", kind, i, err)
			}
		}
		raw, err := base64.StdEncoding.DecodeString(sig.annotations[AnnotationSignature])
		if err != nil {
			t.Fatal(err)
		}
		for i := range raw {
			bad := slices.Clone(raw)
			bad[i] ^= 1
			if _, err := key.Verify(NewSigstore(sig.mediaType, sig.payload, map[string]string{AnnotationSignature: b64(bad)})); !errors.Is(err, ErrBadSignature) {
				t.Fatalf("%s: signature byte %d: %v", kind, i, err)
			}
		}
	}
}

// Newer signers hash with what fits the curve.
func TestHashOfTheCurve(t *testing.T) {
	for _, c := range []struct {
		curve elliptic.Curve
		hash  crypto.Hash
		ok    bool
	}{
		{elliptic.P256(), crypto.SHA256, true},
		{elliptic.P256(), crypto.SHA384, false},
		{elliptic.P384(), crypto.SHA256, true},
		{elliptic.P384(), crypto.SHA384, true},
		{elliptic.P384(), crypto.SHA512, false},
		{elliptic.P521(), crypto.SHA512, true},
	} {
		key, err := ecdsa.GenerateKey(c.curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		payload := []byte(payloadOf(t, typeSigstore))
		raw, err := ecdsa.SignASN1(rand.Reader, key, sum(c.hash, payload))
		if err != nil {
			t.Fatal(err)
		}
		_, err = (&PublicKey{key: key.Public()}).Verify(NewSigstore(MediaTypeSigstore, payload, map[string]string{AnnotationSignature: b64(raw)}))
		if (err == nil) != c.ok {
			t.Errorf("%s with %s: %v", c.curve.Params().Name, c.hash, err)
		}
	}
}

func TestParsePublicKey(t *testing.T) {
	pair := newPair(t, "P-256")
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	smallDER, err := x509.MarshalPKIXPublicKey(small.Public())
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224DER, err := x509.MarshalPKIXPublicKey(p224.Public())
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		raw  []byte
		ok   bool
	}{
		{"PKIX", pair.public, true},
		{"text around", slices.Concat([]byte("# key\n"), pair.public, []byte("\n# end\n")), true},
		{"PKCS 1", pemBlock("RSA PUBLIC KEY", x509.MarshalPKCS1PublicKey(&big.PublicKey)), true},
		{"two keys", slices.Concat(pair.public, newPair(t, "P-256").public), false},
		{"private key", pair.private, false},
		{"1024 bits", pemBlock("PUBLIC KEY", smallDER), false},
		{"P-224", pemBlock("PUBLIC KEY", p224DER), false},
		{"damaged", pemBlock("PUBLIC KEY", []byte{1, 2, 3}), false},
		{"certificate", pemBlock("CERTIFICATE", []byte{1, 2, 3}), false},
		{"empty", nil, false},
		{"DER", smallDER, false},
		{"too long", make([]byte, maxKeyFile+1), false},
	} {
		if _, err := ParsePublicKey(c.raw); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrNoKey) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// sealCosign writes a key as cosign import-key-pair does.
func sealCosign(t *testing.T, der, pass []byte, params scryptParams) []byte {
	t.Helper()
	salt, nonce := []byte(strings.Repeat("s", 32)), [24]byte{1, 2, 3}
	derived, err := scrypt.Key(pass, salt, params.N, params.R, params.P, 32)
	if err != nil {
		t.Fatal(err)
	}
	var k cosignKey
	k.KDF.Name, k.KDF.Params, k.KDF.Salt = "scrypt", params, salt
	k.Cipher.Name, k.Cipher.Nonce = "nacl/secretbox", nonce[:]
	k.Ciphertext = secretbox.Seal(nil, der, &nonce, (*[32]byte)(derived))
	raw, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestNewKeySigner(t *testing.T) {
	pair := newPair(t, "P-256")
	block, err := onlyBlock(pair.private)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecDER, err := x509.MarshalECPrivateKey(ec)
	if err != nil {
		t.Fatal(err)
	}
	big, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sealed := sealCosign(t, block.Bytes, []byte("secret"), scryptParams{1 << 15, 8, 1})
	greedy := sealCosign(t, block.Bytes, []byte("secret"), scryptParams{1 << 4, 8, 1})
	pass := func(s string) Passphrase { return func(string) ([]byte, error) { return []byte(s), nil } }
	for _, c := range []struct {
		name string
		raw  []byte
		pass Passphrase
		want error
	}{
		{"PKCS 8", pair.private, nil, nil},
		{"EC with parameters", slices.Concat(pemBlock("EC PARAMETERS", []byte{6, 1, 1}), pemBlock("EC PRIVATE KEY", ecDER)), nil, nil},
		{"RSA", pemBlock("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(big)), nil, nil},
		{"cosign", pemBlock("ENCRYPTED COSIGN PRIVATE KEY", sealed), pass("secret"), nil},
		{"sigstore", pemBlock("ENCRYPTED SIGSTORE PRIVATE KEY", sealed), pass("secret"), nil},
		{"wrong passphrase", pemBlock("ENCRYPTED SIGSTORE PRIVATE KEY", sealed), pass("secre"), errPassphrase},
		{"no passphrase", pemBlock("ENCRYPTED SIGSTORE PRIVATE KEY", sealed), nil, ErrNoKey},
		{"scrypt parameters", pemBlock("ENCRYPTED SIGSTORE PRIVATE KEY", greedy), pass("secret"), manifest.ErrUnsupported},
		{"another cipher", pemBlock("ENCRYPTED SIGSTORE PRIVATE KEY", []byte(strings.Replace(string(sealed), "secretbox", "box", 1))), pass("secret"), manifest.ErrUnsupported},
		{"short nonce", pemBlock("ENCRYPTED SIGSTORE PRIVATE KEY", []byte(strings.Replace(string(sealed), `"nonce":"AQID`, `"nonce":"`, 1))), pass("secret"), manifest.ErrMalformed},
		{"not JSON", pemBlock("ENCRYPTED SIGSTORE PRIVATE KEY", []byte("x")), pass("secret"), manifest.ErrMalformed},
		{"encrypted PKCS 8", pemBlock("ENCRYPTED PRIVATE KEY", block.Bytes), pass("secret"), manifest.ErrUnsupported},
		{"OpenSSH", pemBlock("OPENSSH PRIVATE KEY", block.Bytes), nil, manifest.ErrUnsupported},
		{"public", pair.public, nil, manifest.ErrUnsupported},
		{"damaged", pemBlock("PRIVATE KEY", []byte("x")), nil, manifest.ErrMalformed},
		{"empty", nil, nil, manifest.ErrMalformed},
	} {
		signer, err := NewKeySigner(c.raw, c.pass)
		if c.want != nil {
			if !errors.Is(err, c.want) || !errors.Is(err, ErrNoKey) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		sig, err := signer.Sign(mustClaim(t, "e.com/r:v1", theDigest))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if _, err := (&PublicKey{key: signer.key.Public()}).Verify(sig); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// rule 57: the same key and claim make the same bytes at any time, so that no place gets the same signature twice. A
// signer knows what it made, and nothing else.
func TestSignedAgain(t *testing.T) {
	claim := mustClaim(t, "busybox:v1", theDigest)
	later, another := claim, claim
	later.Time = later.Time.Add(time.Hour)
	another.Reference = "docker.io/library/busybox:v2"
	for _, kind := range keyKinds {
		pair := newPair(t, kind)
		signer, err := NewKeySigner(pair.private, nil)
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := NewKeySigner(newPair(t, kind).private, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, err := signer.Sign(claim)
		if err != nil {
			t.Fatal(err)
		}
		second, err := signer.Sign(later)
		if err != nil {
			t.Fatal(err)
		}
		a, errA := first.Blob()
		b, errB := second.Blob()
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: two signatures of one claim: %v, %v", kind, errA, errB)
		}
		if !signer.Made(first, later) || signer.Made(first, another) || stranger.Made(first, claim) {
			t.Errorf("%s: the signer does not know its own", kind)
		}
	}
}
