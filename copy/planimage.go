package copy

import (
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// planner decides about images. What all of a copy have in common is in it, and what the user has to be told.
type planner struct {
	s        situation
	o        *Options
	layout   manifest.Layout // of new variants; "" for none
	optional bool            // nobody asked for variants by name
	notes    []string
}

func (pl *planner) note(format string, args ...any) {
	pl.notes = append(pl.notes, fmt.Sprintf(format, args...))
}

// level is one list, or the single image, and the platforms that will have a variant there, so that none gets a second
// one (S10).
type level struct {
	instances []instance
	list      bool
	served    map[string]bool
}

// list decides what becomes of the entries of one list. Each list has variants of its own instances only. Variants come
// first, because what becomes of them says which platforms need one.
func (pl *planner) list(instances []instance, isList bool) ([]imagePlan, error) {
	lv := &level{instances: instances, list: isList, served: make(map[string]bool)}
	out := make([]imagePlan, len(instances))
	for _, variants := range []bool{true, false} {
		for i, in := range instances {
			if isVariant(in) != variants {
				continue
			}
			var err error
			if out[i], err = pl.entry(in, lv); err == nil {
				err = pl.shape(&out[i])
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", in.desc.Digest, err)
			}
			if variants && !out[i].gone() && (out[i].variant != "" || !out[i].strip) {
				lv.served[platformKey(in)] = true
			}
		}
	}
	return pl.add(out)
}

func (pl *planner) entry(in instance, lv *level) (imagePlan, error) {
	switch {
	case in.skipped:
		return imagePlan{instance: in, plain: !pl.s.strip}, nil
	case in.list != nil:
		return pl.nested(in)
	case in.image == nil:
		return imagePlan{instance: in, plain: pl.layout != manifest.LayoutOnly}, canCopy(in, pl.s)
	case in.image.Sentinel():
		return pl.variant(in, lv)
	}
	return pl.image(in, lv)
}

// shape decides which form an entry's manifest gets.
func (pl *planner) shape(p *imagePlan) (err error) {
	f := formsOf(pl.s, pl.o, *p)
	p.fixed = f.reason != ""
	switch {
	case p.skipped || p.gone():
	case p.list != nil:
		p.forms, err = f.list(p.list)
	case p.image != nil:
		p.forms, err = f.image(p.image, layerTypes(*p), p.edited())
	}
	return err
}

// nested decides about a list in the list, which leaves it when nothing of its own is left.
func (pl *planner) nested(in instance) (imagePlan, error) {
	p := imagePlan{instance: in, plain: len(in.children) == 0}
	var err error
	p.children, err = pl.list(in.children, true)
	for _, c := range p.children {
		p.plain = p.plain || !c.gone()
	}
	return p, err
}

// isVariant tells variants by their manifests; the list's word counts where nothing else was read (S3).
func isVariant(in instance) bool {
	if in.image != nil {
		return in.image.Sentinel()
	}
	return in.skipped && manifest.IsVariant(in.desc)
}

// platformKey is what an instance is for: as its list says, else as its config does.
func platformKey(in instance) string {
	if p, ok := manifest.PlatformOf(in.desc); ok {
		return manifest.PlatformKey(p)
	}
	if in.image == nil {
		return ""
	}
	return manifest.PlatformKey(in.image.Config.Platform)
}

// image decides about a plain image.
func (pl *planner) image(in instance, lv *level) (imagePlan, error) {
	p := imagePlan{instance: in, plain: true, compress: pl.o.Compress, retar: pl.o.retars(in.image)}
	chunkable := len(in.image.Layers) > 0
	for _, l := range in.image.Layers {
		encode := encodeLayer(l, pl.o.Compress, pl.have(l)) || pl.recodes(&p, l)
		p.encode = append(p.encode, encode)
		p.download = p.download || pl.o.DownloadForeign && !pl.s.toStore && !encode && isElsewhere(l.Descriptor)
		chunkable = chunkable && (encode || l.Provable())
	}
	if err := pl.canEncode(p); err != nil || pl.layout == "" {
		return p, err
	}
	key := platformKey(in)
	switch {
	case lv.served[key]:
		// With "only", a plain instance leaves the list when its platform has a variant already.
		p.plain = pl.layout != manifest.LayoutOnly
	case !chunkable && pl.optional:
		pl.note("%s has no sentinel variant: not every layer of it has a table of contents", in.desc.Digest)
	case !chunkable:
		return p, fmt.Errorf("a sentinel variant needs a table of contents in every layer; add --compress zstd:chunked: %w", ErrUsage)
	default:
		p.variant, p.plain = pl.sentinelType(in, lv), pl.layout != manifest.LayoutOnly
		lv.served[key] = true
	}
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
	switch {
	case c.Anew:
		return true
	case c.Algorithm == algoChunked:
		return !l.Provable()
	case c.Algorithm == recipeGzip:
		return have == manifest.None
	}
	return have != c.Algorithm // a zstd:chunked layer is a zstd layer already
}

func (pl *planner) canEncode(p imagePlan) error {
	if !p.remade() || pl.s.encoded || pl.o.Compress.Algorithm != "" {
		return nil
	}
	if pl.s.toStore {
		return fmt.Errorf("the store has this image's files, not all of its layer blobs, so they cannot be kept; pull it again with --keep-blobs: %w", ErrPreserve)
	}
	return fmt.Errorf("the store keeps this image's files, not its layer blobs, so its layers must be encoded anew; say how with --compress, or pull it again with --keep-blobs: %w", ErrPreserve)
}

// have says that a layer need not be made anew: its blob is there, or the destination wants only what is in it.
func (pl *planner) have(l manifest.Layer) bool {
	return pl.s.has(l.Digest) || pl.s.toStore && !pl.o.KeepBlobs
}

// has says that the source has a blob as it came.
func (h held) has(d digest.Digest) bool { return h.encoded || h.whole[d] }

// remade counts the layers that are made anew because their blobs were not kept.
func remade(images []imagePlan, s situation) (n int) {
	for _, ip := range leaves(images) {
		for i, encode := range ip.encode {
			if encode && !s.has(ip.image.Layers[i].Digest) {
				n++
			}
		}
	}
	return n
}

// canCopy refuses an artifact of the store whose blobs are not all there: nobody can make them anew.
func canCopy(in instance, s situation) error {
	for _, d := range in.blobs {
		if !s.has(d.Digest) {
			return fmt.Errorf("it is no container image, and the store does not have its blob %s: %w", d.Digest, ErrPreserve)
		}
	}
	return nil
}
