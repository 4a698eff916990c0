package registry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// A registry that wants to see a certificate gets the one of the directory, and is itself held to the authorities there.
func TestCertDir(t *testing.T) {
	reg := front.NewRegistry()
	d := v1.Descriptor{Digest: digest.Digest(reg.AddBlob(repoName, []byte("hello"))), Size: 5}
	srv := httptest.NewUnstartedServer(reg)
	srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	srv.StartTLS()
	defer srv.Close()
	pair := srv.TLS.Certificates[0]

	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	files := map[string][]byte{"ca.crt": certificate, "me.cert": certificate,
		"me.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})}
	dir := func(names ...string) string {
		dir := t.TempDir()
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	read := func(dir string) error {
		r := New(&Options{CertDirs: map[string]string{"": dir}, Retries: -1}).Repo(strings.TrimPrefix(srv.URL, "https://"), repoName)
		got, err := readBlob(r, d)
		if err == nil && string(got) != "hello" {
			t.Errorf("%q", got)
		}
		return err
	}
	if err := read(dir("ca.crt", "me.cert", "me.key")); err != nil {
		t.Error(err)
	}
	if err := read(""); err == nil {
		t.Error("went in without a certificate")
	}
	// A loopback host's certificate is believed as it is, so the authorities are asked apart from it.
	c, err := readCertDir(dir("ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := srv.Certificate().Verify(x509.VerifyOptions{Roots: c.RootCAs}); err != nil {
		t.Error(err)
	}
	for _, half := range []string{"me.cert", "me.key"} {
		if err := read(dir("ca.crt", half)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s alone: %v", half, err)
		}
	}
	if err := read(dir()); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("an empty directory: %v", err)
	}
}
