package fill

import (
	"hash"

	"github.com/opencontainers/go-digest"
)

// hasher hashes what is written to it in a goroutine of its own, so that who
// writes can do something else meanwhile. digest has to be called in the end.
type hasher struct {
	alg        digest.Algorithm
	sum        hash.Hash
	free, full chan []byte
	done       chan struct{}
}

func newHasher(alg digest.Algorithm) *hasher {
	const buffers = 4
	h := &hasher{alg, alg.Hash(), make(chan []byte, buffers), make(chan []byte, buffers), make(chan struct{})}
	for range buffers {
		h.free <- nil
	}
	go func() {
		defer close(h.done)
		for b := range h.full {
			h.sum.Write(b)
			h.free <- b
		}
	}()
	return h
}

// Write never fails.
func (h *hasher) Write(p []byte) (int, error) {
	b := <-h.free
	h.full <- append(b[:0], p...)
	return len(p), nil
}

// digest is that of all that was written. Nothing may be written after it.
func (h *hasher) digest() digest.Digest {
	close(h.full)
	<-h.done
	return digest.NewDigest(h.alg, h.sum)
}
