package store

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Blobs that were kept on purpose are listed under the manifest that they belong to and stay as long as it does. The
// list is what makes them a promise: check misses one that is gone, and gc needs to know no manifest type.

// Kept lists the blobs that are kept for a manifest, sorted; none is no error.
func (s *Store) Kept(d digest.Digest) ([]digest.Digest, error) {
	if err := checkDigest("manifest", d); err != nil {
		return nil, err
	}
	var blobs []digest.Digest
	err := s.view(func(tx *bolt.Tx) error {
		_, err := getJSON(tx, bucketKept, []byte(d), &blobs)
		return err
	})
	return blobs, err
}

// putKept adds to what is kept for a manifest. Both are here, or ErrNotFound.
func (s *Store) putKept(tx *bolt.Tx, d digest.Digest, blobs []digest.Digest) error {
	if len(blobs) == 0 {
		return nil
	}
	if tx.Bucket(bucketManifests).Get([]byte(d)) == nil {
		return fmt.Errorf("blobs of manifest %s: %w", d, ErrNotFound)
	}
	var all []digest.Digest
	if _, err := getOld(tx, bucketKept, []byte(d), &all); err != nil {
		return err
	}
	for _, b := range blobs {
		if _, ok := s.HasBlob(b); !ok {
			return fmt.Errorf("blob %s of manifest %s: %w", b, d, ErrNotFound)
		}
	}
	all = append(all, blobs...)
	slices.Sort(all)
	return putJSON(tx, bucketKept, []byte(d), slices.Compact(all))
}

// checkKept demands every kept blob, and the manifest that it is kept for. Their bytes are checkBlobs' concern.
func (c *checkRun) checkKept() error {
	for d, blobs := range c.rows.kept {
		if !c.rows.manifests[d] {
			c.found("missing", "manifest "+string(d), "has kept blobs")
		}
		for _, b := range blobs {
			if _, ok := c.s.HasBlob(b); !ok && c.stillKept(d) {
				c.found("missing", blobRel(b), "kept for manifest %s", d)
			}
		}
	}
	return nil
}

// stillKept says that gc was not here since the index was read.
func (c *checkRun) stillKept(d digest.Digest) bool {
	blobs, err := c.s.Kept(d)
	return err != nil || len(blobs) > 0
}
