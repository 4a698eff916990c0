package chunked

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
)

// Workspace is what a caller gives the computations of this package that may be long or need much memory. Nil and the
// zero value are usable.
type Workspace struct {
	// Region returns memory that is not of the heap, such as a file mapped to memory: each call of grow gives the first n
	// bytes of it, n at most limit, always at the same place. Bytes that were never written are zero. The memory must stay
	// until the result of the computation is used up. Nil: everything is on the heap.
	Region func(limit int) (grow func(n int) ([]byte, error), err error)
	// Stop is asked now and then; its error ends the computation and is returned. Nil: nothing ends it.
	Stop func() error
}

// stopped returns the error of Stop.
func (ws *Workspace) stopped() error {
	if ws == nil || ws.Stop == nil {
		return nil
	}
	return ws.Stop()
}

// heapArena is how large an arena may be on the heap when there are regions.
const heapArena = 1 << 20

// arena is a run of bytes that grows: on the heap at first, in a region of the workspace when it is large.
type arena struct {
	ws    *Workspace
	limit int
	what  string // is more than the limit
	b     []byte
	grow  func(n int) ([]byte, error)
}

// extend appends n bytes and returns them. They are zero unless the arena was cut shorter before.
func (a *arena) extend(n int) ([]byte, error) {
	at := len(a.b)
	if n > cap(a.b)-at {
		if err := a.reserve(at + n); err != nil {
			return nil, err
		}
	}
	a.b = a.b[:at+n]
	return a.b[at : at+n : at+n], nil
}

// append appends bytes and returns where they are.
func (a *arena) append(b []byte) (at int, err error) {
	at = len(a.b)
	to, err := a.extend(len(b))
	copy(to, b)
	return at, err
}

func (a *arena) appendString(s string) (at int, err error) {
	at = len(a.b)
	to, err := a.extend(len(s))
	copy(to, s)
	return at, err
}

// reserve makes room for n bytes in all.
func (a *arena) reserve(n int) error {
	if n > a.limit {
		return tooBig("more than %s", a.what)
	}
	first := a.grow == nil
	if first && (n <= heapArena || a.ws == nil || a.ws.Region == nil) {
		grown := make([]byte, len(a.b), max(min(2*cap(a.b), a.limit), n))
		copy(grown, a.b)
		a.b = grown
		return nil
	}
	if first {
		grow, err := a.ws.Region(a.limit)
		if err != nil {
			return err
		}
		a.grow = grow
	}
	b, err := a.grow(max(min(n+n/4, a.limit), n))
	if err != nil {
		return err
	}
	if first {
		copy(b, a.b)
	}
	a.b = b[:len(a.b)]
	return nil
}

// records is an arena of records of one size, numbered from 0.
type records struct {
	arena
	size int
}

func newRecords(ws *Workspace, size, limit int, what string) records {
	return records{arena{ws: ws, limit: size * limit, what: fmt.Sprint(limit, " ", what)}, size}
}

func (r *records) len() int { return len(r.b) / r.size }

func (r *records) at(i int32) []byte { return r.b[int(i)*r.size:][:r.size:r.size] }

// add appends a record and returns its bytes, to be written by the caller.
func (r *records) add() (int32, []byte, error) {
	n := r.len()
	b, err := r.extend(r.size)
	return int32(n), b, err
}

// numbers finds numbers by the hash of what they stand for: an open hash table, because a map of millions is a heap of its
// own. Who adds a number has looked for it before.
type numbers struct {
	ws    *Workspace
	slots []byte // 8 bytes each: hash, and number plus one
	used  int
}

// seed makes hashes that nobody can foresee, so that nobody can make them collide.
type seed struct{ maphash.Seed }

func newSeed() seed { return seed{maphash.MakeSeed()} }

func (s seed) bytes(b []byte) uint32 { return uint32(maphash.Bytes(s.Seed, b)) }

// find returns the number with this hash that is wanted.
func (t *numbers) find(hash uint32, wanted func(n int32) bool) (n int32, ok bool) {
	le, mask := binary.LittleEndian, len(t.slots)/8-1
	for i := int(hash) & mask; mask > 0; i = (i + 1) & mask {
		slot := t.slots[8*i:][:8]
		n := int32(le.Uint32(slot[4:])) - 1
		if n < 0 {
			break
		}
		if le.Uint32(slot) == hash && wanted(n) {
			return n, true
		}
	}
	return 0, false
}

func (t *numbers) add(hash uint32, n int32) error {
	if 4*(t.used+1) > 3*(len(t.slots)/8) {
		if err := t.enlarge(); err != nil {
			return err
		}
	}
	t.used++
	t.put(hash, n)
	return nil
}

func (t *numbers) put(hash uint32, n int32) {
	le, mask := binary.LittleEndian, len(t.slots)/8-1
	i := int(hash) & mask
	for le.Uint32(t.slots[8*i+4:]) != 0 {
		i = (i + 1) & mask
	}
	le.PutUint32(t.slots[8*i:], hash)
	le.PutUint32(t.slots[8*i+4:], uint32(n+1))
}

func (t *numbers) enlarge() error {
	old := t.slots
	size := max(2*len(old), 8*64)
	a := arena{ws: t.ws, limit: size}
	slots, err := a.extend(size)
	if err != nil {
		return err
	}
	t.slots = slots
	le := binary.LittleEndian
	for ; len(old) > 0; old = old[8:] {
		if n := le.Uint32(old[4:]); n != 0 {
			t.put(le.Uint32(old), int32(n-1))
		}
	}
	return nil
}

// remove takes a number away that is there, and moves those up that had to make way for it.
func (t *numbers) remove(hash uint32, n int32) {
	le, mask := binary.LittleEndian, len(t.slots)/8-1
	i := int(hash) & mask
	for le.Uint32(t.slots[8*i+4:]) != uint32(n+1) {
		i = (i + 1) & mask
	}
	t.used--
	for j := (i + 1) & mask; le.Uint32(t.slots[8*j+4:]) != 0; j = (j + 1) & mask {
		home := int(le.Uint32(t.slots[8*j:])) & mask
		if (j-home)&mask >= (j-i)&mask {
			copy(t.slots[8*i:8*i+8], t.slots[8*j:8*j+8])
			i = j
		}
	}
	clear(t.slots[8*i : 8*i+8])
}
