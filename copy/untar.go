package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	tarsplit "github.com/vbatts/tar-split/tar/storage"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// tarLayer downloads a layer, unpacks it into objects and keeps it under its verified diffID.
func (im *importer) tarLayer(ctx context.Context, l manifest.Layer, meter Meter) (uint64, error) {
	n, err := im.tarLayerOnce(ctx, l, meter)
	if errors.Is(err, errResumed) {
		n, err = im.tarLayerOnce(ctx, l, meter)
	}
	return n, err
}

func (im *importer) tarLayerOnce(ctx context.Context, l manifest.Layer, meter Meter) (n uint64, err error) {
	blob, err := im.blob(ctx, l.Descriptor)
	if err != nil {
		return 0, err
	}
	defer blob.Close()
	stream, err := compression.NewReader(&metered{ReadCloser: blob, meter: meter})
	if err != nil {
		return 0, err
	}
	batch := im.env.Store.NewBatch()
	regions := im.env.Store.NewRegions()
	defer func() { err = errors.Join(err, regions.Close()) }()
	u, err := untar(fill.Workspace(ctx, regions), stream, batch, l.DiffID.Algorithm())
	if err := errors.Join(stream.Close(), err); err != nil {
		return 0, errors.Join(err, batch.Abort())
	}
	if err := checkDiffID(l, u.diffID); err != nil {
		return 0, errors.Join(err, batch.Abort())
	}
	if err := batch.Commit(); err != nil {
		return 0, err
	}
	n, err = im.env.Store.PutLayer(store.LayerRow{DiffID: u.diffID}, u.index, u.split)
	if err != nil {
		return 0, err
	}
	return n, im.keep(n)
}

// unpacked is a tar that became objects: its index, and what is needed to write the same tar again.
type unpacked struct {
	diffID digest.Digest
	index  []byte
	split  []byte // tar-split, as chunked.NewTarSplit reads it; nil: the same tar cannot be written again
}

// untar stages the content of every file of a tar and describes the rest, in the memory of ws. The diffID is a
// digest of alg.
func untar(ws *chunked.Workspace, stream io.Reader, batch *store.Batch, alg digest.Algorithm) (*unpacked, error) {
	whole := alg.Digester()
	split, err := newSplitBuffer()
	if err != nil {
		return nil, err
	}
	in, done, err := asm.NewInputTarStreamWithDone(io.TeeReader(stream, whole.Hash()), tarsplit.NewJSONPacker(split), tarsplit.NewDiscardFilePutter())
	if err != nil {
		return nil, err
	}
	index, sparse, err := chunked.IndexTar(ws, in, func(e *chunked.Entry, content io.Reader) error {
		d, size, err := batch.PutNew(content)
		if err != nil {
			return err
		}
		e.Digest, e.Size, e.Chunks = d, size, []chunked.Chunk{{Size: size, Digest: d}}
		return nil
	})
	err = errors.Join(err, in.Close())
	if splitErr := <-done; err == nil { // after an early end it only says that there was one
		err = splitErr
	}
	if err != nil {
		return nil, err
	}
	headers, err := split.finish()
	if sparse {
		headers = nil // tar-split records the whole content, where the tar has only its parts
	}
	return &unpacked{diffID: whole.Digest(), index: index, split: headers}, err
}

// splitBuffer keeps a tar-split compressed in memory, and refuses one that is too large: the headers of a hostile tar.
type splitBuffer struct {
	buf bytes.Buffer
	enc *zstd.Encoder
	raw int64
}

func newSplitBuffer() (*splitBuffer, error) {
	s := &splitBuffer{}
	var err error
	s.enc, err = zstd.NewWriter(&s.buf, zstd.WithEncoderConcurrency(1))
	return s, err
}

func (s *splitBuffer) Write(p []byte) (int, error) {
	if s.raw += int64(len(p)); s.raw > manifest.MaxTarSplitRaw {
		return 0, fmt.Errorf("the tar's headers need more than %d bytes: %w", manifest.MaxTarSplitRaw, manifest.ErrMalformed)
	}
	return s.enc.Write(p)
}

func (s *splitBuffer) finish() ([]byte, error) {
	if err := s.enc.Close(); err != nil {
		return nil, fmt.Errorf("compress the tar's headers: %w", err)
	}
	return s.buf.Bytes(), nil
}
