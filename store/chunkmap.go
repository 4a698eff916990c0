package store

import (
	"bytes"
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A chunk map is a header and then one byte per chunk: 1 is "verified and written", anything else is "absent". A
// byte, not a bit, so that marking is one write and needs no lock (spec/mounts.md E).
const (
	mapMagic   = "tocsin-chunks-1\n"
	bootIDLen  = 36
	mapHeader  = 64 // magic, boot id, zeros
	chunkThere = 1
)

// chunkMap is mapped shared, so marks of other processes show at once. It never shrinks while mapped.
type chunkMap struct {
	f *os.File
	b []byte
}

// openChunkMap opens or makes the map of n chunks. recheck is called under an exclusive lock for each chunk that an
// earlier boot marked, whose data may never have reached the disk; false clears the mark.
func openChunkMap(path string, n int, boot string, recheck func(i int) bool) (*chunkMap, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	m := &chunkMap{f: f}
	if err := m.prepare(n, boot, recheck); err != nil {
		m.close()
		return nil, fmt.Errorf("chunk map %s: %w", path, err)
	}
	return m, nil
}

func (m *chunkMap) prepare(n int, boot string, recheck func(i int) bool) error {
	if err := pollLock(context.Background(), m.f, unix.LOCK_EX); err != nil {
		return err
	}
	defer unix.Flock(int(m.f.Fd()), unix.LOCK_UN)
	fi, err := m.f.Stat()
	if err != nil {
		return err
	}
	size := int64(mapHeader + n)
	if fi.Size() > size {
		return fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, fi.Size(), size)
	}
	if err := m.f.Truncate(size); err != nil {
		return err
	}
	m.b, err = unix.Mmap(int(m.f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	header := mapMagic + boot
	if string(m.b[:len(header)]) == header {
		return nil
	}
	for i := range n {
		if m.has(i) && !recheck(i) {
			if err := m.put(i, 0); err != nil {
				return err
			}
		}
	}
	_, err = m.f.WriteAt([]byte(header), 0)
	return err
}

func (m *chunkMap) has(i int) bool { return m.b[mapHeader+i] == chunkThere }

func (m *chunkMap) put(i int, v byte) error {
	_, err := m.f.WriteAt([]byte{v}, int64(mapHeader+i))
	return err
}

// missing is asked for each chunk that comes, and a large object has a hundred thousand.
func (m *chunkMap) missing() int {
	there := m.b[mapHeader:]
	return len(there) - bytes.Count(there, []byte{chunkThere})
}

func (m *chunkMap) close() error {
	if m.b != nil {
		unix.Munmap(m.b)
		m.b = nil
	}
	return m.f.Close()
}
