package chunked

import "bytes"

// How the writer cuts a file. Changing any of these, or the gear table, moves the boundaries of what is written from
// then on, so that new layers share fewer chunks with old ones; nothing else depends on them.
const (
	minChunk = 16 << 10
	maxChunk = 256 << 10
	// cutMask has the 16 high bits set, so that a cut is found every 64 KiB on average, as often as
	// containers/storage does with its RollsumBits of 16. A high bit of the gear hash has seen 48 bytes or more.
	cutMask = 0xffff << 48
	// gearSpan is how many bytes the 64-bit gear hash remembers.
	gearSpan = 64
	// minHole is the shortest run of zeros that becomes a chunk of its own (holesThreshold of containers/storage).
	minHole = 1 << 10
	// cutAhead is how many bytes cutChunk must see to decide as if it saw the whole rest of the file.
	cutAhead = maxChunk + minHole
)

// gear is the table of the gear hash: 256 pseudo-random numbers.
var gear = gearTable()

// gearTable returns the first 256 numbers of splitmix64 from seed 0.
func gearTable() (t [256]uint64) {
	var x uint64
	for i := range t {
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		t[i] = z ^ z>>31
	}
	return t
}

// cutChunk returns the length of the first chunk of b and whether it is one of zeros. b is the rest of a file, or at least
// cutAhead bytes of it. A chunk of zeros that reaches the end of b may go on in the bytes after it; a chunk of data
// never does.
func cutChunk(b []byte) (n int, zeros bool) {
	if z := leadingZeros(b); z >= minHole {
		return z, true
	}
	limit := min(len(b), maxChunk)
	if h := findHole(b[:min(len(b), cutAhead)]); h >= 0 {
		limit = min(limit, h)
	}
	return gearCut(b[:limit]), false
}

// gearCut returns where the content of b says that its first chunk ends: between minChunk and len(b), or len(b).
func gearCut(b []byte) int {
	if len(b) <= minChunk {
		return len(b)
	}
	var h uint64
	for _, c := range b[minChunk-gearSpan : minChunk] {
		h = h<<1 + gear[c]
	}
	for i, c := range b[minChunk:] {
		h = h<<1 + gear[c]
		if h&cutMask == 0 {
			return minChunk + i + 1
		}
	}
	return len(b)
}

// findHole returns where the first run of minHole zeros in b starts, or -1. Such a run covers a byte at a multiple of
// minHole (less one), so only those are looked at before anything else.
func findHole(b []byte) int {
	for i := minHole - 1; i < len(b); i += minHole {
		if b[i] != 0 {
			continue
		}
		start := i
		for start > 0 && b[start-1] == 0 && i-start < minHole-1 {
			start--
		}
		if i-start == minHole-1 || leadingZeros(b[i:])+i-start >= minHole {
			return start
		}
	}
	return -1
}

// leadingZeros returns how many bytes at the start of b are zero.
func leadingZeros(b []byte) int {
	n := 0
	for len(b)-n >= len(zeroBlock) && bytes.Equal(b[n:n+len(zeroBlock)], zeroBlock[:]) {
		n += len(zeroBlock)
	}
	for n < len(b) && b[n] == 0 {
		n++
	}
	return n
}

// zeroBlock is never written to.
var zeroBlock [4096]byte
