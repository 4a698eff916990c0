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
		Blocks:    blocks(a.Mode, a.Size),
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

// blocks is how many units of 512 bytes ext4 would need for an entry once it is unpacked: whole blocks for a file, and
// none for a symbolic link that fits into the inode.
func blocks(mode uint32, size int64) uint64 {
	const inInode = 59
	if mode&syscall.S_IFMT == syscall.S_IFLNK && size <= inInode {
		return 0
	}
	return (uint64(size) + blockSize - 1) / blockSize * (blockSize / 512)
}

// fillStatx is fillAttr for a request that wants to know the time of birth too, which is that of everything else.
func fillStatx(a *fuse.Attr, out *fuse.Statx) {
	time := fuse.SxTime{Sec: a.Mtime, Nsec: a.Mtimensec}
	*out = fuse.Statx{
		Mask: unix.STATX_BASIC_STATS | unix.STATX_BTIME, Blksize: a.Blksize, Nlink: a.Nlink, Uid: a.Uid, Gid: a.Gid,
		Mode: uint16(a.Mode), Ino: a.Ino, Size: a.Size, Blocks: a.Blocks,
		Atime: time, Btime: time, Ctime: time, Mtime: time,
		RdevMajor: unix.Major(uint64(a.Rdev)), RdevMinor: unix.Minor(uint64(a.Rdev)),
	}
}

// ownDirectory describes the directories above the views.
func ownDirectory(node uint64, out *fuse.Attr) {
	*out = fuse.Attr{Ino: node, Mode: syscall.S_IFDIR | 0o755, Nlink: 2, Blksize: blockSize}
}
