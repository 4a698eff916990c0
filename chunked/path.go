package chunked

import (
	"slices"
	"strings"
)

// Path returns one path of e, "" for the root. It looks through the whole table, so it is for messages only.
func (t *table) Path(e uint32) string {
	var parts []string
	for e != 0 && len(parts) < maxPath {
		dir, i, ok := t.parentOf(e)
		if !ok {
			break
		}
		name, _ := t.Child(dir, i)
		parts = append(parts, name)
		e = dir
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// parentOf finds a directory that has a name of e, and the name's position in it.
func (t *table) parentOf(e uint32) (dir uint32, i int, ok bool) {
	if t.record(e).Mode&modeType == modeDir {
		i, ok = t.childOf(t.Parent(e), e)
		return t.Parent(e), i, ok
	}
	for dir = range uint32(t.NumEntries()) {
		if i, ok = t.childOf(dir, e); ok {
			return dir, i, true
		}
	}
	return 0, 0, false
}

// childOf finds e among the names of a directory.
func (t *table) childOf(dir, e uint32) (i int, ok bool) {
	first := t.record(dir).A
	for i = range t.NumChildren(dir) {
		if _, child, _ := t.dirent(first + uint32(i)); child == e {
			return i, true
		}
	}
	return 0, false
}
