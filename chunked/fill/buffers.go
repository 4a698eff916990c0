package fill

import (
	"sync"

	"github.com/tocsin/tocsin/store"
)

// Buffers are reused in three sizes: most chunks fit in the small one (64 KiB on
// average), and one of 4 MiB is usual elsewhere. What is longer, up to 256 MiB for
// a chunk of a few bytes in the blob, lies in a file, and so does what the memory
// budget has no room for.
const (
	smallBuffer  = 256 << 10
	mediumBuffer = 1 << 20
	largeBuffer  = 8 << 20
)

type buffers struct {
	free [3]sync.Pool // of *buffer
}

// buffer is memory whose first content is anything.
type buffer struct {
	b    []byte // as long as it was asked for
	file *store.Mapped
}

// sizeClass says which of the reused buffers n bytes fit in; -1: none.
func sizeClass(n int64) (class int, size int64) {
	for i, size := range []int64{smallBuffer, mediumBuffer, largeBuffer} {
		if n <= size {
			return i, size
		}
	}
	return -1, 0
}

// buffer returns n bytes for which release must be called.
func (p *Pool) buffer(n int64) (*buffer, error) {
	class, size := sizeClass(n)
	if class < 0 || !p.memory.chunks.TryAcquire(size) {
		m, err := p.st.Scratch(max(n, 1))
		if err != nil {
			return nil, err
		}
		return &buffer{b: m.Bytes()[:n], file: m}, nil
	}
	b, ok := p.memory.bufs.free[class].Get().(*buffer)
	if !ok {
		b = &buffer{b: make([]byte, size)}
	}
	b.b = b.b[:n]
	return b, nil
}

// release takes back what buffer returned.
func (p *Pool) release(b *buffer) {
	if b.file != nil {
		if err := b.file.Close(); err != nil {
			p.opt.Logger.Warn("scratch file stays mapped", "err", err)
		}
		return
	}
	b.b = b.b[:cap(b.b)]
	class, size := sizeClass(int64(len(b.b)))
	p.memory.bufs.free[class].Put(b)
	p.memory.chunks.Release(size)
}
