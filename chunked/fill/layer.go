package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// LayerSpec says where a layer and its table of contents are.
type LayerSpec struct {
	Blob   v1.Descriptor    // as the verified manifest has it
	TOC    *manifest.TOCRef // from the annotations of Blob
	Source store.Source     // to record; not recorded when it names no blob
}

// Layer is one layer of the store. It is usable as long as the store has the layer;
// files that were opened before stay readable.
type Layer struct {
	pool    *Pool
	n       uint64
	index   *chunked.Index // valid while the layer is held
	mapped  mapping
	src     sources
	skipped atomic.Int64 // bytes of gaps that were fetched, see spare
}

// Number returns the layer's number in the store.
func (l *Layer) Number() uint64 { return l.n }

// Index returns the layer's index. It is valid as long as the store has the layer.
func (l *Layer) Index() *chunked.Index { return l.index }

// Objects returns the contents of the layer's files, each once.
func (l *Layer) Objects() ([]chunked.ObjectKey, error) {
	if err := l.hold(); err != nil {
		return nil, err
	}
	defer l.drop()
	out := make([]chunked.ObjectKey, l.index.NumObjects())
	for i := range out {
		out[i] = l.index.Object(i)
	}
	return out, nil
}

// AddLayer makes a layer known and returns its number. A layer whose TOC
// digest is known and whose files are whole costs no request: spec.Source is
// merged into its row. Else TOC and tar-split are fetched from src in one call,
// verified, and kept.
// src also serves the layer's content from now on, in this process.
func (p *Pool) AddLayer(ctx context.Context, spec LayerSpec, src Source) (uint64, error) {
	if spec.TOC == nil {
		return 0, fmt.Errorf("add layer %s: %w: no table of contents", spec.Blob.Digest, manifest.ErrUnsupported)
	}
	key := tocKey{spec.TOC.Digest, spec.TOC.TarSplit.Len > 0}
	r := p.flying.tocs.enter(p.life.ctx, key)
	n, err := r.run(ctx, runner{
		source: tocSource{spec.Source.Host, spec.Source.Repo, string(spec.Source.Blob)},
		spawn:  p.life.spawn,
		fetch: func(ctx context.Context) (uint64, error) {
			n, err := p.known(spec)
			if !errors.Is(err, store.ErrNotFound) {
				return n, err
			}
			return p.fetchLayer(ctx, spec, src)
		},
	})
	p.flying.tocs.leave(key, r)
	if err != nil {
		return 0, fmt.Errorf("add layer %s: %w", spec.Blob.Digest, err)
	}
	if spec.Source.Blob != "" {
		if err := p.st.AddSource(n, spec.Source); err != nil {
			return 0, fmt.Errorf("add layer %s: %w", spec.Blob.Digest, err)
		}
	}
	l, err := p.Layer(n)
	if err != nil {
		return 0, err
	}
	l.src.merge(spec.Source, src)
	return n, nil
}

// fetchLayer fetches, verifies and stores a layer's TOC and tar-split.
func (p *Pool) fetchLayer(ctx context.Context, spec LayerSpec, src Source) (n uint64, err error) {
	ref := spec.TOC
	if ref.TOC.Len <= 0 || ref.TOC.Len > manifest.MaxTOCSize || ref.TarSplit.Len < 0 || ref.TarSplit.Len > manifest.MaxTarSplitSize {
		return 0, fmt.Errorf("%w: TOC of %d bytes, tar-split of %d", manifest.ErrMalformed, ref.TOC.Len, ref.TarSplit.Len)
	}
	slots := p.host(spec.Source.Host).tocs
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	raw, err := p.fetchTOC(ctx, ref, src)
	<-slots
	defer p.letGo(raw)
	if err != nil {
		return 0, err
	}
	done, err := p.memory.build(ctx, tocCost(ref))
	if err != nil {
		return 0, fmt.Errorf("TOC %s: %w", ref.Digest, err)
	}
	defer done()
	regions := p.st.NewRegions()
	defer func() { err = errors.Join(err, regions.Close()) }()
	index, tarsplit, err := verifyTOC(Workspace(ctx, regions), raw.parts, ref, spec.Blob.Size)
	if err != nil {
		if errors.Is(err, chunked.ErrDigestMismatch) {
			p.count.mismatches.Add(1)
			err = fmt.Errorf("%w: %w", ErrDigestMismatch, err)
		}
		return 0, err
	}
	row := store.LayerRow{TOC: ref.Digest, TOCRef: ref, NoSplit: ref.TarSplit.Len > 0 && tarsplit == nil}
	if spec.Source.Blob != "" {
		row.Sources = []store.Source{spec.Source}
	}
	return p.st.PutLayer(row, index, tarsplit)
}

// Workspace is what a long computation of package chunked gets: the memory of
// regions, and an end.
func Workspace(ctx context.Context, regions *store.Regions) *chunked.Workspace {
	return &chunked.Workspace{Region: regions.Region, Stop: func() error { return context.Cause(ctx) }}
}

// tocCost is about what the index of a TOC takes to make. Large parts of what was
// fetched lie in files, and small ones have a budget of their own.
func tocCost(ref *manifest.TOCRef) int64 {
	if ref == nil { // of a row that was made again from its key
		ref = &manifest.TOCRef{TOCRawLen: manifest.MaxTOCRaw}
	}
	return chunked.BuildCost(ref) - ref.TOC.Len - ref.TarSplit.Len
}

// fetched is a compressed TOC and its tar-split, not verified.
type fetched struct {
	parts [2][]byte
	bufs  []*buffer // that they lie in
}

func (p *Pool) letGo(f fetched) {
	for _, b := range f.bufs {
		p.release(b)
	}
}

// fetchTOC returns the compressed TOC and tar-split. What it returns must be let
// go of, with an error too.
func (p *Pool) fetchTOC(parent context.Context, ref *manifest.TOCRef, src Source) (fetched, error) {
	var out fetched
	want := []manifest.Range{ref.TOC, ref.TarSplit}
	spans := planRanges(want, p.opt.MaxGap, manifest.MaxTOCSize+manifest.MaxTarSplitSize, nil)
	ranges := make([]manifest.Range, len(spans))
	for i, s := range spans {
		ranges[i] = s.Range
	}
	var came arrival
	parent, bound := context.WithTimeoutCause(parent, tocTime(ref.TOC.Len+ref.TarSplit.Len, p.opt.ReadTimeout), ErrSlow)
	defer bound()
	ctx, _, stop := came.watch(parent, p.opt.ReadTimeout, false)
	defer stop()
	next := 0
	err := p.readRanges(ctx, src, ranges, came.note, func(r manifest.Range, body io.Reader) error {
		if next == len(spans) || spans[next].Range != r {
			return fmt.Errorf("source answered a range that was not asked for: %d+%d", r.Off, r.Len)
		}
		buf, err := p.buffer(r.Len)
		if err != nil {
			return err
		}
		out.bufs = append(out.bufs, buf)
		if _, err := io.ReadFull(body, buf.b); err != nil {
			return err
		}
		for _, run := range spans[next].runs {
			for _, i := range run.pieces {
				out.parts[i] = buf.b[want[i].Off-r.Off : want[i].End()-r.Off]
			}
		}
		next++
		return nil
	})
	if err == nil && next != len(spans) {
		err = fmt.Errorf("source answered %d of %d ranges", next, len(spans))
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return out, fmt.Errorf("fetch TOC %s: %w", ref.Digest, err)
	}
	return out, nil
}

// verifyTOC checks what fetchTOC returned and makes of it what the store
// keeps: the layer index and, if the TOC names one, the tar-split.
func verifyTOC(ws *chunked.Workspace, raw [2][]byte, ref *manifest.TOCRef, blobSize int64) (index, tarsplit []byte, err error) {
	index, split, err := chunked.IndexTOC(ws, raw[0], ref, blobSize)
	if err != nil {
		return nil, nil, fmt.Errorf("TOC %s: %w", ref.Digest, err)
	}
	if split == "" || ref.TarSplit.Len == 0 {
		return index, nil, nil
	}
	tarsplit, err = verifySplit(ws, index, raw[1], split, ref.TarSplitRawLen)
	if err != nil {
		return nil, nil, fmt.Errorf("tar-split of TOC %s: %w", ref.Digest, err)
	}
	return index, tarsplit, nil
}

// verifySplit returns the tar-split as the store keeps it. One of a tar that readers do not read alike is kept: it can
// prove nothing, which VerifyDiffID will say, and the table of contents does not depend on it.
func verifySplit(ws *chunked.Workspace, index, raw []byte, want digest.Digest, rawLen int64) ([]byte, error) {
	ts, err := chunked.ParseTarSplit(raw, want, rawLen)
	if err != nil {
		return nil, err
	}
	x, err := chunked.OpenIndex(index)
	if err != nil {
		return nil, err
	}
	if err := chunked.CheckTarSplit(ws, x, ts); err != nil && !errors.Is(err, chunked.ErrUnsayable) {
		return nil, err
	}
	return ts.Bytes(), nil
}

// Layer returns layer n, opened once per pool. store.ErrNotFound when the
// store has none.
func (p *Pool) Layer(n uint64) (*Layer, error) {
	p.mu.Lock()
	l := p.layers[n]
	p.mu.Unlock()
	if l != nil {
		return l, nil
	}
	mapped, err := p.st.LayerIndex(n)
	if err != nil {
		return nil, fmt.Errorf("layer %d: %w", n, err)
	}
	index, err := chunked.OpenIndex(mapped.Bytes())
	if err != nil {
		mapped.Close()
		return nil, fmt.Errorf("index of layer %d: %w", n, err)
	}
	l = &Layer{pool: p, n: n, index: index, mapped: mapping{file: mapped, failed: func(err error) {
		p.opt.Logger.Warn("index of a layer stays mapped", "layer", n, "err", err)
	}}}
	if err := l.mergeRow(); err != nil {
		mapped.Close()
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if first := p.layers[n]; first != nil {
		mapped.Close()
		return first, nil
	}
	p.layers[n] = l
	return l, nil
}

// mergeRow takes over the sources that the store has recorded for the layer.
func (l *Layer) mergeRow() error {
	row, err := l.pool.st.Layer(l.n)
	if err != nil {
		return fmt.Errorf("layer %d: %w", l.n, err)
	}
	for _, s := range row.Sources {
		l.src.merge(s, nil)
	}
	return nil
}

// View returns the number of everybody's view of the given layers, bottom to
// top, merging and storing it when there is none. No layers: the empty view.
func (p *Pool) View(ctx context.Context, layers []uint64) (uint64, error) {
	return p.ViewOf(ctx, store.Chain{Layers: layers})
}

// ViewOf is View for a chain that may be set apart by a claim.
func (p *Pool) ViewOf(ctx context.Context, c store.Chain) (uint64, error) {
	if n, ok, err := p.soundView(c); err != nil || ok {
		return n, err
	}
	key := fmt.Sprint(c.Layers, c.Claim)
	return p.flying.views.do(ctx, key, p.life.spawn, func() (uint64, error) {
		n, ok, err := p.soundView(c)
		if err != nil || ok {
			return n, err
		}
		return p.merge(p.life.ctx, c, n)
	})
}

// merge makes and stores the view of a chain that has none, or in place of one
// that is damaged.
func (p *Pool) merge(ctx context.Context, c store.Chain, damaged uint64) (n uint64, err error) {
	indexes := make([]*chunked.Index, len(c.Layers))
	entries := int64(0)
	for i, n := range c.Layers {
		l, err := p.Layer(n)
		if err != nil {
			return 0, err
		}
		if err := l.hold(); err != nil {
			return 0, err
		}
		defer l.drop()
		indexes[i] = l.index
		entries += int64(l.index.NumEntries())
	}
	done, err := p.memory.build(ctx, chunked.MergeCost(entries))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c, err)
	}
	defer done()
	regions := p.st.NewRegions()
	defer func() { err = errors.Join(err, regions.Close()) }()
	tree, err := chunked.Merge(Workspace(ctx, regions), indexes)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", c, err)
	}
	return p.st.ReplaceView(damaged, c, tree)
}
