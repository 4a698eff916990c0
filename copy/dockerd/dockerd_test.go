package dockerd

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOptionsOf(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want Options
	}{
		{nil, Options{}},
		{map[string]string{"DOCKER_HOST": "tcp://h:1"}, Options{Host: "tcp://h:1"}},
		{map[string]string{"DOCKER_TLS_VERIFY": "1"}, Options{Verify: true, CertPath: "/home/me/.docker"}},
		{map[string]string{"DOCKER_TLS_VERIFY": "0", "DOCKER_CONFIG": "/c"}, Options{Verify: true, CertPath: "/c"}},
		{map[string]string{"DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": "/p"}, Options{CertPath: "/p"}},
	} {
		if got := OptionsOf(func(key string) string { return c.env[key] }, "/home/me"); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.env, got, c.want)
		}
	}
}

func TestPlaceOf(t *testing.T) {
	for _, c := range []struct {
		o             Options
		address, base string // "" means refused
	}{
		{Options{}, "/var/run/docker.sock", "http://docker"},
		{Options{Host: "unix:///a/b", Verify: true}, "/a/b", "http://docker"},
		{Options{Host: "tcp://h"}, "h:2375", "http://h:2375"},
		{Options{Host: "tcp://h:9"}, "h:9", "http://h:9"},
		{Options{Host: "tcp://h", Verify: true}, "h:2376", "https://h:2376"},
		{Options{Host: "tcp://[::1]", CertPath: "/p"}, "[::1]:2376", "https://[::1]:2376"},
		{o: Options{Host: "ssh://h"}},
		{o: Options{Host: "unix://relative"}},
		{o: Options{Host: "tcp://"}},
		{o: Options{Host: "tcp://user@h"}},
		{o: Options{Host: "tcp://h/path"}},
		{o: Options{Host: "/var/run/docker.sock"}},
	} {
		p, err := placeOf(c.o)
		if c.base == "" {
			if !errors.Is(err, ErrHost) {
				t.Errorf("%+v: %+v, %v", c.o, p, err)
			}
			continue
		}
		if err != nil || p.address != c.address || p.base.String() != c.base {
			t.Errorf("%+v: %+v, %v", c.o, p, err)
		}
	}
}

// at is a client of a handler on TCP.
func at(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(Options{Host: "tcp://" + strings.TrimPrefix(srv.URL, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The requests are those of the API, over the socket too.
func TestRequests(t *testing.T) {
	dir, err := os.MkdirTemp("", "d") // a socket's path has room for 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	listener, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		got = append(got, r.Method+" "+r.URL.String()+" "+r.Header.Get("Content-Type")+" "+string(raw))
		_, _ = io.WriteString(w, `{"stream":"Loaded"}`)
	}))
	srv.Listener.Close()
	srv.Listener = listener
	srv.Start()
	defer srv.Close()
	c, err := New(Options{Host: "unix://" + dir + "/s"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	body, err := c.Save(t.Context(), "docker.io/library/x:1")
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(body); err != nil || string(raw) != `{"stream":"Loaded"}` {
		t.Errorf("%s, %v", raw, err)
	}
	body.Close()
	if err := c.Load(t.Context(), strings.NewReader("archive")); err != nil {
		t.Error(err)
	}
	want := "GET /images/docker.io/library/x:1/get  |POST /images/load?quiet=1 application/x-tar archive"
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("%s, want %s", s, want)
	}
}

// Every way in which a daemon says no is an error with what it said.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   error
		says   string
	}{
		"not found":     {404, `{"message":"No such image: x"}`, ErrNotFound, "No such image"},
		"failed":        {500, `{"message":"disk full"}`, ErrRefused, "disk full"},
		"no JSON":       {502, `bad gateway`, ErrRefused, "bad gateway"},
		"redirect":      {302, ``, ErrRefused, "302"},
		"in the stream": {200, `{"stream":"Loading"}{"errorDetail":{"message":"invalid diffID"},"error":"invalid diffID"}`, ErrRefused, "invalid diffID"},
		"old":           {200, `{"error":"no space"}`, ErrRefused, "no space"},
		"cut":           {200, `{"stream":"Load`, ErrRefused, ""},
		"not messages":  {200, `<html>`, ErrRefused, ""},
		"without end":   {200, strings.Repeat(`{"stream":"x"}`, maxMessages/14+1), ErrRefused, ""},
	} {
		client := at(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://example.com/")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		})
		if err := client.Load(t.Context(), strings.NewReader("x")); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if c.status == 200 {
			continue
		}
		if _, err := client.Save(t.Context(), "x"); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// An archive whose reader fails never looks whole to the daemon.
func TestBrokenArchive(t *testing.T) {
	seen := make(chan error, 1)
	client := at(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		seen <- err
	})
	broken := errors.New("broken")
	r, w := io.Pipe()
	go func() {
		_, _ = w.Write([]byte("part"))
		w.CloseWithError(broken)
	}()
	if err := client.Load(t.Context(), r); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if err := <-seen; err == nil {
		t.Error("the daemon saw the end of an archive")
	}
}

// TLS is docker's: verified against ca.pem when that was asked for, else not.
func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "tar") }))
	defer srv.Close()
	host := "tcp://" + strings.TrimPrefix(srv.URL, "https://")
	good, other, empty := t.TempDir(), t.TempDir(), t.TempDir()
	writePEM(t, good, srv.Certificate())
	if err := os.WriteFile(filepath.Join(other, "ca.pem"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(o Options) error {
		c, err := New(o)
		if err != nil {
			return err
		}
		defer c.Close()
		body, err := c.Save(t.Context(), "x")
		if err == nil {
			body.Close()
		}
		return err
	}
	if err := try(Options{Host: host, CertPath: good, Verify: true}); err != nil {
		t.Errorf("verified: %v", err)
	}
	if err := try(Options{Host: host, CertPath: empty}); err != nil {
		t.Errorf("not verified: %v", err)
	}
	var unknown x509.UnknownAuthorityError
	if err := try(Options{Host: host, Verify: true}); !errors.As(err, &unknown) {
		t.Errorf("verified against the system's: %v", err)
	}
	if err := try(Options{Host: host, CertPath: other, Verify: true}); !errors.Is(err, ErrHost) {
		t.Errorf("no certificate: %v", err)
	}
	if err := try(Options{Host: host, CertPath: empty, Verify: true}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no ca.pem: %v", err)
	}
	if err := try(Options{Host: host}); err == nil {
		t.Error("plain HTTP to a TLS daemon")
	}
}

func writePEM(t *testing.T, dir string, c *x509.Certificate) {
	t.Helper()
	raw := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// FuzzLoaded: what a daemon says is an answer or an error, whatever it is.
func FuzzLoaded(f *testing.F) {
	for _, s := range []string{`{"stream":"x"}`, `{"error":"y"}`, `{"errorDetail":{"message":"z"}}`, `[]`, ``, `{`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if err := loaded(strings.NewReader(s)); err != nil && !errors.Is(err, ErrRefused) {
			t.Fatalf("%q: %v", s, err)
		}
	})
}
