package snapshotter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/singleflight"

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
		c := s.verify(ctx, claim{layers[j], l.DiffID})
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

// verifyClaims compares in the background what was believed when snapshots were
// committed (unbound = "verify"). It is asked again whenever something new stands on
// them, so a restart loses no claim.
func (s *Snapshotter) verifyClaims(ctx context.Context, claims []claim) {
	for _, c := range claims {
		key := fmt.Sprintf("claim %d %s", c.layer, c.diffID)
		s.flights.start(ctx, key, pullTTL, func(ctx context.Context) (any, error) {
			err := s.pool.VerifyDiffID(ctx, c.layer, c.diffID)
			if err != nil {
				s.log.Error("layer was answered by its TOC and is not proved", "layer", c.layer, "diffID", c.diffID, "err", err)
			}
			if errors.Is(err, fill.ErrDiffID) {
				s.deny(c, err)
			}
			return nil, nil
		})
	}
}

// deny withdraws a claim that proved false: the layer's sources are given up, so that
// running containers get EIO for what is not local, and its snapshots cannot be mounted
// or built upon any more.
func (s *Snapshotter) deny(c claim, cause error) {
	l, err := s.store.Layer(c.layer)
	if err == nil {
		for _, src := range l.Sources {
			err = errors.Join(err, s.store.Quarantine(c.layer, src, cause.Error()))
		}
	}
	err = errors.Join(err, s.update(context.Background(), func(_ context.Context, r rows) error {
		return r.deny(c, cause.Error())
	}))
	if err != nil {
		s.log.Error("layer with a false diff_id could not be withdrawn", "layer", c.layer, "err", err)
	}
}

// deny marks every snapshot that was committed on the strength of c.
func (r rows) deny(c claim, reason string) error {
	var ids []string
	err := r.b.ForEach(func(id, raw []byte) error {
		var rw row
		if err := json.Unmarshal(raw, &rw); err != nil {
			return fmt.Errorf("row of snapshot %s: %w", id, err)
		}
		if rw.Layer == c.layer && rw.Claim == c.diffID {
			ids = append(ids, string(id))
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		rw, err := r.get(id)
		if err != nil {
			return err
		}
		rw.Denied = reason
		if err := r.put(id, rw); err != nil {
			return err
		}
	}
	return nil
}
