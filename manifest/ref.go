package manifest

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// Transport is the kind of place a reference names.
type Transport string

// The transports. Docker is a registry.
const (
	Docker        Transport = "docker"
	OCI           Transport = "oci"
	Store         Transport = "store"
	OCIArchive    Transport = "oci-archive"
	DockerArchive Transport = "docker-archive"
	Dir           Transport = "dir"
	Containerd    Transport = "containerd"
	DockerDaemon  Transport = "docker-daemon"
	Tarball       Transport = "tarball"
)

// maxRef bounds what ParseRef looks at, in bytes: a path of PATH_MAX and a
// name behind it.
const maxRef = 8 << 10

// Ref names an image in one of the places that tocsin knows. The fields that
// a transport does not use are zero, Index -1.
type Ref struct {
	Transport Transport
	Namespace string        // containerd: one of its namespaces
	Host      string        // docker, store, daemons: "docker.io"
	Repo      string        // docker, store, daemons: "library/alpine"
	Tag       string        // docker, store, daemons: "latest" if nothing was said; with a digest "" or kept for the destination's name
	Digest    digest.Digest // docker, store, daemons, oci: wins over a tag; of docker-daemon without a name the image's ID
	ID        string        // store: hex digits that may begin an image's ID, if no image has them for its name
	Path      string        // oci, archives, dir, tarball: as written
	Name      string        // oci, archives: which image in there; "" means the only one
	Index     int           // oci, archives: @N, counted from 0; -1 none
}

// ParseRef reads a reference as spec/cli.md 2 spells them. A bare name is a
// registry reference, normalised as docker does it; ocidir:// and
// oci-layout:// mean oci:. The error is ErrMalformed, or ErrUnsupported for
// another tool's transports, with what to use instead.
func ParseRef(s string) (Ref, error) {
	r, err := parseRef(s)
	if err != nil {
		return Ref{}, fmt.Errorf("reference %.200q: %w", s, err)
	}
	return r, nil
}

func parseRef(s string) (Ref, error) {
	if len(s) > maxRef {
		return Ref{}, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxRef)
	}
	for _, p := range []string{"docker://", "ocidir://", "oci-layout://"} {
		rest, ok := strings.CutPrefix(s, p)
		switch {
		case ok && p == "docker://":
			return parseNamed(Docker, rest)
		case ok:
			return parsePath(OCI, rest)
		}
	}
	transport, rest, ok := strings.Cut(s, ":")
	if !ok {
		return parseNamed(Docker, s)
	}
	switch t := Transport(transport); t {
	case OCI, OCIArchive, DockerArchive, Dir, Tarball:
		return parsePath(t, rest)
	case Store:
		return parseStore(rest)
	case Containerd:
		return parseContainerd(rest)
	case DockerDaemon:
		return parseDaemon(rest)
	}
	if instead := insteadOf(transport); instead != "" {
		return Ref{}, fmt.Errorf("%w: transport %s: %s (an image that is called so is docker://%s)", ErrUnsupported, transport, instead, s)
	}
	return parseNamed(Docker, s)
}

// insteadOf says what to use in place of a transport of skopeo's that tocsin
// does not have, "" for what is none of them.
func insteadOf(transport string) string {
	switch transport {
	case "containers-storage":
		return "podman's own store is not read; podman save writes an oci-archive: or docker-archive:, and podman pull reads oci:, oci-archive: and dir:"
	case "ostree":
		return "an OSTree repository is not a place of images here; use oci:, or dir: for plain files"
	case "atomic":
		return "OpenShift's registry is read and written as any other; use docker://"
	}
	return ""
}

// parseNamed reads [host/]repo[:tag][@digest].
func parseNamed(t Transport, s string) (Ref, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Ref{}, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	r := Ref{Transport: t, Host: reference.Domain(named), Repo: reference.Path(named), Index: -1}
	if tagged, ok := named.(reference.Tagged); ok {
		r.Tag = tagged.Tag()
	}
	if digested, ok := named.(reference.Digested); ok {
		r.Digest = digested.Digest()
		return r, ValidDigest(r.Digest)
	}
	if r.Tag == "" {
		r.Tag = "latest"
	}
	return r, nil
}

// parseStore reads a name, @digest alone, or an image ID. What could be a
// name and an ID is both.
func parseStore(s string) (Ref, error) {
	r := Ref{Transport: Store, Index: -1}
	if d, ok := strings.CutPrefix(s, "@"); ok {
		r.Digest = digest.Digest(d)
		return r, ValidDigest(r.Digest)
	}
	if ValidDigest(digest.Digest(s)) == nil { // as docker spells whole IDs
		r.Digest = digest.Digest(s)
		return r, nil
	}
	if len(s) < minID || len(s) > maxID || strings.Trim(s, "0123456789abcdef") != "" {
		return parseNamed(Store, s)
	}
	if len(s) < wholeID {
		var err error
		if r, err = parseNamed(Store, s); err != nil {
			return r, err
		}
	}
	r.ID = s
	return r, nil
}

// The lengths of image IDs in hex digits: what docker prints, a whole one (which is no name any more), and the longest.
const (
	minID   = 12
	wholeID = 64
	maxID   = 128
)

// parseContainerd reads namespace/name, or namespace/@digest alone.
func parseContainerd(s string) (Ref, error) {
	namespace, name, ok := strings.Cut(s, "/")
	if !ok {
		return Ref{}, fmt.Errorf("%w: it is containerd:NAMESPACE/NAME, such as containerd:default/alpine", ErrMalformed)
	}
	if !validNamespace(namespace) {
		return Ref{}, fmt.Errorf("%w: containerd has no namespace called %.100q", ErrMalformed, namespace)
	}
	r := Ref{Transport: Containerd, Index: -1}
	var err error
	if d, ok := strings.CutPrefix(name, "@"); ok {
		r.Digest = digest.Digest(d)
		err = ValidDigest(r.Digest)
	} else {
		r, err = parseNamed(Containerd, name)
	}
	r.Namespace = namespace
	return r, err
}

// validNamespace follows containerd's rule for identifiers: runs of letters
// and digits with single dots, hyphens or underscores between them, 76 bytes
// at most.
func validNamespace(s string) bool {
	if len(s) > 76 {
		return false
	}
	between := true // the start, or a separator, is what came before
	for _, c := range s {
		switch alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'; {
		case alnum:
			between = false
		case between || !strings.ContainsRune("._-", c):
			return false
		default:
			between = true
		}
	}
	return !between
}

// parseDaemon reads a name, or an image's ID (sha256:hex) alone.
func parseDaemon(s string) (Ref, error) {
	if !strings.HasPrefix(s, "sha256:") {
		return parseNamed(DockerDaemon, s)
	}
	r := Ref{Transport: DockerDaemon, Digest: digest.Digest(s), Index: -1}
	return r, ValidDigest(r.Digest)
}

// parsePath reads path[:name][@digest|@N]. As in skopeo the path ends at the
// first colon, so a name may hold more of them. dir and tarball have a path
// only.
func parsePath(t Transport, s string) (Ref, error) {
	r := Ref{Transport: t, Index: -1}
	if t == Dir || t == Tarball {
		r.Path = s
		return r, checkPath(r)
	}
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		taken, err := r.choose(s[i+1:])
		if err != nil {
			return Ref{}, err
		}
		if taken {
			s = s[:i]
		}
	}
	var named bool
	r.Path, r.Name, named = strings.Cut(s, ":")
	if named && r.Name == "" && r.Index < 0 && r.Digest == "" {
		return Ref{}, fmt.Errorf("%w: empty name", ErrMalformed)
	}
	if t == DockerArchive {
		return r, r.normaliseName()
	}
	return r, checkPath(r)
}

// choose takes what stands behind the last @ if it is an index or a digest.
// What begins like a digest must be one: it is no path and no name.
func (r *Ref) choose(s string) (bool, error) {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		r.Index = int(n)
		return true, nil
	}
	if !strings.HasPrefix(s, "sha256:") && !strings.HasPrefix(s, "sha384:") && !strings.HasPrefix(s, "sha512:") {
		return false, nil
	}
	r.Digest = digest.Digest(s)
	return true, ValidDigest(r.Digest)
}

// normaliseName finishes a docker-archive reference, whose name is a docker
// one with a tag: such archives know no digests.
func (r *Ref) normaliseName() error {
	if r.Digest != "" {
		return fmt.Errorf("%w: a docker-archive has no digests", ErrMalformed)
	}
	if r.Name != "" {
		named, err := parseNamed(Docker, r.Name)
		if err != nil {
			return err
		}
		r.Name = named.StoreName()
	}
	return checkPath(*r)
}

func checkPath(r Ref) error {
	switch {
	case r.Path == "":
		return fmt.Errorf("%w: no path", ErrMalformed)
	case strings.ContainsRune(r.Path+r.Name, 0):
		return fmt.Errorf("%w: NUL byte", ErrMalformed)
	case r.Index >= 0 && r.Name != "":
		return fmt.Errorf("%w: both a name and an index", ErrMalformed)
	}
	return nil
}

// String returns the canonical spelling with its transport; ParseRef of it
// gives r again.
func (r Ref) String() string {
	switch r.Transport {
	case Docker:
		return "docker://" + r.named()
	case Store:
		if r.ID != "" {
			return "store:" + r.ID
		}
		return "store:" + r.named()
	case Containerd:
		return "containerd:" + r.Namespace + "/" + r.named()
	case DockerDaemon:
		return "docker-daemon:" + strings.TrimPrefix(r.named(), "@")
	}
	s := string(r.Transport) + ":" + r.Path
	if r.Name != "" {
		s += ":" + r.Name
	}
	if r.Index >= 0 {
		s += "@" + strconv.Itoa(r.Index)
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// named returns host/repo:tag@digest, as far as there is of it.
func (r Ref) named() string {
	s := r.Repository()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Repository returns "docker.io/library/alpine"; "" for transports with paths
// and for a digest alone.
func (r Ref) Repository() string {
	if r.Repo == "" {
		return ""
	}
	return r.Host + "/" + r.Repo
}

// Familiar returns the short form that a user types: "alpine:3.20",
// "store:alpine:3.20", and String for the rest.
func (r Ref) Familiar() string {
	switch r.Transport {
	case Docker:
		return r.FamiliarName()
	case Store:
		return "store:" + r.FamiliarName()
	case Containerd:
		return "containerd:" + r.Namespace + "/" + r.FamiliarName()
	case DockerDaemon:
		return "docker-daemon:" + strings.TrimPrefix(r.FamiliarName(), "@")
	}
	return r.String()
}

// FamiliarName returns the short form without a transport: "alpine:3.20". It
// is the name itself that has no short form.
func (r Ref) FamiliarName() string {
	if r.ID != "" {
		return r.ID
	}
	named, err := reference.ParseNormalizedNamed(r.named())
	if err != nil { // a digest alone, or a path
		return r.named()
	}
	return reference.FamiliarString(named)
}

// StoreName returns the key under which names are kept:
// "docker.io/library/x:latest", or with "@" and the digest if there is no
// tag. It is "" for what names no repository.
func (r Ref) StoreName() string {
	switch {
	case r.Repo == "":
		return ""
	case r.Tag != "":
		return r.Repository() + ":" + r.Tag
	}
	return r.Repository() + "@" + r.Digest.String()
}

// Reference returns what a registry is asked for: the digest if there is
// one, else the tag.
func (r Ref) Reference() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}
