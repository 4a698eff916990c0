package chunked

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
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
	ws       *Workspace
	strict   bool // nothing may be replaced, every file's content must stay reachable: a TOC
	rooted   bool // the root was named
	added    int
	tree     buildTree
	content  contentTable
	resolver resolver
}

// NewIndexBuilder returns a builder for the entries of an unpacked tar. What Finish returns lies in the memory of ws.
func NewIndexBuilder(ws *Workspace) *IndexBuilder {
	return &IndexBuilder{ws: ws, tree: newBuildTree(ws), content: newContentTable(ws), resolver: resolver{left: freeSteps}}
}

func newStrictBuilder(ws *Workspace) *IndexBuilder {
	b := NewIndexBuilder(ws)
	b.strict = true
	return b
}

// BuildIndex returns the layer index of a TOC. A TOC in which one path replaces another, be it through a symlink, is
// ErrMalformed: the content of every file must stay reachable by its name, or the tar could not be rebuilt. Attributes
// trusted.* and user.overlay.* are dropped (design.md 5), and those that Linux or containerd would not set either.
func BuildIndex(t *TOC) ([]byte, error) {
	b := newStrictBuilder(nil)
	for i := range t.Entries {
		if err := b.Add(t.Entries[i]); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// Add applies one entry. Its errors leave the builder unusable. Those that wrap ErrMalformed or ErrTooBig are about the
// entry, others are those of the Workspace.
func (b *IndexBuilder) Add(e Entry) error { return b.add(&e, contentOfEntry) }

// contentOfEntry stands for the number of an object that is still to be made of an entry's own chunks.
const contentOfEntry = ^uint32(0)

// add applies an entry whose content is object, plus one.
func (b *IndexBuilder) add(e *Entry, object uint32) error {
	if err := b.begin(e); err != nil {
		return err
	}
	name, err := CleanName(e.Name)
	if err != nil {
		return err
	}
	if name == "" {
		return b.addRoot(e)
	}
	dirName, base := splitName(name)
	if skip, err := b.checkMarkers(dirName, base, e); skip || err != nil {
		return err
	}
	dir, err := b.directory(dirName, true)
	if err != nil {
		return err
	}
	switch {
	case base == opaqueMarker:
		return b.addOpaque(dir)
	case strings.HasPrefix(base, metaPrefix):
		return nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return b.addWhiteout(dir, base)
	}
	return b.put(dir, base, e, object)
}

// begin does what every entry needs.
func (b *IndexBuilder) begin(e *Entry) error {
	if b.added++; b.added%1024 == 0 {
		if err := b.ws.stopped(); err != nil {
			return err
		}
	}
	b.resolver.left += stepsOfAnEntry + int64(len(e.Name)) + int64(len(e.LinkName))
	return b.makeRoot()
}

func (b *IndexBuilder) makeRoot() error {
	if b.tree.names.len() > 0 {
		return nil
	}
	n := impliedDir()
	if _, err := b.tree.newInode(&n); err != nil {
		return err
	}
	_, to, err := b.tree.names.add()
	if err == nil {
		(&buildName{}).encode(to)
	}
	return err
}

// addRoot checks the entry of the root, whose attributes containerd ignores.
func (b *IndexBuilder) addRoot(e *Entry) error {
	if e.Type != TypeDir {
		return malformed("the root is a %s", e.Type)
	}
	if b.strict && b.rooted {
		return namedTwice(e.Name)
	}
	b.rooted = true
	return nil
}

func namedTwice(name string) error {
	return fmt.Errorf("%w: %w: %w: %.256q", ErrMalformed, ErrUnsayable, ErrPathTwice, name)
}

// checkMarkers refuses names that would be markers in an impossible place, and skips what is in the directories that
// aufs had for itself. A TOC must not have those: containerd unpacks them as any others.
func (b *IndexBuilder) checkMarkers(dir, base string, e *Entry) (skip bool, err error) {
	if strings.HasPrefix(base, whiteoutPrefix) && b.strict && e.Size != 0 {
		return false, strictly("marker %q has content", e.Name)
	}
	if !strings.Contains(e.Name, whiteoutPrefix) {
		return false, nil
	}
	before := 0
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, metaPrefix) {
			if b.strict {
				return false, strictly("%q is below a marker", e.Name)
			}
			_, err := b.directory(dir[:max(0, before-1)], true)
			return true, err
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return false, malformed("%q is below a whiteout", e.Name)
		}
		before += len(part) + 1
	}
	if b.strict && strings.HasPrefix(base, metaPrefix) && base != opaqueMarker {
		return false, strictly("%q is a marker that not all readers know", e.Name)
	}
	return false, nil
}

// addOpaque hides what lower layers have in a directory. Where there are none, containerd removes what is in it and was
// not named itself, with all that is below.
func (b *IndexBuilder) addOpaque(dir int32) error {
	t := &b.tree
	name, n := t.name(dir), t.inode(dir)
	if b.strict && name.flags&nameOpaque != 0 {
		return namedTwice(opaqueMarker)
	}
	if name.flags&nameOpaque == 0 && name.flags&nameImplies != 0 {
		return strictly("a directory is opaque after something was put into one that is in it and that no entry names")
	}
	name.flags |= nameOpaque
	t.setName(dir, &name)
	n.flags |= flagOpaque
	t.setInode(dir, &n)
	return nil
}

// addWhiteout hides a name of lower layers. Where this layer has that name itself already, containerd removes it if there
// is no lower layer, and else gives up.
func (b *IndexBuilder) addWhiteout(dir int32, base string) error {
	hidden := base[len(whiteoutPrefix):]
	if !validComponent([]byte(hidden)) {
		return malformed("whiteout %q", base)
	}
	if _, ok := b.tree.kid(dir, hidden); ok {
		return strictly("whiteout %q of what the layer itself has", base)
	}
	n := whiteout()
	_, err := b.link(dir, hidden, &n, 0)
	return err
}

// link makes a new inode and gives it a name.
func (b *IndexBuilder) link(dir int32, base string, n *buildInode, flags uint16) (int32, error) {
	inode, err := b.tree.newInode(n)
	if err != nil {
		return 0, err
	}
	return b.tree.link(dir, base, inode, flags)
}

// put makes base in dir what e says.
func (b *IndexBuilder) put(dir int32, base string, e *Entry, object uint32) error {
	t, flags := &b.tree, uint16(nameGiven)
	if id, ok := t.kid(dir, base); ok {
		n, name := t.inode(id), t.name(id)
		if b.strict && name.flags&nameGiven != 0 {
			return namedTwice(e.Name)
		}
		if n.isDir() && e.Type == TypeDir {
			name.flags |= nameGiven
			t.setName(id, &name)
			b.hold(id)
			n.flags &^= flagImplied
			err := b.apply(&n, e)
			t.setInode(id, &n)
			return err
		}
		if b.strict && !n.isWhiteout() {
			return strictly("%q replaces a directory", e.Name)
		}
		if name.flags&nameHolds != 0 || e.Type == TypeDir && dir == b.resolver.id && slices.Contains(b.resolver.links, uint32(id)) {
			return malformed("%q replaces what a directory with an entry is in, or that directory", e.Name)
		}
		b.resolver.last = "" // it may be in there
		t.remove(id)
	}
	if e.Type == TypeHardlink {
		return b.putHardlink(dir, base, e, flags)
	}
	n := buildInode{}
	if err := b.fill(&n, e, object); err != nil {
		return err
	}
	to := &n
	if n.isWhiteout() { // which has no attributes, but those that the entry gives it must be sound
		to = &buildInode{mode: modeChar}
	}
	err := b.inherit(to, dir)
	if err == nil {
		err = b.apply(to, e)
	}
	if err != nil {
		return err
	}
	id, err := b.link(dir, base, &n, flags)
	if err == nil && n.isDir() {
		b.hold(id)
	}
	return err
}

// hold marks a directory that an entry names, and the links that its name leads through: they stay what they are, because
// containerd sets the times of directories at the end, by their names.
func (b *IndexBuilder) hold(id int32) {
	b.tree.mark(id, nameHolds)
	if b.tree.name(id).dir != b.resolver.id {
		return // in the root
	}
	for _, link := range b.resolver.links {
		b.tree.mark(int32(link), nameHolds)
	}
}

// passOver does what containerd does with a header that makes nothing: it makes the directory that its name is in. What
// has the name already would be removed.
func (b *IndexBuilder) passOver(e *Entry) error {
	if err := b.begin(e); err != nil {
		return err
	}
	name, err := CleanName(e.Name)
	if err != nil || name == "" {
		return err
	}
	dirName, base := splitName(name)
	dir, err := b.directory(dirName, true)
	if err != nil {
		return err
	}
	if _, ok := b.tree.kid(dir, base); ok || strings.HasPrefix(base, whiteoutPrefix) {
		return malformed("a global header has the name %q, which removes something", e.Name)
	}
	return nil
}

// fill sets what a fresh inode is from an entry that is no hardlink.
func (b *IndexBuilder) fill(n *buildInode, e *Entry, object uint32) error {
	switch e.Type {
	case TypeDir:
		n.mode, n.size = modeDir, dirSize
	case TypeReg:
		if object == contentOfEntry {
			var err error
			if object, err = b.content.object(e); err != nil {
				return err
			}
		}
		n.mode, n.size, n.ref = modeReg, e.Size, object
	case TypeSymlink:
		if e.LinkName == "" || len(e.LinkName) > maxTarget || strings.IndexByte(e.LinkName, 0) >= 0 {
			return malformed("symlink %q has a target of %d bytes", e.Name, len(e.LinkName))
		}
		at, err := b.tree.strs.appendString(e.LinkName)
		if err != nil {
			return err
		}
		n.mode, n.size, n.ref = modeSymlink|0o777, int64(len(e.LinkName)), uint32(at)
	case TypeChar, TypeBlock:
		n.mode = modeBlock
		if e.Type == TypeChar {
			n.mode = modeChar
		}
		// Linux has 12 bits of major and 20 bits of minor number.
		if e.DevMajor < 0 || e.DevMajor >= 1<<12 || e.DevMinor < 0 || e.DevMinor >= 1<<20 {
			return malformed("%q has device number %d:%d", e.Name, e.DevMajor, e.DevMinor)
		}
		n.ref = uint32(e.DevMajor<<20 | e.DevMinor)
		if n.mode == modeChar && n.ref == 0 {
			*n = whiteout() // overlayfs takes it for one
		}
	case TypeFifo:
		n.mode = modeFifo
	default:
		return malformed("%q has unknown type %q", e.Name, e.Type)
	}
	return nil
}

func (b *IndexBuilder) putHardlink(dir int32, base string, e *Entry, flags uint16) error {
	target, err := CleanName(e.LinkName)
	if err != nil {
		return err
	}
	targetDir, targetBase := splitName(target)
	parent, err := b.directory(targetDir, false)
	if err == nil && strings.Contains(e.LinkName, "/./") && targetDir != "" && len(b.resolver.links) > 0 {
		return strictly("hardlink %q to %q, which leads through a link and has a dot in it", e.Name, e.LinkName) // see follow
	}
	if err != nil {
		return fmt.Errorf("hardlink %q to %q: no such directory in this layer: %w", e.Name, e.LinkName, err)
	}
	t := &b.tree
	id, ok := t.kid(parent, targetBase)
	if !ok {
		return malformed("hardlink %q to %q: no such file before it in this layer", e.Name, e.LinkName)
	}
	n := t.inode(id)
	if n.isDir() || n.isWhiteout() {
		return malformed("hardlink %q to %q: no such file before it in this layer", e.Name, e.LinkName)
	}
	if b.strict && n.mode&modeType != modeReg {
		return strictly("hardlink %q to %q: not a regular file", e.Name, e.LinkName)
	}
	// Like containerd, which changes the owner, mode, time and attributes of whatever it has just linked; the
	// change of owner makes Linux drop the capabilities.
	t.dropXattr(&n, "security.capability")
	if err := b.apply(&n, e); err != nil {
		return err
	}
	t.setInode(id, &n)
	_, err = t.link(dir, base, t.name(id).inode, flags)
	return err
}

// apply sets owner, permissions, time and attributes.
func (b *IndexBuilder) apply(n *buildInode, e *Entry) error {
	if e.UID < 0 || e.GID < 0 || int64(e.UID) >= 1<<32-1 || int64(e.GID) >= 1<<32-1 {
		return malformed("%q belongs to %d:%d", e.Name, e.UID, e.GID)
	}
	n.uid, n.gid = uint32(e.UID), uint32(e.GID)
	if n.mode&modeType != modeSymlink {
		n.mode = n.mode&modeType | uint32(e.Mode)&0o7777
	}
	n.mtimeSec, n.mtimeNsec = boundTime(e.ModTime)
	if len(e.Xattrs) == 0 && n.pairs.count == 0 {
		return nil // as nearly always
	}
	names := slices.Sorted(maps.Keys(e.Xattrs))
	for i, name := range names {
		value, keep, err := shownXattr(name, e.Xattrs[name], n.mode)
		switch {
		case err != nil || !keep:
		case len(value) == 0 && isACL(name):
			b.tree.dropXattr(n, name)
		default:
			err = b.tree.setXattr(n, name, value, len(names)-i-1)
		}
		if err != nil {
			return fmt.Errorf("%.256q: %w", e.Name, err)
		}
	}
	return b.maskACL(n)
}

// maskACL makes the ACL that was set say what the mode says, which containerd sets last.
func (b *IndexBuilder) maskACL(n *buildInode) error {
	at, found := b.tree.findXattr(n, aclAccess)
	if !found {
		return nil
	}
	value := b.tree.xattr(n, at).value
	if b.resolver.left -= int64(len(value)) / 16; b.resolver.left < 0 { // each link to a file comes here
		return tooBig("too many links to files with ACLs of many entries")
	}
	acl := accessACL(value, n.mode)
	if acl == nil {
		b.tree.dropXattr(n, aclAccess)
		return nil
	}
	if bytes.Equal(acl, value) {
		return nil
	}
	return b.tree.setXattr(n, aclAccess, acl, 0)
}

// inherit gives n what a file has of the directory that it is made in, before anything is set: the access control list that
// the directory keeps for that, and if only something in it makes n necessary, the group of one that passes it on.
func (b *IndexBuilder) inherit(n *buildInode, dir int32) error {
	const setgid = 0o2000
	t, up := &b.tree, b.tree.inode(dir)
	if n.flags&flagImplied != 0 && up.mode&setgid != 0 {
		n.gid = up.gid
	}
	at, found := t.findXattr(&up, aclDefault)
	if !found || n.mode&modeType == modeSymlink {
		return nil
	}
	acl := bytes.Clone(t.xattr(&up, at).value)
	if b.resolver.left -= int64(len(acl)); b.resolver.left < 0 {
		return tooBig("too many files in directories with ACLs of many entries")
	}
	if n.isDir() {
		if err := t.setXattr(n, aclDefault, acl, 1); err != nil {
			return err
		}
	}
	if err := t.setXattr(n, aclAccess, acl, 0); err != nil {
		return err
	}
	return b.maskACL(n)
}

// dirSize is what stat shows as the size of a directory; ext4 says the same of a small one.
const dirSize = 4096

func impliedDir() buildInode {
	return buildInode{mode: modeDir | 0o755, size: dirSize, flags: flagImplied}
}

func whiteout() buildInode { return buildInode{mode: modeChar, flags: flagWhiteout} }
