package snapshotter

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/store"
)

// localTTL is how long an answer about a lazy layer stands. Kubernetes asks for every
// snapshot each ten seconds, and a layer may have ten thousand objects.
const localTTL = time.Minute

// local counts how much of lazy layers is on this machine. Objects are shared, so the
// sum over snapshots is more than the disk holds.
type local struct {
	store *store.Store
	pool  *fill.Pool

	mu     sync.Mutex
	counts map[uint64]count
}

type count struct {
	here, all snapshots.Usage // complete objects; all of them
	until     time.Time
}

// of returns what is complete of layer n, not older than localTTL.
func (c *local) of(n uint64) (count, error) {
	c.mu.Lock()
	k, ok := c.counts[n]
	c.mu.Unlock()
	if ok && time.Now().Before(k.until) {
		return k, nil
	}
	l, err := c.pool.Layer(n)
	if err != nil {
		return count{}, err
	}
	k = count{until: time.Now().Add(localTTL)}
	objects, err := l.Objects()
	if err != nil {
		return count{}, err
	}
	for _, o := range objects {
		k.all.Add(snapshots.Usage{Inodes: 1, Size: o.Size})
		if c.store.HasObject(o.Digest, o.Size) {
			k.here.Add(snapshots.Usage{Inodes: 1, Size: o.Size})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[n] = k
	return k, nil
}

// percent returns how much of an image is here, as a user wants to read it. Layers that
// cannot be asked, like the sentinel's 0, do not count.
func (c *local) percent(layers []uint64) int64 {
	var here, all int64
	for _, n := range layers {
		if k, err := c.of(n); n != 0 && err == nil {
			here, all = here+k.here.Size, all+k.all.Size
		}
	}
	if all == 0 {
		return 100
	}
	return here * 100 / all
}

// forget drops the count of a layer whose snapshot was removed.
func (c *local) forget(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.counts, n)
}

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
