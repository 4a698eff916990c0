package gzipv1

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
)

// The parameters of gzip.v1. They are part of the recipe.
const (
	window    = 1 << 15 // the farthest that deflate can look back
	hashBits  = 15
	maxChain  = 8  // candidates looked at for one position
	goodMatch = 16 // a match of this length is taken without looking for a better one at the next byte
	minMatch  = 4
	maxMatch  = 258
)

// deflate compresses one segment after another; a segment may refer to the 32 KiB before it. Positions are counted
// modulo 2^32: what a stale table entry says is compared with the bytes before it is believed.
type deflate struct {
	head [1 << hashBits]uint32 // hash to the last position that had it
	prev [window]uint32        // position to the one before it with the same hash
	buf  []byte                // the history, then the segment
	base uint32                // position of buf[0]

	tokens []token
	out    bitWriter
}

// token is a literal, when length is 0, or a match.
type token struct {
	length   uint16
	distance uint16 // less one, so that 32768 fits
	literal  byte
}

func newDeflate() *deflate {
	return &deflate{buf: make([]byte, 0, window+segmentSize), tokens: make([]token, 0, segmentSize)}
}

// block compresses a segment into one deflate block, and returns the whole bytes that are ready. They are valid until the
// next call.
func (d *deflate) block(segment []byte, last bool) []byte {
	if drop := len(d.buf) - window; drop > 0 {
		d.buf = append(d.buf[:0], d.buf[drop:]...)
		d.base += uint32(drop)
	}
	from := len(d.buf)
	d.buf = append(d.buf, segment...)
	d.tokenize(from)
	d.out.done = d.out.done[:0]
	d.encode(segment, last)
	if last {
		d.out.align()
	}
	return d.out.done
}

// tokenize finds the matches in buf[from:]. A match is put off by a literal when the next byte begins a longer one.
func (d *deflate) tokenize(from int) {
	d.tokens = d.tokens[:0]
	length, distance := 0, 0 // of the match at i that the last round found
	for i := from; i < len(d.buf); {
		if length == 0 {
			length, distance = d.longest(i)
		}
		d.insert(i)
		if length == 0 {
			d.tokens = append(d.tokens, token{literal: d.buf[i]})
			i++
			continue
		}
		if length < goodMatch {
			if l, dist := d.longest(i + 1); l > length {
				d.tokens = append(d.tokens, token{literal: d.buf[i]})
				i, length, distance = i+1, l, dist
				continue
			}
		}
		d.tokens = append(d.tokens, token{length: uint16(length), distance: uint16(distance - 1)})
		for end := i + length; ; {
			if i++; i == end {
				break
			}
			d.insert(i)
		}
		length = 0
	}
}

func (d *deflate) hash(i int) uint32 {
	return binary.LittleEndian.Uint32(d.buf[i:]) * 0x9e3779b1 >> (32 - hashBits)
}

func (d *deflate) insert(i int) {
	if i+minMatch > len(d.buf) {
		return
	}
	h, at := d.hash(i), d.base+uint32(i)
	d.prev[at%window] = d.head[h]
	d.head[h] = at
}

// longest finds the longest match for buf[i:], of equal ones the nearest. 0 is none.
func (d *deflate) longest(i int) (length, distance int) {
	if i+minMatch > len(d.buf) {
		return 0, 0
	}
	at := d.base + uint32(i)
	limit := min(len(d.buf)-i, maxMatch)
	length = minMatch - 1
	before := uint32(0)
	for candidate, n := d.head[d.hash(i)], 0; n < maxChain; n++ {
		back := at - candidate
		if back <= before || back > window || int(back) > i {
			break // a stale entry, or out of reach
		}
		before = back
		j := i - int(back)
		if d.buf[j+length] == d.buf[i+length] {
			if l := common(d.buf[j:], d.buf[i:i+limit]); l > length {
				length, distance = l, int(back)
				if length == limit {
					break
				}
			}
		}
		candidate = d.prev[candidate%window]
	}
	if distance == 0 {
		return 0, 0
	}
	return length, distance
}

// common is how many bytes a and b begin with in common; b is not longer than a.
func common(a, b []byte) int {
	n := 0
	for ; n+8 <= len(b); n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// Alphabets of deflate (RFC 1951).
const (
	endOfBlock    = 256
	literalCodes  = 286
	distanceCodes = 30
	lengthCodes   = 19 // the alphabet in which code lengths are said
	maxCodeBits   = 15
	maxLengthBits = 7
)

// lengthCode says a match length as a symbol and its extra bits.
func lengthCode(length int) (symbol int, extra uint32, n int) {
	x := length - 3
	switch {
	case length == maxMatch:
		return 285, 0, 0
	case x < 8:
		return 257 + x, 0, 0
	}
	n = bits.Len(uint(x)) - 3
	return 257 + 4*n + x>>n, uint32(x & (1<<n - 1)), n
}

// distanceCode says a distance, less one, as a symbol and its extra bits.
func distanceCode(x int) (symbol int, extra uint32, n int) {
	if x < 4 {
		return x, 0, 0
	}
	n = bits.Len(uint(x)) - 2
	return 2*n + x>>n, uint32(x & (1<<n - 1)), n
}

// encode writes the tokens of a segment in the smaller of two forms; of equal ones the stored.
func (d *deflate) encode(segment []byte, last bool) {
	var literals [literalCodes]int
	var distances [distanceCodes]int
	literals[endOfBlock] = 1
	size := 0 // of all extra bits
	for _, t := range d.tokens {
		if t.length == 0 {
			literals[t.literal]++
			continue
		}
		symbol, _, n := lengthCode(int(t.length))
		literals[symbol]++
		size += n
		symbol, _, n = distanceCode(int(t.distance))
		distances[symbol]++
		size += n
	}
	lit, dist := newCode(literals[:], maxCodeBits), newCode(distances[:], maxCodeBits)
	head := newHeader(lit, dist)
	size += lit.cost(literals[:]) + dist.cost(distances[:]) + head.cost()
	final := uint32(0)
	if last {
		final = 1
	}
	if len(segment)*8+32+7 <= size {
		d.out.stored(segment, final)
		return
	}
	d.out.put(final|2<<1, 3)
	head.write(&d.out)
	for _, t := range d.tokens {
		if t.length == 0 {
			lit.put(&d.out, int(t.literal))
			continue
		}
		symbol, extra, n := lengthCode(int(t.length))
		lit.put(&d.out, symbol)
		d.out.put(extra, n)
		symbol, extra, n = distanceCode(int(t.distance))
		dist.put(&d.out, symbol)
		d.out.put(extra, n)
	}
	lit.put(&d.out, endOfBlock)
}

// code is a prefix code: of each symbol its bits, in the order in which they are written, and how many.
type code struct {
	bits    []uint16
	lengths []uint8
}

// newCode makes a Huffman code in which no symbol has more than limit bits. When it comes out too long, the counts are
// halved until it does not. A code of fewer than two symbols gets a second one, which decoders want.
func newCode(counts []int, limit int) code {
	c := code{make([]uint16, len(counts)), make([]uint8, len(counts))}
	weights := slices.Clone(counts)
	for symbol, used := 0, len(counts)-count(counts, 0); used < 2; symbol++ {
		if weights[symbol] == 0 {
			weights[symbol] = 1
			used++
		}
	}
	for !huffman(weights, c.lengths, limit) {
		for i, w := range weights {
			weights[i] = (w + 1) / 2
		}
	}
	c.assign()
	return c
}

func count(xs []int, what int) (n int) {
	for _, x := range xs {
		if x == what {
			n++
		}
	}
	return n
}

// huffman sets the lengths of a Huffman code for these weights, or returns false when one is above the limit. Ties are
// broken by the symbol, and a leaf comes before a node.
func huffman(weights []int, lengths []uint8, limit int) bool {
	type node struct{ weight, symbol, parent int }
	var nodes []node
	for s, w := range weights {
		if w > 0 {
			nodes = append(nodes, node{weight: w, symbol: s})
		}
	}
	slices.SortFunc(nodes, func(a, b node) int {
		return cmp.Or(cmp.Compare(a.weight, b.weight), cmp.Compare(a.symbol, b.symbol))
	})
	leaves := len(nodes)
	leaf, inner := 0, leaves // the lightest that have no parent yet
	for len(nodes) < 2*leaves-1 {
		sum := 0
		for range 2 {
			i := inner
			if leaf < leaves && (inner == len(nodes) || nodes[leaf].weight <= nodes[inner].weight) {
				i = leaf
				leaf++
			} else {
				inner++
			}
			sum += nodes[i].weight
			nodes[i].parent = len(nodes)
		}
		nodes = append(nodes, node{weight: sum, symbol: -1})
	}
	depths := make([]int, len(nodes))
	for i := len(nodes) - 2; i >= 0; i-- {
		depths[i] = depths[nodes[i].parent] + 1
		if i >= leaves {
			continue
		}
		if depths[i] > limit {
			return false
		}
		lengths[nodes[i].symbol] = uint8(depths[i])
	}
	return true
}

// assign gives each symbol its canonical bits.
func (c code) assign() {
	var next [maxCodeBits + 2]uint16
	for _, n := range c.lengths {
		if n > 0 {
			next[n+1]++
		}
	}
	for n := 1; n < len(next); n++ {
		next[n] = (next[n-1] + next[n]) << 1
	}
	for s, n := range c.lengths {
		if n > 0 {
			c.bits[s] = bits.Reverse16(next[n]) >> (16 - n)
			next[n]++
		}
	}
}

func (c code) put(out *bitWriter, symbol int) {
	out.put(uint32(c.bits[symbol]), int(c.lengths[symbol]))
}

// cost is how many bits so many of each symbol take.
func (c code) cost(counts []int) (n int) {
	for s, k := range counts {
		n += k * int(c.lengths[s])
	}
	return n
}

// header says the two codes of a block.
type header struct {
	literals, distances int   // lengths said
	runs                []run // of all of them
	code                code  // for the symbols of the runs
	lengths             int   // of code said
	counts              []int // of each symbol of code
}

// run is a symbol of the code-length alphabet and its extra bits.
type run struct {
	symbol int
	extra  uint32
	n      int
}

// lengthOrder is the order in which the lengths of the code for lengths are said.
func lengthOrder() [lengthCodes]int {
	return [lengthCodes]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
}

func newHeader(lit, dist code) header {
	h := header{literals: 257, distances: 1, lengths: 4, counts: make([]int, lengthCodes)}
	for s, n := range lit.lengths {
		if n > 0 {
			h.literals = max(h.literals, s+1)
		}
	}
	for s, n := range dist.lengths {
		if n > 0 {
			h.distances = max(h.distances, s+1)
		}
	}
	h.runs = runs(slices.Concat(lit.lengths[:h.literals], dist.lengths[:h.distances]))
	for _, r := range h.runs {
		h.counts[r.symbol]++
	}
	h.code = newCode(h.counts, maxLengthBits)
	for i, s := range lengthOrder() {
		if h.code.lengths[s] > 0 {
			h.lengths = max(h.lengths, i+1)
		}
	}
	return h
}

// runs says a sequence of code lengths with the symbols for repetitions.
func runs(lengths []uint8) []run {
	var out []run
	for i := 0; i < len(lengths); {
		value, n := lengths[i], 1
		for i+n < len(lengths) && lengths[i+n] == value {
			n++
		}
		i += n
		if value != 0 {
			out = append(out, run{symbol: int(value)})
			n--
		}
		for n > 0 {
			r, took := run{symbol: int(value)}, 1
			switch {
			case value == 0 && n >= 11:
				took = min(n, 138)
				r = run{18, uint32(took - 11), 7}
			case value == 0 && n >= 3:
				took = n
				r = run{17, uint32(took - 3), 3}
			case value != 0 && n >= 3:
				took = min(n, 6)
				r = run{16, uint32(took - 3), 2}
			}
			out = append(out, r)
			n -= took
		}
	}
	return out
}

// cost is the size of the block's beginning in bits, with the three that say what kind it is.
func (h header) cost() int {
	n := 3 + 5 + 5 + 4 + 3*h.lengths + h.code.cost(h.counts)
	for _, r := range h.runs {
		n += r.n
	}
	return n
}

func (h header) write(out *bitWriter) {
	out.put(uint32(h.literals-257), 5)
	out.put(uint32(h.distances-1), 5)
	out.put(uint32(h.lengths-4), 4)
	order := lengthOrder()
	for _, s := range order[:h.lengths] {
		out.put(uint32(h.code.lengths[s]), 3)
	}
	for _, r := range h.runs {
		h.code.put(out, r.symbol)
		out.put(r.extra, r.n)
	}
}

// bitWriter packs bits into bytes from the lowest bit up.
type bitWriter struct {
	done []byte
	acc  uint64
	n    int // bits in acc, less than 8 between calls
}

func (b *bitWriter) put(v uint32, n int) {
	b.acc |= uint64(v) << b.n
	for b.n += n; b.n >= 8; b.n -= 8 {
		b.done = append(b.done, byte(b.acc))
		b.acc >>= 8
	}
}

// align fills the byte that was begun with zeros.
func (b *bitWriter) align() {
	if b.n > 0 {
		b.done = append(b.done, byte(b.acc))
		b.acc, b.n = 0, 0
	}
}

// stored writes a block of bytes as they are.
func (b *bitWriter) stored(p []byte, final uint32) {
	b.put(final, 3)
	b.align()
	b.done = binary.LittleEndian.AppendUint16(b.done, uint16(len(p)))
	b.done = binary.LittleEndian.AppendUint16(b.done, ^uint16(len(p)))
	b.done = append(b.done, p...)
}
