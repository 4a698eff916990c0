package copy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// tempPrefix begins the names of files of a layout that are not what they will be yet. Their writer holds a lock on
// them, so that the next copy into the layout can tell what a dead one left.
const tempPrefix = ".tocsin-"

// temp makes a locked temporary file below the layout.
func (l *layout) temp(dir string) (*os.File, error) {
	return lockedTemp(filepath.Join(l.ref.Path, dir), tempPrefix)
}

// sweep removes what writers left behind that did not live to remove it themselves.
func (l *layout) sweep() error {
	return errors.Join(sweepTemps(l.ref.Path, tempPrefix), sweepTemps(filepath.Join(l.ref.Path, v1.ImageBlobsDir), tempPrefix))
}

// lock keeps other copies from changing index.json until unlock is called. It locks the directory itself, because every
// file in it may be replaced by another of its name.
func (l *layout) lock() (unlock func(), err error) {
	f, err := os.Open(l.ref.Path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { f.Close() }, nil
}

func (l *layout) create() (spool, error) {
	f, err := l.temp(v1.ImageBlobsDir)
	if err != nil {
		return nil, err
	}
	return &layoutSpool{spoolFile: newSpoolFile(f), layout: l}, nil
}

// layoutSpool becomes a blob by rename when it is whole.
type layoutSpool struct {
	*spoolFile
	layout *layout
}

func (s *layoutSpool) commit(ctx context.Context, d v1.Descriptor) error {
	path, err := s.layout.path(d.Digest)
	if err != nil {
		return errors.Join(err, s.abort())
	}
	err = errors.Join(ctx.Err(), os.MkdirAll(filepath.Dir(path), 0o755))
	if err := finish(s.File, err, path, 0o644); err != nil {
		return fmt.Errorf("blob %s of %s: %w", d.Digest, s.layout.ref.Path, err)
	}
	return nil
}

func (l *layout) partDir() string { return filepath.Join(l.ref.Path, v1.ImageBlobsDir) }

func (l *layout) adopt(f *os.File) spool { return &layoutSpool{spoolFile: newSpoolFile(f), layout: l} }

func (s *layoutSpool) abort() error { return errors.Join(s.Close(), os.Remove(s.Name())) }

// replace writes a small file of the layout in one step.
func (l *layout) replace(name string, raw []byte) error {
	f, err := l.temp("")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err := finish(f, err, filepath.Join(l.ref.Path, name), 0o644); err != nil {
		return fmt.Errorf("write %s of %s: %w", name, l.ref.Path, err)
	}
	return nil
}
