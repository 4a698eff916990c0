package store

import (
	"crypto/rand"
	"fmt"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// Numbers of layers and views mean something in one index.db only, and there only for as long as no older copy of it is
// put back: both hand the same numbers out again, for other things. So an index has an identity, and every transaction
// compares it.

// Identity tells index.db from every other one, and one state of it from those before.
type Identity struct {
	ID    string // random, made with index.db
	Epoch uint64 // grows with every change
	// Layer and View are the highest numbers that were handed out.
	Layer, View uint64
}

// Knows says whether numbers that were handed out at then still mean the same in id: it is the same index, and not an
// older copy of it.
func (id Identity) Knows(then Identity) bool { return id.ID == then.ID && id.Epoch >= then.Epoch }

type identityRow struct{ ID string }

var keyID = []byte("id")

// putIdentity makes an index one of this version, with an identity of its own.
func putIdentity(tx *bolt.Tx) error {
	if err := putJSON(tx, bucketMeta, keyID, identityRow{rand.Text()}); err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(keySchema, []byte(fmt.Sprint(schemaVersion)))
}

// identityOf reads the identity. The epoch is bbolt's own number of the last committed transaction.
func identityOf(tx *bolt.Tx) (Identity, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return Identity{}, fmt.Errorf("index.db: %w: it has no bucket %q", ErrCorrupt, bucketMeta)
	}
	if v := string(meta.Get(keySchema)); v != fmt.Sprint(schemaVersion) {
		return Identity{}, fmt.Errorf("index.db: %w: %q, this program writes %d", ErrSchema, v, schemaVersion)
	}
	for _, name := range buckets() {
		if tx.Bucket(name) == nil {
			return Identity{}, fmt.Errorf("index.db: %w: it has no bucket %q", ErrCorrupt, name)
		}
	}
	var row identityRow
	ok, err := getJSON(tx, bucketMeta, keyID, &row)
	if err == nil && !ok {
		err = fmt.Errorf("index.db: %w: it has no identity", ErrCorrupt)
	}
	id := Identity{row.ID, uint64(tx.ID()), tx.Bucket(bucketLayers).Sequence(), tx.Bucket(bucketViews).Sequence()}
	if tx.Writable() {
		id.Epoch--
	}
	return id, err
}

// Identity gives the index that this process works on. ErrReplaced if it is no longer the one that it opened.
func (s *Store) Identity() (id Identity, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		id, err = identityOf(tx)
		return err
	})
	return id, err
}

// recognize compares the index with what this process saw of it before.
func (s *Store) recognize(tx *bolt.Tx) error {
	id, err := identityOf(tx)
	if err != nil {
		return err
	}
	return s.identity.meet(id)
}

// recognized is the identity that a process has seen last.
type recognized struct {
	mu   sync.Mutex
	seen Identity // its ID is "" until the first transaction
}

func (r *recognized) meet(id Identity) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.seen.ID == "":
	case r.seen.ID != id.ID:
		return fmt.Errorf("index.db: %w: it is another one than this process opened", ErrReplaced)
	case !id.Knows(r.seen):
		return fmt.Errorf("index.db: %w: it is an older copy of the one that this process opened", ErrReplaced)
	}
	r.seen = id
	return nil
}

// reach notes a change that this process made.
func (r *recognized) reach(epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen.Epoch = max(r.seen.Epoch, epoch)
}
