package fill

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// WriteTar writes the tar of the layer as its tar-split and the TOC's contents
// give it, making all objects complete first. It proves nothing by itself:
// compare the digest of what it wrote. ErrDiffID when the contents are not
// those of the tar-split, store.ErrNotFound when the layer has none.
func (l *Layer) WriteTar(ctx context.Context, w io.Writer) error {
	raw, err := l.pool.st.TarSplit(l.n)
	if err != nil {
		return fmt.Errorf("tar of layer %d: %w", l.n, err)
	}
	if err := l.Ensure(ctx, nil, Foreground); err != nil {
		return fmt.Errorf("tar of layer %d: %w", l.n, err)
	}
	err = chunked.AssembleTar(&until{ctx: ctx, w: w}, chunked.NewTarSplit(raw), l.openComplete)
	if errors.Is(err, chunked.ErrDigestMismatch) {
		err = fmt.Errorf("%w: %w", ErrDiffID, err)
	}
	if err != nil {
		return fmt.Errorf("tar of layer %d: %w", l.n, err)
	}
	return nil
}

func (l *Layer) openComplete(name string) (io.ReadCloser, error) {
	x, ok := l.index.ObjectByPath(name)
	if !ok {
		return nil, fmt.Errorf("%q is not in the index", name)
	}
	k := l.index.Object(x)
	return l.pool.st.OpenObject(k.Digest, k.Size)
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

// VerifyDiffID makes layer n complete, builds its tar and compares the tar's
// digest with want. nil: the layer is complete and they agree. ErrDiffID: they
// differ, so the TOC view of the layer is not what the image calls its tar. What
// came out is recorded, and not computed again whatever image asks.
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
	h := want.Algorithm().Digester()
	err = l.WriteTar(ctx, h.Hash())
	if err == nil && h.Digest() == want {
		return l.found(row, want)
	}
	if err != nil && !errors.Is(err, ErrDiffID) {
		return err
	}
	if rotten := l.compareContent(ctx); rotten != nil { // the disk is to blame, not the layer
		return fmt.Errorf("tar of layer %d: %w", n, rotten)
	}
	if err != nil {
		return errors.Join(err, p.st.SetNoTar(n, err.Error()))
	}
	err = fmt.Errorf("layer %d: %w: tar is %s, config says %s", n, ErrDiffID, h.Digest(), want)
	return errors.Join(err, l.found(row, h.Digest()))
}

// found records the digest of the layer's tar. Of several algorithms the first stays.
func (l *Layer) found(row *store.LayerRow, tar digest.Digest) error {
	if row.DiffID != "" {
		return nil
	}
	return l.pool.st.SetDiffID(l.n, tar)
}

// compareContent reads all files of a complete layer and compares each with its
// digest. store.ErrCorrupt names the first that differs.
func (l *Layer) compareContent(ctx context.Context) error {
	for x := range l.index.NumObjects() {
		k := l.index.Object(x)
		f, err := l.pool.st.OpenObject(k.Digest, k.Size)
		if err != nil {
			return err
		}
		h := k.Digest.Algorithm().Digester()
		_, err = io.Copy(&until{ctx: ctx, w: h.Hash()}, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if h.Digest() != k.Digest {
			return fmt.Errorf("object %s: %w", k.Digest, store.ErrCorrupt)
		}
	}
	return nil
}
