package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func needsFUSE(t *testing.T) {
	t.Helper()
	if fuse, err := condition("fuse"); os.Geteuid() != 0 || err != nil || !fuse {
		t.Skip("needs root and /dev/fuse")
	}
}

// started is a tocsin that runs until it is told to stop.
type started struct {
	*exec.Cmd
	t      *testing.T
	stderr *bufio.Reader
}

// start runs tocsin and returns when it has said ready on stderr.
func start(t *testing.T, ready string, args ...string) *started {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &started{exec.CommandContext(ctx, self), t, nil}
	s.Args = append([]string{"tocsin"}, args...) // by this name TestMain knows it
	stderr, err := s.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stderr = bufio.NewReader(stderr)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = s.Wait() })
	for {
		line, err := s.stderr.ReadString('\n')
		if err != nil {
			t.Fatalf("%q ended: %q, %v", args, line, err)
		}
		if strings.Contains(line, ready) {
			return s
		}
	}
}

// ended waits for the end and returns the exit code, -1 for a signal, and what was said.
func (s *started) ended() (int, string) {
	s.t.Helper()
	rest, err := io.ReadAll(s.stderr)
	if err != nil {
		s.t.Fatal(err)
	}
	_ = s.Wait()
	return s.ProcessState.ExitCode(), string(rest)
}

func serveArgs(root string) []string {
	return []string{"serve", "--root", root, "--address", filepath.Join(root, "..", "sock"), "--containerd="}
}

// mounted lists what the mount table has below dir.
func mounted(t *testing.T, dir string) (found []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, " "+dir) {
			found = append(found, line)
		}
	}
	return found
}

// A killed daemon leaves a dead mount; the next one takes it away, also when the way to the store has a symbolic link.
func TestServeAfterKill(t *testing.T) {
	needsFUSE(t)
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	mnt := filepath.Join(dir, "real/root/mnt")
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	args := serveArgs(filepath.Join(link, "root"))
	first := start(t, "msg=serving", args...)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.ended()
	second := start(t, "msg=serving", args...)
	if got := mounted(t, mnt); len(got) != 1 {
		t.Errorf("%d mounts: %q", len(got), got)
	}
	if err := second.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code, said := second.ended(); code != exitOK {
		t.Errorf("exit code %d: %s", code, said)
	}
	if got := mounted(t, mnt); len(got) != 0 {
		t.Errorf("a mount stays: %q", got)
	}
}

// A daemon whose mount was taken away has failed: who watches over it must start another.
func TestServeWithoutMount(t *testing.T) {
	needsFUSE(t)
	root := filepath.Join(t.TempDir(), "root")
	d := start(t, "msg=serving", serveArgs(root)...)
	if err := unix.Unmount(filepath.Join(root, "mnt"), unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if code, said := d.ended(); code != exitOther || !strings.Contains(said, errUnmounted.Error()) {
		t.Errorf("exit code %d: %s", code, said)
	}
}

// A mount in the foreground ends with the signal that ends it, also while a file in it is open.
func TestMountEndsWithSignal(t *testing.T) {
	needsFUSE(t)
	b := newKillBench(t)
	root, mnt := filepath.Join(b.dir, "root"), filepath.Join(b.dir, "mnt")
	b.run(root, "copy", "oci:img:old", "store:x")
	if err := os.Mkdir(mnt, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	for _, busy := range []bool{false, true} {
		cmd := b.command(t.Context(), root, "mount", "--foreground", "store:x", mnt)
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = []*os.File{w}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		if ready, err := io.ReadAll(r); err != nil || string(ready) != "ready" {
			t.Fatalf("not ready: %q, %v", ready, err)
		}
		r.Close()
		if busy {
			f, err := os.Open(filepath.Join(mnt, "f0"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		killed := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		if err := cmd.Wait(); err != nil {
			t.Errorf("busy %v: %v", busy, err)
		}
		killed.Stop()
		if got := mounted(t, mnt); len(got) != 0 {
			t.Errorf("busy %v: a mount stays: %q", busy, got)
		}
	}
}
