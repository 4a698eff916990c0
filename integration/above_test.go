package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/integration/trees"
)

// What stands on a lazy chain is ordinary: written to, committed, compared, viewed, remapped.
func TestAboveLazyChain(t *testing.T) {
	harness.Need(t)
	layout := writeImage(t, append([]mkimage.Layer{treelistLayer(t)}, mkimage.Awkward()...)...)
	for _, version := range []string{"2.4", "2.1"} {
		t.Run("containerd "+version, func(t *testing.T) {
			l := newLab(t, &harness.Options{Containerd: version, Serve: true, Config: backgroundOff})
			l.clock = fromTheClock(t, layout)
			l.convert(layout, "gzip", "only", "image:lazy")
			l.convert(layout, "gzip", "none", "image:chunked")
			ref := l.pull("image:lazy")
			chain := l.image("image", "lazy").chain().String()
			shown := l.shown(ref, "/awkward")
			for _, c := range []struct {
				name string
				test func(l *lab, ref, chain string, shown []trees.Row)
			}{
				{"commit", (*lab).commitAbove},
				{"diff", (*lab).diffAbove},
				{"view", (*lab).viewOf},
				{"images mount", (*lab).imagesMount},
				{"read-only container", (*lab).readOnly},
				{"intermediate chains", (*lab).intermediate},
			} {
				t.Run(c.name, func(t *testing.T) {
					l := *l
					l.t = t
					c.test(&l, ref, chain, shown)
				})
			}
			l.removeAll(ref)
			l.checkNothingLeft()
		})
	}
}

func (l *lab) sn(args ...string) string {
	l.t.Helper()
	return l.ctr(append([]string{"snapshots", "--snapshotter", "tocsin"}, args...)...)
}

// mounted mounts a snapshot by the command that ctr prints, runs fn in it, and unmounts it.
func (l *lab) mounted(key string, fn func(dir string)) {
	l.t.Helper()
	dir := filepath.Join(l.Dir, "at-"+key)
	if err := os.Mkdir(dir, 0o700); err != nil {
		l.t.Fatal(err)
	}
	command := l.sn("mounts", dir, key)
	l.must(l.Exec(l.t.Context(), "sh", "-ec", command))
	defer func() {
		if err := errors.Join(unix.Unmount(dir, 0), os.Remove(dir)); err != nil {
			l.t.Errorf("unmount %s: %v", dir, err)
		}
	}()
	fn(dir)
}

// commitAbove writes on top of a lazy chain, commits that, and runs on the result.
func (l *lab) commitAbove(_, chain string, shown []trees.Row) {
	l.t.Helper()
	l.sn("prepare", "edit", chain)
	l.mounted("edit", func(dir string) { edit(l.t, dir) })
	l.sn("commit", "edited", "edit")
	l.sn("prepare", "on-edited", "edited")
	l.mounted("on-edited", func(dir string) {
		out := l.ctr("run", "--rm", "--rootfs", dir, "on-edited-container", "/treelist", "/awkward")
		checkEdited(l.t, shown, readRows(l.t, out))
	})
	l.sn("rm", "on-edited")
	l.sn("prepare", "edit-again", "edited") // a second directory above the first
	l.mounted("edit-again", func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "awkward", "second"), []byte("2"), 0o644); err != nil {
			l.t.Fatal(err)
		}
	})
	l.sn("commit", "edited-again", "edit-again")
	l.view("both", "edited-again")
	l.mounted("both", func(dir string) {
		rows := capture(l.t, filepath.Join(dir, "awkward"))
		checkEdited(l.t, shown, slices.DeleteFunc(rows, func(r trees.Row) bool { return r.Path == "/second" }))
		if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			l.t.Errorf("writing in a view: %v", err)
		}
	})
	l.sn("label", "both", "containerd.io/gc.root=")
	// Nothing refers to the view now, so containerd's gc may take it at any time, and when it does it forgets to tell the
	// parent, which then cannot be removed by name. So gc shall take them all.
	for _, key := range []string{"edited-again", "edited"} {
		l.sn("label", key, "containerd.io/gc.root=")
	}
}

// view makes a view that stays. ctr makes one without the label that keeps what it prepares, so containerd's gc may be
// faster than the label; then it is made again.
func (l *lab) view(key, parent string) {
	l.t.Helper()
	for range 20 {
		l.sn("view", key, parent)
		_, err := l.Ctr(l.t.Context(), "snapshots", "--snapshotter", "tocsin", "label", key, "containerd.io/gc.root=test")
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "not found") {
			l.t.Fatal(err)
		}
	}
	l.t.Fatalf("view %s is collected again and again", key)
}

// edit adds a file, changes one and removes one.
func edit(t *testing.T, dir string) {
	t.Helper()
	changed := filepath.Join(dir, "awkward", "noise")
	f, err := os.OpenFile(changed, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("changed")
	err = errors.Join(err, f.Close(),
		os.WriteFile(filepath.Join(dir, "awkward", "added"), []byte("added\n"), 0o644),
		os.Remove(filepath.Join(dir, "awkward", "empty")))
	if err != nil {
		t.Fatal(err)
	}
}

// checkEdited wants the rows of /awkward to be those of the image after edit.
func checkEdited(t *testing.T, image, got []trees.Row) {
	t.Helper()
	find := func(rows []trees.Row, path trees.Bytes) *trees.Row {
		if i := slices.IndexFunc(rows, func(r trees.Row) bool { return r.Path == path }); i >= 0 {
			return &rows[i]
		}
		return nil
	}
	was, is := find(image, "/noise"), find(got, "/noise")
	switch {
	case was == nil || is == nil || is.Size != was.Size+int64(len("changed")) || is.SHA256 == was.SHA256:
		t.Errorf("changed file: %+v, was %+v", is, was)
	case find(image, "/empty") == nil || find(got, "/empty") != nil:
		t.Error("the removed file is there, or was not")
	case find(got, "/added") == nil:
		t.Error("the added file is not there")
	}
	edited := func(r trees.Row) bool {
		return slices.Contains([]trees.Bytes{"/", "/noise", "/added", "/empty"}, r.Path)
	}
	for _, line := range trees.Diff(slices.DeleteFunc(slices.Clone(image), edited), slices.DeleteFunc(slices.Clone(got), edited), nil) {
		t.Error(line)
	}
}

// diffAbove compares a snapshot with its lazy parent: the layer has what was done, and no more.
func (l *lab) diffAbove(_, chain string, _ []trees.Row) {
	l.t.Helper()
	l.sn("prepare", "compared", chain)
	l.mounted("compared", func(dir string) { edit(l.t, dir) })
	unzipped, err := gzip.NewReader(bytes.NewReader([]byte(l.sn("diff", "compared"))))
	if err != nil {
		l.t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(unzipped); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			l.t.Fatal(err)
		}
		names = append(names, strings.TrimSuffix(h.Name, "/"))
	}
	slices.Sort(names)
	if want := []string{"awkward", "awkward/.wh.empty", "awkward/added", "awkward/noise"}; !slices.Equal(names, want) {
		l.t.Errorf("the difference has %q, want %q", names, want)
	}
	l.sn("rm", "compared")
}

// viewOf mounts a read-only snapshot of the lazy chain itself.
func (l *lab) viewOf(_, chain string, shown []trees.Row) {
	l.t.Helper()
	l.view("viewed", chain)
	l.mounted("viewed", func(dir string) { l.checkReadOnly(dir, shown) })
	l.dropView("viewed")
}

// dropView removes a view that containerd's gc may have taken already, because nothing refers to it.
func (l *lab) dropView(key string) {
	l.t.Helper()
	if _, err := l.Ctr(l.t.Context(), "snapshots", "--snapshotter", "tocsin", "rm", key); err != nil && !strings.Contains(err.Error(), "not found") {
		l.t.Error(err)
	}
}

// imagesMount mounts the variant and its plain sibling with `ctr images mount`, which counts the layers whose media type it
// knows.
func (l *lab) imagesMount(ref, _ string, shown []trees.Row) {
	l.t.Helper()
	plain := l.pull("image:chunked")
	for i, image := range []string{ref, plain} {
		dir := filepath.Join(l.Dir, fmt.Sprint("images-mount-", i)) // containerd's mount manager never forgets one
		if err := os.MkdirAll(dir, 0o700); err != nil {
			l.t.Fatal(err)
		}
		l.ctr("images", "mount", "--snapshotter", "tocsin", image, dir)
		l.checkReadOnly(dir, shown)
		l.ctr("images", "unmount", "--rm", "--snapshotter", "tocsin", dir)
	}
	l.removeAll(plain)
}

func (l *lab) checkReadOnly(dir string, shown []trees.Row) {
	l.t.Helper()
	// The times of directories that an eager image implies are the clock's.
	ignore := func(path, field string) bool { return field == "mtime" && l.clock[filepath.Join("/awkward", path)] }
	for _, line := range trees.Diff(shown, capture(l.t, filepath.Join(dir, "awkward")), ignore) {
		l.t.Error(line)
	}
	for what, err := range map[string]error{
		"create": os.WriteFile(filepath.Join(dir, "new"), nil, 0o644),
		"change": os.Truncate(filepath.Join(dir, "awkward", "noise"), 0),
		"remove": os.Remove(filepath.Join(dir, "awkward", "empty")),
		"chmod":  os.Chmod(filepath.Join(dir, "awkward"), 0o700),
	} {
		if !errors.Is(err, unix.EROFS) {
			l.t.Errorf("%s: %v", what, err)
		}
	}
}

func capture(t *testing.T, dir string) []trees.Row {
	t.Helper()
	rows, err := trees.Capture(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// readOnly runs the image with a root that cannot be written to.
func (l *lab) readOnly(ref, _ string, shown []trees.Row) {
	l.t.Helper()
	out := l.must(l.Run(l.t.Context(), harness.Container{
		Snapshotter: "tocsin", Image: ref, Flags: []string{"--read-only"}, Args: []string{"/treelist", "/awkward"},
	}))
	for _, line := range trees.Diff(shown, readRows(l.t, out), nil) {
		l.t.Error(line)
	}
}

// intermediate stands a snapshot on every chain of the image, the sentinel's empty one too.
func (l *lab) intermediate(_, _ string, _ []trees.Row) {
	l.t.Helper()
	im := l.image("image", "lazy")
	for i := range im.config.RootFS.DiffIDs {
		key := fmt.Sprintf("on-%d", i)
		l.sn("prepare", key, im.chainBelow(i+1).String())
		l.mounted(key, func(dir string) {
			rows := capture(l.t, dir)
			if i == 0 && len(rows) != 1 {
				l.t.Errorf("the sentinel shows %d paths", len(rows))
			}
			if _, err := os.Stat(filepath.Join(dir, "treelist")); (err == nil) != (i > 0) {
				l.t.Errorf("chain of %d layers: %v", i, err)
			}
			if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o644); err != nil {
				l.t.Error(err)
			}
		})
		l.sn("rm", key)
	}
}

// A container with shifted ids, for which the client changes the owner of every file, is as on overlayfs.
func TestShiftedIDs(t *testing.T) {
	harness.Need(t)
	layout := writeImage(t, treelistLayer(t), mkimage.File("/data/one", []byte("1\n")), mkimage.File("/data/sub/two", noiseOf(3<<20)))
	l := newLab(t, &harness.Options{Serve: true, Config: backgroundOff})
	if err := os.Chmod(l.Dir, 0o711); err != nil { // the container's root user passes through it
		t.Fatal(err)
	}
	plain := l.must(l.Push(t.Context(), "image:gzip", layout, "gzip"))
	l.convert(layout, "gzip", "only", "image:lazy")
	l.ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", plain)
	lazy := l.pull("image:lazy")
	shifted := func(snapshotter, ref string) []trees.Row {
		t.Helper()
		return readRows(t, l.must(l.Run(t.Context(), harness.Container{
			Snapshotter: snapshotter, Image: ref, Args: []string{"/treelist", "/data"},
			Flags: []string{"--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"},
		})))
	}
	stock, ours := shifted("overlayfs", plain), shifted("tocsin", lazy)
	sameRows(t, "shifted", layout, "/data", stock, ours)
	for _, row := range ours {
		if row.UID != 0 || row.GID != 0 {
			t.Errorf("owner inside: %+v", row)
		}
	}
	again := shifted("tocsin", lazy) // on the remapped snapshot that is there now
	sameRows(t, "shifted again", layout, "/data", stock, again)
	l.removeAll(lazy, plain)
	l.checkNothingLeft()
}

// noiseOf is n bytes that do not compress, always the same.
func noiseOf(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{9}).Read(b) // never fails
	return b
}
