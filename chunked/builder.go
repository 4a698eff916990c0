package chunked

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// The markers of the OCI image spec, layer.md.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
)

// IndexBuilder makes a layer index out of the entries of one layer, as containerd's apply for overlayfs makes a
// directory out of them: in order, a later entry replacing an earlier one of the same path, directories merging,
// symlinks of this layer followed in the directory part of a name. Not safe for concurrent use.
type IndexBuilder struct {
	ws     *Workspace
	strict bool // nothing may be replaced, every file's content must stay reachable: a TOC
	names  []buildName
	inodes []buildInode
	kids   map[kidKey]int32

	objs      []byte                      // records as in the index, in the order in which they came
	chunks    []byte                      // the same
	objectIDs map[[sha256.Size]byte]int32 // by what Number is cut from
	alg       digest.Algorithm
	scratch   []byte // what is hashed

	lastDir string // the directory resolved last, because entries come directory by directory
	last    int32
}

type kidKey struct {
	dir  int32
	name string
}

type buildName struct {
	name        string
	dir         int32
	child, next int32 // list of the directory's names, dead ones included; 0 ends it
	inode       int32
	dead        bool
}

type buildInode struct {
	Attr
	flags  uint32
	target string
	xattrs []xattr
	object int32 // plus one; 0: none
	entry  uint32
}

func (n *buildInode) isDir() bool      { return n.Mode&modeType == modeDir }
func (n *buildInode) isWhiteout() bool { return n.flags&flagWhiteout != 0 }

// NewIndexBuilder returns a builder for the entries of an unpacked tar. What Finish returns lies in the memory of ws.
func NewIndexBuilder(ws *Workspace) *IndexBuilder {
	b := newIndexBuilder(0)
	b.ws = ws
	return b
}

// newIndexBuilder returns a builder with room for n entries.
func newIndexBuilder(n int) *IndexBuilder {
	b := &IndexBuilder{kids: make(map[kidKey]int32, n), objectIDs: make(map[[sha256.Size]byte]int32, n)}
	b.objs = slices.Grow(b.objs, n*b.objectSize())
	b.chunks = slices.Grow(b.chunks, n*b.chunkSize())
	b.names = append(slices.Grow(b.names, n+1), buildName{})
	b.inodes = append(slices.Grow(b.inodes, n+1), impliedDir())
	return b
}

// IndexTOC verifies a TOC as ParseTOC does and returns its layer index as BuildIndex does, in the memory of ws, with the
// digest of the compressed tar-split; empty: none. No more than one entry is held at a time. Errors that wrap neither
// ErrMalformed nor ErrTooBig nor ErrDigestMismatch are those of ws and say nothing about the TOC.
func IndexTOC(ws *Workspace, compressed []byte, ref *manifest.TOCRef, blobSize int64) (index []byte, tarSplit digest.Digest, err error) {
	toc, err := ParseTOC(compressed, ref, blobSize)
	if err != nil {
		return nil, "", err
	}
	b := newIndexBuilder(len(toc.Entries))
	b.strict, b.ws = true, ws
	for i := range toc.Entries {
		if err := b.Add(toc.Entries[i]); err != nil {
			return nil, "", fmt.Errorf("index of TOC %s: %w", ref.Digest, err)
		}
	}
	index, err = b.Finish()
	return index, toc.TarSplitDigest, err
}

// BuildIndex returns the layer index of a TOC. A TOC in which one path replaces another, be it through a symlink, is
// ErrMalformed: the content of every file must stay reachable by its name, or the tar could not be rebuilt. Attributes
// trusted.* and user.overlay.* are dropped (design.md 5), and those that Linux or containerd would not set either.
func BuildIndex(t *TOC) ([]byte, error) {
	b := newIndexBuilder(len(t.Entries))
	b.strict = true
	for i := range t.Entries {
		if err := b.Add(t.Entries[i]); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// Add applies one entry. Its errors leave the builder unusable. Those that wrap ErrMalformed or ErrTooBig are about the
// entry, others are those of the Workspace.
func (b *IndexBuilder) Add(e Entry) error {
	if len(b.names)%1024 == 0 {
		if err := b.ws.stopped(); err != nil {
			return err
		}
	}
	name, err := CleanName(e.Name)
	if err != nil {
		return err
	}
	if name == "" {
		if e.Type != TypeDir {
			return malformed("the root is a %s", e.Type)
		}
		return nil // containerd ignores the root's attributes
	}
	dirName, base := splitName(name)
	if skip, err := b.checkMarkers(dirName, base, &e); skip || err != nil {
		return err
	}
	dir, err := b.directory(dirName)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return b.addWhiteout(dir, base)
	}
	return b.put(dir, base, &e)
}

// checkMarkers refuses names that would be markers in an impossible place, and skips those overlay tools drop.
func (b *IndexBuilder) checkMarkers(dir, base string, e *Entry) (skip bool, err error) {
	if strings.HasPrefix(base, whiteoutPrefix) && b.strict && e.Size != 0 {
		return false, strictly("marker %q has content", e.Name)
	}
	if !strings.Contains(e.Name, whiteoutPrefix) {
		return false, nil
	}
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, metaPrefix) {
			if b.strict {
				return false, strictly("%q is below a marker", e.Name)
			}
			return true, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return false, malformed("%q is below a whiteout", e.Name)
		}
	}
	meta := strings.HasPrefix(base, metaPrefix) && base != opaqueMarker
	if meta && b.strict {
		return false, strictly("%q is a marker that not all readers know", e.Name)
	}
	return meta, nil
}

func (b *IndexBuilder) addWhiteout(dir int32, base string) error {
	if base == opaqueMarker {
		b.inodes[b.names[dir].inode].flags |= flagOpaque
		return nil
	}
	hidden := base[len(whiteoutPrefix):]
	if !validComponent([]byte(hidden)) {
		return malformed("whiteout %q", base)
	}
	if id, ok := b.kids[kidKey{dir, hidden}]; ok {
		if b.strict { // containerd removes what the layer has, or fails, depending on what is below
			return strictly("whiteout %q of what the layer itself has", base)
		}
		// A whiteout speaks of lower layers only, so what this layer has stays and hides what is below.
		if n := b.inode(id); n.isDir() {
			n.flags |= flagOpaque
		}
		return nil
	}
	_, err := b.link(dir, hidden, b.newInode(whiteout()))
	return err
}

// put makes base in dir what e says.
func (b *IndexBuilder) put(dir int32, base string, e *Entry) error {
	if id, ok := b.kids[kidKey{dir, base}]; ok {
		n := b.inode(id)
		if b.strict && !n.isWhiteout() && n.flags&flagImplied == 0 {
			return strictly("%q is named twice", e.Name)
		}
		if n.isDir() && e.Type == TypeDir {
			n.flags &^= flagImplied
			return n.apply(e)
		}
		if b.strict && !n.isWhiteout() {
			return strictly("%q replaces a directory", e.Name)
		}
		b.remove(id)
	}
	if e.Type == TypeHardlink {
		return b.putHardlink(dir, base, e)
	}
	n := buildInode{}
	if err := b.fill(&n, e); err != nil {
		return err
	}
	_, err := b.link(dir, base, b.newInode(n))
	return err
}

// fill sets a fresh inode from an entry that is no hardlink.
func (b *IndexBuilder) fill(n *buildInode, e *Entry) error {
	switch e.Type {
	case TypeDir:
		n.Mode, n.Size = modeDir, dirSize
	case TypeReg:
		n.Mode, n.Size = modeReg, e.Size
		obj, err := b.object(e)
		if err != nil {
			return err
		}
		n.object = obj
	case TypeSymlink:
		if e.LinkName == "" || len(e.LinkName) > maxTarget || strings.IndexByte(e.LinkName, 0) >= 0 {
			return malformed("symlink %q has a target of %d bytes", e.Name, len(e.LinkName))
		}
		n.Mode, n.Size, n.target = modeSymlink|0o777, int64(len(e.LinkName)), e.LinkName
	case TypeChar, TypeBlock:
		n.Mode = modeBlock
		if e.Type == TypeChar {
			n.Mode = modeChar
		}
		// Linux has 12 bits of major and 20 bits of minor number.
		if e.DevMajor < 0 || e.DevMajor >= 1<<12 || e.DevMinor < 0 || e.DevMinor >= 1<<20 {
			return malformed("%q has device number %d:%d", e.Name, e.DevMajor, e.DevMinor)
		}
		n.RdevMajor, n.RdevMinor = uint32(e.DevMajor), uint32(e.DevMinor)
		if n.Mode == modeChar && n.RdevMajor == 0 && n.RdevMinor == 0 {
			*n = whiteout() // overlayfs takes it for one
			return nil
		}
	case TypeFifo:
		n.Mode = modeFifo
	default:
		return malformed("%q has unknown type %q", e.Name, e.Type)
	}
	return n.apply(e)
}

func (b *IndexBuilder) putHardlink(dir int32, base string, e *Entry) error {
	target, err := CleanName(e.LinkName)
	if err != nil {
		return err
	}
	targetDir, targetBase := splitName(target)
	parent, err := b.resolve(targetDir, false)
	if err != nil {
		return malformed("hardlink %q to %q: no such directory in this layer", e.Name, e.LinkName)
	}
	id, ok := b.kids[kidKey{parent, targetBase}]
	if !ok || b.inode(id).isDir() || b.inode(id).isWhiteout() {
		return malformed("hardlink %q to %q: no such file before it in this layer", e.Name, e.LinkName)
	}
	ino := b.names[id].inode
	if b.strict && b.inodes[ino].Mode&modeType != modeReg {
		return strictly("hardlink %q to %q: not a regular file", e.Name, e.LinkName)
	}
	// Like containerd, which changes the owner, mode, time and attributes of whatever it has just linked; the
	// change of owner makes Linux drop the capabilities.
	n := &b.inodes[ino]
	n.xattrs = slices.DeleteFunc(n.xattrs, func(x xattr) bool { return x.name == "security.capability" })
	if err := n.apply(e); err != nil {
		return err
	}
	_, err = b.link(dir, base, ino)
	return err
}

// apply sets owner, permissions, time and attributes.
func (n *buildInode) apply(e *Entry) error {
	if e.UID < 0 || e.GID < 0 || int64(e.UID) >= 1<<32-1 || int64(e.GID) >= 1<<32-1 {
		return malformed("%q belongs to %d:%d", e.Name, e.UID, e.GID)
	}
	n.UID, n.GID = uint32(e.UID), uint32(e.GID)
	if n.Mode&modeType != modeSymlink {
		n.Mode = n.Mode&modeType | uint32(e.Mode)&0o7777
	}
	n.MtimeSec, n.MtimeNsec = boundTime(e.ModTime)
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		value, keep, err := shownXattr(name, e.Xattrs[name], n.Mode)
		if err != nil {
			return fmt.Errorf("%q: %w", e.Name, err)
		}
		if keep {
			n.setXattr(name, value)
		}
	}
	n.maskACL()
	return nil
}

func (n *buildInode) findXattr(name string) (int, bool) {
	return slices.BinarySearchFunc(n.xattrs, name, func(x xattr, s string) int { return strings.Compare(x.name, s) })
}

func (n *buildInode) setXattr(name string, value []byte) {
	at, found := n.findXattr(name)
	if found {
		n.xattrs[at].value = value
	} else {
		n.xattrs = slices.Insert(n.xattrs, at, xattr{name, value})
	}
}

// maskACL makes the ACL that was set say what the mode says, which containerd sets last.
func (n *buildInode) maskACL() {
	at, found := n.findXattr(aclAccess)
	if !found {
		return
	}
	if acl := accessACL(n.xattrs[at].value, n.Mode); acl != nil {
		n.xattrs[at].value = acl
	} else {
		n.xattrs = slices.Delete(n.xattrs, at, at+1)
	}
}

// dirSize is what stat shows as the size of a directory; ext4 says the same of a small one.
const dirSize = 4096

func impliedDir() buildInode {
	return buildInode{Attr: Attr{Mode: modeDir | 0o755, Size: dirSize}, flags: flagImplied}
}

func whiteout() buildInode { return buildInode{Attr: Attr{Mode: modeChar}, flags: flagWhiteout} }
