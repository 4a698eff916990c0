package fill

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
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

// VerifyDiffID makes layer n complete, builds its tar and compares the tar's
// digest with want. nil: the layer is complete, they agree, and the store has
// recorded it; what was recorded before is not computed again. ErrDiffID:
// they differ, so the TOC view of the layer is not its tar view.
func (p *Pool) VerifyDiffID(ctx context.Context, n uint64, want digest.Digest) error {
	if err := manifest.ValidDigest(want); err != nil {
		return fmt.Errorf("diffID of layer %d: %w", n, err)
	}
	row, err := p.st.Layer(n)
	if err != nil {
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
	if err := l.WriteTar(ctx, h.Hash()); err != nil {
		return err
	}
	if got := h.Digest(); got != want {
		return fmt.Errorf("layer %d: %w: tar is %s, config says %s", n, ErrDiffID, got, want)
	}
	return p.st.SetDiffID(n, want)
}
