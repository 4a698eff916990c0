package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// tarBlob is what became of one layer of a stripped variant: the new blob, and the tar that its table of contents gave.
type tarBlob struct {
	desc v1.Descriptor
	tar  digest.Digest
}

// stripped brings a variant's layers to the destination without what made it one, and makes the plain image. The
// variant's blobs are never read as tars: what its files are, the tables of contents say.
func (r *runner) stripped(ctx context.Context, ip imagePlan) (*manifest.Image, document, []v1.Descriptor, error) {
	data := ip.image.DataLayers()
	layers, tars := make([]v1.Descriptor, len(data)), make([]digest.Digest, len(data))
	copy(tars, ip.tars)
	err := forEach(ctx, len(data), func(ctx context.Context, i int) (err error) {
		l := data[i]
		layers[i] = l.Descriptor
		switch {
		case ip.encode[i+1]:
			var made tarBlob
			made, err = r.rebuild(ctx, l, ip.compress)
			layers[i], tars[i] = relabel(l.Descriptor, made.desc), made.tar
		case ip.tars == nil:
			var made tarBlob
			if made, err = r.rebuild(ctx, l, Compression{}); err == nil {
				tars[i], err = made.tar, r.blob(ctx, l.Descriptor)
			}
		default:
			err = r.blob(ctx, l.Descriptor)
		}
		if err != nil {
			err = fmt.Errorf("layer %d (%s): %w", i+1, l.Digest, err)
		}
		return err
	})
	if err != nil {
		return nil, document{}, nil, err
	}
	im, doc, err := withoutSentinel(ip.image, tars)
	if err == nil && ip.plain {
		r.note("the sentinel variant %s became plain, so its image ID changed from %s to %s", ip.doc.digest, ip.image.Manifest.Config.Digest, im.Manifest.Config.Digest)
	}
	return im, doc, layers, err
}

// withoutSentinel is the plain image of a variant whose tars are known. It is pure.
func withoutSentinel(im *manifest.Image, tars []digest.Digest) (*manifest.Image, document, error) {
	rawManifest, rawConfig, err := manifest.StripSentinel(im, tars)
	if err != nil {
		return nil, document{}, err
	}
	m, err := manifest.ParseManifest(rawManifest, im.Manifest.MediaType)
	if err != nil {
		return nil, document{}, err
	}
	c, err := manifest.ParseConfig(rawConfig)
	if err != nil {
		return nil, document{}, err
	}
	plain, err := manifest.NewImage(m, c)
	return plain, made(rawManifest, m.MediaType), err
}

// viewKey is a layer read in one way: two images that name one blob with different tables of contents share nothing.
type viewKey struct {
	blob, toc digest.Digest
	as        Compression
}

// rebuild writes a layer's tar again from its table of contents, hashes it, and encodes it unless c says nothing.
func (r *runner) rebuild(ctx context.Context, l manifest.Layer, c Compression) (tarBlob, error) {
	return r.views.do(ctx, viewKey{l.Digest, l.TOC.Digest, c}, func() (tarBlob, error) {
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return tarBlob{}, err
		}
		defer r.slots.Release(1)
		if c.Algorithm == "" {
			return r.hashView(ctx, l)
		}
		return r.encodeTar(ctx, l, c, reading{r.viewTar, func(manifest.Layer, digest.Digest) error { return nil }})
	})
}

// hashView only hashes the tar.
func (r *runner) hashView(ctx context.Context, l manifest.Layer) (tarBlob, error) {
	meter := r.env.progress().Start("tar of "+shortDigest(l.Digest), l.Size)
	tar, err := r.viewTar(ctx, l, meter)
	out := tarBlob{desc: l.Descriptor}
	if err == nil {
		out.tar, err = digestOf(ctx, tar)
		err = errors.Join(err, tar.Close())
	}
	meter.Done(err)
	return out, err
}

// viewTar is the tar that a layer's table of contents describes. The store writes it from its files; of other places the
// blob is read once into a temporary file.
func (r *runner) viewTar(ctx context.Context, l manifest.Layer, meter Meter) (io.ReadCloser, error) {
	if st, ok := r.from.(*storeSource); ok {
		n, err := st.layerOf(l.Digest, true)
		if err != nil {
			return nil, err
		}
		return st.tar(ctx, n)
	}
	f, err := r.spooled(ctx, l.Descriptor, meter)
	if err != nil {
		return nil, err
	}
	view, err := openTOCView(ctx, f, l)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return view, nil
}

// spooled reads a blob, verified, into a file without a name.
func (r *runner) spooled(ctx context.Context, d v1.Descriptor, meter Meter) (*os.File, error) {
	return spoolBlob(ctx, r.from, d, meter)
}

// spoolBlob is spooled for any source.
func spoolBlob(ctx context.Context, from source, d v1.Descriptor, meter Meter) (*os.File, error) {
	body, err := from.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	f, err := spooled("tocsin-layer-", &metered{ReadCloser: body, meter: meter})
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return f, nil
}

// tocView is the tar of a layer as its table of contents gives it. Every file is compared with the digests there.
type tocView struct {
	*io.PipeReader
	ended chan struct{} // the goroutine that writes is done
	blob  io.Closer
	toc   io.Closer
}

// Close ends the stream and lets go of the blob and of what was read of it.
func (v *tocView) Close() error {
	err := v.PipeReader.Close()
	<-v.ended
	return errors.Join(err, v.toc.Close(), v.blob.Close())
}

// openTOCView takes the blob over if it returns no error.
func openTOCView(ctx context.Context, blob readerAtCloser, l manifest.Layer) (*tocView, error) {
	toc, err := readIndex(ctx, blob, l)
	if err != nil {
		return nil, err
	}
	split, err := toc.readSplit(blob, l)
	if err != nil {
		return nil, errors.Join(err, toc.Close())
	}
	r, w := io.Pipe()
	view := &tocView{PipeReader: r, ended: make(chan struct{}), blob: blob, toc: toc}
	go func() {
		defer close(view.ended)
		err := chunked.ProveTar(toc.ws, w, toc.index, split, func(name string) (io.ReadCloser, error) {
			x, ok := toc.index.ObjectByPath(name)
			if !ok {
				return nil, fmt.Errorf("%q is not in the table of contents: %w", name, ErrDiffID)
			}
			o := toc.index.Object(x)
			content := io.NewSectionReader(chunked.NewFileReader(blob, toc.index.Chunks(x)), 0, o.Size)
			return newVerified(io.NopCloser(content), v1.Descriptor{Digest: o.Digest, Size: o.Size}), nil
		})
		if errors.Is(err, chunked.ErrTwoReadings) || errors.Is(err, chunked.ErrDigestMismatch) {
			err = fmt.Errorf("the table of contents and the tar-split do not fit together: %w: %w", ErrDiffID, err)
		}
		w.CloseWithError(err)
	}()
	return view, nil
}

// openTOC is a layer's table of contents as a layer index, in temporary files.
type openTOC struct {
	regions *store.Regions
	ws      *chunked.Workspace
	index   *chunked.Index
	split   digest.Digest // of the tar-split
}

func (t *openTOC) Close() error { return t.regions.Close() }

// readSplit reads and verifies a layer's tar-split.
func (t *openTOC) readSplit(blob io.ReaderAt, l manifest.Layer) (*chunked.TarSplit, error) {
	raw, err := readRange(blob, l.TOC.TarSplit)
	if err != nil {
		return nil, err
	}
	split, err := chunked.ParseTarSplit(raw, t.split, l.TOC.TarSplitRawLen)
	if err == nil {
		err = chunked.CheckTarSplit(t.ws, t.index, split)
	}
	if err != nil {
		return nil, fmt.Errorf("tar-split of TOC %s: %w", l.TOC.Digest, err)
	}
	return split, nil
}

// readIndex reads and verifies a layer's table of contents.
func readIndex(ctx context.Context, blob io.ReaderAt, l manifest.Layer) (_ *openTOC, err error) {
	raw, err := readRange(blob, l.TOC.TOC)
	if err != nil {
		return nil, err
	}
	t := &openTOC{regions: store.RegionsIn(os.TempDir())}
	t.ws = fill.Workspace(ctx, t.regions)
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	b, split, err := chunked.IndexTOC(t.ws, raw, l.TOC, l.Size)
	if err != nil {
		return nil, err
	}
	t.split = split
	t.index, err = chunked.OpenIndex(b)
	return t, err
}

func readRange(blob io.ReaderAt, at manifest.Range) ([]byte, error) {
	b := make([]byte, at.Len)
	_, err := blob.ReadAt(b, at.Off)
	return b, err
}
