package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
	bolt "go.etcd.io/bbolt"
)

// rowID is a row of the index, or of what leads to one.
type rowID struct {
	bucket, key []byte
	err         error // what is wrong with it
}

// summed are the buckets whose rows have a checksum.
func summed() [][]byte {
	return [][]byte{bucketSignatures, bucketRecords, bucketNames, bucketLayers, bucketViews, bucketPins, bucketKept, bucketSame}
}

// badRows finds the rows that cannot be read, and keys that lead to no row or to another's.
func badRows(tx *bolt.Tx) (bad []rowID) {
	for _, bucket := range summed() {
		b := tx.Bucket(bucket)
		if b == nil {
			continue
		}
		_ = b.ForEach(func(k, v []byte) error {
			var row json.RawMessage
			if err := decodeRow(bucket, k, v, &row); err != nil {
				bad = append(bad, rowID{bucket, slices.Clone(k), err})
			}
			return nil
		})
	}
	for _, bucket := range [][]byte{bucketLayerTOC, bucketLayerTar, bucketViewKeys} {
		_ = tx.Bucket(bucket).ForEach(func(k, v []byte) error {
			if err := badKey(tx, bucket, k, v); err != nil {
				bad = append(bad, rowID{bucket, slices.Clone(k), err})
			}
			return nil
		})
	}
	return append(append(bad, lostRows(tx)...), lostViews(tx)...)
}

// lostViews finds views of layers that are not there.
func lostViews(tx *bolt.Tx) (lost []rowID) {
	for _, row := range goodRows[viewRow](tx, bucketViews) {
		for _, n := range row.Layers {
			if tx.Bucket(bucketLayers).Get(numberKey(n)) == nil {
				lost = append(lost, rowID{bucketViews, numberKey(row.Number), fmt.Errorf("view %d: %w: layer %d is missing", row.Number, ErrCorrupt, n)})
				break
			}
		}
	}
	return lost
}

// badKey compares what leads to a row with the row. A row that cannot be read has been reported.
func badKey(tx *bolt.Tx, bucket, key, value []byte) error {
	n := keyNumber(value)
	is, err := key, error(nil)
	if string(bucket) == string(bucketViewKeys) {
		var row viewRow
		if err = getView(tx, n, &row); err == nil {
			is = row.chain().key()
		}
	} else {
		var row LayerRow
		if err = getLayer(tx, n, &row); err == nil {
			var of []byte
			if of, is = layerKey(&row); string(of) != string(bucket) {
				is = nil
			}
		}
	}
	switch {
	case n == 0 || errors.Is(err, ErrNotFound) || err == nil && string(is) != string(key):
		return fmt.Errorf("index row %s/%q: %w: it leads to %d, which is another's", bucket, key, ErrCorrupt, n)
	default:
		return nil
	}
}

// lostRows finds layers to which no key leads.
func lostRows(tx *bolt.Tx) (lost []rowID) {
	_ = tx.Bucket(bucketLayers).ForEach(func(k, v []byte) error {
		var row LayerRow
		if decodeRow(bucketLayers, k, v, &row) != nil {
			return nil
		}
		bucket, key := layerKey(&row)
		if tx.Bucket(bucket).Get(key) == nil {
			lost = append(lost, rowID{bucket, key, fmt.Errorf("index row %s/%q: %w: it is missing, for layer %d", bucket, key, ErrCorrupt, row.Number)})
		}
		return nil
	})
	return lost
}

// checkRowsums reports rows that cannot be read, and with Repair makes them again from others or drops them.
func (c *checkRun) checkRowsums() error {
	var bad []rowID
	err := c.s.view(func(tx *bolt.Tx) error {
		bad = badRows(tx)
		return nil
	})
	if err != nil || len(bad) == 0 {
		return err
	}
	done := map[int]string{}
	if c.o.Repair {
		err = c.s.update(func(tx *bolt.Tx) error {
			for i, row := range bad {
				said, err := c.s.mendRow(tx, row)
				if err != nil {
					return fmt.Errorf("mend %s/%q: %w", row.bucket, row.key, err)
				}
				done[i] = said
			}
			return c.s.mendRest(tx)
		})
	}
	for i, row := range bad {
		f := c.found("corrupt", "index.db", "%v", row.err)
		if said, ok := done[i]; ok && err == nil {
			f.Problem, f.Done = f.Problem+"; "+said, true
		}
	}
	return err
}

// mendRest mends what led to rows that were dropped.
func (s *Store) mendRest(tx *bolt.Tx) error {
	for range 3 { // a view has a key; what else is dropped has nothing that leads to it
		bad := badRows(tx)
		for _, row := range bad {
			if _, err := s.mendRow(tx, row); err != nil {
				return fmt.Errorf("mend %s/%q: %w", row.bucket, row.key, err)
			}
		}
		if len(bad) == 0 {
			break
		}
	}
	return nil
}

// mendRow makes a row again from what else the index has, or drops it, and says what it did.
func (s *Store) mendRow(tx *bolt.Tx, row rowID) (string, error) {
	switch b := string(row.bucket); b {
	case string(bucketLayers):
		if len(row.key) != len(numberKey(0)) {
			return "dropped", tx.Bucket(row.bucket).Delete(row.key)
		}
		return "made again from its key, without its sources", s.restoreLayer(tx, keyNumber(row.key))
	case string(bucketLayerTOC), string(bucketLayerTar):
		return "made again from its layer", s.mendLayerKey(tx, row)
	case string(bucketViews), string(bucketViewKeys):
		return "dropped; the view is made again when it is asked for", tx.Bucket(row.bucket).Delete(row.key)
	case string(bucketRecords):
		return "dropped with the names of its image; pull it again", dropRecord(tx, row.key)
	case string(bucketPins):
		return "holds everything that is here now, until its owner writes it again", s.holdAll(tx, row.key)
	case string(bucketKept):
		return "made again from its manifest", s.keptAgain(tx, row.key)
	default: // names, signatures, same
		return "dropped; pull the image again", tx.Bucket(row.bucket).Delete(row.key)
	}
}

// mendLayerKey makes a key lead to the layer that has it, or drops it.
func (s *Store) mendLayerKey(tx *bolt.Tx, id rowID) error {
	var number []byte
	err := tx.Bucket(bucketLayers).ForEach(func(k, v []byte) error {
		var row LayerRow
		if decodeRow(bucketLayers, k, v, &row) != nil {
			return nil
		}
		if bucket, key := layerKey(&row); string(bucket) == string(id.bucket) && string(key) == string(id.key) {
			number = slices.Clone(k)
		}
		return nil
	})
	if n := tx.Bucket(id.bucket).Get(id.key); number == nil && keyNumber(n) != 0 && tx.Bucket(bucketLayers).Get(n) == nil {
		return errors.Join(err, s.restoreLayer(tx, keyNumber(n))) // its row is lost, and not its number
	}
	if err != nil || number == nil {
		return errors.Join(err, tx.Bucket(id.bucket).Delete(id.key))
	}
	return tx.Bucket(id.bucket).Put(id.key, number)
}

// dropRecord drops a record, and names that have none left.
func dropRecord(tx *bolt.Tx, key []byte) error {
	err := tx.Bucket(bucketRecords).Delete(key)
	rows := map[string]nameRow{}
	err = errors.Join(err, tx.Bucket(bucketNames).ForEach(func(k, v []byte) error {
		var row nameRow
		if decodeRow(bucketNames, k, v, &row) == nil && slices.Contains(row.Records, digest.Digest(key)) {
			rows[string(k)] = row
		}
		return nil
	}))
	for name, row := range rows {
		row.Records = slices.DeleteFunc(row.Records, func(d digest.Digest) bool { return string(d) == string(key) })
		if len(row.Records) == 0 {
			err = errors.Join(err, tx.Bucket(bucketNames).Delete([]byte(name)))
		} else {
			err = errors.Join(err, putJSON(tx, bucketNames, []byte(name), &row))
		}
	}
	return err
}

// holdAll makes a pin whose target nobody knows any more one of everything, so that nothing that is mounted vanishes.
func (s *Store) holdAll(tx *bolt.Tx, key []byte) error {
	row := pinRow{Created: s.now()}
	for _, l := range goodRows[LayerRow](tx, bucketLayers) {
		row.Target.Layers = append(row.Target.Layers, l.Number)
	}
	for _, v := range goodRows[viewRow](tx, bucketViews) {
		row.Target.Views = append(row.Target.Views, v.Number)
	}
	for _, r := range goodRows[Record](tx, bucketRecords) {
		row.Target.Manifests = append(row.Target.Manifests, r.Manifest)
	}
	return putJSON(tx, bucketPins, key, &row)
}

// keptAgain lists the blobs of a manifest that are here.
func (s *Store) keptAgain(tx *bolt.Tx, key []byte) error {
	var blobs []digest.Digest
	if row, err := decodeManifest(tx.Bucket(bucketManifests).Get(key)); err == nil {
		if m, err := manifest.ParseManifest(row.Raw, row.MediaType); err == nil {
			for _, l := range m.Layers {
				if _, ok := s.HasBlob(l.Digest); ok {
					blobs = append(blobs, l.Digest)
				}
			}
		}
	}
	if len(blobs) == 0 {
		return tx.Bucket(bucketKept).Delete(key)
	}
	slices.Sort(blobs)
	return putJSON(tx, bucketKept, key, slices.Compact(blobs))
}

// goodRows are the rows of a bucket that can be read.
func goodRows[T any](tx *bolt.Tx, bucket []byte) (rows []T) {
	_ = tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		var row T
		if decodeRow(bucket, k, v, &row) == nil {
			rows = append(rows, row)
		}
		return nil
	})
	return rows
}

// dropManifest drops a manifest that is not what its key says. If it is the key that is damaged, it gets its own again.
func (s *Store) dropManifest(d digest.Digest) error {
	return s.update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketManifests)
		v := slices.Clone(b.Get([]byte(d)))
		if err := b.Delete([]byte(d)); err != nil {
			return err
		}
		row, err := decodeManifest(v)
		if err != nil {
			return nil //nolint:nilerr // nothing is left of it
		}
		if is := digest.FromBytes(row.Raw); b.Get([]byte(is)) == nil {
			return b.Put([]byte(is), v)
		}
		return nil
	})
}
