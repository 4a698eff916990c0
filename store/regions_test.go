package store

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Regions keep their bytes where they are while they grow, leave no name behind, and end together.
func TestRegions(t *testing.T) {
	s := newStore(t)
	sc := s.NewRegions()
	grow, err := sc.Region(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	a := must[[]byte](t)(grow(10))
	copy(a, "0123456789")
	b := must[[]byte](t)(grow(1 << 20))
	if string(b[:10]) != "0123456789" || &a[0] != &b[0] || b[1<<20-1] != 0 {
		t.Errorf("after growing: %q", b[:10])
	}
	if _, err := grow(1<<20 + 1); err == nil {
		t.Error("a region grew beyond its limit")
	}
	if files := must[[]os.DirEntry](t)(os.ReadDir(s.IngestDir())); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
	var st unix.Stat_t
	fd := int(sc.maps[0].f.Fd())
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink != 0 || st.Blocks < 1<<20/512 {
		t.Errorf("%d links, %d blocks, %v", st.Nlink, st.Blocks, err)
	}
	if err := sc.Close(); err != nil {
		t.Error(err)
	}
	if err := sc.Close(); err != nil || len(sc.maps) != 0 {
		t.Errorf("second close: %v", err)
	}
}

// A disk without room is an error of grow, never a signal at the first write.
func TestRegionsWithoutRoom(t *testing.T) {
	sc := newStore(t).NewRegions()
	defer sc.Close()
	grow, err := sc.Region(1 << 46)
	if err != nil {
		t.Skipf("no sparse file of 64 TiB: %v", err)
	}
	if _, err := grow(1 << 46); err == nil {
		t.Error("64 TiB were there")
	}
}
