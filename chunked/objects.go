package chunked

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
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

// contentTable keeps the objects and chunks of a layer that is being built, in records as in the index.
type contentTable struct {
	ws     *Workspace
	alg    digest.Algorithm // of the first digest; "": none yet
	objs   records
	chunks records
	ids    numbers // objects by digest and chunk list
	seed   seed

	list hash.Hash // of the chunks since begin
	from int       // the first of them
	text []byte    // what is hashed
}

func newContentTable(ws *Workspace) contentTable {
	return contentTable{ws: ws, ids: numbers{ws: ws}, seed: newSeed(), list: sha256.New()}
}

// use holds every digest of a layer to the algorithm of the first.
func (t *contentTable) use(d digest.Digest) bool {
	if t.alg == "" && knownAlgorithm(d) {
		t.alg = d.Algorithm()
		t.objs = newRecords(t.ws, objectFixed+t.alg.Size(), MaxEntries, "files in one layer")
		t.chunks = newRecords(t.ws, chunkFixed+t.alg.Size(), MaxChunks, "chunks in one layer")
	}
	return t.alg != "" && validDigest(d, t.alg)
}

func (t *contentTable) digestSize() int {
	if t.alg == "" {
		return digest.SHA256.Size()
	}
	return t.alg.Size()
}

// begin starts the content of one file; its chunks follow, and end.
func (t *contentTable) begin() {
	t.from = t.chunks.len()
	t.list.Reset()
	t.text = append(t.text[:0], listMagic...)
	t.list.Write(t.text)
}

// chunk adds a chunk whose digest was found good, and returns its number.
func (t *contentTable) chunk(c *Chunk) (int32, error) {
	n, b, err := t.chunks.add()
	if err != nil {
		return 0, err
	}
	encodeChunk(b, c)
	t.text = appendHex(t.text[:0], c.Digest)
	copy(b[chunkFixed:], t.text)
	t.text = appendListed(t.text[:0], c)
	t.list.Write(t.text)
	return n, nil
}

// setLen sets how many bytes of the blob a chunk has.
func (t *contentTable) setLen(chunk int32, n int64) {
	binary.LittleEndian.PutUint64(t.chunks.at(chunk)[24:], uint64(n))
}

// end returns the number, plus one, of the object with the content since begin. If it is known already, its chunks are
// dropped, and fresh is false.
func (t *contentTable) end(d digest.Digest, size int64) (object uint32, fresh bool, err error) {
	n := t.chunks.len() - t.from
	var list [sha256.Size]byte
	t.list.Sum(list[:0])
	t.text = appendKey(t.text[:0], d, list[:])
	id := sha256.Sum256(t.text) // two files are one object when digest and chunk list are equal
	t.text = appendHex(append(t.text[:0], list[:]...), d)
	le, hash := binary.LittleEndian, t.seed.bytes(id[:])
	known, ok := t.ids.find(hash, func(n int32) bool { return bytes.Equal(t.objs.at(n)[24:], t.text) })
	if ok {
		t.chunks.b = t.chunks.b[:t.from*t.chunks.size]
		if le.Uint64(t.objs.at(known)[8:]) != uint64(size) {
			return 0, false, malformed("%s has two sizes", d)
		}
		return uint32(known) + 1, false, nil
	}
	at, b, err := t.objs.add()
	if err != nil {
		return 0, false, err
	}
	le.PutUint64(b, numberOf(&id))
	le.PutUint64(b[8:], uint64(size))
	le.PutUint32(b[16:], uint32(t.from))
	le.PutUint32(b[20:], uint32(n))
	copy(b[24:], t.text)
	return uint32(at) + 1, true, t.ids.add(hash, at)
}

// object returns the number, plus one, of the object with the content of e; 0 for an empty file.
func (t *contentTable) object(e *Entry) (uint32, error) {
	n, at := len(e.Chunks), func(i int) Chunk { return e.Chunks[i] }
	if known := e.known.len(); known > 0 {
		n, at = known, e.known.at
	}
	if e.Size == 0 && n == 0 {
		return 0, nil
	}
	if !t.use(e.Digest) {
		return 0, malformed("%q has digest %.150q in a layer of %q", e.Name, e.Digest, t.alg)
	}
	t.begin()
	off := int64(0)
	for i := range n {
		c := at(i)
		if c.Off != off || c.Size <= 0 || c.Size > e.Size-off || c.Blob.Off < 0 || c.Blob.Len < 0 {
			return 0, malformed("%q has a chunk of %d bytes at %d", e.Name, c.Size, c.Off)
		}
		if !t.use(c.Digest) {
			return 0, malformed("%q has chunk digest %.150q in a layer of %q", e.Name, c.Digest, t.alg)
		}
		if _, err := t.chunk(&c); err != nil {
			return 0, err
		}
		off += c.Size
	}
	if off != e.Size {
		return 0, malformed("%q has %d bytes in chunks, not %d", e.Name, off, e.Size)
	}
	object, _, err := t.end(e.Digest, e.Size)
	return object, err
}

// checkPlaces proves that different chunks have different places in the blob, and that all of them together are no more
// than the size bytes that the blob has for them, so that nobody can be made to read a blob many times over.
func (t *contentTable) checkPlaces(size int64) error {
	const most = 1 << (64 - indexBits)
	le, sum, err := binary.LittleEndian, int64(0), error(nil)
	sorted := t.pick(func(c []byte) (uint64, bool) {
		off, n := le.Uint64(c[16:]), int64(le.Uint64(c[24:]))
		if off >= most {
			err = tooBig("a chunk at %d of the blob", off)
		}
		if n > size-sum {
			err = malformed("the chunks take more than the %d bytes that the blob has for them", size)
			return 0, false
		}
		sum += n
		return off, n > 0
	})
	var prev []byte
	for _, s := range sorted {
		c := t.chunks.at(int32(s & (1<<indexBits - 1)))
		if prev != nil && le.Uint64(c[16:]) < le.Uint64(prev[16:])+le.Uint64(prev[24:]) && !bytes.Equal(c[8:], prev[8:]) {
			return malformed("two chunks share bytes at %d of the blob", le.Uint64(c[16:]))
		}
		prev = c
	}
	return err
}

// indexBits are those of a number that say which object or chunk it is, when such numbers are sorted.
const indexBits = 22

// pick returns the chunks that key wants, sorted by what it gives of each, with their numbers in the low bits.
func (t *contentTable) pick(key func(c []byte) (uint64, bool)) []uint64 {
	var sorted []uint64
	for i := range len(t.chunks.b) / max(t.chunks.size, 1) {
		if k, ok := key(t.chunks.at(int32(i))); ok {
			if sorted == nil {
				sorted = make([]uint64, 0, len(t.chunks.b)/t.chunks.size)
			}
			sorted = append(sorted, k<<indexBits|uint64(i))
		}
	}
	slices.Sort(sorted)
	return sorted
}

// checkZeros compares the digests of all chunks of zeros. It hashes as many zeros as the longest one has, once.
func (t *contentTable) checkZeros() error {
	le := binary.LittleEndian
	sorted := t.pick(func(c []byte) (uint64, bool) {
		size := le.Uint64(c[8:])
		return size &^ zerosBit, size&zerosBit != 0
	})
	if len(sorted) == 0 {
		return nil
	}
	h, buf, done := t.alg.Hash(), make([]byte, 64<<10), uint64(0)
	var sum []byte
	for _, s := range sorted {
		size, c := s>>indexBits, t.chunks.at(int32(s&(1<<indexBits-1)))
		for done < size {
			if err := t.ws.stopped(); err != nil {
				return err
			}
			n := min(size-done, uint64(len(buf)))
			h.Write(buf[:n])
			done += n
			sum = sum[:0]
		}
		if len(sum) == 0 {
			sum = h.Sum(sum)
		}
		if !bytes.Equal(sum, c[chunkFixed:]) {
			return fmt.Errorf("%w: %d zeros are %x, not %x", ErrDigestMismatch, size, sum, c[chunkFixed:])
		}
	}
	return nil
}

// order returns the objects in the order of the index, which is that of their numbers.
func (t *contentTable) order() []uint64 {
	le := binary.LittleEndian
	sorted := make([]uint64, len(t.objs.b)/max(t.objs.size, 1))
	for i := range sorted {
		sorted[i] = le.Uint64(t.objs.at(int32(i)))>>(61-42)<<indexBits | uint64(i)
	}
	slices.Sort(sorted)
	exact := func(x, y uint64) int {
		a, b := t.objs.at(int32(x)), t.objs.at(int32(y))
		return cmp.Or(cmp.Compare(le.Uint64(a), le.Uint64(b)), bytes.Compare(a[24:], b[24:]))
	}
	for from := 0; from < len(sorted); {
		to, key := from, sorted[from]>>indexBits
		for ; to < len(sorted) && sorted[to]>>indexBits == key; to++ {
			sorted[to] &= 1<<indexBits - 1
		}
		slices.SortFunc(sorted[from:to], exact)
		from = to
	}
	return sorted
}

// write puts objects in their order and chunks in the order of objects.
func (t *contentTable) write(sorted []uint64, objs, chunks []byte) {
	le, next := binary.LittleEndian, uint32(0)
	for at, i := range sorted {
		o := t.objs.at(int32(i))
		first, n := int(le.Uint32(o[16:])), int(le.Uint32(o[20:]))
		to := objs[at*t.objs.size:][:t.objs.size]
		copy(to, o)
		le.PutUint32(to[16:], next)
		copy(chunks[int(next)*t.chunks.size:], t.chunks.b[first*t.chunks.size:(first+n)*t.chunks.size])
		next += uint32(n)
	}
}

// encodeChunk writes all of a chunk but its digest.
func encodeChunk(b []byte, c *Chunk) {
	le := binary.LittleEndian
	size := uint64(c.Size)
	if c.Zeros {
		size |= zerosBit
	}
	le.PutUint64(b, uint64(c.Off))
	le.PutUint64(b[8:], size)
	le.PutUint64(b[16:], uint64(c.Blob.Off))
	le.PutUint64(b[24:], uint64(c.Blob.Len))
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
