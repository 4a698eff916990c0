package copy

import (
	"fmt"

	"github.com/tocsin/tocsin/manifest"
)

// planList decides what becomes of the entries of one list. Each list has variants of its own instances only.
func planList(instances []instance, s situation, o *Options, layout manifest.Layout) ([]imagePlan, error) {
	served := variantPlatforms(instances, s.strip)
	out := make([]imagePlan, len(instances))
	for i, in := range instances {
		var err error
		switch {
		case in.skipped:
			out[i] = imagePlan{instance: in, plain: !s.strip}
		case in.list != nil:
			out[i], err = planNested(in, s, o, layout)
		default:
			out[i], err = planImage(in, s, o, layout, served)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.desc.Digest, err)
		}
	}
	return out, nil
}

// planNested decides about a list in the list, which leaves it when nothing of its own is left.
func planNested(in instance, s situation, o *Options, layout manifest.Layout) (imagePlan, error) {
	p := imagePlan{instance: in, plain: len(in.children) == 0}
	var err error
	p.children, err = planList(in.children, s, o, layout)
	for _, c := range p.children {
		p.plain = p.plain || !c.gone()
	}
	return p, err
}

// variantPlatforms is the set of platforms that have a variant already, so that none gets a second one (S10).
func variantPlatforms(instances []instance, strip bool) map[string]bool {
	served := make(map[string]bool)
	for _, in := range instances {
		if in.skipped && strip {
			continue
		}
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
