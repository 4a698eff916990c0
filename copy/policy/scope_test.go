package policy

import (
	"errors"
	"slices"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

func TestScopes(t *testing.T) {
	const hex = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		ref  string
		want []string
	}{
		{"docker://busybox", []string{
			"docker.io/library/busybox:latest", "docker.io/library/busybox", "docker.io/library", "docker.io", "*.io"}},
		{"docker://a.b.example.com:5000/ns/sub/repo:v1", []string{
			"a.b.example.com:5000/ns/sub/repo:v1", "a.b.example.com:5000/ns/sub/repo", "a.b.example.com:5000/ns/sub",
			"a.b.example.com:5000/ns", "a.b.example.com:5000", "*.b.example.com", "*.example.com", "*.com"}},
		{"docker://example.com/r@sha256:" + hex, []string{
			"example.com/r@sha256:" + hex, "example.com/r", "example.com", "*.com"}},
		// A digest beats the tag that stands beside it.
		{"docker://example.com/r:v1@sha256:" + hex, []string{
			"example.com/r@sha256:" + hex, "example.com/r", "example.com", "*.com"}},
		{"docker://localhost:5000/r:v1", []string{"localhost:5000/r:v1", "localhost:5000/r", "localhost:5000"}},
		{"store:example.com/r:v1", []string{"example.com/r:v1", "example.com/r", "example.com", "*.com"}},
		{"store:@sha256:" + hex, nil},
		{"containerd:k8s.io/example.com/r:v1", []string{"example.com/r:v1", "example.com/r", "example.com", "*.com"}},
		{"docker-daemon:example.com/r:v1", []string{"example.com/r:v1", "example.com/r", "example.com", "*.com"}},
		{"tarball:/srv/root.tar", []string{"/srv/root.tar", "/srv"}},
		{"oci:/var/images/one:name", []string{"/var/images/one", "/var/images", "/var"}},
		{"oci-archive:/srv/a.tar", []string{"/srv/a.tar", "/srv"}},
		{"docker-archive:/srv/a.tar:x:y", []string{"/srv/a.tar", "/srv"}},
		{"dir:/srv/with:colon", []string{"/srv/with:colon", "/srv"}},
		{"dir:/", nil},
		{"oci-archive:-", nil},
	} {
		got, err := scopes(mustRef(t, c.ref))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q %v\nwant %q", c.ref, got, err, c.want)
		}
	}
	for _, ref := range []string{"dir:relative", "dir:/a/../b", "dir:/a//b", "dir:/a/", "oci:./x:y"} {
		if got, err := scopes(mustRef(t, ref)); !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%s: %q, %v", ref, got, err)
		}
	}
	other := manifest.Ref{Transport: "another", Host: "e.com", Repo: "r", Tag: "v1"}
	if got, err := scopes(other); err != nil || !slices.Equal(got, []string{"e.com/r:v1", "e.com/r", "e.com", "*.com"}) {
		t.Errorf("a place to come: %q, %v", got, err)
	}
	if _, err := scopes(manifest.Ref{Transport: "ostree"}); !errors.Is(err, manifest.ErrUnsupported) {
		t.Errorf("neither name nor path: %v", err)
	}
}

func TestCheckScope(t *testing.T) {
	for _, c := range []struct {
		transport, scope string
		ok               bool
	}{
		{"docker", "", true},
		{"docker", "docker.io/library/busybox:latest", true},
		{"docker", "*.example.com", true},
		{"docker", "example*.com", false},
		{"docker", "*.a.*.com", false},
		{"docker", "*.example.com/ns", false},
		{"docker", "*.example.com:5000", false},
		{"oci", "/var/images", true},
		{"oci", "/var/images:name", false},
		{"oci", "var", false},
		{"dir", "/", false},
		{"dir", "/a/", false},
		{"dir", "/a:b", true},
		{"docker-archive", "/a.tar", true},
		{"tarball", "/", false},
		{"tarball", "/srv", true},
		{"containerd", "example*.com", false},
		{"docker-daemon", "*.example.com/ns", false},
		{"store", "example.com/r:v1", true},
		{"store", "*.a.*.com", false},
		{"atomic", "what*ever", true}, // not ours to judge
		{"containers-storage", "[overlay@/var]", true},
	} {
		if err := checkScope(c.transport, c.scope); (err == nil) != c.ok {
			t.Errorf("%s %q: %v", c.transport, c.scope, err)
		}
	}
}

// The most specific scope decides, and only that.
func TestFind(t *testing.T) {
	p := mustPolicy(t, `{"default":[{"type":"reject"}],"transports":{
		"docker":{
			"":[{"type":"insecureAcceptAnything"}],
			"*.example.com":[{"type":"reject"}],
			"r.example.com":[{"type":"insecureAcceptAnything"}],
			"r.example.com/bad":[{"type":"reject"}],
			"r.example.com/bad/good:v1":[{"type":"insecureAcceptAnything"}]},
		"dir":{"/srv":[{"type":"insecureAcceptAnything"}]}}}`)
	for _, c := range []struct {
		ref string
		ok  bool
	}{
		{"docker://busybox", true},
		{"docker://x.example.com/a", false},
		{"docker://x.example.com:443/a", false},
		{"docker://example.com/a", true}, // the wildcard is for what is below
		{"docker://r.example.com/a", true},
		{"docker://r.example.com:5000/a", false}, // another host, but the same domain
		{"docker://r.example.com/bad/x", false},
		{"docker://r.example.com/badx", true},
		{"docker://r.example.com/bad/good:v1", true},
		{"docker://r.example.com/bad/good:v2", false},
		{"dir:/srv/x", true},
		{"dir:/srvx", false},
		{"dir:/srv/../etc", false}, // not a clean path: refused, not guessed
		{"oci:/srv/x", false},      // another transport
	} {
		err := p.Check(Image{Ref: mustRef(t, c.ref), Manifest: theManifest}, nil)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrRejected) {
			t.Errorf("%s: %v; decided by %s", c.ref, err, p.Explain(mustRef(t, c.ref)))
		}
	}
}

func TestExplain(t *testing.T) {
	p := mustPolicy(t, `{"default":[{"type":"reject"},{"type":"insecureAcceptAnything"}],"transports":{
		"docker":{"docker.io":[{"type":"insecureAcceptAnything"}]},"oci":{"":[{"type":"reject"}]}}}`)
	for ref, want := range map[string]string{
		"docker://busybox": `docker scope "docker.io": insecureAcceptAnything`,
		"oci:/x":           "default of oci: reject",
		"dir:/x":           "global default: reject and insecureAcceptAnything",
	} {
		if got := p.Explain(mustRef(t, ref)); got != want {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
	if got := (*Policy)(nil).Explain(mustRef(t, "dir:/x")); got != NoPolicy {
		t.Errorf("no policy: %q", got)
	}
}
