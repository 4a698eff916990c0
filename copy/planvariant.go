package copy

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// variant decides about an instance that is a sentinel variant. It stays as it is, byte for byte, unless a layer loses
// its table of contents (S28) or another layout was asked for by name.
func (pl *planner) variant(in instance, lv *level) (imagePlan, error) {
	p := imagePlan{instance: in, plain: true, compress: pl.o.Compress}
	if pl.o.retars(in.image) {
		return p, fmt.Errorf("the diff_ids of this sentinel variant name tars that nobody has proved, so they cannot be named anew: %w", manifest.ErrUnsupported)
	}
	for _, l := range in.image.Layers {
		p.encode = append(p.encode, encodeOfVariant(l, pl.o.Compress, pl.have(l)) || pl.recodes(&p, l))
	}
	if err := pl.canEncode(p); err != nil {
		return p, err
	}
	switch {
	case p.edited():
		return pl.stripped(p, lv)
	case pl.layout == "" || pl.optional:
		return p, nil
	}
	return pl.moved(p, lv)
}

// encodeOfVariant is encodeLayer for a variant, whose layers all have a table of contents already.
func encodeOfVariant(l manifest.Layer, c Compression, haveBlob bool) bool {
	if haveBlob && c.Algorithm == algoChunked && !c.Anew {
		return false
	}
	return encodeLayer(l, c, haveBlob)
}

// stripped takes the sentinel from a variant whose layers become others (S27). What would be its plain sibling again
// leaves the list.
func (pl *planner) stripped(p imagePlan, lv *level) (imagePlan, error) {
	if sib := lv.sibling(p.instance); sib != nil && manifest.MadeFrom(p.image, sib) {
		pl.note("the sentinel variant %s is left out: without its tables of contents it would be the plain image %s", p.desc.Digest, sib.Manifest.Digest)
		return imagePlan{instance: p.instance}, nil
	}
	p.strip = true
	if pl.layout != "" { // out of a store that has no blobs any more: a variant of the new layers
		p.variant, p.plain = pl.sentinelType(p.instance, lv), pl.layout != manifest.LayoutOnly
	}
	return p, rebuildable(p.image)
}

// moved publishes a variant in the layout that was asked for: with other diff_ids or another type of sentinel where that
// wants them, and with a plain instance where there is none.
func (pl *planner) moved(p imagePlan, lv *level) (imagePlan, error) {
	empty := len(p.image.DataLayers()) == 0
	bound := empty || p.image.ChainBound == pl.layout.ChainBound()
	mediaType := pl.sentinelType(p.instance, lv)
	same := bound && (empty || p.image.Layers[0].MediaType == mediaType)
	switch {
	case pl.layout != manifest.LayoutOnly && lv.plain(p.instance) == nil:
		p.strip, p.variant = true, mediaType
		return p, rebuildable(p.image)
	case same && (!lv.list || stands(p.instance, pl.layout)):
		return p, nil
	}
	p.plain, p.variant = false, mediaType
	if same {
		return p, nil
	}
	p.strip = true
	if bound {
		p.tars = slices.Clone(p.image.Config.DiffIDs[1:]) // the new variant has the same ones
	} else {
		p.tars = pl.tarsOf(p.image, lv.sibling(p.instance))
	}
	return p, rebuildable(p.image)
}

// sentinelType is the media type of the sentinel in the variant that is made of an instance: the one asked for, or that
// of the layout. A variant that is made again, but in no layout that was asked for, keeps its own.
func (pl *planner) sentinelType(in instance, lv *level) string {
	if pl.o.SentinelType != "" {
		return pl.o.SentinelType
	}
	if v := lv.variant(in); v != nil && pl.o.Sentinel == "" {
		return v.Layers[0].MediaType
	}
	return pl.layout.SentinelType()
}

// variant is the variant of the list for the same platform, which may be the instance itself, or nil.
func (lv *level) variant(of instance) *manifest.Image {
	for _, in := range append([]instance{of}, lv.instances...) {
		if in.image != nil && in.image.Sentinel() && platformKey(in) == platformKey(of) {
			return in.image
		}
	}
	return nil
}

// stands reports whether the list shows a variant as the layout does.
func stands(in instance, l manifest.Layout) bool {
	return manifest.IsVariant(in.desc) && manifest.Hidden(in.desc) == (l == manifest.LayoutHidden)
}

// tarsOf are the digests of a variant's tars as far as they are known without building them: a new chain-bound variant
// does not have them in the end, and a plain sibling names them. Nil: they have to be built.
func (pl *planner) tarsOf(im, sibling *manifest.Image) []digest.Digest {
	switch {
	case pl.layout.ChainBound():
		return slices.Clone(im.Config.DiffIDs[1:])
	case sibling != nil:
		return slices.Clone(sibling.Config.DiffIDs)
	}
	return nil
}

// rebuildable refuses a variant whose tars cannot be had from its tables of contents.
func rebuildable(im *manifest.Image) error {
	if i := im.FirstUnprovable(); i >= 0 {
		return fmt.Errorf("layer %d (%s) of a sentinel variant has no tar-split, so its tar cannot be rebuilt and the sentinel must stay: %w",
			i, im.Layers[i].Digest, manifest.ErrUnsupported)
	}
	return nil
}

// plain is the plain image of the list for the same platform, nil if there is none.
func (lv *level) plain(of instance) *manifest.Image {
	for _, in := range lv.instances {
		if !in.skipped && in.image != nil && !in.image.Sentinel() && platformKey(in) == platformKey(of) {
			return in.image
		}
	}
	return nil
}

// sibling is the plain image for the same platform that has the same layers.
func (lv *level) sibling(of instance) *manifest.Image {
	for _, in := range lv.instances {
		if !in.skipped && in.image != nil && platformKey(in) == platformKey(of) && manifest.SameLayers(of.image, in.image) {
			return in.image
		}
	}
	return nil
}
