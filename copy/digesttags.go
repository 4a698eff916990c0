package copy

import (
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// Before there were referrers, cosign kept what it says about a manifest under tags made of the digest. Signatures
// (.sig) are read and written as signatures; these are copied as they are, together with referrers (rule 59).
var digestTagSuffixes = [...]string{".att", ".sbom"}

// digestTag is a manifest under such a tag.
type digestTag struct {
	name string
	of   digest.Digest
	referrer
}

// caller is a place where manifests have names beside each other: tags of a repository, names in a layout.
type caller interface {
	// called is the manifest of a name, nil if there is none.
	called(ctx context.Context, name string) (*document, error)
	// call gives a manifest a name. What it needs is there already.
	call(ctx context.Context, name string, doc document) error
}

var (
	_ caller = (*docker)(nil)
	_ caller = (*layout)(nil)
)

func (d *docker) called(ctx context.Context, name string) (*document, error) {
	return d.tagged(ctx, name)
}

func (d *docker) call(ctx context.Context, name string, doc document) error {
	return d.repo.PutManifest(ctx, name, doc.sent(), doc.mediaType)
}

func (l *layout) called(ctx context.Context, name string) (*document, error) {
	idx, err := l.index()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(idx.Manifests, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == name })
	if i < 0 {
		return nil, nil
	}
	doc, err := l.manifest(ctx, idx.Manifests[i])
	return &doc, err
}

func (l *layout) call(ctx context.Context, name string, doc document) error {
	if err := l.putManifest(ctx, doc); err != nil {
		return err
	}
	return l.reindex(func(entries []v1.Descriptor) ([]v1.Descriptor, error) {
		return nameEntry(entries, descriptorOf(doc), name), nil
	})
}

// digestTags reads what is said about digests under tags made of them.
func (f *referrerFinder) digestTags(ctx context.Context, subjects []digest.Digest) error {
	src, ok := f.src.(caller)
	if !ok {
		return nil
	}
	for _, of := range subjects {
		for _, suffix := range digestTagSuffixes {
			t := digestTag{name: registry.ReferrersTag(of) + suffix, of: of}
			doc, err := src.called(ctx, t.name)
			if err == nil && doc != nil {
				t.doc = *doc
				if err = f.needs(ctx, &t.referrer, t.doc, 1); err == nil {
					f.out.tags = append(f.out.tags, t)
				}
			}
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	return nil
}

// tag writes what is said about a manifest that was written. A tag that says something else there stays as it is: others
// write to it too, and which of both is newer nobody can tell.
func (r *runner) tag(ctx context.Context, t digestTag) error {
	to, ok := bare(r.to).(caller)
	if !ok {
		return fmt.Errorf("%s: no place for tags: %w", t.name, manifest.ErrUnsupported) // takesReferrers has said so before
	}
	there, err := to.called(ctx, t.name)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", t.name, err)
	case idOf(there) == t.doc.digest:
		return nil
	case there != nil:
		r.note("%s was not copied: the destination has another one, %s", t.name, there.digest)
		return nil
	}
	if err := r.needed(ctx, t.referrer); err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	if err := to.call(ctx, t.name, t.doc); err != nil {
		return fmt.Errorf("%s: %w", t.name, err)
	}
	return nil
}
