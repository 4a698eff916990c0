package fill

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/tocsin/tocsin/store"
)

// completeIfFull starts the completion of an object whose last chunk is in,
// here or in another process. o.mu is held.
func (o *object) completeIfFull() {
	if o.body == nil || o.state.stored || o.state.fin != nil || o.body.Missing() > 0 || !o.mayComplete.Load() {
		return
	}
	fin := &finish{done: make(chan struct{}), urgent: make(chan struct{})}
	o.state.fin = fin
	o.retain()
	p := o.pool
	var ok bool
	switch b := o.body.(type) {
	case *memory:
		ok = p.write.add(&pending{o: o, fin: fin, data: b.data})
	case *store.Partial:
		ctx, end := context.WithCancelCause(p.life.ctx)
		fin.end = end
		ok = p.life.spawn(func() {
			defer end(nil)
			o.finished(fin, p.hash(ctx, fin, b, o.key.Size))
		})
	}
	if !ok {
		fin.err = ErrClosed
		close(fin.done)
		o.refs.Add(-1) // our caller holds the object, so this is not the last one
	}
}

// longObject is from where on an object takes its turn to be hashed, unless
// somebody waits for it.
const longObject = 64 << 20

// hash completes an object. Of the long ones that nobody waits for a few are under
// way at a time.
func (p *Pool) hash(ctx context.Context, fin *finish, part *store.Partial, size int64) error {
	if size >= longObject {
		select {
		case p.behind.hashing <- struct{}{}:
			defer func() { <-p.behind.hashing }()
		case <-fin.urgent:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return part.FinishContext(ctx)
}

// finished ends a completion. When the whole is not what its digest says,
// although every chunk is what the TOC says, no more of it is given out.
func (o *object) finished(fin *finish, err error) {
	o.mu.Lock()
	var l *Layer
	var from *place
	switch {
	case err == nil:
		o.state.stored = true
		if _, ok := o.body.(*memory); ok {
			o.body = nil
			o.pool.memory.objects.Release(o.key.Size)
		}
		o.pool.count.objects.Add(1)
	case errors.Is(err, store.ErrDigestMismatch):
		err = fmt.Errorf("object %s: %w: %w", o.key.Digest, ErrDigestMismatch, err)
		o.state.bad = err
		o.pool.count.mismatches.Add(1)
		l, from = o.state.layer, o.state.from
	case errors.Is(err, store.ErrCorrupt): // chunks rotted and are missing again; nobody's fault but the disk's
		o.pool.opt.Logger.Error("partial object changed at rest", "object", o.key.Digest, "err", err)
		o.state.fin = nil
	}
	fin.err = err
	bad := o.state.bad != nil
	o.mu.Unlock()
	if bad {
		o.pool.forget(o)
	}
	if l != nil {
		l.quarantine(from, err)
	}
	close(fin.done)
	o.release()
}

// complete waits until the object, all of whose chunks were asked for and came,
// is complete in the store. One that was abandoned meanwhile is completed all the
// same.
func (o *object) complete(ctx context.Context, lv level) error {
	for {
		if err := o.completeOnce(ctx, lv); !abandoned(err) || ctx.Err() != nil {
			return err
		}
	}
}

// completeOnce tries a completion that failed before again, once.
func (o *object) completeOnce(ctx context.Context, lv level) error {
	o.mu.Lock()
	if fin := o.state.fin; fin != nil && o.state.bad == nil {
		select {
		case <-fin.done:
			o.state.fin = nil
		default:
		}
	}
	o.completeIfFull()
	fin, stored := o.state.fin, o.state.stored
	if fin != nil && lv < levelBackground {
		fin.hurry.Do(func() { close(fin.urgent) })
	}
	o.mu.Unlock()
	if stored {
		return nil
	}
	if fin == nil { // chunks that came can only be missing again because a completion found them rotten, before we asked
		return fmt.Errorf("object %s: chunks that had come are missing again: %w", o.key.Digest, store.ErrCorrupt)
	}
	select {
	case <-fin.done:
		return fin.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// committer writes objects that were filled in memory. While one batch is
// being synced the next one gathers, so the more objects come the fewer syncs
// each costs, and nothing waits for company.
type committer struct {
	p *Pool

	mu      sync.Mutex
	queue   []*pending
	running bool
}

type pending struct {
	o    *object
	fin  *finish
	data []byte
}

func (c *committer) init(p *Pool) { c.p = p }

// add queues an object; false when the pool was closed.
func (c *committer) add(w *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.running && !c.p.life.spawn(c.run) {
		return false
	}
	c.running = true
	c.queue = append(c.queue, w)
	return true
}

func (c *committer) run() {
	for {
		c.mu.Lock()
		ws := c.queue
		c.queue = nil
		c.running = len(ws) > 0
		c.mu.Unlock()
		if len(ws) == 0 {
			return
		}
		c.commit(ws)
	}
}

func (c *committer) commit(ws []*pending) {
	batch := c.p.st.NewBatch()
	errs := make([]error, len(ws))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(ws)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(ws)); i = next.Add(1) - 1 {
				k := ws[i].o.key
				errs[i] = batch.Put(k.Digest, k.Size, bytes.NewReader(ws[i].data))
			}
		})
	}
	wg.Wait()
	err := batch.Commit()
	for i, w := range ws {
		w.o.finished(w.fin, cmp.Or(errs[i], err))
	}
}
