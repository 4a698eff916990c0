package fill

import (
	"context"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// races are the tables of contents that are being fetched.
type races struct {
	mu    sync.Mutex
	byTOC map[tocKey]*race
}

// tocKey is what callers must agree on to share a race: one that names no tar-split
// must not win for those who need it.
type tocKey struct {
	toc   digest.Digest
	split bool
}

// race is the fetching of one TOC. Whoever wants it may have a source of his own: the
// first begins at once, others when that one has failed or takes a few seconds, and
// what the first to succeed has is everybody's. It ends when nobody waits any more.
type race struct {
	ctx    context.Context //nolint:containedctx // of the race, not of a caller
	cancel context.CancelFunc
	won    chan struct{} // closed when n is known
	n      uint64

	mu      sync.Mutex
	waiting int
	tries   map[tocSource]*tocTry
}

// tocSource names a source: those who would ask the same one ask once.
type tocSource struct{ host, repo, blob string }

// tocTry is the asking of one source.
type tocTry struct {
	ended chan struct{}
	err   error // valid after ended is closed
}

// enter joins the race for a TOC. Call leave once.
func (rs *races) enter(parent context.Context, toc tocKey) *race {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.byTOC[toc]
	if r == nil {
		r = &race{won: make(chan struct{}), tries: make(map[tocSource]*tocTry)}
		r.ctx, r.cancel = context.WithCancel(parent)
		if rs.byTOC == nil {
			rs.byTOC = make(map[tocKey]*race)
		}
		rs.byTOC[toc] = r
	}
	r.waiting++
	return r
}

// leave gives the race up, and ends it when that was the last one.
func (rs *races) leave(toc tocKey, r *race) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.waiting--; r.waiting == 0 {
		delete(rs.byTOC, toc)
		r.cancel()
	}
}

// runner is how one caller gets a TOC.
type runner struct {
	source tocSource
	spawn  func(func()) bool
	fetch  func(context.Context) (uint64, error)
}

// begin asks the caller's source, or joins who does; own is false then.
func (r *race) begin(c runner) (t *tocTry, own bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t = r.tries[c.source]; t != nil {
		return t, false
	}
	t = &tocTry{ended: make(chan struct{})}
	r.tries[c.source] = t
	ok := c.spawn(func() {
		n, err := c.fetch(r.ctx)
		r.end(c.source, t, n, err)
	})
	if !ok {
		delete(r.tries, c.source)
		t.err = ErrClosed
		close(t.ended)
	}
	return t, true
}

func (r *race) end(source tocSource, t *tocTry, n uint64, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tries, source)
	t.err = err
	if err == nil && !r.over() {
		r.n = n
		close(r.won)
		r.cancel() // the others
	}
	close(t.ended)
}

// over says whether n is known.
func (r *race) over() bool {
	select {
	case <-r.won:
		return true
	default:
		return false
	}
}

// rival returns a try that is under way, nil if there is none.
func (r *race) rival() *tocTry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tries {
		return t
	}
	return nil
}

// run gets the TOC for one caller: from another's source, or from its own.
func (r *race) run(ctx context.Context, c runner) (uint64, error) {
	early := time.NewTimer(hedgeAfter)
	defer early.Stop()
	var own *tocTry
	for t := r.rival(); !r.over(); {
		if t == nil {
			begun, mine := r.begin(c)
			if t = begun; mine {
				own = t
			}
		}
		select {
		case <-r.won:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-early.C:
			if own == nil {
				t = nil
			}
		case <-t.ended:
			if t == own && !r.over() {
				return 0, own.err
			}
			t = nil // another's source failed, ours may not
		}
	}
	return r.n, nil
}
