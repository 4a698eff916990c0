package differential

import (
	"encoding/binary"
	"math/rand/v2"
)

// choices are the decisions that make a case. They come from bytes, and when those are used up, from a seed or, without
// one, are all zero, which is the ordinary choice everywhere.
type choices struct {
	data []byte
	more *rand.ChaCha8
	took []byte // what was answered, as data would have it
}

func seeded(seed uint64) *choices {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	return &choices{more: rand.NewChaCha8(key)}
}

// n returns a number below limit, which is at most 256.
func (c *choices) n(limit int) int {
	var b byte
	switch {
	case len(c.data) > 0:
		b, c.data = c.data[0], c.data[1:]
	case c.more != nil:
		b = byte(c.more.Uint64())
	}
	got := int(b) % limit
	c.took = append(c.took, byte(got))
	return got
}

// rare is true in one of so many cases, which are at most 256.
func (c *choices) rare(oneIn int) bool { return c.n(oneIn) == oneIn-1 }

// of returns one of what is given.
func of[T any](c *choices, from ...T) T { return from[c.n(len(from))] }
