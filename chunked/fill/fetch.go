package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// start runs a batch in a goroutine of its own. It is called with the
// scheduler locked.
func (p *Pool) start(b *batch) {
	b.came.last.Store(b.sched.came.last.Load())
	ok := p.life.spawn(func() {
		defer b.sched.release(b)
		p.runBatch(b)
	})
	if !ok {
		go func() { // settle takes locks that a caller of submit may hold
			for _, d := range b.demands {
				d.obj.settle(d, ErrClosed)
			}
		}()
	}
}

// runBatch answers every demand of b, trying one source after the other.
func (p *Pool) runBatch(b *batch) {
	var tried []*place
	var why error
	defer b.settleTwins()
	for left := slices.DeleteFunc(slices.Clone(b.demands), (*demand).settled); len(left) > 0; {
		err := p.attempt(b, left, &tried)
		left = slices.DeleteFunc(slices.Clone(left), (*demand).settled)
		if b.abandoned.Load() && len(left) > 0 {
			err = errAbandoned
		} else if !errors.Is(err, ErrNoSource) && p.life.ctx.Err() == nil {
			why = errors.Join(why, err)
			continue
		}
		// A source that only failed may work again, so its own error is the
		// answer; ErrNoSource is for layers that have none left.
		if why == nil || abandoned(err) || b.layer.src.pick(nil, "") == nil {
			why = errors.Join(err, why)
		}
		for _, d := range left {
			d.obj.settle(d, fmt.Errorf("object %s chunk %d: %w", d.obj.key.Digest, d.i, why))
		}
		return
	}
}

// attempt asks the next source for the demands. Its error is about the
// source; nil means that the demands still open are worth a try elsewhere.
func (p *Pool) attempt(b *batch, left []*demand, tried *[]*place) error {
	limit := p.opt.ReadTimeout
	others := b.layer.src.left(*tried) > 1
	if others {
		limit /= 2 // who waits for the bytes shall still be there when the next source gives them
	}
	if len(*tried) > 0 {
		b.came.note(0) // another source has its own time
	}
	ctx, cancel, stop := b.came.watch(p.life.ctx, limit, others)
	defer stop()
	b.end.Store(&cancel)
	if b.abandoned.Load() { // before it could be broken off
		cancel(errAbandoned)
	}
	pl, conn, seen, err := b.layer.source(ctx, *tried, b.prefers())
	*tried = seen
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	*tried = append(*tried, pl)
	b.from.Store(pl)
	want := make([]manifest.Range, len(left))
	for i, d := range left {
		want[i] = d.chunk.Blob
	}
	f := &fetch{pool: p, batch: b, from: pl, demands: left}
	err = f.run(ctx, conn, planRanges(want, p.opt.MaxGap, p.opt.MaxRange, b.layer.spare(pl.Size)))
	if err == nil {
		return f.wrong
	}
	b.layer.src.demote(pl)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return errors.Join(fmt.Errorf("fetch from %s/%s blob %s: %w", pl.Host, pl.Repo, pl.Blob, err), f.wrong)
}

// note counts bytes that arrived.
func (b *batch) note(n int) {
	b.came.note(n)
	b.sched.came.note(n)
}

// fetch is one attempt at one source.
type fetch struct {
	pool    *Pool
	batch   *batch
	from    *place
	demands []*demand
	wrong   error // the first chunk that failed its digest
}

func (f *fetch) run(ctx context.Context, conn Source, spans []span) error {
	for part := range slices.Chunk(spans, maxRangesPerCall) {
		ranges := make([]chunked.Range, len(part))
		for i, s := range part {
			ranges[i] = s.Range
		}
		next := 0
		err := f.pool.readRanges(ctx, conn, ranges, f.batch.note, func(r chunked.Range, body io.Reader) error {
			if next == len(part) || part[next].Range != r {
				return fmt.Errorf("source answered a range that was not asked for: %d+%d", r.Off, r.Len)
			}
			next++
			return f.read(part[next-1], body)
		})
		if err != nil {
			return err
		}
		if next != len(part) {
			return fmt.Errorf("source answered %d of %d ranges", next, len(part))
		}
	}
	return nil
}

// readRanges is the one call of a Source: it counts, and tells note how many
// bytes arrive.
func (p *Pool) readRanges(ctx context.Context, conn Source, ranges []chunked.Range, note func(n int), fn func(chunked.Range, io.Reader) error) error {
	p.count.requests.Add(1)
	p.count.ranges.Add(int64(len(ranges)))
	return conn.ReadRanges(ctx, ranges, func(r chunked.Range, body io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn(r, &arriving{ctx: ctx, r: body, p: p, note: note})
	})
}

// arriving is a body whose progress is noted, and that ends with its context
// even when the source does not look at it.
type arriving struct {
	ctx  context.Context //nolint:containedctx // lives as long as one body
	r    io.Reader
	p    *Pool
	note func(n int)
}

func (a *arriving) Read(b []byte) (int, error) {
	if err := a.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := a.r.Read(b)
	if n > 0 {
		a.p.count.bytes.Add(int64(n))
		a.note(n)
	}
	return n, err
}

// read takes the body of one range and answers its demands as soon as their
// bytes are in. A chunk that fails its digest condemns the source, but what
// else the body has is still verified and kept.
func (f *fetch) read(s span, body io.Reader) error {
	at := s.Off
	for _, r := range s.runs {
		n, err := io.CopyN(io.Discard, body, r.Off-at)
		if at += n; err == nil {
			err = f.readRun(r, body, &at)
		}
		if err != nil {
			return fmt.Errorf("range %d+%d ends after %d bytes: %w", s.Off, s.Len, at-s.Off, err)
		}
	}
	return nil
}

// readRun takes the bytes of one run out of the body; at is moved to where the
// body is afterwards.
func (f *fetch) readRun(r run, body io.Reader, at *int64) error {
	buf, err := f.pool.buffer(r.Len)
	if err != nil {
		return err
	}
	defer f.pool.release(buf)
	for _, i := range r.pieces {
		d := f.demands[i]
		have, end := *at-r.Off, d.chunk.Blob.End()-r.Off
		if end > have {
			n, err := io.ReadFull(body, buf.b[have:end])
			*at += int64(n)
			if err != nil {
				return err
			}
		}
		f.answer(d, buf.b[d.chunk.Blob.Off-r.Off:end])
	}
	return nil
}

func (f *fetch) answer(d *demand, frames []byte) {
	if d.settled() { // by a second request
		return
	}
	dst, err := f.pool.buffer(d.chunk.Size)
	if err != nil {
		d.obj.settle(d, fmt.Errorf("object %s chunk %d: %w", d.obj.key.Digest, d.i, err))
		return
	}
	defer f.pool.release(dst)
	if err := chunked.DecodeChunk(dst.b, frames, d.chunk); err != nil {
		err = fmt.Errorf("object %s chunk %d: %w: %w", d.obj.key.Digest, d.i, ErrDigestMismatch, err)
		f.pool.count.mismatches.Add(1)
		d.layer.quarantine(f.from, err)
		if f.wrong == nil {
			f.wrong = err
		}
		return
	}
	f.pool.count.chunks.Add(1)
	d.obj.settle(d, d.obj.keep(d.i, dst.b, d.layer, f.from))
}

// await waits until d is answered, ctx is done, or nothing moved for
// ReadTimeout. Bytes of d's own request are progress; while d waits for a
// slot, any byte of its host is, because the slots in use will come free.
// hedge is called when there is so little progress that others should be asked.
func (p *Pool) await(ctx context.Context, d *demand, hedge func()) error {
	if d.settled() {
		return d.err
	}
	began, came := time.Now(), d.came()
	from := came.bytes.Load()
	timer, early := time.NewTimer(p.opt.ReadTimeout), time.NewTimer(hedgeAfter)
	defer timer.Stop()
	defer early.Stop()
	for {
		select {
		case <-d.done:
			return d.err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-early.C:
			if now := d.came(); now == came && hedgeNow(came.bytes.Load()-from) {
				hedge()
				continue
			}
			came = d.came()
			from = came.bytes.Load()
			early.Reset(hedgeAfter)
			continue
		case <-timer.C:
		}
		idle := d.idle(began)
		if idle >= p.opt.ReadTimeout {
			return fmt.Errorf("object %s chunk %d: %w", d.obj.key.Digest, d.i, ErrTimeout)
		}
		timer.Reset(p.opt.ReadTimeout - idle)
	}
}
