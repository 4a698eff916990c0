package chunked

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// chunkDecoder is shared: DecodeAll keeps no state between calls and may be called concurrently.
//
//nolint:gochecknoglobals // made once, never changed
var chunkDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true),
		zstd.WithDecoderMaxWindow(maxWindow))
})

// DecodeChunk fills dst, whose length must be c.Size, with the content of c, which is in the frames that frames begins with.
// It compares the digest; after an error dst holds garbage. What follows the frames that fill dst is not looked at: the
// headers of the next file may. Frames that give fewer bytes, or end behind c, or are no frames, are ErrMalformed, other
// content is ErrDigestMismatch. Zeros need no frames and are not hashed again: ParseTOC did. Safe for concurrent
// use.
func DecodeChunk(dst []byte, frames []byte, c Chunk) error {
	if int64(len(dst)) != c.Size {
		return malformed("chunk %s has %d bytes, not %d", c.Digest, c.Size, len(dst))
	}
	if c.Zeros {
		clear(dst)
		return nil
	}
	dec, err := chunkDecoder()
	if err != nil {
		return fmt.Errorf("chunk %s: %w", c.Digest, err)
	}
	out := dst[:0:len(dst)]
	for len(out) < len(dst) {
		n, err := frameLen(frames)
		if err == nil {
			out, err = dec.DecodeAll(frames[:n], out)
		}
		if err != nil {
			return fmt.Errorf("chunk %s after %d of %d bytes: %w", c.Digest, len(out), len(dst), inputError(err))
		}
		frames = frames[n:]
	}
	if err := checkDigest(out, c.Digest); err != nil {
		return fmt.Errorf("chunk %s: %w", c.Digest, err)
	}
	return nil
}

// frameLen returns the length of the frame that b begins with, skippable ones included (RFC 8878, 3.1).
func frameLen(b []byte) (int, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil {
		return 0, err
	}
	n := h.HeaderSize
	if h.Skippable {
		n += int(h.SkippableSize)
	} else {
		for last := false; !last; {
			if len(b)-n < 3 {
				return 0, io.ErrUnexpectedEOF
			}
			block := uint32(b[n]) | uint32(b[n+1])<<8 | uint32(b[n+2])<<16
			n += 3
			if last = block&1 != 0; block>>1&3 == 1 { // one byte, repeated
				n++
			} else {
				n += int(block >> 3)
			}
		}
		if h.HasCheckSum {
			n += 4
		}
	}
	if n > len(b) {
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

// NewFileReader returns random, verified reads of one file whose chunks, all of them, lie in blob. It is safe for
// concurrent use if blob is, keeps the chunk it decoded last, and follows io.ReaderAt: what was read before an error is
// verified too.
func NewFileReader(blob io.ReaderAt, chunks []Chunk) io.ReaderAt {
	return &fileReader{blob: blob, chunks: chunks, at: -1}
}

type fileReader struct {
	blob   io.ReaderAt
	chunks []Chunk

	mu   sync.Mutex
	at   int // the chunk in data; -1: none
	data []byte
}

func (r *fileReader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	k := sort.Search(len(r.chunks), func(i int) bool { return r.chunks[i].End() > off })
	for ; n < len(p) && k < len(r.chunks); k++ {
		c := r.chunks[k]
		from := off + int64(n) - c.Off
		want := p[n:min(int64(len(p)), int64(n)+c.Size-from)]
		if err := r.readChunk(want, k, from); err != nil {
			return n, err
		}
		n += len(want)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// readChunk fills p from offset from of chunk k.
func (r *fileReader) readChunk(p []byte, k int, from int64) error {
	c := r.chunks[k]
	if c.Zeros {
		clear(p)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at != k {
		if c.Blob.Len == 0 || c.Size > MaxChunkSize {
			return malformed("chunk %s cannot be read from a blob", c.Digest)
		}
		frames := make([]byte, c.Blob.Len)
		if n, err := r.blob.ReadAt(frames, c.Blob.Off); n < len(frames) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("chunk %s: read of blob: %w", c.Digest, err)
		}
		if int64(cap(r.data)) < c.Size {
			r.data = make([]byte, c.Size)
		}
		r.at, r.data = -1, r.data[:c.Size]
		if err := DecodeChunk(r.data, frames, c); err != nil {
			return err
		}
		r.at = k
	}
	copy(p, r.data[from:])
	return nil
}
