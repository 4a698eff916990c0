package store

import (
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Record is one image of one platform, as the store holds it.
type Record struct {
	Manifest digest.Digest
	List     digest.Digest // the list it was chosen from; "" if none
	Config   digest.Digest // of the config blob, which is the image ID
	Platform string        // os/arch[/variant]
	Trust    string        // the name of the manifest.Trust it was committed under
	Layers   []uint64      // data layers, bottom to top, the sentinel left out
	Size     int64         // of the files in all layers, the manifest and the config in bytes, as the committer counts them
	Names    []string      `json:"-"` // filled when read, sorted; not read by Commit
	Created  time.Time     // when it was first committed here
}

// Commit is what one call of Store.Commit adds.
type Commit struct {
	Records   []Record
	Manifests []RawManifest
	// Signatures replace those of the manifest or list that is the key.
	Signatures map[digest.Digest][][]byte
	// Kept are blobs that stay as long as the manifest that is the key, besides those that were kept for it before.
	Kept map[digest.Digest][]digest.Digest
	// Name moves to these records; "" leaves all names alone.
	Name string
	// Top is what the name resolves to: the digest of the list, or of the manifest. "" is the manifest of the only
	// record.
	Top digest.Digest
}

// maxName keeps a hostile reference from becoming a key that bbolt refuses half-way through.
const maxName = 4096

type nameRow struct {
	Top     digest.Digest
	List    digest.Digest   `json:",omitempty"` // that the images were chosen from, or Top is
	Records []digest.Digest // of manifests
}

// Commit adds records, manifests, signatures and the name in one transaction; on error nothing has changed. What the
// records need must be here: config blobs, layer rows, manifests and lists (here or in c); else ErrNotFound. A commit
// under the Top that the name already has, or of another image of the list that its images were chosen from, adds its
// records; anything else takes the name away from the records that had it.
func (s *Store) Commit(c Commit) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("commit %s: %w", c.Name, err)
	}
	err := s.update(func(tx *bolt.Tx) error {
		now := s.stamp()
		for i := range c.Manifests {
			if err := putManifest(tx, &c.Manifests[i], now); err != nil {
				return err
			}
		}
		for i := range c.Records {
			if err := s.putRecord(tx, c.Records[i], now); err != nil {
				return err
			}
		}
		for d, sigs := range c.Signatures {
			if err := putSignatures(tx, d, sigs); err != nil {
				return err
			}
		}
		for d, blobs := range c.Kept {
			if err := s.putKept(tx, d, blobs); err != nil {
				return err
			}
		}
		if c.Name == "" {
			return nil
		}
		return putName(tx, &c)
	})
	if err != nil {
		return fmt.Errorf("commit %s: %w", c.Name, err)
	}
	return nil
}

func (c *Commit) check() error {
	if len(c.Records) == 0 && c.Top == "" {
		return fmt.Errorf("%w: no records", ErrConflict)
	}
	if len(c.Name) > maxName {
		return fmt.Errorf("%w: name of %d bytes", ErrConflict, len(c.Name))
	}
	if c.Top == "" && len(c.Records) > 1 && c.Name != "" {
		return fmt.Errorf("%w: several records and no top digest", ErrConflict)
	}
	if c.Top == "" {
		c.Top = c.Records[0].Manifest
	}
	if err := checkDigest("top", c.Top); err != nil {
		return err
	}
	for i := range c.Manifests {
		if err := c.Manifests[i].check(); err != nil {
			return err
		}
	}
	for _, r := range c.Records {
		if err := checkDigest("manifest", r.Manifest); err != nil {
			return err
		}
		if err := checkDigest("config", r.Config); err != nil {
			return err
		}
	}
	for d := range c.Signatures {
		if err := checkDigest("signed", d); err != nil {
			return err
		}
	}
	for d, blobs := range c.Kept {
		for _, b := range append([]digest.Digest{d}, blobs...) {
			if err := checkDigest("kept", b); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) putRecord(tx *bolt.Tx, r Record, now time.Time) error {
	for _, d := range []digest.Digest{r.Manifest, r.List} {
		if d != "" && tx.Bucket(bucketManifests).Get([]byte(d)) == nil {
			return fmt.Errorf("record %s: manifest %s: %w", r.Manifest, d, ErrNotFound)
		}
	}
	if _, ok := s.HasBlob(r.Config); !ok {
		return fmt.Errorf("record %s: config %s: %w", r.Manifest, r.Config, ErrNotFound)
	}
	for _, n := range r.Layers {
		var row LayerRow
		if err := getLayer(tx, n, &row); err != nil {
			return fmt.Errorf("record %s: %w", r.Manifest, err)
		}
	}
	var old Record
	ok, err := getOld(tx, bucketRecords, []byte(r.Manifest), &old)
	if err != nil {
		return err
	}
	r.Created = now
	if ok {
		r.Created = old.Created
	}
	return putJSON(tx, bucketRecords, []byte(r.Manifest), &r)
}

func (s *Store) hasRecord(d digest.Digest) (found bool) {
	err := s.view(func(tx *bolt.Tx) error {
		found = tx.Bucket(bucketRecords).Get([]byte(d)) != nil
		return nil
	})
	return err == nil && found
}

func putName(tx *bolt.Tx, c *Commit) error {
	if tx.Bucket(bucketManifests).Get([]byte(c.Top)) == nil {
		return fmt.Errorf("manifest %s: %w", c.Top, ErrNotFound)
	}
	var row nameRow
	if _, err := getOld(tx, bucketNames, []byte(c.Name), &row); err != nil {
		return err
	}
	row.move(c)
	for _, r := range c.Records {
		if !slices.Contains(row.Records, r.Manifest) {
			row.Records = append(row.Records, r.Manifest)
		}
	}
	return putJSON(tx, bucketNames, []byte(c.Name), &row)
}

// move makes a name stand for a commit. Images of one list gather under it: with the second of them the name stands for
// the list.
func (row *nameRow) move(c *Commit) {
	list := c.Top
	if len(c.Records) > 0 {
		list = c.Records[0].List
	}
	switch {
	case row.Top == c.Top:
	case list != "" && (row.List == list || row.Top == list):
		row.Top = list
	default:
		*row = nameRow{Top: c.Top}
	}
	row.List = list
}

// Resolve gives every record of a name, which are platforms of one list, and the digest that the name stands for.
// ErrNotFound.
func (s *Store) Resolve(name string) (records []Record, top digest.Digest, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		var row nameRow
		ok, err := getJSON(tx, bucketNames, nonEmpty(name), &row)
		if err == nil && !ok {
			err = fmt.Errorf("name %q: %w", name, ErrNotFound)
		}
		if err != nil {
			return err
		}
		top = row.Top
		records, err = recordsOf(tx, func(r *Record) bool { return slices.Contains(row.Records, r.Manifest) })
		return err
	})
	return records, top, err
}

// nonEmpty makes a key of a name; bbolt takes no empty keys, and no name is a zero byte.
func nonEmpty(name string) []byte {
	if name == "" {
		return []byte{0}
	}
	return []byte(name)
}

// Records lists every record, those without a name too.
func (s *Store) Records() ([]Record, error) {
	var records []Record
	err := s.view(func(tx *bolt.Tx) (err error) {
		records, err = recordsOf(tx, func(*Record) bool { return true })
		return err
	})
	return records, err
}

// Names lists every name with the digest it stands for.
func (s *Store) Names() (map[string]digest.Digest, error) {
	tops := map[string]digest.Digest{}
	err := s.view(func(tx *bolt.Tx) error {
		names, err := allNames(tx)
		for name, row := range names {
			tops[name] = row.Top
		}
		return err
	})
	return tops, err
}

func recordsOf(tx *bolt.Tx, want func(*Record) bool) ([]Record, error) {
	all, err := allRows[Record](tx, bucketRecords)
	if err != nil {
		return nil, err
	}
	names, err := allNames(tx)
	if err != nil {
		return nil, err
	}
	var found []Record
	for _, r := range all {
		if !want(&r) {
			continue
		}
		for name, row := range names {
			if slices.Contains(row.Records, r.Manifest) {
				r.Names = append(r.Names, name)
			}
		}
		slices.Sort(r.Names)
		found = append(found, r)
	}
	return found, nil
}

func allNames(tx *bolt.Tx) (map[string]nameRow, error) {
	names := map[string]nameRow{}
	err := tx.Bucket(bucketNames).ForEach(func(k, _ []byte) error {
		var row nameRow
		_, err := getJSON(tx, bucketNames, k, &row)
		names[string(k)] = row
		return err
	})
	return names, err
}
