package manifest

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const someDigest = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" // of "foo"

func TestParseRef(t *testing.T) {
	named := func(tr Transport, host, repo, tag, d string) Ref {
		return Ref{Transport: tr, Host: host, Repo: repo, Tag: tag, Digest: digest.Digest(d), Index: -1}
	}
	path := func(tr Transport, path, name, d string, index int) Ref {
		return Ref{Transport: tr, Path: path, Name: name, Digest: digest.Digest(d), Index: index}
	}
	inside := func(namespace string, r Ref) Ref {
		r.Namespace = namespace
		return r
	}
	for _, tt := range []struct {
		in       string
		want     Ref
		familiar string
	}{
		{"alpine", named(Docker, "docker.io", "library/alpine", "latest", ""), "alpine:latest"},
		{"docker:dind", named(Docker, "docker.io", "library/docker", "dind", ""), "docker:dind"},
		{"docker://alpine:3.20", named(Docker, "docker.io", "library/alpine", "3.20", ""), "alpine:3.20"},
		{"localhost:5000/a/b:c", named(Docker, "localhost:5000", "a/b", "c", ""), "localhost:5000/a/b:c"},
		{"quay.io/x@" + someDigest, named(Docker, "quay.io", "x", "", someDigest), "quay.io/x@" + someDigest},
		{"x:t@" + someDigest, named(Docker, "docker.io", "library/x", "t", someDigest), "x:t@" + someDigest},
		{"store:x", named(Store, "docker.io", "library/x", "latest", ""), "store:x:latest"},
		{"store:@" + someDigest, named(Store, "", "", "", someDigest), "store:@" + someDigest},
		{"store:" + someDigest, named(Store, "", "", "", someDigest), "store:@" + someDigest},
		{"store:abcdef123456", withID(named(Store, "docker.io", "library/abcdef123456", "latest", ""), "abcdef123456"), "store:abcdef123456"},
		{"store:abcdef12345", named(Store, "docker.io", "library/abcdef12345", "latest", ""), "store:abcdef12345:latest"},
		{"store:abcdef123456:1", named(Store, "docker.io", "library/abcdef123456", "1", ""), "store:abcdef123456:1"},
		{"store:" + someDigest[7:], withID(named(Store, "", "", "", ""), someDigest[7:]), "store:" + someDigest[7:]},
		{"oci:/a/b", path(OCI, "/a/b", "", "", -1), "oci:/a/b"},
		{"oci:dir:v1", path(OCI, "dir", "v1", "", -1), "oci:dir:v1"},
		{"oci:dir:docker.io/x:v1", path(OCI, "dir", "docker.io/x:v1", "", -1), "oci:dir:docker.io/x:v1"},
		{"oci:dir@3", path(OCI, "dir", "", "", 3), "oci:dir@3"},
		{"oci:d@ir", path(OCI, "d@ir", "", "", -1), "oci:d@ir"},
		{"ocidir://dir:v1", path(OCI, "dir", "v1", "", -1), "oci:dir:v1"},
		{"oci-layout:///d@" + someDigest, path(OCI, "/d", "", someDigest, -1), "oci:/d@" + someDigest},
		{"oci-archive:a.tar:n", path(OCIArchive, "a.tar", "n", "", -1), "oci-archive:a.tar:n"},
		{"docker-archive:a.tar:x", path(DockerArchive, "a.tar", "docker.io/library/x:latest", "", -1), "docker-archive:a.tar:docker.io/library/x:latest"},
		{"docker-archive:a.tar:@1", path(DockerArchive, "a.tar", "", "", 1), "docker-archive:a.tar@1"},
		{"dir:/a:b@7", path(Dir, "/a:b@7", "", "", -1), "dir:/a:b@7"},
		{"tarball:/a:b@7.tar", path(Tarball, "/a:b@7.tar", "", "", -1), "tarball:/a:b@7.tar"},
		{"tarball:-", path(Tarball, "-", "", "", -1), "tarball:-"},
		{"containerd:k8s.io/x", inside("k8s.io", named(Containerd, "docker.io", "library/x", "latest", "")), "containerd:k8s.io/x:latest"},
		{"containerd:n/0123456789abcdef", inside("n", named(Containerd, "docker.io", "library/0123456789abcdef", "latest", "")), "containerd:n/0123456789abcdef:latest"},
		{"containerd:default/quay.io/a/b:c", inside("default", named(Containerd, "quay.io", "a/b", "c", "")), "containerd:default/quay.io/a/b:c"},
		{"containerd:n/x@" + someDigest, inside("n", named(Containerd, "docker.io", "library/x", "", someDigest)), "containerd:n/x@" + someDigest},
		{"containerd:n/@" + someDigest, inside("n", named(Containerd, "", "", "", someDigest)), "containerd:n/@" + someDigest},
		{"docker-daemon:x", named(DockerDaemon, "docker.io", "library/x", "latest", ""), "docker-daemon:x:latest"},
		{"docker-daemon:x@" + someDigest, named(DockerDaemon, "docker.io", "library/x", "", someDigest), "docker-daemon:x@" + someDigest},
		{"docker-daemon:" + someDigest, named(DockerDaemon, "", "", "", someDigest), "docker-daemon:" + someDigest},
		{"docker://ostree:latest", named(Docker, "docker.io", "library/ostree", "latest", ""), "ostree:latest"},
	} {
		got, err := ParseRef(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseRef(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
			continue
		}
		if got.Familiar() != tt.familiar {
			t.Errorf("%q: Familiar = %q, want %q", tt.in, got.Familiar(), tt.familiar)
		}
		again := []string{got.String()}
		if got.Familiar() != "ostree:latest" { // the short form of a name may be another transport's
			again = append(again, got.Familiar())
		}
		for _, again := range again {
			if back, err := ParseRef(again); err != nil || back != got {
				t.Errorf("%q: ParseRef(%q) = %+v, %v", tt.in, again, back, err)
			}
		}
	}
}

func withID(r Ref, id string) Ref {
	r.ID = id
	return r
}

func TestParseRefRefuses(t *testing.T) {
	for in, want := range map[string]error{
		"":                                   ErrMalformed,
		"store:":                             ErrMalformed,
		"store:@sha256:abc":                  ErrMalformed,
		"UPPER":                              ErrMalformed,
		"x@sha256:abc":                       ErrMalformed,
		"x@sha384:" + someDigest[7:]:         ErrMalformed,
		"oci:":                               ErrMalformed,
		"oci:a:":                             ErrMalformed,
		"oci:@1":                             ErrMalformed,
		"oci:dir@sha256:abc":                 ErrMalformed,
		"oci:dir:name@1":                     ErrMalformed,
		"oci:a\x00b":                         ErrMalformed,
		"dir:":                               ErrMalformed,
		"docker-archive:a.tar@sha256:abc":    ErrMalformed,
		"docker-archive:a:b@" + someDigest:   ErrMalformed,
		"docker-daemon:":                     ErrMalformed,
		"docker-daemon:sha256:abc":           ErrMalformed,
		"docker-daemon:X":                    ErrMalformed,
		"containerd:alpine":                  ErrMalformed,
		"containerd:/alpine":                 ErrMalformed,
		"containerd:-n/alpine":               ErrMalformed,
		"containerd:a..b/alpine":             ErrMalformed,
		"containerd:a./alpine":               ErrMalformed,
		"containerd:n/":                      ErrMalformed,
		"containerd:n/@sha256:abc":           ErrMalformed,
		"tarball:":                           ErrMalformed,
		"containers-storage:x":               ErrUnsupported,
		"ostree:x@/repo":                     ErrUnsupported,
		"atomic:host/x:y":                    ErrUnsupported,
		"oci:" + strings.Repeat("a", maxRef): ErrMalformed,
	} {
		if r, err := ParseRef(in); !errors.Is(err, want) {
			t.Errorf("ParseRef(%.80q) = %+v, %v; want %v", in, r, err, want)
		}
	}
}

// What is refused says what to use instead.
func TestParseRefInstead(t *testing.T) {
	for in, want := range map[string]string{"containers-storage:x": "podman save", "ostree:x": "oci:", "atomic:x": "docker://"} {
		if _, err := ParseRef(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRef(%q): %v, which does not name %s", in, err, want)
		}
	}
}

func TestRefNames(t *testing.T) {
	for in, want := range map[string][3]string{ // StoreName, Reference, Repository
		"x":                       {"docker.io/library/x:latest", "latest", "docker.io/library/x"},
		"store:x:1@" + someDigest: {"docker.io/library/x:1", someDigest, "docker.io/library/x"},
		"store:x@" + someDigest:   {"docker.io/library/x@" + someDigest, someDigest, "docker.io/library/x"},
		"store:@" + someDigest:    {"", someDigest, ""},
	} {
		r, err := ParseRef(in)
		if got := [3]string{r.StoreName(), r.Reference(), r.Repository()}; err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}
