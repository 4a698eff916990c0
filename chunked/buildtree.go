package chunked

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// This file keeps the builder's names and inodes: a small file system in memory, in records without pointers.

// buildTree is the tree that a builder has so far. Name 0 is the root's, with inode 0.
type buildTree struct {
	names  records // see buildName
	inodes records // see buildInode
	pairs  records // extended attributes: as in a table, but strings are those of strs
	strs   arena   // names, targets, and names and values of attributes
	kids   numbers // names by directory and name
	seed   seed
	key    []byte
}

// buildName is one name in a directory.
type buildName struct {
	str         uint32
	dir         int32
	child, next int32 // list of the directory's names, dead ones included; 0 ends it
	inode       int32
	length      uint16
	flags       uint16
}

const (
	buildNameLen  = 24
	buildInodeLen = 56
)

// Flags of a name.
const (
	nameDead    = 1 << iota
	nameGiven   // an entry has this very name
	nameOpaque  // this directory's opaque marker was given
	nameImplies // below this directory there is, or was, one that no entry had named
	nameHolds   // an entry named this directory, or something below it or behind this link, as a directory
)

func decodeName(b []byte) buildName {
	le := binary.LittleEndian
	_ = b[buildNameLen-1]
	return buildName{
		str: le.Uint32(b), dir: int32(le.Uint32(b[4:])), child: int32(le.Uint32(b[8:])), next: int32(le.Uint32(b[12:])),
		inode: int32(le.Uint32(b[16:])), length: le.Uint16(b[20:]), flags: le.Uint16(b[22:]),
	}
}

func (n *buildName) encode(b []byte) {
	le := binary.LittleEndian
	_ = b[buildNameLen-1]
	le.PutUint32(b, n.str)
	le.PutUint32(b[4:], uint32(n.dir))
	le.PutUint32(b[8:], uint32(n.child))
	le.PutUint32(b[12:], uint32(n.next))
	le.PutUint32(b[16:], uint32(n.inode))
	le.PutUint16(b[20:], n.length)
	le.PutUint16(b[22:], n.flags)
}

// buildInode is one inode.
type buildInode struct {
	mode, uid, gid uint32
	flags, nlink   uint32
	size, mtimeSec int64
	mtimeNsec      uint32
	pairs          buildPairs
	ref            uint32 // object plus one (0: none), place of the target, or device number
	entry          uint32 // in the index; 0: not yet
}

// buildPairs are the attributes of an inode, and how many there is room for at their place.
type buildPairs struct {
	first       uint32
	count, room uint16
}

func decodeInode(b []byte) buildInode {
	le := binary.LittleEndian
	_ = b[buildInodeLen-1]
	return buildInode{
		mode: le.Uint32(b), uid: le.Uint32(b[4:]), gid: le.Uint32(b[8:]), flags: le.Uint32(b[12:]), nlink: le.Uint32(b[16:]),
		size: int64(le.Uint64(b[20:])), mtimeSec: int64(le.Uint64(b[28:])), mtimeNsec: le.Uint32(b[36:]),
		pairs: buildPairs{first: le.Uint32(b[40:]), count: le.Uint16(b[44:]), room: le.Uint16(b[46:])},
		ref:   le.Uint32(b[48:]), entry: le.Uint32(b[52:]),
	}
}

func (n *buildInode) encode(b []byte) {
	le := binary.LittleEndian
	_ = b[buildInodeLen-1]
	for i, v := range [...]uint32{n.mode, n.uid, n.gid, n.flags, n.nlink} {
		le.PutUint32(b[4*i:], v)
	}
	le.PutUint64(b[20:], uint64(n.size))
	le.PutUint64(b[28:], uint64(n.mtimeSec))
	le.PutUint32(b[36:], n.mtimeNsec)
	le.PutUint32(b[40:], n.pairs.first)
	le.PutUint16(b[44:], n.pairs.count)
	le.PutUint16(b[46:], n.pairs.room)
	le.PutUint32(b[48:], n.ref)
	le.PutUint32(b[52:], n.entry)
}

func (n *buildInode) isDir() bool      { return n.mode&modeType == modeDir }
func (n *buildInode) isWhiteout() bool { return n.flags&flagWhiteout != 0 }

// maxBuildNames counts the names of one builder: those that were replaced too, and the root's.
const maxBuildNames = MaxEntries + 1

func newBuildTree(ws *Workspace) buildTree {
	return buildTree{
		names:  newRecords(ws, buildNameLen, maxBuildNames, "names in one layer"),
		inodes: newRecords(ws, buildInodeLen, maxBuildNames, "files in one layer"),
		pairs:  newRecords(ws, pairLen, maxStrings/pairLen, "extended attributes in one layer"),
		strs:   newStrings(ws),
		kids:   numbers{ws: ws}, seed: newSeed(),
	}
}

// newStrings returns an arena for the strings of a tree.
func newStrings(ws *Workspace) arena {
	return arena{ws: ws, limit: maxStrings, what: fmt.Sprint(maxStrings, " bytes of names, link targets and attributes")}
}

func (t *buildTree) name(id int32) buildName { return decodeName(t.names.at(id)) }

func (t *buildTree) setName(id int32, n *buildName) { n.encode(t.names.at(id)) }

// inode returns the inode of a name.
func (t *buildTree) inode(id int32) buildInode { return decodeInode(t.inodes.at(t.name(id).inode)) }

func (t *buildTree) setInode(id int32, n *buildInode) { n.encode(t.inodes.at(t.name(id).inode)) }

func (t *buildTree) nameBytes(n *buildName) []byte { return t.strs.b[n.str:][:n.length] }

func (t *buildTree) newInode(n *buildInode) (int32, error) {
	i, b, err := t.inodes.add()
	if err != nil {
		return 0, err
	}
	n.encode(b)
	return i, nil
}

// hash returns the hash of a name in a directory.
func (t *buildTree) hash(dir int32, name []byte) uint32 {
	t.key = append(binary.LittleEndian.AppendUint32(t.key[:0], uint32(dir)), name...)
	return t.seed.bytes(t.key)
}

// kid returns what a name in a directory stands for.
func (t *buildTree) kid(dir int32, name string) (int32, bool) {
	t.key = append(binary.LittleEndian.AppendUint32(t.key[:0], uint32(dir)), name...)
	return t.kids.find(t.seed.bytes(t.key), func(id int32) bool {
		n := t.name(id)
		return n.dir == dir && string(t.nameBytes(&n)) == name
	})
}

// link gives an inode a name.
func (t *buildTree) link(dir int32, name string, inode int32, flags uint16) (int32, error) {
	id, b, err := t.names.add()
	if err != nil {
		return 0, err
	}
	at, err := t.strs.appendString(name)
	if err != nil {
		return 0, err
	}
	up := t.name(dir)
	n := buildName{str: uint32(at), dir: dir, next: up.child, inode: inode, length: uint16(len(name)), flags: flags}
	n.encode(b)
	up.child = id
	t.setName(dir, &up)
	t.count(inode, 1)
	return id, t.kids.add(t.hash(dir, t.nameBytes(&n)), id)
}

// count adds to the number of names of an inode.
func (t *buildTree) count(inode int32, n int32) {
	b := t.inodes.at(inode)[16:]
	binary.LittleEndian.PutUint32(b, binary.LittleEndian.Uint32(b)+uint32(n))
}

// remove takes a name away, with all that is below it.
func (t *buildTree) remove(id int32) {
	stack := []int32{id}
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		n := t.name(id)
		if n.flags&nameDead != 0 {
			continue
		}
		t.kids.remove(t.hash(n.dir, t.nameBytes(&n)), id)
		n.flags |= nameDead
		t.setName(id, &n)
		t.count(n.inode, -1)
		for c := n.child; c != 0; c = t.name(c).next {
			stack = append(stack, c)
		}
	}
}

// children returns the living names of a directory, sorted.
func (t *buildTree) children(dir int32, buf []int32) []int32 {
	buf = buf[:0]
	for c := t.name(dir).child; c != 0; {
		n := t.name(c)
		if n.flags&nameDead == 0 {
			buf = append(buf, c)
		}
		c = n.next
	}
	slices.SortFunc(buf, func(x, y int32) int {
		nx, ny := t.name(x), t.name(y)
		return bytes.Compare(t.nameBytes(&nx), t.nameBytes(&ny))
	})
	return buf
}

// target returns where a symlink points.
func (t *buildTree) target(n *buildInode) []byte { return t.strs.b[n.ref:][:n.size] }

// xattr returns an attribute of an inode.
func (t *buildTree) xattr(n *buildInode, i int) xattr {
	return decodePair(t.pairs.at(int32(n.pairs.first)+int32(i)), t.strs.b)
}

// findXattr returns where an attribute is among those of an inode, or would be.
func (t *buildTree) findXattr(n *buildInode, name string) (int, bool) {
	lo, hi := 0, int(n.pairs.count)
	for lo < hi {
		mid := (lo + hi) / 2
		switch have := t.xattr(n, mid).name; {
		case string(have) == name:
			return mid, true
		case string(have) < name:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false
}

// setXattr adds an attribute or gives it another value; more says how many may follow. n is to be stored by the caller.
func (t *buildTree) setXattr(n *buildInode, name string, value []byte, more int) error {
	le := binary.LittleEndian
	v, err := t.strs.append(value)
	if err != nil {
		return err
	}
	i, found := t.findXattr(n, name)
	if !found {
		if n.pairs.count >= maxXattrs {
			return tooBig("more than %d extended attributes of one file", maxXattrs)
		}
		at, err := t.strs.appendString(name)
		if err != nil {
			return err
		}
		if err := t.roomForXattr(n, more); err != nil {
			return err
		}
		n.pairs.count++
		set := t.pairs.b[int(n.pairs.first)*pairLen:][:int(n.pairs.count)*pairLen]
		copy(set[(i+1)*pairLen:], set[i*pairLen:])
		le.PutUint32(set[i*pairLen:], uint32(at))
		le.PutUint32(set[i*pairLen+4:], uint32(len(name)))
	}
	p := t.pairs.at(int32(n.pairs.first) + int32(i))
	le.PutUint32(p[8:], uint32(v))
	le.PutUint32(p[12:], uint32(len(value)))
	return nil
}

// roomForXattr moves the attributes of an inode to a larger place when theirs is full.
func (t *buildTree) roomForXattr(n *buildInode, more int) error {
	if n.pairs.count < n.pairs.room {
		return nil
	}
	room := min(max(2*int(n.pairs.count), int(n.pairs.count)+1+more), maxXattrs)
	first := t.pairs.len()
	to, err := t.pairs.extend(room * pairLen)
	if err != nil {
		return err
	}
	copy(to, t.pairs.b[int(n.pairs.first)*pairLen:][:int(n.pairs.count)*pairLen])
	n.pairs.first, n.pairs.room = uint32(first), uint16(room)
	return nil
}

// dropXattr removes an attribute if it is there.
func (t *buildTree) dropXattr(n *buildInode, name string) {
	if i, found := t.findXattr(n, name); found {
		set := t.pairs.b[int(n.pairs.first)*pairLen:][:int(n.pairs.count)*pairLen]
		copy(set[i*pairLen:], set[(i+1)*pairLen:])
		n.pairs.count--
	}
}

// A resolver counts the steps that names cost which lead through symlinks: the work of building an index, and of looking its
// files up again by the same names, is to be a small multiple of the bytes that say it.
const (
	maxSteps       = 4096 // of one name
	freeSteps      = 1 << 20
	stepsOfAnEntry = 64 // and one for each byte of its name and target
)

// resolver follows the directory part of names.
type resolver struct {
	left  int64  // steps
	last  string // the directory resolved last, because entries come directory by directory
	id    int32
	links []uint32 // that the way there leads through
	steps int64
}

// directory returns the directory of a clean name. Components that are missing are made, or are an error.
func (b *IndexBuilder) directory(dir string, create bool) (int32, error) {
	if dir == "" {
		return 0, nil
	}
	r := &b.resolver
	if dir != r.last {
		id, p, err := b.resolve(dir, create)
		if err != nil {
			return 0, err
		}
		r.last, r.id, r.links, r.steps = dir, id, p.links, p.steps
	}
	if r.left -= r.steps; r.left < 0 {
		return 0, tooBig("names that lead through too many symlinks")
	}
	return r.id, nil
}

// resolve follows the path of a directory.
func (b *IndexBuilder) resolve(path string, create bool) (dir int32, p place, err error) {
	if p, err = follow(&b.tree, path); err != nil {
		return 0, p, err
	}
	dir = int32(p.id)
	if n := b.tree.inode(dir); !n.isDir() {
		return 0, p, malformed("%q is not a directory", path)
	}
	for _, name := range p.missing {
		if !create || len(name) > maxName {
			return 0, p, malformed("no directory %q", path)
		}
		if dir, err = b.imply(dir, name); err != nil {
			return 0, p, err
		}
	}
	return dir, p, nil
}

func (t *buildTree) find(dir uint32, name string) (uint32, bool) {
	id, ok := t.kid(int32(dir), name)
	return uint32(id), ok
}

func (t *buildTree) what(id uint32) (uint32, string) {
	n := t.inode(int32(id))
	if n.mode&modeType != modeSymlink {
		return n.mode, ""
	}
	return n.mode, string(t.target(&n))
}

func (t *buildTree) above(dir uint32) uint32 { return uint32(t.name(int32(dir)).dir) }

// mark gives a directory and those that it is in a flag, up to the first that has it.
func (t *buildTree) mark(dir int32, flag uint16) {
	for {
		n := t.name(dir)
		if n.flags&flag != 0 {
			return
		}
		n.flags |= flag
		t.setName(dir, &n)
		dir = n.dir
	}
}

// imply makes a directory that no entry has spoken of yet.
func (b *IndexBuilder) imply(dir int32, name string) (int32, error) {
	n := impliedDir()
	if err := b.inherit(&n, dir); err != nil {
		return 0, err
	}
	inode, err := b.tree.newInode(&n)
	if err != nil {
		return 0, err
	}
	b.tree.mark(dir, nameImplies)
	return b.tree.link(dir, name, inode, 0)
}
