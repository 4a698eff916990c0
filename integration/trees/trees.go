// Package trees says what a directory tree looks like from outside, row by row, so that two ways of showing the
// same image can be compared: every path with its type, mode, owner, times, xattrs, device number, link target, and
// for files size, link count and digest.
//
// It reads trees through system calls only and knows nothing of images or layers; what a layer means is for packages
// chunked and manifest. It does not decide which differences matter: Diff takes a rule for that.
package trees

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bytes is a path or value that may hold any bytes. In JSON it is quoted as Go quotes strings, so that names that are
// not UTF-8 survive.
type Bytes string

// MarshalText quotes b in printable ASCII.
func (b Bytes) MarshalText() ([]byte, error) {
	quoted := strconv.QuoteToASCII(string(b))
	return []byte(quoted[1 : len(quoted)-1]), nil
}

// UnmarshalText undoes MarshalText.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, err := strconv.Unquote(`"` + string(text) + `"`)
	if err != nil {
		return fmt.Errorf("trees: quoted name %q: %w", text, err)
	}
	*b = Bytes(s)
	return nil
}

// Row is what can be seen of one path.
type Row struct {
	Path   Bytes   `json:"path"` // "/" for the root, else "/a/b"
	Mode   uint32  `json:"mode"` // st_mode, type bits included
	UID    uint32  `json:"uid"`
	GID    uint32  `json:"gid"`
	Mtime  int64   `json:"mtime"` // nanoseconds since 1970
	Rdev   uint64  `json:"rdev,omitempty"`
	Nlink  uint64  `json:"nlink,omitempty"`  // of everything but directories
	Size   int64   `json:"size,omitempty"`   // of regular files
	SHA256 string  `json:"sha256,omitempty"` // of regular files
	Target Bytes   `json:"target,omitempty"` // of symbolic links
	Xattrs []Xattr `json:"xattrs,omitempty"` // sorted by name
}

// Xattr is one extended attribute. A list of them, because encoding/json quotes the keys of a map its own way.
type Xattr struct {
	Name  Bytes `json:"name"`
	Value Bytes `json:"value"`
}

// Options say what Capture leaves out. Nil leaves out nothing.
type Options struct {
	// Skip reports paths, as in Row.Path, that are left out together with what is below them.
	Skip func(path string) bool
}

// Capture walks the tree at root, which must be a directory, without crossing into other file systems, and returns
// its rows sorted by path. The first path that cannot be read in full is an error.
func Capture(root string, o *Options) ([]Row, error) {
	if o == nil {
		o = &Options{}
	}
	var top unix.Stat_t
	if err := unix.Lstat(root, &top); err != nil {
		return nil, fmt.Errorf("trees: lstat %s: %w", root, err)
	}
	var rows []Row
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("trees: %w", err)
		}
		path := "/" + strings.TrimPrefix(strings.TrimPrefix(name, root), "/")
		if path != "/" && o.Skip != nil && o.Skip(path) {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		row, dev, err := capture(name)
		if err != nil {
			return err
		}
		row.Path = Bytes(path)
		rows = append(rows, row)
		if d.IsDir() && dev != top.Dev {
			return filepath.SkipDir // a mount: its root is shown, what it holds is not
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	sortRows(rows)
	return rows, nil
}

func sortRows(rows []Row) {
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(string(a.Path), string(b.Path)) })
}

func capture(name string) (Row, uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return Row{}, 0, fmt.Errorf("trees: lstat %s: %w", name, err)
	}
	row := Row{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Mtime: st.Mtim.Nano()}
	var err error
	if row.Xattrs, err = xattrs(name); err != nil {
		return Row{}, 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		row.Nlink = st.Nlink
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		row.Size = st.Size
		row.SHA256, err = hashFile(name)
	case unix.S_IFLNK:
		var target string
		target, err = os.Readlink(name)
		row.Target = Bytes(target)
	case unix.S_IFCHR, unix.S_IFBLK:
		row.Rdev = st.Rdev
	}
	if err != nil {
		return Row{}, 0, fmt.Errorf("trees: %w", err)
	}
	return row, st.Dev, nil
}

func hashFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func xattrs(name string) ([]Xattr, error) {
	list := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(name, list)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("trees: listxattr %s: %w", name, err)
	}
	var found []Xattr
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	for _, attr := range bytes.Split(bytes.TrimSuffix(list[:n], []byte{0}), []byte{0}) {
		m, err := unix.Lgetxattr(name, string(attr), value)
		if err != nil {
			return nil, fmt.Errorf("trees: getxattr %s %s: %w", name, attr, err)
		}
		found = append(found, Xattr{Name: Bytes(attr), Value: Bytes(value[:m])})
	}
	slices.SortFunc(found, func(a, b Xattr) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return found, nil
}

// Ignore says that the field of the row at a path is not compared; both rows exist. Field is a JSON name of Row.
type Ignore func(path, field string) bool

// Diff compares two trees and returns one line for every difference, in order of path: nil means equal. Ignore may be
// nil.
func Diff(want, got []Row, ignore Ignore) []string {
	var lines []string
	byPath := map[Bytes]Row{}
	for _, row := range got {
		byPath[row.Path] = row
	}
	for _, a := range want {
		b, ok := byPath[a.Path]
		if !ok {
			lines = append(lines, fmt.Sprintf("%q: missing", a.Path))
			continue
		}
		delete(byPath, a.Path)
		lines = append(lines, diffRow(a, b, ignore)...)
	}
	for path := range byPath {
		lines = append(lines, fmt.Sprintf("%q: should not be there", path))
	}
	sort.Strings(lines)
	return lines
}

func diffRow(a, b Row, ignore Ignore) []string {
	var lines []string
	compare := func(field string, want, got any) {
		w, g := fmt.Sprint(want), fmt.Sprint(got)
		if w != g && (ignore == nil || !ignore(string(a.Path), field)) {
			lines = append(lines, fmt.Sprintf("%q: %s is %q, should be %q", a.Path, field, g, w))
		}
	}
	compare("mode", fmt.Sprintf("%o", a.Mode), fmt.Sprintf("%o", b.Mode))
	compare("uid", a.UID, b.UID)
	compare("gid", a.GID, b.GID)
	compare("mtime", a.Mtime, b.Mtime)
	compare("rdev", a.Rdev, b.Rdev)
	compare("nlink", a.Nlink, b.Nlink)
	compare("size", a.Size, b.Size)
	compare("sha256", a.SHA256, b.SHA256)
	compare("target", a.Target, b.Target)
	compare("xattrs", a.Xattrs, b.Xattrs)
	return lines
}
