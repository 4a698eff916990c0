package manifest

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// sentinelHistory is the history entry that goes with the sentinel. It has no
// time, so that the same image always gives the same bytes.
const sentinelHistory = "zstd:chunked sentinel"

// AddSentinel makes the sentinel variant of an image: the sentinel, with this
// media type, before the layers, its digest before the diff ids, and, if the
// history had one entry for each layer, one more entry. With chainBound each
// following diff id becomes the TOC digest of its layer, else it stays. Every
// other byte of both documents is kept; StripSentinel undoes it. All data
// layers must be Provable and the manifest OCI, otherwise ErrUnsupported; an
// image that is a variant already, or a media type that is no sentinel's, is
// ErrSentinel.
func AddSentinel(im *Image, mediaType string, chainBound bool) (manifest, config []byte, err error) {
	m := im.Manifest
	switch {
	case !IsSentinelType(mediaType):
		return nil, nil, fmt.Errorf("image %s: %w: media type %q is not the sentinel's", m.Digest, ErrSentinel, mediaType)
	case im.Sentinel():
		return nil, nil, fmt.Errorf("image %s: %w: it has a sentinel already", m.Digest, ErrSentinel)
	case isDocker(m.MediaType):
		return nil, nil, fmt.Errorf("image %s: a sentinel in Docker schema 2: %w", m.Digest, ErrUnsupported)
	case im.Trust != TOCUnbound:
		return nil, nil, fmt.Errorf("image %s: a sentinel without a TOC and tar-split in every layer: %w", m.Digest, ErrUnsupported)
	}
	sentinel := SentinelDescriptor(mediaType, m.Layers[0].Digest.Algorithm())
	diffIDs := slices.Clone(im.Config.DiffIDs)
	for i := range im.Layers {
		if chainBound {
			diffIDs[i] = im.Layers[i].TOC.Digest
		}
	}
	if config, err = addToConfig(im.Config, sentinel.Digest, diffIDs); err != nil {
		return nil, nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	manifest, err = editFirstLayer(m, config, func(raw []byte, layers span) (edit, error) {
		return prepend(raw, layers, marshal(sentinel))
	})
	return manifest, config, err
}

// StripSentinel makes the plain image of a variant: the reverse of
// AddSentinel. diffIDs are the digests of the tars built from the TOC view of
// each data layer; what the variant claims is never taken over unproved. The
// first history entry goes if it is the one that AddSentinel writes.
func StripSentinel(im *Image, diffIDs []digest.Digest) (manifest, config []byte, err error) {
	m := im.Manifest
	if !im.Sentinel() {
		return nil, nil, fmt.Errorf("image %s: %w: no sentinel to strip", m.Digest, ErrSentinel)
	}
	if len(diffIDs) != len(im.DataLayers()) {
		return nil, nil, fmt.Errorf("image %s: %w: %d diff_ids for %d layers", m.Digest, ErrMalformed, len(diffIDs), len(im.DataLayers()))
	}
	for _, d := range diffIDs {
		if err := ValidDigest(d); err != nil {
			return nil, nil, fmt.Errorf("image %s: %w", m.Digest, err)
		}
	}
	if config, err = stripConfig(im.Config, diffIDs); err != nil {
		return nil, nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	manifest, err = editFirstLayer(m, config, dropFirst)
	return manifest, config, err
}

// SameLayers reports whether a variant and a plain image have the same data
// layers, so that the one is the other's sibling. What their layers mean may
// still differ: that is what the variant is for.
func SameLayers(variant, plain *Image) bool {
	if !variant.Sentinel() || plain.Sentinel() {
		return false
	}
	return slices.EqualFunc(variant.DataLayers(), plain.Layers, func(a, b Layer) bool {
		return a.Digest == b.Digest && a.MediaType == b.MediaType
	})
}

// MadeFrom reports whether stripping the variant gives the plain image byte
// for byte, provided that the tars of its layers are those that the plain
// image names.
func MadeFrom(variant, plain *Image) bool {
	if !SameLayers(variant, plain) {
		return false
	}
	m, c, err := StripSentinel(variant, plain.Config.DiffIDs)
	return err == nil && bytes.Equal(m, plain.Manifest.Raw) && bytes.Equal(c, plain.Config.Raw)
}

// editFirstLayer gives the manifest the new config and edits its layers.
func editFirstLayer(m *Manifest, config []byte, change func([]byte, span) (edit, error)) ([]byte, error) {
	o, err := root(m.Raw, manifestFields)
	if err != nil {
		return nil, err
	}
	desc := m.Config
	desc.Digest = desc.Digest.Algorithm().FromBytes(config)
	desc.Size = int64(len(config))
	desc.Data = nil
	place, _ := o.get("config")
	edits, err := editDescriptor(o.raw, place, m.Config, desc)
	if err != nil {
		return nil, err
	}
	layers, _ := o.get("layers")
	first, err := change(o.raw, layers)
	if err != nil {
		return nil, err
	}
	return splice(o.raw, append(edits, first)...), nil
}

// configPlaces are the parts of a config that the sentinel touches.
type configPlaces struct {
	raw     []byte
	array   span // rootfs.diff_ids
	diffIDs []span
	history span // valid if there is history
}

func openConfig(c *Config) (*configPlaces, error) {
	o, err := root(c.Raw, configFields)
	if err != nil {
		return nil, err
	}
	p := &configPlaces{raw: c.Raw}
	s, _ := o.get("rootfs")
	rootfs, err := objectAt(c.Raw, s, rootfsFields)
	if err != nil {
		return nil, err
	}
	p.array, _ = rootfs.get("diff_ids")
	p.history, _ = o.get("history")
	p.diffIDs, err = elems(c.Raw, p.array)
	return p, err
}

// rename replaces the diff ids at places by others, one by one.
func rename(places []span, from, to []digest.Digest) []edit {
	var edits []edit
	for i, s := range places {
		if from[i] != to[i] {
			edits = append(edits, edit{s, marshal(to[i])})
		}
	}
	return edits
}

// consistentHistory reports whether there is one entry for each layer.
func consistentHistory(c *Config) bool {
	n := 0
	for _, h := range c.History {
		if !h.EmptyLayer {
			n++
		}
	}
	return n > 0 && n == len(c.DiffIDs)
}

func addToConfig(c *Config, sentinel digest.Digest, diffIDs []digest.Digest) ([]byte, error) {
	p, err := openConfig(c)
	if err != nil {
		return nil, err
	}
	first, err := prepend(c.Raw, p.array, marshal(sentinel))
	if err != nil {
		return nil, err
	}
	edits := append(rename(p.diffIDs, c.DiffIDs, diffIDs), first)
	if consistentHistory(c) {
		entry, err := prepend(c.Raw, p.history, marshal(v1.History{CreatedBy: sentinelHistory}))
		if err != nil {
			return nil, err
		}
		edits = append(edits, entry)
	}
	return splice(c.Raw, edits...), nil
}

func stripConfig(c *Config, diffIDs []digest.Digest) ([]byte, error) {
	p, err := openConfig(c)
	if err != nil {
		return nil, err
	}
	first, err := dropFirst(c.Raw, p.array)
	if err != nil {
		return nil, err
	}
	edits := append(rename(p.diffIDs[1:], c.DiffIDs[1:], diffIDs), first)
	if consistentHistory(c) && c.History[0] == (v1.History{CreatedBy: sentinelHistory}) {
		entry, err := dropFirst(c.Raw, p.history)
		if err != nil {
			return nil, err
		}
		edits = append(edits, entry)
	}
	return splice(c.Raw, edits...), nil
}
