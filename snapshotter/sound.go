package snapshotter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/tocsin/tocsin/store/boltfile"
)

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
