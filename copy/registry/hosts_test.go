package registry

import (
	"bytes"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

func TestFollow(t *testing.T) {
	for _, c := range []struct{ from, location, want string }{
		{"https://r.example/v2/x", "/v2/y?z=1", "https://r.example/v2/y?z=1"},
		{"https://r.example/v2/x", "https://cdn.example/y?sig=1#f", "https://cdn.example/y?sig=1"},
		{"http://r.example/v2/x", "http://cdn.example/y", "http://cdn.example/y"},
		{"http://r.example/v2/x", "https://cdn.example/y", "https://cdn.example/y"},
		{"https://r.example:444/v2/x", "http://r.example/v2/y", "https://r.example:444/v2/y"},
		{"http://127.0.0.1:5000/v2/x", "http://127.0.0.1:5001/y", "http://127.0.0.1:5001/y"},
		{"http://10.0.0.1/v2/x", "http://192.168.0.1/y", "http://192.168.0.1/y"},
		{"https://r.example/v2/x", "http://cdn.example/y", ""},
		{"https://r.example/v2/x", "https://127.0.0.1/y", ""},
		{"https://r.example/v2/x", "https://localhost:8080/y", ""},
		{"https://r.example/v2/x", "https://[::1]/y", ""},
		{"https://r.example/v2/x", "https://[fe80::1]/y", ""},
		{"https://r.example/v2/x", "https://169.254.169.254/latest/meta-data", ""},
		{"https://r.example/v2/x", "https://10.1.2.3/y", ""},
		{"https://r.example/v2/x", "https://0.0.0.0/y", ""},
		{"https://r.example/v2/x", "https://LocalHost/y", ""},
		{"https://r.example/v2/x", "https://localhost./y", ""},
		{"https://r.example/v2/x", "https://127.0.0.1./y", ""},
		{"https://r.example/v2/x", "https://[fe80::1%25eth0]/y", ""},
		{"https://r.example/v2/x", "https://127.1/y", ""},
		{"https://r.example/v2/x", "https://2130706433/y", ""},
		{"https://r.example/v2/x", "https://0x7f.1/y", ""},
		{"https://r.example/v2/x", "https://[::ffff:127.0.0.1]/y", ""},
		{"https://r.example/v2/x", "https://93.184.216.34/y", "https://93.184.216.34/y"},
		{"https://r.example/v2/x", "https://user:pw@cdn.example/y", ""},
		{"https://r.example/v2/x", "file:///etc/passwd", ""},
		{"https://r.example/v2/x", "https:///y", ""},
		{"https://r.example/v2/x", "", ""},
	} {
		from, err := url.Parse(c.from)
		if err != nil {
			t.Fatal(err)
		}
		got, err := follow(from, c.location)
		switch {
		case c.want == "" && !errors.Is(err, ErrBadAnswer):
			t.Errorf("%s to %s: %v, %v", c.from, c.location, got, err)
		case c.want != "" && (err != nil || got.String() != c.want):
			t.Errorf("%s to %s: %v, %v, want %s", c.from, c.location, got, err, c.want)
		}
	}
}

// hostsDir writes a hosts.toml for a host.
func hostsDir(t *testing.T, host, text string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, host)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// mirrored is a registry "registry.example" behind two fronts: itself, and a mirror that may be pulled from only.
type mirrored struct {
	*bench
	dir              string
	upstream, mirror *front.Front
}

func newMirrored(t *testing.T) *mirrored {
	reg := front.NewRegistry()
	m := &mirrored{upstream: front.New(reg), mirror: front.New(reg)}
	up, mi := httptest.NewServer(m.upstream), httptest.NewServer(m.mirror)
	t.Cleanup(up.Close)
	t.Cleanup(mi.Close)
	m.bench = &bench{reg: reg, front: m.mirror}
	m.dir = hostsDir(t, "registry.example", `server = "`+up.URL+`"
[host."`+mi.URL+`"]
  capabilities = ["pull"]
  [host."`+mi.URL+`".header]
    X-Mirror = ["yes"]
`)
	return m
}

// newRepo gives the repository to a new client, with both fronts at their best.
func (m *mirrored) newRepo(t *testing.T) *Repo {
	m.mirror.Behave()
	m.mirror.Forget()
	m.upstream.Behave()
	m.upstream.Forget()
	m.serve(t, m.mirror, &Options{HostsDir: m.dir}) // for its pauses
	m.r = m.c.Repo("registry.example", repoName)
	return m.r
}

func (m *mirrored) counts(t *testing.T, wantMirror, wantUpstream int) {
	t.Helper()
	if m, u := m.mirror.Count("", ""), m.upstream.Count("", ""); m != wantMirror || u != wantUpstream {
		t.Errorf("mirror asked %d times, upstream %d; want %d, %d", m, u, wantMirror, wantUpstream)
	}
}

func TestMirrors(t *testing.T) {
	m := newMirrored(t)
	data, d := m.blob(1000)
	m.reg.AddManifest(repoName, "latest", "application/json", []byte("{}"))
	t.Run("mirror first, and told which registry", func(t *testing.T) {
		r := m.newRepo(t)
		if got, err := readBlob(r, d); err != nil || !bytes.Equal(got, data) {
			t.Fatal(err)
		}
		m.counts(t, 1, 0)
		if q := m.mirror.Log()[0].Query; q != "ns=registry.example" {
			t.Errorf("query %q", q)
		}
	})
	t.Run("a pull mirror does not say what a tag means", func(t *testing.T) {
		r := m.newRepo(t)
		if _, _, err := r.Manifest(t.Context(), "latest"); err != nil {
			t.Fatal(err)
		}
		m.counts(t, 0, 1)
		if err := r.PutManifest(t.Context(), "new", []byte("{}"), "application/json"); err != nil {
			t.Fatal(err)
		}
		m.counts(t, 0, 2)
	})
	t.Run("a mirror that fails costs one request", func(t *testing.T) {
		for _, act := range []front.Action{front.Status(404, ""), front.Status(503, ""), front.Status(403, ""), front.Reset(-1)} {
			r := m.newRepo(t)
			m.mirror.Add(front.Rule{Do: act})
			if got, err := readBlob(r, d); err != nil || !bytes.Equal(got, data) {
				t.Fatal(err)
			}
			m.counts(t, 1, 1)
		}
	})
	t.Run("a mirror without ranges does not spoil those of the registry", func(t *testing.T) {
		r := m.newRepo(t)
		m.mirror.Add(front.Rule{Do: front.Status(404, "")})
		m.upstream.Add(front.Rule{Times: 1, Do: front.SingleOnly(400)})
		if err := readAll(r.Ranged(d.Digest, d.Size), data, []manifest.Range{{Off: 0, Len: 10}, {Off: 100, Len: 10}}); err != nil {
			t.Fatal(err)
		}
		m.counts(t, 3, 3)
	})
}

func TestRestingMirrors(t *testing.T) {
	m := newMirrored(t)
	data, d := m.blob(1000)
	t.Run("one that cannot be reached is left alone for a while", func(t *testing.T) {
		r := m.newRepo(t)
		m.mirror.Add(front.Rule{Do: front.Reset(-1)})
		now := time.Unix(1e9, 0)
		m.c.now = func() time.Time { return now }
		for range 3 {
			if _, err := readBlob(r, d); err != nil {
				t.Fatal(err)
			}
		}
		m.counts(t, 1, 3)
		m.mirror.Behave()
		now = now.Add(mirrorRest + time.Second)
		if _, err := readBlob(r, d); err != nil {
			t.Fatal(err)
		}
		m.counts(t, 2, 3)
	})
	t.Run("one that is left alone neither hides an answer nor takes the retries", func(t *testing.T) {
		r := m.newRepo(t)
		m.mirror.Add(front.Rule{Do: front.Reset(-1)})
		if _, err := readBlob(r, d); err != nil {
			t.Fatal(err)
		}
		absent := v1.Descriptor{Digest: digest.FromString("absent"), Size: 6}
		if has, err := r.HasBlob(t.Context(), absent); has || err != nil {
			t.Errorf("a blob that the registry does not have: %v, %v", has, err)
		}
		m.upstream.Add(front.Rule{Times: 2, Do: front.Status(503, "")})
		if _, err := readBlob(r, d); err != nil {
			t.Errorf("the registry was not asked again: %v", err)
		}
		m.counts(t, 1, 5)
	})
	t.Run("one that is left alone is asked when the registry does not answer", func(t *testing.T) {
		r := m.newRepo(t)
		m.mirror.Add(front.Rule{Times: 1, Do: front.Reset(-1)})
		if _, err := readBlob(r, d); err != nil {
			t.Fatal(err)
		}
		m.upstream.Add(front.Rule{Do: front.Reset(-1)})
		if got, err := readBlob(r, d); err != nil || !bytes.Equal(got, data) {
			t.Error(err)
		}
	})
}

func TestBrokenHostsFileIsAnError(t *testing.T) {
	for _, text := range []string{"server = [", `capabilities = ["fly"]`} {
		dir := hostsDir(t, "registry.example", text)
		r := New(&Options{HostsDir: dir}).Repo("registry.example", repoName)
		if _, _, err := r.Manifest(t.Context(), "latest"); err == nil || !strings.Contains(err.Error(), "hosts.toml") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A daemon does not need to be restarted after its hosts.toml was repaired.
func TestRepairedHostsFileIsRead(t *testing.T) {
	reg := front.NewRegistry()
	reg.AddManifest(repoName, "latest", "application/json", []byte("{}"))
	srv := httptest.NewServer(reg)
	defer srv.Close()
	dir := hostsDir(t, "registry.example", "server = [")
	r := New(&Options{HostsDir: dir}).Repo("registry.example", repoName)
	if _, _, err := r.Manifest(t.Context(), "latest"); err == nil {
		t.Fatal("no error")
	}
	if err := os.WriteFile(filepath.Join(dir, "registry.example", "hosts.toml"), []byte(`server = "`+srv.URL+`"`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Manifest(t.Context(), "latest"); err != nil {
		t.Error(err)
	}
}

func TestCertificates(t *testing.T) {
	reg := front.NewRegistry()
	d := (&bench{reg: reg})
	_, desc := d.blob(10)
	srv := httptest.NewUnstartedServer(reg)
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // it would complain of the refused handshake
	srv.StartTLS()
	defer srv.Close()
	// registry.example is not loopback, so its certificate is verified.
	for _, c := range []struct {
		extra string
		ok    bool
	}{{"", false}, {"skip_verify = true\n", true}} {
		dir := hostsDir(t, "registry.example", `server = "`+srv.URL+"\"\n"+c.extra)
		client := New(&Options{HostsDir: dir})
		_, err := readBlob(client.Repo("registry.example", repoName), desc)
		if (err == nil) != c.ok || errors.Is(err, ErrRetriesExhausted) {
			t.Errorf("%q: %v", c.extra, err)
		}
	}
	dir := hostsDir(t, "registry.example", `server = "`+srv.URL+"\"\n")
	if _, err := readBlob(New(&Options{HostsDir: dir, Insecure: true}).Repo("registry.example", repoName), desc); err != nil {
		t.Errorf("insecure: %v", err)
	}
	for _, c := range []struct {
		host string
		ok   bool
	}{{"registry.example", true}, {"other.example", false}} {
		client := New(&Options{HostsDir: dir, InsecureHosts: []string{c.host}})
		if _, err := readBlob(client.Repo("registry.example", repoName), desc); (err == nil) != c.ok {
			t.Errorf("%s is insecure: %v", c.host, err)
		}
	}
}

// A host is checked before it becomes a part of a path below the hosts directory.
func TestBadHostIsNotLookedUp(t *testing.T) {
	c := New(&Options{HostsDir: t.TempDir()})
	r := c.Repo("../../etc", repoName)
	d := digest.FromString("x")
	err := r.ReadRanges(t.Context(), d, 10, []manifest.Range{{Off: 0, Len: 1}}, func(_ manifest.Range, body io.Reader) error {
		_, err := io.ReadAll(body)
		return err
	})
	if !errors.Is(err, manifest.ErrMalformed) {
		t.Error(err)
	}
	if len(c.hosts) != 0 {
		t.Errorf("looked up: %v", c.hosts)
	}
}
