package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// fromContainerd is an image of a containerd as a source. Images are records in a namespace; the bytes are in the content
// store, where what was pulled for one platform only, or lazily, lacks the rest.
type fromContainerd struct {
	ref manifest.Ref
	ns  *containerd.Namespace
}

func openContainerd(env *Env, ref manifest.Ref) *fromContainerd {
	return &fromContainerd{ref: ref, ns: env.Containerd.Namespace(ref.Namespace)}
}

func (s *fromContainerd) top(ctx context.Context) (document, error) {
	if s.ref.Digest != "" {
		return s.named(ctx, s.ref.Digest)
	}
	d, err := s.image(ctx)
	if err != nil {
		return document{}, absent(err)
	}
	return s.manifest(ctx, d)
}

// named reads what a digest names; the content store does not keep media types.
func (s *fromContainerd) named(ctx context.Context, d digest.Digest) (document, error) {
	size, err := s.ns.Size(ctx, d)
	if err != nil {
		return document{}, absent(err)
	}
	raw, err := readBlob(ctx, s, v1.Descriptor{Digest: d, Size: size}, manifest.MaxManifestSize)
	if err != nil {
		return document{}, err
	}
	return described(raw, v1.Descriptor{Digest: d})
}

// image finds the record: under the whole name, as ctr and the CRI write it, or as it was typed when somebody imported
// an archive.
func (s *fromContainerd) image(ctx context.Context) (v1.Descriptor, error) {
	d, err := s.ns.Image(ctx, s.ref.StoreName())
	if errors.Is(err, containerd.ErrNotFound) {
		if short, shortErr := s.ns.Image(ctx, s.ref.FamiliarName()); !errors.Is(shortErr, containerd.ErrNotFound) {
			return short, shortErr
		}
	}
	return d, err
}

// absent makes what containerd does not have an ErrNotFound, and lets other errors be.
func absent(err error) error {
	if errors.Is(err, containerd.ErrNotFound) {
		return fmt.Errorf("%w: %w", err, ErrNotFound)
	}
	return err
}

func (s *fromContainerd) manifest(ctx context.Context, d v1.Descriptor) (document, error) {
	return manifestBlob(ctx, s, d)
}

func (s *fromContainerd) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	b, err := s.ns.OpenUnverified(ctx, d.Digest)
	if err != nil {
		return nil, absent(err)
	}
	return newVerified(b.Stream(), d), nil
}

func (s *fromContainerd) layer(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return s.blob(ctx, d)
}

func (s *fromContainerd) ranged(d v1.Descriptor) (fill.Source, store.Source) {
	return readerRanges{func(ctx context.Context) (readerAtCloser, error) {
		b, err := s.ns.OpenUnverified(ctx, d.Digest)
		if err != nil {
			return nil, absent(err)
		}
		return b, nil
	}}, store.Source{}
}

// lacks implements partial.
func (s *fromContainerd) lacks(ctx context.Context, d v1.Descriptor) (bool, error) {
	_, err := s.ns.Size(ctx, d.Digest)
	if errors.Is(err, containerd.ErrNotFound) {
		return true, nil
	}
	return false, err
}

func (s *fromContainerd) close() error { return nil }

// toContainerd is an image of a containerd as a destination. Everything is written under a lease, which ends when the
// image record holds on to it all.
type toContainerd struct {
	ref manifest.Ref
	ns  *containerd.Namespace

	mu     sync.Mutex
	writer *containerd.Writer // nil until something is written
}

func createContainerd(env *Env, ref manifest.Ref) (*toContainerd, error) {
	if ref.Repo == "" {
		return nil, fmt.Errorf("%s: an image in containerd needs a name: %w", ref, ErrUsage)
	}
	return &toContainerd{ref: ref, ns: env.Containerd.Namespace(ref.Namespace)}, nil
}

func (t *toContainerd) begin(ctx context.Context) (*containerd.Writer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	if t.writer == nil {
		t.writer, err = t.ns.Writer(ctx)
	}
	return t.writer, err
}

func (t *toContainerd) has(ctx context.Context, d v1.Descriptor) (bool, error) {
	w, err := t.begin(ctx)
	if err != nil {
		return false, err
	}
	return w.Hold(ctx, d)
}

func (t *toContainerd) put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	w, err := t.begin(ctx)
	if err != nil {
		return err
	}
	body, err := open()
	if err != nil {
		return err
	}
	return errors.Join(w.Put(ctx, d, body), body.Close())
}

// create begins a blob whose writes go to containerd as they come.
func (t *toContainerd) create() (spool, error) {
	ctx, cancel := context.WithCancel(context.Background())
	w, err := t.begin(ctx)
	if err == nil {
		var p *containerd.Pending
		if p, err = w.Create(ctx); err == nil {
			return &pending{p, cancel}, nil
		}
	}
	cancel()
	return nil, err
}

// pending is a spool in containerd's content store.
type pending struct {
	*containerd.Pending
	cancel context.CancelFunc
}

func (p *pending) commit(ctx context.Context, d v1.Descriptor) error {
	defer p.cancel()
	return p.Commit(ctx, d)
}

func (p *pending) abort() error {
	defer p.cancel()
	return p.Abort(context.Background())
}

// putManifest tells containerd's collection what the manifest holds on to: all of a list's entries too, so that those
// of a sparse list which come later are kept.
func (t *toContainerd) putManifest(ctx context.Context, doc document) error {
	children, err := childrenOf(doc)
	if err != nil {
		return err
	}
	w, err := t.begin(ctx)
	if err != nil {
		return err
	}
	return w.PutManifest(ctx, descriptorOf(doc), bytes.NewReader(doc.raw), children)
}

// childrenOf are the blobs that a manifest or list is nothing without. It is pure.
func childrenOf(doc document) ([]v1.Descriptor, error) {
	switch {
	case manifest.IsList(doc.mediaType):
		l, err := manifest.ParseList(doc.raw, doc.mediaType)
		if err != nil {
			return nil, err
		}
		return l.Instances, nil
	case manifest.IsManifest(doc.mediaType):
		m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
		if err != nil {
			return nil, err
		}
		return append([]v1.Descriptor{m.Config}, m.Layers...), nil
	}
	return blobsOfUnknown(doc.raw)
}

func (t *toContainerd) commit(ctx context.Context, doc document) error {
	if err := t.putManifest(ctx, doc); err != nil {
		return err
	}
	w, err := t.begin(ctx)
	if err != nil {
		return err
	}
	return w.Name(ctx, t.ref.StoreName(), descriptorOf(doc))
}

func (t *toContainerd) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.writer == nil {
		return nil
	}
	return t.writer.Release(context.Background())
}
