package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// schemaVersion changes when an older program must not touch the index any more.
const schemaVersion = 4

// The buckets of index.db. Digest keys are full digest strings, number keys are big-endian.
var (
	bucketMeta       = []byte("meta")       // "schema" -> version, "id" -> identityRow
	bucketManifests  = []byte("manifests")  // digest -> stored manifest
	bucketSignatures = []byte("signatures") // manifest digest -> list of signatures
	bucketRecords    = []byte("records")    // manifest digest -> Record
	bucketNames      = []byte("names")      // name -> nameRow
	bucketLayers     = []byte("layers")     // number -> LayerRow
	bucketLayerTOC   = []byte("layers-toc") // TOC digest -> number
	bucketLayerTar   = []byte("layers-tar") // diffID of layers taken from a tar -> number
	bucketViews      = []byte("views")      // number -> viewRow
	bucketViewKeys   = []byte("view-keys")  // layer numbers -> number
	bucketPins       = []byte("pins")       // id -> pinRow
	bucketKept       = []byte("kept")       // manifest digest -> list of blobs

	keySchema = []byte("schema")
)

func buckets() [][]byte {
	return [][]byte{bucketMeta, bucketManifests, bucketSignatures, bucketRecords, bucketNames, bucketLayers,
		bucketLayerTOC, bucketLayerTar, bucketViews, bucketViewKeys, bucketPins, bucketKept}
}

// initIndex makes index.db on first use, by rename, because bbolt's own creation is not atomic.
func (s *Store) initIndex() error {
	unlock, err := s.lockIndex(context.Background(), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	path := s.path("index.db")
	if !exists(path) {
		if err := s.createIndex(path); err != nil {
			return err
		}
	}
	v, err := s.readSchema(path)
	if err != nil {
		return err
	}
	if slices.Contains(upgradable(), v) {
		err = s.upgrade(path)
	} else if v != fmt.Sprint(schemaVersion) {
		err = fmt.Errorf("index.db: %w: %q, this program writes %d", ErrSchema, v, schemaVersion)
	}
	return err
}

func (s *Store) readSchema(path string) (v string, err error) {
	err = s.withDB(path, true, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			meta := tx.Bucket(bucketMeta)
			if meta == nil {
				return fmt.Errorf("index.db: %w: none", ErrSchema)
			}
			if v = string(meta.Get(keySchema)); v != fmt.Sprint(schemaVersion) {
				return nil
			}
			_, err := identityOf(tx)
			return err
		})
	})
	return v, err
}

// upgradable are the versions that lack what upgrade adds, and nothing else: 2 the bucket of kept blobs, 3 the identity.
func upgradable() []string { return []string{"2", "3"} }

// upgrade makes an older index one of this version, in one transaction.
func (s *Store) upgrade(path string) error {
	if err := s.disk.step("commit", path); err != nil {
		return err
	}
	return s.withDB(path, false, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error {
			if _, err := tx.CreateBucketIfNotExists(bucketKept); err != nil {
				return err
			}
			return putIdentity(tx)
		})
	})
}

func (s *Store) createIndex(path string) error {
	scratch := s.path("ingest/index.new")
	if err := s.disk.unlink(scratch); err != nil {
		return err
	}
	err := s.withDB(scratch, false, func(db *bolt.DB) error {
		return db.Update(func(tx *bolt.Tx) error {
			for _, name := range buckets() {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			return putIdentity(tx)
		})
	})
	if err != nil {
		return fmt.Errorf("create index: %w", err)
	}
	if err := s.disk.write(path, 0o600, copyFrom(scratch)); err != nil {
		return err
	}
	return s.disk.unlink(scratch)
}

// withIndex is withDB for an index.db that is there: bbolt would make an empty one.
func (s *Store) withIndex(readOnly bool, fn func(db *bolt.DB) error) error {
	path := s.path("index.db")
	if !exists(path) {
		return fmt.Errorf("%s: %w: it is gone", path, ErrReplaced)
	}
	return s.withDB(path, readOnly, fn)
}

// view runs fn in a read transaction. fn keeps no slice of it and does nothing slow: other processes wait.
func (s *Store) view(fn func(tx *bolt.Tx) error) error {
	return s.viewContext(context.Background(), fn)
}

// viewContext is view that waits for others no longer than until ctx ends.
func (s *Store) viewContext(ctx context.Context, fn func(tx *bolt.Tx) error) error {
	unlock, err := s.lockIndex(ctx, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	return s.withIndex(true, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			if err := s.recognize(tx); err != nil {
				return err
			}
			return fn(tx)
		})
	})
}

// update runs fn in a write transaction; its error rolls everything back. The files that fn makes the index name
// are durable before.
func (s *Store) update(fn func(tx *bolt.Tx) error) error {
	return s.updateContext(context.Background(), fn)
}

// updateContext is update that waits for others no longer than until ctx ends.
func (s *Store) updateContext(ctx context.Context, fn func(tx *bolt.Tx) error) (err error) {
	unlock, err := s.lockIndex(ctx, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.disk.step("commit", s.path("index.db")); err != nil {
		return err
	}
	return s.withIndex(false, func(db *bolt.DB) error { return s.change(db, fn) })
}

func (s *Store) change(db *bolt.DB, fn func(tx *bolt.Tx) error) error {
	var epoch uint64
	err := db.Update(func(tx *bolt.Tx) error {
		if err := s.recognize(tx); err != nil {
			return err
		}
		epoch = uint64(tx.ID())
		return fn(tx)
	})
	if err == nil {
		s.identity.reach(epoch)
	}
	return err
}

func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func keyNumber(b []byte) uint64 {
	if len(b) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
