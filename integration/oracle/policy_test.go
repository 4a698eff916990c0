package oracle

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/manifest"
	"go.podman.io/image/v5/directory"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/signature/sigstore"
	"go.podman.io/image/v5/types"
)

// theirPolicy is what containers/image says about a policy and an image. parsed is false if it does not take the policy.
func theirPolicy(t *testing.T, text string, im types.UnparsedImage) (parsed bool, rejected error) {
	t.Helper()
	p, err := signature.NewPolicyFromBytes([]byte(text))
	if err != nil {
		return false, err
	}
	c, err := signature.NewPolicyContext(p)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Destroy(); err != nil {
			t.Error(err)
		}
	}()
	if ok, err := c.IsRunningImageAllowed(t.Context(), im); !ok {
		return true, err
	}
	return true, nil
}

func ourPolicy(text string, im policy.Image) (parsed bool, rejected error) {
	p, err := policy.Parse([]byte(text))
	if err != nil {
		return false, err
	}
	return true, p.Check(im, &policy.Options{ReadFile: os.ReadFile})
}

// fixtures is the directory of containers/image's own signature fixtures, in the module cache.
func fixtures(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "go.podman.io/image/v5").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "signature", "fixtures")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the module cache has no fixtures")
	}
	return dir
}

// Their signatures, made by gpg and cosign, get the same verdict from both. (Module archives have no symlinks, so the
// images are put together here.)
func TestPolicyFixtures(t *testing.T) {
	fix := fixtures(t)
	var signatures []string
	for _, pattern := range []string{"*.signature", "dir-img-*/signature-*"} {
		found, err := filepath.Glob(filepath.Join(fix, pattern))
		if err != nil {
			t.Fatal(err)
		}
		signatures = append(signatures, found...)
	}
	raw, err := os.ReadFile(filepath.Join(fix, "image.manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	accepted, rejected := map[string]int{}, 0
	for _, name := range signatures {
		blob, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := policy.ParseSignature(blob)
		if err != nil {
			t.Logf("not looked at: %s: %v", name, err)
			continue
		}
		for _, body := range []string{string(raw), someManifest, string(raw) + "\n"} {
			if near, err := os.ReadFile(filepath.Join(filepath.Dir(name), "manifest.json")); err == nil {
				body = string(near)
			}
			dir := writeDir(t, body, sig)
			for _, text := range fixturePolicies(fix) {
				if sameVerdict(t, text, dir) {
					accepted[strings.TrimPrefix(name, fix)]++
				} else {
					rejected++
				}
			}
		}
	}
	t.Logf("of %d signatures both accept %v", len(signatures), accepted)
	if len(accepted) < 6 || rejected < 100 {
		t.Error("the table says too little")
	}
}

// fixturePolicies are policies for each key of the fixtures and a few names.
func fixturePolicies(fix string) []string {
	var out []string
	for _, key := range []string{"public-key.gpg", "public-key-1.gpg", "public-key-2.gpg", "public-key-with-subkey.gpg", "public-key-with-revoked-subkey.gpg", "cosign.pub", "cosign2.pub", "some-rsa-key.pub"} {
		kind := `"sigstoreSigned"`
		if strings.HasSuffix(key, ".gpg") {
			kind = `"signedBy","keyType":"GPGKeys"`
		}
		for _, identity := range []string{
			`{"type":"exactReference","dockerReference":"testing/manifest:latest"}`,
			`{"type":"exactRepository","dockerRepository":"testing/manifest"}`,
			`{"type":"exactRepository","dockerRepository":"192.168.64.2:5000/cosign-signed-single-sample"}`,
			`{"type":"exactRepository","dockerRepository":"elsewhere/manifest"}`,
		} {
			out = append(out, fmt.Sprintf(`{"default":[{"type":%s,"keyPath":%q,"signedIdentity":%s}]}`, kind, filepath.Join(fix, key), identity))
		}
	}
	return out
}

// sameVerdict asks both about an image in a directory, and returns the answer.
func sameVerdict(t *testing.T, text, dir string) bool {
	t.Helper()
	ref, err := directory.NewReference(dir)
	if err != nil {
		t.Fatal(err)
	}
	src, err := ref.NewImageSource(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}()
	_, theirs := theirPolicy(t, text, image.UnparsedInstance(src, nil))
	_, ours := ourPolicy(text, readDir(t, dir))
	if (theirs == nil) != (ours == nil) {
		t.Errorf("%s, %s:\ntheirs %v\n  ours %v", filepath.Base(dir), text, theirs, ours)
	}
	return ours == nil
}

// readDir reads an image of the dir transport as copy would hand it to a policy.
func readDir(t *testing.T, dir string) policy.Image {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	im := policy.Image{Ref: manifest.Ref{Transport: manifest.Dir, Path: dir, Index: -1}, Manifest: raw}
	for i := 1; ; i++ {
		blob, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("signature-%d", i)))
		if os.IsNotExist(err) {
			return im
		}
		if err != nil {
			t.Fatal(err)
		}
		sig, err := policy.ParseSignature(blob)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := sig.Blob(); err != nil || string(back) != string(blob) {
			t.Errorf("%s: signature %d comes back different: %v", dir, i, err)
		}
		im.Signatures = append(im.Signatures, sig)
	}
}

// dockerImage is an image in a registry that nobody has to ask.
type dockerImage struct {
	ref        types.ImageReference
	raw        []byte
	signatures [][]byte
}

func (d dockerImage) Reference() types.ImageReference { return d.ref }

func (d dockerImage) Manifest(context.Context) ([]byte, string, error) {
	return d.raw, manifest.GuessMediaType(d.raw), nil
}

func (d dockerImage) Signatures(context.Context) ([][]byte, error) { return d.signatures, nil }

const someManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}`

// Our simple signatures, their names matched under each rule: one verdict.
func TestPolicyIdentities(t *testing.T) {
	key, err := openpgp.NewEntity("oracle", "", "oracle@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var public, private strings.Builder
	if err := key.Serialize(&public); err != nil {
		t.Fatal(err)
	}
	if err := key.SerializePrivate(&private, nil); err != nil {
		t.Fatal(err)
	}
	signer, err := policy.NewOpenPGPSigner([]byte(private.String()), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString(someManifest)
	names := []string{
		"busybox:latest", "busybox:v1", "docker.io/library/busybox:v1", "e.com/ns/r:v1", "e.com/ns/r:v2", "e.com:5000/ns/r:v1",
		"e.com/ns/r@" + d.String(), "f.com/r:v1", "f.com/ns/r:v1",
	}
	signed := map[string]policy.Signature{}
	for _, name := range names {
		claim, err := policy.NewClaim(manifest.Ref{}, name, d, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if signed[name], err = signer.Sign(claim); err != nil {
			t.Fatal(err)
		}
	}
	accepted := 0
	for _, identity := range []string{
		`{"type":"matchExact"}`, `{"type":"matchRepoDigestOrExact"}`, `{"type":"matchRepository"}`,
		`{"type":"exactReference","dockerReference":"e.com/ns/r:v1"}`, `{"type":"exactRepository","dockerRepository":"busybox"}`,
		`{"type":"remapIdentity","prefix":"e.com","signedPrefix":"f.com"}`,
		`{"type":"remapIdentity","prefix":"e.com/ns","signedPrefix":"f.com"}`,
		`{"type":"remapIdentity","prefix":"e.com/n","signedPrefix":"f.com"}`,
		`{"type":"remapIdentity","prefix":"e.com/ns/r","signedPrefix":"f.com"}`,
		`{"type":"remapIdentity","prefix":"docker.io/library","signedPrefix":"e.com/ns"}`,
	} {
		text := fmt.Sprintf(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":%q,"signedIdentity":%s}]}`,
			base64.StdEncoding.EncodeToString([]byte(public.String())), identity)
		for _, name := range names {
			for _, as := range names {
				if verdictOnName(t, text, name, signed[as]) {
					accepted++
				}
			}
		}
	}
	t.Logf("%d of %d accepted by both", accepted, 10*len(names)*len(names))
	if accepted < 20 {
		t.Error("the table says too little")
	}
}

func verdictOnName(t *testing.T, text, name string, sigs ...policy.Signature) bool {
	t.Helper()
	theirRef, err := docker.ParseReference("//" + name)
	if err != nil {
		t.Fatal(err)
	}
	ourRef, err := manifest.ParseRef("docker://" + name)
	if err != nil {
		t.Fatal(err)
	}
	var blobs [][]byte
	for _, s := range sigs {
		blob, err := s.Blob()
		if err != nil {
			t.Fatal(err)
		}
		blobs = append(blobs, blob)
	}
	_, theirs := theirPolicy(t, text, dockerImage{theirRef, []byte(someManifest), blobs})
	_, ours := ourPolicy(text, policy.Image{Ref: ourRef, Manifest: []byte(someManifest), Signatures: sigs})
	if (theirs == nil) != (ours == nil) {
		t.Errorf("%s, %.400s:\ntheirs %v\n  ours %v", name, text[strings.LastIndex(text, "signedIdentity")+1:], theirs, ours)
	}
	return ours == nil
}

// Every subset of scopes decides alike.
func TestPolicyScopes(t *testing.T) {
	names := []string{"busybox", "a.b.e.com:5000/ns/r:v1", "a.b.e.com/ns/r:v1", "e.com/ns/r:v1", "localhost:5000/r:v1", "e.com/ns/r@" + digest.FromString(someManifest).String()}
	scopes := []string{"", "docker.io", "docker.io/library", "docker.io/library/busybox", "docker.io/library/busybox:latest", "a.b.e.com:5000", "a.b.e.com",
		"*.b.e.com", "*.e.com", "*.com", "e.com", "e.com/ns", "e.com/ns/r", "e.com/ns/r:v1", "e.com/n", "localhost", "localhost:5000"}
	for i, accept := range scopes {
		for j, reject := range scopes {
			if i == j {
				continue
			}
			for _, fallback := range []string{"reject", "insecureAcceptAnything"} {
				text := fmt.Sprintf(`{"default":[{"type":%q}],"transports":{"docker":{%q:[{"type":"insecureAcceptAnything"}],%q:[{"type":"reject"}]}}}`, fallback, accept, reject)
				for _, name := range names {
					verdictOnName(t, text, name)
				}
			}
		}
	}
}

// What they take as a policy we take, and the reverse, but for what 0002-policy.md names.
func TestPolicySyntax(t *testing.T) {
	fixture, err := os.ReadFile(filepath.Join(fixtures(t), "policy.json"))
	if err != nil {
		t.Fatal(err)
	}
	requirements := []string{
		`{"type":"reject"}`, `{"type":"insecureAcceptAnything"}`, `{"type":"Reject"}`, `{"type":"reject","x":1}`, `{}`, `null`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/a"}`, `{"type":"signedBy","keyType":"GPGKeys"}`, `{"type":"signedBy","keyPath":"/a"}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/a","keyData":"QUJD"}`, `{"type":"signedBy","keyType":"GPGKeys","keyPaths":["/a","/b"]}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyData":"?"}`, `{"type":"signedBy","keyType":"other","keyPath":"/a"}`,
		`{"type":"signedBy","keyType":"X509Certificates","keyPath":"/a"}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/a","signedIdentity":{"type":"matchExact"}}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/a","signedIdentity":{"type":"x"}}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/a","signedIdentity":{"type":"exactReference","dockerReference":"a/b"}}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/a","signedIdentity":{"type":"exactReference","dockerReference":"a/b:c"}}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/a","signedIdentity":{"type":"remapIdentity","prefix":"localhost","signedPrefix":"e.com:5000/ns"}}`,
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/a","signedIdentity":{"type":"remapIdentity","prefix":"e.com/","signedPrefix":"f.com"}}`,
		`{"type":"sigstoreSigned","keyPath":"/a"}`, `{"type":"sigstoreSigned","keyPaths":["/a"]}`, `{"type":"sigstoreSigned","keyDatas":["QUJD"]}`,
		`{"type":"sigstoreSigned"}`, `{"type":"sigstoreSigned","keyPath":"/a","keyDatas":["QUJD"]}`,
		`{"type":"sigstoreSigned","keyPath":"/a","rekorPublicKeyPath":"/r"}`, `{"type":"sigstoreSigned","keyPath":"/a","rekorPublicKeyPath":"/r","rekorPublicKeyData":"QUJD"}`,
		`{"type":"sigstoreSigned","fulcio":{"caPath":"/c","oidcIssuer":"https://i","subjectEmail":"e"},"rekorPublicKeyPath":"/r"}`,
		`{"type":"sigstoreSigned","pki":{"caRootsPath":"/c","subjectEmail":"e"}}`,
		`{"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}`,
	}
	texts := []string{string(fixture), `{}`, `null`, `{"default":[]}`, `{"default":[{"type":"reject"}],"x":1}`, `{"transports":{}}`,
		`{"default":[{"type":"reject"}],"default":[{"type":"reject"}]}`, `{"default":[{"type":"reject"}],"transports":{"nonesuch":{"x":[{"type":"reject"}]}}}`,
		`{"default":[{"type":"reject"}],"transports":{"dir":{"relative":[{"type":"reject"}]}}}`, `{"default":[{"type":"reject"}],"transports":{"dir":{"/":[{"type":"reject"}]}}}`,
		`{"default":[{"type":"reject"}],"transports":{"oci":{"/a/../b":[{"type":"reject"}]}}}`, `{"default":[{"type":"reject"}],"transports":{"docker":{"a":[]}}}`,
	}
	for _, r := range requirements {
		texts = append(texts, `{"default":[`+r+`]}`)
	}
	for _, text := range texts {
		_, theirs := signature.NewPolicyFromBytes([]byte(text))
		_, ours := policy.Parse([]byte(text))
		if (theirs == nil) != (ours == nil) {
			t.Errorf("%s:\ntheirs %v\n  ours %v", text, theirs, ours)
		}
	}
}

// Keys that they make we use, and signatures made with them they accept.
func TestSigstoreKeys(t *testing.T) {
	for _, pass := range []string{"", "secret"} {
		pair, err := sigstore.GenerateKeyPair([]byte(pass))
		if err != nil {
			t.Fatal(err)
		}
		signer, err := policy.NewKeySigner(pair.PrivateKey, func(string) ([]byte, error) { return []byte(pass), nil })
		if err != nil {
			t.Fatal(err)
		}
		claim, err := policy.NewClaim(manifest.Ref{}, "e.com/r:v1", digest.FromString(someManifest), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		sig, err := signer.Sign(claim)
		if err != nil {
			t.Fatal(err)
		}
		dir := writeDir(t, someManifest, sig)
		text := fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyData":%q,"signedIdentity":{"type":"exactReference","dockerReference":"e.com/r:v1"}}]}`, base64.StdEncoding.EncodeToString(pair.PublicKey))
		if !sameVerdict(t, text, dir) {
			t.Error("both reject")
		}
		if sameVerdict(t, strings.Replace(text, "e.com/r:v1", "e.com/r:v2", 1), dir) {
			t.Error("both accept another name")
		}
	}
}

func writeDir(t *testing.T, raw string, sigs ...policy.Signature) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string][]byte{"manifest.json": []byte(raw), "version": []byte("Directory Transport Version: 1.1\n")}
	for i, s := range sigs {
		blob, err := s.Blob()
		if err != nil {
			t.Fatal(err)
		}
		files[fmt.Sprintf("signature-%d", i+1)] = slices.Clone(blob)
	}
	for name, raw := range files {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
