package copy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/policy"
)

// keys are one signer of each format and what a policy says to trust it.
type keys struct {
	gpg, cosign         Signer
	gpgData, cosignData string // base64 of the public keys
}

func newKeys(t *testing.T) keys {
	t.Helper()
	entity, err := openpgp.NewEntity("Test", "", "test@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var public, private bytes.Buffer
	if err := errors.Join(entity.SerializePrivate(&private, nil), entity.Serialize(&public)); err != nil {
		t.Fatal(err)
	}
	gpg, err := policy.NewOpenPGPSigner(private.Bytes(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cosign, err := policy.NewKeySigner(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil)
	if err != nil {
		t.Fatal(err)
	}
	if der, err = x509.MarshalPKIXPublicKey(&key.PublicKey); err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	return keys{
		gpg: gpg, cosign: cosign, gpgData: b64(public.Bytes()),
		cosignData: b64(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	}
}

// The requirements that a policy of these tests makes of one transport.
func (k keys) simple() string {
	return fmt.Sprintf(`{"type":"signedBy","keyType":"GPGKeys","keyData":%q}`, k.gpgData)
}
func (k keys) sigstore() string {
	return fmt.Sprintf(`{"type":"sigstoreSigned","keyData":%q}`, k.cosignData)
}

// named lets a signature for this name be taken wherever the image lies.
func named(requirement, as string) string {
	return strings.TrimSuffix(requirement, "}") + fmt.Sprintf(`,"signedIdentity":{"type":"exactReference","dockerReference":%q}}`, as)
}

// demand is a policy with these requirements for everything.
func (w *world) demand(requirements ...string) *policy.Policy {
	w.t.Helper()
	p, err := policy.Parse([]byte(`{"default":[` + strings.Join(requirements, ",") + `]}`))
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

// lookasideAt is a registries.d with one lookaside for everything.
func (w *world) lookasideAt(read, write string) *policy.Registries {
	w.t.Helper()
	text := fmt.Sprintf("default-docker:\n  lookaside: %s\n  lookaside-staging: %s\n  use-sigstore-attachments: true\n", read, write)
	r, err := policy.ParseRegistries(map[string][]byte{"default.yaml": []byte(text)})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// signaturesOf reads the signatures of a reference and of all below it, in their kept form.
func (w *world) signaturesOf(ref string) map[digest.Digest][][]byte {
	w.t.Helper()
	src, err := openSource(w.env, w.ref(ref))
	if err != nil {
		w.t.Fatal(err)
	}
	j, err := newJudged(&Env{Trust: &Trust{}}, src, w.ref(ref), true)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := gather(w.t.Context(), j, &Options{}); err != nil {
		w.t.Fatal(err)
	}
	out := make(map[digest.Digest][][]byte)
	for d, sigs := range j.found {
		for _, s := range sigs {
			raw, err := s.Blob()
			if err != nil {
				w.t.Fatal(err)
			}
			out[d] = append(out[d], raw)
		}
	}
	return out
}

func sameSignatures(a, b map[digest.Digest][][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for d := range a {
		if !slices.EqualFunc(a[d], b[d], bytes.Equal) {
			return false
		}
	}
	return true
}

// imageBlobs counts the requests for configs and layers of an image, which is in a layout too. Payloads of signatures
// are blobs as well, and are not among them.
func (w *world) imageBlobs(ref string) (n int) {
	w.t.Helper()
	for _, in := range w.situation(ref).instances {
		blobs := slices.Clone(in.blobs)
		if in.image != nil {
			blobs = append(append(blobs, in.image.Manifest.Config), in.image.Manifest.Layers...)
		}
		for _, d := range blobs {
			n += w.front.Count("GET", "/blobs/"+d.Digest.String())
		}
	}
	return n
}
