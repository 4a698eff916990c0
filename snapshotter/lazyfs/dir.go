package lazyfs

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tocsin/tocsin/chunked"
)

// OpenDir says ENOSYS: the kernel then keeps listings for ever and sends neither OPENDIR nor RELEASEDIR again
// (mounts.md A7). Views never change, so a kept listing is never wrong.
func (f *FS) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

// ReadDir lists a directory without attributes.
func (f *FS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(t *chunked.View, view uint64, d fuse.DirEntry, e uint32) bool {
		return out.AddDirEntry(d)
	})
}

// ReadDirPlus lists a directory with the attributes of its entries, which saves the kernel a LOOKUP for each.
func (f *FS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return f.list(in, func(t *chunked.View, view uint64, d fuse.DirEntry, e uint32) bool {
		entry := out.AddDirLookupEntry(d)
		if entry == nil {
			return false
		}
		if t != nil && d.Name != "." && d.Name != ".." {
			fillEntry(t, view, e, entry)
		}
		return true
	})
}

// list offers the entries of a directory to add, from the offset that the kernel asks for, until add says it is full.
// Offsets are "." 1, ".." 2, then the children in order. The directories above the views list nothing but dots: views
// are found by name, not by listing.
func (f *FS) list(in *fuse.ReadIn, add func(t *chunked.View, view uint64, d fuse.DirEntry, e uint32) bool) fuse.Status {
	if _, _, ok := f.node(in.NodeId); !ok && (in.NodeId == rootNode || in.NodeId == viewsNode) {
		for off := in.Offset; off < 2; off++ {
			if !add(nil, 0, dot(off, rootNode, rootNode), 0) {
				break
			}
		}
		return fuse.OK
	}
	return f.entry(in.NodeId, func(t *chunked.View, view uint64, dir uint32) fuse.Status {
		if t.Attr(dir).Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return fuse.ENOTDIR
		}
		n := uint64(t.NumChildren(dir)) + 2
		for off := in.Offset; off < n; off++ {
			if off < 2 {
				if !add(t, view, dot(off, inode(dir), inode(t.Parent(dir))), dir) {
					break
				}
				continue
			}
			name, e := t.Child(dir, int(off-2))
			d := fuse.DirEntry{Name: name, Mode: t.Attr(e).Mode, Ino: inode(e), Off: off + 1}
			if !add(t, view, d, e) {
				break
			}
		}
		return fuse.OK
	})
}

func dot(off, self, parent uint64) fuse.DirEntry {
	if off == 0 {
		return fuse.DirEntry{Name: ".", Mode: syscall.S_IFDIR, Ino: self, Off: 1}
	}
	return fuse.DirEntry{Name: "..", Mode: syscall.S_IFDIR, Ino: parent, Off: 2}
}
