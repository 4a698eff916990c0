package snapshotter

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// create makes an ordinary snapshot: a directory of its own above whatever parent is.
func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	var id string
	err := s.update(ctx, func(ctx context.Context, _ rows) error {
		sn, err := storage.CreateSnapshot(ctx, kind, key, parent, opts...)
		if err != nil {
			return err
		}
		if kind == snapshots.KindView && parent != "" {
			return nil // shows its parents and nothing else
		}
		id = sn.ID
		below := ""
		if len(sn.ParentIDs) > 0 {
			below = sn.ParentIDs[0]
		}
		return s.makeDir(id, below)
	})
	if err != nil {
		if id != "" {
			s.discard(id)
		}
		return nil, fmt.Errorf("create snapshot %q: %w", key, err)
	}
	return s.Mounts(ctx, key)
}
