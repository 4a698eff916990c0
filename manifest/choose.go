package manifest

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Prefer says which of a platform's instances a list should answer with.
type Prefer int

const (
	// PreferPlain: any instance before a sentinel variant, and never a
	// hidden one.
	PreferPlain Prefer = iota
	// PreferVariant: the sentinel variant if the platform has one. Only for
	// a destination that can consume it.
	PreferVariant
	// OnlyVariant: a sentinel variant or nothing.
	OnlyVariant
	// OnlyPlain: a plain instance or nothing.
	OnlyPlain
	// PreferGzip: as PreferPlain, but gzip before zstd. For a destination of
	// docker's, which may be too old for zstd.
	PreferGzip
)

// IsVariant reports whether the list says that d is a sentinel variant. It
// is a hint for selection only; NewImage decides by the manifest itself.
func IsVariant(d v1.Descriptor) bool {
	return d.Annotations[AnnotationSentinel] == "true"
}

// Hidden reports whether d is a sentinel variant published behind the
// platform unknown/unknown.
func Hidden(d v1.Descriptor) bool {
	return IsVariant(d) && !knownPlatform(d.Platform)
}

func knownPlatform(p *v1.Platform) bool {
	return p != nil && !(p.OS == "unknown" && p.Architecture == "unknown") && p.OS != ""
}

// VariantPlatform returns the platform that a sentinel variant serves, hidden
// or not; false for other instances and for a hidden one that does not say.
func VariantPlatform(d v1.Descriptor) (v1.Platform, bool) {
	if !IsVariant(d) {
		return v1.Platform{}, false
	}
	if knownPlatform(d.Platform) {
		return *d.Platform, true
	}
	p, err := ParsePlatform(d.Annotations[AnnotationSentinelPlatform])
	if err == nil && d.Platform != nil {
		p.OSVersion, p.OSFeatures = d.Platform.OSVersion, slices.Clone(d.Platform.OSFeatures)
	}
	return p, err == nil
}

// PlatformKey is a platform as one comparable string, os.version and
// os.features included: what has the same key is for the same machines.
func PlatformKey(p v1.Platform) string {
	features := slices.Clone(p.OSFeatures)
	slices.Sort(features)
	return strings.Join(append([]string{FormatPlatform(p), p.OSVersion}, features...), "\x00")
}

// PlatformOf returns the platform that an instance counts as for filters,
// selection and duplicate checks; false if it has none (attestations, and
// entries that do not say).
func PlatformOf(d v1.Descriptor) (v1.Platform, bool) {
	if IsVariant(d) {
		return VariantPlatform(d)
	}
	if !knownPlatform(d.Platform) {
		return v1.Platform{}, false
	}
	return *d.Platform, true
}

// candidate is an instance that may answer, and how well; smaller is better.
type candidate struct {
	platform, kind, zstd, position int
}

func (c candidate) compare(o candidate) int {
	return cmp.Or(cmp.Compare(c.platform, o.platform), cmp.Compare(c.kind, o.kind),
		cmp.Compare(c.zstd, o.zstd), cmp.Compare(c.position, o.position))
}

// Choose returns the instance for a platform: the best match of its variant,
// then the kind that p asks for, then zstd before gzip or as p says, then list order. An
// entry without a platform (that is not an artifact) answers only when
// nothing else does. If there is none, the error is ErrNotFound and lists
// the platforms that there are.
func (l *List) Choose(want v1.Platform, p Prefer) (v1.Descriptor, error) {
	var best *candidate
	for i, d := range l.Instances {
		c, ok := rate(d, want, p)
		c.position = i
		if ok && (best == nil || c.compare(*best) < 0) {
			best = &c
		}
	}
	if best == nil {
		return v1.Descriptor{}, fmt.Errorf("list %s: platform %s%s: %w (it has %s)",
			l.Digest, FormatPlatform(want), onlyNote(p), ErrNotFound, l.offer())
	}
	return l.Instances[best.position], nil
}

// rate decides whether d may answer for want at all.
func rate(d v1.Descriptor, want v1.Platform, p Prefer) (candidate, bool) {
	var c candidate
	variant, plain := IsVariant(d), p == PreferPlain || p == PreferGzip
	switch {
	case p == OnlyVariant && !variant, p == OnlyPlain && variant, plain && Hidden(d):
		return c, false
	case plain && variant, p == PreferVariant && !variant:
		c.kind = 1
	}
	if zstd := d.Annotations[AnnotationZstd] == "true"; zstd == (p == PreferGzip) {
		c.zstd = 1
	}
	if d.Platform == nil && !variant {
		c.platform = math.MaxInt
		return c, d.ArtifactType == ""
	}
	have, ok := PlatformOf(d)
	if !ok {
		return c, false
	}
	c.platform, ok = platformRank(want, have)
	return c, ok
}

func onlyNote(p Prefer) string {
	switch p {
	case OnlyVariant:
		return " as a sentinel variant"
	case OnlyPlain:
		return " as a plain image"
	}
	return ""
}

// offer lists the platforms of the list for an error message.
func (l *List) offer() string {
	var have []string
	for _, d := range l.Instances {
		p, ok := PlatformOf(d)
		if !ok {
			continue
		}
		s := FormatPlatform(p)
		if IsVariant(d) {
			s += " (sentinel)"
		}
		if !slices.Contains(have, s) {
			have = append(have, s)
		}
	}
	if len(have) == 0 {
		return "no platform"
	}
	return strings.Join(have, ", ")
}
