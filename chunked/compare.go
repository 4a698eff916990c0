package chunked

import (
	"fmt"
	"slices"
)

// Difference is one thing that a TOC and a tar do not say alike.
type Difference struct {
	Name string // clean name of the file
	// What differs: "content", "mode", "owner", "xattr", "type", "link target", "device number", "time", "hard links",
	// or of a directory "opaque" and "implied"; "extra" for a file that only the TOC has, "missing" for one that only the
	// tar has.
	What string
}

// maxDifferences bounds what CompareIndexes returns: who needs more of them than that knows enough.
const maxDifferences = 1000

// CompareIndexes says how the files of toc, the index of a TOC, differ from those of tar, which DeriveIndex made of a tar:
// in the order of names, those of a directory before those in it. More than 1000 are not returned.
//
// It reports and proves nothing: two indexes are the same files if they are the same bytes.
func CompareIndexes(toc, tar *Index) []Difference {
	c := comparison{toc: toc, tar: tar}
	c.dirs("", 0, 0)
	return c.found
}

// firstDifference says in a few words how a derived index differs from x.
func firstDifference(x *Index, derived []byte) string {
	tar, err := OpenIndex(derived)
	if err != nil {
		return err.Error()
	}
	found := CompareIndexes(x, tar)
	if len(found) == 0 {
		return "the tar has other files under names that it gives again"
	}
	return fmt.Sprintf("%q: %s", found[0].Name, found[0].What)
}

type comparison struct {
	toc, tar *Index
	found    []Difference
}

func (c *comparison) add(name, what string) {
	if len(c.found) < maxDifferences {
		c.found = append(c.found, Difference{name, what})
	}
}

// dirs compares what is in two directories of one path.
func (c *comparison) dirs(path string, a, b uint32) {
	for i, j := 0, 0; len(c.found) < maxDifferences; {
		x, ex, okx := c.child(c.toc, a, i)
		y, ey, oky := c.child(c.tar, b, j)
		switch {
		case !okx && !oky:
			return
		case !oky || okx && x < y:
			c.alone(c.toc, path+x, ex, "extra")
			i++
		case !okx || y < x:
			c.alone(c.tar, path+y, ey, "missing")
			j++
		default:
			c.pair(path+x, ex, ey)
			i, j = i+1, j+1
		}
	}
}

func (c *comparison) child(x *Index, dir uint32, i int) (string, uint32, bool) {
	if i >= x.NumChildren(dir) {
		return "", 0, false
	}
	name, e := x.Child(dir, i)
	return name, e, true
}

// alone reports what only one side has, with all that is in it.
func (c *comparison) alone(x *Index, path string, e uint32, what string) {
	c.add(path, what)
	for i := range x.NumChildren(e) {
		if len(c.found) == maxDifferences {
			return
		}
		name, child := x.Child(e, i)
		c.alone(x, path+"/"+name, child, what)
	}
}

// pair compares what has one path on both sides.
func (c *comparison) pair(path string, a, b uint32) {
	r, s := c.toc.record(a), c.tar.record(b)
	if r.Mode&modeType != s.Mode&modeType || r.Flags&flagWhiteout != s.Flags&flagWhiteout {
		c.add(path, "type")
		return
	}
	for _, d := range []struct {
		what string
		same bool
	}{
		{"mode", r.Mode == s.Mode},
		{"owner", r.UID == s.UID && r.GID == s.GID},
		{"time", r.MtimeSec == s.MtimeSec && r.MtimeNsec == s.MtimeNsec},
		{"device number", r.RdevMajor == s.RdevMajor && r.RdevMinor == s.RdevMinor},
		{"link target", c.toc.Readlink(a) == c.tar.Readlink(b)},
		{"xattr", slices.EqualFunc(c.toc.xattrs(a), c.tar.xattrs(b), xattr.equal)},
		{"content", c.sameContent(a, b)},
		{"hard links", r.Mode&modeType == modeDir || r.Nlink == s.Nlink},
		{"opaque", r.Flags&flagOpaque == s.Flags&flagOpaque},
		{"implied", r.Flags&flagImplied == s.Flags&flagImplied},
	} {
		if !d.same {
			c.add(path, d.what)
		}
	}
	c.dirs(path+"/", a, b)
}

// sameContent compares what files hold, as a whole and by chunks. Where chunks lie in the blob is no difference: files of one
// content share one place.
func (c *comparison) sameContent(a, b uint32) bool {
	x, okx := c.toc.Content(a)
	y, oky := c.tar.Content(b)
	return okx == oky && (!okx || c.toc.Object(x) == c.tar.Object(y))
}
