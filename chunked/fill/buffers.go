package fill

import "sync"

// Buffers are reused in two sizes: most chunks fit in the small one
// (64 KiB on average), most ranges in the large one.
const (
	smallBuffer = 256 << 10
	largeBuffer = DefaultMaxRange
)

type buffers struct {
	small, large sync.Pool

	// huge lets one chunk longer than largeBuffer be decoded at a time: a
	// hostile TOC can name 256 MiB that take a few bytes in the blob.
	huge sync.Mutex
}

// buffer returns n bytes whose content is anything.
func (p *Pool) buffer(n int64) []byte {
	pool, size := &p.bufs.small, int64(smallBuffer)
	if n > smallBuffer {
		pool, size = &p.bufs.large, largeBuffer
	}
	if n > size {
		return make([]byte, n)
	}
	if b, ok := pool.Get().(*[]byte); ok {
		return (*b)[:n]
	}
	return make([]byte, n, size)
}

// reuse takes back what buffer returned.
func (p *Pool) reuse(b []byte) {
	b = b[:cap(b)]
	switch len(b) {
	case smallBuffer:
		p.bufs.small.Put(&b)
	case largeBuffer:
		p.bufs.large.Put(&b)
	}
}
