package chunked

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// noise returns n bytes that look random and are the same every time; none of them is zero.
func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(255) + 1)
	}
	return b
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestCut(t *testing.T) {
	long := noise(1, 2*cutAhead)
	first, _ := cutChunk(long)
	tests := []struct {
		name  string
		in    []byte
		n     int
		zeros bool
	}{
		{"nothing", nil, 0, false},
		{"one byte", []byte{7}, 1, false},
		{"less than a chunk", noise(2, minChunk), minChunk, false},
		{"zeros below the threshold", make([]byte, minHole-1), minHole - 1, false},
		{"zeros at the threshold", make([]byte, minHole), minHole, true},
		{"all zeros", make([]byte, 3*cutAhead), 3 * cutAhead, true},
		{"zeros, then data", concat(make([]byte, 5000), []byte{1}), 5000, true},
		{"data, then a hole", concat(noise(3, 100), make([]byte, 5000), []byte{1}), 100, false},
		{"data, then no hole", concat(noise(3, 100), make([]byte, minHole-1), []byte{1}), 100 + minHole, false},
		{"hole right after the probed byte", concat(noise(4, minHole), make([]byte, minHole)), minHole, false},
		{"hole right before the probed byte", concat(noise(4, minHole-1), make([]byte, minHole)), minHole - 1, false},
		{"short zeros, then a hole", concat(make([]byte, 1000), []byte{1}, make([]byte, 2000)), 1001, false},
		{"hole behind the longest chunk", concat(bytes.Repeat([]byte{1}, maxChunk+10), make([]byte, 4096)), maxChunk, false},
		{"hole at the very end of the longest chunk", concat(bytes.Repeat([]byte{1}, maxChunk-1), make([]byte, 4096)), maxChunk - 1, false},
		{"one byte over and over", bytes.Repeat([]byte{1}, 2*cutAhead), maxChunk, false},
		{"only as much as needed", long[:cutAhead], first, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, zeros := cutChunk(tt.in)
			if n != tt.n || zeros != tt.zeros {
				t.Errorf("cutChunk = %d, %v; want %d, %v", n, zeros, tt.n, tt.zeros)
			}
		})
	}
}

// The average is what dedup and the size of TOCs depend on.
func TestCutAverage(t *testing.T) {
	const total = 32 << 20
	b, chunks := noise(5, total), 0
	for len(b) > 0 {
		n, _ := cutChunk(b)
		if n > maxChunk || n < minChunk && n < len(b) {
			t.Fatalf("chunk of %d bytes with %d left", n, len(b))
		}
		b = b[n:]
		chunks++
	}
	if avg := total / chunks; avg < 64<<10 || avg > 96<<10 {
		t.Errorf("chunks are %d bytes on average", avg)
	}
}

// An insertion must move only the cuts near it.
func TestCutFollowsContent(t *testing.T) {
	old := noise(6, 8<<20)
	edited := concat(old[:1<<20], []byte("inserted"), old[1<<20:])
	have := map[string]bool{}
	for b := old; len(b) > 0; {
		n, _ := cutChunk(b)
		have[string(b[:n])] = true
		b = b[n:]
	}
	missing := 0
	for b := edited; len(b) > 0; {
		n, _ := cutChunk(b)
		if !have[string(b[:n])] {
			missing++
		}
		b = b[n:]
	}
	if missing == 0 || missing > 4 {
		t.Errorf("%d of %d chunks are new after an insertion", missing, len(have))
	}
}

func TestFindHole(t *testing.T) {
	naive := func(b []byte) int {
		run := 0
		for i, c := range b {
			if run++; c != 0 {
				run = 0
			}
			if run == minHole {
				return i - minHole + 1
			}
		}
		return -1
	}
	r := rand.New(rand.NewPCG(7, 7))
	found := 0
	for range 2000 {
		b := noise(uint64(r.Int()), 1+r.IntN(8<<10))
		for range r.IntN(4) {
			at := r.IntN(len(b))
			clear(b[at:min(len(b), at+minHole-2+r.IntN(5))])
		}
		want := naive(b)
		if want >= 0 {
			found++
		}
		if got := findHole(b); got != want {
			t.Fatalf("findHole = %d, want %d in %d bytes", got, want, len(b))
		}
	}
	if found < 500 {
		t.Fatalf("only %d inputs had a hole", found)
	}
}

func BenchmarkCut(b *testing.B) {
	data := noise(8, 8<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		for rest := data; len(rest) > 0; {
			n, _ := cutChunk(rest)
			rest = rest[n:]
		}
	}
}
