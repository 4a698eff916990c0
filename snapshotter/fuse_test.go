package snapshotter

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/snapshotter/lazyfs"
)

// serveViews mounts the daemon's file system, as cmd does before it serves.
func serveViews(t *testing.T, d *daemon) {
	t.Helper()
	dir := d.root + "/mnt"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	device, err := lazyfs.Mount(dir)
	if err != nil {
		t.Skipf("needs root and /dev/fuse: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- lazyfs.New(&lazyfs.Options{Store: d.st, Pool: d.pool}).Serve(device) }()
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		device.Close()
	})
}

// mounted mounts what the snapshotter answered.
func mounted(t *testing.T, m []mount.Mount) string {
	t.Helper()
	dir := t.TempDir()
	if err := mount.All(m, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// readServed reads the first bytes of a file that this process may serve itself. os.Open would ask the server for
// POLL inside epoll_ctl, which holds a P: with one P, the process would wait for itself.
func readServed(name string, n int) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	got := make([]byte, n)
	n, err = unix.Read(fd, got)
	return got[:max(n, 0)], err
}

func wantFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	for name, content := range want {
		got, err := readServed(filepath.Join(dir, name), len(content)+1)
		if content == "" {
			if !os.IsNotExist(err) {
				t.Errorf("%s: %q, %v; want none", name, got, err)
			}
		} else if err != nil || string(got) != content {
			t.Errorf("%s: %q, %v; want %q", name, got, err, content)
		}
	}
}

// A container on a lazy chain, a commit of it, and another container on that, all
// mounted: the kernel accepts every text that Mounts makes.
func TestMountedChain(t *testing.T) { eachType(t, testMountedChain) }

func testMountedChain(t *testing.T, mediaType string) {
	requireMount(t)
	r := newRegistry()
	r.sentinel = mediaType
	im := r.variant(t, r.plain(t, 1,
		tarOf(t, "etc/a", "lower", "etc/b", "stays", "etc/c", "goes"),
		tarOf(t, "etc/a", "upper", "etc/.wh.c", "")), true)
	d := start(t, t.TempDir(), r, Options{})
	serveViews(t, d)
	names := mustPull(t, d, "n1", im)
	r.log()
	prepare := func(key, parent string) string {
		t.Helper()
		m, err := d.Prepare(context.Background(), key, parent)
		if err != nil {
			t.Fatal(err)
		}
		return mounted(t, m)
	}
	view := func(key, parent string) string {
		t.Helper()
		m, err := d.View(context.Background(), key, parent, snapshots.WithLabels(nil))
		if err != nil {
			t.Fatal(err)
		}
		return mounted(t, m)
	}

	c1 := prepare("n1/5/c1", names[2])
	wantFiles(t, c1, map[string]string{"etc/a": "upper", "etc/b": "stays", "etc/c": ""})
	if asked := r.log(); asked["content"] == 0 {
		t.Error("the content was here before anybody read it")
	}
	if err := os.WriteFile(c1+"/etc/new", []byte("written"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c1 + "/etc/b"); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(context.Background(), "n1/6/committed", "n1/5/c1"); err != nil {
		t.Fatal(err)
	}
	after := map[string]string{"etc/a": "upper", "etc/b": "", "etc/c": "", "etc/new": "written"}
	wantFiles(t, view("n1/7/v", "n1/6/committed"), after)
	wantFiles(t, prepare("n1/8/c2", "n1/6/committed"), after)

	v := view("n1/9/v", names[1])
	wantFiles(t, v, map[string]string{"etc/a": "lower", "etc/c": "goes"})
	if err := os.WriteFile(v+"/x", nil, 0o600); err == nil {
		t.Error("a view can be written")
	}
	empty := view("n1/10/v", names[0])
	if entries, err := os.ReadDir(empty); err != nil || len(entries) != 0 {
		t.Errorf("the sentinel shows %v, %v", entries, err)
	}
}
