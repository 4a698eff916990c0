package fill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// errAbandoned ends what was fetched or hashed for a layer that nobody keeps any
// more. Who waits for it all the same, through another layer or a file that is
// still open, asks again.
var errAbandoned = fmt.Errorf("fill: layer was abandoned: %w", context.Canceled)

// atATime bounds the layers that are completed in the background at one time, and
// apart from that the long files that are hashed.
const atATime = 2

// background is what is completed without being asked for.
type background struct {
	slots   chan struct{} // for layers
	hashing chan struct{} // for long objects that nobody waits for

	mu   sync.Mutex
	ends map[uint64]context.CancelCauseFunc // of layers that are completed or wait for it
}

func newBackground() *background {
	return &background{slots: make(chan struct{}, atATime), hashing: make(chan struct{}, atATime), ends: make(map[uint64]context.CancelCauseFunc)}
}

// begin notes that a layer is to be completed. ok is false if that is so already.
func (b *background) begin(parent context.Context, n uint64) (ctx context.Context, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ends[n] != nil {
		return nil, false
	}
	ctx, b.ends[n] = context.WithCancelCause(parent)
	return ctx, true
}

// end ends the completion of a layer, if there is one.
func (b *background) end(n uint64, why error) {
	b.mu.Lock()
	cancel := b.ends[n]
	delete(b.ends, n)
	b.mu.Unlock()
	if cancel != nil {
		cancel(why)
	}
}

// Background completes the given layers with low priority, one after the other, and
// returns at once; of all calls a few layers are completed at a time. A failure is
// logged and ends that layer's completion, not the others'. Without
// Options.Background it does nothing.
func (p *Pool) Background(layers []uint64) {
	if !p.opt.Background || len(layers) == 0 {
		return
	}
	var ctxs []context.Context
	layers = slices.DeleteFunc(slices.Clone(layers), func(n uint64) bool {
		ctx, ok := p.behind.begin(p.life.ctx, n)
		if ok {
			ctxs = append(ctxs, ctx)
		}
		return !ok
	})
	p.life.spawn(func() {
		for i, n := range layers {
			p.completeBehind(ctxs[i], n)
			p.behind.end(n, nil)
		}
	})
}

// completeBehind completes one layer when its turn comes.
func (p *Pool) completeBehind(ctx context.Context, n uint64) {
	select {
	case p.behind.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-p.behind.slots }()
	l, err := p.Layer(n)
	if err == nil {
		err = l.Ensure(ctx, nil, Background)
	}
	if err != nil && ctx.Err() == nil {
		p.opt.Logger.Warn("layer not completed", "layer", n, "err", err)
	}
}

// Abandon ends what goes on for a layer that nobody waits for: its completion, the
// fetches of it that no reader asked for, and the hashing of files that came through
// it. Call it when nobody keeps the layer any more; what was fetched stays.
func (p *Pool) Abandon(n uint64) {
	p.behind.end(n, errAbandoned)
	p.mu.Lock()
	l := p.layers[n]
	if l == nil {
		p.mu.Unlock()
		return
	}
	hosts := slices.Collect(maps.Values(p.hosts))
	open := slices.Collect(maps.Values(p.objects))
	for _, o := range open {
		o.retain()
	}
	p.mu.Unlock()
	for _, o := range open {
		o.abandon(l)
		o.release()
	}
	for _, s := range hosts {
		for _, d := range s.withdraw(l) {
			d.obj.settle(d, errAbandoned)
		}
	}
}

// abandon ends the completion of an object whose last chunk came through l.
func (o *object) abandon(l *Layer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if fin := o.state.fin; fin != nil && fin.end != nil && o.state.layer == l {
		fin.end(errAbandoned)
	}
}

// abandoned says whether an error means that what was waited for is to be asked for
// again.
func abandoned(err error) bool { return errors.Is(err, errAbandoned) }
