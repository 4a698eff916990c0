package copy

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// storeSource reads an image of the store. Its manifests and configs are there as they came; its layers are files, so
// what blob gives for a layer is the layer's tar, written again.
type storeSource struct {
	env *Env
	ref manifest.Ref
}

func newStoreSource(env *Env, ref manifest.Ref) *storeSource { return &storeSource{env: env, ref: ref} }

func (s *storeSource) top(ctx context.Context) (document, error) {
	d := s.ref.Digest
	if d == "" {
		_, top, err := s.env.Store.Resolve(s.ref.StoreName())
		if err != nil {
			return document{}, err
		}
		d = top
	}
	return s.manifest(ctx, v1.Descriptor{Digest: d})
}

func (s *storeSource) manifest(ctx context.Context, d v1.Descriptor) (document, error) {
	raw, mediaType, err := s.env.Store.Manifest(d.Digest)
	if err != nil {
		return document{}, err
	}
	return checked(raw, mediaType, d.Digest)
}

// blob gives a kept blob, or the tar of a layer whose diffID is in the descriptor's place of a digest (see layerTar).
func (s *storeSource) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	f, err := s.env.Store.OpenBlob(d.Digest)
	if err == nil {
		return newVerified(f, d), nil
	}
	if !errors.Is(err, store.ErrNotFound) || !manifest.IsLayer(d.MediaType) {
		return nil, err
	}
	n, err := s.layerOf(d)
	if err != nil {
		return nil, err
	}
	return s.tar(ctx, n)
}

// layerOf finds the stored layer that a manifest's layer descriptor became.
func (s *storeSource) layerOf(d v1.Descriptor) (uint64, error) {
	toc, err := manifest.TOCRefOf(d)
	if err != nil {
		return 0, err
	}
	if toc != nil {
		row, err := s.env.Store.LayerByTOC(toc.Digest)
		if err == nil {
			return row.Number, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return 0, err
		}
	}
	records, err := s.records()
	if err != nil {
		return 0, err
	}
	for _, rec := range records {
		raw, mediaType, err := s.env.Store.Manifest(rec.Manifest)
		if err != nil {
			return 0, err
		}
		m, err := manifest.ParseManifest(raw, mediaType)
		if err != nil {
			return 0, err
		}
		for i, l := range m.Layers {
			if l.Digest == d.Digest && len(m.Layers) == len(rec.Layers) {
				return rec.Layers[i], nil
			}
		}
	}
	return 0, fmt.Errorf("layer %s of %s: %w", d.Digest, s.ref, ErrNotFound)
}

func (s *storeSource) records() ([]store.Record, error) {
	if s.ref.Digest != "" {
		return s.env.Store.ResolveDigest(s.ref.Digest)
	}
	records, _, err := s.env.Store.Resolve(s.ref.StoreName())
	return records, err
}

// tar streams a layer's tar. Its files are made present first, so that a missing one is an error here and not in the
// middle of the stream.
func (s *storeSource) tar(ctx context.Context, n uint64) (io.ReadCloser, error) {
	layer, err := s.env.Pool.Layer(n)
	if err != nil {
		return nil, err
	}
	if err := layer.Ensure(ctx, nil, fill.Foreground); err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(layer.WriteTar(ctx, w)) }()
	return r, nil
}

// ranged gives nothing: the store's files are not a blob.
func (s *storeSource) ranged(v1.Descriptor) (fill.Source, store.Source) { return nil, store.Source{} }

func (s *storeSource) close() error { return nil }
