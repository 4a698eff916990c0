package copy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/gzipv1"
)

// streamBuffer is large so that the stages of a pipeline do not wait for each other at every few bytes.
const streamBuffer = 256 << 10

// sniff tells a layer's compression by its first bytes: they beat the media type, which many writers get wrong.
func sniff(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return algoGzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return algoZstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return algoZstd // begins with a skippable frame
	}
	return algoNone
}

// tarReader is a layer's tar stream. Its EOF is the tar's; Close reads the blob below to its own end, so that whoever
// verifies the blob sees all of it.
type tarReader struct {
	io.Reader
	blob  io.Reader
	close func()
}

func (t *tarReader) Close() error {
	t.close()
	_, err := io.Copy(io.Discard, t.blob)
	return err
}

// openTar decompresses a layer. The caller closes the result, and checks the error: it is there that a blob which
// does not match its digest is found out, if not before.
func openTar(blob io.Reader) (*tarReader, error) {
	buffered := bufio.NewReaderSize(blob, streamBuffer)
	head, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch sniff(head) {
	case algoGzip:
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		a := readAhead(z)
		return &tarReader{Reader: a, blob: buffered, close: func() { a.stop(); z.Close() }}, nil
	case algoZstd:
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return &tarReader{Reader: z, blob: buffered, close: z.Close}, nil
	}
	return &tarReader{Reader: buffered, blob: buffered, close: func() {}}, nil
}

// encoder compresses a tar in one of the forms without a table of contents.
func encoder(w io.Writer, c Compression) (io.WriteCloser, error) {
	switch c.Algorithm {
	case algoGzip:
		level := c.Level
		if level == 0 {
			level = gzip.DefaultCompression
		}
		return newParallelGzip(w, level)
	case algoZstd:
		level := c.Level
		if level == 0 {
			level = 3
		}
		return newParallelZstd(w, level)
	case recipeGzip:
		return gzipv1.NewWriter(w), nil
	case algoNone:
		return nopCloser{w}, nil
	}
	return nil, fmt.Errorf("no plain encoder for %q: %w", c.Algorithm, ErrUsage)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

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
