package store

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
	bolt "go.etcd.io/bbolt"
)

// RawManifest is a manifest or list, byte for byte as it came.
type RawManifest struct {
	Raw       []byte
	Digest    digest.Digest
	MediaType string
}

type manifestRow struct {
	MediaType string
	Created   time.Time
	Raw       []byte
}

func (m *RawManifest) check() error {
	if int64(len(m.Raw)) > manifest.MaxManifestSize {
		return fmt.Errorf("manifest %s: %w: %d bytes", m.Digest, ErrConflict, len(m.Raw))
	}
	if err := manifest.CheckBytes(m.Raw, m.Digest); err != nil {
		return fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	return nil
}

// PutManifest keeps the bytes of a manifest or list and verifies them. ErrDigestMismatch keeps nothing. What no name
// or pin reaches is gone with the first gc after its grace period.
func (s *Store) PutManifest(raw []byte, d digest.Digest, mediaType string) error {
	m := RawManifest{raw, d, mediaType}
	if err := m.check(); err != nil {
		return err
	}
	return s.update(func(tx *bolt.Tx) error { return putManifest(tx, &m, s.now()) })
}

func putManifest(tx *bolt.Tx, m *RawManifest, now time.Time) error {
	return putJSON(tx, bucketManifests, []byte(m.Digest), &manifestRow{m.MediaType, now, m.Raw})
}

// Manifest gives the bytes that PutManifest or Commit verified, and their media type. ErrNotFound. The index is
// trusted to keep them; Check compares them again.
func (s *Store) Manifest(d digest.Digest) (raw []byte, mediaType string, err error) {
	if err := checkDigest("manifest", d); err != nil {
		return nil, "", err
	}
	var row manifestRow
	err = s.view(func(tx *bolt.Tx) error { return getManifest(tx, d, &row) })
	return row.Raw, row.MediaType, err
}

func getManifest(tx *bolt.Tx, d digest.Digest, row *manifestRow) error {
	ok, err := getJSON(tx, bucketManifests, []byte(d), row)
	if err == nil && !ok {
		err = fmt.Errorf("manifest %s: %w", d, ErrNotFound)
	}
	return err
}

// Signatures gives the signatures of one manifest or list in the order they were put; none is no error. A list and
// its instances have their own.
func (s *Store) Signatures(d digest.Digest) ([][]byte, error) {
	if err := checkDigest("manifest", d); err != nil {
		return nil, err
	}
	var sigs [][]byte
	err := s.view(func(tx *bolt.Tx) error {
		_, err := getJSON(tx, bucketSignatures, []byte(d), &sigs)
		return err
	})
	return sigs, err
}

// PutSignatures replaces the signatures of a manifest that is here. The store does not verify them. ErrNotFound if
// the manifest is not here.
func (s *Store) PutSignatures(d digest.Digest, sigs [][]byte) error {
	if err := checkDigest("manifest", d); err != nil {
		return err
	}
	return s.update(func(tx *bolt.Tx) error { return putSignatures(tx, d, sigs) })
}

func putSignatures(tx *bolt.Tx, d digest.Digest, sigs [][]byte) error {
	if tx.Bucket(bucketManifests).Get([]byte(d)) == nil {
		return fmt.Errorf("signatures of manifest %s: %w", d, ErrNotFound)
	}
	if len(sigs) == 0 {
		return tx.Bucket(bucketSignatures).Delete([]byte(d))
	}
	v, err := json.Marshal(sigs)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketSignatures).Put([]byte(d), v)
}
