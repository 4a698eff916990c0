package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func BenchmarkReadTransaction(b *testing.B) {
	s := newStore(b)
	n := putTOC(b, s, "l")
	for b.Loop() {
		if _, err := s.Layer(n); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteTransaction(b *testing.B) {
	s := newStore(b)
	n := putTOC(b, s, "l")
	for b.Loop() {
		ok(b, s.SetDiffID(n, digest.FromString("d")))
	}
}

// BenchmarkBatch writes objects of 4 KiB; an operation is one object.
func BenchmarkBatch(b *testing.B) {
	for _, size := range []int{1, 100, 4000} {
		b.Run(fmt.Sprintf("%d objects", size), func(b *testing.B) {
			s := newStore(b)
			content := strings.Repeat("x", 4<<10)
			for i := 0; i < b.N; {
				batch := s.NewBatch()
				for range min(size, b.N-i) {
					if _, _, err := batch.PutNew(reader(fmt.Sprint(i, content))); err != nil {
						b.Fatal(err)
					}
					i++
				}
				ok(b, batch.Commit())
			}
		})
	}
}

// BenchmarkPartial writes chunks of 64 KiB and marks them.
func BenchmarkPartial(b *testing.B) {
	s := newStore(b)
	data := make([]byte, 64<<10)
	const n = 1 << 12
	k := PartialKey{digest.FromString("o"), digest.FromString("l"), n << 16}
	p, err := s.OpenPartial(k, func(i int) Span { return Span{Off: int64(i) << 16, Size: 1 << 16} }, n)
	if errors.Is(err, ErrComplete) {
		b.Fatal(err)
	}
	ok(b, err)
	defer p.Close()
	b.SetBytes(64 << 10)
	for i := 0; b.Loop(); i++ {
		ok(b, p.Write(i%n, data))
	}
}
