package copy

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// situation is all that plan knows: what the source named and what the destination can do.
type situation struct {
	top       document
	list      *manifest.List // nil: top is a single image
	instances []instance     // of list, in its order, or the one image
	digested  digest.Digest  // the digest that the destination's reference asks for, or ""
	flattened *document      // the list that the source named, of which one instance is copied
	strip     bool           // skipped instances leave the list
	toStore   bool
	held                               // the source's blobs
	signed    func(digest.Digest) bool // whether a manifest has signatures that are to be kept; nil: none has
	made      bool                     // top was made here, of an archive's files
	accepts   []string                 // what the destination declares (acceptsOf)
}

// held is which blobs of layers and artifacts a source has as they came.
type held struct {
	encoded bool // all of them; the store has files in place of layers, but for
	whole   map[digest.Digest]bool
}

// instance is one entry of a list: an image, an artifact, or a list with entries of its own.
type instance struct {
	desc     v1.Descriptor     // as the list has it; of a single image made from its manifest
	doc      document          // of one that is skipped, maybe nothing
	image    *manifest.Image   // nil: an artifact or list, which is copied as it is
	blobs    []v1.Descriptor   // of an artifact: its config and layers
	list     *manifest.List    // not nil: a list in the list
	children []instance        // of list, in its order
	schema1  *manifest.Schema1 // not nil: a manifest of schema 1, which is copied as it is
	skipped  bool              // not copied
	absent   bool              // skipped because the source, which may hold a part of a list only, does not have all of it
	download bool              // its foreign layers go with their bytes, as ordinary ones
	why      error             // skipped because of this, which only who describes it takes
}

// topAction says what becomes of the top-level manifest.
type topAction int

const (
	topKeep  topAction = iota + 1 // the original bytes
	topImage                      // the one image's manifest, edited or a variant
	topWrap                       // a new index around one image and its variant
	topList                       // the source's list with edited instances
)

// plan is what run carries out.
type copyPlan struct {
	top    topAction
	layout manifest.Layout
	images []imagePlan
	// optional says that a variant was not asked for by name: without it the copy goes on and says why.
	optional bool
	// forms are the types in which the list at the top is offered, in order; of a single image its plan has them.
	forms []string
	// notes are what the user should know of the plan.
	notes []string
	// keepBlobs says that the store keeps layer blobs besides the files in them.
	keepBlobs bool
	// naming says under which algorithm digests are written.
	naming *naming
	// signatures are those that each manifest gets after it was written; nil: none.
	signatures *carrier
	// referrers go with what they refer to; nil: nobody asked for them.
	referrers *referrals
}

// imagePlan is what happens to one instance.
type imagePlan struct {
	instance
	forms    []string        // the types in which its manifest is offered, in order; nil: as it is
	fixed    bool            // the manifest may not change
	compress Compression     // of layers made anew
	encode   []bool          // by layer: make it anew
	strip    bool            // a sentinel variant becomes plain; its tars are those of its tables of contents
	tars     []digest.Digest // with strip: the digests of those tars, if nobody has to build them; nil otherwise
	plain    bool            // the instance itself is listed; it is copied too, unless it is skipped
	variant  string          // publish a sentinel variant of it, or the variant that it is in another way: its sentinel's type, "" for none
	retar    bool            // its diff_ids become another algorithm's
	added    bool            // a second instance of the image, in another compression
	children []imagePlan     // of a list in the list
}

// edited says that the image gets another manifest.
func (p imagePlan) edited() bool { return p.remade() || p.download }

// remade says that something in the image is made anew.
func (p imagePlan) remade() bool { return p.strip || p.retar || slices.Contains(p.encode, true) }

// changed says that the list that has this entry will have another one.
func (p imagePlan) changed() bool {
	return p.edited() || p.converted() || p.variant != "" || !p.plain || slices.ContainsFunc(p.children, imagePlan.changed)
}

// converted says that the manifest is written in another form than it has.
func (p imagePlan) converted() bool { return len(p.forms) > 0 && p.forms[0] != p.form() }

// form is the type of the manifest, as it was understood.
func (p imagePlan) form() string {
	switch {
	case p.image != nil:
		return p.image.Manifest.MediaType
	case p.list != nil:
		return p.list.MediaType
	}
	return p.doc.mediaType
}

// addsVariant says that a variant is made, here or below.
func (p imagePlan) addsVariant() bool {
	return p.variant != "" || slices.ContainsFunc(p.children, imagePlan.addsVariant)
}

// gone says that nothing of this entry stays in the list.
func (p imagePlan) gone() bool { return !p.plain && p.variant == "" }

// plan decides the whole copy. It returns ErrPreserve when a digest that must stay would change, and ErrUsage when the
// options cannot be had together, before any blob moves.
func plan(s situation, o *Options) (*copyPlan, error) {
	layout, optional, err := layoutOf(o)
	if err != nil {
		return nil, err
	}
	if s.toStore && o.Format != "" {
		return nil, fmt.Errorf("the store keeps manifests as they came, so --format means nothing there: %w", ErrUsage)
	}
	if s.toStore && (o.Compress.Algorithm != "" || o.Sentinel != "" && o.Sentinel != sentinelNone) {
		return nil, fmt.Errorf("the store keeps files, not layers, so neither --compress nor --sentinel means anything there: %w", ErrUsage)
	}
	if o.KeepBlobs && !s.toStore {
		return nil, fmt.Errorf("only the store takes layers apart, so --keep-blobs means nothing elsewhere: %w", ErrUsage)
	}
	if err := checkAdd(s, o); err != nil {
		return nil, err
	}
	reason := cannotModify(s, o)
	if s.flattened != nil && o.Preserve {
		return nil, fmt.Errorf("one image of a list is not the list, but %s: %w", reason, ErrPreserve)
	}
	if err := checkDiffIDs(s, o); err != nil {
		return nil, err
	}
	if layout == "" && o.Sentinel == "" {
		layout = remadeLayout(s, o)
	}
	pl := &planner{s: s, o: o, layout: layout, optional: optional}
	p := &copyPlan{layout: layout, optional: optional, keepBlobs: o.KeepBlobs}
	if p.images, err = pl.list(s.instances, s.list != nil); err != nil {
		return nil, err
	}
	if reason == whySigned && len(o.Signatures.Signers) > 0 && s.list == nil && p.images[0].plain && !p.images[0].edited() {
		reason = "" // the signed image stays as it is, and what is made around it is signed too (S11)
	}
	if reason != "" && optional && slices.ContainsFunc(p.images, imagePlan.addsVariant) {
		// Nobody asked for a variant by name, so keeping digests comes first (S11, S12).
		without := *o
		without.Sentinel = sentinelNone
		if p, err = plan(s, &without); err == nil {
			p.notes = append(p.notes, "no sentinel variant was added, because "+reason)
		}
		return p, err
	}
	p.notes = pl.notes
	if !slices.ContainsFunc(p.images, func(ip imagePlan) bool { return !ip.gone() }) && len(p.images) > 0 {
		return nil, fmt.Errorf("every entry would leave the list, which would create an empty image: %w", ErrUsage)
	}
	if s.list != nil {
		if p.forms, err = formsOf(s, o, imagePlan{instance: instance{doc: s.top}}).list(s.list); err != nil {
			return nil, fmt.Errorf("list %s: %w", s.top.digest, err)
		}
	}
	p.top = planTop(s, p)
	if reason != "" && p.top != topKeep {
		return nil, fmt.Errorf("the manifest would change, but %s: %w", reason, ErrPreserve)
	}
	return p, nil
}

const sentinelNone = "none"

// layoutOf is the layout in which variants are published, "" for none, and whether that was only the default.
func layoutOf(o *Options) (l manifest.Layout, optional bool, err error) {
	switch {
	case o.Sentinel == "" && o.Compress.Algorithm == algoChunked:
		return manifest.LayoutHidden, true, nil
	case (o.Sentinel == "" || o.Sentinel == sentinelNone) && o.SentinelType != "":
		return "", false, fmt.Errorf("--sentinel-type is about the variants that --sentinel asks for, and there are none: %w", ErrUsage)
	case o.Sentinel == "" || o.Sentinel == sentinelNone:
		return "", false, nil
	}
	l, err = manifest.ParseLayout(o.Sentinel)
	if err != nil {
		return "", false, fmt.Errorf("--sentinel is none, hidden, upstream or only: %w: %w", err, ErrUsage)
	}
	switch o.Compress.Algorithm {
	case algoGzip, algoNone:
		return "", false, fmt.Errorf("--sentinel %s needs layers with a table of contents, which --compress %s takes away: %w", l, o.Compress.Algorithm, ErrUsage)
	}
	return l, false, nil
}

func planTop(s situation, p *copyPlan) topAction {
	switch {
	case !slices.ContainsFunc(p.images, imagePlan.changed) && (s.list == nil || p.forms[0] == s.list.MediaType):
		return topKeep
	case s.list != nil:
		return topList
	case p.images[0].variant != "" && p.images[0].plain:
		return topWrap
	}
	return topImage
}

const whySigned = "it is signed, and its signatures would no longer be valid; --remove-signatures copies without them"

// cannotModify is the reason why manifests must stay as they are, or "".
func cannotModify(s situation, o *Options) string {
	switch {
	case o.Preserve:
		return "--preserve-digests was given"
	case s.digested != "":
		return "the destination names a digest"
	case s.signed != nil && s.signed(s.top.digest):
		return whySigned
	}
	return ""
}

// leaves are the images and artifacts that are copied, of all lists, each once however often it is listed (rule 13).
func leaves(images []imagePlan) []imagePlan {
	var out []imagePlan
	type leaf struct {
		digest digest.Digest
		added  Compression
	}
	seen := make(map[leaf]bool)
	var walk func([]imagePlan)
	walk = func(images []imagePlan) {
		for _, ip := range images {
			l := leaf{digest: ip.doc.digest}
			if ip.added {
				l.added = ip.compress
			}
			switch {
			case ip.skipped || ip.gone() || seen[l]:
			case ip.list != nil:
				walk(ip.children)
			default:
				seen[l] = true
				out = append(out, ip)
			}
		}
	}
	walk(images)
	return out
}
