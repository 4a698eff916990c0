package copy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Select says which instances of a list are copied, and what becomes of the entries of the others. The zero value
// copies all. Platforms and Digests together are their union. A platform that no entry is for, and a digest that is not
// in the list, are ErrNotFound (L12): a typo must not become a list without its images.
type Select struct {
	// Platforms takes every instance for one of them: without a variant all variants of that OS and architecture, and
	// always the sentinel variants that serve it, hidden ones too.
	Platforms []v1.Platform
	// Digests takes the instances, and whole nested lists, that have one of them.
	Digests []digest.Digest
	// IndexOnly takes no instance at all, only the list (L10).
	IndexOnly bool
	// Strip deletes the entries of instances that are not copied. False keeps them, and so the list's digest: the list
	// is sparse then.
	Strip bool
	// Fallback, if not nil, is the platform whose image is copied, with a note, when nothing was chosen and the destination
	// holds no lists. Without it that is ErrUsage.
	Fallback *v1.Platform
	// Add gives every platform an instance in each of these compressions too, where it has none. It needs the whole list.
	Add []Compression
}

func (s Select) all() bool { return !s.IndexOnly && len(s.Platforms) == 0 && len(s.Digests) == 0 }

// check refuses what cannot be asked for together.
func (s Select) check(platform *v1.Platform) error {
	switch {
	case platform != nil && !s.all():
		return fmt.Errorf("one platform as a single image, or a selection of the list, but not both: %w", ErrUsage)
	case s.IndexOnly && len(s.Platforms)+len(s.Digests) > 0:
		return fmt.Errorf("the index only, or some of its instances, but not both: %w", ErrUsage)
	case s.Strip && s.all():
		return fmt.Errorf("nothing is left out, so there is nothing to strip: %w", ErrUsage)
	}
	return nil
}

// single says whether a single image satisfies the selection.
func (s Select) single(in instance) error {
	if s.IndexOnly {
		return fmt.Errorf("%s is a single image and has no index: %w", in.doc.digest, ErrUsage)
	}
	for _, p := range s.Platforms {
		if err := in.serves(p); err != nil {
			return err
		}
	}
	for _, d := range s.Digests {
		if d != in.doc.digest {
			return fmt.Errorf("%s is a single image, and not %s: %w", in.doc.digest, d, ErrNotFound)
		}
	}
	return nil
}

// picker marks what a selection leaves out, and remembers what it asked for and found.
type picker struct {
	sel   Select
	found map[string]bool
}

// pick marks the instances that are not copied. It is pure but for that.
func pick(instances []instance, sel Select) error {
	if sel.all() {
		return nil
	}
	p := &picker{sel: sel, found: make(map[string]bool)}
	p.mark(instances, false)
	for _, want := range sel.Platforms {
		if s := manifest.FormatPlatform(want); !p.found[s] {
			return fmt.Errorf("no instance is for %s: %w (there is %s)", s, ErrNotFound, listed(platformsOf(instances)))
		}
	}
	for _, want := range sel.Digests {
		if !p.found[want.String()] {
			return fmt.Errorf("no instance is %s: %w (there is %s)", want, ErrNotFound, listed(digestsOf(instances)))
		}
	}
	return nil
}

// mark walks one level; whole says that a list above was named itself. A nested list stays with any of its instances.
func (p *picker) mark(instances []instance, whole bool) (any bool) {
	for i := range instances {
		in := &instances[i]
		take := p.wants(in.desc) || whole
		if in.list != nil && p.mark(in.children, take) {
			take = true
		}
		in.skipped = !take
		any = any || take
	}
	return any
}

func (p *picker) wants(d v1.Descriptor) bool {
	wanted := slices.Contains(p.sel.Digests, d.Digest)
	if wanted {
		p.found[d.Digest.String()] = true
	}
	have, ok := manifest.PlatformOf(d)
	for _, want := range p.sel.Platforms {
		if ok && filters(want, have) {
			p.found[manifest.FormatPlatform(want)] = true
			wanted = true
		}
	}
	return wanted
}

// filters reports whether a filter takes a platform (rule 6). Arm64 has one variant, which may be said or not.
func filters(want, have v1.Platform) bool {
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return false
	}
	return want.Variant == "" || want.Variant == have.Variant ||
		want.Architecture == "arm64" && want.Variant == "v8" && have.Variant == ""
}

func platformsOf(instances []instance) (out []string) {
	for _, in := range instances {
		if p, ok := manifest.PlatformOf(in.desc); ok {
			out = append(out, manifest.FormatPlatform(p))
		}
		out = append(out, platformsOf(in.children)...)
	}
	return out
}

func digestsOf(instances []instance) (out []string) {
	for _, in := range instances {
		out = append(append(out, in.desc.Digest.String()), digestsOf(in.children)...)
	}
	return out
}

// maxOffered bounds what an error lists.
const maxOffered = 20

func listed(names []string) string {
	slices.Sort(names)
	names = slices.Compact(names)
	switch n := len(names); {
	case n == 0:
		return "none"
	case n > maxOffered:
		return strings.Join(names[:maxOffered], ", ") + fmt.Sprintf(" and %d more", n-maxOffered)
	}
	return strings.Join(names, ", ")
}
