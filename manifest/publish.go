package manifest

import (
	"fmt"
	"maps"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations on an instance's descriptor in a list. The first two are
// container-libs PR 681's and containers/image's, the third is ours.
const (
	// AnnotationSentinel = "true" marks a sentinel variant.
	AnnotationSentinel = "io.github.containers.zstd-chunked.sentinel"
	// AnnotationSentinelPlatform = os/arch[/variant] is the platform that a
	// hidden variant serves. Its os.version and os.features stand in the
	// descriptor's platform, beside unknown/unknown (docs/decisions/0004).
	AnnotationSentinelPlatform = "io.github.containers.zstd-chunked.sentinel.platform"
	// AnnotationZstd = "true" marks an instance with zstd layers.
	AnnotationZstd = "io.github.containers.compression.zstd"
)

// Layout is how a sentinel variant is published beside its plain instance
// (design.md 5).
type Layout string

const (
	// LayoutHidden: the variant stands behind platform unknown/unknown, where no
	// unaware client looks for it. The default.
	LayoutHidden Layout = "hidden"
	// LayoutUpstream is that of container-libs PR 681: both instances under
	// one platform, plain first. Stock containerd cannot pull such a list.
	LayoutUpstream Layout = "upstream"
	// LayoutOnly publishes the variant alone, under its real platform.
	LayoutOnly Layout = "only"
)

// ParseLayout reads the value of --sentinel, "none" excepted.
func ParseLayout(s string) (Layout, error) {
	switch l := Layout(s); l {
	case LayoutHidden, LayoutUpstream, LayoutOnly:
		return l, nil
	}
	return "", fmt.Errorf("sentinel layout %q: %w", s, ErrMalformed)
}

// ChainBound reports whether variants of this layout carry TOC digests as
// diff ids; only the upstream draft keeps those of the tars.
func (l Layout) ChainBound() bool { return l != LayoutUpstream }

// SentinelType is the media type of the sentinel in new variants of this
// layout: the upstream draft has its own, and wherever the variant is ours its
// layers are all of OCI layer types.
func (l Layout) SentinelType() string {
	if l == LayoutUpstream {
		return SentinelTypeUpstream
	}
	return SentinelTypeOCI
}

// PublishInstances returns the list entries for a plain instance and its
// sentinel variant, in the order that they must have (plain first: clients
// that do not know the annotations take the first that matches). What the
// descriptors say already is kept; a platform that plain has beats platform,
// which may also carry os.version and os.features. LayoutOnly ignores plain.
func PublishInstances(plain, variant v1.Descriptor, platform v1.Platform, layout Layout) ([]v1.Descriptor, error) {
	if plain.Platform != nil && layout != LayoutOnly {
		platform = *plain.Platform
	}
	variant, err := PublishVariant(variant, platform, layout)
	if err != nil || layout == LayoutOnly {
		return []v1.Descriptor{variant}, err
	}
	plain = Annotate(plain, AnnotationZstd, "true")
	plain.Platform = &platform
	return []v1.Descriptor{plain, variant}, nil
}

// PublishVariant returns the list entry of a sentinel variant that serves
// platform. What the descriptor says already is kept, but for its platform
// and the annotations that are about variants.
func PublishVariant(variant v1.Descriptor, platform v1.Platform, layout Layout) (v1.Descriptor, error) {
	if !knownPlatform(&platform) {
		return variant, fmt.Errorf("sentinel variant %s: %w: no platform to publish it for", variant.Digest, ErrMalformed)
	}
	variant = Annotate(variant, AnnotationZstd, "true")
	variant = Annotate(variant, AnnotationSentinel, "true")
	delete(variant.Annotations, AnnotationSentinelPlatform)
	variant.Platform = &platform
	switch layout {
	case LayoutHidden:
		serves := FormatPlatform(platform)
		if _, err := ParsePlatform(serves); err != nil {
			return variant, fmt.Errorf("sentinel variant %s: %w", variant.Digest, err)
		}
		variant.Annotations[AnnotationSentinelPlatform] = serves
		variant.Platform = &v1.Platform{
			OS: "unknown", Architecture: "unknown", OSVersion: platform.OSVersion, OSFeatures: platform.OSFeatures,
		}
	case LayoutUpstream, LayoutOnly:
	default:
		return variant, fmt.Errorf("sentinel layout %q: %w", layout, ErrUnsupported)
	}
	return variant, nil
}

// PlainEntry returns the entry that a variant's has to become when its
// sentinel goes: the platform that it served, and no mark of a variant. Other
// entries are returned as they are.
func PlainEntry(d v1.Descriptor) v1.Descriptor {
	if !IsVariant(d) {
		return d
	}
	if p, ok := VariantPlatform(d); ok {
		d.Platform = &p
	}
	return Unannotate(d, AnnotationSentinel, AnnotationSentinelPlatform)
}

// Unannotate returns d without some annotations.
func Unannotate(d v1.Descriptor, keys ...string) v1.Descriptor {
	ann := maps.Clone(d.Annotations)
	for _, k := range keys {
		delete(ann, k)
	}
	if len(ann) == 0 {
		ann = nil
	}
	d.Annotations = ann
	return d
}

// Annotate returns d with one more annotation. The maps of d are not written to.
func Annotate(d v1.Descriptor, key, value string) v1.Descriptor {
	ann := maps.Clone(d.Annotations)
	if ann == nil {
		ann = make(map[string]string)
	}
	ann[key] = value
	d.Annotations = ann
	return d
}

// PublishIndex returns the bytes of a new OCI index that publishes one image
// and its variant. With LayoutOnly it is an index of one; a tag that is the
// variant itself needs none.
func PublishIndex(plain, variant v1.Descriptor, platform v1.Platform, layout Layout) ([]byte, error) {
	instances, err := PublishInstances(plain, variant, platform, layout)
	if err != nil {
		return nil, err
	}
	return NewIndex(instances), nil
}

// NewIndex returns the bytes of a new OCI index with these instances.
func NewIndex(instances []v1.Descriptor) []byte {
	entries := make([][]byte, len(instances))
	for i, d := range instances {
		entries[i] = marshal(d)
	}
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":%s}`, v1.MediaTypeImageIndex, array(entries))
}
