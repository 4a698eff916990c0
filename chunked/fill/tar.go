package fill

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// WriteTar writes the tar of the layer, making all objects complete first. Of a
// layer with a TOC it proves that the tar and the TOC are the same files (see
// chunked.ProveTar), and knows that only at the end: until it has returned nil
// what was written is of no use. Of a layer that was taken from a tar it proves
// nothing: compare the digest.
//
// ErrDiffID when TOC and tar are two readings, chunked.ErrUnsayable when the
// tar has a form that readers read differently, store.ErrCorrupt when what the
// store keeps is not what it was, store.ErrNotFound when there is no tar-split.
func (l *Layer) WriteTar(ctx context.Context, w io.Writer) error {
	if err := l.hold(); err != nil {
		return err
	}
	defer l.drop()
	row, err := l.pool.st.Layer(l.n)
	if err == nil {
		err = l.writeTar(ctx, row, w)
	}
	if err != nil {
		return fmt.Errorf("tar of layer %d: %w", l.n, err)
	}
	return nil
}

func (l *Layer) writeTar(ctx context.Context, row *store.LayerRow, w io.Writer) error {
	raw, err := l.pool.st.TarSplit(l.n)
	if err != nil {
		return err
	}
	split := chunked.NewTarSplit(raw)
	if row.TOC != "" {
		if err := chunked.PlainTar(split); err != nil {
			return verdict(err) // before anything is fetched for it
		}
	}
	if err := l.Ensure(ctx, nil, Foreground); err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(&until{ctx: ctx, w: w}, tarBuffer)
	if row.TOC == "" {
		err = chunked.AssembleTar(buffered, split, l.openComplete)
	} else {
		err = l.prove(ctx, buffered, row, split)
	}
	if err != nil {
		return err
	}
	return buffered.Flush()
}

// prove writes the tar of a layer with a TOC, as one build among those that the
// budget allows.
func (l *Layer) prove(ctx context.Context, w io.Writer, row *store.LayerRow, split *chunked.TarSplit) (err error) {
	done, err := l.pool.memory.build(ctx, tocCost(row.TOCRef))
	if err != nil {
		return err
	}
	defer done()
	regions := l.pool.st.NewRegions()
	defer func() { err = errors.Join(err, regions.Close()) }()
	return verdict(chunked.ProveTar(Workspace(ctx, regions), w, l.index, split, l.openComplete))
}

// tarBuffer is how much of a tar is handed on at once.
const tarBuffer = 256 << 10

// verdict says what an error of a proof means: that the layer's author lied, or
// that the store does not have any more what it once had.
func verdict(err error) error {
	switch {
	case errors.Is(err, chunked.ErrMalformed):
		return fmt.Errorf("%w: %w", ErrDiffID, err)
	case errors.Is(err, chunked.ErrDigestMismatch):
		return fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	return err
}

func (l *Layer) openComplete(name string) (io.ReadCloser, error) {
	x, ok := l.index.ObjectByPath(name)
	if !ok {
		return nil, fmt.Errorf("%w: %q has no content in the index", chunked.ErrTwoReadings, name)
	}
	k := l.index.Object(x)
	f, err := l.pool.st.OpenObject(k.Digest, k.Size)
	if err != nil {
		return nil, err
	}
	return &whole{f, k.Digest, k.Size}, nil
}

// whole is an object that has as many bytes as it had when it was opened.
type whole struct {
	*os.File
	digest digest.Digest
	left   int64
}

func (w *whole) Read(p []byte) (int, error) {
	n, err := w.File.Read(p)
	if w.left -= int64(n); w.left < 0 || err == io.EOF && w.left > 0 {
		return n, fmt.Errorf("object %s: %w: its length changes", w.digest, store.ErrCorrupt)
	}
	return n, err
}

// until fails writes after its context ended.
type until struct {
	ctx context.Context //nolint:containedctx // lives as long as one WriteTar
	w   io.Writer
}

func (u *until) Write(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.w.Write(b)
}

// Refuted returns ErrDiffID if it is known already that the tar of layer n is
// not want, and nil if it is want or nobody knows. It fetches nothing.
func (p *Pool) Refuted(n uint64, want digest.Digest) error {
	row, err := p.st.Layer(n)
	if err != nil {
		return err
	}
	return refuted(row, want)
}

func refuted(row *store.LayerRow, want digest.Digest) error {
	switch {
	case row.NoTar != "":
		return fmt.Errorf("layer %d: %w: %s", row.Number, ErrDiffID, row.NoTar)
	case row.DiffID != "" && row.DiffID != want && row.DiffID.Algorithm() == want.Algorithm():
		return fmt.Errorf("layer %d: %w: tar is %s, config says %s", row.Number, ErrDiffID, row.DiffID, want)
	}
	return nil
}

// VerifyDiffID makes layer n complete, proves that its TOC and its tar are the
// same files, and compares the tar's digest with want. nil: all that is so.
// ErrDiffID: it is not, so the TOC view of the layer is not what the image calls
// its tar. What came out is recorded, and not computed again whatever image
// asks, but only if everything that it was computed from was what it should be.
// chunked.ErrUnsayable: nothing can prove it, and nothing is recorded.
func (p *Pool) VerifyDiffID(ctx context.Context, n uint64, want digest.Digest) error {
	if err := manifest.ValidDigest(want); err != nil {
		return fmt.Errorf("diffID of layer %d: %w", n, err)
	}
	row, err := p.st.Layer(n)
	if err != nil {
		return err
	}
	if err := refuted(row, want); err != nil {
		return err
	}
	l, err := p.Layer(n)
	if err != nil {
		return err
	}
	if row.DiffID == want {
		return l.Ensure(ctx, nil, Foreground)
	}
	if err := l.hold(); err != nil {
		return err
	}
	defer l.drop()
	h := newHasher(want.Algorithm())
	err = l.WriteTar(ctx, h)
	got := h.digest()
	switch {
	case errors.Is(err, ErrDiffID):
		if rotten := l.index.Check(); rotten != nil { // the disk is to blame, not the layer
			return fmt.Errorf("index of layer %d: %w: %w", n, store.ErrCorrupt, rotten)
		}
		if row.SplitDigest == "" { // of an older program: who knows whether it is what was kept
			return err
		}
		return errors.Join(err, p.st.SetNoTar(n, err.Error()))
	case err != nil:
		return err
	case got == want:
		return l.found(row, want)
	}
	err = fmt.Errorf("layer %d: %w: tar is %s, config says %s", n, ErrDiffID, got, want)
	if row.SplitDigest == "" {
		return err
	}
	return errors.Join(err, l.found(row, got))
}

// Provable says whether the tar of layer n can prove anything about its TOC:
// chunked.ErrUnsayable if it has a form that readers read differently, ErrDiffID
// if its tar-split is of no tar. It fetches nothing.
func (p *Pool) Provable(n uint64) error {
	raw, err := p.st.TarSplit(n)
	if err == nil {
		err = verdict(chunked.PlainTar(chunked.NewTarSplit(raw)))
	}
	if err != nil {
		return fmt.Errorf("tar of layer %d: %w", n, err)
	}
	return nil
}

// found records the digest of the layer's tar. Of several algorithms the first stays.
func (l *Layer) found(row *store.LayerRow, tar digest.Digest) error {
	if row.DiffID != "" {
		return nil
	}
	return l.pool.st.SetDiffID(l.n, tar)
}
