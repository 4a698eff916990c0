package chunked

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"slices"
)

// A table is one file tree as bytes: what a layer index and a view have in common. It is made to be mapped and used
// where it lies. All numbers are little endian:
//
//	0    magic, 8 bytes: says index or view, and the version of the layout
//	8    CRC-32C of everything from byte 12 on
//	12   parameter: size of a digest in an index, number of layers in a view
//	16   offset and length, 8 bytes each, of every section in order; sections start at multiples of 8
//
// Entry 0 is the root. A directory comes before everything in it, and the dirents of the directories lie in the order of
// the directories, so that one linear pass proves that following them always ends.
const (
	secEntries = iota
	secDirents
	secStrings
	secSets  // of xattrs: first pair, number of pairs
	secPairs // name offset, name length, value offset, value length
	secObjects
	secChunks
	numSections

	headerLen = 16 + 16*numSections
	entryLen  = 64
	direntLen = 12
	setLen    = 8
	pairLen   = 16
)

// File types of st_mode, spelled out because this package may not name syscall.
const (
	modeType    = 0o170000
	modeDir     = 0o040000
	modeReg     = 0o100000
	modeSymlink = 0o120000
	modeChar    = 0o020000
	modeBlock   = 0o060000
	modeFifo    = 0o010000
)

// Flags of an entry in a layer index; a view has none.
const (
	flagImplied  = 1 << iota // a directory no header speaks of
	flagOpaque               // a directory that hides what lower layers have in it
	flagWhiteout             // not there, and hides what lower layers have
	flagsAll     = flagImplied | flagOpaque | flagWhiteout
)

// Attr is what stat shows of an entry. For directories Nlink is 2 plus the number of subdirectories.
type Attr struct {
	Mode                 uint32 // st_mode with the type bits
	UID, GID             uint32
	RdevMajor, RdevMinor uint32
	Nlink                uint32
	Size                 int64 // of a symlink: the length of its target
	MtimeSec             int64
	MtimeNsec            uint32
}

// record is one entry of a table. A and B are: of a directory its first dirent and their number, of a symlink place and
// length of its target, of a file the layer's slot (0 in an index) and its object plus one (0: no content).
type record struct {
	Attr
	Xattrs uint32 // set plus one, 0: none
	A, B   uint32
	Parent uint32 // directories only
	Flags  uint32
}

func (r *record) append(b []byte) []byte {
	le := binary.LittleEndian
	for _, v := range [...]uint32{r.Mode, r.UID, r.GID, r.RdevMajor, r.RdevMinor, r.Nlink} {
		b = le.AppendUint32(b, v)
	}
	b = le.AppendUint64(b, uint64(r.Size))
	b = le.AppendUint64(b, uint64(r.MtimeSec))
	for _, v := range [...]uint32{r.MtimeNsec, r.Xattrs, r.A, r.B, r.Parent, r.Flags} {
		b = le.AppendUint32(b, v)
	}
	return b
}

func decodeRecord(b []byte) (r record) {
	le := binary.LittleEndian
	_ = b[entryLen-1]
	r.Mode, r.UID, r.GID = le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])
	r.RdevMajor, r.RdevMinor, r.Nlink = le.Uint32(b[12:]), le.Uint32(b[16:]), le.Uint32(b[20:])
	r.Size, r.MtimeSec = int64(le.Uint64(b[24:])), int64(le.Uint64(b[32:]))
	r.MtimeNsec, r.Xattrs = le.Uint32(b[40:]), le.Uint32(b[44:])
	r.A, r.B, r.Parent, r.Flags = le.Uint32(b[48:]), le.Uint32(b[52:]), le.Uint32(b[56:]), le.Uint32(b[60:])
	return r
}

func tableSum(b []byte) uint32 {
	return crc32.Checksum(b[12:], crc32.MakeTable(crc32.Castagnoli))
}

// table is an opened table. It keeps the bytes it was given and never writes to them; it is safe for concurrent use.
type table struct {
	sec   [numSections][]byte
	n     uint32
	param uint32
}

// openTable checks everything that index and view have in common.
func openTable(b []byte, magic string) (*table, error) {
	le := binary.LittleEndian
	if len(b) < headerLen || string(b[:8]) != magic {
		return nil, malformed("no %s table (%d bytes)", magic[:6], len(b))
	}
	if got, want := tableSum(b), le.Uint32(b[8:]); got != want {
		return nil, malformed("%s table damaged: CRC-32C %08x, not %08x", magic[:6], got, want)
	}
	t := &table{param: le.Uint32(b[12:])}
	next := uint64(headerLen)
	for i := range t.sec {
		off, n := le.Uint64(b[16+16*i:]), le.Uint64(b[24+16*i:])
		if off != next || n > uint64(len(b))-off {
			return nil, malformed("section %d at %d, %d bytes, of a table of %d", i, off, n, len(b))
		}
		t.sec[i] = b[off : off+n : off+n]
		next = (off + n + 7) &^ 7
		if next > uint64(len(b)) {
			return nil, malformed("section %d is cut off", i)
		}
	}
	if next != uint64(len(b)) {
		return nil, malformed("%d bytes after the table", uint64(len(b))-next)
	}
	for i, size := range [...]int{entryLen, direntLen, 1, setLen, pairLen} {
		if len(t.sec[i])%size != 0 || len(t.sec[i])/size > math.MaxInt32 {
			return nil, malformed("section %d has %d bytes", i, len(t.sec[i]))
		}
	}
	t.n = uint32(len(t.sec[secEntries]) / entryLen)
	if t.n == 0 {
		return nil, malformed("table without a root")
	}
	if err := t.checkXattrs(); err != nil {
		return nil, err
	}
	return t, t.checkTree()
}

func (t *table) checkXattrs() error {
	strs := uint64(len(t.sec[secStrings]))
	le := binary.LittleEndian
	for p := t.sec[secPairs]; len(p) > 0; p = p[pairLen:] {
		name, value := le.Uint32(p[4:]), le.Uint32(p[12:])
		if uint64(le.Uint32(p))+uint64(name) > strs || uint64(le.Uint32(p[8:]))+uint64(value) > strs ||
			name == 0 || name > maxXattrName || value > maxXattrValue {
			return malformed("xattr out of bounds")
		}
	}
	pairs := uint64(len(t.sec[secPairs]) / pairLen)
	for s := t.sec[secSets]; len(s) > 0; s = s[setLen:] {
		if uint64(le.Uint32(s))+uint64(le.Uint32(s[4:])) > pairs {
			return malformed("xattr set out of bounds")
		}
	}
	return nil
}

// checkTree proves that the dirents form a tree of the directories with everything else as leaves.
func (t *table) checkTree() error {
	if r := t.record(0); r.Mode&modeType != modeDir || r.Parent != 0 || r.Flags&flagWhiteout != 0 {
		return malformed("the root is no directory")
	}
	seen := make([]uint64, t.n/64+1) // directories that have a name
	used := uint64(0)                // dirents of the directories so far
	for e := uint32(0); e < t.n; e++ {
		r := t.record(e)
		if err := t.checkRecord(e, &r, used); err != nil {
			return err
		}
		if r.Mode&modeType != modeDir {
			continue
		}
		if e != 0 && seen[e/64]&(1<<(e%64)) == 0 {
			return malformed("directory %d has no name", e)
		}
		used += uint64(r.B)
		prev := []byte(nil)
		for i := r.A; i < r.A+r.B; i++ {
			name, child, ok := t.dirent(i)
			if !ok || child == 0 || child >= t.n || !validComponent(name) || (i > r.A && slices.Compare(prev, name) >= 0) {
				return malformed("child %d of directory %d", i-r.A, e)
			}
			prev = name
			c := t.record(child)
			if c.Mode&modeType != modeDir {
				continue
			}
			if c.Parent != e || child <= e || seen[child/64]&(1<<(child%64)) != 0 {
				return malformed("directory %d is not below directory %d alone", child, e)
			}
			seen[child/64] |= 1 << (child % 64)
		}
	}
	if used != uint64(len(t.sec[secDirents])/direntLen) {
		return malformed("dirents without a directory")
	}
	return nil
}

func (t *table) checkRecord(e uint32, r *record, used uint64) error {
	ok := uint64(r.Xattrs) <= uint64(len(t.sec[secSets])/setLen) && r.MtimeNsec < 1e9 &&
		r.Size >= 0 && r.Flags&^flagsAll == 0 && r.Mode>>16 == 0 && (r.Parent == 0 || r.Mode&modeType == modeDir)
	switch r.Mode & modeType {
	case modeDir:
		ok = ok && uint64(r.A) == used && used+uint64(r.B) <= uint64(len(t.sec[secDirents])/direntLen)
	case modeSymlink:
		ok = ok && uint64(r.A)+uint64(r.B) <= uint64(len(t.sec[secStrings])) && r.B > 0 && r.B <= maxTarget
	case modeReg:
		ok = ok && (r.B == 0) == (r.Size == 0)
	case modeChar, modeBlock, modeFifo:
		ok = ok && r.A == 0 && r.B == 0
	default:
		ok = false
	}
	if !ok {
		return malformed("entry %d: mode %o, size %d, %d, %d", e, r.Mode, r.Size, r.A, r.B)
	}
	return nil
}

// dirent returns dirent i; ok is false when its name is out of bounds, which cannot be after openTable.
func (t *table) dirent(i uint32) (name []byte, e uint32, ok bool) {
	d := t.sec[secDirents][int(i)*direntLen:]
	off, n := uint64(binary.LittleEndian.Uint32(d)), uint64(binary.LittleEndian.Uint32(d[8:]))
	if off+n > uint64(len(t.sec[secStrings])) {
		return nil, 0, false
	}
	return t.sec[secStrings][off : off+n], binary.LittleEndian.Uint32(d[4:]), true
}

// validComponent says whether name can be the name of something in a directory.
func validComponent(name []byte) bool {
	if len(name) == 0 || len(name) > maxName || string(name) == "." || string(name) == ".." {
		return false
	}
	for _, c := range name {
		if c == 0 || c == '/' {
			return false
		}
	}
	return true
}
