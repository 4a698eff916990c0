package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
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

// manifestRow is kept as eight bytes of time, the media type, a newline and the raw bytes, so that gc can read ages
// without decoding anything.
type manifestRow struct {
	Created   time.Time
	MediaType string
	Raw       []byte
}

func (row *manifestRow) encode() []byte {
	v := binary.BigEndian.AppendUint64(nil, uint64(row.Created.UnixNano()))
	v = append(append(v, row.MediaType...), '\n')
	return append(v, row.Raw...)
}

// decodeManifest copies what it keeps, because v belongs to the transaction.
func decodeManifest(v []byte) (*manifestRow, error) {
	if len(v) < 8 {
		return nil, ErrCorrupt
	}
	mediaType, raw, ok := bytes.Cut(v[8:], []byte("\n"))
	if !ok {
		return nil, ErrCorrupt
	}
	return &manifestRow{manifestTime(v), string(mediaType), bytes.Clone(raw)}, nil
}

func manifestTime(v []byte) time.Time {
	if len(v) < 8 {
		return time.Time{}
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(v)))
}

func (m *RawManifest) check() error {
	if int64(len(m.Raw)) > manifest.MaxManifestSize {
		return fmt.Errorf("manifest %s: %w: %d bytes", m.Digest, ErrConflict, len(m.Raw))
	}
	if strings.Contains(m.MediaType, "\n") {
		return fmt.Errorf("manifest %s: %w: media type %q", m.Digest, ErrConflict, m.MediaType)
	}
	if _, err := manifest.Covered(m.Raw, m.Digest); err != nil {
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
	return s.update(func(tx *bolt.Tx) error { return putManifest(tx, &m, s.stamp()) })
}

func putManifest(tx *bolt.Tx, m *RawManifest, now time.Time) error {
	row := manifestRow{now, m.MediaType, m.Raw}
	return tx.Bucket(bucketManifests).Put([]byte(m.Digest), row.encode())
}

// Manifest gives the bytes that PutManifest or Commit verified, compared with d again, and their media type.
// ErrNotFound, ErrDigestMismatch.
func (s *Store) Manifest(d digest.Digest) (raw []byte, mediaType string, err error) {
	if err := checkDigest("manifest", d); err != nil {
		return nil, "", err
	}
	var row *manifestRow
	err = s.view(func(tx *bolt.Tx) error {
		v := tx.Bucket(bucketManifests).Get([]byte(d))
		if v == nil {
			return ErrNotFound
		}
		row, err = decodeManifest(v)
		return err
	})
	if err == nil {
		raw, err = manifest.Covered(row.Raw, d)
	}
	if err != nil {
		return nil, "", fmt.Errorf("manifest %s: %w", d, err)
	}
	return raw, row.MediaType, nil
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
	return putJSON(tx, bucketSignatures, []byte(d), sigs)
}
