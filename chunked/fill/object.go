package fill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/store"
)

// object is the state of one object that somebody in this process reads or
// fills. All layers whose chunk lists agree share it; refs keeps it alive.
type object struct {
	pool *Pool
	key  store.PartialKey
	refs atomic.Int64 // goes to 0 only with pool.mu held
	open sync.Once
	err  error  // of open
	of   *Layer // whose chunk list the body reads; held

	mayComplete atomic.Bool             // some layer's budget of zeros allows it, see chunked.Index.Completable
	whole       atomic.Pointer[os.File] // the complete object; set once
	unread      atomic.Int64            // len(spare), to look without the lock

	mu    sync.Mutex
	body  body // nil when the object was complete from the start
	state progress
}

// progress of an object, guarded by its mu.
type progress struct {
	flights map[int]*demand // chunks being fetched
	spare   map[int]int64   // chunks fetched ahead that nobody read yet, and their compressed size
	fin     *finish         // the completion under way, or the last one
	stored  bool            // the whole object is in the store
	bad     error           // the chunks are not the whole: no byte of it is given any more
	layer   *Layer          // who filled the last chunk,
	from    *place          // and from where
}

// finish is one attempt to turn a full body into an object.
type finish struct {
	done   chan struct{}
	err    error                   // valid after done is closed
	end    context.CancelCauseFunc // breaks it off; nil for what is in memory
	urgent chan struct{}           // closed when somebody waits for it
	hurry  sync.Once
}

// body is where the chunks of an incomplete object are: a store.Partial, or
// memory. Its methods are safe for concurrent use.
type body interface {
	Has(i int) bool
	Missing() int
	Write(i int, data []byte) error
	WriteZeros(i int) error
	ReadAt(p []byte, off int64) (int, error)
}

// memoryLimit is the longest object that is filled in memory, while the budget
// has room: written once, with one sync for many of them, where a partial object
// costs three files and two syncs.
const memoryLimit = 1 << 20

// handle is a hold on an object as one layer knows it.
type handle struct {
	*object
	l *Layer
	x int // the object's number in l's index
}

// acquire returns the state of object x and holds it, and the layer, until release.
// The caller holds the layer. lazy says
// that perhaps not all of it will be wanted: what is filled then must survive
// the last reader, so only an object of one chunk is filled in memory.
func (l *Layer) acquire(x int, lazy bool) (handle, error) {
	p := l.pool
	k := l.index.Object(x)
	key := store.PartialKey{Digest: k.Digest, List: k.List, Size: k.Size}
	p.mu.Lock()
	o := p.objects[key]
	if o == nil {
		o = &object{pool: p, key: key}
		p.objects[key] = o
	}
	o.refs.Add(1)
	p.mu.Unlock()
	l.again()
	h := handle{o, l, x}
	o.open.Do(func() { o.err = h.init(lazy) })
	if o.err != nil {
		p.forget(o)
		h.release()
		return handle{}, o.err
	}
	if o.whole.Load() == nil && !o.mayComplete.Load() && l.index.Completable(x) {
		o.mayComplete.Store(true)
	}
	return h, nil
}

func (h handle) retain() {
	h.object.retain()
	h.l.again()
}

func (h handle) release() {
	h.object.release()
	h.l.drop()
}

func (h handle) init(lazy bool) error {
	o, l, x := h.object, h.l, h.x
	f, err := o.pool.st.OpenObject(o.key.Digest, o.key.Size)
	if err == nil {
		o.whole.Store(f)
		o.state.stored = true
		return nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	n := l.index.NumChunks(x)
	if o.key.Size <= memoryLimit && (!lazy || n <= 1) && o.pool.memory.objects.TryAcquire(o.key.Size) {
		o.body = newMemory(l.index.Chunks(x), o.key.Size)
		return nil
	}
	l.again()
	o.of = l
	part, err := o.pool.st.OpenPartial(o.key, func(i int) store.Span { return spanOf(l.index.Chunk(x, i)) }, n)
	if errors.Is(err, store.ErrComplete) { // since we looked
		o.state.stored = true
		return nil
	}
	if err != nil {
		return err
	}
	o.body = part
	return nil
}

// doneElsewhere notices that somebody else made the object complete: another
// process, or a layer with another chunk list. o.mu is held.
func (o *object) doneElsewhere() bool {
	part, ok := o.body.(*store.Partial)
	if !ok || o.state.stored || !o.pool.st.HasObject(o.key.Digest, o.key.Size) {
		return false
	}
	o.state.stored = true
	if err := part.Finish(); err != nil { // only removes the names it was filled under
		o.pool.opt.Logger.Warn("partial object of a complete one not removed", "object", o.key.Digest, "err", err)
	}
	return true
}

// isStored says whether the object was seen complete.
func (o *object) isStored() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state.stored
}

// forget makes the next acquire begin anew.
func (p *Pool) forget(o *object) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects[o.key] == o {
		delete(p.objects, o.key)
	}
}

func (o *object) retain() { o.refs.Add(1) }

func (o *object) release() {
	p := o.pool
	p.mu.Lock()
	last := o.refs.Add(-1) == 0
	if last && p.objects[o.key] == o {
		delete(p.objects, o.key)
	}
	p.mu.Unlock()
	if !last {
		return
	}
	o.mu.Lock()
	o.doneElsewhere()
	o.mu.Unlock()
	if f := o.whole.Swap(nil); f != nil {
		f.Close()
	}
	if o.of != nil {
		defer o.of.drop()
	}
	switch body := o.body.(type) {
	case *memory:
		p.memory.objects.Release(o.key.Size)
	case *store.Partial:
		if err := body.Close(); err != nil {
			p.opt.Logger.Warn("partial object not closed", "object", o.key.Digest, "err", err)
		}
	}
}

// file returns the complete object, nil while it is not complete.
func (o *object) file() (*os.File, error) {
	if f := o.whole.Load(); f != nil {
		return f, nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.state.stored {
		return nil, o.state.bad
	}
	if f := o.whole.Load(); f != nil {
		return f, nil
	}
	f, err := o.pool.st.OpenObject(o.key.Digest, o.key.Size)
	if err != nil {
		return nil, err
	}
	o.whole.Store(f)
	return f, nil
}

// ask is how chunks are wanted.
type ask struct {
	level level
	read  bool // by a reader that takes the bytes
}

// want returns the demands under which chunks [from, to) of the object are
// fetched: those under way already, and new ones through the handle's layer.
// Chunks that are here need none. The new ones are in fresh too, and the
// caller must submit them, whatever the error is.
func (h handle) want(from, to int, a ask) (all, fresh []*demand, err error) {
	o := h.object
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := from; i < to && err == nil; i++ {
		if o.body == nil || o.state.stored || o.body.Has(i) {
			continue
		}
		d := o.state.flights[i]
		if d == nil {
			if len(fresh) == 0 && o.doneElsewhere() {
				break
			}
			if d, err = h.demand(i, a.level); d == nil {
				continue
			}
			fresh = append(fresh, d)
		}
		if a.read {
			d.read.Store(true)
		}
		all = append(all, d)
	}
	o.completeIfFull()
	return all, fresh, err
}

// submit queues fresh demands together, so that neighbours share a range,
// and makes those of all that wait elsewhere as urgent as lv.
func submit(all, fresh []*demand, lv level) {
	for len(fresh) > 0 {
		s, n := fresh[0].sched, 1
		for n < len(fresh) && fresh[n].sched == s {
			n++
		}
		if !s.submit(fresh[:n]) {
			for _, d := range fresh[:n] {
				d.obj.settle(d, ErrClosed)
			}
		}
		fresh = fresh[n:]
	}
	for _, d := range all {
		d.sched.promote(d, lv)
	}
}

// demand makes the demand for chunk i, or none for zeros, which are here at
// once. o.mu is held.
func (h handle) demand(i int, lv level) (*demand, error) {
	o, l := h.object, h.l
	c := l.index.Chunk(h.x, i)
	if c.Zeros {
		return nil, o.body.WriteZeros(i)
	}
	if c.Blob.Len <= 0 {
		return nil, fmt.Errorf("object %s chunk %d: layer %d has no place for it: %w", o.key.Digest, i, l.n, ErrNoSource)
	}
	if max(c.Size, c.Blob.Len) > chunked.MaxChunkSize {
		return nil, fmt.Errorf("object %s chunk %d: %d bytes in %d: %w", o.key.Digest, i, c.Size, c.Blob.Len, chunked.ErrTooBig)
	}
	d := &demand{layer: l, sched: o.pool.host(l.src.host()), obj: o, i: i, chunk: c, level: lv, done: make(chan struct{})}
	if o.state.flights == nil {
		o.state.flights = make(map[int]*demand)
	}
	o.state.flights[i] = d
	o.retain()
	return d, nil
}

// keep stores a verified chunk, unless a second request for it was faster.
func (o *object) keep(i int, data []byte, l *Layer, from *place) error {
	o.mu.Lock()
	b := o.body
	o.mu.Unlock()
	if b == nil || b.Has(i) {
		return nil
	}
	if err := b.Write(i, data); err != nil {
		return err
	}
	o.mu.Lock()
	o.state.layer, o.state.from = l, from
	o.mu.Unlock()
	return nil
}

// settle answers a demand: everybody who waits for it goes on.
func (o *object) settle(d *demand, err error) {
	if !o.answer(d, err) {
		return
	}
	if d.twin.first != nil && err == nil {
		o.settle(d.twin.first, nil)
	}
	o.release()
}

// answer does what settle does, but for the release, and says whether it was the
// first to answer the demand.
func (o *object) answer(d *demand, err error) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-d.done:
		return false
	default:
	}
	d.err = err
	close(d.done)
	if d.twin.first != nil {
		return true
	}
	delete(o.state.flights, d.i)
	switch {
	case err != nil:
	case d.read.Load():
		o.pool.count.needed.Add(d.chunk.Blob.Len)
	default:
		if o.state.spare == nil {
			o.state.spare = make(map[int]int64)
		}
		o.state.spare[d.i] = d.chunk.Blob.Len
		o.unread.Store(int64(len(o.state.spare)))
	}
	if err == nil {
		o.completeIfFull()
	}
	return true
}

// used notes that a reader took chunks [from, to).
func (o *object) used(from, to int) {
	if o.unread.Load() == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := from; i < to; i++ {
		o.pool.count.needed.Add(o.state.spare[i])
		delete(o.state.spare, i)
	}
	o.unread.Store(int64(len(o.state.spare)))
}

// chunksOf returns the chunks [from, to) that hold bytes [off, end) of the
// object, which has them. end > off.
func (h handle) chunksOf(off, end int64) (from, to int) {
	return h.l.index.ChunkAt(h.x, off), h.l.index.ChunkAt(h.x, end-1) + 1
}
