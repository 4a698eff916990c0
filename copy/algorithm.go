package copy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/manifest"
)

// wish is what the options say of digest algorithms.
func (o *Options) wish() manifest.DigestWish {
	if o.Digests == nil {
		return manifest.NoWish()
	}
	return *o.Digests
}

// wantedAlgorithm is the algorithm that w names, or "".
func wantedAlgorithm(w manifest.DigestWish) digest.Algorithm {
	if alg := w.Must(); alg != "" {
		return alg
	}
	return w.Preferred()
}

// ofOther says that a layer's table of contents, or the layer itself, is named in another algorithm than everything must
// be. A preference makes no layer anew.
func (o *Options) ofOther(l manifest.Layer) bool {
	must := o.wish().Must()
	return must != "" && l.TOC != nil && (l.TOC.Digest.Algorithm() != must || l.Digest.Algorithm() != must)
}

// recodes says that a layer has to be made anew for its table of contents to name files in another algorithm. It stays
// zstd:chunked unless another form was asked for.
func (pl *planner) recodes(p *imagePlan, l manifest.Layer) bool {
	if !pl.o.ofOther(l) || reasonFor(p, pl.s, pl.o) != "" {
		return false
	}
	if p.compress.Algorithm == "" {
		p.compress.Algorithm = algoChunked
	}
	return true
}

// remadeLayout is the layout of variants that have to be made again because of their digests: the one that they have.
// "" if there are none.
func remadeLayout(s situation, o *Options) manifest.Layout {
	for _, in := range s.instances {
		switch {
		case in.skipped || in.image == nil || !in.image.Sentinel() || !slices.ContainsFunc(in.image.Layers, o.ofOther):
		case s.list == nil:
			return manifest.LayoutOnly
		case manifest.Hidden(in.desc):
			return manifest.LayoutHidden
		case in.image.ChainBound:
			return manifest.LayoutOnly
		default:
			return manifest.LayoutUpstream
		}
	}
	return ""
}

// naming says under which algorithm the digests of a copy are written: alg, or that of each when alg is "", but for
// what is kept under the digest that it has.
type naming struct {
	alg  digest.Algorithm
	kept map[digest.Digest]bool
	used map[digest.Algorithm]bool
	// changes says that something gets another digest only because of its algorithm.
	changes bool
}

// algorithmOf is that of a layer that is made anew. What is made anew is not fixed.
func (n *naming) algorithmOf(l manifest.Layer) digest.Algorithm {
	if n.alg != "" {
		return n.alg
	}
	return l.Digest.Algorithm()
}

// namingOf decides the algorithm of everything that a plan writes. It is pure. ErrPreserve when something must be of an
// algorithm and cannot change, with both reasons.
func namingOf(s situation, p *copyPlan, o *Options) (*naming, error) {
	n := &naming{alg: wantedAlgorithm(o.wish()), kept: make(map[digest.Digest]bool), used: make(map[digest.Algorithm]bool)}
	if n.alg == digest.SHA384 && slices.ContainsFunc(p.images, imagePlan.hasVariant) {
		return nil, fmt.Errorf("a sentinel has digests of sha256 and sha512 only, so there is no variant with %s: %w", n.alg, ErrUsage)
	}
	// Where variants are the sentinel's name is that of the layers, and the config repeats it.
	n.kept[manifest.SentinelDigest], n.kept[manifest.SentinelDigest512] = true, true
	if n.alg != "" && p.top != topKeep {
		n.used[n.alg] = true
	}
	top := chooser{n, o.wish(), reasonFor(nil, s, o)}
	if s.list != nil {
		if err := top.choose(s.top.digest); err != nil {
			return nil, fmt.Errorf("list %s: %w", s.top.digest, err)
		}
	}
	return n, n.add(p.images, s, o)
}

func (p imagePlan) hasVariant() bool {
	return p.variant != "" || slices.ContainsFunc(p.children, imagePlan.hasVariant)
}

func (n *naming) add(images []imagePlan, s situation, o *Options) error {
	for _, ip := range images {
		if ip.gone() {
			continue
		}
		err := n.addOne(ip, chooser{n, o.wish(), reasonFor(&ip, s, o)})
		if err == nil {
			err = n.add(ip.children, s, o)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", ip.desc.Digest, err)
		}
	}
	return nil
}

func (n *naming) addOne(ip imagePlan, c chooser) error {
	if ip.skipped {
		return c.choose(ip.desc.Digest)
	}
	if err := c.choose(ip.doc.digest); err != nil {
		return err
	}
	for _, d := range ip.blobs {
		if err := c.choose(d.Digest); err != nil {
			return err
		}
	}
	if ip.image == nil {
		return nil
	}
	if err := c.choose(ip.image.Manifest.Config.Digest); err != nil {
		return err
	}
	for i, l := range ip.image.Layers {
		var err error
		switch {
		case ip.encode[i]:
			c.used[c.algorithmOf(l)] = true
		case l.Binding != manifest.BindSentinel:
			err = c.layer(l)
		case !ip.strip:
			bound := c
			bound.fixed = "the config of a sentinel variant repeats it"
			err = bound.choose(l.Digest)
		}
		if err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

// addReferrers refuses referrers that cannot be of the algorithm that everything must be: to change them is up to who
// wrote them. Those of a manifest that gets another digest are not copied.
func (n *naming) addReferrers(refs *referrals, o *Options) error {
	if refs == nil {
		return nil
	}
	for ref, of := range refs.all() {
		c := chooser{n, o.wish(), "it refers to " + of.String()}
		for _, doc := range append(ref.below, ref.doc) {
			if err := c.choose(doc.digest); err != nil {
				return fmt.Errorf("referrer %s: %w", doc.digest, err)
			}
		}
		for _, d := range ref.blobs {
			if err := c.choose(d.Digest); err != nil {
				return fmt.Errorf("referrer %s: %w", ref.doc.digest, err)
			}
		}
	}
	return nil
}

// chooser decides about the digests of one instance.
type chooser struct {
	*naming
	wish  manifest.DigestWish
	fixed string // why they cannot change, or ""
}

// choose decides about a digest that something has already.
func (c chooser) choose(d digest.Digest) error {
	alg, err := c.wish.Choose(manifest.Situation{Existing: d, Fixed: c.fixed})
	if errors.Is(err, manifest.ErrFixed) {
		err = fmt.Errorf("%w: %w", err, ErrPreserve)
	}
	if err != nil {
		return err
	}
	if alg == d.Algorithm() {
		c.kept[d] = true
	} else {
		c.changes = true
	}
	c.used[alg] = true
	return nil
}

// layer decides about a layer that stays as it is. Its table of contents is as fixed as the layer is, and one algorithm
// names all of a layer.
func (c chooser) layer(l manifest.Layer) error {
	if l.TOC != nil {
		if c.fixed == "" && c.wish.Must() == "" && l.TOC.Digest.Algorithm() != c.wish.Preferred() {
			c.fixed = "its table of contents is of that algorithm"
		}
		if err := c.choose(l.TOC.Digest); err != nil {
			return fmt.Errorf("table of contents: %w", err)
		}
	}
	return c.choose(l.Digest)
}

// reasonFor is why an instance's digests cannot change, or "". Without an instance it is the list at the top that is
// asked about.
func reasonFor(ip *imagePlan, s situation, o *Options) string {
	if reason := cannotModify(s, o); reason != "" {
		return reason
	}
	switch {
	case ip != nil && s.signed != nil && s.signed(ip.doc.digest):
		return whySigned
	case s.toStore:
		return "the store takes images as they are; a copy to oci: can change it first"
	case ip == nil || ip.list != nil && !ip.skipped:
		return ""
	case ip.skipped:
		return "it is not copied and its entry stays in the list; --index strip removes that"
	}
	return ip.bound(o)
}

// bound is why an instance's digests cannot become others without its meaning, or "".
func (p imagePlan) bound(o *Options) string {
	var m *manifest.Manifest
	if p.image != nil {
		m = p.image.Manifest
	} else {
		var err error
		if m, err = manifest.ParseManifest(p.doc.raw, p.doc.mediaType); err != nil {
			return "a manifest of its type is only copied as it is"
		}
	}
	if m.Subject != nil && m.Subject.Digest.Algorithm() != wantedAlgorithm(o.wish()) {
		return "it names its subject as " + m.Subject.Digest.String()
	}
	return ""
}

// settle plans a copy and asks the destination whether it can hold the digests that are planned, before a byte moves
// (D1, D17). What was only preferred and cannot be is no preference any more; else it is an error.
func settle(ctx context.Context, env *Env, dst manifest.Ref, s situation, o *Options) (*copyPlan, *Options, error) {
	p, err := plan(s, o)
	if err != nil {
		return nil, o, err
	}
	if p.naming, err = namingOf(s, p, o); err != nil {
		return nil, o, err
	}
	for alg := range p.naming.used {
		refused := holdsDigests(ctx, env, dst, alg)
		if refused == nil {
			continue
		}
		if !errors.Is(refused, manifest.ErrUnsupported) {
			return nil, o, refused
		}
		if o.wish().Must() != "" || o.wish().Preferred() != alg {
			return nil, o, fmt.Errorf("%s digests: %w: %w", alg, refused, ErrPreserve)
		}
		without := *o
		tars, err := manifest.NoWish().Tars(o.wish().TarAlgorithm())
		if err != nil {
			return nil, o, err
		}
		without.Digests = &tars
		p, settled, err := settle(ctx, env, dst, s, &without)
		if err == nil {
			p.notes = append(p.notes, fmt.Sprintf("digests did not become %s: %v", alg, refused))
		}
		return p, settled, err
	}
	return p, o, nil
}

// holdsDigests asks a destination whether it keeps what has digests of alg, blobs and manifests alike.
// manifest.ErrUnsupported if it does not. A registry and containerd have to be asked; a dry run does not, because that
// writes.
func holdsDigests(ctx context.Context, env *Env, dst manifest.Ref, alg digest.Algorithm) error {
	switch dst.Transport {
	case manifest.DockerArchive, manifest.DockerDaemon:
		if alg != digest.SHA256 {
			return fmt.Errorf("%s knows sha256 only; --digest-algorithm sha256 writes that: %w", dst.Transport, manifest.ErrUnsupported)
		}
	case manifest.Containerd:
		if env.dry != nil {
			return nil
		}
		err := env.Containerd.Namespace(dst.Namespace).HoldsDigests(ctx, alg)
		if errors.Is(err, containerd.ErrAlgorithm) {
			err = fmt.Errorf("%w; --digest-algorithm sha256 writes what every containerd keeps: %w", err, manifest.ErrUnsupported)
		}
		return err
	case manifest.Docker:
		if env.dry != nil {
			return nil
		}
		if err := env.Registry.Repo(dst.Host, dst.Repo).HoldsDigests(ctx, alg); err != nil {
			return fmt.Errorf("%w; --digest-algorithm sha256 writes what every registry keeps", err)
		}
	}
	return nil
}

// nameAs gives what the source named a name of another algorithm, if it is a right one: a destination may name the same
// bytes by another digest than the source did.
func (s *situation) nameAs(d digest.Digest) {
	if d == "" || s.top.digest.Algorithm() == d.Algorithm() || d != d.Algorithm().FromBytes(s.top.raw) {
		return
	}
	s.top.digest = d
	if s.list == nil && len(s.instances) == 1 {
		s.instances[0].doc.digest = d
	}
}

// renames says that something gets a digest of another algorithm.
func (n *naming) renames(d digest.Digest) bool {
	return n.alg != "" && !n.kept[d] && d.Algorithm() != n.alg
}

// edit adds to why the top-level manifest changes that digests do.
func (n *naming) edit(why string) string {
	if n == nil || !n.changes { // nothing was settled
		return why
	}
	return strings.TrimPrefix(why+", and digests become "+n.alg.String(), ", and ")
}

// editOf is edit for one image.
func (n *naming) editOf(why string, ip imagePlan) string {
	if n == nil || !n.renames(ip.doc.digest) {
		return why
	}
	return n.edit(why)
}
