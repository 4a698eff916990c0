package snapshotter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/tocsin/tocsin/store"
)

// row is what we keep about one snapshot beside containerd's own record, keyed by
// the snapshot's id. Its zero value is an ordinary snapshot.
type row struct {
	// Sentinel: the empty snapshot that every variant's chain starts with.
	Sentinel bool `json:"sentinel,omitempty"`
	// Layer is the number that a lazy snapshot's layer had in the store when the row was
	// written, 0 for an ordinary one. It is what the pin holds; TOC says which layer it is.
	Layer uint64 `json:"layer,omitempty"`
	// TOC is the layer of a lazy snapshot: what its chain id was committed for. While the
	// snapshot lives, the same chain id with another TOC is refused.
	TOC digest.Digest `json:"toc,omitempty"`
	// Claim is a diff_id that was believed when the snapshot was committed and is
	// compared with the layer's tar in the background; Denied is what came out if they
	// differ, and nothing stands on such a snapshot any more.
	Claim  digest.Digest `json:"claim,omitempty"`
	Denied string        `json:"denied,omitempty"`
	// View is the view that the snapshot's pin holds.
	View uint64 `json:"view,omitempty"`
	// Usage is kept once somebody asked; a committed snapshot never changes.
	Usage *snapshots.Usage `json:"usage,omitempty"`
}

func (r row) lazy() bool { return r.Sentinel || r.Layer != 0 }

// rows is our bucket within one transaction on metadata.db, beside containerd's
// buckets, so that a snapshot and its row are one commit.
type rows struct{ b *bolt.Bucket }

const rowsBucket = "tocsin"

func (r rows) get(id string) (row, error) {
	var v row
	if r.b == nil { // a database that was never written
		return v, nil
	}
	raw := r.b.Get([]byte(id))
	if raw == nil {
		return v, nil
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, fmt.Errorf("row of snapshot %s: %w", id, err)
	}
	return v, nil
}

func (r rows) put(id string, v row) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("row of snapshot %s: %w", id, err)
	}
	return r.b.Put([]byte(id), raw)
}

// storeKey is no id of a snapshot: those are numbers.
var storeKey = []byte("store")

// store is the store as the rows knew it when one was written last; zero if none was.
func (r rows) store() (id store.Identity, err error) {
	raw := r.b.Get(storeKey)
	if raw == nil {
		return id, nil
	}
	if err := json.Unmarshal(raw, &id); err != nil {
		return id, fmt.Errorf("the store's identity in metadata.db: %w", err)
	}
	return id, nil
}

// remember notes the store that the numbers in rows are of.
func (s *Snapshotter) remember(r rows) error {
	if s.store == nil {
		return nil
	}
	id, err := s.store.Identity()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return r.b.Put(storeKey, raw)
}

func (r rows) drop(id string) error { return r.b.Delete([]byte(id)) }

// read runs fn in a read transaction; storage's functions work on the context it
// gets. fn must not wait for anything: a writer may be waiting for it.
func (s *Snapshotter) read(ctx context.Context, fn func(ctx context.Context, r rows) error) error {
	return s.transact(ctx, false, fn)
}

// update runs fn in the write transaction and commits it if fn returns nil.
func (s *Snapshotter) update(ctx context.Context, fn func(ctx context.Context, r rows) error) error {
	return s.transact(ctx, true, fn)
}

func (s *Snapshotter) transact(ctx context.Context, write bool, fn func(ctx context.Context, r rows) error) error {
	ctx, t, err := s.meta.TransactionContext(ctx, write)
	if err != nil {
		return err
	}
	done := false
	defer func() { // also when fn panics: a transaction left open blocks every later one
		if !done {
			_ = t.Rollback()
		}
	}()
	tx, ok := t.(*bolt.Tx)
	if !ok {
		return errors.New("containerd's metastore no longer hands out bbolt transactions")
	}
	r := rows{b: tx.Bucket([]byte(rowsBucket))}
	if r.b == nil && write {
		if r.b, err = tx.CreateBucket([]byte(rowsBucket)); err != nil {
			return err
		}
	}
	if err := fn(ctx, r); err != nil || !write {
		return err
	}
	done = true
	return t.Commit()
}
