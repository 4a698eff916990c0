package copy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// storeSource reads an image of the store. Its manifests and configs are there as they came; its layers are files.
type storeSource struct {
	env  *Env
	ref  manifest.Ref
	find func() (*store.Found, error) // what ref stood for when it was asked first
	pin  string                       // of what is being copied; "" before hold
}

func newStoreSource(env *Env, ref manifest.Ref) *storeSource {
	return &storeSource{env: env, ref: ref, find: sync.OnceValues(func() (*store.Found, error) { return env.Store.Find(ref) })}
}

func (s *storeSource) top(ctx context.Context) (document, error) {
	found, err := s.find()
	if err != nil {
		return document{}, err
	}
	return s.manifest(ctx, v1.Descriptor{Digest: found.Top})
}

// manifest reads an instance, and says of one that did not come into the store which ones did (L32).
func (s *storeSource) manifest(ctx context.Context, d v1.Descriptor) (document, error) {
	raw, mediaType, err := s.env.Store.Manifest(d.Digest)
	if errors.Is(err, store.ErrNotFound) {
		if found, _ := s.find(); found != nil {
			err = fmt.Errorf("%w: of %s there is here %s; --platform chooses one, with --index keep several", err, s.ref.Familiar(), found.Here())
		}
	}
	if err != nil {
		return document{}, err
	}
	return checked(raw, mediaType, d.Digest)
}

// present leaves out the instances of a list that are not here, so that what is here can be described.
func (s *storeSource) present(ctx context.Context, o *Options) (*Options, error) {
	top, err := s.top(ctx)
	if err != nil || !manifest.IsList(top.mediaType) {
		return o, err
	}
	list, err := manifest.ParseList(top.raw, top.mediaType)
	if err != nil {
		return o, err
	}
	out := *o
	out.Select = Select{IndexOnly: true}
	for _, d := range list.Instances {
		if _, _, err := s.env.Store.Manifest(d.Digest); err == nil {
			out.Select.IndexOnly = false
			out.Select.Digests = append(out.Select.Digests, d.Digest)
		} else if !errors.Is(err, store.ErrNotFound) {
			return o, err
		}
	}
	return &out, nil
}

// blob gives a blob that is kept as it came.
func (s *storeSource) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	f, err := s.env.Store.OpenBlob(d.Digest)
	if err != nil {
		return nil, err
	}
	return newVerified(f, d), nil
}

// layer gives a layer's blob where that was kept, else its tar, written again from its files.
func (s *storeSource) layer(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	blob, err := s.blob(ctx, d)
	if err == nil || !errors.Is(err, store.ErrNotFound) {
		return blob, err
	}
	n, err := s.layerOf(d.Digest, false)
	if err != nil {
		return nil, err
	}
	return s.tar(ctx, n)
}

// layerOf finds the stored layer that a layer of an image became: as its TOC describes it for a variant, as its tar for
// a plain image.
func (s *storeSource) layerOf(d digest.Digest, variant bool) (uint64, error) {
	found, err := s.find()
	if err != nil {
		return 0, err
	}
	for _, rec := range found.Records {
		if (rec.Trust == manifest.TOCOnly.String()) != variant {
			continue
		}
		layers, err := s.dataLayers(rec.Manifest)
		if err != nil {
			return 0, err
		}
		i := slices.IndexFunc(layers, func(l v1.Descriptor) bool { return l.Digest == d })
		if i >= 0 && len(layers) == len(rec.Layers) {
			return rec.Layers[i], nil
		}
	}
	return 0, fmt.Errorf("layer %s of %s: %w", d, s.ref, ErrNotFound)
}

// dataLayers are a manifest's layers without the sentinel, as records have them.
func (s *storeSource) dataLayers(d digest.Digest) ([]v1.Descriptor, error) {
	raw, mediaType, err := s.env.Store.Manifest(d)
	if err != nil {
		return nil, err
	}
	m, err := manifest.ParseManifest(raw, mediaType)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(m.Layers, func(l v1.Descriptor) bool { return manifest.IsSentinelType(l.MediaType) }), nil
}

// hold keeps gc from the files and blobs that are about to be read, whatever becomes of the image's names meanwhile.
func (s *storeSource) hold(whole map[digest.Digest]bool) error {
	found, err := s.find()
	if err != nil {
		return err
	}
	var target store.PinTarget
	for _, rec := range found.Records {
		target.Layers = append(target.Layers, rec.Layers...)
		target.Blobs = append(target.Blobs, rec.Config)
	}
	for d, ok := range whole {
		if ok {
			target.Blobs = append(target.Blobs, d)
		}
	}
	s.pin = "read/" + rand.Text()
	return s.env.Store.Pin(s.pin, target, store.PinOptions{Process: true})
}

// tar streams a layer's tar. Its files are made present first, so that a missing one is an error here and not in the
// middle of the stream.
func (s *storeSource) tar(ctx context.Context, n uint64) (io.ReadCloser, error) {
	if _, err := s.env.Store.TarSplit(n); errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("the headers of this tar were not kept (it has sparse files, or no image of this layer that was pulled has named them), so it cannot be written again: %w", manifest.ErrUnsupported)
	}
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

func (s *storeSource) close() error { return s.env.Store.Unpin(s.pin) }
