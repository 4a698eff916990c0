package chunked

import (
	"encoding/binary"
	"slices"
	"strings"
)

// This file says what attributes a directory has that a layer only implies: containerd makes it with those that the
// directory of that path has in the next lower layer that has one, where it follows the links of that layer alone. If the
// path leads to no directory there, or no layer has it, they are 0755 0:0 and time 0.

// attributes returns those of m.sub.
func (m *merger) attributes() (record, error) {
	for i, s := range m.sub.from {
		have := m.layers[s.slot].record(s.e)
		if have.Flags&flagImplied == 0 {
			return m.named(s, &have, i > 0)
		}
	}
	last := m.sub.from[len(m.sub.from)-1]
	if m.sub.blocked < 0 {
		r, err := m.unnamed(last)
		m.passOn(last, &r)
		return r, err
	}
	path, err := m.path()
	if err != nil {
		return record{}, err
	}
	return m.behind(last, m.sub.blocked, path)
}

// named are the attributes of a directory that a layer names; copied: another one implies it. Whether what is then made in
// it has them depends on the order, if it passes on permissions.
func (m *merger) named(s source, have *record, copied bool) (record, error) {
	x := m.layers[s.slot]
	for i := range x.NumXattrs(s.e) {
		if name, _ := x.Xattr(s.e, i); copied && name == aclDefault {
			return record{}, malformed("a layer puts files into a directory of a lower one that has an ACL for them, and does not name it")
		}
	}
	set, err := m.xattrs(s, have.Xattrs)
	return record{Attr: have.Attr, Xattrs: set}, err
}

// unnamed are the attributes of a directory that no layer names, and s implies.
func (m *merger) unnamed(s source) (record, error) {
	have := m.layers[s.slot].record(s.e)
	return m.named(s, &have, s != m.sub.from[0])
}

// passOn gives a directory that no layer names, and s implies first, the group of the one that it is in, if the layer of s
// implies that too and it has a bit for it from a layer below.
func (m *merger) passOn(s source, r *record) {
	const setgid = 0o2000
	for _, up := range m.dir.from {
		have := m.layers[up.slot].record(up.e)
		switch implied := have.Flags&flagImplied != 0; {
		case up.slot > s.slot || implied:
			continue
		case up.slot < s.slot && have.Mode&setgid != 0:
			r.GID = have.GID
		}
		return
	}
}

// behind are the attributes of a directory that s implies, looked for by its path in the layers from slot on.
func (m *merger) behind(s source, slot int32, path string) (record, error) {
	for ; slot >= 0; slot-- {
		x := m.layers[slot]
		p, err := follow(&layerTree{&x.table, slot == 0}, path)
		if err == nil {
			err = m.look(int(p.steps))
		}
		if err != nil {
			return record{}, err
		}
		if len(p.missing) > 0 {
			continue
		}
		at, have := source{slot, p.id}, x.record(p.id)
		switch {
		case have.Mode&modeType != modeDir:
			return m.unnamed(s)
		case have.Flags&flagImplied == 0:
			return m.named(at, &have, true)
		}
		s, path = at, strings.Join(p.names, "/")
	}
	return m.unnamed(s)
}

func (m *merger) look(names int) error {
	if m.looked += names; m.looked > maxLooked {
		return tooBig("more than %d names are looked at behind links of lower layers", maxLooked)
	}
	return nil
}

// path returns the path of m.sub, whose name was found in m.dir.
func (m *merger) path() (string, error) {
	parts := []string{string(m.found[0].name)}
	for e := m.dir.entry; e != 0; {
		up := m.w.entry(e).Parent
		r := m.w.entry(up)
		if err := m.look(int(r.B)); err != nil {
			return "", err
		}
		parts = append(parts, m.w.nameOf(&r, e))
		e = up
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/"), nil
}

// nameOf returns the name of e in a directory that has been written.
func (w *tableWriter) nameOf(dir *record, e uint32) string {
	le := binary.LittleEndian
	for d := range slices.Chunk(w.sec[secDirents].b[int(dir.A)*direntLen:int(dir.A+dir.B)*direntLen], direntLen) {
		if le.Uint32(d[4:]) == e {
			return string(w.sec[secStrings].b[le.Uint32(d):][:le.Uint32(d[8:])])
		}
	}
	return ""
}

// layerTree is a layer as it was unpacked: where there is none below it, whiteouts have left nothing.
type layerTree struct {
	*table
	bottom bool
}

func (t *layerTree) find(dir uint32, name string) (uint32, bool) {
	e, ok := t.Lookup(dir, name)
	return e, ok && !(t.bottom && t.record(e).Flags&flagWhiteout != 0)
}
