package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// PinTarget is what a pin keeps. Numbers must exist when the pin is made; digests need not, so that a copy can pin
// what it is about to bring.
type PinTarget struct {
	Layers    []uint64        `json:",omitempty"` // with their objects, complete and partial
	Views     []uint64        `json:",omitempty"` // with their layers
	Manifests []digest.Digest `json:",omitempty"` // with what they name
	Blobs     []digest.Digest `json:",omitempty"`
}

// PinOptions says how long a pin lives; the zero value lives until Unpin.
type PinOptions struct {
	Process bool      // dies with this process, or with Store.Close, whatever comes first
	Expires time.Time // zero: never
}

// PinInfo is a pin as Pins lists it.
type PinInfo struct {
	ID      string
	Target  PinTarget
	Process bool
	Expires time.Time
	Created time.Time
}

// pinRow names the lock file of the process that holds the pin; the lock is the only sign of life.
type pinRow struct {
	Target  PinTarget
	Lock    string `json:",omitempty"`
	Expires time.Time
	Created time.Time
}

// Pin keeps a target from gc under an id like "snapshot/7" or "mount/<dir>". An id that exists is replaced. After a
// nil error gc removes nothing of the target that is here now. ErrNotFound when a layer or view is gone already.
func (s *Store) Pin(id string, t PinTarget, o PinOptions) error {
	if id == "" || len(id) > maxName {
		return fmt.Errorf("pin %q: %w: bad id", id, ErrConflict)
	}
	for what, ds := range map[string][]digest.Digest{"manifest": t.Manifests, "blob": t.Blobs} {
		for _, d := range ds {
			if err := checkDigest(what, d); err != nil {
				return fmt.Errorf("pin %q: %w", id, err)
			}
		}
	}
	row := pinRow{Target: t, Expires: o.Expires, Created: s.now()}
	if o.Process {
		lock, err := s.processLock()
		if err != nil {
			return fmt.Errorf("pin %q: %w", id, err)
		}
		row.Lock = lock
	}
	return s.update(func(tx *bolt.Tx) error {
		if err := targetExists(tx, &t); err != nil {
			return fmt.Errorf("pin %q: %w", id, err)
		}
		return putJSON(tx, bucketPins, []byte(id), &row)
	})
}

func targetExists(tx *bolt.Tx, t *PinTarget) error {
	for _, n := range t.Layers {
		if tx.Bucket(bucketLayers).Get(numberKey(n)) == nil {
			return fmt.Errorf("layer %d: %w", n, ErrNotFound)
		}
	}
	for _, n := range t.Views {
		if tx.Bucket(bucketViews).Get(numberKey(n)) == nil {
			return fmt.Errorf("view %d: %w", n, ErrNotFound)
		}
	}
	return nil
}

// Unpin ends a pin. One that is not there is no error.
func (s *Store) Unpin(id string) error {
	if id == "" {
		return nil
	}
	return s.update(func(tx *bolt.Tx) error { return tx.Bucket(bucketPins).Delete([]byte(id)) })
}

// Pins lists the live pins whose id begins with prefix, sorted by id. Those of dead processes and those that have
// expired are left out; gc removes them.
func (s *Store) Pins(prefix string) ([]PinInfo, error) {
	var pins []PinInfo
	err := s.view(func(tx *bolt.Tx) error {
		return s.eachPin(tx, func(id string, row *pinRow, live bool) {
			if live && strings.HasPrefix(id, prefix) {
				pins = append(pins, PinInfo{id, row.Target, row.Lock != "", row.Expires, row.Created})
			}
		})
	})
	return pins, err
}

// eachPin calls fn for every pin that can be read, and returns ErrCorrupt for those that cannot.
func (s *Store) eachPin(tx *bolt.Tx, fn func(id string, row *pinRow, live bool)) error {
	now, locks := s.now(), map[string]bool{}
	var bad error
	err := tx.Bucket(bucketPins).ForEach(func(k, v []byte) error {
		var row pinRow
		if err := decodeRow(bucketPins, k, v, &row); err != nil {
			bad = errors.Join(bad, err)
			return nil
		}
		live := row.Expires.IsZero() || now.Before(row.Expires)
		if live && row.Lock != "" {
			held, known := locks[row.Lock]
			if !known {
				held = s.lockHeld(row.Lock)
				locks[row.Lock] = held
			}
			live = held
		}
		fn(string(k), &row, live)
		return nil
	})
	return errors.Join(err, bad)
}

// lockHeld asks the kernel whether the process behind a lock file lives. In doubt it does.
func (s *Store) lockHeld(name string) bool {
	f, err := os.Open(s.path(filepath.Join("pins", filepath.Base(name))))
	if err != nil {
		return !notExist(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// processLock gives the name of this process's lock file, held until Close or death.
func (s *Store) processLock() (string, error) {
	s.held.mu.Lock()
	defer s.held.mu.Unlock()
	if s.held.pins == nil {
		f, err := s.lockFile(fmt.Sprintf("%d-", os.Getpid()))
		if err != nil {
			return "", err
		}
		s.held.pins = f
	}
	return filepath.Base(s.held.pins.Name()), nil
}

// dropDeadPins removes the rows of pins that ended and the lock files of processes that died.
func (s *Store) dropDeadPins(ctx context.Context) error {
	err := s.updateContext(ctx, func(tx *bolt.Tx) error {
		var dead []string
		err := s.eachPin(tx, func(id string, _ *pinRow, live bool) {
			if !live {
				dead = append(dead, id)
			}
		})
		if errors.Is(err, ErrCorrupt) { // what such a pin holds is kept, see readRoots
			err = nil
		}
		for _, id := range dead {
			err = errors.Join(err, tx.Bucket(bucketPins).Delete([]byte(id)))
		}
		return err
	})
	if err != nil {
		return err
	}
	files, err := os.ReadDir(s.path("pins"))
	for _, fi := range files {
		_, rerr := s.removeUnlocked(s.path(filepath.Join("pins", fi.Name())), time.Time{})
		err = errors.Join(err, rerr)
	}
	return err
}
