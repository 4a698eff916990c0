package copy

import (
	"fmt"

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
	flattened bool           // the source named a list, of which one instance is copied
	toStore   bool
	encoded   bool // the source has the layers as blobs; the store has only their files
}

// instance is one manifest with its place in the list.
type instance struct {
	desc  v1.Descriptor // as the list has it; of a single image made from its manifest
	doc   document
	image *manifest.Image // nil: an artifact, which is copied as it is
	blobs []v1.Descriptor // of an artifact: its config and layers
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
}

// imagePlan is what happens to one instance.
type imagePlan struct {
	instance
	encode  []bool // by layer: make it anew in the asked compression
	plain   bool   // publish the instance itself
	variant bool   // publish a sentinel variant of it
}

func (p imagePlan) edited() bool {
	for _, e := range p.encode {
		if e {
			return true
		}
	}
	return false
}

// plan decides the whole copy. It returns ErrPreserve when a digest that must stay would change, and ErrUsage when the
// options cannot be had together, before any blob moves.
func plan(s situation, o *Options) (*copyPlan, error) {
	layout, optional, err := layoutOf(o)
	if err != nil {
		return nil, err
	}
	if s.toStore && (o.Compress.Algorithm != "" || o.Sentinel != "" && o.Sentinel != sentinelNone) {
		return nil, fmt.Errorf("the store keeps files, not layers, so neither --compress nor --sentinel means anything there: %w", ErrUsage)
	}
	reason := cannotModify(s, o)
	if reason != "" && optional {
		layout = "" // nobody asked for a variant by name, so keeping digests comes first (S12)
	}
	if s.flattened && o.Preserve {
		return nil, fmt.Errorf("one image of a list is not the list, but %s: %w", reason, ErrPreserve)
	}
	p := &copyPlan{layout: layout, optional: optional}
	served := variantPlatforms(s.instances)
	for _, in := range s.instances {
		ip, err := planImage(in, s, o, layout, served)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.doc.digest, err)
		}
		p.images = append(p.images, ip)
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
	switch o.Sentinel {
	case "":
		if o.Compress.Algorithm == algoChunked {
			return manifest.LayoutHidden, true, nil
		}
		return "", false, nil
	case sentinelNone:
		return "", false, nil
	}
	l, err = manifest.ParseLayout(o.Sentinel)
	if err != nil {
		return "", false, fmt.Errorf("--sentinel is none, hidden, upstream or only: %w: %w", err, ErrUsage)
	}
	return l, false, nil
}

// variantPlatforms is the set of platforms that have a variant already, so that none gets a second one (S10).
func variantPlatforms(instances []instance) map[string]bool {
	served := make(map[string]bool)
	for _, in := range instances {
		if p, ok := manifest.VariantPlatform(in.desc); ok {
			served[manifest.FormatPlatform(p)] = true
		}
	}
	return served
}

func planImage(in instance, s situation, o *Options, layout manifest.Layout, served map[string]bool) (imagePlan, error) {
	p := imagePlan{instance: in, plain: true}
	if in.image == nil {
		p.plain = layout != manifest.LayoutOnly
		return p, nil
	}
	chunkable := true
	for _, l := range in.image.Layers {
		encode := encodeLayer(l, o.Compress, s.encoded || s.toStore)
		p.encode = append(p.encode, encode)
		if !encode && l.Binding != manifest.BindSentinel && !l.Provable() {
			chunkable = false
		}
	}
	if err := canEncode(in.image, p, s, o); err != nil {
		return p, err
	}
	if layout == "" || in.image.Sentinel() || served[manifest.FormatPlatform(in.image.Config.Platform)] {
		// With "only", a plain instance leaves the list when its platform has a variant already.
		p.plain = layout != manifest.LayoutOnly || in.image.Sentinel()
		return p, nil
	}
	if !chunkable {
		return p, fmt.Errorf("a sentinel variant needs a table of contents in every layer; add --compress zstd:chunked: %w", ErrUsage)
	}
	p.variant = true
	p.plain = layout != manifest.LayoutOnly
	return p, nil
}

// encodeLayer says whether a layer has to be made anew.
func encodeLayer(l manifest.Layer, c Compression, haveBlob bool) bool {
	if l.Binding == manifest.BindSentinel {
		return false
	}
	if !haveBlob {
		return true
	}
	if c.Algorithm == "" || !manifest.IsLayer(l.MediaType) {
		return false
	}
	have, err := manifest.Compression(l.MediaType)
	if err != nil {
		return false
	}
	if c.Algorithm == algoChunked {
		return !l.Provable()
	}
	return have != c.Algorithm // a zstd:chunked layer is a zstd layer already
}

func canEncode(im *manifest.Image, p imagePlan, s situation, o *Options) error {
	if !p.edited() {
		return nil
	}
	if im.Sentinel() {
		return fmt.Errorf("a sentinel variant's layers cannot be encoded anew, its digests are bound to them; copy the plain instance: %w", ErrPreserve)
	}
	if !s.encoded && o.Compress.Algorithm == "" {
		return fmt.Errorf("the store keeps this image's files, not its layer blobs, so its layers must be encoded anew; say how with --compress: %w", ErrPreserve)
	}
	return nil
}

func planTop(s situation, p *copyPlan) topAction {
	changed := false
	for _, ip := range p.images {
		changed = changed || ip.edited() || ip.variant || !ip.plain
	}
	switch {
	case !changed:
		return topKeep
	case s.list != nil:
		return topList
	case p.images[0].variant && p.images[0].plain:
		return topWrap
	}
	return topImage
}

// cannotModify is the reason why manifests must stay as they are, or "".
func cannotModify(s situation, o *Options) string {
	switch {
	case o.Preserve:
		return "--preserve-digests was given"
	case s.digested != "":
		return "the destination names a digest"
	}
	return ""
}
