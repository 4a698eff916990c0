package chunked

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"

	"github.com/opencontainers/go-digest"
)

// This file is the objects and chunks of a layer index, written and read.
//
//	object: number, size (8 bytes each), first chunk, number of chunks (4 each), digest of the list (32), digest
//	chunk:  offset, size (top bit: zeros), place and length in the blob (8 bytes each), digest
const (
	objectFixed = 24 + sha256.Size
	chunkFixed  = 32
	zerosBit    = 1 << 63
)

// object returns the number, plus one, of the object with the content of e; 0 for an empty file.
func (b *IndexBuilder) object(e *Entry) (int32, error) {
	if e.Size == 0 && len(e.Chunks) == 0 {
		return 0, nil
	}
	if err := b.checkContent(e); err != nil {
		return 0, err
	}
	b.scratch = appendList(b.scratch[:0], e.Chunks)
	list := sha256.Sum256(b.scratch)
	b.scratch = appendKey(b.scratch[:0], e.Digest, list[:])
	id := sha256.Sum256(b.scratch) // two files are one object when digest and chunk list are equal
	if n, ok := b.objectIDs[id]; ok {
		if binary.LittleEndian.Uint64(b.objs[int(n)*b.objectSize()+8:]) != uint64(e.Size) {
			return 0, malformed("%q: %s has two sizes", e.Name, e.Digest)
		}
		return n + 1, nil
	}
	n := int32(len(b.objs) / b.objectSize())
	le := binary.LittleEndian
	b.objs = le.AppendUint64(b.objs, numberOf(&id))
	b.objs = le.AppendUint64(b.objs, uint64(e.Size))
	b.objs = le.AppendUint32(b.objs, uint32(len(b.chunks)/b.chunkSize()))
	b.objs = le.AppendUint32(b.objs, uint32(len(e.Chunks)))
	b.objs = appendHex(append(b.objs, list[:]...), e.Digest)
	for _, c := range e.Chunks {
		b.chunks = appendChunk(b.chunks, c)
	}
	if len(b.chunks)/b.chunkSize() > MaxChunks {
		return 0, tooBig("more than %d chunks in one layer", MaxChunks)
	}
	b.objectIDs[id] = n
	return n + 1, nil
}

// checkContent checks digests and chunks of a file with content.
func (b *IndexBuilder) checkContent(e *Entry) error {
	if b.alg == "" {
		if !knownAlgorithm(e.Digest) {
			return malformed("%q has digest %q", e.Name, e.Digest)
		}
		b.alg = e.Digest.Algorithm()
	}
	if !validDigest(e.Digest, b.alg) {
		return malformed("%q has digest %q in a layer of %s", e.Name, e.Digest, b.alg)
	}
	off := int64(0)
	for _, c := range e.Chunks {
		if c.Off != off || c.Size <= 0 || c.Size > e.Size-off || c.Blob.Off < 0 || c.Blob.Len < 0 {
			return malformed("%q has a chunk of %d bytes at %d", e.Name, c.Size, c.Off)
		}
		if !validDigest(c.Digest, b.alg) {
			return malformed("%q has chunk digest %q in a layer of %s", e.Name, c.Digest, b.alg)
		}
		off += c.Size
	}
	if off != e.Size {
		return malformed("%q has %d bytes in chunks, not %d", e.Name, off, e.Size)
	}
	return nil
}

func (b *IndexBuilder) digestSize() int {
	if b.alg == "" {
		return digest.SHA256.Size()
	}
	return b.alg.Size()
}

func (b *IndexBuilder) objectSize() int { return objectFixed + b.digestSize() }
func (b *IndexBuilder) chunkSize() int  { return chunkFixed + b.digestSize() }

// writeObjects puts objects in the order of their numbers and chunks in the order of objects, and returns where each
// object has gone.
func (b *IndexBuilder) writeObjects(w *tableWriter) (order []uint32) {
	le, size, chunkSize := binary.LittleEndian, b.objectSize(), b.chunkSize()
	record := func(i uint32) []byte { return b.objs[int(i)*size:][:size] }
	type place struct {
		number uint64
		i      uint32
	}
	sorted := make([]place, len(b.objs)/size)
	for i := range sorted {
		sorted[i] = place{le.Uint64(record(uint32(i))), uint32(i)}
	}
	slices.SortFunc(sorted, func(x, y place) int {
		if x.number != y.number {
			return cmp.Compare(x.number, y.number)
		}
		return bytes.Compare(record(x.i)[24:], record(y.i)[24:])
	})
	order = make([]uint32, len(sorted))
	objs, chunks := make([]byte, 0, len(b.objs)), make([]byte, 0, len(b.chunks))
	for at, p := range sorted {
		order[p.i] = uint32(at)
		o := record(p.i)
		first, n := int(le.Uint32(o[16:])), int(le.Uint32(o[20:]))
		objs = append(objs, o...)
		le.PutUint32(objs[at*size+16:], uint32(len(chunks)/chunkSize))
		chunks = append(chunks, b.chunks[first*chunkSize:(first+n)*chunkSize]...)
	}
	w.sec[secObjects], w.sec[secChunks] = objs, chunks
	return order
}

func appendChunk(b []byte, c Chunk) []byte {
	le := binary.LittleEndian
	size := uint64(c.Size)
	if c.Zeros {
		size |= zerosBit
	}
	b = le.AppendUint64(b, uint64(c.Off))
	b = le.AppendUint64(b, size)
	b = le.AppendUint64(b, uint64(c.Blob.Off))
	b = le.AppendUint64(b, uint64(c.Blob.Len))
	return appendHex(b, c.Digest)
}

// appendHex appends the raw bytes of a digest that was found valid.
func appendHex(b []byte, d digest.Digest) []byte {
	from := len(b)
	b = append(b, d.Encoded()...)
	n, _ := hex.Decode(b[from:], b[from:]) // in place: what is written lies before what is read
	return b[:from+n]
}

// knownAlgorithm says whether d claims one of the algorithms of the image spec.
func knownAlgorithm(d digest.Digest) bool {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		if len(d) > len(alg) && d[:len(alg)] == digest.Digest(alg) && d[len(alg)] == ':' {
			return true
		}
	}
	return false
}

// validDigest says whether d is a well-formed digest of alg: what digest.Validate says, without a regular expression for
// each of a million chunks.
func validDigest(d digest.Digest, alg digest.Algorithm) bool {
	n := len(alg) + 1
	if len(d) != n+2*alg.Size() || d[:n-1] != digest.Digest(alg) || d[n-1] != ':' {
		return false
	}
	for _, c := range []byte(d[n:]) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// objectAt returns the bytes of an object's record.
func (x *Index) objectAt(i int) []byte {
	n := objectFixed + x.digestLen
	return x.sec[secObjects][i*n : (i+1)*n]
}

func (x *Index) chunkAt(i int) []byte {
	n := chunkFixed + x.digestLen
	return x.sec[secChunks][i*n : (i+1)*n]
}

func (x *Index) decodeChunk(i int) Chunk {
	b := x.chunkAt(i)
	le := binary.LittleEndian
	size := le.Uint64(b[8:])
	return Chunk{
		Off: int64(le.Uint64(b)), Size: int64(size &^ zerosBit), Zeros: size&zerosBit != 0,
		Blob:   Range{Off: int64(le.Uint64(b[16:])), Len: int64(le.Uint64(b[24:]))},
		Digest: digest.NewDigestFromBytes(x.alg, b[chunkFixed:]),
	}
}

// checkObjects proves that objects are sorted and have their chunks one after the other, contiguous and complete.
func (x *Index) checkObjects() error {
	if len(x.sec[secObjects])%(objectFixed+x.digestLen) != 0 || len(x.sec[secChunks])%(chunkFixed+x.digestLen) != 0 {
		return malformed("objects of %d and chunks of %d bytes", len(x.sec[secObjects]), len(x.sec[secChunks]))
	}
	total := len(x.sec[secChunks]) / (chunkFixed + x.digestLen)
	le := binary.LittleEndian
	next, prev := 0, []byte(nil)
	for i := range x.NumObjects() {
		o := x.objectAt(i)
		size, first, n := int64(le.Uint64(o[8:])), int(le.Uint32(o[16:])), int(le.Uint32(o[20:]))
		if size <= 0 || first != next || n < 1 || n > total-next {
			return malformed("object %d: %d bytes, chunks %d+%d", i, size, first, n)
		}
		if i > 0 && (le.Uint64(prev) > le.Uint64(o) || bytes.Equal(prev[24:], o[24:])) {
			return malformed("object %d is out of order", i)
		}
		if !x.checkChunks(first, n, size) {
			return malformed("chunks of object %d", i)
		}
		next, prev = next+n, o
		if x.bytes += size; x.bytes < 0 {
			return malformed("objects of more than 8 EiB")
		}
		x.zeros.add(x.zerosIn(i))
	}
	x.zeros.spend()
	if next != total {
		return malformed("%d chunks without an object", total-next)
	}
	return nil
}

func (x *Index) checkChunks(first, n int, size int64) bool {
	le := binary.LittleEndian
	off := int64(0)
	for i := first; i < first+n; i++ {
		b := x.chunkAt(i)
		n := int64(le.Uint64(b[8:]) &^ zerosBit)
		at, length := int64(le.Uint64(b[16:])), int64(le.Uint64(b[24:]))
		if int64(le.Uint64(b)) != off || n <= 0 || n > size-off || at < 0 || length < 0 || at+length < 0 {
			return false
		}
		off += n
	}
	return off == size
}
