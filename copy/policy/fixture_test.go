package policy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// start is when the keys of these tests were made, noon when they are used.
var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	noon  = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
)

// The bytes that are signed here are no manifest at all: nothing may parse
// them (rule 14).
var (
	theManifest   = []byte("these bytes are signed, and nobody has parsed them\n")
	theDigest     = digest.FromBytes(theManifest)
	otherManifest = []byte("these bytes are not signed\n")
)

func mustRef(t testing.TB, s string) manifest.Ref {
	t.Helper()
	r, err := manifest.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustClaim(t testing.TB, name string, d digest.Digest) Claim {
	t.Helper()
	c, err := NewClaim(manifest.Ref{}, name, d, noon)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newEntity makes an OpenPGP key that lives for so long, 0 for ever, with a
// subkey for signatures if subkey says so.
func newEntity(t testing.TB, life time.Duration, subkey bool) *openpgp.Entity {
	t.Helper()
	cfg := &packet.Config{
		Time:            func() time.Time { return start },
		Algorithm:       packet.PubKeyAlgoEdDSA,
		KeyLifetimeSecs: uint32(life / time.Second),
	}
	key, err := openpgp.NewEntity("Test", "", "test@example.com", cfg)
	if err != nil {
		t.Fatal(err)
	}
	if subkey {
		if err := key.AddSigningSubkey(cfg); err != nil {
			t.Fatal(err)
		}
	}
	return key
}

func publicRing(t testing.TB, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, k := range keys {
		if err := k.Serialize(&b); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func mustRing(t testing.TB, raw ...[]byte) *KeyRing {
	t.Helper()
	r, err := ParseKeyRing(raw...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func signSimple(t testing.TB, key *openpgp.Entity, c Claim) Signature {
	t.Helper()
	s, err := (&OpenPGPSigner{key: key}).Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// keyPair is a sigstore key in PEM, both halves.
type keyPair struct {
	name            string
	private, public []byte
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newPair(t testing.TB, name string) keyPair {
	t.Helper()
	var private, public any
	var err error
	ec := func(c elliptic.Curve) {
		var k *ecdsa.PrivateKey
		if k, err = ecdsa.GenerateKey(c, rand.Reader); err == nil {
			private, public = k, k.Public()
		}
	}
	switch name {
	case "P-256":
		ec(elliptic.P256())
	case "P-384":
		ec(elliptic.P384())
	case "P-521":
		ec(elliptic.P521())
	case "Ed25519":
		public, private, err = ed25519.GenerateKey(rand.Reader)
	case "RSA":
		var k *rsa.PrivateKey
		if k, err = rsa.GenerateKey(rand.Reader, 2048); err == nil {
			private, public = k, k.Public()
		}
	default:
		t.Fatalf("no such kind of key: %s", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{name, pemBlock("PRIVATE KEY", priv), pemBlock("PUBLIC KEY", pub)}
}

func (k keyPair) sign(t testing.TB, c Claim) Signature {
	t.Helper()
	signer, err := NewKeySigner(k.private, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := signer.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (k keyPair) verifier(t testing.TB) *PublicKey {
	t.Helper()
	key, err := ParsePublicKey(k.public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func b64(raw []byte) string { return base64.StdEncoding.EncodeToString(raw) }

// signedByPolicy is a policy with one requirement; more is JSON that follows
// the key, like `,"signedIdentity":{...}`.
func signedByPolicy(t testing.TB, ring []byte, more string) *Policy {
	t.Helper()
	return mustPolicy(t, fmt.Sprintf(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":%q%s}]}`, b64(ring), more))
}

func mustPolicy(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func digestOf(raw []byte) digest.Digest { return digest.FromBytes(raw) }

func sha512Hex(raw []byte) digest.Digest {
	return digest.Digest(digest.SHA512.FromBytes(raw).Encoded())
}

func mustB64(t testing.TB, s string) []byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
