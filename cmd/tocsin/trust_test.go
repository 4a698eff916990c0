package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/rogpeppe/go-internal/testscript"
)

// writeKeys makes keys of both kinds, a policy that demands a signature by each of them, and a registries.d with a
// lookaside: secret.gpg, whose passphrase is in pass, private.pem, signed.json, aside.
func writeKeys(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: keys")
	}
	entity, err := openpgp.NewEntity("Test", "", "test@example.com", nil)
	ts.Check(err)
	var secret, public bytes.Buffer
	ts.Check(entity.Serialize(&public))
	ts.Check(entity.EncryptPrivateKeys([]byte("open sesame"), nil))
	ts.Check(entity.SerializePrivateWithoutSigning(&secret, nil))
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	ts.Check(err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	pkix, err := x509.MarshalPKIXPublicKey(pub)
	ts.Check(err)
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	aside := ts.MkAbs("lookaside")
	ts.Check(os.Mkdir(ts.MkAbs("aside"), 0o755))
	for name, raw := range map[string][]byte{
		"secret.gpg":  secret.Bytes(),
		"pass":        []byte("open sesame\n"),
		"private.pem": block("PRIVATE KEY", private),
		"signed.json": fmt.Appendf(nil, `{"default":[{"type":"signedBy","keyType":"GPGKeys","keyData":%q},{"type":"sigstoreSigned","keyData":%q}]}`,
			base64.StdEncoding.EncodeToString(public.Bytes()), base64.StdEncoding.EncodeToString(block("PUBLIC KEY", pkix))),
		"aside/default.yaml": []byte("default-docker:\n  lookaside: file://" + aside + "\n  use-sigstore-attachments: true\n"),
		"aside/README":       []byte("not YAML: it does not end so\n"),
	} {
		ts.Check(os.WriteFile(ts.MkAbs(name), raw, 0o600))
	}
}

func TestKeyName(t *testing.T) {
	dir := t.TempDir()
	odd := filepath.Join(dir, "a:b")
	if err := os.WriteFile(odd, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ arg, file, which string }{
		{"key.gpg", "key.gpg", ""},
		{"key.gpg:ABCD", "key.gpg", "ABCD"},
		{odd, odd, ""},
		{odd + ":ABCD", odd, "ABCD"},
	}
	for _, tt := range tests {
		if file, which := keyName(tt.arg); file != tt.file || which != tt.which {
			t.Errorf("%s: %q %q", tt.arg, file, which)
		}
	}
}
