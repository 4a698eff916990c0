package fill

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tocsin/tocsin/store"
)

// Defaults of Options.
const (
	DefaultJobs        = 8
	DefaultReadTimeout = 30 * time.Second
)

// Options of a Pool. The zero value and nil work, but can only serve what is
// complete or was added with a Source in this process.
type Options struct {
	// Connect opens a recorded source. nil: recorded sources are not used.
	Connect Connect
	// Jobs bounds the requests in flight to one host, over all layers; as many
	// tables of contents may be under way beside them. 0: DefaultJobs.
	Jobs int
	// ReadTimeout is how long a read or a fetch may go without one byte
	// arriving; a source has half of it while there is another one to ask.
	// 0: DefaultReadTimeout.
	ReadTimeout time.Duration
	// MaxGap, MaxRange: see DefaultMaxGap and DefaultMaxRange, which 0 means.
	MaxGap, MaxRange int64
	// Window bounds the read-ahead of one sequential reader in bytes of the
	// file. 0: DefaultWindow; negative: no read-ahead.
	Window int64
	// Memory bounds in bytes what all work under way holds at one time: tables of
	// contents that become indexes, views that are merged, chunks and small files
	// on their way. What is mapped from files does not count. 0: DefaultMemory.
	Memory int64
	// Background makes Pool.Background do something.
	Background bool
	// Logger gets failures that nobody waits for. nil: none.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var opt Options
	if o != nil {
		opt = *o
	}
	if opt.Jobs <= 0 {
		opt.Jobs = DefaultJobs
	}
	if opt.ReadTimeout <= 0 {
		opt.ReadTimeout = DefaultReadTimeout
	}
	if opt.MaxGap <= 0 {
		opt.MaxGap = DefaultMaxGap
	}
	if opt.MaxRange <= 0 {
		opt.MaxRange = DefaultMaxRange
	}
	if opt.Window == 0 {
		opt.Window = DefaultWindow
	}
	if opt.Memory <= 0 {
		opt.Memory = DefaultMemory
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return opt
}

// Pool makes content of one store present. All methods are safe for
// concurrent use. Make one per process: single flight and the limit on
// requests hold within a pool.
type Pool struct {
	st     *store.Store
	opt    Options
	life   lifetime
	write  committer
	count  counters
	memory *budget
	behind *background

	mu      sync.Mutex
	layers  map[uint64]*Layer
	objects map[store.PartialKey]*object
	hosts   map[string]*scheduler

	flying struct { // work done once for all who ask
		tocs  races
		views flights[string, uint64]
	}
}

// New returns a pool over st, which stays the caller's and must outlive it.
func New(st *store.Store, o *Options) *Pool {
	p := &Pool{
		st:      st,
		opt:     o.withDefaults(),
		layers:  make(map[uint64]*Layer),
		objects: make(map[store.PartialKey]*object),
		hosts:   make(map[string]*scheduler),
		behind:  newBackground(),
	}
	p.memory = newBudget(p.opt.Memory)
	p.life.ctx, p.life.cancel = context.WithCancelCause(context.Background())
	p.write.init(p)
	return p
}

// Close ends what is under way and waits for it; reads that wait fail with
// ErrClosed. Files may still be closed afterwards.
func (p *Pool) Close() error {
	p.life.end()
	var rest []*demand
	p.mu.Lock()
	for _, s := range p.hosts {
		rest = append(rest, s.close()...)
	}
	p.mu.Unlock()
	for _, d := range rest {
		d.obj.settle(d, ErrClosed)
	}
	p.life.wg.Wait()
	return nil
}

// host returns the scheduler of requests to one host.
func (p *Pool) host(name string) *scheduler {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.hosts[name]
	if s == nil {
		s = newScheduler(name, p.opt.Jobs, p.opt.MaxRange, p.start)
		p.hosts[name] = s
	}
	return s
}

// lifetime starts the pool's goroutines and ends them together.
type lifetime struct {
	ctx    context.Context //nolint:containedctx // the pool's own life, not a caller's
	cancel context.CancelCauseFunc

	mu    sync.Mutex
	ended bool
	wg    sync.WaitGroup
}

// spawn starts fn unless the pool was closed.
func (l *lifetime) spawn(fn func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.wg.Go(fn)
	return true
}

func (l *lifetime) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.cancel(ErrClosed)
}

// Stats counts what a pool did since New.
type Stats struct {
	BytesFetched int64 // body bytes of sources, joined gaps and TOCs included
	BytesNeeded  int64 // compressed bytes of fetched chunks that a File's reader then used
	Requests     int64 // calls of Source.ReadRanges
	Ranges       int64 // ranges in those calls
	Chunks       int64 // chunks verified and kept
	Mismatches   int64 // chunks, tables and whole objects that failed their digest
	Objects      int64 // objects this pool made complete
}

type counters struct {
	bytes, needed, requests, ranges, chunks, mismatches, objects atomic.Int64
}

// Stats returns the counters as they are now.
func (p *Pool) Stats() Stats {
	c := &p.count
	return Stats{
		BytesFetched: c.bytes.Load(),
		BytesNeeded:  c.needed.Load(),
		Requests:     c.requests.Load(),
		Ranges:       c.ranges.Load(),
		Chunks:       c.chunks.Load(),
		Mismatches:   c.mismatches.Load(),
		Objects:      c.objects.Load(),
	}
}
