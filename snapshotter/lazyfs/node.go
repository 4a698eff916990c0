package lazyfs

// A node id says by itself what it names, so FORGET is free and a new server can answer for ids that an old one handed
// out (design.md 7). Ids of a view's entries are view<<32 | entry; view numbers begin at 1, so everything below 2^32 is
// free for the few directories that belong to no view.
const (
	rootNode  = 1 // fuse.FUSE_ROOT_ID: the mount's own root
	viewsNode = 2 // MNT/views, which holds one directory per view
)

// maxView is the largest view number that fits a node id beside the bits that mounts.md A3 keeps for objects.
const maxView = 1<<30 - 1

// viewNode is the id of one entry of a view.
func viewNode(view uint64, entry uint32) uint64 { return view<<32 | uint64(entry) }

// splitNode is the inverse of viewNode; ok is false for ids that belong to no view.
func splitNode(node uint64) (view uint64, entry uint32, ok bool) {
	view = node >> 32
	return view, uint32(node), view >= 1 && view <= maxView
}

// inode is the st_ino shown for an entry. It is small so that 32-bit programs without large-file support can stat it,
// and never 0, which readdir would take for "unknown".
func inode(entry uint32) uint64 { return uint64(entry) + 1 }
