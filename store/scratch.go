package store

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Scratch gives size bytes that the caller may write, in a file without a name below the root: the kernel can write
// them out when memory is short, which it cannot do with memory of the process. They are gone after Close, and when the
// process dies. The space is taken at once, so that a full disk is an error here and no fault later.
func (s *Store) Scratch(size int64) (m *Mapped, err error) {
	if size <= 0 || size != int64(int(size)) {
		return nil, fmt.Errorf("scratch file of %d bytes: %w", size, ErrConflict)
	}
	f, err := s.disk.temp(s.path("ingest"))
	if err == nil {
		err = s.disk.unlink(f.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("scratch file: %w", err)
	}
	defer f.Close()
	if err := reserve(f, size); err != nil {
		return nil, fmt.Errorf("scratch file of %d bytes: %w", size, err)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map a scratch file of %d bytes: %w", size, err)
	}
	return &Mapped{b}, nil
}

// reserve gives an empty file its size and the disk space for it.
func reserve(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) {
		_, err = io.CopyN(f, zeros{}, size)
	}
	return err
}
