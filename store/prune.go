package store

import (
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// prune drops what a lost row leaves behind: views and images of layers that are gone, and names of images that are.
func (w *salvaged) prune() error {
	if err := w.pruneViews(); err != nil {
		return err
	}
	if err := w.pruneRecords(); err != nil {
		return err
	}
	for _, bucket := range [][]byte{bucketSignatures, bucketKept} {
		for d := range w.rows[string(bucket)] {
			if !w.has(bucketManifests, []byte(d)) {
				delete(w.rows[string(bucket)], d)
			}
		}
	}
	return w.pruneNames()
}

func (w *salvaged) has(bucket, key []byte) bool {
	_, ok := w.rows[string(bucket)][string(key)]
	return ok
}

func (w *salvaged) hasLayers(numbers []uint64) bool {
	return !slices.ContainsFunc(numbers, func(n uint64) bool { return !w.has(bucketLayers, numberKey(n)) })
}

// pruneViews says nothing: a view is made again when it is asked for.
func (w *salvaged) pruneViews() error {
	for k, v := range w.rows[string(bucketViews)] {
		var row viewRow
		if err := decodeRow(bucketViews, []byte(k), v, &row); err != nil {
			return err
		}
		if !w.hasLayers(row.Layers) {
			delete(w.rows[string(bucketViews)], k)
		}
	}
	for k, v := range w.rows[string(bucketViewKeys)] {
		if !w.has(bucketViews, v) {
			delete(w.rows[string(bucketViewKeys)], k)
		}
	}
	return nil
}

func (w *salvaged) pruneRecords() error {
	for k, v := range w.rows[string(bucketRecords)] {
		var row Record
		if err := decodeRow(bucketRecords, []byte(k), v, &row); err != nil {
			return err
		}
		list := row.List == "" || w.has(bucketManifests, []byte(row.List))
		if list && w.has(bucketManifests, []byte(row.Manifest)) && w.hasLayers(row.Layers) {
			continue
		}
		w.lost("image %s: its manifest or a layer is lost; pull it again", k)
		delete(w.rows[string(bucketRecords)], k)
	}
	return nil
}

func (w *salvaged) pruneNames() error {
	for k, v := range w.rows[string(bucketNames)] {
		var row nameRow
		if err := decodeRow(bucketNames, []byte(k), v, &row); err != nil {
			return err
		}
		had := len(row.Records)
		row.Records = slices.DeleteFunc(row.Records, func(d digest.Digest) bool { return !w.has(bucketRecords, []byte(d)) })
		switch {
		case !w.has(bucketManifests, []byte(row.Top)), had > 0 && len(row.Records) == 0:
			w.lost("name %s; pull it again", k)
			delete(w.rows[string(bucketNames)], k)
		case len(row.Records) != had:
			if err := w.put(bucketNames, []byte(k), &row); err != nil {
				return fmt.Errorf("name %s: %w", k, err)
			}
		}
	}
	return nil
}
