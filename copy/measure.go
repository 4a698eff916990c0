package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
)

// A stream that became more than bombFloor bytes, and more than bombRatio times what it was, is refused. Deflate cannot
// exceed 1032 times; zstd can, but no layer of files does for so long.
const (
	bombFloor = 16 << 30
	bombRatio = 1100
)

// measured is what one pass over some bytes found out about them.
type measured struct {
	size        int64
	digests     map[digest.Algorithm]digest.Digest // of the bytes
	compression string                             // by the first of them
	tars        map[digest.Algorithm]digest.Digest // of what is inside, or of the bytes when they are not compressed
	broken      error                              // why the inside could not be read
	recipe      v1.Descriptor                      // what plain bytes become under the asked recipe
	packed      *measured                          // the same
	raw         []byte                             // of a document
}

// sameBytes tells whether two entries have the same content.
func (m *measured) sameBytes(other *measured) bool {
	if m.size != other.size {
		return false
	}
	for alg, d := range m.digests {
		if o, ok := other.digests[alg]; ok {
			return o == d
		}
	}
	return false
}

// measuring says what to find out.
type measuring struct {
	algs   []digest.Algorithm // of all digests
	recipe bool
	bomb   int64 // 0: bombFloor
}

// with is m with another algorithm for everything.
func (m measuring) with(alg digest.Algorithm) measuring {
	if !slices.Contains(m.algs, alg) {
		m.algs = append(slices.Clone(m.algs), alg)
	}
	return m
}

// read measures what r holds, which must be size bytes. It reads r to its end whatever is in it; the error is r's. Small
// contents and documents are read whole, and layers through a pipeline: one goroutine reads and hashes the blob, one
// decompresses, and this one hashes what comes out.
func (m measuring) read(ctx context.Context, r io.Reader, size int64) (*measured, error) {
	out := &measured{size: size}
	blob := newHashes(m.algs)
	r = io.TeeReader(&contextReader{ctx, r}, blob)
	head := make([]byte, min(size, 512))
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, cutOff(err)
	}
	out.compression = compression.Sniff(head)
	r = io.MultiReader(bytes.NewReader(head), r)
	var err error
	switch {
	case size <= streamBuffer || isDocument(head) && size <= manifest.MaxConfigSize:
		err = m.readWhole(out, r)
	default:
		err = m.stream(out, r)
	}
	if err != nil {
		return nil, cutOff(err)
	}
	out.digests = blob.digests()
	if out.compression == algoNone {
		out.tars = out.digests
	}
	if out.packed != nil {
		out.packed.tars = out.tars
	}
	return out, nil
}

// cutOff says what it means that a stream ended in the middle.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w, it was cut off: %w", io.ErrUnexpectedEOF, manifest.ErrMalformed)
	}
	return err
}

// isDocument tells JSON by how it begins.
func isDocument(head []byte) bool {
	head = bytes.TrimLeft(head, " \t\r\n")
	return len(head) > 0 && (head[0] == '{' || head[0] == '[')
}

func (m measuring) readWhole(out *measured, r io.Reader) error {
	raw := make([]byte, out.size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return err
	}
	if isDocument(raw) {
		out.raw = raw
	}
	return m.inside(out, bytes.NewReader(raw))
}

func (m measuring) stream(out *measured, r io.Reader) error {
	a := compression.ReadAhead(r)
	err := m.inside(out, a)
	_, rest := io.Copy(io.Discard, a) // also after an early end; and an error of r's is told again
	a.Stop()
	return errors.Join(err, rest)
}

// inside hashes what r holds, decompressed. What is wrong with the compression is out.broken.
func (m measuring) inside(out *measured, r io.Reader) error {
	if out.compression == algoNone {
		return m.plain(out, r)
	}
	tars := newHashes(m.algs)
	tar, err := compression.NewReader(r)
	if err != nil {
		out.broken = fmt.Errorf("%w: %w", err, manifest.ErrMalformed)
		return nil
	}
	limit := &bounded{Reader: tar, floor: m.bomb, compressed: func() int64 { return out.size }}
	_, err = io.CopyBuffer(tars, struct{ io.Reader }{limit}, make([]byte, streamBuffer))
	if err != nil {
		out.broken = fmt.Errorf("%w: %w", err, manifest.ErrMalformed)
	} else {
		out.tars = tars.digests()
	}
	return tar.Close()
}

// plain reads what is not compressed, and describes what the recipe makes of it if one was asked for.
func (m measuring) plain(out *measured, r io.Reader) error {
	if !m.recipe || out.raw != nil {
		_, err := io.Copy(io.Discard, r)
		return err
	}
	into := newHashes(m.algs)
	var err error
	out.recipe, _, err = encodeTar(into, r, Compression{Algorithm: recipeGzip}, encoding{digest.SHA256, digest.SHA256})
	out.packed = &measured{size: out.recipe.Size, digests: into.digests(), compression: algoGzip}
	return err
}

// bounded refuses a decompression bomb.
type bounded struct {
	io.Reader
	floor      int64        // 0: bombFloor
	compressed func() int64 // bytes that went in
	n          int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.n += int64(n)
	floor := b.floor
	if floor == 0 {
		floor = bombFloor
	}
	if b.n > floor && b.n/bombRatio > b.compressed() {
		return n, fmt.Errorf("%d bytes became more than %d: %w", b.compressed(), b.n, manifest.ErrMalformed)
	}
	return n, err
}

// hashes computes digests in several algorithms, usually one.
type hashes struct {
	io.Writer
	of map[digest.Algorithm]hash.Hash
}

func newHashes(algs []digest.Algorithm) *hashes {
	h := &hashes{of: make(map[digest.Algorithm]hash.Hash, len(algs))}
	var all []io.Writer
	for _, alg := range algs {
		h.of[alg] = alg.Hash()
		all = append(all, h.of[alg])
	}
	h.Writer = all[0]
	if len(all) > 1 {
		h.Writer = io.MultiWriter(all...)
	}
	return h
}

func (h *hashes) digests() map[digest.Algorithm]digest.Digest {
	out := make(map[digest.Algorithm]digest.Digest, len(h.of))
	for alg, sum := range h.of {
		out[alg] = digest.NewDigest(alg, sum)
	}
	return out
}
