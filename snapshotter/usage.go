package snapshotter

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// diskUsage adds up what the tree at root occupies, each inode once. Entries that
// disappear meanwhile are skipped: a container may be running in it.
func diskUsage(ctx context.Context, root string) (snapshots.Usage, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var u snapshots.Usage
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return ignoreMissing(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.ErrUnsupported
		}
		if k := (inode{uint64(st.Dev), st.Ino}); !seen[k] {
			seen[k] = true
			u.Inodes++
			u.Size += st.Blocks * 512 // st_blocks counts 512-byte units whatever the block size
		}
		return nil
	})
	return u, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
