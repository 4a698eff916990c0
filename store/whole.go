package store

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// fileIs compares a file at rest with its digest; "" is any. ErrNotFound, ErrCorrupt.
func fileIs(path string, want digest.Digest) error {
	f, err := os.Open(path)
	if notExist(err) {
		return fmt.Errorf("%s: %w", path, ErrNotFound)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if want == "" {
		return nil
	}
	if err := copyVerified(io.Discard, f, want); err != nil {
		return fmt.Errorf("%s: %w: %w", path, ErrCorrupt, err)
	}
	return nil
}

// LayerFiles compares the files of a layer with what its row says of them: nil, or ErrNotFound or ErrCorrupt of the first
// that differs. What a row of an older program does not say is not compared.
func (s *Store) LayerFiles(row *LayerRow) error {
	dir := s.path(layerRel(row.TOC, row.DiffID))
	if err := fileIs(filepath.Join(dir, indexFile), row.IndexDigest); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	if row.SplitDigest == "" {
		return nil
	}
	if err := fileIs(filepath.Join(dir, tarSplitFile), row.SplitDigest); err != nil {
		return fmt.Errorf("tar-split: %w", err)
	}
	return nil
}

// SealLayer records the digests of files whose row says none, from a program that kept none. The caller has verified them.
func (s *Store) SealLayer(n uint64, index, split bool) error {
	row, err := s.Layer(n)
	if err != nil {
		return err
	}
	dir := s.path(layerRel(row.TOC, row.DiffID))
	var found [2]digest.Digest
	for i, file := range []string{indexFile, tarSplitFile} {
		if i == 0 && (!index || row.IndexDigest != "") || i == 1 && (!split || row.SplitDigest != "") {
			continue
		}
		if found[i], err = digestFile(filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	if found == [2]digest.Digest{} {
		return nil
	}
	return s.editLayer(n, func(row *LayerRow) error {
		if row.IndexDigest == "" {
			row.IndexDigest = found[0]
		}
		if row.SplitDigest == "" {
			row.SplitDigest = found[1]
		}
		return nil
	})
}

func digestFile(path string) (digest.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return digest.SHA256.FromReader(f)
}

// restoreLayer gives a layer whose row cannot be read a row with what the keys say.
func (s *Store) restoreLayer(tx *bolt.Tx, n uint64) error {
	row := layerFromKeys(tx, n)
	if row == nil {
		return tx.Bucket(bucketLayers).Delete(numberKey(n))
	}
	row.Created = s.stamp()
	return putJSON(tx, bucketLayers, numberKey(n), row)
}
