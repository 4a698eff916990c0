package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store/boltfile"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// salvaged is what a new index.db is made of.
type salvaged struct {
	rows     map[string]map[string][]byte // bucket -> key -> value
	sequence map[string]uint64
	schema   string
	found    []Finding
}

// Rebuild makes index.db of the store at root again: of the rows of the old one that can still be read, and of the layers
// that lie in the store and validate accepts. It says what is lost, and keeps the old file as index.db.damaged-<time>.
// The new one has an identity of its own, so that nobody believes a number of the old one. ErrSchema if the old one is of a
// later program. No other process may use the store.
func Rebuild(root string, o *Options, validate func(index []byte) error) ([]Finding, error) {
	s, err := prepare(root, o, &disk{})
	if err != nil {
		return nil, err
	}
	unlock, err := s.lockIndex(context.Background(), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	defer unlock()
	was, err := s.salvage()
	if err == nil {
		err = s.adoptLayers(was, validate)
	}
	if err == nil {
		err = was.prune()
	}
	if err == nil {
		err = s.replaceIndex(was)
	}
	if err != nil {
		return nil, fmt.Errorf("rebuild %s: %w", s.path("index.db"), err)
	}
	return was.found, nil
}

func (w *salvaged) lost(format string, args ...any) {
	w.found = append(w.found, Finding{Kind: "missing", Object: "index.db", Problem: fmt.Sprintf(format, args...), Done: true})
}

// salvage reads what it can of index.db.
func (s *Store) salvage() (*salvaged, error) {
	w := &salvaged{rows: map[string]map[string][]byte{}, sequence: map[string]uint64{}}
	for _, b := range append(buckets(), bucketSame) {
		w.rows[string(b)] = map[string][]byte{}
	}
	f, err := os.Open(s.path("index.db"))
	if errors.Is(err, fs.ErrNotExist) {
		w.lost("it is gone: names, images and signatures")
		return w, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	db, err := boltfile.Open(f, fi.Size())
	if err != nil {
		w.lost("nothing of it can be read: %v; names, images and signatures are lost", err)
		return w, nil
	}
	for _, problem := range db.Rows(w.take) {
		w.lost("%v; what it had is lost", problem)
	}
	if n, err := strconv.Atoi(w.schema); err == nil && n > schemaVersion {
		return nil, fmt.Errorf("%w: %q, this program writes %d", ErrSchema, w.schema, schemaVersion)
	}
	return w, nil
}

// take keeps a row if its checksum, its digest or its form says that it is whole.
func (w *salvaged) take(r boltfile.Row) {
	if r.Bucket {
		if len(r.Path) == 0 {
			w.sequence[string(r.Key)] = r.Sequence
		}
		return
	}
	if len(r.Path) != 1 {
		return
	}
	bucket := bucketOf(r)
	rows, ok := w.rows[string(bucket)]
	if !ok {
		w.lost("index row %q/%.40q: there is no such bucket", r.Path[0], r.Key)
		return
	}
	if string(bucket) == string(bucketMeta) {
		if string(r.Key) == string(keySchema) {
			w.schema = string(r.Value)
		}
		return // the new index has an identity of its own
	}
	if err := wholeRow(bucket, r.Key, r.Value); err != nil {
		w.lost("%v", err)
		return
	}
	rows[string(r.Key)] = slices.Clone(r.Value)
}

// bucketOf is where a row belongs, also when the name of its bucket is damaged: its checksum has the right one.
func bucketOf(r boltfile.Row) []byte {
	known := append(buckets(), bucketSame)
	if slices.ContainsFunc(known, func(b []byte) bool { return string(b) == string(r.Path[0]) }) {
		return r.Path[0]
	}
	for _, b := range append(summed(), bucketManifests) {
		if wholeRow(b, r.Key, r.Value) == nil {
			return b
		}
	}
	return r.Path[0]
}

func wholeRow(bucket, key, value []byte) error {
	var err error
	switch string(bucket) {
	case string(bucketManifests):
		row, derr := decodeManifest(value)
		if err = derr; err == nil {
			_, err = manifest.Covered(row.Raw, digest.Digest(key))
		}
	case string(bucketLayerTOC), string(bucketLayerTar), string(bucketViewKeys):
		if keyNumber(value) == 0 {
			err = ErrCorrupt
		}
	default:
		var row json.RawMessage
		return decodeRow(bucket, key, value, &row)
	}
	if err != nil {
		return fmt.Errorf("index row %s/%q: %w", bucket, key, err)
	}
	return nil
}

// adoptLayers gives a row to every layer in the store that has none, if its index is sound.
func (s *Store) adoptLayers(w *salvaged, validate func([]byte) error) error {
	have := map[string]bool{}
	last := max(w.sequence[string(bucketLayers)], w.sequence[string(bucketLayerTOC)], w.sequence[string(bucketLayerTar)])
	for k, v := range w.rows[string(bucketLayers)] {
		var row LayerRow
		if err := decodeRow(bucketLayers, []byte(k), v, &row); err != nil {
			return err
		}
		have[layerRel(row.TOC, row.DiffID)] = true
		last = max(last, row.Number)
	}
	names, err := readNames(s.path("layers"))
	if err != nil {
		return err
	}
	for _, name := range names {
		row := layerOfDir(name)
		if row == nil || have[filepath.Join("layers", name)] {
			continue
		}
		if err := s.checkAdopted(row, validate); err != nil {
			w.lost("layers/%s: %v; pull its image again", name, err)
			continue
		}
		bucket, key := layerKey(row)
		row.Number, row.Created = keyNumber(w.rows[string(bucket)][string(key)]), s.stamp()
		if _, taken := w.rows[string(bucketLayers)][string(numberKey(row.Number))]; taken || row.Number == 0 {
			last++
			row.Number = last
		}
		last = max(last, row.Number)
		if err := w.put(bucketLayers, numberKey(row.Number), row); err != nil {
			return err
		}
		w.rows[string(bucket)][string(key)] = numberKey(row.Number)
		w.found = append(w.found, Finding{Kind: "missing", Object: fmt.Sprintf("layer %d", row.Number),
			Problem: "layers/" + name + " has a row again, without its sources: pulling an image of it brings them back", Done: true})
	}
	w.sequence[string(bucketLayers)] = last
	return nil
}

func (s *Store) checkAdopted(row *LayerRow, validate func([]byte) error) error {
	m, err := mapFile(s.path(filepath.Join(layerRel(row.TOC, row.DiffID), indexFile)))
	if err != nil {
		return err
	}
	defer m.Close()
	row.IndexDigest = digest.FromBytes(m.Bytes())
	return validate(m.Bytes())
}

// layerOfDir reads what a layer's directory is called; nil for any other name.
func layerOfDir(name string) *LayerRow {
	kind, rest, _ := strings.Cut(name, "-")
	algo, hex, _ := strings.Cut(rest, "-")
	d := digestOf(algo, hex)
	switch {
	case d == "":
		return nil
	case kind == "toc":
		return &LayerRow{TOC: d}
	case kind == "tar":
		return &LayerRow{DiffID: d}
	}
	return nil
}

func (w *salvaged) put(bucket, key []byte, row any) error {
	v, err := encodeRow(bucket, key, row)
	if err == nil {
		w.rows[string(bucket)][string(key)] = v
	}
	return err
}

// replaceIndex writes the new index.db and keeps the old one beside it.
func (s *Store) replaceIndex(w *salvaged) error {
	path := s.path("index.db")
	scratch := s.path("ingest/index.new")
	if err := s.disk.unlink(scratch); err != nil {
		return err
	}
	err := s.withDB(scratch, false, func(db *bolt.DB) error { return db.Update(w.fill) })
	if err != nil {
		return err
	}
	if exists(path) {
		kept := fmt.Sprintf("%s.damaged-%s", path, s.now().UTC().Format("20060102T150405.000000000Z"))
		if err := s.disk.linkName(path, kept); err != nil {
			return err
		}
		w.found = append(w.found, Finding{Kind: "kept", Object: filepath.Base(kept), Problem: "what index.db was", Done: true})
	}
	if err := s.disk.write(path, 0o600, copyFrom(scratch)); err != nil {
		return err
	}
	return s.disk.unlink(scratch)
}

// fill writes everything into an empty database. Numbers of views are never used again, not even of those that are lost.
func (w *salvaged) fill(tx *bolt.Tx) error {
	for name, rows := range w.rows {
		b, err := tx.CreateBucketIfNotExists([]byte(name))
		if err != nil {
			return err
		}
		for k, v := range rows {
			if err := b.Put([]byte(k), v); err != nil {
				return err
			}
		}
		if err := advance(b, w.sequence[name]); err != nil {
			return err
		}
	}
	views := tx.Bucket(bucketViews)
	for k := range w.rows[string(bucketViews)] {
		if err := advance(views, keyNumber([]byte(k))); err != nil {
			return err
		}
	}
	return putIdentity(tx)
}
