package store

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Mapped is a file in memory and shared. Writing to its bytes faults, except to those of a Scratch.
type Mapped struct{ b []byte }

// Bytes are valid until Close and then fault when touched.
func (m *Mapped) Bytes() []byte { return m.b }

// Close unmaps. The holder closes once nobody reads any more; gc may remove the file before that without harm.
func (m *Mapped) Close() error {
	if m.b == nil {
		return nil
	}
	b := m.b
	m.b = nil
	return unix.Munmap(b)
}

func mapFile(path string) (*Mapped, error) {
	f, err := os.Open(path)
	if notExist(err) {
		return nil, fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() == 0 {
		return &Mapped{}, nil
	}
	if fi.Size() != int64(int(fi.Size())) {
		return nil, fmt.Errorf("%s: %w: %d bytes", path, ErrCorrupt, fi.Size())
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", path, err)
	}
	return &Mapped{b}, nil
}
