package copy

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// encode makes one layer anew in the asked compression and stores it. The tar inside stays the same, and is compared
// with the config's diffID on the way.
func (r *runner) encode(ctx context.Context, l manifest.Layer) (v1.Descriptor, error) {
	return r.made.do(ctx, layerKey{blob: l.Digest, diffID: l.DiffID}, func() (v1.Descriptor, error) { return r.encodeOnce(ctx, l) })
}

func (r *runner) encodeOnce(ctx context.Context, l manifest.Layer) (v1.Descriptor, error) {
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return v1.Descriptor{}, err
	}
	defer r.slots.Release(1)
	c := r.options.Compress
	d, err := r.encodeAs(ctx, l, c)
	if errors.Is(err, chunked.ErrUnsayable) || errors.Is(err, chunked.ErrTooBig) {
		r.note("layer %s became plain zstd, because a table of contents cannot say its tar: %v", l.Digest, err)
		return r.encodeAs(ctx, l, Compression{Algorithm: algoZstd, Level: c.Level})
	}
	return d, err
}

// encodeAs streams the layer through the encoder into a new blob.
func (r *runner) encodeAs(ctx context.Context, l manifest.Layer, c Compression) (v1.Descriptor, error) {
	meter := r.env.progress().Start(c.Algorithm+" "+shortDigest(l.Digest), l.Size)
	out, err := r.to.create()
	if err != nil {
		meter.Done(err)
		return v1.Descriptor{}, err
	}
	d, err := r.encodeInto(ctx, out, l, c, meter)
	if err != nil {
		err = errors.Join(err, out.abort())
	} else {
		err = out.commit(ctx, d)
	}
	meter.Done(err)
	return d, err
}

func (r *runner) encodeInto(ctx context.Context, out io.Writer, l manifest.Layer, c Compression, meter Meter) (v1.Descriptor, error) {
	layer, err := r.from.layer(ctx, l.Descriptor)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer layer.Close()
	tar, err := openTar(&metered{ReadCloser: layer, meter: meter})
	if err != nil {
		return v1.Descriptor{}, err
	}
	d, diffID, err := encodeTar(out, tar, c, l.DiffID.Algorithm())
	// A blob's own digest is known at its end, so it is read to there even if the encoder stopped early; what it
	// has to say explains the other error.
	if err := errors.Join(tar.Close(), err); err != nil {
		return d, err
	}
	return d, checkDiffID(l, diffID)
}

// checkDiffID compares a tar with what the image's configuration says of it.
func checkDiffID(l manifest.Layer, got digest.Digest) error {
	if l.Binding != manifest.BindTar || got != l.DiffID {
		return fmt.Errorf("tar of the layer is %s, the config says %s: %w", got, l.DiffID, ErrDiffID)
	}
	return nil
}

// encodeTar writes a tar in a compression, and describes the blob that came out and the tar, by a digest of alg.
func encodeTar(out io.Writer, tar io.Reader, c Compression, alg digest.Algorithm) (d v1.Descriptor, diffID digest.Digest, err error) {
	d.MediaType = layerMediaType(c.Algorithm)
	content := alg.Digester()
	if c.Algorithm == algoChunked {
		if alg != digest.SHA256 { // which the format computes anyway
			tar = io.TeeReader(tar, content.Hash())
		}
		w, err := chunked.Compress(out, tar, &chunked.WriterOptions{Level: c.Level})
		if err != nil {
			return d, "", err
		}
		d.Digest, d.Size, d.Annotations = w.Digest, w.Size, w.TOC.Annotations()
		if alg == digest.SHA256 {
			return d, w.DiffID, nil
		}
		return d, content.Digest(), nil
	}
	blob := digest.SHA256.Digester()
	counted := &counter{Writer: io.MultiWriter(out, blob.Hash())}
	enc, err := encoder(counted, c)
	if err != nil {
		return d, "", err
	}
	_, err = io.CopyBuffer(io.MultiWriter(enc, content.Hash()), struct{ io.Reader }{tar}, make([]byte, streamBuffer))
	if err := errors.Join(err, enc.Close()); err != nil {
		return d, "", err
	}
	d.Digest, d.Size = blob.Digest(), counted.n
	return d, content.Digest(), nil
}

type counter struct {
	io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n += int64(n)
	return n, err
}
