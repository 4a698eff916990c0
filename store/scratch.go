package store

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Scratch gives size bytes that the caller may write, in a file without a name below the root: the kernel can write
// them out when memory is short, which it cannot do with memory of the process. They are gone after Close, and when the
// process dies. The space is taken at once, so that a full disk is an error here and no fault later.
func (s *Store) Scratch(size int64) (m *Mapped, err error) {
	if size <= 0 || size != int64(int(size)) {
		return nil, fmt.Errorf("scratch file of %d bytes: %w", size, ErrConflict)
	}
	f, err := s.disk.unnamed(s.IngestDir())
	if err != nil {
		return nil, fmt.Errorf("scratch file: %w", err)
	}
	defer f.Close()
	if err := makeRoom(f, 0, size); err != nil {
		return nil, fmt.Errorf("scratch file of %d bytes: %w", size, err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map a scratch file of %d bytes: %w", size, err)
	}
	return &Mapped{b}, nil
}
