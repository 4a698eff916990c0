package chunked

import (
	"fmt"
	"slices"
	"strings"
)

// This file keeps the builder's names and inodes: a small file system in memory.

func (b *IndexBuilder) inode(name int32) *buildInode { return &b.inodes[b.names[name].inode] }

func (b *IndexBuilder) newInode(n buildInode) int32 {
	b.inodes = append(b.inodes, n)
	return int32(len(b.inodes) - 1)
}

// link gives an inode a name.
func (b *IndexBuilder) link(dir int32, name string, inode int32) (int32, error) {
	if len(b.names) >= MaxEntries {
		return 0, fmt.Errorf("%w: more than %d names in one layer", ErrTooBig, MaxEntries)
	}
	id := int32(len(b.names))
	b.names = append(b.names, buildName{name: name, dir: dir, inode: inode, next: b.names[dir].child})
	b.names[dir].child = id
	b.kids[kidKey{dir, name}] = id
	b.inodes[inode].Nlink++
	return id, nil
}

// remove takes a name away, with all that is below it.
func (b *IndexBuilder) remove(id int32) {
	b.lastDir = "" // it may be in there
	stack := []int32{id}
	for len(stack) > 0 {
		id := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		n := &b.names[id]
		if n.dead {
			continue
		}
		n.dead = true
		delete(b.kids, kidKey{n.dir, n.name})
		b.inodes[n.inode].Nlink--
		for c := n.child; c != 0; c = b.names[c].next {
			stack = append(stack, c)
		}
	}
}

// directory returns the directory of a clean name, made as needed.
func (b *IndexBuilder) directory(dir string) (int32, error) {
	if dir == "" {
		return 0, nil
	}
	if dir == b.lastDir {
		return b.last, nil
	}
	id, err := b.resolve(dir, true)
	if err != nil {
		return 0, err
	}
	b.lastDir, b.last = dir, id
	return id, nil
}

// resolve follows the path of a directory from the root, symlinks of this layer included, never leaving the root.
// Components that are missing are made, or are an error.
func (b *IndexBuilder) resolve(path string, create bool) (int32, error) {
	cur, links, rest := int32(0), 0, path
	for rest != "" {
		if len(rest) > maxPath {
			return 0, malformed("path %.64q... is longer than %d bytes", path, maxPath)
		}
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			cur = b.names[cur].dir
			continue
		}
		id, ok := b.kids[kidKey{cur, part}]
		if !ok {
			if !create || len(part) > maxName {
				return 0, malformed("no directory %q", path)
			}
			var err error
			if id, err = b.link(cur, part, b.newInode(impliedDir())); err != nil {
				return 0, err
			}
		}
		switch n := b.inode(id); n.Mode & modeType {
		case modeDir:
			cur = id
		case modeSymlink:
			if links++; links > maxLinks {
				return 0, malformed("too many symlinks in %q", path)
			}
			if strings.HasPrefix(n.target, "/") {
				cur = 0
			}
			rest = n.target + "/" + rest
		default:
			return 0, malformed("%q in %q is not a directory", part, path)
		}
	}
	return cur, nil
}

// children returns the living names of a directory, sorted.
func (b *IndexBuilder) children(dir int32, buf []int32) []int32 {
	buf = buf[:0]
	for c := b.names[dir].child; c != 0; c = b.names[c].next {
		if !b.names[c].dead {
			buf = append(buf, c)
		}
	}
	slices.SortFunc(buf, func(x, y int32) int { return strings.Compare(b.names[x].name, b.names[y].name) })
	return buf
}

// Finish returns the bytes of the index, the same for the same entries in the same order. The builder is used up.
func (b *IndexBuilder) Finish() ([]byte, error) {
	w := newTableWriter(len(b.names))
	order := b.writeObjects(w)
	b.addEntry(w, 0, 0, order)
	queue := make([]int32, 1, 64)
	var buf []int32
	for len(queue) > 0 {
		dir := queue[0]
		queue = queue[1:]
		buf = b.children(dir, buf)
		first, nlink := w.numDirents(), uint32(2)
		self := b.inode(dir).entry
		for _, id := range buf {
			n := b.inode(id)
			if n.entry == 0 {
				b.addEntry(w, id, self, order)
			}
			w.addDirent(b.names[id].name, n.entry)
			if n.isDir() {
				nlink++
				queue = append(queue, id)
			}
		}
		r := w.entry(self)
		r.A, r.B, r.Nlink = first, uint32(len(buf)), nlink
		w.setEntry(self, &r)
	}
	return w.finish(indexMagic, uint32(b.digestSize()))
}

// addEntry writes the inode of a name; order says which object an object of the builder has become.
func (b *IndexBuilder) addEntry(w *tableWriter, id int32, parent uint32, order []uint32) {
	n := b.inode(id)
	r := record{Attr: n.Attr, Xattrs: w.addXattrs(n.xattrs), Flags: n.flags}
	switch {
	case n.isDir():
		r.Parent = parent
	case n.Mode&modeType == modeSymlink:
		r.A, r.B = w.addString(n.target), uint32(len(n.target))
	case n.object != 0:
		r.B = order[n.object-1] + 1
	}
	n.entry = w.addEntry(&r)
}
