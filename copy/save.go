package copy

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Saved says where Save writes, and in which form.
type Saved struct {
	Path      string             // "-" is standard output
	Transport manifest.Transport // OCIArchive or DockerArchive
}

// Save copies several images into one archive, which gets its name when all of them are in it; blobs that they share
// are in it once. Each image that its reference names keeps that name. The results are in the order of the references.
func Save(ctx context.Context, env *Env, to Saved, refs []manifest.Ref, o *Options) (_ []*Result, err error) {
	b, err := newBundle(to)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.layout.close()) }()
	with := *env
	with.bundle = b
	var out []*Result
	for _, ref := range refs {
		dst := manifest.Ref{Transport: to.Transport, Path: to.Path, Name: savedName(ref), Index: -1}
		res, err := Copy(ctx, &with, ref, dst, o)
		if err != nil {
			return nil, err
		}
		out = append(out, res)
	}
	return out, b.finish(ctx)
}

// savedName is the name under which an archive keeps an image, "" for what was asked for by digest or has no name that
// docker would take. It is pure.
func savedName(ref manifest.Ref) string {
	switch ref.Transport {
	case manifest.Docker, manifest.Store, manifest.Containerd, manifest.DockerDaemon:
		if ref.Tag == "" || ref.ID != "" { // an ID is no name
			return ""
		}
		ref.Digest = ""
		return ref.StoreName()
	case manifest.DockerArchive:
		return ref.Name
	case manifest.OCI, manifest.OCIArchive:
		return normalName(ref.Name)
	}
	return ""
}

// bundle is an archive that several copies write, one after the other.
type bundle struct {
	docker  bool
	layout  *tarLayout
	image   *dockerArchiveOut // whose blobs all images share
	entries []v1.Descriptor   // of index.json
	saved   []savedImage      // of manifest.json
	names   map[string]bool
}

func newBundle(to Saved) (*bundle, error) {
	if to.Transport != manifest.OCIArchive && to.Transport != manifest.DockerArchive {
		return nil, fmt.Errorf("%s is no form of archive: %w", to.Transport, ErrUsage)
	}
	image, err := createDockerArchive(manifest.Ref{Transport: to.Transport, Path: to.Path, Index: -1})
	if err != nil {
		return nil, err
	}
	return &bundle{docker: to.Transport == manifest.DockerArchive, layout: image.tarLayout, image: image, names: make(map[string]bool)}, nil
}

// member is the destination of the next image.
func (b *bundle) member(ref manifest.Ref) (destination, error) {
	if ref.Name != "" && b.names[ref.Name] {
		return nil, fmt.Errorf("two images named %s: %w", ref.Name, ErrUsage)
	}
	b.names[ref.Name] = true
	layout := &tarLayout{ref: ref, out: b.layout.out}
	return &bundled{&dockerArchiveOut{layout, b.image.configs}, b}, nil
}

// bundled is one image's view of a bundle.
type bundled struct {
	*dockerArchiveOut
	bundle *bundle
}

func (m *bundled) commit(ctx context.Context, doc document) error {
	entry := descriptorOf(doc)
	if m.bundle.docker {
		saved, annotations, err := m.entry(doc)
		if err != nil {
			return err
		}
		m.bundle.saved = append(m.bundle.saved, saved)
		entry.Annotations = annotations
	} else if m.ref.Name != "" {
		// What containerd and docker take for the image's name, and what is all of it for skopeo.
		entry.Annotations = map[string]string{annotationImageName: m.ref.Name, v1.AnnotationRefName: m.ref.Name}
	}
	m.bundle.entries = append(m.bundle.entries, entry)
	return m.putManifest(ctx, doc)
}

// close leaves the archive open for the next image.
func (m *bundled) close() error { return nil }

func (b *bundle) finish(ctx context.Context) error {
	idx := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: b.entries}
	idx.SchemaVersion = 2
	if err := b.layout.out.addJSON(ctx, indexFile, idx); err != nil {
		return err
	}
	if b.docker {
		if err := b.layout.out.addJSON(ctx, savedFile, b.saved); err != nil {
			return err
		}
	}
	return b.layout.out.finish(ctx)
}
