package chunked

import (
	"bytes"
	"encoding/binary"
	"iter"
	"math"
	"math/bits"
	"sort"

	"github.com/opencontainers/go-digest"
)

const indexMagic = "tocidx01"

// Index is an opened layer index: the tree of one layer with its whiteouts, and its objects. It keeps the bytes it was
// opened from, which may be a read-only mapping, and is safe for concurrent use. Its methods do not panic for numbers
// in range, whatever the bytes were.
type Index struct {
	table
	alg       digest.Algorithm
	digestLen int
	bytes     int64
	zeros     zerosBudget
	raw       []byte // what it was opened from
}

// OpenIndex opens what BuildIndex or Finish returned. It checks the CRC and the whole structure in one pass; any damage
// wraps ErrMalformed.
func OpenIndex(b []byte) (*Index, error) {
	t, err := openTable(b, indexMagic)
	if err != nil {
		return nil, err
	}
	x := &Index{table: *t, digestLen: int(t.param), raw: b}
	switch t.param {
	case 32:
		x.alg = digest.SHA256
	case 48:
		x.alg = digest.SHA384
	case 64:
		x.alg = digest.SHA512
	default:
		return nil, malformed("digests of %d bytes", t.param)
	}
	if err := x.checkObjects(); err != nil {
		return nil, err
	}
	for e := range t.n {
		r := t.record(e)
		if r.Mode&modeType != modeReg {
			continue
		}
		if r.A != 0 || int64(r.B) > int64(x.NumObjects()) || r.B != 0 && x.size(int(r.B-1)) != r.Size {
			return nil, malformed("entry %d: object %d of %d", e, r.B, x.NumObjects())
		}
	}
	return x, nil
}

// Check looks again whether the bytes that the index was opened from are still those: a mapping shows what the disk has.
func (x *Index) Check() error {
	_, err := OpenIndex(x.raw)
	return err
}

// Same says whether b are the bytes that the index was opened from.
func (x *Index) Same(b []byte) bool { return bytes.Equal(x.raw, b) }

func (x *Index) size(obj int) int64 { return int64(binary.LittleEndian.Uint64(x.objectAt(obj)[8:])) }

// NumObjects returns the number of different contents in the layer.
func (x *Index) NumObjects() int { return len(x.sec[secObjects]) / (objectFixed + x.digestLen) }

// Object returns the key of object i. Objects are sorted by ObjectKey.Number.
func (x *Index) Object(i int) ObjectKey {
	b := x.objectAt(i)
	return ObjectKey{
		Digest: digest.NewDigestFromBytes(x.alg, b[objectFixed:]),
		Size:   x.size(i),
		List:   digest.NewDigestFromBytes(digest.SHA256, b[24:objectFixed]),
	}
}

// ObjectsByNumber returns the objects first <= i < end whose key has this Number; normally one or none.
func (x *Index) ObjectsByNumber(number uint64) (first, end int) {
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(x.objectAt(i)) }
	first = sort.Search(x.NumObjects(), func(i int) bool { return at(i) >= number })
	for end = first; end < x.NumObjects() && at(end) == number; end++ {
	}
	return first, end
}

// NumChunks returns the number of chunks of object i, at least 1.
func (x *Index) NumChunks(i int) int { return int(binary.LittleEndian.Uint32(x.objectAt(i)[20:])) }

// Chunk returns chunk k of object i.
func (x *Index) Chunk(i, k int) Chunk {
	return x.decodeChunk(int(binary.LittleEndian.Uint32(x.objectAt(i)[16:])) + k)
}

// Chunks returns all chunks of object i in order.
func (x *Index) Chunks(i int) []Chunk {
	chunks := make([]Chunk, x.NumChunks(i))
	for k := range chunks {
		chunks[k] = x.Chunk(i, k)
	}
	return chunks
}

// ChunkAt returns which chunk of object i has the byte at off of the content; off must be in it.
func (x *Index) ChunkAt(i int, off int64) int {
	first := int(binary.LittleEndian.Uint32(x.objectAt(i)[16:]))
	return sort.Search(x.NumChunks(i), func(k int) bool {
		return int64(binary.LittleEndian.Uint64(x.chunkAt(first+k))) > off
	}) - 1
}

// ContentBytes returns the sum of the sizes of all objects.
func (x *Index) ContentBytes() int64 { return x.bytes }

// Completable says whether object i may become a whole file of its own. To hash a hole takes as long as to hash anything
// else, and a few bytes can claim terabytes of them; so at most MaxZerosHashed zeros of one layer are ever hashed, of the
// files with the fewest first. What is left over can only be read chunk by chunk.
func (x *Index) Completable(i int) bool { return x.zeros.allows(x.zerosIn(i)) }

// zerosIn returns how many bytes of object i are in chunks of zeros.
func (x *Index) zerosIn(i int) (sum int64) {
	first, le := int(binary.LittleEndian.Uint32(x.objectAt(i)[16:])), binary.LittleEndian
	for k := range x.NumChunks(i) {
		if size := le.Uint64(x.chunkAt(first + k)[8:]); size&zerosBit != 0 {
			sum += int64(size &^ zerosBit)
		}
	}
	return sum
}

// zerosBudget finds the files whose zeros together stay within MaxZerosHashed: by the power of two that their number of
// zeros is below, so that one pass over a layer is enough.
type zerosBudget struct {
	sums  [65]int64 // by bits.Len64 of a file's zeros; no more than MaxZerosHashed+1
	limit int64
}

func (z *zerosBudget) add(zeros int64) {
	n := bits.Len64(uint64(zeros))
	z.sums[n] = min(z.sums[n]+min(zeros, MaxZerosHashed+1), MaxZerosHashed+1)
}

// spend decides, when all files were added.
func (z *zerosBudget) spend() {
	left := int64(MaxZerosHashed)
	for n, sum := range z.sums {
		if left -= sum; left < 0 {
			z.limit = int64(1)<<(n-1) - 1
			return
		}
	}
	z.limit = math.MaxInt64
}

func (z *zerosBudget) allows(zeros int64) bool { return zeros <= z.limit }

// Content returns the object with the content of entry e; !ok for an empty file and for what is no file.
func (x *Index) Content(e uint32) (obj int, ok bool) {
	r := x.record(e)
	if r.Mode&modeType != modeReg || r.B == 0 {
		return 0, false
	}
	return int(r.B - 1), true
}

// ObjectByPath returns the object with the content of the file that name, not necessarily clean, gives in this layer.
// Hardlinks resolve; symlinks of this layer are followed in the directory part of the name, as when it was built. !ok:
// no such file, or an empty one.
func (x *Index) ObjectByPath(name string) (obj int, ok bool) {
	clean, err := CleanName(name)
	if err != nil {
		return 0, false
	}
	e, ok := x.lookupPath(clean)
	if !ok {
		dir, base := splitName(clean)
		p, err := follow(&x.table, dir)
		if err != nil || len(p.missing) > 0 {
			return 0, false
		}
		if e, ok = x.Lookup(p.id, base); !ok {
			return 0, false
		}
	}
	return x.Content(e)
}

// IsWhiteout says whether e only hides what lower layers have under its name.
func (x *Index) IsWhiteout(e uint32) bool { return x.record(e).Flags&flagWhiteout != 0 }

// IsOpaque says whether directory e hides what lower layers have in it.
func (x *Index) IsOpaque(e uint32) bool { return x.record(e).Flags&flagOpaque != 0 }

// IsImplied says whether directory e is only there because something is in it.
func (x *Index) IsImplied(e uint32) bool { return x.record(e).Flags&flagImplied != 0 }

// Walk yields path and entry of every name but the root's, parents first, siblings in order; whiteouts too.
func (x *Index) Walk() iter.Seq2[string, uint32] { return x.walk }

func (t *table) walk(yield func(string, uint32) bool) {
	type place struct {
		path string
		e    uint32
	}
	stack := []place{{"", 0}}
	for len(stack) > 0 {
		p := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if p.e != 0 && !yield(p.path, p.e) {
			return
		}
		for i := t.NumChildren(p.e) - 1; i >= 0; i-- {
			name, e := t.Child(p.e, i)
			if p.path != "" {
				name = p.path + "/" + name
			}
			stack = append(stack, place{name, e})
		}
	}
}
