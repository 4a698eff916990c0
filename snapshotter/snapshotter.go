package snapshotter

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Options configure a Snapshotter.
type Options struct {
	Root   string       // the store's root; snapshots live in ROOT/snapshots. Required
	Logger *slog.Logger // nil: slog.Default()
}

// Snapshotter implements containerd's snapshots.Snapshotter and snapshots.Cleaner.
// All methods may be called concurrently. It is the only user of ROOT/snapshots: a
// second one on the same root fails to open.
type Snapshotter struct {
	dir     string // ROOT/snapshots
	meta    *storage.MetaStore
	overlay []string // options of every overlay mount
	log     *slog.Logger
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// lockTimeout is how long New waits for another process to let go of metadata.db.
const lockTimeout = 5 * time.Second

// New opens the snapshotter of o.Root, creating it where there is none. It contacts
// nobody and does not fail because a single snapshot cannot be restored.
func New(o *Options) (*Snapshotter, error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, err
	}
	if o.Root == "" || strings.ContainsAny(root, ",:\\") {
		return nil, fmt.Errorf("root %q: overlay options cannot hold ',', ':' or '\\'", o.Root)
	}
	s := &Snapshotter{dir: filepath.Join(root, "snapshots"), log: o.Logger}
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if s.overlay, err = overlayOptions(s.dir); err != nil {
		return nil, err
	}
	s.meta, err = storage.NewMetaStore(filepath.Join(s.dir, "metadata.db"), func(b *bolt.Options) error {
		b.Timeout = lockTimeout
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.restore(context.Background()); err != nil {
		_ = s.meta.Close()
		return nil, fmt.Errorf("open snapshots in %s: %w", s.dir, err)
	}
	return s, nil
}

// overlayOptions are the ones that the built-in overlayfs snapshotter would choose.
func overlayOptions(dir string) ([]string, error) {
	var options []string
	// With index=on a directory cannot be the upper of a second mount, which is what
	// a client and a shim do with one snapshot.
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		options = append(options, "index=off")
	}
	user, err := overlayutils.NeedsUserXAttr(dir)
	if err != nil {
		return nil, fmt.Errorf("find out whether overlayfs needs userxattr: %w", err)
	}
	if user {
		options = append(options, "userxattr")
	}
	return options, nil
}

// restore opens metadata.db, which takes its lock.
func (s *Snapshotter) restore(ctx context.Context) error {
	return s.update(ctx, func(context.Context, rows) error { return nil })
}

// Close releases metadata.db and changes nothing else. Closing twice is fine.
func (s *Snapshotter) Close() error { return s.meta.Close() }

// Stat returns what is known about a snapshot.
func (s *Snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.read(ctx, func(ctx context.Context, _ rows) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

// Update changes labels; other field paths are refused. It runs inside containerd's
// own write transaction, so it must never call containerd.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (out snapshots.Info, err error) {
	err = s.update(ctx, func(ctx context.Context, _ rows) error {
		out, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return out, err
}

// Prepare creates a writable snapshot on parent.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// View creates a read-only snapshot of parent.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

// Mounts returns the mount of an active snapshot or view. Two calls agree unless a
// damaged view had to be replaced between them.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	var sn storage.Snapshot
	err := s.read(ctx, func(ctx context.Context, _ rows) (err error) {
		sn, err = storage.GetSnapshot(ctx, key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("mounts of snapshot %q: %w", key, err)
	}
	l := layout{kind: sn.Kind, upper: s.upper(sn.ID), work: s.work(sn.ID), options: s.overlay}
	for _, id := range sn.ParentIDs {
		l.dirs = append(l.dirs, s.upper(id))
	}
	return l.mounts(), nil
}

// Commit makes the active snapshot key the committed snapshot name. containerd holds
// its own database's write lock meanwhile, so nothing is synced, walked or measured
// here: Usage counts when it is asked, which is exact for ever after.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return s.update(ctx, func(ctx context.Context, _ rows) error {
		_, err := storage.CommitActive(ctx, key, name, snapshots.Usage{}, opts...)
		return err
	})
}

// Remove forgets a snapshot at once. Its directory goes at the next Cleanup.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	var id string
	err := s.update(ctx, func(ctx context.Context, r rows) (err error) {
		if id, _, err = storage.Remove(ctx, key); err != nil {
			return err
		}
		return r.drop(id)
	})
	if err != nil {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	s.discard(id)
	return nil
}

// Walk calls fn for every snapshot that one of the filters accepts, or for all
// without filters. No transaction is open while fn runs, so it may call back.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	var found []snapshots.Info
	err := s.read(ctx, func(ctx context.Context, _ rows) error {
		if info, ok := answered(ctx, filters); ok {
			found = append(found, info)
			return nil
		}
		err := storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
			found = append(found, info)
			return nil
		}, filters...)
		if errdefs.IsNotFound(err) { // nothing was ever created: there is no bucket
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, info := range found {
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

// Usage says what a snapshot occupies itself, without its parents. An active one is
// measured each time; a committed one the first time it is asked for.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	var (
		id   string
		info snapshots.Info
		rw   row
	)
	err := s.read(ctx, func(ctx context.Context, r rows) (err error) {
		if id, info, _, err = storage.GetInfo(ctx, key); err != nil {
			return err
		}
		rw, err = r.get(id)
		return err
	})
	switch {
	case err != nil:
		return snapshots.Usage{}, fmt.Errorf("usage of snapshot %q: %w", key, err)
	case rw.Usage != nil:
		return *rw.Usage, nil
	}
	u, err := diskUsage(ctx, s.upper(id))
	if err != nil {
		return u, fmt.Errorf("usage of snapshot %q: %w", key, err)
	}
	if info.Kind == snapshots.KindCommitted {
		s.keepUsage(ctx, key, id, u)
	}
	return u, nil
}

// keepUsage remembers what a committed snapshot occupies. Losing it costs a second
// measurement and nothing else.
func (s *Snapshotter) keepUsage(ctx context.Context, key, id string, u snapshots.Usage) {
	err := s.update(ctx, func(ctx context.Context, r rows) error {
		if now, _, _, err := storage.GetInfo(ctx, key); err != nil || now != id {
			return err // removed meanwhile; the key may even be somebody else's by now
		}
		rw, err := r.get(id)
		if err != nil {
			return err
		}
		rw.Usage = &u
		return r.put(id, rw)
	})
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("usage not kept", "snapshot", key, "err", err)
	}
}
