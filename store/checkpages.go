package store

import (
	"context"
	"fmt"
	"os"

	"github.com/tocsin/tocsin/store/boltfile"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// maxPageProblems is how much Check says about the pages of index.db.
const maxPageProblems = 20

// checkPages looks at the pages of index.db. With any damage but that of one meta page the store cannot be used at all.
func (c *checkRun) checkPages() error {
	problems, err := c.s.pageProblems()
	if err != nil {
		return err
	}
	for _, problem := range problems {
		f := c.found("corrupt", "index.db", "%v", problem)
		if c.o.Repair {
			c.settle(f, c.s.renewMeta())
		}
	}
	return nil
}

// settle says in a finding whether its repair succeeded.
func (c *checkRun) settle(f *Finding, err error) {
	if f.Done = err == nil; err != nil {
		f.Problem += fmt.Sprintf("; not repaired: %v", err)
	}
}

func (s *Store) pageProblems() ([]error, error) {
	unlock, err := s.lockIndex(context.Background(), unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer unlock()
	f, err := os.Open(s.path("index.db"))
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
		return nil, fmt.Errorf("index.db: %w: %w", ErrCorrupt, err)
	}
	return db.Check(maxPageProblems), nil
}

// renewMeta writes both meta pages of index.db: each transaction writes one of them.
func (s *Store) renewMeta() error {
	for range 2 {
		if err := s.update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyRenewed, nil) }); err != nil {
			return err
		}
	}
	return nil
}

// keyRenewed has no meaning; a transaction that changes nothing writes nothing.
var keyRenewed = []byte("renewed")
