package store

import (
	"encoding/json"
	"fmt"
	"io"

	bolt "go.etcd.io/bbolt"
)

// allRows reads a bucket of JSON rows in the order of keys.
func allRows[T any](tx *bolt.Tx, bucket []byte) ([]T, error) {
	var rows []T
	err := tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		var row T
		if err := json.Unmarshal(v, &row); err != nil {
			return fmt.Errorf("index row %s/%q: %w: %w", bucket, k, ErrCorrupt, err)
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
