package copy

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// manifests writes the instances of one list by their digests, and the lists in it after what they list. What was taken
// in another form only is that from here on.
func (r *runner) manifests(ctx context.Context, images []imagePlan, out []written, p *copyPlan) error {
	return settleLists(ctx, images, out, p.layout, func(ctx context.Context, doc document, forms []string) (document, error) {
		return r.place(ctx, doc, forms, p)
	})
}

// placing does something with one instance's manifest and says what it is from then on.
type placing func(ctx context.Context, doc document, forms []string) (document, error)

// settleLists places the manifests of one list, and those of the lists in it before them.
func settleLists(ctx context.Context, images []imagePlan, out []written, layout manifest.Layout, place placing) error {
	return forEach(ctx, len(images), func(ctx context.Context, i int) (err error) {
		ip, w := images[i], &out[i]
		if ip.list != nil && !ip.skipped && ip.plain {
			if err := settleLists(ctx, ip.children, w.children, layout, place); err != nil {
				return err
			}
			doc := ip.doc
			if ip.changed() || renamed(ip.children, w.children) {
				if doc, err = list(ip.list, ip.forms[0], ip.children, w.children, layout); err != nil {
					return err
				}
				doc = doc.unless(ip.doc)
			}
			w.plain, w.forms = &doc, ip.forms
		}
		for _, doc := range []*document{w.plain, w.variant} {
			if doc == nil {
				continue
			}
			var forms []string
			if doc == w.plain {
				forms = w.forms
			}
			if *doc, err = place(ctx, *doc, forms); err != nil {
				return fmt.Errorf("instance %s: %w", ip.desc.Digest, err)
			}
		}
		return nil
	})
}

// foretell refuses a list that would not be the expected one, before any of its instances is written. A place that then
// takes an instance only in another form makes it another list, which commit refuses.
func (r *runner) foretell(ctx context.Context, s situation, p *copyPlan, out []written) error {
	if r.options.Push.Expect == "" {
		return nil
	}
	out = cloned(out)
	err := settleLists(ctx, p.images, out, p.layout, func(_ context.Context, doc document, _ []string) (document, error) {
		_, err := documentAt(r.to, doc) // what names it has to know
		return doc, err
	})
	if err != nil {
		return err
	}
	top, err := assemble(s, p, out)
	if err == nil {
		top, err = documentAt(r.to, top)
	}
	if err != nil {
		return err
	}
	return r.options.expected(top)
}

// cloned are entries whose documents may be changed without these.
func cloned(out []written) []written {
	out = slices.Clone(out)
	for i, w := range out {
		out[i].children = cloned(w.children)
		if w.plain != nil {
			doc := *w.plain
			out[i].plain = &doc
		}
		if w.variant != nil {
			doc := *w.variant
			out[i].variant = &doc
		}
	}
	return out
}

// place writes one instance's manifest and its signatures, once however often it is listed.
func (r *runner) place(ctx context.Context, doc document, forms []string, p *copyPlan) (document, error) {
	return r.placed.do(ctx, placedKey{doc.digest, doc.mediaType}, func() (document, error) {
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return doc, err
		}
		defer r.slots.Release(1)
		placed, err := r.offer(ctx, doc, forms, r.to.putManifest)
		if err == nil {
			r.wrote(placed.digest)
			err = p.signatures.put(ctx, r.to, subject{digest: placed.digest})
		}
		return placed, err
	})
}

// offer writes a manifest or list, and if the place rejects it, in the other forms that it may have, in order; nil are
// none. Only a rejection leads on (rules 30 and 31), and the error has what was said of each form. What the manifest
// names is the same in all, so no blob is sent again (rule 29).
func (r *runner) offer(ctx context.Context, doc document, forms []string, put func(context.Context, document) error) (document, error) {
	err := put(ctx, doc)
	said := err
	if err != nil && len(forms) > 1 {
		said = fmt.Errorf("as %s: %w", doc.mediaType, err)
	}
	for _, form := range forms {
		if !errors.Is(err, registry.ErrRejected) {
			break
		}
		if form == doc.mediaType {
			continue
		}
		other, cannot := convert(doc, form)
		if cannot != nil {
			said = fmt.Errorf("%w; as %s: %w", said, form, cannot)
			continue
		}
		if err = put(ctx, other); err == nil {
			r.note("%s was refused as %s, so it was written as %s, and its digest is %s",
				digestAt(r.to, doc.digest), doc.mediaType, form, digestAt(r.to, other.digest))
			return other, nil
		}
		said = fmt.Errorf("%w; as %s: %w", said, form, err)
	}
	return doc, said
}

// inForm is an image with the layers that it has now, in the first of its forms that can say them, and the forms that
// are left. What does not change keeps its bytes (rule 24).
func inForm(forms []string, im *manifest.Image, doc document, layers []v1.Descriptor) (*manifest.Image, document, []string, error) {
	same := reflect.DeepEqual(im.Manifest.Layers, layers)
	var cannot error
	for i, form := range forms {
		if same && form == im.Manifest.MediaType {
			return im, doc, forms[i:], nil
		}
		with, made, err := withLayers(im, layers, form)
		if !errors.Is(err, manifest.ErrUnsupported) {
			return with, made, forms[i:], err
		}
		cannot = errors.Join(cannot, err)
	}
	return nil, document{}, nil, cannot
}

// withLayers puts layers into an image's manifest and gives that a form. The config, and so every diffID, stays as it is:
// the tars did.
func withLayers(im *manifest.Image, layers []v1.Descriptor, form string) (*manifest.Image, document, error) {
	layers = slices.Clone(layers)
	if form == manifest.DockerManifest && form == im.Manifest.MediaType {
		for i, l := range layers {
			if reflect.DeepEqual(l, im.Layers[i].Descriptor) {
				continue
			}
			t, err := manifest.ToDocker(l.MediaType)
			if err != nil {
				return nil, document{}, err
			}
			layers[i].MediaType, layers[i].Annotations = t, nil
		}
	}
	raw, err := manifest.ReplaceLayers(im.Manifest, im.Manifest.Config, layers, form)
	if err != nil {
		return nil, document{}, err
	}
	m, err := manifest.ParseManifest(raw, form)
	if err != nil {
		return nil, document{}, err
	}
	edited, err := manifest.NewImage(m, im.Config)
	return edited, made(raw, form), err
}

// convert is a manifest or list in another form that nobody asked for. ErrUnsupported when that cannot say what it has,
// such as zstd in Docker's, or what the entries of an index are. Instances of a list stay as they are. It is pure.
func convert(doc document, form string) (document, error) {
	if manifest.IsList(form) {
		return convertList(doc, form)
	}
	m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
	if err != nil {
		return document{}, err
	}
	raw, err := manifest.ReplaceLayers(m, m.Config, slices.Clone(m.Layers), form)
	return made(raw, form), err
}

func convertList(doc document, form string) (document, error) {
	l, err := manifest.ParseList(doc.raw, doc.mediaType)
	if err != nil {
		return document{}, err
	}
	if form == manifest.DockerList {
		for _, d := range l.Instances {
			if len(d.Annotations) > 0 || d.ArtifactType != "" {
				return document{}, fmt.Errorf("a Docker list cannot say what instance %s is: %w", d.Digest, manifest.ErrUnsupported)
			}
		}
	}
	raw, err := manifest.ReplaceInstances(l, slices.Clone(l.Instances), form)
	return made(raw, form), err
}
