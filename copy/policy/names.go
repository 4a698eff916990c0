package policy

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// maxTag is the longest tag that registries take, in bytes (distribution
// specification).
const maxTag = 128

// AttachmentTag returns the tag, in the image's own repository, under which
// the sigstore signatures of a manifest lie: <algo>-<hex>.sig. A sha512 digest
// makes it longer than a tag may be: manifest.ErrUnsupported.
func AttachmentTag(d digest.Digest) (string, error) {
	if err := manifest.ValidDigest(d); err != nil {
		return "", fmt.Errorf("signature tag: %w", err)
	}
	tag := d.Algorithm().String() + "-" + d.Encoded() + ".sig"
	if len(tag) > maxTag {
		return "", fmt.Errorf("signature tag for %s: %w", d, unsupported("%d bytes are too long for a tag; sign the sha256 name", len(tag)))
	}
	return tag, nil
}

// LookasidePath returns where the n-th simple signature (from 1) of a manifest
// lies below the base of a lookaside, without a leading slash:
// <repo>@<algo>=<hex>/signature-<n>. A reader counts up to the first that is
// not there, and a writer removes those behind the last it wrote (copy rule 59).
func LookasidePath(r manifest.Ref, d digest.Digest, n int) (string, error) {
	if err := manifest.ValidDigest(d); err != nil {
		return "", fmt.Errorf("lookaside: %w", err)
	}
	if r.Transport != manifest.Docker || r.Repo == "" || n < 1 {
		return "", fmt.Errorf("lookaside for %s: %w", r, malformed("signature %d of something in no registry", n))
	}
	return fmt.Sprintf("%s@%s=%s/signature-%d", r.Repo, d.Algorithm(), d.Encoded(), n), nil
}

// DirSignatureName returns the file of the n-th signature (from 1) in a
// directory of the dir transport: of the top level if instance is "", else of
// that instance (spec/lists-and-store.md L23). Only sha256 goes without its
// name, as in the names of blobs there.
func DirSignatureName(instance digest.Digest, n int) (string, error) {
	if n < 1 {
		return "", fmt.Errorf("signature file: %w", malformed("signature %d", n))
	}
	if instance == "" {
		return fmt.Sprintf("signature-%d", n), nil
	}
	if err := manifest.ValidDigest(instance); err != nil {
		return "", fmt.Errorf("signature file: %w", err)
	}
	prefix := instance.Algorithm().String() + "-"
	if instance.Algorithm() == digest.SHA256 {
		prefix = ""
	}
	return fmt.Sprintf("%s%s.signature-%d", prefix, instance.Encoded(), n), nil
}

// LookasideURL returns the URL of LookasidePath below base, which is a file,
// http or https URL as registries.d has them.
func LookasideURL(base string, r manifest.Ref, d digest.Digest, n int) (*url.URL, error) {
	u, err := lookasideBase(base)
	if err != nil {
		return nil, err
	}
	path, err := LookasidePath(r, d, n)
	if err != nil {
		return nil, err
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/" + path
	return u, nil
}

// lookasideBase refuses URLs to which no path can be added.
func lookasideBase(base string) (*url.URL, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil:
		return nil, fmt.Errorf("lookaside: %w", malformed("%v", err))
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" || u.RawPath != "":
		return nil, fmt.Errorf("lookaside %.200q: %w", u.Redacted(), malformed("a query, fragment or escaped path"))
	case u.Scheme == "file" && u.Host == "" && strings.HasPrefix(u.Path, "/"):
		return u, nil
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return u, nil
	}
	return nil, fmt.Errorf("lookaside %.200q: %w", u.Redacted(), malformed("want file:///PATH, http://HOST or https://HOST"))
}
