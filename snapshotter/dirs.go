package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// ROOT/snapshots holds metadata.db, one directory <id> per ordinary snapshot with fs
// and work in it, and rm-<id> for what a Cleanup will delete. The paths are short
// because 128 of them must fit into one page of mount options.
const discarded = "rm-"

func (s *Snapshotter) path(id string) string  { return filepath.Join(s.dir, id) }
func (s *Snapshotter) upper(id string) string { return filepath.Join(s.dir, id, "fs") }
func (s *Snapshotter) work(id string) string  { return filepath.Join(s.dir, id, "work") }

// makeDir creates the directory of snapshot id, its root owned like that of the
// ordinary parent below (empty: by us). The caller holds the write transaction, so a
// directory that is already there belongs to a creation that was never committed.
func (s *Snapshotter) makeDir(id, below string) error {
	if err := s.setAside(id); err != nil {
		return err
	}
	for _, d := range []string{s.path(id), s.work(id), s.upper(id)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	// The root of a container; the daemon's umask has no say in it.
	if err := os.Chmod(s.upper(id), 0o755); err != nil {
		return err
	}
	if below == "" {
		return nil
	}
	info, err := os.Stat(s.upper(below))
	if err != nil {
		return fmt.Errorf("root directory of the parent: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.ErrUnsupported
	}
	return os.Lchown(s.upper(id), int(st.Uid), int(st.Gid))
}

// setAside renames the directory of snapshot id to a name that a Cleanup deletes; none
// there is fine.
func (s *Snapshotter) setAside(id string) error {
	to := fmt.Sprintf("%s%s-%d", discarded, id, time.Now().UnixNano())
	return ignoreMissing(os.Rename(s.path(id), s.path(to)))
}

// discard sets a removed snapshot's directory aside. What cannot be moved now is
// found by Cleanup, because metadata.db no longer knows its id.
func (s *Snapshotter) discard(id string) {
	if err := s.setAside(id); err != nil {
		s.log.Warn("directory of a removed snapshot stays until the next cleanup", "id", id, "err", err)
	}
}

// Cleanup deletes the directories of removed snapshots, and those that a crash left
// without a record.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	// The write transaction keeps out a creation that has made its directory but not
	// committed its record. Deleting takes long and happens outside of it.
	err := s.update(ctx, func(ctx context.Context, _ rows) error {
		known, err := storage.IDMap(ctx)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		return s.eachDir(func(name string) error {
			if _, ok := known[name]; ok || strings.HasPrefix(name, discarded) {
				return nil
			}
			return s.setAside(name)
		})
	})
	if err == nil {
		err = s.eachDir(func(name string) error {
			if !strings.HasPrefix(name, discarded) {
				return ctx.Err()
			}
			return os.RemoveAll(s.path(name))
		})
	}
	if err != nil {
		return fmt.Errorf("clean up %s: %w", s.dir, err)
	}
	return nil
}

// eachDir calls fn for every directory in s.dir, and says what went wrong at the end.
func (s *Snapshotter) eachDir(fn func(name string) error) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var failed []error
	for _, e := range entries {
		if e.IsDir() {
			failed = append(failed, fn(e.Name()))
		}
	}
	return errors.Join(failed...)
}
