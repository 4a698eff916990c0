package policy

import (
	"errors"
	"fmt"
	"time"

	"github.com/tocsin/tocsin/manifest"
)

// Image is what a policy is asked about: bytes that came from Ref and call
// themselves a manifest (or a list, when no instance of it is copied), with
// the signatures that lie beside these very bytes.
//
// If Ref carries a digest, the caller has compared Manifest with it, or with
// what the list of that digest says. If Ref has a path, it is absolute and
// free of symlinks.
type Image struct {
	Ref        manifest.Ref
	Manifest   []byte
	Signatures []Signature
}

// Options are what a check needs from outside. nil works for policies whose
// keys are all inline.
type Options struct {
	// ReadFile returns a key file of the policy. nil: such keys are ErrNoKey.
	ReadFile func(path string) ([]byte, error)
	// Now is when signatures and keys have to be valid; zero means the clock.
	Now time.Time
}

func (o *Options) now() time.Time {
	if o == nil || o.Now.IsZero() {
		return time.Now()
	}
	return o.Now
}

func (o *Options) readFile(path string) ([]byte, error) {
	if o == nil || o.ReadFile == nil {
		return nil, fmt.Errorf("key file %s: %w: nothing to read files with", path, ErrNoKey)
	}
	raw, err := o.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w: %w", path, ErrNoKey, err)
	}
	return raw, nil
}

// Check returns nil if the policy lets the image be used, and then a nil
// policy was asked or every requirement holds. Every other outcome is
// ErrRejected, with the reason of each requirement that does not hold; there
// is no third (copy rule 14). Manifest is hashed and never parsed.
func (p *Policy) Check(im Image, o *Options) error {
	if p == nil {
		return nil
	}
	reqs, where, err := p.find(im.Ref)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", im.Ref, ErrRejected, err)
	}
	var failed reasons
	for _, req := range reqs {
		if err := req.check(im, o); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", req.kind, err))
		}
	}
	if len(failed) > 0 || len(reqs) == 0 {
		return fmt.Errorf("%s: %w (%s): %w", im.Ref, ErrRejected, where, failed)
	}
	return nil
}

// errRule is why the requirement "reject" fails.
var errRule = errors.New("the policy says so")

// check returns nil only if the requirement holds.
func (r requirement) check(im Image, o *Options) error {
	switch {
	case r.cannot != "":
		return unsupported("%s", r.cannot)
	case r.kind == acceptAnything:
		return nil
	case r.kind == signedBy:
		return r.checkSigned(im, FormatSimple, o)
	case r.kind == sigstoreSigned:
		return r.checkSigned(im, FormatSigstore, o)
	}
	return errRule
}

// checkSigned wants one signature of the format that the keys made, for these
// bytes, under a name that the identity rule takes.
func (r requirement) checkSigned(im Image, format Format, o *Options) error {
	verify, err := r.keys.load(format, o)
	if err != nil {
		return err
	}
	var failed reasons
	for i, sig := range im.Signatures {
		if sig.Format() != format {
			continue
		}
		err := r.checkOne(im, sig, verify)
		if err == nil {
			return nil
		}
		failed = append(failed, fmt.Errorf("signature %d: %w", i+1, err))
	}
	if len(failed) == 0 {
		return fmt.Errorf("no %s signature (%d of other kinds)", format, len(im.Signatures))
	}
	return failed
}

func (r requirement) checkOne(im Image, sig Signature, verify verifier) error {
	claim, err := verify(sig)
	if err != nil {
		return err
	}
	if _, err := manifest.Covered(im.Manifest, claim.Digest); err != nil {
		return fmt.Errorf("signed is another manifest: %w", err)
	}
	return r.identity.check(im.Ref, claim.Reference)
}

// verifier returns what a signature claims if one of some keys made it.
type verifier func(Signature) (Claim, error)

// load reads the keys of a requirement.
func (k keySource) load(format Format, o *Options) (verifier, error) {
	raws := k.inline
	for _, path := range k.paths {
		raw, err := o.readFile(path)
		if err != nil {
			return nil, err
		}
		raws = append(raws[:len(raws):len(raws)], raw)
	}
	if format == FormatSimple {
		ring, err := ParseKeyRing(raws...)
		if err != nil {
			return nil, err
		}
		now := o.now()
		return func(s Signature) (Claim, error) { return ring.Verify(s, now) }, nil
	}
	keys := make([]*PublicKey, len(raws))
	for i, raw := range raws {
		key, err := ParsePublicKey(raw)
		if err != nil {
			return nil, err
		}
		keys[i] = key
	}
	return func(s Signature) (Claim, error) { return verifyAny(keys, s) }, nil
}

// verifyAny takes the first key that made the signature.
func verifyAny(keys []*PublicKey, s Signature) (Claim, error) {
	var failed reasons
	for _, key := range keys {
		claim, err := key.Verify(s)
		if err == nil {
			return claim, nil
		}
		failed = append(failed, err)
	}
	return Claim{}, failed
}
