package registry

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/tocsin/tocsin/manifest"
)

// readCertDir reads the certificates of Options.CertDirs; nil if dir is "". A pair of which one half is missing is an
// error, and so is a directory without any certificate: nobody names one for nothing.
func readCertDir(dir string) (*tls.Config, error) {
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch base := strings.TrimSuffix(name, filepath.Ext(name)); filepath.Ext(name) {
		case ".crt":
			err = addAuthority(c, name)
		case ".cert":
			err = addPair(c, name, base+".key")
		case ".key":
			_, err = os.Stat(base + ".cert")
		}
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
	}
	if c.RootCAs == nil && c.Certificates == nil {
		return nil, fmt.Errorf("certificates: %s has no *.crt, and no *.cert with its *.key: %w", dir, manifest.ErrMalformed)
	}
	return c, nil
}

// addAuthority adds to the system's authorities.
func addAuthority(c *tls.Config, name string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if c.RootCAs == nil {
		if c.RootCAs, err = x509.SystemCertPool(); err != nil {
			return err
		}
	}
	if !c.RootCAs.AppendCertsFromPEM(raw) {
		return fmt.Errorf("%s: no certificate in it: %w", name, manifest.ErrMalformed)
	}
	return nil
}

func addPair(c *tls.Config, certificate, key string) error {
	pair, err := tls.LoadX509KeyPair(certificate, key)
	if err != nil {
		return fmt.Errorf("%s: %w", certificate, err)
	}
	c.Certificates = append(c.Certificates, pair)
	return nil
}
