package snapshotter

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
)

// verify begins to rebuild the tar of a layer and to compare it with a claimed
// diff_id, or joins whoever does. It goes on without its caller, for as long as the
// layer is kept without a snapshot.
func (s *Snapshotter) verify(ctx context.Context, c claim) <-chan singleflight.Result {
	key := fmt.Sprintf("verify %d %s", c.layer, c.diffID)
	return s.flights.start(ctx, key, pullTTL, func(ctx context.Context) (any, error) {
		return nil, s.pool.VerifyDiffID(ctx, c.layer, c.diffID)
	})
}

// complete returns when the tar of layer i was rebuilt and found to be what its
// diff_id says. The other layers of the image are begun too, since their turn comes
// as soon as this one is answered.
func (s *Snapshotter) complete(ctx context.Context, im *image, layers []uint64, i int) error {
	var mine <-chan singleflight.Result
	for j, l := range im.Layers {
		if layers[j] == 0 {
			continue // the sentinel
		}
		c := s.verify(ctx, claim{layers[j], l.TOC.Digest, l.DiffID})
		if j == i {
			mine = c
		}
	}
	_, err := wait(ctx, mine)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %d %% of the image are local, going on; pull again", errdefs.ErrUnavailable, s.local.percent(layers))
	}
	return err
}

// unproved is the claim that the tar of layer n is diffID, "" once that was compared on
// this machine; fill.ErrDiffID if it is another.
func (s *Snapshotter) unproved(n uint64, diffID digest.Digest) (digest.Digest, error) {
	l, err := s.store.Layer(n)
	if err != nil || l.DiffID == diffID {
		return "", err
	}
	return diffID, s.pool.Refuted(n, diffID)
}

// verifyClaims compares in the background what was believed when snapshots were
// committed (unbound = "verify"). It is asked again whenever something that stands on
// them is mounted, so a restart loses no claim.
func (s *Snapshotter) verifyClaims(ctx context.Context, claims []claim) {
	for _, c := range claims {
		key := fmt.Sprintf("claim %d %s", c.layer, c.diffID)
		s.flights.start(ctx, key, pullTTL, func(ctx context.Context) (any, error) {
			err := s.pool.VerifyDiffID(ctx, c.layer, c.diffID)
			if err != nil && ctx.Err() == nil {
				s.log.Error("layer was answered by its TOC and is not proved", "layer", c.layer, "diffID", c.diffID, "err", err)
			}
			if errors.Is(err, fill.ErrDiffID) || errors.Is(err, chunked.ErrUnsayable) || errors.Is(err, chunked.ErrTooBig) {
				s.deny(ctx, c, err)
			}
			return nil, nil
		})
	}
}
