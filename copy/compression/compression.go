// Package compression says how a layer's tar is packed: what a blob is compressed with, the tar inside of it, and a blob
// made of a tar.
//
// It is not the zstd:chunked format (see chunked), and knows neither digests nor media types (see manifest): the bytes it
// is given are verified by whoever gave them. The encoder whose output never changes is copy/gzipv1.
package compression

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/tocsin/tocsin/copy/gzipv1"
	"github.com/tocsin/tocsin/manifest"
)

// BufferSize is that of the buffers between the stages of a pipeline, in bytes: large, so that they do not wait for each
// other at every few bytes.
const BufferSize = 256 << 10

// SniffLen is how much of a blob Sniff wants to see, in bytes.
const SniffLen = 4

// Sniff tells a layer's compression by its first bytes: they beat the media type, which many writers get wrong. The
// answer is manifest.Gzip, Zstd or None.
func Sniff(head []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return manifest.Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return manifest.Zstd
	case len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return manifest.Zstd // begins with a skippable frame
	}
	return manifest.None
}

// Reader is a layer's tar stream, for one goroutine. Its EOF is the tar's; Close reads the blob below to its own end,
// so that whoever verifies the blob sees all of it.
type Reader struct {
	// Algorithm is what the tar is packed with, as Sniff says. It is not written to.
	Algorithm string

	tar   io.Reader
	blob  io.Reader
	close func()
}

// Read implements io.Reader.
func (t *Reader) Read(p []byte) (int, error) { return t.tar.Read(p) }

// Close reads the rest of the blob. It does not close that.
func (t *Reader) Close() error {
	t.close()
	_, err := io.Copy(io.Discard, t.blob)
	return err
}

// NewReader decompresses a layer. The caller closes the result, and checks the error: it is there that a blob which
// does not match its digest is found out, if not before.
func NewReader(blob io.Reader) (*Reader, error) {
	buffered := bufio.NewReaderSize(blob, BufferSize)
	head, err := buffered.Peek(SniffLen)
	if err != nil && err != io.EOF {
		return nil, err
	}
	algorithm := Sniff(head)
	switch algorithm {
	case manifest.Gzip:
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		a := ReadAhead(z)
		return &Reader{Algorithm: algorithm, tar: a, blob: buffered, close: func() { a.Stop(); z.Close() }}, nil
	case manifest.Zstd:
		z, err := zstd.NewReader(buffered, zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return &Reader{Algorithm: algorithm, tar: z, blob: buffered, close: z.Close}, nil
	}
	return &Reader{Algorithm: algorithm, tar: buffered, blob: buffered, close: func() {}}, nil
}

// NewWriter compresses a tar as manifest.Gzip, Zstd or None, or by the recipe gzipv1.Name, which has no levels. Level 0 is
// the algorithm's default. What is written depends on the tar and the level alone. Close must be called, also after an
// error; it does not close w. Of another algorithm the error is manifest.ErrUnsupported.
func NewWriter(w io.Writer, algorithm string, level int) (io.WriteCloser, error) {
	switch algorithm {
	case manifest.Gzip:
		if level == 0 {
			level = gzip.DefaultCompression
		}
		return newParallelGzip(w, level)
	case manifest.Zstd:
		if level == 0 {
			level = 3
		}
		return newParallelZstd(w, level)
	case gzipv1.Name:
		return gzipv1.NewWriter(w), nil
	case manifest.None:
		return nopCloser{w}, nil
	}
	return nil, fmt.Errorf("no encoder for %q: %w", algorithm, manifest.ErrUnsupported)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
