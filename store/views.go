package store

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
)

// MaxView is the greatest view number: node ids of the FUSE server are view<<32|entry with two bits spare (design.md 7).
const MaxView = 1<<30 - 1

const treeFile = "tree"

// viewRow is a merged tree in views/<n>/tree. Several rows may have the same layers; the key leads to the newest.
type viewRow struct {
	Number  uint64
	Layers  []uint64
	Created time.Time
}

// viewKey is the ordered list of layer numbers. The leading byte keeps the empty view's key from being empty, which
// bbolt refuses.
func viewKey(layers []uint64) []byte {
	k := []byte{'v'}
	for _, n := range layers {
		k = append(k, numberKey(n)...)
	}
	return k
}

// ViewByKey finds the view of a chain of layers, bottom to top.
func (s *Store) ViewByKey(layers []uint64) (n uint64, ok bool, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		if n = keyNumber(tx.Bucket(bucketViewKeys).Get(viewKey(layers))); n == 0 {
			return nil
		}
		var row viewRow
		ok, err := getJSON(tx, bucketViews, numberKey(n), &row)
		if err == nil && (!ok || !slices.Equal(row.Layers, layers)) { // the number rotted
			err = fmt.Errorf("view of layers %v: %w: the index leads to view %d", layers, ErrCorrupt, n)
		}
		return err
	})
	return n, n != 0 && err == nil, err
}

// PutView keeps the merged tree of a chain of layers and gives its number. Nil error means that tree and row are
// durable. A chain that has a view keeps it, and tree is dropped.
func (s *Store) PutView(layers []uint64, tree []byte) (uint64, error) {
	return s.putView(layers, tree, 0)
}

// ReplaceView gives the chain of view old a new number with a new tree, because a tree that was shown to a kernel is
// never rewritten. The old view stays readable until gc finds it unpinned.
func (s *Store) ReplaceView(old uint64, tree []byte) (uint64, error) {
	layers, err := s.ViewLayers(old)
	if err != nil {
		return 0, err
	}
	return s.putView(layers, tree, old)
}

func (s *Store) putView(layers []uint64, tree []byte, replaced uint64) (uint64, error) {
	if n, ok, err := s.ViewByKey(layers); err != nil || ok && n != replaced {
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
		got, err := s.putViewRow(viewRow{Number: n, Layers: layers, Created: s.now()}, path, replaced)
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

// nextView takes a number before its row exists, because the directory carries it. A number lost in a crash stays lost.
func (s *Store) nextView() (n uint64, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		if n, err = tx.Bucket(bucketViews).NextSequence(); err == nil && n > MaxView {
			return fmt.Errorf("%w: all %d view numbers are used", ErrConflict, MaxView)
		}
		return err
	})
	return n, err
}

// putViewRow gives the number that the chain has afterwards: another if somebody was faster.
func (s *Store) putViewRow(row viewRow, path string, replaced uint64) (n uint64, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		key := viewKey(row.Layers)
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
		if err := putJSON(tx, bucketViews, numberKey(n), &row); err != nil {
			return err
		}
		return tx.Bucket(bucketViewKeys).Put(key, numberKey(n))
	})
	return n, err
}

// View maps the tree of view n. The caller closes it. ErrNotFound.
func (s *Store) View(n uint64) (*Mapped, error) {
	if _, err := s.ViewLayers(n); err != nil {
		return nil, err
	}
	return mapFile(s.path(filepath.Join(viewRel(n), treeFile)))
}

// ViewLayers gives the layers that view n shows, bottom to top. ErrNotFound.
func (s *Store) ViewLayers(n uint64) ([]uint64, error) {
	var row viewRow
	err := s.view(func(tx *bolt.Tx) error {
		ok, err := getJSON(tx, bucketViews, numberKey(n), &row)
		if err == nil && !ok {
			err = fmt.Errorf("view %d: %w", n, ErrNotFound)
		}
		return err
	})
	return row.Layers, err
}
