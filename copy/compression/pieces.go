package compression

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"
)

// pieces compresses a stream in pieces of one size, several at once, and writes them in their order. What comes out
// depends on the input and the size of the pieces only, not on how it was cut into writes, nor on the number of cores.
type pieces struct {
	size   int
	encode func(before, piece []byte, last bool) ([]byte, error)

	buf    []byte
	before []byte // the piece before buf
	queue  chan chan encoded
	done   chan struct{} // the writer ended
	failed chan struct{} // and did so before its time
	err    error         // of the writer, set before failed is closed
}

type encoded struct {
	raw []byte
	err error
}

func newPieces(out io.Writer, size int, encode func(before, piece []byte, last bool) ([]byte, error)) *pieces {
	p := &pieces{
		size: size, encode: encode, buf: make([]byte, 0, size), queue: make(chan chan encoded, runtime.GOMAXPROCS(0)-1),
		done: make(chan struct{}), failed: make(chan struct{}),
	}
	go p.write(out)
	return p
}

// write writes what was encoded. After an error it goes on to take what comes, so that nobody waits for it.
func (p *pieces) write(out io.Writer) {
	defer close(p.done)
	for next := range p.queue {
		e := <-next
		if p.err != nil {
			continue
		}
		if p.err = e.err; p.err == nil {
			_, p.err = out.Write(e.raw)
		}
		if p.err != nil {
			close(p.failed)
		}
	}
}

// Write implements io.Writer. A full piece waits until more comes, because it may be the last.
func (p *pieces) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		if len(p.buf) == p.size {
			select {
			case <-p.failed:
				return n, p.err
			default:
				p.begin(false)
			}
		}
		m := min(len(b)-n, p.size-len(p.buf))
		p.buf = append(p.buf, b[n:n+m]...)
		n += m
	}
	return n, nil
}

// begin encodes the piece in buf. It waits while as many are under way as there are cores.
func (p *pieces) begin(last bool) {
	before, piece := p.before, p.buf
	p.before, p.buf = piece, nil
	if !last {
		p.buf = make([]byte, 0, p.size)
	}
	out := make(chan encoded, 1)
	p.queue <- out
	go func() {
		raw, err := p.encode(before, piece, last)
		out <- encoded{raw, err}
	}()
}

// Close writes the last piece and waits until all are written. It must be called, also after an error.
func (p *pieces) Close() error {
	p.begin(true)
	close(p.queue)
	<-p.done
	return p.err
}

// The sizes of pieces are part of what the encoders promise: the same tar, the same blob.
const (
	gzipPiece = 1 << 20
	zstdPiece = 4 << 20 // a frame of its own, which cannot refer to the one before
	gzipReach = 32 << 10
)

// parallelGzip writes one gzip member, whose pieces refer to the 32 KiB before them like those of a serial encoder.
type parallelGzip struct {
	*pieces
	out  io.Writer
	sum  uint32
	size uint32 // modulo 2^32, as the format has it
}

func newParallelGzip(out io.Writer, level int) (*parallelGzip, error) {
	if _, err := flate.NewWriter(io.Discard, level); err != nil {
		return nil, err
	}
	// No name, no time, and an unknown system: nothing but the tar.
	if _, err := out.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}); err != nil {
		return nil, err
	}
	idle := sync.Pool{New: func() any {
		w, _ := flate.NewWriter(io.Discard, level) // the level was tried above
		return w
	}}
	encode := func(before, piece []byte, last bool) ([]byte, error) {
		var b bytes.Buffer
		w := idle.Get().(*flate.Writer)
		defer idle.Put(w)
		w.ResetDict(&b, before[max(0, len(before)-gzipReach):])
		_, err := w.Write(piece)
		if err == nil && last {
			err = w.Close()
		} else if err == nil {
			err = w.Flush()
		}
		return b.Bytes(), err
	}
	return &parallelGzip{pieces: newPieces(out, gzipPiece, encode), out: out}, nil
}

func (z *parallelGzip) Write(b []byte) (int, error) {
	n, err := z.pieces.Write(b)
	z.sum = crc32.Update(z.sum, crc32.IEEETable, b[:n])
	z.size += uint32(n)
	return n, err
}

func (z *parallelGzip) Close() error {
	if err := z.pieces.Close(); err != nil {
		return err
	}
	end := binary.LittleEndian.AppendUint32(nil, z.sum)
	_, err := z.out.Write(binary.LittleEndian.AppendUint32(end, z.size))
	return err
}

// newParallelZstd writes one zstd frame after another, which every decoder takes for one stream.
func newParallelZstd(out io.Writer, level int) (*pieces, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithZeroFrames(true),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	return newPieces(out, zstdPiece, func(_, piece []byte, _ bool) ([]byte, error) {
		return z.EncodeAll(piece, nil), nil
	}), nil
}
