package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Under containerd, index.db is lost while no daemon runs, and another image is pulled then, which gets the first one's
// numbers. A container of the first image has its own files or is refused with a sentence, and runs once the image was
// pulled again.
func TestIndexLostUnderContainerd(t *testing.T) {
	d := newDaemon(t)
	a, b := d.publish("lost/a", 1), d.publish("lost/b", 2)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(d.pull(a))
	ok(d.run(a))
	ok(d.StopServe())
	ok(os.Remove(filepath.Join(d.Root(), "index.db")))
	ok(d.StartServe())
	d.untilConnected()
	ok(d.pull(b))
	ok(d.run(b))
	// ctr asks for the snapshot first, which brings the layers back; other clients do not, and are refused.
	if err := d.run(a); err != nil && !strings.Contains(err.Error(), "pull it again") {
		t.Errorf("an image that the store lost: %v", err)
	}
	ok(d.pull(a))
	ok(d.run(a))
	ok(d.run(b))
	checkClean(t, "healed", d.Root())
}

// A process that has the index locked and does not go on costs containerd's clients a bounded time, and they are told who
// it is.
func TestLockedIndexUnderContainerd(t *testing.T) {
	d := newDaemon(t)
	a := d.publish("locked/a", 1)
	if err := d.pull(a); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(d.Root(), "index.lock"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		begun := time.Now()
		err := d.run(a)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("locked by pid %d", os.Getpid())) {
			t.Errorf("run: %v", err)
		}
		if took := time.Since(begun); took > 40*time.Second {
			t.Errorf("run took %v", took)
		}
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.run(a); err != nil {
		t.Error(err)
	}
}
