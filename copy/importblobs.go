package copy

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// artifact keeps the blobs of what is no container image. There is nothing else to keep of it, so nobody has to ask for
// it (rule 12).
func (im *importer) artifact(ctx context.Context, ip imagePlan) error {
	return im.keepBlobs(ctx, ip.doc.digest, ip.blobs...)
}

// keepBlobs brings blobs as they are, each once, and remembers that they are to stay with that manifest.
func (im *importer) keepBlobs(ctx context.Context, of digest.Digest, blobs ...v1.Descriptor) error {
	err := forEach(ctx, len(blobs), func(ctx context.Context, i int) error {
		d := blobs[i]
		_, err := im.blobs.do(ctx, d.Digest, func() (struct{}, error) { return struct{}{}, im.fetch(ctx, d) })
		if err != nil {
			err = fmt.Errorf("blob %s: %w", d.Digest, err)
		}
		return err
	})
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, d := range blobs {
		im.kept[of] = append(im.kept[of], d.Digest)
	}
	return err
}

// fetch brings one blob. One that is here whole, for whatever reason, is not fetched again.
func (im *importer) fetch(ctx context.Context, d v1.Descriptor) error {
	if err := im.slots.Acquire(ctx, 1); err != nil {
		return err
	}
	defer im.slots.Release(1)
	if err := im.hold(func(t *store.PinTarget) { t.Blobs = append(t.Blobs, d.Digest) }); err != nil {
		return err
	}
	if size, ok := im.env.Store.HasBlob(d.Digest); ok {
		if size != d.Size {
			return fmt.Errorf("has %d bytes, and not %d: %w", size, d.Size, manifest.ErrDigestMismatch)
		}
		return nil
	}
	meter := im.env.progress().Start("pull "+shortDigest(d.Digest), d.Size)
	err := im.fetchOnce(ctx, d, meter)
	if errors.Is(err, errResumed) {
		err = im.fetchOnce(ctx, d, meter)
	}
	meter.Done(err)
	return err
}

func (im *importer) fetchOnce(ctx context.Context, d v1.Descriptor, meter Meter) error {
	body, err := im.blob(ctx, d)
	if err != nil {
		return err
	}
	err = im.env.Store.PutBlob(ctx, d.Digest, &metered{ReadCloser: body, meter: meter})
	return errors.Join(err, body.Close())
}

// here opens a blob that the store has as it came. A layer whose blob is kept crosses the network once, and is read from
// there.
func (im *importer) here(d v1.Descriptor) (*os.File, error) {
	if size, ok := im.env.Store.HasBlob(d.Digest); !ok || size != d.Size {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, store.ErrNotFound)
	}
	return im.env.Store.OpenBlob(d.Digest)
}

// ranged reads ranges of what is here, so that the source needs none. The place it names is the source's, where the same
// bytes can be fetched again.
func (im *importer) ranged(d v1.Descriptor) (fill.Source, store.Source) {
	src, where := im.from.ranged(d)
	if size, ok := im.env.Store.HasBlob(d.Digest); !ok || size != d.Size {
		return src, where
	}
	return readerRanges{func(context.Context) (readerAtCloser, error) { return im.here(d) }}, where
}

// whole are the blobs of these instances that the store has as they came, those of layers and of artifacts.
func (s *storeSource) whole(instances []instance) map[digest.Digest]bool {
	out := make(map[digest.Digest]bool)
	for _, in := range instances {
		blobs := in.blobs
		if in.image != nil {
			for _, l := range in.image.DataLayers() {
				blobs = append(blobs, l.Descriptor)
			}
		}
		for _, d := range blobs {
			size, ok := s.env.Store.HasBlob(d.Digest)
			out[d.Digest] = ok && size == d.Size
		}
		for d, ok := range s.whole(in.children) {
			out[d] = ok
		}
	}
	return out
}
