package store

import (
	"fmt"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/tocsin/tocsin/manifest"
)

// bucketSame holds the digests of other algorithms that name the same bytes: digest -> map of algorithm to digest. It
// is made with its first row, so that an index without any needs none.
var bucketSame = []byte("same")

// PutSame records that two digests of different algorithms name the same bytes. The caller has computed both of them in
// one pass over these bytes. A digest that is recorded already with another one of that algorithm is
// manifest.ErrDigestMismatch. Rows are small, point at nothing and are never collected.
func (s *Store) PutSame(a, b digest.Digest) error {
	for _, d := range []digest.Digest{a, b} {
		if err := manifest.ValidDigest(d); err != nil {
			return err
		}
	}
	if a.Algorithm() == b.Algorithm() {
		return fmt.Errorf("%s and %s are of one algorithm: %w", a, b, manifest.ErrMalformed)
	}
	return s.update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucketIfNotExists(bucketSame); err != nil {
			return err
		}
		if err := addSame(tx, a, b); err != nil {
			return err
		}
		return addSame(tx, b, a)
	})
}

func addSame(tx *bolt.Tx, key, other digest.Digest) error {
	row := make(map[digest.Algorithm]digest.Digest)
	if _, err := getOld(tx, bucketSame, []byte(key), &row); err != nil {
		return err
	}
	if have, ok := row[other.Algorithm()]; ok && have != other {
		return fmt.Errorf("%s is recorded as %s, not %s: %w", key, have, other, manifest.ErrDigestMismatch)
	}
	row[other.Algorithm()] = other
	return putJSON(tx, bucketSame, []byte(key), row)
}

// SameAs returns the digest of alg that PutSame recorded for the bytes of d, "" if none was.
func (s *Store) SameAs(d digest.Digest, alg digest.Algorithm) (same digest.Digest, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketSame) == nil {
			return nil
		}
		row := make(map[digest.Algorithm]digest.Digest)
		if _, err := getJSON(tx, bucketSame, []byte(d), &row); err != nil {
			return err
		}
		same = row[alg]
		return nil
	})
	return same, err
}
