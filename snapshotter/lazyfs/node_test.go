package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/store"
)

func TestNodeIDs(t *testing.T) {
	for _, c := range []struct {
		view  uint64
		entry uint32
	}{{1, 0}, {1, 1}, {maxView, 1<<32 - 1}, {77, 123456}} {
		id := viewNode(c.view, c.entry)
		view, entry, ok := splitNode(id)
		if !ok || view != c.view || entry != c.entry {
			t.Errorf("node of view %d entry %d comes back as %d, %d, %v", c.view, c.entry, view, entry, ok)
		}
		if id>>62 != 0 {
			t.Errorf("node %#x uses the bits of objects", id)
		}
	}
	for _, id := range []uint64{0, rootNode, viewsNode, 1<<32 - 1, (maxView + 1) << 32, 1 << 63} {
		if _, _, ok := splitNode(id); ok {
			t.Errorf("node %#x is taken for a view's", id)
		}
	}
	if inode(0) == 0 || inode(1<<32-1) != 1<<32 {
		t.Error("an inode number is 0 or wraps")
	}
}

func TestErrnoOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want fuse.Status
	}{
		{nil, fuse.OK},
		{fmt.Errorf("view 3: %w", store.ErrNotFound), fuse.Status(syscall.ESTALE)},
		{fmt.Errorf("view 3: %w", store.ErrReplaced), fuse.Status(syscall.ESTALE)},
		{errStale, fuse.Status(syscall.ESTALE)},
		{fmt.Errorf("read: %w", context.Canceled), fuse.EINTR},
		{fill.ErrDigestMismatch, fuse.EIO},
		{fill.ErrTimeout, fuse.EIO},
		{fill.ErrNoSource, fuse.EIO},
		{errors.New("disk on fire"), fuse.EIO},
	} {
		if got := errnoOf(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
}
