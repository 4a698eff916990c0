package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A process that stands still with index.lock makes others wait a bounded time, and they say who it is.
func TestLockOfStoppedProcess(t *testing.T) {
	for job, readable := range map[string]bool{"lock": false, "lock shared": true} {
		t.Run(job, func(t *testing.T) {
			s := newStore(t)
			putTOC(t, s, "l")
			c := start(t, job, s.Root())
			if !c.lines(1) {
				t.Fatal(c.err)
			}
			ok(t, c.cmd.Process.Signal(syscall.SIGSTOP))
			awaitStopped(t, c.cmd.Process.Pid)
			s.lockTimeout = 300 * time.Millisecond
			writer := make(chan error)
			go func() { writer <- s.Unpin("p") }()
			for range 5 { // beside the writer, which waits
				_, err := s.Layer(1)
				if readable != (err == nil) || !readable && !errors.Is(err, ErrLocked) {
					t.Errorf("read: %v", err)
				}
			}
			err := <-writer
			wantIs(t, err, ErrLocked)
			for _, part := range []string{"index.lock", fmt.Sprintf("by pid %d (store.test)", c.cmd.Process.Pid), "stopped"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			if errors.Is(err, context.DeadlineExceeded) {
				t.Error("the caller takes it for a deadline of its own")
			}
			ok(t, c.cmd.Process.Signal(syscall.SIGCONT))
			c.kill()
			ok(t, s.Unpin("p"))
		})
	}
}

func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if isStopped(must[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)))) {
			return
		}
	}
	t.Fatal("the process does not stop")
}

// The wait ends with the caller's context, and once a wait was in vain the next ones are short.
func TestLockWaits(t *testing.T) {
	s := newStore(t)
	other := must[*Store](t)(Open(s.Root(), nil))
	unlock, err := other.lockIndex(t.Context(), unix.LOCK_EX)
	ok(t, err)
	defer unlock()
	s.lockTimeout = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := s.GC(ctx, GCOptions{})
		done <- err
	}()
	cancel()
	wantIs(t, <-done, context.Canceled)
	s.lockTimeout = time.Millisecond
	_, err = s.Layer(1)
	wantIs(t, err, ErrLocked)
	s.lockTimeout = time.Hour
	_, err = s.Layer(1)
	wantIs(t, err, ErrLocked)
	unlock()
	_, err = s.Layer(1)
	wantIs(t, err, ErrNotFound)
	if s.queue.stuck.Load() {
		t.Error("waits stay short")
	}
}

func TestLockers(t *testing.T) {
	const locks = `1: FLOCK  ADVISORY  READ 31914 fe:00:10 0 EOF
2: POSIX  ADVISORY  WRITE 7 fe:00:10 0 EOF
3: FLOCK  ADVISORY  WRITE 8 fe:00:11 0 EOF
3: -> FLOCK  ADVISORY  WRITE 9 fe:00:10 0 EOF
4: FLOCK  ADVISORY  READ 12 fe:00:10 0 EOF
5: FLOCK  ADVISORY  READ 12 fe:00:10 0 EOF
6: FLOCK  ADVISORY  READ 0 fe:00:10 0 EOF
7: FLOCK
`
	if got := lockers([]byte(locks), "fe:00:10"); !slices.Equal(got, []int{31914, 12}) {
		t.Error(got)
	}
	for stat, want := range map[string]bool{"1 (a) T 0": true, "1 (a) S 0": false, "1 (x) T (y) S 0": false, "": false, "1 (a)": false} {
		if got := isStopped([]byte(stat)); got != want {
			t.Errorf("%q: %v", stat, got)
		}
	}
}
