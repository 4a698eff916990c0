package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// HasObject says whether the whole content d of that size is here. Negative for any other length: overlayfs serves
// a file to its own end, whatever the tree says.
func (s *Store) HasObject(d digest.Digest, size int64) bool {
	if checkDigest("object", d) != nil {
		return false
	}
	fi, err := os.Lstat(s.path(objectRel(d)))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

// OpenObject opens the content d for reading. ErrNotFound if it is not here, ErrCorrupt if its length is not size.
// The caller closes it; it stays readable when gc removes it.
func (s *Store) OpenObject(d digest.Digest, size int64) (*os.File, error) {
	if err := checkDigest("object", d); err != nil {
		return nil, err
	}
	f, err := os.Open(s.path(objectRel(d)))
	if notExist(err) {
		return nil, fmt.Errorf("object %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != size {
		err = fmt.Errorf("object %s: %w: %d bytes, want %d", d, ErrCorrupt, fi.Size(), size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// LinkObject gives a complete object the name "<hex>-<c>" beside its own, which is what the redirects of an EROFS view
// ask for (design.md 7). It is not synced: a link that is lost costs a read through FUSE. ErrNotFound if the object is
// not here, ErrCorrupt if its length is not size.
func (s *Store) LinkObject(d, list digest.Digest, size int64) error {
	if err := checkDigest("chunk list", list); err != nil {
		return err
	}
	f, err := s.OpenObject(d, size)
	if err != nil {
		return err
	}
	defer f.Close()
	path := s.path(objectRel(d))
	if !keepYoung(path, s.stamp()) {
		return fmt.Errorf("object %s: %w", d, ErrNotFound)
	}
	link := filepath.Join(filepath.Dir(path), filepath.Base(partialRel(d, list)))
	err = s.disk.link(f, link)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if sameFile(f, link) {
		return nil
	}
	if err := s.disk.unlink(link); err != nil { // of an object that was removed since
		return err
	}
	return s.disk.link(f, link)
}

// placeObject gives a whole new file the name of object d, with link. A name that is taken holds the same bytes, unless
// its length says that it has rotted: then the new file takes its place, without a moment in which neither is there.
func (s *Store) placeObject(d digest.Digest, size int64, link func(path string) error) error {
	path := s.path(objectRel(d))
	err := link(path)
	if !errors.Is(err, fs.ErrExist) || s.HasObject(d, size) && keepYoung(path, s.stamp()) {
		return ignoreExist(err)
	}
	temp := filepath.Join(filepath.Dir(path), tempPrefix+rand.Text())
	if err := errors.Join(s.unlinkLinks(path), link(temp)); err != nil {
		return err
	}
	return s.disk.rename(temp, path)
}

func ignoreExist(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// unlinkObject removes the object at path, and the links "<hex>-<c>" to it first: none outlives its object. It is not
// made durable.
func (s *Store) unlinkObject(path string) error {
	if err := s.unlinkLinks(path); err != nil {
		return err
	}
	return s.disk.unlink(path)
}

// unlinkLinks removes the links to the object at path.
func (s *Store) unlinkLinks(path string) error {
	names, err := readNames(filepath.Dir(path))
	if err != nil {
		return err
	}
	for _, n := range names {
		if baseName(n) != filepath.Base(path) || n == filepath.Base(path) {
			continue
		}
		if err := s.disk.unlink(filepath.Join(filepath.Dir(path), n)); err != nil {
			return err
		}
	}
	return nil
}

// keepYoung makes an existing file young again, so that gc leaves it to somebody who is about to claim it. False if
// it is not there or gc was faster: gc unlinks under an exclusive lock on the file, so the link count tells.
func keepYoung(path string, now time.Time) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH) != nil {
		return false
	}
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Nlink == 0 {
		return false
	}
	return os.Chtimes(path, time.Time{}, now) == nil
}
