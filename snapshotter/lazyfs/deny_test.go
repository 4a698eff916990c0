package lazyfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/store"
)

// A view that is denied answers EIO to every read: of open files, of files that the kernel has in its cache, of complete
// ones, in this process and in the next. Everybody's view of the same layers is not touched.
func TestDenyView(t *testing.T) {
	s := newSetup(t)
	believed, err := s.pool.ViewOf(t.Context(), store.Chain{Layers: []uint64{s.layer}, Claim: digest.FromString("claim")})
	if err != nil || believed == s.view {
		t.Fatalf("view %d, everybody's %d, %v", believed, s.view, err)
	}
	mnt := s.mount(t, Options{Passthrough: true})
	mine := filepath.Join(mnt, "views", fmt.Sprint(believed))
	all := filepath.Join(mnt, "views", fmt.Sprint(s.view))

	read := func(path string) ([]byte, error) {
		t.Helper()
		return os.ReadFile(path)
	}
	if got, err := read(filepath.Join(mine, "d/big")); err != nil || !bytes.Equal(got, noise(3<<20)) { // complete, cached
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	open, err := os.Open(filepath.Join(mine, "d/small"))
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	buf := make([]byte, 6)
	if _, err := open.ReadAt(buf, 0); err != nil || string(buf) != "hello\n" {
		t.Fatalf("%q, %v", buf, err)
	}
	whole, err := os.Open(filepath.Join(mine, "d/big")) // complete now, so the kernel would be given it
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()

	if err := s.fs.DenyView(s.view, "x"); !errors.Is(err, store.ErrConflict) {
		t.Errorf("everybody's view was denied: %v", err)
	}
	for range 2 { // twice is as good as once
		if err := s.fs.DenyView(believed, "its tar is another"); err != nil {
			t.Fatal(err)
		}
		for _, f := range []*os.File{open, whole} {
			if n, err := f.ReadAt(buf, 0); !errors.Is(err, unix.EIO) {
				t.Errorf("open file: %d bytes, %v", n, err)
			}
		}
		for _, name := range []string{"d/small", "d/big", "d/attrs"} {
			if got, err := read(filepath.Join(mine, name)); !errors.Is(err, unix.EIO) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	}
	again := s.mount(t, Options{})
	for _, root := range []string{all, filepath.Join(again, "views", fmt.Sprint(s.view))} {
		if got, err := read(filepath.Join(root, "d/big")); err != nil || !bytes.Equal(got, noise(3<<20)) {
			t.Errorf("everybody's view: %d bytes, %v", len(got), err)
		}
	}
	if _, err := os.Lstat(filepath.Join(again, "views", fmt.Sprint(believed))); !errors.Is(err, unix.EIO) {
		t.Errorf("the next process shows it: %v", err)
	}
}
