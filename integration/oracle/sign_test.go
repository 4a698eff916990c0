package oracle

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/signature/sigstore"
	"go.podman.io/image/v5/types"
)

const keyPassphrase = "a passphrase"

// signing is a registry, keys of both kinds in files, and what both programs are told about them.
type signing struct {
	t      *testing.T
	reg    *registry
	dir    string // secret.gpg, cosign.key, pass, registries.d, aside
	tocsin string
	gpg    string // base64 of the public keys
	cosign string
	sys    *types.SystemContext
}

func newSigning(t *testing.T) *signing {
	t.Helper()
	s := &signing{t: t, reg: newRegistry(t), dir: t.TempDir(), tocsin: program(t)}
	pair, err := sigstore.GenerateKeyPair([]byte(keyPassphrase))
	if err != nil {
		t.Fatal(err)
	}
	entity, err := openpgp.NewEntity("Oracle", "", "oracle@example.com", nil)
	if err != nil {
		t.Fatal(err)
	}
	var secret, public bytes.Buffer
	if err := errors.Join(entity.SerializePrivate(&secret, nil), entity.Serialize(&public)); err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	s.gpg, s.cosign = b64(public.Bytes()), b64(pair.PublicKey)
	registriesD := filepath.Join(s.dir, "registries.d")
	if err := os.Mkdir(registriesD, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"secret.gpg": secret.Bytes(), "cosign.key": pair.PrivateKey, "pass": []byte(keyPassphrase + "\n"),
		"registries.d/default.yaml": []byte("default-docker:\n  lookaside: file://" + s.dir + "/aside\n  use-sigstore-attachments: true\n"),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.sys = &types.SystemContext{RegistriesDirPath: registriesD, DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	return s
}

// policy demands both kinds of signatures for a name.
func (s *signing) policy(name string) string {
	identity := fmt.Sprintf(`"signedIdentity":{"type":"exactReference","dockerReference":%q}`, name)
	return fmt.Sprintf(`{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":%q,%s},{"type":"sigstoreSigned","keyData":%q,%s}]}`,
		s.gpg, identity, s.cosign, identity)
}

func (s *signing) docker(name string) types.ImageReference {
	s.t.Helper()
	ref, err := docker.ParseReference("//" + s.reg.host + "/" + name)
	if err != nil {
		s.t.Fatal(err)
	}
	return ref
}

// run runs tocsin with the files of this test and returns what went wrong.
func (s *signing) run(args ...string) error {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.tocsin, append(args, "--registries.d", s.sys.RegistriesDirPath)...)
	cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tocsin %q: %w\n%s", args, err, out)
	}
	return nil
}

// accepted asks tocsin about a reference under a policy for a name.
func (s *signing) accepted(ref, name string) error {
	s.t.Helper()
	file := filepath.Join(s.dir, "policy.json")
	if err := os.WriteFile(file, []byte(s.policy(name)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return s.run("verify", ref, "--policy", file)
}

// theyAccept copies with containers/image under a policy for a name.
func (s *signing) theyAccept(src types.ImageReference, name string) error {
	s.t.Helper()
	p, err := signature.NewPolicyFromBytes([]byte(s.policy(name)))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := signature.NewPolicyContext(p)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = copy.Image(s.t.Context(), c, ref(s.t, "dir", s.t.TempDir()), src, &copy.Options{ImageListSelection: copy.CopyAllImages, SourceCtx: s.sys})
	return errors.Join(err, c.Destroy())
}

// gpgSigner lets gpg make the OpenPGP messages that containers/image without gpgme cannot make.
type gpgSigner struct {
	signature.SigningMechanism
	home string
}

func (g gpgSigner) SupportsSigning() error { return nil }

func (g gpgSigner) Sign(input []byte, key string) ([]byte, error) {
	cmd := exec.Command("gpg", "--batch", "--no-tty", "--pinentry-mode", "loopback", "--passphrase", "", "-u", key, "--sign")
	cmd.Env, cmd.Stdin = append(os.Environ(), "GNUPGHOME="+g.home), bytes.NewReader(input)
	return cmd.Output()
}

func (s *signing) gpgSigner() gpgSigner {
	s.t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		s.t.Skip("gpg is missing")
	}
	home, err := os.MkdirTemp("", "gpg") // short, for the agent's socket
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		end := exec.Command("gpgconf", "--kill", "all")
		end.Env = append(os.Environ(), "GNUPGHOME="+home)
		if err := errors.Join(end.Run(), os.RemoveAll(home)); err != nil {
			s.t.Log(err)
		}
	})
	cmd := exec.Command("gpg", "--batch", "--no-tty", "--import", filepath.Join(s.dir, "secret.gpg"))
	cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("gpg: %v\n%s", err, out)
	}
	return gpgSigner{home: home}
}

// manifests are the list of a layout and its instances.
func manifests(t *testing.T, dir string) map[digest.Digest][]byte {
	t.Helper()
	out := map[digest.Digest][]byte{}
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs/sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		raw, err := os.ReadFile(filepath.Join(dir, "blobs/sha256", b.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(raw, []byte("{")) && manifest.GuessMIMEType(raw) != "" && (bytes.Contains(raw, []byte(`"layers"`)) || bytes.Contains(raw, []byte(`"manifests"`))) {
			out[digest.FromBytes(raw)] = raw
		}
	}
	return out
}

// rule 57, rule 59: what containers/image signs, list and instances, tocsin accepts: sigstore attachments that it pushes,
// simple signatures that it puts into the lookaside, and both in a dir: that it writes.
func TestTheySign(t *testing.T) {
	s := newSigning(t)
	src, _ := layoutOf(t)
	name := s.reg.host + "/theirs:1"
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	accept, err := signature.NewPolicyContext(&signature.Policy{Default: []signature.PolicyRequirement{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		t.Fatal(err)
	}
	dst := s.docker("theirs:1")
	if _, err := copy.Image(t.Context(), accept, dst, ref(t, "oci", src+":list"), &copy.Options{
		ImageListSelection: copy.CopyAllImages, DestinationCtx: s.sys, SignIdentity: named, PreserveDigests: true,
		SignBySigstorePrivateKeyFile: filepath.Join(s.dir, "cosign.key"), SignSigstorePrivateKeyPassphrase: []byte(keyPassphrase),
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.accepted("docker://"+name, name); err == nil || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("without simple signatures: %v", err)
	}
	gpg := s.gpgSigner()
	to, err := dst.NewImageDestination(t.Context(), s.sys)
	if err != nil {
		t.Fatal(err)
	}
	for d, raw := range manifests(t, src) {
		sig, err := signature.SignDockerManifest(raw, name, gpg, "oracle@example.com")
		if err != nil {
			t.Fatal(err)
		}
		if err := to.PutSignatures(t.Context(), [][]byte{sig}, &d); err != nil {
			t.Fatal(err)
		}
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.accepted("docker://"+name, name); err != nil {
		t.Error(err)
	}
	if err := s.accepted("docker://"+name, s.reg.host+"/theirs:2"); err == nil {
		t.Error("accepted under another name")
	}
	dir := filepath.Join(t.TempDir(), "d")
	if _, err := copy.Image(t.Context(), accept, ref(t, "dir", dir), dst, &copy.Options{ImageListSelection: copy.CopyAllImages, SourceCtx: s.sys, PreserveDigests: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.accepted("dir:"+dir, name); err != nil {
		t.Error(err)
	}
}

// rule 57, rule 59, L29: what tocsin signs, with keys that cosign and gpg write, containers/image accepts, in a registry
// and in a dir:.
func TestWeSign(t *testing.T) {
	s := newSigning(t)
	src, _ := layoutOf(t)
	name := s.reg.host + "/ours:1"
	dir := filepath.Join(t.TempDir(), "d")
	sign := []string{"--sign-by-openpgp", filepath.Join(s.dir, "secret.gpg"), "--sign-by-sigstore-key", filepath.Join(s.dir, "cosign.key"), "--sign-passphrase-file", filepath.Join(s.dir, "pass")}
	if err := s.run(append([]string{"copy", "oci:" + src + ":list", "docker://" + name}, sign...)...); err != nil {
		t.Fatal(err)
	}
	if err := s.run(append([]string{"copy", "oci:" + src + ":list", "dir:" + dir, "--sign-identity", name}, sign...)...); err != nil {
		t.Fatal(err)
	}
	for what, at := range map[string]types.ImageReference{"registry": s.docker("ours:1"), "dir": ref(t, "dir", dir)} {
		if err := s.theyAccept(at, name); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		var rejected signature.PolicyRequirementError
		if err := s.theyAccept(at, s.reg.host+"/ours:2"); !errors.As(err, &rejected) {
			t.Errorf("%s: under another name: %v", what, err)
		}
	}
}
