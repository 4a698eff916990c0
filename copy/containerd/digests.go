package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrAlgorithm: this containerd keeps no blobs under digests of that algorithm.
var ErrAlgorithm = errors.New("digest algorithm that containerd does not keep")

// HoldsDigests finds out whether this containerd keeps blobs under digests of alg: until 2.1 at least it computes sha256
// and compares that, from 2.3 on what was asked for. It writes an empty JSON object under a lease that it ends, so
// containerd's next collection takes it again. ErrAlgorithm is the answer no; other errors leave the question open.
func (n *Namespace) HoldsDigests(ctx context.Context, alg digest.Algorithm) (err error) {
	if alg == digest.SHA256 {
		return nil
	}
	if !alg.Available() {
		return fmt.Errorf("%.100q: %w", string(alg), ErrAlgorithm)
	}
	w, err := n.Writer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Release(ctx)) }()
	raw := v1.DescriptorEmptyJSON.Data
	p, err := w.Create(ctx)
	if err != nil {
		return err
	}
	if _, err := p.Write(raw); err != nil {
		return n.failed(errors.Join(err, p.Abort(ctx)), "write a blob")
	}
	err = p.Commit(ctx, v1.Descriptor{Digest: alg.FromBytes(raw), Size: int64(len(raw))})
	if errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err) {
		// None of these bytes were wrong: the cause is text only.
		return fmt.Errorf("containerd keeps no %s digests: %w: %v", alg, ErrAlgorithm, err)
	}
	return err
}
