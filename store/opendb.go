package store

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/tocsin/tocsin/store/boltfile"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// withDB opens a database, which bbolt makes if it is not there, runs fn and closes it. A damaged one is ErrCorrupt: its
// pages are verified before bbolt sees them, and what bbolt does on one that rots in between, a panic or a fault, is an
// error too.
func (s *Store) withDB(path string, readOnly bool, fn func(db *bolt.DB) error) error {
	if err := s.sound.verify(path); err != nil {
		return err
	}
	var file *os.File
	panicked, err := guarded(func() error {
		// index.lock is held, so bbolt's own lock is free unless a stranger has the file open.
		db, err := bolt.Open(path, 0o600, &bolt.Options{
			Timeout: s.lockTimeout, ReadOnly: readOnly, FreelistType: bolt.FreelistMapType, NoStatistics: true,
			OpenFile: func(name string, flag int, mode os.FileMode) (f *os.File, err error) {
				f, err = os.OpenFile(name, flag, mode)
				file = f
				return f, err
			},
		})
		if errors.Is(err, bolterrors.ErrTimeout) {
			err = fmt.Errorf("%w by %s", ErrLocked, LockHolder(path))
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		err = fn(db)
		if cerr := db.Close(); err == nil {
			err = cerr
		}
		return err
	})
	if panicked && file != nil {
		// bbolt's own Close may wait for a transaction that will never end, and its mapping keeps the lock of a closed file.
		_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
		file.Close()
	}
	if err == nil && !readOnly {
		s.sound.wrote(path)
	}
	return err
}

// guarded turns what bbolt does on a damaged page, a panic or a fault outside the mapping, into an error.
func guarded(fn func() error) (panicked bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			panicked, err = true, fmt.Errorf("index.db: %w: %v", ErrCorrupt, r)
		}
	}()
	return false, fn()
}

// soundness remembers which state of a database was verified last, because a process opens it for every transaction.
type soundness struct {
	mu   sync.Mutex
	last fileState
}

// fileState tells one state of a file from another as far as the kernel does.
type fileState struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// settled is how long after a change a state can be told from the next one by its times.
const settled = 20 * time.Millisecond

func (v *soundness) verify(path string) error {
	f, err := os.Open(path)
	if notExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	state, err := stateOf(f)
	if err != nil || state.size == 0 {
		return err
	}
	if v.is(state) {
		return nil
	}
	if err := verifyPages(f, state.size); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrCorrupt, err)
	}
	if time.Since(time.Unix(state.ctime.Unix())) > settled {
		v.set(state)
	}
	return nil
}

func verifyPages(f *os.File, size int64) error {
	db, err := boltfile.Open(f, size)
	if err != nil {
		return err
	}
	return db.Verify()
}

// wrote says that bbolt has changed the database from a state that was verified, and nothing else has.
func (v *soundness) wrote(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	if state, err := stateOf(f); err == nil {
		v.set(state)
	}
}

func (v *soundness) is(state fileState) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last == state
}

func (v *soundness) set(state fileState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last = state
}

func stateOf(f *os.File) (fileState, error) {
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	if err != nil {
		return fileState{}, errors.Join(fmt.Errorf("stat %s", f.Name()), err)
	}
	return fileState{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}, nil
}
