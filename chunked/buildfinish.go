package chunked

// Finish returns the bytes of the index, the same for the same entries in the same order. The builder is used up.
func (b *IndexBuilder) Finish() ([]byte, error) {
	if err := b.makeRoot(); err != nil {
		return nil, err
	}
	f := &finisher{t: &b.tree, w: newTableWriter(b.ws)}
	sorted := b.content.order()
	f.place = make([]uint32, len(sorted))
	for at, i := range sorted {
		f.place[i] = uint32(at)
	}
	if err := f.add(0, 0); err != nil {
		return nil, err
	}
	for f.queue = append(f.queue, 0); f.next < len(f.queue); f.next++ {
		if f.next%1024 == 0 {
			if err := b.ws.stopped(); err != nil {
				return nil, err
			}
		}
		if err := f.directory(f.queue[f.next]); err != nil {
			return nil, err
		}
	}
	f.w.content = tableContent{
		objects: len(b.content.objs.b), chunks: len(b.content.chunks.b),
		write: func(objs, chunks []byte) { b.content.write(sorted, objs, chunks) },
	}
	return f.w.finish(indexMagic, uint32(b.content.digestSize()))
}

// finisher writes the tree of a builder as a table: directory by directory, each after the one that it is in.
type finisher struct {
	t     *buildTree
	w     *tableWriter
	place []uint32 // of the objects, in the index
	queue []int32  // names of directories
	next  int
	kids  []int32
	set   []xattr
}

// directory writes the names in one directory.
func (f *finisher) directory(dir int32) error {
	f.kids = f.t.children(dir, f.kids)
	self := f.t.inode(dir).entry
	first, nlink := f.w.numDirents(), uint32(2)
	for _, id := range f.kids {
		name, n := f.t.name(id), f.t.inode(id)
		if n.entry == 0 {
			if err := f.add(id, self); err != nil {
				return err
			}
			n = f.t.inode(id)
		}
		if err := f.w.addDirent(f.t.nameBytes(&name), n.entry); err != nil {
			return err
		}
		if n.isDir() {
			nlink++
			f.queue = append(f.queue, id)
		}
	}
	r := f.w.entry(self)
	r.A, r.B, r.Nlink = first, uint32(len(f.kids)), nlink
	f.w.setEntry(self, &r)
	return nil
}

// add writes the inode of a name.
func (f *finisher) add(id int32, parent uint32) error {
	n := f.t.inode(id)
	r := record{Flags: n.flags, Attr: Attr{
		Mode: n.mode, UID: n.uid, GID: n.gid, Nlink: n.nlink, Size: n.size, MtimeSec: n.mtimeSec, MtimeNsec: n.mtimeNsec,
	}}
	f.set = f.set[:0]
	for i := range int(n.pairs.count) {
		f.set = append(f.set, f.t.xattr(&n, i))
	}
	var err error
	if r.Xattrs, err = f.w.addXattrs(f.set); err != nil {
		return err
	}
	switch n.mode & modeType {
	case modeDir:
		r.Parent = parent
	case modeSymlink:
		r.B = uint32(n.size)
		if r.A, err = f.w.addString(f.t.target(&n)); err != nil {
			return err
		}
	case modeReg:
		if n.ref != 0 {
			r.B = f.place[n.ref-1] + 1
		}
	case modeChar, modeBlock:
		r.RdevMajor, r.RdevMinor = n.ref>>20, n.ref&(1<<20-1)
	}
	if n.entry, err = f.w.addEntry(&r); err == nil {
		f.t.setInode(id, &n)
	}
	return err
}
