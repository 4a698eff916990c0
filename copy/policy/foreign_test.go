package policy

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// gnupg is a home of gpg with keys of its own.
type gnupg struct {
	t    *testing.T
	home string
}

func newGnuPG(t *testing.T) *gnupg {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Skip("gpg is missing")
	}
	// Not t.TempDir: the agent's socket path has to be short.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	g := &gnupg{t, home}
	t.Cleanup(func() {
		// Ends the agent of this home, which gpg started.
		if out, err := g.command("gpgconf", "--kill", "all").CombinedOutput(); err != nil {
			t.Logf("gpgconf: %v: %s", err, out)
		}
		if err := os.RemoveAll(home); err != nil {
			t.Log(err)
		}
	})
	return g
}

func (g *gnupg) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home, "LC_ALL=C")
	return cmd
}

// run returns what gpg writes to stdout.
func (g *gnupg) run(stdin []byte, args ...string) []byte {
	g.t.Helper()
	cmd := g.command("gpg", append([]string{"--batch", "--no-tty", "--pinentry-mode", "loopback"}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		g.t.Fatalf("gpg %q: %v\n%s", args, err, errs.String())
	}
	return out.Bytes()
}

// What gpg signs we verify, whatever the key, the compression and the armor of
// the ring; what we sign gpg verifies.
func TestAgainstGnuPG(t *testing.T) {
	g := newGnuPG(t)
	payload, err := mustClaim(t, "e.com/r:v1", theDigest).marshal(typeSimple)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ user, algorithm, pass string }{
		{"rsa@example.com", "rsa2048", ""},
		{"ed@example.com", "ed25519", ""},
		{"p256@example.com", "nistp256", "secret"},
	} {
		t.Run(c.algorithm, func(t *testing.T) {
			g := &gnupg{t, g.home}
			g.run(nil, "--passphrase", c.pass, "--quick-gen-key", c.user, c.algorithm, "default", "never")
			binary := mustRing(t, g.run(nil, "--export", c.user))
			armored := mustRing(t, g.run(nil, "--armor", "--export", c.user))
			for _, opts := range [][]string{nil, {"-z", "0"}, {"--digest-algo", "SHA512"}, {"--compress-algo", "bzip2"}} {
				blob := g.run(payload, append(opts, "--passphrase", c.pass, "-u", c.user, "--sign")...)
				sig, err := ParseSignature(blob)
				if err != nil {
					t.Fatal(err)
				}
				for _, ring := range []*KeyRing{binary, armored} {
					claim, err := ring.Verify(sig, time.Now())
					if err != nil || claim.Digest != theDigest {
						t.Errorf("%q: %v", opts, err)
					}
				}
			}
			g.theyVerify(c.user, c.pass)
		})
	}
}

// theyVerify signs with a key that gpg made and lets gpg read it.
func (g *gnupg) theyVerify(user, pass string) {
	g.t.Helper()
	exported := g.run(nil, "--passphrase", pass, "--armor", "--export-secret-keys", user)
	signer, err := NewOpenPGPSigner(exported, user, func(string) ([]byte, error) { return []byte(pass), nil })
	if err != nil {
		g.t.Fatal(err)
	}
	claim := mustClaim(g.t, "e.com/r:v1", theDigest)
	claim.Time = time.Now()
	sig, err := signer.Sign(claim)
	if err != nil {
		g.t.Fatal(err)
	}
	want, err := claim.marshal(typeSimple)
	if err != nil {
		g.t.Fatal(err)
	}
	if got := g.run(sig.blob, "--decrypt"); !bytes.Equal(got, want) {
		g.t.Errorf("gpg reads %q, want %q", got, want)
	}
}

// openssl runs in dir.
func openssl(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Dir = dir
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %q: %v\n%s", args, err, errs.String())
	}
	return out
}

// What openssl signs we verify, and the reverse.
func TestAgainstOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is missing")
	}
	payload := []byte(payloadOf(t, typeSigstore))
	for _, c := range []struct {
		name   string
		keygen []string
		sign   []string
		verify []string
	}{
		{"P-256", []string{"ecparam", "-name", "prime256v1", "-genkey"}, []string{"dgst", "-sha256", "-sign", "key"}, []string{"dgst", "-sha256", "-verify", "pub", "-signature", "sig", "payload"}},
		{"P-384", []string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"}, []string{"dgst", "-sha384", "-sign", "key"}, []string{"dgst", "-sha256", "-verify", "pub", "-signature", "sig", "payload"}},
		{"RSA", []string{"genrsa", "2048"}, []string{"dgst", "-sha256", "-sign", "key"}, []string{"dgst", "-sha256", "-verify", "pub", "-signature", "sig", "payload"}},
		{"Ed25519", []string{"genpkey", "-algorithm", "ED25519"}, []string{"pkeyutl", "-sign", "-rawin", "-inkey", "key", "-in"}, []string{"pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "pub", "-sigfile", "sig", "-in", "payload"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name string, raw []byte) {
				if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			key := openssl(t, dir, c.keygen...)
			write("key", key)
			write("payload", payload)
			public := openssl(t, dir, "pkey", "-in", "key", "-pubout")
			write("pub", public)

			verifier, err := ParsePublicKey(public)
			if err != nil {
				t.Fatal(err)
			}
			raw := openssl(t, dir, append(c.sign, "payload")...)
			theirs := NewSigstore(MediaTypeSigstore, payload, map[string]string{AnnotationSignature: b64(raw)})
			if _, err := verifier.Verify(theirs); err != nil {
				t.Error(err)
			}

			signer, err := NewKeySigner(key, nil)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := signer.Sign(mustClaim(t, "e.com/r:v1", theDigest))
			if err != nil {
				t.Fatal(err)
			}
			write("payload", ours.Payload())
			write("sig", mustB64(t, ours.annotations[AnnotationSignature]))
			openssl(t, dir, c.verify...)
		})
	}
}

// Vectors made once with gpg 2.2.40 and openssl 3.0 (testdata/make.sh), for
// machines that have neither.
func TestVectors(t *testing.T) {
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	policy := mustPolicy(t, string(read("policy.json")))
	image := Image{Ref: mustRef(t, "docker://example.com/vector:v1"), Manifest: read("manifest")}
	for _, name := range []string{"gpg.signature", "cosign.signature"} {
		sig, err := ParseSignature(read(name))
		if err != nil {
			t.Fatal(err)
		}
		if back, err := sig.Blob(); err != nil || !bytes.Equal(back, read(name)) {
			t.Errorf("%s: comes back different: %v", name, err)
		}
		image.Signatures = append(image.Signatures, sig)
	}
	opts := &Options{
		Now:      time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC),
		ReadFile: func(path string) ([]byte, error) { return os.ReadFile(filepath.Join("testdata", filepath.Base(path))) },
	}
	if err := policy.Check(image, opts); err != nil {
		t.Error(err)
	}
	image.Ref.Tag = "v2"
	err := policy.Check(image, opts)
	if !errors.Is(err, ErrRejected) || strings.Count(err.Error(), "signed for example.com/vector:v1") != 2 {
		t.Errorf("another tag: %v", err)
	}
	if digest.FromBytes(image.Manifest) != "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03" {
		t.Error("the vector's manifest has changed")
	}
}
