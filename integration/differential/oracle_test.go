package differential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/integration/trees"
	"github.com/tocsin/tocsin/store"
)

// tree is what can be seen of an image: rows by path, and which paths are names of one file.
type tree struct {
	rows  []trees.Row
	links [][]string // groups of names, each sorted, sorted by the first
}

// errRefused is what containerd does not unpack.
var errRefused = errors.New("containerd refuses the tar")

// unpacked returns the tree that containerd makes of tars, bottom to top, and shows in a container: the first one is
// applied to a directory, as its snapshotter overlayfs has it, the others to upper directories of an overlay. An
// error that wraps errRefused is containerd's, any other one the machine's.
func unpacked(ctx context.Context, dir string, tars [][]byte) (*tree, error) {
	began := time.Now().Add(-time.Second)
	ctx = log.WithLogger(ctx, log.L.Dup().WithContext(ctx)) // its warnings go nowhere, see silence
	empty, top := filepath.Join(dir, "empty"), filepath.Join(dir, "top")
	if err := errors.Join(os.Mkdir(empty, 0o755), os.Mkdir(top, 0o755)); err != nil {
		return nil, err
	}
	lower := []string{} // top first
	for i, tar := range tars {
		layer := filepath.Join(dir, fmt.Sprint("l", i))
		if err := os.Mkdir(layer, 0o755); err != nil {
			return nil, err
		}
		var opts []archive.ApplyOpt
		if i > 0 {
			opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(lower))
		}
		in := bytes.NewReader(tar)
		_, err := archive.Apply(ctx, layer, in, opts...)
		if err != nil {
			return nil, fmt.Errorf("%w: layer %d: %w", errRefused, i, err)
		}
		lower = append([]string{layer}, lower...)
	}
	// What a container sees goes through an overlay, also with one layer.
	options := "lowerdir=" + strings.Join(append([]string{empty}, lower...), ":")
	if err := unix.Mount("overlay", top, "overlay", unix.MS_RDONLY, options); err != nil {
		return nil, fmt.Errorf("mount %s: %w", options, err)
	}
	t, err := captured(top, began)
	return t, errors.Join(err, unix.Unmount(top, 0))
}

// captured walks a mounted tree. Times that the clock gave are not part of the image and become -1.
func captured(root string, began time.Time) (*tree, error) {
	// Where nothing is merged overlayfs lists the devices that stand for whiteouts, and then does not find them.
	absent := func(path string) bool {
		var st unix.Stat_t
		return unix.Lstat(filepath.Join(root, path), &st) == unix.ENOENT
	}
	rows, err := trees.Capture(root, &trees.Options{Skip: absent})
	if err != nil {
		return nil, err
	}
	t := &tree{}
	groups := map[uint64][]string{}
	for _, row := range rows {
		if row.Path == "/" {
			continue
		}
		if row.Mtime >= began.UnixNano() && row.Mtime <= time.Now().UnixNano() {
			row.Mtime = -1
		}
		row.Xattrs = slices.DeleteFunc(row.Xattrs, func(x trees.Xattr) bool { return dropped(string(x.Name)) })
		t.rows = append(t.rows, row)
		if row.Nlink > 1 {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(root, string(row.Path)), &st); err != nil {
				return nil, err
			}
			groups[st.Ino] = append(groups[st.Ino], string(row.Path))
		}
	}
	for _, names := range groups {
		t.links = append(t.links, names)
	}
	t.sortLinks()
	return t, nil
}

// dropped says which attributes tocsin shows of no image: docs/trust.md, "Attributes".
func dropped(name string) bool {
	return strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "trusted.")
}

// dropAufs leaves out what is in the directories that aufs had for itself, which tocsin drops of a tar.
func (t *tree) dropAufs() {
	t.rows = slices.DeleteFunc(t.rows, func(r trees.Row) bool { return strings.Contains(string(r.Path), "/.wh..wh.") })
}

func (t *tree) sortLinks() {
	t.links = slices.DeleteFunc(t.links, func(names []string) bool { return len(names) < 2 })
	for _, names := range t.links {
		slices.Sort(names)
	}
	slices.SortFunc(t.links, func(a, b []string) int { return strings.Compare(a[0], b[0]) })
}

// shown returns the tree that tocsin shows of layers, without a kernel, as its FUSE server has it.
func shown(ctx context.Context, st *store.Store, pool *fill.Pool, layers []uint64) (*tree, error) {
	number, err := pool.View(ctx, layers)
	if err != nil {
		return nil, err
	}
	mapped, err := st.View(number)
	if err != nil {
		return nil, err
	}
	defer mapped.Close()
	v, err := chunked.OpenView(mapped.Bytes())
	if err != nil {
		return nil, err
	}
	t := &tree{}
	groups := map[uint32][]string{}
	for name, e := range v.Walk() {
		row, err := rowOf(v, e)
		if err != nil {
			return nil, err
		}
		row.Path = trees.Bytes("/" + name)
		if slot, obj, ok := v.Content(e); ok {
			if row.SHA256, err = contentOf(ctx, pool, layers[slot], obj); err != nil {
				return nil, fmt.Errorf("content of %q: %w", name, err)
			}
		} else if row.Mode&unix.S_IFMT == unix.S_IFREG {
			row.SHA256 = sum(nil)
		}
		t.rows = append(t.rows, row)
		if row.Nlink > 1 {
			groups[e] = append(groups[e], "/"+name)
		}
	}
	slices.SortFunc(t.rows, func(a, b trees.Row) int { return strings.Compare(string(a.Path), string(b.Path)) })
	for _, names := range groups {
		t.links = append(t.links, names)
	}
	t.sortLinks()
	return t, nil
}

func rowOf(v *chunked.View, e uint32) (trees.Row, error) {
	a := v.Attr(e)
	row := trees.Row{Mode: a.Mode, UID: a.UID, GID: a.GID, Mtime: a.MtimeSec*1e9 + int64(a.MtimeNsec)}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		row.Size = a.Size
	case unix.S_IFLNK:
		row.Target = trees.Bytes(v.Readlink(e))
	case unix.S_IFCHR, unix.S_IFBLK:
		row.Rdev = unix.Mkdev(a.RdevMajor, a.RdevMinor)
	}
	if a.Mode&unix.S_IFMT != unix.S_IFDIR {
		row.Nlink = uint64(a.Nlink)
	}
	for i := range v.NumXattrs(e) {
		name, value := v.Xattr(e, i)
		row.Xattrs = append(row.Xattrs, trees.Xattr{Name: trees.Bytes(name), Value: trees.Bytes(value)})
	}
	return row, nil
}

// contentOf reads an object of a layer as a reader does.
func contentOf(ctx context.Context, pool *fill.Pool, layer uint64, obj int) (string, error) {
	l, err := pool.Layer(layer)
	if err != nil {
		return "", err
	}
	f, err := l.Open(obj)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, f.Size())
	if n, err := f.ReadAt(ctx, b, 0); err != nil && !(errors.Is(err, io.EOF) && n == len(b)) {
		return "", err
	}
	return sum(b), nil
}

// differences returns one line for each thing that is not alike.
func differences(want, got *tree) []string {
	clock := map[string]bool{}
	for _, row := range want.rows {
		clock[string(row.Path)] = row.Mtime == -1
	}
	lines := trees.Diff(want.rows, got.rows, func(path, field string) bool { return field == "mtime" && clock[path] })
	if w, g := fmt.Sprintf("%q", want.links), fmt.Sprintf("%q", got.links); w != g {
		lines = append(lines, fmt.Sprintf("links are %s, should be %s", g, w))
	}
	return lines
}

// silence keeps containerd's warnings about attributes to itself.
func silence() { _ = log.SetLevel("panic") }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
