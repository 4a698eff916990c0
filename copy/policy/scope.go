package policy

import (
	"path"
	"strings"

	"github.com/tocsin/tocsin/manifest"
)

// scopes returns the scopes that cover an image, the most specific first, by
// the rules of containers-policy.json(5): by name where the image has one, as
// in a registry, else by path. The defaults of the transport (scope "") and of
// the policy are not among them. A path must be absolute and clean, because a
// scope that is spelled otherwise than the path would not cover what its author
// meant; that no symlink is in it is the caller's part.
func scopes(r manifest.Ref) ([]string, error) {
	switch {
	case r.Repository() != "":
		return nameScopes(r), nil
	case r.Path != "":
		return pathScopes(r.Path)
	case r.Digest != "": // of the store, without a name
		return nil, nil
	}
	return nil, unsupported("transport %q: an image without a name or a path", r.Transport)
}

// nameScopes: the image itself, its repository, each parent namespace, the
// host with its port, and then wildcards for the host's domains. An image
// addressed by digest has no tag here, even if the reference kept one.
func nameScopes(r manifest.Ref) []string {
	name := r.Repository()
	var out []string
	switch {
	case r.Digest != "":
		out = append(out, name+"@"+r.Digest.String())
	case r.Tag != "":
		out = append(out, name+":"+r.Tag)
	}
	for {
		out = append(out, name)
		i := strings.LastIndexByte(name, '/')
		if i < 0 {
			break
		}
		name = name[:i]
	}
	host, _, _ := strings.Cut(name, ":")
	for {
		_, domain, ok := strings.Cut(host, ".")
		if !ok {
			return out
		}
		out = append(out, "*."+domain)
		host = domain
	}
}

// pathScopes: the path and each directory above it, the root excepted: that
// is what the scope "" is for. An archive from stdin ("-") has no place.
func pathScopes(p string) ([]string, error) {
	if p == "-" {
		return nil, nil
	}
	if err := checkPath(p); err != nil {
		return nil, err
	}
	var out []string
	for ; p != "/"; p = path.Dir(p) {
		out = append(out, p)
	}
	return out, nil
}

func checkPath(p string) error {
	switch {
	case !path.IsAbs(p):
		return malformed("path %.200q is not absolute", p)
	case path.Clean(p) != p:
		return malformed("path %.200q is not in its shortest form %.200q", p, path.Clean(p))
	}
	return nil
}

// checkScope refuses scopes of a policy that could never match, as far as
// that shows. Of a transport that tocsin does not know it knows nothing.
func checkScope(transport, scope string) error {
	if scope == "" {
		return nil
	}
	switch manifest.Transport(transport) {
	case manifest.Docker, manifest.Store, manifest.Containerd, manifest.DockerDaemon:
		rest, _ := strings.CutPrefix(scope, "*.")
		if strings.Contains(rest, "*") || rest != scope && strings.ContainsAny(rest, "/:@") {
			return malformed("scope %.200q: a wildcard is *.DOMAIN", scope)
		}
	case manifest.OCI, manifest.OCIArchive:
		if strings.Contains(scope, ":") {
			return malformed("scope %.200q: it names a path; the names in there have no scopes", scope)
		}
		return checkPathScope(scope)
	case manifest.DockerArchive, manifest.Dir, manifest.Tarball:
		return checkPathScope(scope)
	}
	return nil
}

func checkPathScope(scope string) error {
	if scope == "/" {
		return malformed(`scope "/": write ""`)
	}
	return checkPath(scope)
}
