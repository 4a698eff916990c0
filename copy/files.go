package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// openFile opens a file, or standard input for "-".
func openFile(name string) (*os.File, error) {
	if name == "-" {
		return os.Stdin, nil
	}
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, ErrNotFound)
	}
	return f, err
}

// readLimited reads a small file whole. Its bytes are not compared with anything.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes: %w", path, limit, manifest.ErrMalformed)
	}
	return raw, err
}

// unnamed makes a temporary file that goes when it is closed, whatever happens.
func unnamed(prefix string) (*os.File, error) {
	f, err := os.CreateTemp("", prefix)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// spooled reads a stream to its end into a file without a name.
func spooled(prefix string, r io.Reader) (*os.File, error) {
	f, err := unnamed(prefix)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{r}, make([]byte, streamBuffer)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockedTemp makes a temporary file that is locked while its writer lives.
func lockedTemp(dir, prefix string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, prefix)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close(), os.Remove(f.Name()))
		}
		_, err = os.Lstat(f.Name())
		if err == nil {
			return f, nil
		}
		if err := errors.Join(err, f.Close()); !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// Somebody swept it away before it was locked.
	}
}

// sweepTemps removes the files of lockedTemp in a directory whose writers are dead.
func sweepTemps(dir, prefix string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		if err := sweepFile(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what an earlier copy left: %w", err)
		}
	}
	return nil
}

func sweepFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return f.Close() // its writer lives
	}
	if err == nil && staleFile(f, name) {
		err = os.Remove(name)
	}
	return errors.Join(err, f.Close())
}

// replaceFile writes a small file, durably, that others may be reading, and the directories above it.
func replaceFile(path string, raw []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, tempPrefix)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return finish(f, err, path, mode)
}

// finish gives a temporary file its name, durably, or removes it if there was an error before.
func finish(f *os.File, before error, path string, mode fs.FileMode) error {
	err := before
	if err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync())
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return errors.Join(f.Close(), syncDir(filepath.Dir(path)))
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// digestOf hashes what r holds.
func digestOf(ctx context.Context, r io.Reader) (digest.Digest, error) {
	h := digest.SHA256.Digester()
	_, err := io.CopyBuffer(h.Hash(), &contextReader{ctx, r}, make([]byte, streamBuffer))
	return h.Digest(), err
}
