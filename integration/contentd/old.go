package contentd

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ageing is containerd's content store, which can be as it was up to 2.1: it computes sha256 only, and compares that with
// whatever digest it is given.
type ageing struct {
	content.Store
	old *atomic.Bool
}

// Writer implements content.Store.
func (a ageing) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	if !a.old.Load() {
		return a.Store.Writer(ctx, opts...)
	}
	w, err := a.Store.Writer(ctx, append(opts, func(o *content.WriterOpts) error {
		o.Desc = v1.Descriptor{Size: o.Desc.Size}
		return nil
	})...)
	if err != nil {
		return nil, err
	}
	return oldWriter{w}, nil
}

type oldWriter struct{ content.Writer }

// Commit implements content.Writer.
func (w oldWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	if got := w.Digest(); expected != "" && expected != got {
		return fmt.Errorf("unexpected commit digest %s, expected %s: %w", got, expected, errdefs.ErrFailedPrecondition)
	}
	return w.Writer.Commit(ctx, size, expected, opts...)
}
