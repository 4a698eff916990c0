package store

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Regions is memory for large temporary tables that the kernel can write to the store's disk: regions of unlinked files
// mapped to memory. It is safe for concurrent use. After Close none of its memory may be touched.
type Regions struct {
	disk *disk
	dir  string

	mu   sync.Mutex
	maps []*region
}

// region is one file, mapped at its full length, of which the first ready bytes have room on the disk.
type region struct {
	f     *os.File
	b     []byte
	ready int
}

// NewRegions returns no regions yet. It makes no file before the first Region.
func (s *Store) NewRegions() *Regions { return &Regions{disk: s.disk, dir: s.IngestDir()} }

// RegionsIn returns no regions yet, of files in any directory.
func RegionsIn(dir string) *Regions { return &Regions{disk: &disk{}, dir: dir} }

// Region returns memory that can grow to limit bytes: grow gives its first n bytes, always at the same place. Bytes that
// were never written are zero. They have room on the disk, so that writing to them does not fail; grow does when the disk
// is full.
func (s *Regions) Region(limit int) (grow func(n int) ([]byte, error), err error) {
	f, err := s.disk.unnamed(s.dir)
	if err != nil {
		return nil, fmt.Errorf("scratch file in %s: %w", s.dir, err)
	}
	r := &region{f: f}
	if err := f.Truncate(int64(limit)); err != nil {
		f.Close()
		return nil, fmt.Errorf("scratch file in %s of %d bytes: %w", s.dir, limit, err)
	}
	if r.b, err = unix.Mmap(int(f.Fd()), 0, max(limit, 1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		f.Close()
		return nil, fmt.Errorf("map scratch file of %d bytes: %w", limit, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.maps = append(s.maps, r)
	return r.grow, nil
}

func (r *region) grow(n int) ([]byte, error) {
	if n > len(r.b) {
		return nil, fmt.Errorf("scratch file: %d bytes of at most %d", n, len(r.b))
	}
	if n > r.ready {
		if err := makeRoom(r.f, int64(r.ready), int64(n-r.ready)); err != nil {
			return nil, fmt.Errorf("scratch file: room for %d bytes: %w", n, err)
		}
		r.ready = n
	}
	return r.b[:n:n], nil
}

// Close gives the memory and the disk back.
func (s *Regions) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for _, r := range s.maps {
		err = errors.Join(err, unix.Munmap(r.b), r.f.Close())
	}
	s.maps = nil
	return err
}

// unnamed opens a new file that has no name.
func (d *disk) unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), dir+"/(region)"), nil
	}
	f, err := d.temp(dir) // a file system without O_TMPFILE
	if err != nil {
		return nil, err
	}
	if err := d.unlink(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// makeRoom gives bytes of a sparse file their room on the disk. Where the file system cannot, zeros are written.
func makeRoom(f *os.File, off, n int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, off, n)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		break
	}
	zeros := make([]byte, min(n, 1<<20))
	for ; n > 0; n -= int64(len(zeros)) {
		zeros = zeros[:min(n, int64(len(zeros)))]
		if _, err := f.WriteAt(zeros, off); err != nil {
			return err
		}
		off += int64(len(zeros))
	}
	return nil
}
