package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
	bolt "go.etcd.io/bbolt"
)

// Remove removes what a reference says. A name goes alone: its images stay under their other names, and without any
// until gc. A digest or an image ID removes the images with all their names, and what stands for that digest. ErrInUse
// when an image would be left without a name that some pin shows; ErrNotFound. On error nothing has changed.
func (s *Store) Remove(ref manifest.Ref) error {
	return removing(ref, s.update(func(tx *bolt.Tx) error {
		c, err := readCatalog(tx)
		if err != nil {
			return err
		}
		return s.remove(c, ref)
	}))
}

// WouldRemove says what Remove would drop, names and manifests of records, both sorted, and drops nothing. The errors
// are those of Remove.
func (s *Store) WouldRemove(ref manifest.Ref) (names []string, records []digest.Digest, err error) {
	rollBack := errors.New("nothing is removed")
	err = s.update(func(tx *bolt.Tx) error {
		before, err := readCatalog(tx)
		if err != nil {
			return err
		}
		if err := s.remove(before, ref); err != nil {
			return err
		}
		after, err := readCatalog(tx)
		if err != nil {
			return err
		}
		for name := range before.names {
			if _, ok := after.names[name]; !ok {
				names = append(names, name)
			}
		}
		for d := range before.records {
			if _, ok := after.records[d]; !ok {
				records = append(records, d)
			}
		}
		return rollBack
	})
	if errors.Is(err, rollBack) {
		err = nil
	}
	slices.Sort(names)
	slices.Sort(records)
	return names, records, removing(ref, err)
}

func removing(ref manifest.Ref, err error) error {
	if err != nil {
		return fmt.Errorf("remove %s: %w", ref.Familiar(), err)
	}
	return nil
}

func (s *Store) remove(c *catalog, ref manifest.Ref) error {
	name := ref.StoreName()
	if ref.Digest != "" && ref.Repo != "" {
		name = ref.Repository() + "@" + ref.Digest.String()
	}
	if _, ok := c.names[name]; ok && name != "" {
		return s.dropName(c, name)
	}
	found, err := c.find(ref)
	if err != nil {
		return err
	}
	return s.dropFound(c, found)
}

// RemoveName drops one name. The records it had stay until gc, and longer under other names and pins. ErrNotFound,
// ErrInUse.
func (s *Store) RemoveName(name string) error {
	return s.update(func(tx *bolt.Tx) error {
		c, err := readCatalog(tx)
		if err != nil {
			return err
		}
		return s.dropName(c, name)
	})
}

func (s *Store) dropName(c *catalog, name string) error {
	row, ok := c.names[name]
	if !ok {
		return fmt.Errorf("name %q: %w", name, ErrNotFound)
	}
	for _, d := range row.Records {
		if r, ok := c.records[d]; ok && len(r.Names) == 1 {
			if err := s.unused(c.tx, d); err != nil {
				return err
			}
		}
	}
	return c.tx.Bucket(bucketNames).Delete([]byte(name))
}

// RemoveRecord drops the record of one manifest from the store and from its names; names that have no record left go
// too. Its content stays until gc. ErrNotFound, ErrInUse.
func (s *Store) RemoveRecord(d digest.Digest) error {
	if err := checkDigest("manifest", d); err != nil {
		return err
	}
	return s.update(func(tx *bolt.Tx) error {
		c, err := readCatalog(tx)
		if err != nil {
			return err
		}
		if _, ok := c.records[d]; !ok {
			return fmt.Errorf("record %s: %w", d, ErrNotFound)
		}
		return s.dropFound(c, &Found{Records: []Record{c.records[d]}})
	})
}

// dropFound drops records, and names that stand for what was found.
func (s *Store) dropFound(c *catalog, f *Found) error {
	dropped := len(f.Records)
	for _, r := range f.Records {
		if err := s.unused(c.tx, r.Manifest); err != nil {
			return err
		}
		if err := c.tx.Bucket(bucketRecords).Delete([]byte(r.Manifest)); err != nil {
			return err
		}
	}
	var errs []error
	for name, row := range c.names {
		had := len(row.Records)
		row.Records = slices.DeleteFunc(row.Records, func(d digest.Digest) bool {
			return slices.ContainsFunc(f.Records, func(r Record) bool { return r.Manifest == d })
		})
		switch {
		case f.Top != "" && row.Top == f.Top, had > 0 && len(row.Records) == 0:
			dropped++
			errs = append(errs, c.tx.Bucket(bucketNames).Delete([]byte(name)))
		case len(row.Records) != had:
			errs = append(errs, putJSON(c.tx, bucketNames, []byte(name), &row))
		}
	}
	if dropped == 0 {
		return fmt.Errorf("%s is here only as a part of others: %w", f.Top, ErrNotFound)
	}
	return errors.Join(errs...)
}

// unused demands that nobody shows an image, which is what a live pin of its manifest says.
func (s *Store) unused(tx *bolt.Tx, d digest.Digest) error {
	var holder string
	err := s.eachPin(tx, func(id string, row *pinRow, live bool) {
		if live && slices.Contains(row.Target.Manifests, d) {
			holder = id
		}
	})
	if err == nil && holder != "" {
		err = fmt.Errorf("image %s: %w (%s)", d, ErrInUse, holder)
	}
	return err
}

// Tag gives what was found one more name, and takes that from what had it. ErrNotFound when it is gone by now.
func (s *Store) Tag(name string, f *Found) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("name of %d bytes: %w", len(name), ErrConflict)
	}
	return s.update(func(tx *bolt.Tx) error {
		row := nameRow{Top: f.Top}
		if tx.Bucket(bucketManifests).Get([]byte(f.Top)) == nil {
			return fmt.Errorf("manifest %s: %w", f.Top, ErrNotFound)
		}
		for _, r := range f.Records {
			if tx.Bucket(bucketRecords).Get([]byte(r.Manifest)) == nil {
				return fmt.Errorf("record %s: %w", r.Manifest, ErrNotFound)
			}
			row.Records = append(row.Records, r.Manifest)
			row.List = r.List
		}
		return putJSON(tx, bucketNames, []byte(name), &row)
	})
}
