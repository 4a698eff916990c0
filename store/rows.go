package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	bolt "go.etcd.io/bbolt"
)

// A row is JSON and then a CRC-32C of its bucket, its key and the JSON, because bbolt itself notices no rot in its pages.
const rowSum = 4

// getJSON reads the row at key; false when there is none.
func getJSON(tx *bolt.Tx, bucket, key []byte, row any) (bool, error) {
	v := tx.Bucket(bucket).Get(key)
	if v == nil {
		return false, nil
	}
	return true, decodeRow(bucket, key, v, row)
}

// getOld is getJSON for a row that is about to be written again: one that cannot be read is as good as none.
func getOld(tx *bolt.Tx, bucket, key []byte, row any) (bool, error) {
	ok, err := getJSON(tx, bucket, key, row)
	if errors.Is(err, ErrCorrupt) {
		return false, nil
	}
	return ok, err
}

func putJSON(tx *bolt.Tx, bucket, key []byte, row any) error {
	v, err := encodeRow(bucket, key, row)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put(key, v)
}

func encodeRow(bucket, key []byte, row any) ([]byte, error) {
	v, err := json.Marshal(row)
	if err != nil {
		return nil, fmt.Errorf("index row %s/%q: %w", bucket, key, err)
	}
	return binary.BigEndian.AppendUint32(v, sumRow(bucket, key, v)), nil
}

func decodeRow(bucket, key, v []byte, row any) error {
	n := len(v) - rowSum
	if n < 0 || sumRow(bucket, key, v[:n]) != binary.BigEndian.Uint32(v[n:]) {
		return fmt.Errorf("index row %s/%q: %w", bucket, key, ErrCorrupt)
	}
	if err := json.Unmarshal(v[:n], row); err != nil {
		return fmt.Errorf("index row %s/%q: %w: %w", bucket, key, ErrCorrupt, err)
	}
	return nil
}

func sumRow(bucket, key, v []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Update(crc32.Checksum(bucket, table), table, key), table, v)
}

// allRows reads a bucket of JSON rows in the order of keys.
func allRows[T any](tx *bolt.Tx, bucket []byte) ([]T, error) {
	var rows []T
	err := tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		var row T
		if err := decodeRow(bucket, k, v, &row); err != nil {
			return err
		}
		rows = append(rows, row)
		return nil
	})
	return rows, err
}

func fillBytes(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}
