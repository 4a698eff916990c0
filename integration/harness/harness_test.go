package harness

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/integration/trees"
)

// runcMounts are what runc mounts over in a container, and so not the image's.
var runcMounts = []string{"/proc", "/sys", "/dev", "/run", "/treelist"}

func underRuncMount(path string) bool {
	return slices.ContainsFunc(runcMounts, func(m string) bool { return path == m || strings.HasPrefix(path, m+"/") })
}

// The whole circle with nothing of tocsin's own in it: push, pull, run, and look from inside and from outside.
func TestStockImage(t *testing.T) {
	Need(t)
	layout := Image(t, "debian-python")
	treelist := filepath.Join(t.TempDir(), "treelist")
	if err := Build("./integration/trees/cmd/treelist", treelist); err != nil {
		t.Fatal(err)
	}
	for _, version := range Versions() {
		t.Run("containerd "+version, func(t *testing.T) {
			m := Start(t, &Options{Containerd: version})
			ctx := t.Context()
			ref, err := m.Push(ctx, "debian/python:gzip", layout, "gzip")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Ctr(ctx, "images", "pull", "--plain-http", "--snapshotter", "overlayfs", ref); err != nil {
				t.Fatal(err)
			}
			out, err := m.Run(ctx, Container{Image: ref, Args: []string{"python3", "-c", "print(6*7)"}})
			if err != nil || out != "42\n" {
				t.Fatalf("python printed %q: %v", out, err)
			}
			compareInsideAndOutside(t, m, ref, treelist)
		})
	}
}

func compareInsideAndOutside(t *testing.T, m *Machine, ref, treelist string) {
	t.Helper()
	ctx := t.Context()
	out, err := m.Run(ctx, Container{
		Image: ref,
		Flags: []string{"--privileged", "--mount", "type=bind,src=" + treelist + ",dst=/treelist,options=rbind:ro"},
		Args:  append([]string{"/treelist", "/"}, runcMounts...),
	})
	if err != nil {
		t.Fatal(err)
	}
	inside, err := trees.Read(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	point := filepath.Join(m.Dir, "view")
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Ctr(ctx, "images", "mount", "--snapshotter", "overlayfs", ref, point); err != nil {
		t.Fatal(err)
	}
	outside, err := trees.Capture(point, &trees.Options{Skip: underRuncMount})
	if _, err := m.Ctr(ctx, "images", "unmount", "--rm", point); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(outside) < 3000 {
		t.Errorf("only %d paths", len(outside))
	}
	// runc makes mount points in the root directory, so its time differs.
	differences := trees.Diff(outside, inside, func(path, field string) bool { return path == "/" && field == "mtime" })
	for i, line := range differences {
		if i == 20 {
			t.Fatalf("and %d more", len(differences)-i)
		}
		t.Error(line)
	}
}

// A container that runs for ever, its shim and its mounts must not survive the Machine.
func TestCloseEndsEverything(t *testing.T) {
	Need(t)
	sleeper := filepath.Join(t.TempDir(), "treelist")
	if err := Build("./integration/harness/testdata/sleeper", sleeper); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(sleeper)
	if err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(t.TempDir(), "layout")
	if _, err := mkimage.Write(t.Context(), layout, "s", []mkimage.Layer{mkimage.File("/sleeper", program)}, nil); err != nil {
		t.Fatal(err)
	}
	for _, orderly := range []bool{true, false} {
		m, err := New(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := runSleeper(t, m, layout); err != nil {
			t.Error(err)
		}
		socket := m.containerdSocket()
		if !orderly {
			m.containerd.kill()
		}
		err = m.Close()
		if orderly && err != nil {
			t.Error(err)
		}
		if !orderly && (err == nil || !strings.Contains(err.Error(), "left mounted")) {
			t.Errorf("containerd was killed, and Close reported no mount: %v", err)
		}
		if left, err := Mounts(m.Dir); err != nil || len(left) > 0 {
			t.Errorf("mounts left: %q, %v", left, err)
		}
		if _, err := os.Stat(m.Dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", m.Dir, err)
		}
		for pid, p := range allProcesses() {
			if slices.Contains(p.args, socket) || p.args[0] == "/sleeper" {
				t.Errorf("process %d is left: %q", pid, p.args)
			}
		}
	}
}

func runSleeper(t *testing.T, m *Machine, layout string) error {
	ctx := t.Context()
	ref, err := m.Push(ctx, "sleeper:s", layout, "s")
	if err != nil {
		return err
	}
	if _, err := m.Ctr(ctx, "images", "pull", "--plain-http", "--snapshotter", "overlayfs", ref); err != nil {
		return err
	}
	_, err = m.Ctr(ctx, "run", "--detach", "--snapshotter", "overlayfs", ref, "sleeps", "/sleeper")
	return err
}

func TestLeftMountIsReportedAndRemoved(t *testing.T) {
	Need(t)
	m, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	point := filepath.Join(m.Dir, "left over")
	if err := os.Mkdir(point, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", point, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err == nil || !strings.Contains(err.Error(), point) {
		t.Errorf("Close said %v", err)
	}
	if left, err := Mounts(m.Dir); err != nil || len(left) > 0 {
		t.Errorf("mounts left: %q, %v", left, err)
	}
}

func TestMountsBelow(t *testing.T) {
	info := `22 1 0:1 / /a rw - tmpfs none rw
23 22 0:2 / /a/b\040c rw - tmpfs none rw
24 22 0:3 / /ab rw - tmpfs none rw
25 22 0:4 / /a/b\134 rw shared:1 - tmpfs none rw
`
	want := []string{"/a", "/a/b c", `/a/b\`}
	if got := mountsBelow(info, "/a"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUnknownContainerd(t *testing.T) {
	if _, err := findPrograms("1.0"); err == nil {
		t.Error("containerd 1.0 was found")
	}
}
