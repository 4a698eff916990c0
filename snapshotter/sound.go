package snapshotter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tocsin/tocsin/store/boltfile"
)

// CheckMetadata looks at the pages of the metadata.db of a store's root, if there is one. A daemon may run, and write:
// what is damaged counts if the file did not change while it was read.
func CheckMetadata(root string) (err error) {
	path := filepath.Join(root, "snapshots", "metadata.db")
	for range 10 {
		before := changed(path)
		if err = verifyMetadata(path); err == nil || changed(path).Equal(before) {
			return err
		}
	}
	return nil
}

func changed(path string) time.Time {
	fi, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

// verifyMetadata demands that bbolt can read metadata.db: on a damaged page it would end the process, and every
// container with it. Nothing else knows what is in this file, so nothing can make it again.
func verifyMetadata(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return err
	}
	db, err := boltfile.Open(f, fi.Size())
	if err == nil {
		err = db.Verify()
	}
	if err != nil {
		return fmt.Errorf("%s: %w; without it the snapshots are lost: move the directory away, remove what containerd "+
			"has on this snapshotter, and pull again", path, err)
	}
	return nil
}
