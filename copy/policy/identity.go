package policy

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/tocsin/tocsin/manifest"
)

// The ways in which the name in a signature may match the image's, as
// policy.json spells them.
const (
	matchExact              = "matchExact"
	matchRepoDigestOrExact  = "matchRepoDigestOrExact"
	matchRepository         = "matchRepository"
	matchExactReference     = "exactReference"
	matchExactRepository    = "exactRepository"
	matchRemapIdentity      = "remapIdentity"
	keyDockerReference      = "dockerReference"
	keyDockerRepository     = "dockerRepository"
	keyPrefix               = "prefix"
	keySignedPrefix         = "signedPrefix"
	defaultIdentityMatching = matchRepoDigestOrExact
)

// identityRule says which names a signature may carry.
type identityRule struct {
	kind         string
	want         reference.Named // exactReference, exactRepository
	prefix       string          // remapIdentity
	signedPrefix string
}

// parseIdentityRule reads a signedIdentity.
func parseIdentityRule(o object) (identityRule, error) {
	kind, err := o.text("type")
	if err != nil {
		return identityRule{}, err
	}
	rule := identityRule{kind: kind}
	switch kind {
	case matchExact, matchRepoDigestOrExact, matchRepository:
		err = o.only("type")
	case matchExactReference:
		rule.want, err = o.reference(keyDockerReference)
		if err == nil && reference.IsNameOnly(rule.want) {
			err = malformed("%s %q has neither tag nor digest", keyDockerReference, rule.want)
		}
	case matchExactRepository:
		rule.want, err = o.reference(keyDockerRepository)
		if err == nil && !reference.IsNameOnly(rule.want) {
			err = malformed("%s %q has a tag or digest", keyDockerRepository, rule.want)
		}
	case matchRemapIdentity:
		rule.prefix, rule.signedPrefix, err = o.prefixes()
	default:
		err = malformed("unknown type %.100q", kind)
	}
	if err != nil {
		return identityRule{}, fmt.Errorf("%.100s: %w", kind, err)
	}
	return rule, nil
}

// reference reads the one value of an identity besides its type.
func (o object) reference(key string) (reference.Named, error) {
	if err := o.exactly("type", key); err != nil {
		return nil, err
	}
	s, err := o.text(key)
	if err != nil {
		return nil, err
	}
	return parseName(s)
}

func (o object) prefixes() (prefix, signed string, err error) {
	if err := o.exactly("type", keyPrefix, keySignedPrefix); err != nil {
		return "", "", err
	}
	if prefix, err = o.prefix(keyPrefix); err != nil {
		return "", "", err
	}
	signed, err = o.prefix(keySignedPrefix)
	return prefix, signed, err
}

// wholeHost matches a host[:port] and nothing more.
var wholeHost = regexp.MustCompile(`^(?:` + reference.DomainRegexp.String() + `)$`)

// prefix reads a host[:port] or a name in its full form.
func (o object) prefix(key string) (string, error) {
	s, err := o.text(key)
	if err != nil {
		return "", err
	}
	if wholeHost.MatchString(s) {
		return s, nil
	}
	// A namespace need not be a name itself ("docker.io/library"), but something
	// in it is, and already has its full form.
	inside := s + "/x"
	if named, err := parseName(inside); err != nil || named.String() != inside {
		return "", malformed("%s: %.200q is no host[:port] and no namespace or repository in its full form", key, s)
	}
	return s, nil
}

// maxName bounds a reference in a signature or policy, in bytes; the
// reference grammar has 255 for the name, and a digest needs 136.
const maxName = 1 << 10

// parseName reads a docker reference, completing it as docker does.
func parseName(s string) (reference.Named, error) {
	if len(s) > maxName {
		return nil, malformed("a reference of %d bytes", len(s))
	}
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return nil, malformed("reference %q: %v", s, err)
	}
	return named, nil
}

// imageName returns the docker name of an image, nil if its place gives it
// none. A digest beats a tag (see manifest.Ref).
func imageName(r manifest.Ref) (reference.Named, error) {
	switch {
	case r.Transport == manifest.DockerArchive && r.Name != "":
		return parseName(r.Name)
	case r.Repository() == "":
		return nil, nil
	case r.Digest != "":
		return parseName(r.Repository() + "@" + r.Digest.String())
	case r.Tag != "":
		return parseName(r.Repository() + ":" + r.Tag)
	}
	return parseName(r.Repository())
}

// check returns nil if a signature for the name signed is one for image. That
// the digest in an image's name leads to the manifest is not decided here.
func (rule identityRule) check(r manifest.Ref, signed string) error {
	claim, err := parseName(signed)
	if err != nil {
		return err
	}
	image, err := imageName(r)
	if err != nil {
		return err
	}
	ok := false
	switch rule.kind {
	case matchExactReference:
		ok = sameReference(rule.want, claim)
	case matchExactRepository:
		ok = claim.Name() == rule.want.Name()
	default:
		if image == nil {
			return unsupported("%s: an image in %s has no docker name; use %s or %s", rule.kind, r.Transport, matchExactReference, matchExactRepository)
		}
		if ok, err = rule.matchImage(image, claim); err != nil {
			return err
		}
	}
	if !ok {
		return fmt.Errorf("%s: signed for %s", rule.kind, claim)
	}
	return nil
}

// matchImage decides the rules that compare with the image's own name.
func (rule identityRule) matchImage(image, claim reference.Named) (bool, error) {
	switch rule.kind {
	case matchExact:
		return sameReference(image, claim), nil
	case matchRepository:
		return claim.Name() == image.Name(), nil
	case matchRepoDigestOrExact:
		return repoDigestOrExact(image, claim), nil
	case matchRemapIdentity:
		mapped, err := rule.remap(image)
		if err != nil {
			return false, err
		}
		return repoDigestOrExact(mapped, claim), nil
	}
	return false, nil
}

// sameReference: both say a tag or a digest, and the same.
func sameReference(a, b reference.Named) bool {
	return !reference.IsNameOnly(a) && !reference.IsNameOnly(b) && a.String() == b.String()
}

// repoDigestOrExact: who asks for a tag wants a signature for that tag; who
// asks for a digest has named the bytes, and the repository must be right.
func repoDigestOrExact(image, claim reference.Named) bool {
	if reference.IsNameOnly(claim) {
		return false
	}
	if _, tagged := image.(reference.Tagged); tagged {
		return image.String() == claim.String()
	}
	_, digested := image.(reference.Digested)
	return digested && image.Name() == claim.Name()
}

// remap replaces the prefix of an image's name. Only whole components match:
// "example.com/ns" is no prefix of "example.com/nsx", and "example.com" none
// of "example.com:5000/ns".
func (rule identityRule) remap(image reference.Named) (reference.Named, error) {
	rest, ok := strings.CutPrefix(image.Name(), rule.prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return image, nil
	}
	s := rule.signedPrefix + strings.TrimPrefix(image.String(), rule.prefix)
	mapped, err := reference.ParseNamed(s)
	if err != nil {
		return nil, malformed("%s makes %.200q of %s: %v", matchRemapIdentity, s, image, err)
	}
	return mapped, nil
}
