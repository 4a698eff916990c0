package copy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// commit writes the top-level manifest. A single image, or a list, that the place refuses in one dialect is offered in
// the other, where the plan allows that it changes (rules 29 and 31); no other failure leads there (rule 30). What it
// names is the same in both. The error has what was said of each form.
func (r *runner) commit(ctx context.Context, top document, p *copyPlan) (document, error) {
	err := r.to.commit(ctx, top)
	signed := p.signatures != nil && p.signatures.signed(top.digest)
	if !errors.Is(err, registry.ErrRejected) || !p.convertible || signed {
		return top, err
	}
	other, cannot := otherDialect(top)
	if cannot != nil {
		return top, fmt.Errorf("as %s: %w; in another form: %w", top.mediaType, err, cannot)
	}
	if again := r.to.commit(ctx, other); again != nil {
		return top, fmt.Errorf("as %s: %w; as %s: %w", top.mediaType, err, other.mediaType, again)
	}
	r.note("the manifest was refused as %s, so it was written as %s, and its digest is not %s", top.mediaType, other.mediaType, top.digest)
	return other, nil
}

// otherDialect is a manifest or list in Docker's dialect if it is in OCI's, and the other way round. ErrUnsupported when
// that cannot say what it has, such as zstd in Docker's. Instances of a list stay as they are. It is pure.
func otherDialect(doc document) (document, error) {
	if manifest.IsList(doc.mediaType) {
		return otherList(doc)
	}
	m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
	if err != nil {
		return document{}, err
	}
	to := manifest.DockerManifest
	if m.MediaType == manifest.DockerManifest {
		to = v1.MediaTypeImageManifest
	}
	raw, err := manifest.ReplaceLayers(m, m.Config, slices.Clone(m.Layers), to)
	return made(raw, to), err
}

func otherList(doc document) (document, error) {
	l, err := manifest.ParseList(doc.raw, doc.mediaType)
	if err != nil {
		return document{}, err
	}
	to := v1.MediaTypeImageIndex
	if l.MediaType == to {
		to = manifest.DockerList
		for _, d := range l.Instances {
			if len(d.Annotations) > 0 || d.ArtifactType != "" {
				return document{}, fmt.Errorf("a Docker list cannot say what instance %s is: %w", d.Digest, manifest.ErrUnsupported)
			}
		}
	}
	raw, err := manifest.ReplaceInstances(l, slices.Clone(l.Instances), to)
	return made(raw, to), err
}
