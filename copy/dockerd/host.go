package dockerd

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// defaultHost is where docker's daemon is when nothing else is said.
const defaultHost = "unix:///var/run/docker.sock"

// Options say where the daemon is. The zero value is this machine's, by its socket.
type Options struct {
	// Host is unix://PATH or tcp://HOST:PORT, as in DOCKER_HOST.
	Host string
	// CertPath is a directory with ca.pem, cert.pem and key.pem. With it, or with Verify, a TCP host is spoken to in TLS.
	CertPath string
	// Verify demands that the daemon's certificate is good; without it any is taken, as docker does.
	Verify bool
}

// OptionsOf reads docker's environment variables: DOCKER_HOST, DOCKER_TLS_VERIFY (any value but an empty one), and
// DOCKER_CERT_PATH, which is .docker in the home directory when only verifying was asked for.
func OptionsOf(getenv func(string) string, home string) Options {
	o := Options{Host: getenv("DOCKER_HOST"), CertPath: getenv("DOCKER_CERT_PATH"), Verify: getenv("DOCKER_TLS_VERIFY") != ""}
	if o.Verify && o.CertPath == "" {
		o.CertPath = cmp.Or(getenv("DOCKER_CONFIG"), filepath.Join(home, ".docker"))
	}
	return o
}

// place is a host understood: how it is dialled, and what the requests' URLs begin with.
type place struct {
	network, address string
	base             url.URL
}

// placeOf reads a host. It is pure.
func placeOf(o Options) (place, error) {
	host := cmp.Or(o.Host, defaultHost)
	scheme, rest, ok := strings.Cut(host, "://")
	switch {
	case ok && scheme == "unix" && strings.HasPrefix(rest, "/"):
		return place{"unix", rest, url.URL{Scheme: "http", Host: "docker"}}, nil // the host's name means nothing there
	case ok && scheme == "tcp" && rest != "" && !strings.ContainsAny(rest, "/@?#"):
		u := url.URL{Scheme: "http", Host: rest}
		port := "2375"
		if o.tls() {
			u.Scheme, port = "https", "2376"
		}
		if u.Port() == "" {
			u.Host = strings.TrimSuffix(rest, ":") + ":" + port
		}
		return place{"tcp", u.Host, u}, nil
	}
	return place{}, fmt.Errorf("docker's host %q is neither unix:///PATH nor tcp://HOST:PORT: %w", host, ErrHost)
}

// tls says whether a TCP host is spoken to in TLS.
func (o Options) tls() bool { return o.Verify || o.CertPath != "" }

// config reads the certificates.
func (o Options) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !o.Verify}
	if o.CertPath == "" {
		return c, nil
	}
	if o.Verify {
		raw, err := os.ReadFile(filepath.Join(o.CertPath, "ca.pem"))
		if err != nil {
			return nil, fmt.Errorf("docker's certificate authority: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("%s/ca.pem holds no certificate: %w", o.CertPath, ErrHost)
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(o.CertPath, "cert.pem"), filepath.Join(o.CertPath, "key.pem"))
	if errors.Is(err, os.ErrNotExist) {
		return c, nil // a daemon that asks for none
	}
	if err != nil {
		return nil, fmt.Errorf("docker's client certificate: %w", err)
	}
	c.Certificates = []tls.Certificate{pair}
	return c, nil
}
