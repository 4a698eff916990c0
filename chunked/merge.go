package chunked

import (
	"cmp"
	"slices"
)

const viewMagic = "tocvew01"

// Merge returns the tree, as OpenView reads it, that overlayfs would show of layers given bottom to top: a directory
// merges with those below it unless it is opaque, anything else replaces, a whiteout deletes. A directory that the upper
// layer only implies has the attributes containerd's apply would copy: those of the next lower layer that has it, else
// 0755 0:0 and time 0. The root is always 0755 0:0 and time 0. The names of a hardlink that are visible share an
// entry, whose link count is that of its own layer. The same layers give the same bytes, which lie in the memory
// of ws. Errors that wrap neither ErrMalformed nor ErrTooBig are those of ws.
func Merge(ws *Workspace, layers []*Index) ([]byte, error) {
	if len(layers) > MaxLayers {
		return nil, tooBig("%d layers in one view", len(layers))
	}
	entries, sum := 1, 0
	for _, x := range layers {
		entries = max(entries, x.NumEntries())
		sum += x.NumEntries() - 1
	}
	if sum > MaxImageEntries {
		return nil, tooBig("%d entries in the layers of one view, more than %d", sum, MaxImageEntries)
	}
	m := &merger{layers: layers, w: newTableWriter(entries), shared: map[source]uint32{}, sets: map[source]uint32{}}
	root := record{Attr: Attr{Mode: modeDir | 0o755, Size: dirSize}}
	m.w.addEntry(&root)
	first := mergeDir{}
	for slot := len(layers) - 1; slot >= 0; slot-- {
		first.from = append(first.from, source{int32(slot), 0})
	}
	first.visible = len(first.from)
	m.queue = append(m.queue, first)
	for at := 0; at < len(m.queue); at++ {
		if at%64 == 0 {
			if err := ws.stopped(); err != nil {
				return nil, err
			}
		}
		m.directory(m.queue[at])
		m.queue[at].from = nil
	}
	return m.w.finish(viewMagic, uint32(len(layers)))
}

// source is an entry of one of the layers.
type source struct {
	slot int32
	e    uint32
}

// mergeDir is a directory of the view, and the directories of that path in the layers, top first. What comes after
// the visible ones is hidden by an opaque directory and only counts for the attributes of implied directories.
type mergeDir struct {
	entry   uint32
	from    []source
	visible int
}

// mergeName is a name in one of the visible directories.
type mergeName struct {
	name []byte
	pos  int32 // in mergeDir.from
	e    uint32
}

type merger struct {
	layers []*Index
	w      *tableWriter
	shared map[source]uint32 // entries with several names
	sets   map[source]uint32 // xattr sets by layer and set
	queue  []mergeDir
	names  []mergeName
}

// directory writes the names of one directory.
func (m *merger) directory(d mergeDir) {
	names := m.collect(d)
	first, nlink := m.w.numDirents(), uint32(2)
	for len(names) > 0 {
		n := 1
		for n < len(names) && string(names[n].name) == string(names[0].name) {
			n++
		}
		if e, isDir, ok := m.name(d, names[:n]); ok {
			m.w.addDirent(string(names[0].name), e)
			if isDir {
				nlink++
			}
		}
		names = names[n:]
	}
	r := m.w.entry(d.entry)
	r.A, r.B, r.Nlink = first, m.w.numDirents()-first, nlink
	m.w.setEntry(d.entry, &r)
}

// collect returns the names in all visible directories, equal names together, top layer first.
func (m *merger) collect(d mergeDir) []mergeName {
	m.names = m.names[:0]
	for pos, s := range d.from[:d.visible] {
		x := m.layers[s.slot]
		r := x.record(s.e)
		for i := r.A; i < r.A+r.B; i++ {
			name, e, _ := x.dirent(i)
			m.names = append(m.names, mergeName{name, int32(pos), e})
		}
	}
	if d.visible > 1 { // each directory is sorted already
		slices.SortFunc(m.names, func(a, b mergeName) int {
			return cmp.Or(slices.Compare(a.name, b.name), cmp.Compare(a.pos, b.pos))
		})
	}
	return m.names
}

// name decides what a name shows, of which found are the entries in the layers, top first.
func (m *merger) name(d mergeDir, found []mergeName) (e uint32, isDir, ok bool) {
	top := source{d.from[found[0].pos].slot, found[0].e}
	r := m.layers[top.slot].record(top.e)
	switch {
	case r.Flags&flagWhiteout != 0:
		return 0, false, false
	case r.Mode&modeType != modeDir:
		return m.leaf(top, &r), false, true
	}
	sub := mergeDir{from: make([]source, 0, len(found))}
	replaced := false
	for _, f := range found {
		s := source{d.from[f.pos].slot, f.e}
		fr := m.layers[s.slot].record(s.e)
		if replaced = fr.Mode&modeType != modeDir; replaced {
			break
		}
		sub.from = append(sub.from, s)
		if sub.visible == 0 && fr.Flags&flagOpaque != 0 {
			sub.visible = len(sub.from)
		}
	}
	sub.visible = cmp.Or(sub.visible, len(sub.from))
	if !replaced {
		sub.from = m.hidden(d, string(found[0].name), sub.from)
	}
	sub.entry = m.dirEntry(d.entry, sub.from)
	m.queue = append(m.queue, sub)
	return sub.entry, true, true
}

// hidden appends the directories of that name in the hidden part of d, as far as no other thing is in the way.
func (m *merger) hidden(d mergeDir, name string, from []source) []source {
	for _, s := range d.from[d.visible:] {
		x := m.layers[s.slot]
		e, ok := x.Lookup(s.e, name)
		if !ok {
			continue
		}
		if x.record(e).Mode&modeType != modeDir {
			break
		}
		from = append(from, source{s.slot, e})
	}
	return from
}

// dirEntry writes a directory with the attributes of the topmost layer that gives some.
func (m *merger) dirEntry(parent uint32, from []source) uint32 {
	r := record{Attr: Attr{Mode: modeDir | 0o755}}
	for _, s := range from {
		if have := m.layers[s.slot].record(s.e); have.Flags&flagImplied == 0 {
			r = record{Attr: have.Attr, Xattrs: m.xattrs(s, have.Xattrs)}
			break
		}
	}
	r.Size, r.Parent = dirSize, parent
	return m.w.addEntry(&r)
}

// leaf writes what is no directory, once for all its names.
func (m *merger) leaf(s source, r *record) uint32 {
	if r.Nlink > 1 {
		if e, ok := m.shared[s]; ok {
			return e
		}
	}
	out := record{Attr: r.Attr, Xattrs: m.xattrs(s, r.Xattrs)}
	switch r.Mode & modeType {
	case modeSymlink:
		target := m.layers[s.slot].sec[secStrings][r.A : uint64(r.A)+uint64(r.B)]
		out.A, out.B = m.w.addString(string(target)), r.B
	case modeReg:
		if out.B = r.B; r.B != 0 {
			out.A = uint32(s.slot)
		}
	}
	e := m.w.addEntry(&out)
	if r.Nlink > 1 {
		m.shared[s] = e
	}
	return e
}

// xattrs copies a set of a layer.
func (m *merger) xattrs(s source, set uint32) uint32 {
	if set == 0 {
		return 0
	}
	key := source{s.slot, set}
	id, ok := m.sets[key]
	if !ok {
		id = m.w.addXattrs(m.layers[s.slot].xattrs(s.e))
		m.sets[key] = id
	}
	return id
}
