package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// MaxView is the greatest view number: node ids of the FUSE server are view<<32|entry with two bits spare (design.md 7).
const MaxView = 1<<30 - 1

const treeFile = "tree"

// viewRow is a merged tree in views/<n>/tree. Several rows may have the same layers; the key leads to the newest.
type viewRow struct {
	Number  uint64
	Layers  []uint64
	Claim   digest.Digest `json:",omitempty"`
	Denied  string        `json:",omitempty"` // why nobody may look at it any more
	Created time.Time
}

// Chain is what a view shows and for whom.
type Chain struct {
	Layers []uint64 // store numbers, bottom to top
	// Claim sets apart the view of those who believe something about the layers that nobody has compared yet: what is
	// denied to them stays visible to others. "" is everybody's view.
	Claim digest.Digest
}

// key is the ordered list of layer numbers, and the claim. The leading byte keeps the empty view's key from being
// empty, which bbolt refuses.
func (c Chain) key() []byte {
	k := []byte{'v'}
	for _, n := range c.Layers {
		k = append(k, numberKey(n)...)
	}
	return append(k, c.Claim...)
}

func (c Chain) String() string { return fmt.Sprintf("view of layers %v", c.Layers) }

func (r *viewRow) chain() Chain { return Chain{r.Layers, r.Claim} }

// ViewByKey finds the view of a chain. ErrConflict if it was denied.
func (s *Store) ViewByKey(c Chain) (n uint64, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		if n = keyNumber(tx.Bucket(bucketViewKeys).Get(c.key())); n == 0 {
			return nil
		}
		var row viewRow
		ok, err := getJSON(tx, bucketViews, numberKey(n), &row)
		if err == nil && (!ok || !slices.Equal(row.Layers, c.Layers) || row.Claim != c.Claim) { // the number rotted
			err = fmt.Errorf("%s: %w: the index leads to view %d", c, ErrCorrupt, n)
		}
		if err == nil {
			err = row.denied()
		}
		return err
	})
	return n, n != 0 && err == nil, err
}

// PutView keeps the merged tree of a chain of layers and gives its number. Nil error means that tree and row are
// durable. A chain that has a view keeps it, and tree is dropped.
func (s *Store) PutView(c Chain, tree []byte) (uint64, error) {
	return s.putView(c, tree, 0)
}

// ReplaceView gives a chain whose view old is damaged a new number with a new tree, because a tree that was shown to a
// kernel is never rewritten. The old number is ErrNotFound from then on.
func (s *Store) ReplaceView(old uint64, c Chain, tree []byte) (uint64, error) {
	return s.putView(c, tree, old)
}

func (s *Store) putView(c Chain, tree []byte, replaced uint64) (uint64, error) {
	n, ok, err := s.ViewByKey(c)
	switch {
	case errors.Is(err, ErrCorrupt):
		replaced = n
	case err != nil || ok && n != replaced:
		return n, err
	}
	for {
		n, err := s.nextView()
		if err != nil {
			return 0, fmt.Errorf("put view: %w", err)
		}
		path := s.path(filepath.Join(viewRel(n), treeFile))
		if err := s.disk.write(path, 0o444, fillBytes(tree)); err != nil {
			return 0, fmt.Errorf("put view %d: %w", n, err)
		}
		got, err := s.putViewRow(viewRow{Number: n, Layers: c.Layers, Claim: c.Claim, Created: s.stamp()}, path, replaced)
		if err == nil && got == n {
			return n, nil
		}
		if rerr := s.disk.unlinkTree(filepath.Dir(path)); rerr != nil {
			s.log.Warn("unused view not removed", "view", n, "err", rerr)
		}
		if !errors.Is(err, errGone) {
			return got, err
		}
	}
}

// nextView takes a number before its row exists, because the directory carries it. A number lost in a crash stays lost,
// and one whose directory an index left that is gone is not taken: a process may still show it.
func (s *Store) nextView() (n uint64, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		last, err := s.highestView()
		if err == nil {
			err = advance(tx.Bucket(bucketViews), last)
		}
		if err != nil {
			return err
		}
		if n, err = nextNumber(tx.Bucket(bucketViews)); err == nil && n > MaxView {
			return fmt.Errorf("%w: all %d view numbers are used", ErrConflict, MaxView)
		}
		return err
	})
	return n, err
}

// putViewRow gives the number that the chain has afterwards: another if somebody was faster.
func (s *Store) putViewRow(row viewRow, path string, replaced uint64) (n uint64, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		key := row.chain().key()
		if n = keyNumber(tx.Bucket(bucketViewKeys).Get(key)); n != 0 && n != replaced {
			return nil
		}
		if !exists(path) {
			return errGone
		}
		for _, l := range row.Layers {
			if tx.Bucket(bucketLayers).Get(numberKey(l)) == nil {
				return fmt.Errorf("put view: layer %d: %w", l, ErrNotFound)
			}
		}
		n = row.Number
		if err := forgetView(tx, replaced, row.chain()); err != nil {
			return err
		}
		if err := putJSON(tx, bucketViews, numberKey(n), &row); err != nil {
			return err
		}
		return tx.Bucket(bucketViewKeys).Put(key, numberKey(n))
	})
	return n, err
}

// forgetView drops the row of a damaged view, unless it is another chain's.
func forgetView(tx *bolt.Tx, n uint64, c Chain) error {
	var row viewRow
	ok, err := getJSON(tx, bucketViews, numberKey(n), &row)
	if err == nil && (!ok || string(row.chain().key()) != string(c.key())) {
		return nil
	}
	return tx.Bucket(bucketViews).Delete(numberKey(n))
}

// dropViewsOf drops the rows of every view that shows layer n, whose index has become another: a view says by number
// which of the index's contents a file has.
func dropViewsOf(tx *bolt.Tx, n uint64) error {
	var gone [][]byte
	err := tx.Bucket(bucketViews).ForEach(func(k, v []byte) error {
		var row viewRow
		if decodeRow(bucketViews, k, v, &row) == nil && slices.Contains(row.Layers, n) {
			gone = append(gone, slices.Clone(k))
		}
		return nil
	})
	for _, k := range gone {
		err = errors.Join(err, tx.Bucket(bucketViews).Delete(k))
	}
	if len(gone) == 0 {
		return err
	}
	var keys [][]byte
	err = errors.Join(err, tx.Bucket(bucketViewKeys).ForEach(func(k, v []byte) error {
		if slices.ContainsFunc(gone, func(g []byte) bool { return string(g) == string(v) }) {
			keys = append(keys, slices.Clone(k))
		}
		return nil
	}))
	for _, k := range keys {
		err = errors.Join(err, tx.Bucket(bucketViewKeys).Delete(k))
	}
	return err
}

// View maps the tree of view n. The caller closes it. ErrNotFound; ErrConflict for one that was denied.
func (s *Store) View(n uint64) (*Mapped, error) {
	if _, err := s.ViewChain(n); err != nil {
		return nil, err
	}
	return mapFile(s.path(filepath.Join(viewRel(n), treeFile)))
}

// ViewChain gives what view n shows. ErrNotFound; ErrConflict for one that was denied.
func (s *Store) ViewChain(n uint64) (Chain, error) {
	var row viewRow
	err := s.view(func(tx *bolt.Tx) error {
		if err := getView(tx, n, &row); err != nil {
			return err
		}
		return row.denied()
	})
	return row.chain(), err
}

// DenyView says that nobody may look at view n from now on, and why. Only a view that was set apart by a claim can be
// denied: ErrConflict for everybody's. ErrNotFound.
func (s *Store) DenyView(n uint64, reason string) error {
	if reason == "" {
		reason = "no reason given"
	}
	return s.update(func(tx *bolt.Tx) error {
		var row viewRow
		if err := getView(tx, n, &row); err != nil {
			return err
		}
		if row.Claim == "" {
			return fmt.Errorf("deny view %d: %w: it is everybody's", n, ErrConflict)
		}
		row.Denied = reason
		return putJSON(tx, bucketViews, numberKey(n), &row)
	})
}

func (r *viewRow) denied() error {
	if r.Denied == "" {
		return nil
	}
	return fmt.Errorf("view %d is denied: %s: %w", r.Number, r.Denied, ErrConflict)
}

func getView(tx *bolt.Tx, n uint64, row *viewRow) error {
	ok, err := getJSON(tx, bucketViews, numberKey(n), row)
	if err == nil && !ok {
		err = fmt.Errorf("view %d: %w", n, ErrNotFound)
	}
	return err
}
