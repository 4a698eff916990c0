// Package gzipv1 is the encoder of the recipe gzip.v1: gzip whose output never changes.
//
// Digests were published that follow from what it writes, so NOTHING HERE MAY CHANGE WHAT IT WRITES: a better encoder is
// another recipe with another name, in a package of its own. It uses nothing but integer arithmetic, and of the standard
// library only what a standard defines (crc32) or what cannot matter. It is not how layers are compressed otherwise (see
// copy), it does not decompress, and it is not fast.
package gzipv1

import (
	"encoding/binary"
	"hash/crc32"
	"io"
)

// Name is what the recipe is called in options and answers.
const Name = "gzip.v1"

// segmentSize is how much of the input becomes one deflate block: what a stored block can hold.
const segmentSize = 1<<16 - 1

// Writer writes a gzip stream that depends on the bytes written to it and on nothing else: not on how they were cut, not
// on the time, the machine or a library. One goroutine at a time may use it.
type Writer struct {
	out     io.Writer
	deflate *deflate
	pending []byte // of the segment that is not full yet
	begun   bool
	crc     uint32
	size    uint32 // modulo 2^32, as the format has it
	err     error
}

// NewWriter begins a stream. Nothing is written to out before the first segment is full or Close is called.
func NewWriter(out io.Writer) *Writer {
	return &Writer{out: out, deflate: newDeflate(), pending: make([]byte, 0, segmentSize)}
}

// Write implements io.Writer. An error of out is returned here or by a later call.
func (z *Writer) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && z.err == nil {
		if len(z.pending) == segmentSize { // only now is it known not to be the last one
			z.flush(false)
		}
		n := min(len(p), segmentSize-len(z.pending))
		z.pending = append(z.pending, p[:n]...)
		z.crc = crc32.Update(z.crc, crc32.IEEETable, p[:n])
		z.size += uint32(n)
		p = p[n:]
		written += n
	}
	return written, z.err
}

// flush writes the pending segment as one block.
func (z *Writer) flush(last bool) {
	if !z.begun {
		z.begun = true
		// Magic, deflate, no flags, no time, no hint at the level, unknown system.
		z.emit([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255})
	}
	z.emit(z.deflate.block(z.pending, last))
	z.pending = z.pending[:0]
}

func (z *Writer) emit(p []byte) {
	if z.err == nil {
		_, z.err = z.out.Write(p)
	}
}

// Close ends the stream. It does not close what is below.
func (z *Writer) Close() error {
	z.flush(true)
	z.emit(binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, z.crc), z.size))
	return z.err
}
