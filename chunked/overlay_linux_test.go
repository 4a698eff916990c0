package chunked

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"
)

// TestViewLikeOverlay unpacks the layers of testdata/view.txt as containerd's overlayfs snapshotter does, mounts them,
// and compares what the kernel shows with the same text that TestView compares views with.
func TestViewLikeOverlay(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount overlayfs and to make whiteouts")
	}
	for _, tc := range parseViewCases(t) {
		t.Run(tc.name, func(t *testing.T) {
			if tc.stock != "" {
				t.Skip("meant to differ: " + tc.stock)
			}
			base := t.TempDir()
			empty := filepath.Join(base, "empty")
			mnt := filepath.Join(base, "mnt")
			for _, dir := range []string{empty, mnt} {
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			lower := []string{empty} // top first; overlayfs wants two
			for i, layer := range tc.layers {
				dir := filepath.Join(base, string(rune('a'+i)))
				if err := os.Mkdir(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				opts := []archive.ApplyOpt{archive.WithConvertWhiteout(archive.OverlayConvertWhiteout)}
				if i > 0 {
					opts = append(opts, archive.WithParents(lower[:len(lower)-1]))
				}
				if _, err := archive.Apply(t.Context(), dir, bytes.NewReader(layerTar(t, layer)), opts...); err != nil {
					t.Fatal(err)
				}
				lower = slices.Insert(lower, 0, dir)
			}
			if err := unix.Mount("overlay", mnt, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
				t.Skipf("cannot mount overlayfs on %s: %v", base, err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(mnt, 0); err != nil {
					t.Error(err)
				}
			})
			if got := dumpDir(t, mnt); got != tc.tree {
				t.Errorf("overlayfs shows\n%sthe case says\n%s", got, tc.tree)
			}
		})
	}
}

// dumpDir is dumpView of a real tree.
func dumpDir(tb testing.TB, root string) string {
	tb.Helper()
	var out []string
	var g groups
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		a := Attr{Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), MtimeSec: st.Mtim.Sec,
			RdevMajor: unix.Major(st.Rdev), RdevMinor: unix.Minor(st.Rdev)}
		content, link := "", ""
		switch a.Mode & modeType {
		case modeReg:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		case modeSymlink:
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		}
		out = append(out, treeLine(path[len(root)+1:], a, link, content, dirXattrs(tb, path))+g.of(a, st.Ino))
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Join(out, "\n") + "\n"
}

func dirXattrs(tb testing.TB, path string) (set []xattr) {
	tb.Helper()
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		tb.Fatal(err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		m, err := unix.Lgetxattr(path, name, value)
		if err == syscall.ENODATA {
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		set = append(set, xattr{[]byte(name), value[:m]})
	}
	slices.SortFunc(set, func(a, b xattr) int { return bytes.Compare(a.name, b.name) })
	return set
}
