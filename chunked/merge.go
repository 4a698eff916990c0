package chunked

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
)

const viewMagic = "tocvew01"

// Merge returns the tree, as OpenView reads it, that overlayfs would show of layers given bottom to top: a directory
// merges with those below it unless it is opaque, anything else replaces, a whiteout deletes. A directory that the upper
// layer only implies has the attributes containerd's apply would copy, see mergeimplied.go. The root is always 0755 0:0 and
// time 0. The names of a hardlink that are visible share an entry, whose link count is that of its own layer. The same
// layers give the same bytes, which lie in the memory of ws. Errors that wrap neither ErrMalformed nor ErrTooBig are those
// of ws.
func Merge(ws *Workspace, layers []*Index) ([]byte, error) {
	if len(layers) > MaxLayers {
		return nil, tooBig("%d layers in one view, more than %d", len(layers), MaxLayers)
	}
	m, err := newMerger(ws, layers)
	if err != nil {
		return nil, err
	}
	root := record{Attr: Attr{Mode: modeDir | 0o755, Size: dirSize}}
	if _, err := m.w.addEntry(&root); err != nil {
		return nil, err
	}
	for slot := len(layers) - 1; slot >= 0; slot-- {
		m.dir.from = append(m.dir.from, source{int32(slot), 0})
	}
	m.dir.visible, m.dir.blocked = len(m.dir.from), -1
	for at, n := 0, 0; ; n++ {
		if n%256 == 0 {
			if err := ws.stopped(); err != nil {
				return nil, err
			}
		}
		if err := m.directory(); err != nil {
			return nil, err
		}
		if at == len(m.queue.b) {
			return m.w.finish(viewMagic, uint32(len(layers)))
		}
		at = m.dir.decode(m.queue.b, at)
	}
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
	blocked int32 // the first layer below those that has something else in the way of that path; -1: none
}

// encode appends what decode reads.
func (d *mergeDir) encode(to *arena) error {
	b, err := to.extend(16 + 8*len(d.from))
	if err != nil {
		return err
	}
	le := binary.LittleEndian
	le.PutUint32(b, d.entry)
	le.PutUint32(b[4:], uint32(d.visible))
	le.PutUint32(b[8:], uint32(d.blocked))
	le.PutUint32(b[12:], uint32(len(d.from)))
	for i, s := range d.from {
		le.PutUint32(b[16+8*i:], uint32(s.slot))
		le.PutUint32(b[20+8*i:], s.e)
	}
	return nil
}

// decode reads what lies at at, and returns where the next directory lies.
func (d *mergeDir) decode(b []byte, at int) int {
	le := binary.LittleEndian
	d.entry, d.visible, d.from = le.Uint32(b[at:]), int(le.Uint32(b[at+4:])), d.from[:0]
	d.blocked = int32(le.Uint32(b[at+8:]))
	n := int(le.Uint32(b[at+12:]))
	for i := range n {
		d.from = append(d.from, source{int32(le.Uint32(b[at+16+8*i:])), le.Uint32(b[at+20+8*i:])})
	}
	return at + 16 + 8*n
}

// mergeName is a name in one of the directories that are merged, and how many more that directory has.
type mergeName struct {
	name []byte
	pos  int32 // in mergeDir.from
	e    uint32
	next uint32 // dirent
	end  uint32
}

func (n *mergeName) less(than *mergeName) bool {
	return cmp.Or(bytes.Compare(n.name, than.name), cmp.Compare(n.pos, than.pos)) < 0
}

// merger writes directory by directory. Everything that grows with the layers lies in the workspace.
type merger struct {
	layers []*Index
	w      *tableWriter
	shared copied // entries with several names
	sets   copied // sets of attributes
	queue  arena  // directories that are still to be written
	dir    mergeDir
	sub    mergeDir
	heads  []mergeName // a heap: the next name of each directory
	found  []mergeName // one name in all directories, top first
	looked int         // how much was looked for behind links
}

func newMerger(ws *Workspace, layers []*Index) (*merger, error) {
	sum := 0
	for _, x := range layers {
		sum += x.NumEntries() - 1
	}
	if sum > MaxImageEntries {
		return nil, tooBig("%d entries in the layers of one view, more than %d", sum, MaxImageEntries)
	}
	limit := 24 * (MaxImageEntries + MaxLayers)
	m := &merger{layers: layers, w: newTableWriter(ws)}
	m.queue = arena{ws: ws, limit: limit, what: fmt.Sprint(limit, " bytes of directories")}
	var err error
	if m.shared, err = newCopied(ws, layers, (*Index).NumEntries); err != nil {
		return nil, err
	}
	m.sets, err = newCopied(ws, layers, func(x *Index) int { return len(x.sec[secSets])/setLen + 1 })
	return m, err
}

// copied remembers what has been copied of the layers, and what number it has got. Number 0 is nothing.
type copied struct {
	bases   []int // of each layer
	numbers []byte
}

func newCopied(ws *Workspace, layers []*Index, count func(x *Index) int) (copied, error) {
	c, sum := copied{}, 0
	for _, x := range layers {
		c.bases = append(c.bases, sum)
		sum += count(x)
	}
	a := arena{ws: ws, limit: 4 * sum}
	var err error
	c.numbers, err = a.extend(4 * sum)
	return c, err
}

func (c *copied) at(slot int32, i uint32) []byte { return c.numbers[4*(c.bases[slot]+int(i)):][:4] }

func (c *copied) get(slot int32, i uint32) uint32 { return binary.LittleEndian.Uint32(c.at(slot, i)) }

func (c *copied) set(slot int32, i, number uint32) {
	binary.LittleEndian.PutUint32(c.at(slot, i), number)
}

// directory writes the names of m.dir.
func (m *merger) directory() error {
	m.open()
	first, nlink := m.w.numDirents(), uint32(2)
	for len(m.heads) > 0 {
		m.found = m.found[:0]
		for {
			m.found = append(m.found, m.heads[0])
			m.advance()
			if len(m.heads) == 0 || !bytes.Equal(m.heads[0].name, m.found[0].name) {
				break
			}
		}
		if int(m.found[0].pos) >= m.dir.visible {
			continue
		}
		e, isDir, err := m.name()
		if err == nil && e != 0 {
			err = m.w.addDirent(m.found[0].name, e)
		}
		if err != nil {
			return err
		}
		if isDir {
			nlink++
		}
	}
	r := m.w.entry(m.dir.entry)
	r.A, r.B, r.Nlink = first, m.w.numDirents()-first, nlink
	m.w.setEntry(m.dir.entry, &r)
	return nil
}

// open makes heads the first names of the directories of m.dir.
func (m *merger) open() {
	m.heads = m.heads[:0]
	for pos, s := range m.dir.from {
		r := m.layers[s.slot].record(s.e)
		if n := (mergeName{pos: int32(pos), next: r.A, end: r.A + r.B}); m.step(&n) {
			m.heads = append(m.heads, n)
		}
	}
	for i := len(m.heads)/2 - 1; i >= 0; i-- {
		m.sink(i)
	}
}

// step goes to the next name of a directory.
func (m *merger) step(n *mergeName) bool {
	if n.next == n.end {
		return false
	}
	n.name, n.e, _ = m.layers[m.dir.from[n.pos].slot].dirent(n.next)
	n.next++
	return true
}

// advance takes the first of heads away.
func (m *merger) advance() {
	if last := len(m.heads) - 1; !m.step(&m.heads[0]) {
		m.heads[0] = m.heads[last]
		m.heads = m.heads[:last]
	}
	m.sink(0)
}

// sink moves a head down to its place in the heap.
func (m *merger) sink(i int) {
	for h := m.heads; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < len(h); c++ {
			if h[c].less(&h[least]) {
				least = c
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// name decides what the name found shows; entry 0: nothing.
func (m *merger) name() (e uint32, isDir bool, err error) {
	top := source{m.dir.from[m.found[0].pos].slot, m.found[0].e}
	r := m.layers[top.slot].record(top.e)
	switch {
	case r.Flags&flagWhiteout != 0:
		return 0, false, nil
	case r.Mode&modeType != modeDir:
		e, err = m.leaf(top, &r)
		return e, false, err
	}
	sub := &m.sub
	sub.from, sub.visible, sub.blocked = sub.from[:0], 0, m.dir.blocked
	for _, f := range m.found {
		s := source{m.dir.from[f.pos].slot, f.e}
		fr := m.layers[s.slot].record(s.e)
		if fr.Mode&modeType != modeDir {
			sub.blocked = s.slot
			break
		}
		if sub.visible == 0 && int(f.pos) >= m.dir.visible {
			sub.visible = len(sub.from)
		}
		sub.from = append(sub.from, s)
		if sub.visible == 0 && fr.Flags&flagOpaque != 0 {
			sub.visible = len(sub.from)
		}
	}
	sub.visible = cmp.Or(sub.visible, len(sub.from))
	if sub.entry, err = m.dirEntry(); err != nil {
		return 0, false, err
	}
	return sub.entry, true, sub.encode(&m.queue)
}

// dirEntry writes m.sub with its attributes.
func (m *merger) dirEntry() (uint32, error) {
	r, err := m.attributes()
	if err != nil {
		return 0, err
	}
	r.Size, r.Parent = dirSize, m.dir.entry
	return m.w.addEntry(&r)
}

// leaf writes what is no directory, once for all its names.
func (m *merger) leaf(s source, r *record) (uint32, error) {
	if r.Nlink > 1 {
		if e := m.shared.get(s.slot, s.e); e != 0 {
			return e, nil
		}
	}
	set, err := m.xattrs(s, r.Xattrs)
	if err != nil {
		return 0, err
	}
	out := record{Attr: r.Attr, Xattrs: set}
	switch r.Mode & modeType {
	case modeSymlink:
		target := m.layers[s.slot].sec[secStrings][r.A : uint64(r.A)+uint64(r.B)]
		if out.A, err = m.w.addString(target); err != nil {
			return 0, err
		}
		out.B = r.B
	case modeReg:
		if out.B = r.B; r.B != 0 {
			out.A = uint32(s.slot)
		}
	}
	e, err := m.w.addEntry(&out)
	if err == nil && r.Nlink > 1 {
		m.shared.set(s.slot, s.e, e)
	}
	return e, err
}

// xattrs copies a set of a layer.
func (m *merger) xattrs(s source, set uint32) (uint32, error) {
	if set == 0 {
		return 0, nil
	}
	if id := m.sets.get(s.slot, set); id != 0 {
		return id, nil
	}
	id, err := m.w.addXattrs(m.layers[s.slot].xattrs(s.e))
	m.sets.set(s.slot, set, id)
	return id, err
}
