package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// Options configure a Snapshotter. Without Store, Pool and MountDir it is an ordinary
// one that refuses sentinel variants; all three or none.
type Options struct {
	Root     string       // the store's root; snapshots live in ROOT/snapshots. Required
	Store    *store.Store // stays the caller's, like Pool, and must outlive the Snapshotter
	Pool     *fill.Pool
	MountDir string  // where lazyfs is mounted: MountDir/views/<n> is view n
	Remote   Remote  // nil: only what the store has can be lazy
	Content  Content // nil: manifests come from Store and Remote only

	// Containers names who shows a layer that is denied. nil: the log names snapshots.
	Containers Containers
	// DenyView makes every read of a view fail, now and after a restart. nil:
	// Store.DenyView, which is enough where nothing is mounted.
	DenyView func(n uint64, reason string) error

	// PrepareTimeout bounds one Prepare; 0 is DefaultPrepareTimeout. containerd may hold
	// up every other call of this snapshotter for as long.
	PrepareTimeout time.Duration
	// UnverifiedChains believes the tar diff_ids of sentinel variants, and lets
	// VerifyUnbound be set.
	UnverifiedChains bool
	// VerifyUnbound (unbound = "verify") answers images that can also be read as tar by
	// their TOC, and proves that in the background. It needs UnverifiedChains.
	VerifyUnbound bool
	Logger        *slog.Logger // nil: slog.Default()
}

// DefaultPrepareTimeout is far below what a user waits for a pull, and long enough for
// the TOCs of a large image over a slow line.
const DefaultPrepareTimeout = 30 * time.Second

// Snapshotter implements containerd's snapshots.Snapshotter and snapshots.Cleaner.
// All methods may be called concurrently. It is the only user of ROOT/snapshots: a
// second one on the same root fails to open.
type Snapshotter struct {
	dir     string // ROOT/snapshots
	views   string // MountDir/views
	meta    *storage.MetaStore
	overlay []string // options of every overlay mount
	log     *slog.Logger

	store   *store.Store // nil, like pool: ordinary snapshots only
	pool    *fill.Pool
	images  *images
	local   *local
	flights *flights
	policy  policy
	o       Options // with defaults
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
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Snapshotter{
		log:     o.Logger,
		store:   o.Store,
		pool:    o.Pool,
		flights: &flights{quit: make(chan struct{})},
		policy:  policy{verifyUnbound: o.VerifyUnbound, unverifiedChains: o.UnverifiedChains},
		o:       *o,
	}
	if o.DenyView == nil && o.Store != nil {
		s.o.DenyView = o.Store.DenyView
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.o.PrepareTimeout <= 0 {
		s.o.PrepareTimeout = DefaultPrepareTimeout
	}
	s.images = &images{store: o.Store, pool: o.Pool, content: o.Content, remote: o.Remote, flights: s.flights, known: map[digest.Digest]*image{}}
	s.local = &local{store: o.Store, pool: o.Pool, counts: map[uint64]count{}}
	if err := s.open(o.Root, o.MountDir); err != nil {
		return nil, fmt.Errorf("open snapshots in %s: %w", o.Root, err)
	}
	return s, nil
}

func (o *Options) check() error {
	lazy := []bool{o.Store != nil, o.Pool != nil, o.MountDir != ""}
	switch {
	case o.Root == "":
		return fmt.Errorf("%w: no root", ErrConfig)
	case slices.Contains(lazy, true) && slices.Contains(lazy, false):
		return fmt.Errorf("%w: lazy snapshots need a store, a pool and a mount directory", ErrConfig)
	case o.VerifyUnbound && !o.UnverifiedChains:
		return fmt.Errorf(`%w: unbound = "verify" answers chain ids before their tars are compared, and containerd gives `+
			"them to every later pull without asking: it needs unverified_chains = true as well", ErrConfig)
	}
	for _, dir := range []string{o.Root, o.MountDir} {
		if strings.ContainsAny(dir, ",:\\") {
			return fmt.Errorf("%w: %q: overlay options cannot hold ',', ':' or '\\'", ErrConfig, dir)
		}
	}
	return nil
}

// open makes the directories and metadata.db, or finds them.
func (s *Snapshotter) open(root, mnt string) (err error) {
	if s.dir, err = filepath.Abs(filepath.Join(root, "snapshots")); err != nil {
		return err
	}
	if s.views, err = filepath.Abs(filepath.Join(mnt, "views")); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	if s.overlay, err = overlayOptions(s.dir); err != nil {
		return err
	}
	metadata := filepath.Join(s.dir, "metadata.db")
	if err := verifyMetadata(metadata); err != nil {
		return err
	}
	s.meta, err = storage.NewMetaStore(metadata, func(b *bolt.Options) error {
		b.Timeout = lockTimeout
		return nil
	})
	if err != nil {
		return err
	}
	err = s.restore(context.Background())
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = fmt.Errorf("%w: another daemon runs on this root: %s", err, store.LockHolder(filepath.Join(s.dir, "metadata.db")))
	}
	if err != nil {
		return errors.Join(err, s.meta.Close())
	}
	return nil
}

// lazily says whether anything can be answered without unpacking.
func (s *Snapshotter) lazily() bool { return s.store != nil }

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

// Close ends what goes on in the background and releases metadata.db. It changes no
// state. Closing twice is fine; no other call may be under way or follow.
func (s *Snapshotter) Close() error {
	s.flights.stop()
	return s.meta.Close()
}

// Stat returns what is known about a snapshot. A denied one is an error: when an image is
// pulled again, this is all that containerd asks about a chain id that it knows. So it also
// brings back a layer that the store lost since. All
// variants of a namespace share the sentinel's snapshot, so one that was lost with the store is
// made again: else none of them could be pulled until the last one is removed.
func (s *Snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	info, err := s.stat(ctx, key)
	if d := digest.Digest(key); errdefs.IsNotFound(err) && manifest.IsSentinelDigest(d) && s.lazily() {
		if err := s.restoreSentinel(ctx, d); err != nil {
			return snapshots.Info{}, err
		}
		return s.stat(ctx, key)
	}
	return info, err
}

func (s *Snapshotter) stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	var rw row
	err = s.read(ctx, func(ctx context.Context, r rows) error {
		id, found, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		info = found
		rw, err = r.get(id)
		if err == nil && rw.Denied != "" {
			err = fmt.Errorf("snapshot %s is denied: %s: %w", key, rw.Denied, errdefs.ErrFailedPrecondition)
		}
		return err
	})
	if err == nil && rw.TOC != "" && s.lazily() {
		err = s.heal(ctx, info, rw)
	}
	return info, available(err)
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

// Prepare creates a writable snapshot on parent, or answers an extraction that needs
// none with errdefs.ErrAlreadyExists (see extract).
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return nil, err
		}
	}
	if x, ok := parseExtraction(key, info.Labels); ok {
		return s.extract(ctx, x, key, parent, opts)
	}
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// View creates a read-only snapshot of parent.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
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
	var (
		id      string
		rw      row
		damaged error // must not keep the snapshot for ever
	)
	err := s.update(ctx, func(ctx context.Context, r rows) (err error) {
		if id, _, err = storage.Remove(ctx, key); err != nil {
			return err
		}
		rw, damaged = r.get(id)
		return r.drop(id)
	})
	if err != nil {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	s.discard(id)
	if rw != (row{}) || damaged != nil {
		s.unpin(id)
		s.local.forget(rw.Layer)
		s.abandon(rw.Layer)
	}
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
// measured each time; a committed one the first time it is asked for. Of a lazy one it
// is the content that is here, as of a minute ago.
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
	case rw.Sentinel:
		return snapshots.Usage{}, nil
	case rw.Layer != 0:
		if !s.lazily() {
			return snapshots.Usage{}, fmt.Errorf("usage of snapshot %q: %w: %w", key, errdefs.ErrUnavailable, errOrdinary)
		}
		c, err := s.locate(chain{}.with(rw))
		if err != nil {
			return snapshots.Usage{}, fmt.Errorf("usage of snapshot %q: %w", key, available(err))
		}
		k, err := s.local.of(c.stack[0].n)
		return k.here, err
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

// ImageOf names an image that shows a view, as containerd names it, for messages: ""
// when none is known.
func (s *Snapshotter) ImageOf(view uint64) (image string) {
	err := s.read(context.Background(), func(ctx context.Context, r rows) error {
		return storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
			name := info.Labels[snapshotters.TargetRefLabel]
			if image != "" || name == "" {
				return nil
			}
			id, _, _, err := storage.GetInfo(ctx, info.Name)
			if err != nil {
				return err
			}
			if rw, err := r.get(id); err == nil && rw.View == view {
				image = name
			}
			return nil
		})
	})
	if err != nil && !errdefs.IsNotFound(err) {
		s.log.Warn("image of a view is not found out", "view", view, "err", err)
	}
	return image
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
