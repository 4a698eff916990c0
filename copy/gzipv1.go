package copy

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

// recipeGzip names the encoder of this file and of deflatev1.go. Digests were published that follow from its output, so
// NEITHER FILE MAY CHANGE WHAT IT WRITES: a better encoder is another recipe with another name. Both use nothing but
// integer arithmetic, and of the standard library only what a standard defines (crc32) or what cannot matter.
const recipeGzip = "gzip.v1"

// segmentV1 is how much of the input becomes one deflate block: what a stored block can hold.
const segmentV1 = 1<<16 - 1

// gzipV1 writes a gzip stream that depends on the bytes written to it and on nothing else: not on how they were cut, not
// on the time, the machine or a library.
type gzipV1 struct {
	out     io.Writer
	deflate *deflateV1
	pending []byte // of the segment that is not full yet
	begun   bool
	crc     uint32
	size    uint32 // modulo 2^32, as the format has it
	err     error
}

func newGzipV1(out io.Writer) *gzipV1 {
	return &gzipV1{out: out, deflate: newDeflateV1(), pending: make([]byte, 0, segmentV1)}
}

func (z *gzipV1) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && z.err == nil {
		if len(z.pending) == segmentV1 { // only now is it known not to be the last one
			z.flush(false)
		}
		n := min(len(p), segmentV1-len(z.pending))
		z.pending = append(z.pending, p[:n]...)
		z.crc = crc32.Update(z.crc, crc32.IEEETable, p[:n])
		z.size += uint32(n)
		p = p[n:]
		written += n
	}
	return written, z.err
}

// flush writes the pending segment as one block.
func (z *gzipV1) flush(last bool) {
	if !z.begun {
		z.begun = true
		// Magic, deflate, no flags, no time, no hint at the level, unknown system.
		z.emit([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255})
	}
	z.emit(z.deflate.block(z.pending, last))
	z.pending = z.pending[:0]
}

func (z *gzipV1) emit(p []byte) {
	if z.err == nil {
		_, z.err = z.out.Write(p)
	}
}

// Close ends the stream. It does not close what is below.
func (z *gzipV1) Close() error {
	z.flush(true)
	z.emit(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, z.crc), z.size))
	return z.err
}
