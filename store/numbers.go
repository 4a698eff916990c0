package store

import (
	"strconv"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// LayersByTOC gives the numbers that the layers with these TOCs have now, in one look. ErrNotFound names the first that is
// not here.
func (s *Store) LayersByTOC(tocs []digest.Digest) ([]uint64, error) {
	numbers := make([]uint64, len(tocs))
	err := s.view(func(tx *bolt.Tx) error {
		for i, toc := range tocs {
			var row LayerRow
			if err := findLayer(tx, bucketLayerTOC, "TOC", toc, &row); err != nil {
				return err
			}
			numbers[i] = row.Number
		}
		return nil
	})
	return numbers, err
}

// Advance makes the numbers that are handed out from now on higher than those of an index that was here before.
func (s *Store) Advance(then Identity) error {
	return s.update(func(tx *bolt.Tx) error {
		if err := advance(tx.Bucket(bucketLayers), then.Layer); err != nil {
			return err
		}
		return advance(tx.Bucket(bucketViews), min(then.View, MaxView))
	})
}

// advance makes the sequence of a bucket n at least.
func advance(b *bolt.Bucket, n uint64) error {
	if b.Sequence() >= n {
		return nil
	}
	return b.SetSequence(n)
}

// highestView is the highest number of a directory of a view, which may be left of an index that was here before.
func (s *Store) highestView() (highest uint64, err error) {
	names, err := readNames(s.path("views"))
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 10, 64); err == nil && n <= MaxView {
			highest = max(highest, n)
		}
	}
	return highest, err
}
