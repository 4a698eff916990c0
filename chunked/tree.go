package chunked

import (
	"encoding/binary"
	"strings"
)

// The accessors below are shared by Index and View. They do not panic for e < NumEntries on any table that was opened.

func (t *table) record(e uint32) record { return decodeRecord(t.sec[secEntries][int(e)*entryLen:]) }

// NumEntries returns the number of entries; they are numbered from 0, the root.
func (t *table) NumEntries() int { return int(t.n) }

// Attr returns what stat shows of e.
func (t *table) Attr(e uint32) Attr { return t.record(e).Attr }

// NumChildren returns the number of names in dir; 0 for what is no directory.
func (t *table) NumChildren(dir uint32) int {
	r := t.record(dir)
	if r.Mode&modeType != modeDir {
		return 0
	}
	return int(r.B)
}

// Child returns the name in dir at position i < NumChildren(dir), in bytewise order, and its entry.
func (t *table) Child(dir uint32, i int) (name string, e uint32) {
	b, e, _ := t.dirent(t.record(dir).A + uint32(i))
	return string(b), e
}

// Lookup returns the entry of name in dir. All names of a hardlink give the same entry.
func (t *table) Lookup(dir uint32, name string) (uint32, bool) {
	r := t.record(dir)
	if r.Mode&modeType != modeDir {
		return 0, false
	}
	lo, hi := r.A, r.A+r.B
	for lo < hi {
		mid := lo + (hi-lo)/2
		b, e, _ := t.dirent(mid)
		switch { // a conversion inside a comparison does not allocate
		case string(b) == name:
			return e, true
		case string(b) < name:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return 0, false
}

// Parent returns the directory that dir is in; the root's is the root. Only directories have one parent.
func (t *table) Parent(dir uint32) uint32 { return t.record(dir).Parent }

// Readlink returns the target of a symlink, "" for anything else.
func (t *table) Readlink(e uint32) string {
	r := t.record(e)
	if r.Mode&modeType != modeSymlink {
		return ""
	}
	return string(t.sec[secStrings][r.A : uint64(r.A)+uint64(r.B)])
}

// NumXattrs returns the number of extended attributes of e.
func (t *table) NumXattrs(e uint32) int {
	x := t.record(e).Xattrs
	if x == 0 {
		return 0
	}
	return int(binary.LittleEndian.Uint32(t.sec[secSets][int(x-1)*setLen+4:]))
}

// Xattr returns attribute i < NumXattrs(e), sorted by name. The value lies in the table and must not be changed.
func (t *table) Xattr(e uint32, i int) (name string, value []byte) {
	first := binary.LittleEndian.Uint32(t.sec[secSets][int(t.record(e).Xattrs-1)*setLen:])
	p := t.sec[secPairs][(int(first)+i)*pairLen:]
	le := binary.LittleEndian
	n, v := uint64(le.Uint32(p)), uint64(le.Uint32(p[8:]))
	strs := t.sec[secStrings]
	end := v + uint64(le.Uint32(p[12:]))
	return string(strs[n : n+uint64(le.Uint32(p[4:]))]), strs[v:end:end]
}

// xattrs returns the whole set of e.
func (t *table) xattrs(e uint32) []xattr {
	set := make([]xattr, t.NumXattrs(e))
	for i := range set {
		name, value := t.Xattr(e, i)
		set[i] = xattr{[]byte(name), value}
	}
	return set
}

// lookupPath follows a clean name from the root, without following symlinks.
func (t *table) lookupPath(name string) (uint32, bool) {
	e := uint32(0)
	for name != "" {
		part, rest, _ := strings.Cut(name, "/")
		next, ok := t.Lookup(e, part)
		if !ok {
			return 0, false
		}
		e, name = next, rest
	}
	return e, true
}

func (t *table) find(dir uint32, name string) (uint32, bool) { return t.Lookup(dir, name) }

func (t *table) what(e uint32) (uint32, string) { return t.record(e).Mode, t.Readlink(e) }

func (t *table) above(dir uint32) uint32 { return t.Parent(dir) }
