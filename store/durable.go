package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tempPrefix starts the name of every file that is not yet what its directory promises. gc removes leftovers.
const tempPrefix = ".tmp-"

// disk does every change to files under the root: no other file of this package renames, links, unlinks or syncs.
// before, when set, is asked ahead of each change and may refuse it; the crash test stops the world there.
type disk struct {
	before func(op, path string) error
	stamp  func() time.Time // of what is written
}

func (d *disk) step(op, path string) error {
	if d.before == nil {
		return nil
	}
	return d.before(op, path)
}

// write is the one durable write: temp file in path's directory, fill, fsync, rename over path, fsync directory.
// fill verifies what it writes and returns an error to keep the file from appearing.
func (d *disk) write(path string, mode fs.FileMode, fill func(w io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	if err := d.mkdir(dir); err != nil {
		return err
	}
	f, err := d.temp(dir)
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			d.unlink(f.Name())
		}
	}()
	if err := fill(f); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := d.touch(f.Name()); err != nil {
		return err
	}
	if err := d.sync(f); err != nil {
		return err
	}
	if err := d.rename(f.Name(), path); err != nil {
		return err
	}
	return d.syncDir(dir)
}

// rename gives a file of one process's own the name path, in place of what has it. It is not made durable.
func (d *disk) rename(from, path string) error {
	if err := d.step("rename", from+"\x00"+path); err != nil {
		return err
	}
	return os.Rename(from, path)
}

// remove is the mirror of write. The caller has made the index forget path. A path that is not there is no error.
func (d *disk) remove(path string) error {
	if err := d.unlink(path); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

// unlink removes one file or empty directory without making that durable: a file may come back after a crash.
func (d *disk) unlink(path string) error {
	if err := d.step("unlink", path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// unlinkTree removes the files of a flat directory and then the directory.
func (d *disk) unlinkTree(dir string) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := d.unlink(filepath.Join(dir, n.Name())); err != nil {
			return err
		}
	}
	return d.unlink(dir)
}

// temp makes a temp file in dir and locks it, so that gc sees that somebody is at work on it.
func (d *disk) temp(dir string) (*os.File, error) {
	if err := d.step("create", dir); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		f.Close()
		d.unlink(f.Name())
		return nil, fmt.Errorf("flock %s: %w", f.Name(), err)
	}
	if err := d.step("write", f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// link gives the open file f the name path; fs.ErrExist when path is there. By descriptor, because the name under
// which f was opened may be another file by now.
func (d *disk) link(f *os.File, path string) error {
	if err := d.step("link", path); err != nil {
		return err
	}
	from := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: f.Name(), New: path, Err: err}
	}
	return nil
}

// linkName is link for a file of one process's own directory, whose name nobody else can change.
func (d *disk) linkName(from, path string) error {
	if err := d.step("link", path); err != nil {
		return err
	}
	return os.Link(from, path)
}

// touch gives a file the time that gc goes by.
func (d *disk) touch(path string) error { return os.Chtimes(path, time.Time{}, d.stamp()) }

func (d *disk) sync(f *os.File) error {
	if err := d.step("fsync", f.Name()); err != nil {
		return err
	}
	return f.Sync()
}

// syncFile syncs a file that was written and closed.
func (d *disk) syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.sync(f)
}

// syncAll makes everything written to dir's filesystem durable, names and contents.
func (d *disk) syncAll(dir string) error {
	if err := d.step("syncfs", dir); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("syncfs %s: %w", dir, err)
	}
	return nil
}

func (d *disk) syncDir(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.step("fsyncdir", dir); err != nil {
		return err
	}
	return f.Sync()
}

// mkdir makes dir and its parents for the owner alone: objects are readable by their own mode, and among them are files
// that are private in their image.
func (d *disk) mkdir(dir string) error { return d.mkdirMode(dir, 0o700) }

// mkdirMode makes every new name durable: a file is not safe in a directory that is not.
func (d *disk) mkdirMode(dir string, mode fs.FileMode) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := d.mkdirMode(parent, mode); err != nil {
			return err
		}
	}
	if err := d.step("mkdir", dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.syncDir(parent)
}
