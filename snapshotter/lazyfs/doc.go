// Package lazyfs answers the kernel's FUSE requests for the views of a store.
//
// It translates and computes nothing: a node id is a view number and an entry number, an entry is looked up in the
// mapped view, and a read is handed to chunked/fill. It is not the place where bytes are fetched or verified (see
// chunked/fill), where trees are merged (see chunked) or where anybody decides which view a container gets (see
// snapshotter). It never mounts on its own account: Serve is given an open /dev/fuse descriptor, and Mount and
// MountUser are there for those who need one.
package lazyfs
