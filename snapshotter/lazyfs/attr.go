package lazyfs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked"
)

const blockSize = 4096

// fillEntry makes the answer to a lookup of entry e.
func fillEntry(t *chunked.View, view uint64, e uint32, out *fuse.EntryOut) {
	out.NodeId = viewNode(view, e)
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	fillAttr(t, e, &out.Attr)
}

func fillAttr(t *chunked.View, e uint32, out *fuse.Attr) {
	a := t.Attr(e)
	*out = fuse.Attr{
		Ino:       inode(e),
		Size:      uint64(a.Size),
		Blocks:    uint64(a.Size+511) / 512,
		Mtime:     uint64(a.MtimeSec),
		Mtimensec: a.MtimeNsec,
		Mode:      a.Mode,
		Nlink:     a.Nlink,
		Owner:     fuse.Owner{Uid: a.UID, Gid: a.GID},
		Rdev:      uint32(unix.Mkdev(a.RdevMajor, a.RdevMinor)),
		Blksize:   blockSize,
	}
	// An archive has one time that matters; overlayfs on disk would show others only by accident of unpacking.
	out.Atime, out.Atimensec = out.Mtime, out.Mtimensec
	out.Ctime, out.Ctimensec = out.Mtime, out.Mtimensec
}

// ownDirectory describes the directories above the views.
func ownDirectory(node uint64, out *fuse.Attr) {
	*out = fuse.Attr{Ino: node, Mode: syscall.S_IFDIR | 0o755, Nlink: 2, Blksize: blockSize}
}
