package copy

import (
	"context"
	"fmt"
	"io"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// ociArchive is a tar of an OCI layout as a source. The tar is not unpacked: its blobs are read where they are.
type ociArchive struct {
	archiveIn
	ref manifest.Ref
}

func openOCIArchive(ref manifest.Ref) *ociArchive {
	return &ociArchive{archiveIn: archiveIn{path: ref.Path}, ref: ref}
}

func (a *ociArchive) top(ctx context.Context) (document, error) {
	x, err := a.open(ctx)
	if err != nil {
		return document{}, err
	}
	idx, err := readArchiveIndex(x)
	if err != nil {
		return document{}, fmt.Errorf("archive %s: %w", a.path, err)
	}
	d, err := findEntry(idx.Manifests, a.ref)
	if err != nil {
		return document{}, fmt.Errorf("archive %s: %w", a.path, err)
	}
	return a.manifest(ctx, d)
}

// readArchiveIndex reads index.json of a tar that says it is an OCI layout.
func readArchiveIndex(x archiveFiles) (v1.Index, error) {
	raw, err := x.readUnverified(layoutFile, maxIndexSize)
	if err != nil {
		return v1.Index{}, fmt.Errorf("no OCI layout: %w", err)
	}
	if err := checkLayoutFile(raw); err != nil {
		return v1.Index{}, err
	}
	if raw, err = x.readUnverified(indexFile, maxIndexSize); err != nil {
		return v1.Index{}, err
	}
	return parseLayoutIndex(raw)
}

func (a *ociArchive) manifest(ctx context.Context, d v1.Descriptor) (document, error) {
	return manifestBlob(ctx, a, d)
}

// manifestBlob reads a manifest that a place keeps as a blob like others.
func manifestBlob(ctx context.Context, src source, d v1.Descriptor) (document, error) {
	raw, err := readBlob(ctx, src, d, manifest.MaxManifestSize)
	if err != nil {
		return document{}, err
	}
	return described(raw, d)
}

// described is a document whose bytes are compared with its descriptor, and guessed at where that names no type.
func described(raw []byte, d v1.Descriptor) (document, error) {
	mediaType := d.MediaType
	if mediaType == "" {
		mediaType = manifest.GuessMediaType(raw)
	}
	doc, err := checked(raw, mediaType, d.Digest)
	if err == nil {
		err = sized(doc, d)
	}
	return doc, err
}

// sized compares a document with the size that a descriptor says, if it says one.
func sized(doc document, d v1.Descriptor) error {
	if n := int64(len(doc.sent())); d.Size != 0 && d.Size != n {
		return fmt.Errorf("%s has %d bytes, and its descriptor says %d: %w", d.Digest, n, d.Size, manifest.ErrDigestMismatch)
	}
	return nil
}

func (a *ociArchive) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	x, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	s, err := x.findBlob(d.Digest)
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", a.path, err)
	}
	return newVerified(sectionCloser{x.section(s)}, d), nil
}

func (a *ociArchive) layer(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return a.blob(ctx, d)
}

// ranged knows only what an opened archive has; for anything else blob says why not.
func (a *ociArchive) ranged(d v1.Descriptor) (fill.Source, store.Source) {
	x := a.opened()
	if x == nil {
		return nil, store.Source{}
	}
	s, err := x.findBlob(d.Digest)
	if err != nil {
		return nil, store.Source{}
	}
	return x.ranged(s)
}

// ociArchiveOut is the destination: a layout in a tar that holds one image or list.
type ociArchiveOut struct{ *tarLayout }

func createOCIArchive(ref manifest.Ref) (*ociArchiveOut, error) {
	l, err := newTarLayout(ref)
	return &ociArchiveOut{l}, err
}

func (o *ociArchiveOut) commit(ctx context.Context, doc document) error {
	var annotations map[string]string
	if o.ref.Name != "" {
		annotations = map[string]string{v1.AnnotationRefName: o.ref.Name}
	}
	if err := o.end(ctx, doc, annotations); err != nil {
		return err
	}
	return o.out.finish(ctx)
}
