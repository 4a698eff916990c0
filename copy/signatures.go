package copy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/manifest"
)

// Signing says what becomes of signatures, and of what else is said about a manifest. The zero value carries the
// signatures that are found, no referrers, and makes none.
type Signing struct {
	// Remove leaves the source's signatures behind, those of the list and of instances. The
	// destination keeps none either, but for attachments in a registry, to which others add as well.
	Remove bool
	// RemoveList leaves the signatures of the list itself behind, and keeps those of its instances. A copy of a single
	// image is ErrUsage then. Remove includes it.
	RemoveList bool
	// Look looks for signatures in registries also where neither the policy nor registries.d says that there are any.
	Look bool
	// Referrers carries the OCI referrers of everything that is copied under its own digest, and theirs. Where the
	// destination has no place for those that there are the error is ErrUsage.
	Referrers bool
	// Signers each sign every manifest that is written, and the list.
	Signers []Signer
	// Identity is the name that is signed; "" is the destination's.
	Identity string
}

// Signer makes signatures of one format (see policy.NewOpenPGPSigner and policy.NewKeySigner). It is used by several
// goroutines.
type Signer interface {
	Sign(policy.Claim) (policy.Signature, error)
	// Made reports whether a signature is this signer's of that claim already, whatever time it says. Such a one is kept
	// and none is made beside it.
	Made(policy.Signature, policy.Claim) bool
}

// maxSignatures bounds the signatures of one manifest.
const maxSignatures = 128

// subject is the manifest or list that signatures are about, and whether it is what the reference names.
type subject struct {
	digest digest.Digest
	top    bool
}

// lookFor are the formats that somebody asked to look for.
type lookFor struct{ simple, sigstore bool }

// signedSource is a source that may keep signatures beside its manifests.
type signedSource interface {
	// signatures are those of one manifest in their order; none is no error. They are not verified.
	signatures(ctx context.Context, of subject, want lookFor) ([]policy.Signature, error)
}

// signedDestination is a destination that can keep signatures.
type signedDestination interface {
	// holds is nil if signatures of that format can be kept for manifests with digests like these.
	holds(context.Context, policy.Format, []digest.Digest) error
	// putSignatures makes these the signatures of a manifest that is there. Places that others write to at the same time
	// only add.
	putSignatures(ctx context.Context, of subject, sigs []policy.Signature) error
}

// carrier knows the signatures of every manifest that a copy writes: those it had, and new ones.
type carrier struct {
	options Signing
	from    *judged
	dst     manifest.Ref
	found   map[digest.Digest][]policy.Signature // without those that are removed
	unsaid  digest.Digest                        // the list whose signatures are removed, or ""
	now     time.Time

	mu   sync.Mutex
	made map[digest.Digest][]policy.Signature
}

func newCarrier(j *judged, dst manifest.Ref, s situation, o Signing) (*carrier, error) {
	c := &carrier{options: o, from: j, dst: dst, now: time.Now(), made: make(map[digest.Digest][]policy.Signature)}
	if o.Remove {
		return c, nil
	}
	c.found = j.found
	if o.RemoveList {
		if s.list == nil {
			return nil, fmt.Errorf("%s is copied as a single image, so there is no list whose signatures --remove-list-signatures could leave behind: %w", s.top.digest, ErrUsage)
		}
		c.unsaid = s.top.digest
		c.found = maps.Clone(j.found)
		delete(c.found, c.unsaid)
	}
	return c, nil
}

// removes reports whether what there is of signatures of a manifest goes.
func (c *carrier) removes(d digest.Digest) bool { return c.options.Remove || d == c.unsaid }

// signed reports whether a manifest of the source has signatures that are to be kept.
func (c *carrier) signed(d digest.Digest) bool { return len(c.found[d]) > 0 }

// fits refuses what cannot be signed or kept, before a blob moves (L20, rules 23 and 57).
func (c *carrier) fits(ctx context.Context, s situation, n *naming) error {
	formats := make(map[policy.Format][]digest.Digest)
	all := append(subjects(s.instances), s.top.digest)
	for _, d := range all {
		for _, sig := range c.found[d] {
			formats[sig.Format()] = append(formats[sig.Format()], d)
		}
	}
	fresh, err := c.fresh(s.top.digest)
	if err != nil {
		return err
	}
	if n.alg != "" {
		all = []digest.Digest{n.alg.FromString("")} // like those that are signed
	}
	for _, sig := range fresh {
		formats[sig.Format()] = append(formats[sig.Format()], all...)
	}
	if len(formats) == 0 || s.toStore { // the store keeps everything
		return nil
	}
	var holder signedDestination
	switch c.dst.Transport {
	case manifest.Docker:
		holder = newDockerTo(c.from.env, c.dst)
	case manifest.Dir:
		holder = &dir{}
	default:
		return fmt.Errorf("%s can keep no signatures, and --remove-signatures leaves those of the source behind: %w", c.dst, ErrUsage)
	}
	for f, of := range formats {
		if err := holder.holds(ctx, f, of); err != nil {
			return fmt.Errorf("%s signatures: %w", f, err)
		}
	}
	return nil
}

// fresh signs a digest with every signer that has not signed it yet, once however often it is asked.
func (c *carrier) fresh(d digest.Digest) ([]policy.Signature, error) {
	if len(c.options.Signers) == 0 {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if sigs, ok := c.made[d]; ok {
		return sigs, nil
	}
	claim, err := policy.NewClaim(c.dst, c.options.Identity, d, c.now)
	if err != nil {
		return nil, errors.Join(err, ErrUsage)
	}
	var out []policy.Signature
	for _, s := range c.options.Signers {
		if slices.ContainsFunc(c.found[d], func(sig policy.Signature) bool { return s.Made(sig, claim) }) {
			continue
		}
		sig, err := s.Sign(claim)
		if err != nil {
			return nil, fmt.Errorf("sign %s: %w", d, err)
		}
		out = append(out, sig)
	}
	c.made[d] = out
	return out, nil
}

// of are all signatures of a manifest that was written, old ones first (rules 57 and 58).
func (c *carrier) of(d digest.Digest) ([]policy.Signature, error) {
	fresh, err := c.fresh(d)
	return slices.Concat(c.found[d], fresh), err
}

// put gives a manifest that the destination has its signatures.
func (c *carrier) put(ctx context.Context, to destination, of subject) error {
	of.digest = digestAt(to, of.digest) // which is what is signed
	holder, ok := bare(to).(signedDestination)
	if c == nil || !ok {
		return nil
	}
	sigs, err := c.of(of.digest)
	if err != nil || len(sigs) == 0 && !c.removes(of.digest) {
		return err
	}
	if err := holder.putSignatures(ctx, of, sigs); err != nil {
		return fmt.Errorf("signatures of %s: %w", of.digest, err)
	}
	return nil
}

// invalidated refuses a plan that would change a manifest whose signatures are kept (rules 19 and 21, L17). The list and
// each instance are looked at alone; cannotModify knows of the top.
func (c *carrier) invalidated(images []imagePlan) error {
	for _, ip := range images {
		if ip.skipped || ip.added {
			continue
		}
		// A variant beside an image leaves it as it is, but not the list that both are in.
		if c.signed(ip.doc.digest) && (ip.edited() || ip.converted() || ip.gone() || !ip.plain && !isVariant(ip.instance) || ip.list != nil && ip.changed()) {
			return c.keeps(ip.doc.digest)
		}
		if err := c.invalidated(ip.children); err != nil {
			return err
		}
	}
	return nil
}

func (c *carrier) keeps(d digest.Digest) error {
	return fmt.Errorf("%s would change, but it is signed, and its signatures would no longer be valid; --remove-signatures copies without them: %w", d, ErrPreserve)
}

// subjects are the manifests and lists that are copied below the top.
func subjects(instances []instance) (out []digest.Digest) {
	for _, in := range instances {
		if !in.skipped {
			out = append(append(out, in.doc.digest), subjects(in.children)...)
		}
	}
	return out
}

// anyCopied reports whether some instance of these is copied, in whichever list.
func anyCopied(instances []instance) bool {
	return slices.ContainsFunc(instances, func(in instance) bool {
		switch {
		case in.skipped:
			return false
		case in.list != nil:
			return anyCopied(in.children)
		}
		return true
	})
}

// parseSignatures reads kept blobs in their order.
func parseSignatures(blobs [][]byte) ([]policy.Signature, error) {
	var out []policy.Signature
	for i, raw := range blobs {
		sig, err := policy.ParseSignature(raw)
		if err != nil {
			return nil, fmt.Errorf("signature %d: %w", i+1, err)
		}
		out = append(out, sig)
	}
	return out, nil
}
