package fill

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// Priority says what an Ensure gives way to.
type Priority int

const (
	// Foreground is for callers that somebody waits for. Reads of files go first.
	Foreground Priority = iota
	// Background gives way to everything else and leaves one request slot free.
	Background
)

func (pr Priority) level() level {
	if pr == Background {
		return levelBackground
	}
	return levelAhead
}

// Ensure returns nil when the given objects of the layer (positions in its
// index; nil: all) are complete in the store, but for those with so many zeros that
// they are only ever read chunk by chunk (chunked.Index.Completable), which have all
// their chunks. Only what is missing is fetched.
// When it fails or ctx ends, what was fetched until then stays.
func (l *Layer) Ensure(ctx context.Context, objs []int, pr Priority) error {
	if err := l.hold(); err != nil {
		return err
	}
	defer l.drop()
	absent, err := l.absent(ctx, objs)
	if err != nil {
		return err
	}
	e := &ensuring{l: l, level: pr.level()}
	defer e.release()
	for _, x := range absent {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := e.add(ctx, x); err != nil {
			return err
		}
	}
	e.flush()
	for len(e.groups) > 0 {
		if err := e.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// absent returns those of objs that are not complete, each content once, in
// the order in which they lie in the blob.
func (l *Layer) absent(ctx context.Context, objs []int) ([]int, error) {
	type at struct {
		x   int
		off int64
	}
	n := l.index.NumObjects()
	if objs == nil {
		objs = make([]int, n)
		for i := range objs {
			objs[i] = i
		}
	}
	var out []at
	seen := make(map[digest.Digest]bool, len(objs))
	for _, x := range objs {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if x < 0 || x >= n {
			return nil, fmt.Errorf("layer %d has no object %d", l.n, x)
		}
		k := l.index.Object(x)
		if seen[k.Digest] || l.pool.st.HasObject(k.Digest, k.Size) {
			continue
		}
		seen[k.Digest] = true
		out = append(out, at{x, l.firstByte(x)})
	}
	slices.SortFunc(out, func(a, b at) int { return cmp.Or(cmp.Compare(a.off, b.off), cmp.Compare(a.x, b.x)) })
	xs := make([]int, len(out))
	for i, a := range out {
		xs[i] = a.x
	}
	return xs, nil
}

// firstByte returns where in the blob the content of object x begins, 0 if
// it is nowhere there.
func (l *Layer) firstByte(x int) int64 {
	for k := range l.index.NumChunks(x) {
		if c := l.index.Chunk(x, k); c.Blob.Len > 0 {
			return c.Blob.Off
		}
	}
	return 0
}

// ensuring is one Ensure: groups of demands, each about as long as one
// request, of which a bounded number is under way.
type ensuring struct {
	l      *Layer
	level  level
	now    group   // being gathered
	groups []group // under way, oldest first
}

type group struct {
	parts      []part
	all, fresh []*demand
	bytes      int64
}

// part is a run of chunks of one object.
type part struct {
	handle
	demands []*demand
	last    bool // the object is complete when these are in
}

// add gathers the chunks of object x.
func (e *ensuring) add(ctx context.Context, x int) error {
	if err := e.makeRoom(ctx, e.l.index.Object(x).Size); err != nil {
		return err
	}
	h, err := e.l.acquireAbsent(x)
	if err != nil {
		return err
	}
	n := e.l.index.NumChunks(x)
	for from := 0; ; {
		to := from
		for ; to < n && e.now.bytes < e.l.pool.opt.MaxRange; to++ {
			c := e.l.index.Chunk(x, to)
			e.now.bytes += max(c.Blob.Len, c.Size/2) // small objects are in memory until they are complete
		}
		all, fresh, err := h.want(from, to, ask{level: e.level})
		e.now.all = append(e.now.all, all...)
		e.now.fresh = append(e.now.fresh, fresh...)
		h.retain()
		e.now.parts = append(e.now.parts, part{handle: h, demands: all, last: to == n})
		if from = to; err != nil || from == n {
			h.release()
			return err
		}
		if err := e.next(ctx); err != nil {
			h.release()
			return err
		}
	}
}

// makeRoom completes groups under way while memory has no room for another small
// object. Once there are none, others have taken it all: then the object is filled
// on disk.
func (e *ensuring) makeRoom(ctx context.Context, size int64) error {
	for size <= memoryLimit && !e.l.pool.memory.room(size) {
		e.flush()
		if len(e.groups) == 0 {
			return nil
		}
		if err := e.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// acquireAbsent holds an object that the store does not have. One that was
// complete once and is still open somewhere was removed since, by gc say: it
// begins anew.
func (l *Layer) acquireAbsent(x int) (handle, error) {
	h, err := l.acquire(x, false)
	if err != nil || !h.isStored() || l.pool.st.HasObject(h.key.Digest, h.key.Size) {
		return h, err
	}
	l.pool.forget(h.object)
	h.release()
	return l.acquire(x, false)
}

// next begins another group once there is room for it.
func (e *ensuring) next(ctx context.Context) error {
	e.flush()
	for len(e.groups) >= e.l.pool.opt.Jobs+2 {
		if err := e.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

// flush puts the gathered group under way.
func (e *ensuring) flush() {
	g := e.now
	e.now = group{}
	submit(g.all, g.fresh, e.level)
	if len(g.parts) > 0 {
		e.groups = append(e.groups, g)
	}
}

// settle waits for the oldest group and for the objects that end in it.
func (e *ensuring) settle(ctx context.Context) error {
	g := e.groups[0]
	for _, p := range g.parts {
		if err := p.await(ctx, p.demands); err != nil {
			return err
		}
	}
	for _, p := range g.parts {
		if !p.last || !p.mayComplete.Load() {
			continue
		}
		if err := p.complete(ctx, e.level); err != nil {
			return err
		}
	}
	e.groups = e.groups[1:]
	g.release()
	return nil
}

func (g *group) release() {
	for _, p := range g.parts {
		p.release()
	}
}

// release gives everything up; demands under way go on by themselves. Those that
// were never submitted are nobody's, or a reader's that will ask again.
func (e *ensuring) release() {
	for _, d := range e.now.fresh {
		d.obj.settle(d, errAbandoned)
	}
	e.now.release()
	for _, g := range e.groups {
		g.release()
	}
}

// await waits for demands. One that another layer's source could not answer
// is asked for again through this layer: a layer that names a chunk of ours
// in a place of its own must not keep us from it.
func (h handle) await(ctx context.Context, ds []*demand) error {
	for i, d := range ds {
		if err := h.awaitOne(ctx, d, ds[i:]); err != nil {
			return err
		}
	}
	return nil
}

// awaitOne waits for d. Those of rest are asked for elsewhere with it.
func (h handle) awaitOne(ctx context.Context, d *demand, rest []*demand) error {
	for {
		err := h.pool.await(ctx, d, func() { h.hedge(rest) })
		if err == nil || d.layer == h.l && !abandoned(err) || !d.settled() || ctx.Err() != nil {
			return err
		}
		all, fresh, err := h.want(d.i, d.i+1, ask{level: levelRead, read: d.read.Load()})
		submit(all, fresh, levelRead)
		if err != nil {
			return err
		}
		if len(all) == 0 {
			return nil
		}
		d, rest = all[0], all
	}
}
