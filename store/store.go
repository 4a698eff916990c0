package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// DefaultLockTimeout is how long a call waits for other processes at index.lock. Transactions last milliseconds, so a
// wait of this length means that something is wrong, not that somebody is busy; and containerd's clients wait longer.
const DefaultLockTimeout = 10 * time.Second

// Options says how a store is opened. Nil and the zero value are usable.
type Options struct {
	// LockTimeout bounds the wait for index.lock; zero is DefaultLockTimeout.
	LockTimeout time.Duration
	// Logger takes what no caller can be told, such as a leftover that could not be removed; nil is slog.Default().
	Logger *slog.Logger
}

// Store is one root directory. It is safe for concurrent use by goroutines, and processes may share the root.
type Store struct {
	root        string
	disk        *disk
	boot        string
	lockTimeout time.Duration
	log         *slog.Logger
	now         func() time.Time
	smallBatch  int // objects or directories that a batch syncs one by one

	queue    lockQueue
	identity recognized
	sound    soundness
	held     heldFiles
}

// heldFiles are the lock files in pins/ that say that this process lives.
type heldFiles struct {
	mu    sync.Mutex
	pins  *os.File           // held while this process may own process pins; nil until the first
	works map[*Work]struct{} // under way in this process
}

// Open opens the store at root and makes it if it is not there. ErrSchema when another version wrote it.
func Open(root string, o *Options) (*Store, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	return open(root, o, &disk{}, boot)
}

func open(root string, o *Options, d *disk, boot string) (*Store, error) {
	s, err := prepare(root, o, d)
	if err != nil {
		return nil, err
	}
	s.boot = boot
	if err := s.initIndex(); err != nil {
		return nil, fmt.Errorf("open store %s: %w", s.root, err)
	}
	return s, nil
}

// prepare makes the directories of a store, and not its index.
func prepare(root string, o *Options, d *disk) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", root, err)
	}
	s := &Store{root: abs, disk: d, lockTimeout: o.LockTimeout, log: o.Logger, now: time.Now, smallBatch: defaultSmallBatch}
	s.held.works, s.queue.turn = map[*Work]struct{}{}, make(chan struct{}, 1)
	d.stamp = s.stamp
	if s.lockTimeout <= 0 {
		s.lockTimeout = DefaultLockTimeout
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := d.mkdirMode(filepath.Dir(abs), 0o755); err != nil {
		return nil, fmt.Errorf("open store %s: %w", abs, err)
	}
	for _, dir := range []string{"blobs", "objects", "partial", "layers", "views", "ingest", "pins"} {
		if err := d.mkdir(s.path(dir)); err != nil {
			return nil, fmt.Errorf("open store %s: %w", abs, err)
		}
	}
	return s, nil
}

// Root is the absolute path of the store.
func (s *Store) Root() string { return s.root }

// IngestDir is a directory for downloads that a later process may go on with. The caller makes the files in it and
// removes them; gc removes those that were not written to for its grace period.
func (s *Store) IngestDir() string { return s.path("ingest") }

// Close ends the claims of this process's pins. Files, mappings and partial objects that were handed out stay valid
// and are closed by those who hold them.
func (s *Store) Close() error {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	if s.held.pins == nil {
		return nil
	}
	f := s.held.pins
	s.held.pins = nil
	return errors.Join(s.disk.unlink(f.Name()), f.Close())
}

// bootID tells one boot from the next: page cache that was not written back is lost between two of them.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("boot id: %w", err)
	}
	id := strings.TrimSpace(string(b))
	if len(id) != bootIDLen {
		return "", fmt.Errorf("boot id %q: not %d bytes", id, bootIDLen)
	}
	return id, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func notExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
