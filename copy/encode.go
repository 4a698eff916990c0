package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// encode makes one layer anew in the compression that its image is to have and stores it, unless the destination has
// one that may be taken for it. The tar inside stays the same, and is compared with the config's diffID on the way.
func (r *runner) encode(ctx context.Context, ip imagePlan, l manifest.Layer) (v1.Descriptor, error) {
	key := madeKey{layerKey{blob: l.Digest, diffID: l.DiffID}, ip.compress}
	made, err := r.made.do(ctx, key, func() (v1.Descriptor, error) { return r.encodeOnce(ctx, ip, l) })
	return relabel(l.Descriptor, made), err
}

// relabel is a layer's descriptor after its blob was made anew or another one took its place: what describes the blob is
// the new one's, what somebody said of the layer stays (rule 40). What came from elsewhere is now here.
func relabel(old, made v1.Descriptor) v1.Descriptor {
	d := old
	d.MediaType, d.Digest, d.Size, d.URLs, d.Data = made.MediaType, made.Digest, made.Size, nil, nil
	d.Annotations = manifest.StripTOCAnnotations(old.Annotations)
	if len(made.Annotations) > 0 {
		if d.Annotations == nil {
			d.Annotations = make(map[string]string)
		}
		maps.Copy(d.Annotations, made.Annotations)
	}
	return d
}

func (r *runner) encodeOnce(ctx context.Context, ip imagePlan, l manifest.Layer) (v1.Descriptor, error) {
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return v1.Descriptor{}, err
	}
	defer r.slots.Release(1)
	if need, ok := ip.replaceable(l, true, r.naming, r.options); ok {
		if found, ok := r.reuse().find(ctx, l, need); ok {
			r.reused.Add(1)
			return found, nil
		}
	}
	made, err := r.encodeTar(ctx, l, ip.compress, reading{r.ownTar, checkDiffID})
	return made.desc, err
}

// reading is one of the two ways to read a layer: how its tar is had, and what the tar's digest has to be.
type reading struct {
	open  func(ctx context.Context, l manifest.Layer, meter Meter) (io.ReadCloser, error)
	check func(l manifest.Layer, tar digest.Digest) error
}

// encodeTar encodes a layer's tar as it was asked for, or as plain zstd if a table of contents cannot say it.
func (r *runner) encodeTar(ctx context.Context, l manifest.Layer, c Compression, as reading) (tarBlob, error) {
	made, err := r.encodeAs(ctx, l, c, as)
	if errors.Is(err, chunked.ErrUnsayable) || errors.Is(err, chunked.ErrTooBig) {
		r.note("layer %s became plain zstd, because a table of contents cannot say its tar: %v", l.Digest, err)
		why := err
		if made, err = r.encodeAs(ctx, l, Compression{Algorithm: algoZstd, Level: c.Level}, as); err == nil {
			r.unsaid.Store(made.desc.Digest, why)
		}
	}
	return made, err
}

// encodeAs streams a tar through the encoder into a new blob.
func (r *runner) encodeAs(ctx context.Context, l manifest.Layer, c Compression, as reading) (tarBlob, error) {
	meter := r.env.progress().Start(c.Algorithm+" "+shortDigest(l.Digest), l.Size)
	out, err := r.to.create()
	if err != nil {
		meter.Done(err)
		return tarBlob{}, err
	}
	var made tarBlob
	tar, err := as.open(ctx, l, meter)
	if err == nil {
		made.desc, made.tar, err = encodeTar(out, tar, c, encoding{r.naming.algorithmOf(l), l.DiffID.Algorithm()})
		// A blob's own digest is known at its end, so it is read to there even if the encoder stopped early; what it
		// has to say explains the other error.
		if err = errors.Join(tar.Close(), err); err == nil {
			err = as.check(l, made.tar)
		}
	}
	if err != nil {
		err = errors.Join(err, out.abort())
	} else if err = out.commit(ctx, made.desc); err == nil {
		r.learn(l, c, made, tar)
	}
	meter.Done(err)
	return made, err
}

// learn remembers what was hashed while a layer was made anew: the new blob and its tar, and the old blob if it was that
// which was read (rule 18).
func (r *runner) learn(l manifest.Layer, c Compression, made tarBlob, read io.Reader) {
	r.env.Facts.add(fact{Tar: made.tar, Blob: made.desc.Digest, Size: made.desc.Size, As: c.Algorithm, TOC: made.desc.Annotations})
	if own, ok := read.(*blobTar); ok && manifest.IsLayer(l.MediaType) {
		r.env.Facts.add(fact{Tar: made.tar, Blob: l.Digest, Size: l.Size, As: own.as})
	}
}

// ownTar is the tar that a layer's blob holds.
func (r *runner) ownTar(ctx context.Context, l manifest.Layer, meter Meter) (io.ReadCloser, error) {
	layer, err := r.from.layer(ctx, l.Descriptor)
	if err != nil {
		return nil, err
	}
	tar, err := compression.NewReader(&metered{ReadCloser: layer, meter: meter})
	if err != nil {
		return nil, errors.Join(err, layer.Close())
	}
	as := tar.Algorithm
	if _, files := r.from.(*storeSource); files {
		as = "" // maybe the tar was made of files, and nobody has read the blob
	}
	return &blobTar{tar, layer, as}, nil
}

// blobTar is a tar with the blob that it is in.
type blobTar struct {
	*compression.Reader
	blob io.Closer
	as   string // how the blob that was read holds it; "" if none was
}

func (b *blobTar) Close() error { return errors.Join(b.Reader.Close(), b.blob.Close()) }

// checkDiffID compares a tar with what the image's configuration says of it.
func checkDiffID(l manifest.Layer, got digest.Digest) error {
	if l.Binding != manifest.BindTar || got != l.DiffID {
		return fmt.Errorf("tar of the layer is %s, the config says %s: %w", got, l.DiffID, ErrDiffID)
	}
	return nil
}

// encoding is the algorithm of the digests of a new layer and in it, and that of its tar's.
type encoding struct{ blob, tar digest.Algorithm }

// encodeTar writes a tar in a compression, and describes the blob that came out and the tar.
func encodeTar(out io.Writer, tar io.Reader, c Compression, as encoding) (d v1.Descriptor, diffID digest.Digest, err error) {
	d.MediaType = layerMediaType(c.Algorithm)
	if c.Algorithm == algoChunked {
		regions := store.RegionsIn(os.TempDir())
		defer func() { err = errors.Join(err, regions.Close()) }()
		w, err := chunked.Compress(out, tar, &chunked.WriterOptions{
			Level: c.Level, Algorithm: as.blob, DiffID: as.tar, Workspace: &chunked.Workspace{Region: regions.Region},
		})
		if err != nil {
			return d, "", err
		}
		d.Digest, d.Size, d.Annotations = w.Digest, w.Size, w.TOC.Annotations()
		return d, w.DiffID, nil
	}
	content, blob := as.tar.Digester(), as.blob.Digester()
	counted := &counter{Writer: io.MultiWriter(out, blob.Hash())}
	enc, err := compression.NewWriter(counted, c.Algorithm, c.Level)
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

// layerMediaType is the OCI media type of a layer in that form.
func layerMediaType(algo string) string {
	switch algo {
	case algoGzip, recipeGzip:
		return v1.MediaTypeImageLayerGzip
	case algoZstd, algoChunked:
		return v1.MediaTypeImageLayerZstd
	}
	return v1.MediaTypeImageLayer
}
