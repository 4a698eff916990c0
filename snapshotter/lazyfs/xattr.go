package lazyfs

import (
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked"
)

// GetXAttr copies one attribute's value. A dest that is too small, the empty one included, gets ERANGE and the size,
// which go-fuse turns into the answer that the kernel asked for.
func (f *FS) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if _, _, ok := f.node(h.NodeId); !ok {
		return 0, fuse.ENOATTR
	}
	var size uint32
	status := f.entry(h.NodeId, func(t *chunked.View, view uint64, e uint32) fuse.Status {
		for i := range t.NumXattrs(e) {
			name, value := t.Xattr(e, i)
			if name != attr {
				continue
			}
			size = uint32(len(value))
			if len(value) > len(dest) {
				return fuse.ERANGE
			}
			copy(dest, value)
			return fuse.OK
		}
		return absent(attr)
	})
	return size, status
}

// absent is the answer for an attribute that is not there: of a namespace that no file system has, another one than of
// those that all have. The system's own attributes are ACLs.
func absent(attr string) fuse.Status {
	namespace, name, _ := strings.Cut(attr, ".")
	switch namespace {
	case "user", "trusted", "security":
		return fuse.ENOATTR
	case "system":
		if name == "posix_acl_access" || name == "posix_acl_default" {
			return fuse.ENOATTR
		}
	}
	return fuse.Status(unix.EOPNOTSUPP)
}

// ListXAttr copies the names, each ended by a zero byte.
func (f *FS) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	if _, _, ok := f.node(h.NodeId); !ok {
		return 0, fuse.OK
	}
	var names []byte
	status := f.entry(h.NodeId, func(t *chunked.View, view uint64, e uint32) fuse.Status {
		for i := range t.NumXattrs(e) {
			name, _ := t.Xattr(e, i)
			names = append(append(names, name...), 0)
		}
		if len(names) > len(dest) {
			return fuse.ERANGE
		}
		copy(dest, names)
		return fuse.OK
	})
	return uint32(len(names)), status
}
