package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
	bolt "go.etcd.io/bbolt"
)

// Source is a place that has a layer's blob.
type Source struct {
	Host, Repo string
	Blob       digest.Digest
	Size       int64 // of the blob, in bytes
	MediaType  string
	// Quarantined says why this source is not asked before Until: it sent wrong bytes. Empty for a good source.
	Quarantined string    `json:",omitempty"`
	Until       time.Time `json:",omitzero"`
	// Strikes counts the quarantines of this source, lifted ones too, less one for each day since Struck, the latest of
	// them: each is longer than the one before.
	Strikes int       `json:",omitempty"`
	Struck  time.Time `json:",omitzero"`
}

// FirstQuarantine is how long a source is not asked that sent wrong bytes for the first time. One flipped bit on the
// wire costs that much; a source that goes on with it costs a request now and then.
const FirstQuarantine = time.Minute

// maxQuarantine is what each doubling leads to in the end.
const maxQuarantine = 24 * time.Hour

// quarantineOf is the length of the quarantine that the nth strike brings, from 1 on.
func quarantineOf(strikes int) time.Duration {
	d := FirstQuarantine
	for i := 1; i < strikes && d < maxQuarantine; i++ {
		d *= 4
	}
	return min(d, maxQuarantine)
}

// forgiven is what is left of strikes when there was none for so long: one is forgotten each day.
func forgiven(strikes int, quiet time.Duration) int {
	return max(0, strikes-int(max(0, quiet)/(24*time.Hour)))
}

func (a Source) same(b Source) bool { return a.Host == b.Host && a.Repo == b.Repo && a.Blob == b.Blob }

// LayerRow is what the index knows of one layer. A layer has a TOC, or was taken from a tar whose diffID was verified.
type LayerRow struct {
	Number uint64        // never reused; 0 in a row that is not stored yet
	TOC    digest.Digest // of the compressed TOC; "" for a layer taken from a tar
	DiffID digest.Digest // of the tar that was rebuilt from the layer, whoever asked for it; "" if none was
	NoTar  string        `json:",omitempty"` // why none can be: files and tar-split do not fit together
	// Proof is how DiffID and NoTar of a layer with a TOC were found: see derived.
	Proof  int              `json:",omitempty"`
	TOCRef *manifest.TOCRef // where TOC and tar-split lie in the blob; nil for a layer taken from a tar
	// IndexDigest and SplitDigest are of the files at rest. "" in a row of an older program, whose files are believed as
	// far as their own checksums go, and SplitDigest where there is no tar-split.
	IndexDigest digest.Digest `json:",omitempty"`
	SplitDigest digest.Digest `json:",omitempty"`
	NoSplit     bool          `json:",omitempty"` // the TOC names no tar-split, whatever an image says
	// Sources are in the order they became known, each host, repository and blob once.
	Sources []Source
	// Quarantined is true when there are sources and each is in quarantine or was: what is missing of the layer is denied
	// until the first of them is asked again.
	Quarantined bool
	Created     time.Time // or named again: gc goes by it
}

// derived is the Proof of a layer whose index was derived from its tar. Programs that wrote no Proof compared less, and a
// crafted layer could deceive them: what they found of a layer with a TOC counts as not known.
const derived = 1

// forget drops what an older program found.
func (row *LayerRow) forget() {
	if row.TOC != "" && row.Proof < derived {
		row.DiffID, row.NoTar = "", ""
	}
}

const (
	indexFile    = "index"
	tarSplitFile = "tar-split"
)

// Layer gives the row of layer n. ErrNotFound.
func (s *Store) Layer(n uint64) (*LayerRow, error) {
	var row LayerRow
	err := s.view(func(tx *bolt.Tx) error { return getLayer(tx, n, &row) })
	if err != nil {
		return nil, err
	}
	return &row, nil
}

// LayerByTOC gives the layer with that TOC. ErrNotFound.
func (s *Store) LayerByTOC(toc digest.Digest) (*LayerRow, error) {
	return s.layerBy(bucketLayerTOC, "TOC", toc)
}

// LayerByDiffID gives the layer that was taken from the tar with that verified diffID. Layers with a TOC are not
// found this way, not even when their diffID was verified. ErrNotFound.
func (s *Store) LayerByDiffID(diffID digest.Digest) (*LayerRow, error) {
	return s.layerBy(bucketLayerTar, "diffID", diffID)
}

func (s *Store) layerBy(bucket []byte, what string, d digest.Digest) (*LayerRow, error) {
	if err := checkDigest(what, d); err != nil {
		return nil, err
	}
	var row LayerRow
	err := s.view(func(tx *bolt.Tx) error { return findLayer(tx, bucket, what, d, &row) })
	if err != nil {
		return nil, err
	}
	return &row, nil
}

// findLayer reads the row that a digest leads to. ErrNotFound; ErrCorrupt if it is another's, because the number rotted.
func findLayer(tx *bolt.Tx, bucket []byte, what string, d digest.Digest, row *LayerRow) error {
	n := tx.Bucket(bucket).Get([]byte(d))
	if n == nil {
		return fmt.Errorf("layer with %s %s: %w", what, d, ErrNotFound)
	}
	if err := getLayer(tx, keyNumber(n), row); err != nil {
		return err
	}
	if _, key := layerKey(row); string(key) != string(d) {
		return fmt.Errorf("layer with %s %s: %w: the index leads to layer %d", what, d, ErrCorrupt, row.Number)
	}
	return nil
}

// Layers lists every layer in the order of numbers.
func (s *Store) Layers() ([]LayerRow, error) {
	var rows []LayerRow
	err := s.view(func(tx *bolt.Tx) (err error) {
		rows, err = allRows[LayerRow](tx, bucketLayers)
		for i := range rows {
			rows[i].forget()
		}
		return err
	})
	return rows, err
}

// PutLayer keeps a layer index, and the raw tar-split if there is one, and then the row, whose Number it gives back.
// A layer that is already there keeps its number and gets the sources and the diffID of row. Its files stay, unless they
// are damaged or missing; a tar-split is added if it had none. ErrConflict if another diffID was verified.
func (s *Store) PutLayer(row LayerRow, index, tarSplit []byte) (uint64, error) {
	if err := checkLayer(&row); err != nil {
		return 0, err
	}
	row.IndexDigest, row.SplitDigest = digest.FromBytes(index), ""
	if tarSplit != nil {
		row.SplitDigest = digest.FromBytes(tarSplit)
	}
	dir := s.path(layerRel(row.TOC, row.DiffID))
	for {
		changed, err := s.writeLayer(dir, &row, index, tarSplit)
		if notExist(err) {
			continue // gc took the directory of a row that had just gone
		}
		if err != nil {
			return 0, fmt.Errorf("put layer %s: %w", filepath.Base(dir), err)
		}
		n, err := s.putLayerRow(row, dir, changed)
		if !errors.Is(err, errGone) {
			return n, err
		}
	}
}

// keepsIndex says that the layer of row has an index that is what its row says, and takes over the digest: other numbers
// of the same contents, as another version's might be, would make its views wrong.
func (s *Store) keepsIndex(row *LayerRow) bool {
	bucket, key := layerKey(row)
	have, err := s.layerBy(bucket, "key", digest.Digest(key))
	if err != nil || have.IndexDigest == "" || fileIs(s.path(filepath.Join(layerRel(row.TOC, row.DiffID), indexFile)), have.IndexDigest) != nil {
		return false
	}
	row.IndexDigest = have.IndexDigest
	return true
}

// errGone says that gc took files between their writing and their row.
var errGone = errors.New("files went away")

func checkLayer(row *LayerRow) error {
	if row.TOC == "" && row.DiffID == "" {
		return fmt.Errorf("put layer: %w: neither TOC nor verified diffID", ErrConflict)
	}
	for what, d := range map[string]digest.Digest{"TOC": row.TOC, "diffID": row.DiffID} {
		if d == "" {
			continue
		}
		if err := checkDigest(what, d); err != nil {
			return fmt.Errorf("put layer: %w", err)
		}
	}
	for _, src := range row.Sources {
		if err := checkDigest("source blob", src.Blob); err != nil {
			return fmt.Errorf("put layer: %w", err)
		}
	}
	return nil
}

func layerKey(row *LayerRow) (bucket, key []byte) {
	if row.TOC != "" {
		return bucketLayerTOC, []byte(row.TOC)
	}
	return bucketLayerTar, []byte(row.DiffID)
}

// writeLayer writes the files that are not there as row says, the index last: a directory with an index is whole. A
// tar-split that is there stays: it is of the same layer, and another process may have put it.
func (s *Store) writeLayer(dir string, row *LayerRow, index, tarSplit []byte) (indexChanged bool, err error) {
	split := filepath.Join(dir, tarSplitFile)
	if tarSplit != nil && fileIs(split, row.SplitDigest) != nil {
		if err := s.disk.write(split, 0o444, fillBytes(tarSplit)); err != nil {
			return false, err
		}
	}
	file := filepath.Join(dir, indexFile)
	if s.keepsIndex(row) || fileIs(file, row.IndexDigest) == nil {
		return false, nil
	}
	return true, s.disk.write(file, 0o444, fillBytes(index))
}

func (s *Store) putLayerRow(row LayerRow, dir string, indexChanged bool) (n uint64, err error) {
	err = s.update(func(tx *bolt.Tx) error {
		if !exists(filepath.Join(dir, indexFile)) || row.SplitDigest != "" && !exists(filepath.Join(dir, tarSplitFile)) {
			return errGone
		}
		bucket, key := layerKey(&row)
		have, err := ownLayer(tx, bucket, key)
		if err != nil {
			return err
		}
		if have == nil {
			have = &LayerRow{TOC: row.TOC, TOCRef: row.TOCRef, NoTar: row.NoTar, Created: s.stamp()}
			if have.Number, err = nextNumber(tx.Bucket(bucketLayers)); err != nil {
				return err
			}
		}
		n = have.Number
		if have.IndexDigest != row.IndexDigest && (indexChanged || have.IndexDigest != "") {
			if err := dropViewsOf(tx, n); err != nil {
				return err
			}
		}
		if err := have.merge(&row); err != nil {
			return err
		}
		have.Created = s.stamp()
		if err := putJSON(tx, bucketLayers, numberKey(n), have); err != nil {
			return err
		}
		return tx.Bucket(bucket).Put(key, numberKey(n))
	})
	return n, err
}

// ownLayer gives the row that a key leads to, nil if there is none that is of that key and can be read.
func ownLayer(tx *bolt.Tx, bucket, key []byte) (*LayerRow, error) {
	var have LayerRow
	err := findLayer(tx, bucket, "key", digest.Digest(key), &have)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return &have, err
}

func (row *LayerRow) merge(more *LayerRow) error {
	row.IndexDigest, row.NoSplit = more.IndexDigest, row.NoSplit || more.NoSplit
	if more.SplitDigest != "" {
		row.SplitDigest = more.SplitDigest
	}
	if row.TOCRef == nil || more.SplitDigest != "" && row.TOCRef.TarSplit.Len == 0 {
		row.TOCRef = more.TOCRef
	}
	row.addSources(more.Sources)
	if more.DiffID == "" {
		return nil
	}
	return row.setDiffID(more.DiffID)
}

func (row *LayerRow) setDiffID(d digest.Digest) error {
	if row.DiffID != "" && row.DiffID != d {
		return fmt.Errorf("layer %d: %w: diffID is %s, not %s", row.Number, ErrConflict, row.DiffID, d)
	}
	row.DiffID, row.Proof = d, derived
	return nil
}

// addSources takes places that somebody names now. To name one again lifts its quarantine, not its strikes.
func (row *LayerRow) addSources(more []Source) {
	for _, src := range more {
		if have := row.source(src); have != nil {
			have.Quarantined, have.Until = "", time.Time{}
		} else {
			row.Sources = append(row.Sources, src)
		}
	}
	row.settle()
}

func (row *LayerRow) source(src Source) *Source {
	for i := range row.Sources {
		if row.Sources[i].same(src) {
			return &row.Sources[i]
		}
	}
	return nil
}

// settle derives Quarantined from the sources.
func (row *LayerRow) settle() {
	row.Quarantined = len(row.Sources) > 0
	for _, src := range row.Sources {
		if src.Quarantined == "" {
			row.Quarantined = false
		}
	}
}

// SetDiffID records that the tar of layer n was rebuilt and has that digest. ErrConflict if another was recorded.
func (s *Store) SetDiffID(n uint64, d digest.Digest) error {
	if err := checkDigest("diffID", d); err != nil {
		return err
	}
	return s.editLayer(n, func(row *LayerRow) error { return row.setDiffID(d) })
}

// SetNoTar records that no tar can be built from layer n: its files are all what its TOC says, and its tar-split is of
// others. The first reason stays.
func (s *Store) SetNoTar(n uint64, reason string) error {
	return s.editLayer(n, func(row *LayerRow) error {
		if row.Proof = derived; row.NoTar == "" {
			row.NoTar = reason
		}
		return nil
	})
}

// AddSource adds a place that has the blob of layer n, because an image was pulled from there. A known place is asked
// again, if it was in quarantine; its next quarantine is longer all the same.
func (s *Store) AddSource(n uint64, src Source) error {
	if err := checkDigest("source blob", src.Blob); err != nil {
		return err
	}
	return s.editLayer(n, func(row *LayerRow) error {
		row.addSources([]Source{src})
		row.Created = s.stamp()
		return nil
	})
}

// Quarantine marks a source of layer n as one that sent wrong bytes, and says when it may be asked again. ErrNotFound if
// the layer has no such source.
func (s *Store) Quarantine(n uint64, src Source, reason string) (until time.Time, err error) {
	if reason == "" {
		reason = "no reason given"
	}
	err = s.editLayer(n, func(row *LayerRow) error {
		have := row.source(src)
		if have == nil {
			return fmt.Errorf("layer %d: source %s/%s@%s: %w", n, src.Host, src.Repo, src.Blob, ErrNotFound)
		}
		now := s.now()
		have.Strikes, have.Struck = forgiven(have.Strikes, now.Sub(have.Struck))+1, now
		until = now.Add(quarantineOf(have.Strikes))
		have.Quarantined, have.Until = reason, until
		row.settle()
		return nil
	})
	return until, err
}

func (s *Store) editLayer(n uint64, edit func(row *LayerRow) error) error {
	return s.update(func(tx *bolt.Tx) error {
		var row LayerRow
		if err := getLayer(tx, n, &row); err != nil {
			return err
		}
		if err := edit(&row); err != nil {
			return err
		}
		return putJSON(tx, bucketLayers, numberKey(n), &row)
	})
}

// LayerIndex maps the layer index of layer n. The caller closes it. ErrNotFound, ErrCorrupt if it is not what was kept.
func (s *Store) LayerIndex(n uint64) (*Mapped, error) {
	row, err := s.Layer(n)
	if err != nil {
		return nil, err
	}
	m, err := mapFile(s.path(filepath.Join(layerRel(row.TOC, row.DiffID), indexFile)))
	if err == nil && row.IndexDigest != "" && digest.FromBytes(m.Bytes()) != row.IndexDigest {
		m.Close()
		return nil, fmt.Errorf("index: %w", ErrCorrupt)
	}
	return m, err
}

// mapIndex maps a layer's index without comparing it, also that of a layer whose row cannot be read.
func (s *Store) mapIndex(n uint64) (*Mapped, error) {
	dir, err := s.layerDir(n)
	if err != nil {
		return nil, err
	}
	return mapFile(filepath.Join(dir, indexFile))
}

// TarSplit gives the raw tar-split of layer n. ErrNotFound if it has none, ErrCorrupt if it is not what was kept.
func (s *Store) TarSplit(n uint64) ([]byte, error) {
	row, err := s.Layer(n)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.path(filepath.Join(layerRel(row.TOC, row.DiffID), tarSplitFile)))
	switch {
	case notExist(err) && row.SplitDigest != "":
		return nil, fmt.Errorf("tar-split of layer %d: %w: it is missing", n, ErrCorrupt)
	case notExist(err):
		return nil, fmt.Errorf("tar-split of layer %d: %w", n, ErrNotFound)
	case err == nil && row.SplitDigest != "" && digest.FromBytes(b) != row.SplitDigest:
		return nil, fmt.Errorf("tar-split of layer %d: %w", n, ErrCorrupt)
	}
	return b, err
}

// layerDir finds the directory of a layer, also of one whose row cannot be read.
func (s *Store) layerDir(n uint64) (dir string, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		var row LayerRow
		err := getLayer(tx, n, &row)
		if errors.Is(err, ErrCorrupt) {
			if again := layerFromKeys(tx, n); again != nil {
				row, err = *again, nil
			}
		}
		if err == nil {
			dir = s.path(layerRel(row.TOC, row.DiffID))
		}
		return err
	})
	return dir, err
}

// layerFromKeys makes of the key that leads to layer n what its row must at least say; nil if none does.
func layerFromKeys(tx *bolt.Tx, n uint64) (row *LayerRow) {
	for _, bucket := range [][]byte{bucketLayerTOC, bucketLayerTar} {
		c := tx.Bucket(bucket).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			d := digest.Digest(k)
			if keyNumber(v) != n || checkDigest("layer", d) != nil {
				continue
			}
			if string(bucket) == string(bucketLayerTOC) {
				return &LayerRow{Number: n, TOC: d}
			}
			return &LayerRow{Number: n, DiffID: d}
		}
	}
	return nil
}

func getLayer(tx *bolt.Tx, n uint64, row *LayerRow) error {
	ok, err := getJSON(tx, bucketLayers, numberKey(n), row)
	if err == nil && !ok {
		err = fmt.Errorf("layer %d: %w", n, ErrNotFound)
	}
	row.forget()
	return err
}

// nextNumber is above every number in a bucket, also if its sequence is damaged.
func nextNumber(b *bolt.Bucket) (uint64, error) {
	last, _ := b.Cursor().Last()
	if err := advance(b, keyNumber(last)); err != nil {
		return 0, err
	}
	return b.NextSequence()
}
