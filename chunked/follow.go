package chunked

import "strings"

// linkTree is a layer's tree, finished or not, in which paths are followed. The root is 0.
type linkTree interface {
	// find returns what a directory has under a name.
	find(dir uint32, name string) (id uint32, ok bool)
	// what returns the mode of something, and the target if it is a symbolic link.
	what(id uint32) (mode uint32, target string)
	// above returns the directory that a directory is in.
	above(dir uint32) uint32
}

// place is where a path leads.
type place struct {
	id      uint32
	names   []string // from the root to id
	missing []string // what is not there, below id
	links   []uint32 // the symbolic links on the way
	steps   int64
}

// follow follows a path from the root of a tree, its symbolic links included and never leaving the root, as containerd
// does with what lies before the last component of a name. containerd does not walk: it puts the target of a link in
// the place of the link's name and makes the whole a clean path, so that ".." takes away the name before it, whatever
// that is, or if it is at all; then it begins again. A link with "." behind it it may follow twice. A path that would lead
// elsewhere by walking is ErrMalformed.
func follow(t linkTree, path string) (place, error) {
	var p place
	nested, behind := 0, -1 // behind: what is left from the end of the last link in a link's target on
	for rest, own := path, len(path); rest != ""; {
		if len(rest) > maxPath {
			return p, malformed("path %.64q... is longer than %d bytes", path, maxPath)
		}
		if p.steps++; p.steps > maxSteps {
			return p, tooBig("path %.64q... leads through more than %d names", path, maxSteps)
		}
		inTarget, afterLink := len(rest) > own, len(rest) <= behind
		var part string
		if part, rest, _ = strings.Cut(rest, "/"); !inTarget {
			own = len(rest)
		}
		switch {
		case part == "." && afterLink:
			return p, strictly("%q leads through a link in a link with a dot behind it", path)
		case part == "" || part == ".":
			continue
		case part == "..":
			if nested > 0 {
				return p, strictly("%q leads back out of a link in a link", path)
			}
			p.back(t)
			continue
		}
		id, ok := t.find(p.id, part)
		if !ok || len(p.missing) > 0 {
			p.missing = append(p.missing, part)
			continue
		}
		mode, target := t.what(id)
		switch {
		case mode&modeType == modeDir || mode&modeType != modeSymlink && rest == "":
			p.id, p.names = id, append(p.names, part)
			continue
		case mode&modeType != modeSymlink:
			return p, malformed("%q in %q is not a directory", part, path)
		}
		absolute := strings.HasPrefix(target, "/")
		if inTarget {
			if nested++; nested > maxNested || absolute {
				return p, strictly("%q leads through too many links in links, or an absolute one", path)
			}
			behind = len(rest)
		}
		if len(p.links) == maxLinks {
			return p, malformed("too many symlinks in %q", path)
		}
		p.links = append(p.links, id)
		if absolute {
			p.id, p.names = 0, nil
		}
		rest = target + "/" + rest
	}
	return p, nil
}

// back is "..".
func (p *place) back(t linkTree) {
	switch {
	case len(p.missing) > 0:
		p.missing = p.missing[:len(p.missing)-1]
	case len(p.names) > 0:
		p.id, p.names = t.above(p.id), p.names[:len(p.names)-1]
	}
}
