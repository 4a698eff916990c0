package lazyfs

import (
	"context"
	"errors"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tocsin/tocsin/store"
)

// ErrNotMounted is returned by Serve when the descriptor does not begin with the kernel's INIT request.
var ErrNotMounted = errors.New("not a fresh FUSE connection")

// errnoOf is the one place where an error becomes an answer to the kernel. A missing view is ESTALE, because its number
// is never given to another tree, and so is every view of a store that was replaced; an interrupted request is EINTR; all else, wrong bytes and missed deadlines included,
// is EIO: a denial, never wrong bytes.
func errnoOf(err error) fuse.Status {
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, errStale), errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrReplaced):
		return fuse.Status(stale)
	case errors.Is(err, context.Canceled):
		return fuse.EINTR
	}
	return fuse.EIO
}
