package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"

	"github.com/tocsin/tocsin/store"
)

// create makes an ordinary snapshot: a directory of its own above whatever parent is.
func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	c, err := s.chainUnder(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("create snapshot %q: %w", key, available(err))
	}
	err = s.update(ctx, func(ctx context.Context, _ rows) error {
		sn, err := storage.CreateSnapshot(ctx, kind, key, parent, opts...)
		if err != nil {
			return err
		}
		return s.furnish(sn.ID, func() error {
			if kind == snapshots.KindView && parent != "" {
				return nil // shows its parents and nothing else
			}
			return s.makeDir(sn.ID, c.top())
		})
	})
	if err != nil {
		return nil, fmt.Errorf("create snapshot %q: %w", key, available(err))
	}
	if c.lazy && s.lazily() { // what a restart of the daemon broke off goes on here
		s.pool.Background(c.layers())
	}
	mounts, err := s.Mounts(ctx, key)
	if err != nil {
		if rerr := s.Remove(context.WithoutCancel(ctx), key); rerr != nil {
			s.log.Warn("snapshot without a mount stays", "snapshot", key, "err", rerr)
		}
		return nil, err
	}
	return mounts, nil
}

// furnish runs fn, which gives snapshot id what it has outside of metadata.db, and
// takes that back if fn fails. It must happen inside the transaction that creates the
// snapshot: once that is rolled back, the next creation gets the same id. What a
// failed commit leaves behind is found by Cleanup and at the next start.
func (s *Snapshotter) furnish(id string, fn func() error) error {
	err := fn()
	if err != nil {
		s.discard(id)
		s.unpin(id)
	}
	return err
}

// record writes the pin of snapshot id, then its row. Ordinary snapshots have neither.
func (s *Snapshotter) record(r rows, id string, rw row) error {
	if rw == (row{}) {
		return nil
	}
	if err := s.pin(id, rw); err != nil {
		return err
	}
	if err := s.remember(r); err != nil {
		return err
	}
	return r.put(id, rw)
}

func (s *Snapshotter) chainUnder(ctx context.Context, parent string) (c chain, err error) {
	err = s.read(ctx, func(ctx context.Context, r rows) error {
		c, err = chainOn(ctx, r, parent)
		return err
	})
	if err != nil {
		return c, err
	}
	return s.locate(c)
}

// Mounts returns the mount of an active snapshot or view. Two calls agree unless a
// damaged view had to be replaced between them.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var (
		sn storage.Snapshot
		rw row
		c  chain
	)
	err := s.read(ctx, func(ctx context.Context, r rows) (err error) {
		if sn, err = storage.GetSnapshot(ctx, key); err != nil {
			return err
		}
		if rw, err = r.get(sn.ID); err != nil {
			return err
		}
		_, info, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		c, err = chainOn(ctx, r, info.Parent)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mounts of snapshot %q: %w", key, err)
	}
	l := layout{kind: sn.Kind, upper: s.upper(sn.ID), work: s.work(sn.ID), options: s.overlay}
	for _, id := range c.dirs {
		l.dirs = append(l.dirs, s.upper(id))
	}
	if c.lazy {
		if c, err = s.locate(c); err != nil {
			return nil, fmt.Errorf("mounts of snapshot %q: %w", key, available(err))
		}
		n, err := s.heldView(ctx, key, sn.ID, rw, c)
		if err != nil {
			return nil, fmt.Errorf("mounts of snapshot %q: %w", key, available(err))
		}
		l.view = filepath.Join(s.views, strconv.FormatUint(n, 10))
		s.verifyClaims(ctx, c.claims()) // also those that a restart of the daemon broke off
	}
	return l.mounts(), nil
}

// heldView returns the view that shows c's lazy layers, made if need be, after the pin
// of snapshot id holds it. A view that was collected before the pin is made again.
func (s *Snapshotter) heldView(ctx context.Context, key, id string, rw row, c chain) (uint64, error) {
	if !s.lazily() {
		return 0, fmt.Errorf("%w: %w", errdefs.ErrUnavailable, errOrdinary)
	}
	for try := 0; ; try++ {
		n, err := s.pool.ViewOf(ctx, c.shows())
		if err != nil {
			return 0, err
		}
		if n == rw.View {
			return n, nil
		}
		if err = s.hold(ctx, key, id, n); err == nil {
			return n, nil
		}
		if !errors.Is(err, store.ErrNotFound) || try > 0 {
			return 0, err
		}
	}
}

// hold makes the pin and the row of snapshot id hold view n in place of another.
func (s *Snapshotter) hold(ctx context.Context, key, id string, n uint64) error {
	return s.update(ctx, func(ctx context.Context, r rows) error {
		now, info, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		if now != id {
			return fmt.Errorf("snapshot %q was replaced: %w", key, errdefs.ErrNotFound)
		}
		if _, err := chainOn(ctx, r, info.Parent); err != nil { // denied meanwhile
			return err
		}
		rw, err := r.get(id)
		if err != nil {
			return err
		}
		rw.View = n
		return s.record(r, id, rw)
	})
}
