package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// sweepViews removes the trees whose rows are gone, now or before a crash.
func (g *gcRun) sweepViews() error {
	return g.sweepDirs("views", func(tx *bolt.Tx, name string) bool {
		n, err := strconv.ParseUint(name, 10, 64)
		return err != nil || tx.Bucket(bucketViews).Get(numberKey(n)) != nil
	}, func(name string) error {
		if n, err := strconv.ParseUint(name, 10, 64); err == nil && g.o.DropView != nil {
			return g.o.DropView(n)
		}
		return nil
	})
}

func (g *gcRun) sweepLayers() error {
	return g.sweepDirs("layers", func(tx *bolt.Tx, name string) bool {
		kind, rest, _ := strings.Cut(name, "-")
		algo, hex, _ := strings.Cut(rest, "-")
		bucket := bucketLayerTOC
		if kind == "tar" {
			bucket = bucketLayerTar
		}
		d := digestOf(algo, hex)
		return d == "" || tx.Bucket(bucket).Get([]byte(d)) != nil
	}, func(string) error { return nil })
}

// sweepDirs removes directories below top that have no row. Each is looked at again inside a read transaction, so
// that no writer can add its row meanwhile.
func (g *gcRun) sweepDirs(top string, claimed func(tx *bolt.Tx, name string) bool, drop func(name string) error) error {
	names, err := readNames(g.s.path(top))
	if err != nil {
		return err
	}
	for _, name := range names {
		rel := filepath.Join(top, name)
		var garbage bool
		err := g.view(func(tx *bolt.Tx) error {
			garbage = g.gone[rel] && g.o.DryRun || !claimed(tx, name) && (g.gone[rel] || !g.dirTooYoung(rel))
			return nil
		})
		if err != nil {
			return err
		}
		if !garbage {
			continue
		}
		if g.o.DryRun {
			g.found("garbage", rel, "not reached", g.s.dirSize(rel))
			continue
		}
		if err := drop(name); err != nil {
			g.found("kept", rel, err.Error(), 0)
			continue
		}
		if err := g.removeDir(rel, name, claimed); err != nil {
			return err
		}
	}
	return nil
}

func (g *gcRun) removeDir(rel, name string, claimed func(tx *bolt.Tx, name string) bool) error {
	return g.view(func(tx *bolt.Tx) error {
		if claimed(tx, name) {
			return nil
		}
		size := g.s.dirSize(rel)
		err := g.s.disk.unlinkTree(g.s.path(rel))
		if errors.Is(err, unix.ENOTEMPTY) { // the same layer is being put again: what is missing is found before its row
			return nil
		}
		if err != nil {
			return err
		}
		g.found("garbage", rel, "not reached", size)
		return nil
	})
}

// dirTooYoung looks at the files too: a directory keeps its time when a file in it is written again.
func (g *gcRun) dirTooYoung(rel string) bool {
	names, err := readNames(g.s.path(rel))
	if err != nil || g.tooYoung(g.s.path(rel)) {
		return true
	}
	return slices.ContainsFunc(names, func(n string) bool { return g.tooYoung(g.s.path(filepath.Join(rel, n))) })
}

func (s *Store) dirSize(rel string) (size int64) {
	entries, _ := os.ReadDir(s.path(rel))
	for _, e := range entries {
		if fi, err := e.Info(); err == nil {
			size += onDisk(fi)
		}
	}
	return size
}

// onDisk is what a file occupies, which is what is free without it: a sparse one may be far longer.
func onDisk(fi os.FileInfo) int64 {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fi.Size()
	}
	return st.Blocks * 512 // st_blocks counts 512-byte units whatever the block size
}

// sweepBlobs goes through blobs/<algo>.
func (g *gcRun) sweepBlobs() error {
	if g.marks.unknown != nil {
		return nil
	}
	return g.eachDir("blobs", 1, func(rel string, names []string) error {
		return g.sweepFiles(rel, names, func(name string) bool {
			d := digestOf(filepath.Base(rel), name)
			return d != "" && !g.marks.has(blobRel(d))
		})
	})
}

// sweepObjects goes through objects/<algo>/<xx>, links "<hex>-<c>" before their "<hex>".
func (g *gcRun) sweepObjects() error {
	if g.skipObjects() {
		return nil
	}
	return g.eachDir("objects", 2, func(rel string, names []string) error {
		slices.Reverse(names)
		return g.sweepFiles(rel, names, func(name string) bool {
			d := digestOf(filepath.Base(filepath.Dir(rel)), baseName(name))
			return d != "" && !g.marks.has(objectRel(d))
		})
	})
}

func (g *gcRun) skipObjects() bool {
	if g.o.Objects == nil {
		return true
	}
	if g.marks.blind != nil {
		g.found("kept", "objects", fmt.Sprintf("all, because %v; tocsin check --repair", g.marks.blind), 0)
	}
	return g.marks.blind != nil
}

// sweepFiles removes the files that dead calls garbage, and old temp files, in batches that each look at the roots.
func (g *gcRun) sweepFiles(rel string, names []string, dead func(name string) bool) error {
	candidates := slices.DeleteFunc(names, func(n string) bool {
		return !(strings.HasPrefix(n, tempPrefix) || dead(n)) || g.tooYoung(g.s.path(filepath.Join(rel, n)))
	})
	for batch := range slices.Chunk(candidates, batchSize) {
		err := g.settled(g.view, func(*bolt.Tx, *roots) error {
			if g.o.Objects != nil && g.marks.blind != nil {
				return nil
			}
			for _, n := range batch {
				if strings.HasPrefix(n, tempPrefix) || dead(n) {
					if err := g.removeFile(filepath.Join(rel, n)); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (g *gcRun) removeFile(rel string) error {
	path := g.s.path(rel)
	fi, err := os.Lstat(path)
	if err != nil {
		return nil
	}
	if g.o.DryRun {
		g.found("garbage", rel, "not reached", onDisk(fi))
		return nil
	}
	removed, err := g.s.removeUnlocked(path, g.cutoff)
	if removed {
		g.found("garbage", rel, "not reached", onDisk(fi))
	}
	return err
}

// removeUnlocked unlinks a file that nobody holds a lock on and that was not touched after cutoff (zero: whenever).
func (s *Store) removeUnlocked(path string, cutoff time.Time) (bool, error) {
	f, err := os.Open(path)
	if notExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !sameFile(f, path) {
		return false, nil
	}
	fi, err := f.Stat()
	if err != nil || !cutoff.IsZero() && young(fi.ModTime(), cutoff) {
		return false, err
	}
	if fi.IsDir() {
		return true, s.disk.unlinkTree(path)
	}
	if strings.HasPrefix(path, s.path("partial")) {
		if err := s.disk.unlink(path + ".map"); err != nil {
			return false, err
		}
	}
	return true, s.disk.unlink(path)
}

// sweepPartials removes what no layer fills any more and what was completed; a filler's lock keeps it.
func (g *gcRun) sweepPartials() error {
	if g.skipObjects() {
		return nil
	}
	return g.eachDir("partial", 2, func(rel string, names []string) error {
		algo := filepath.Base(filepath.Dir(rel))
		return g.sweepFiles(rel, names, func(name string) bool {
			data, isMap := strings.CutSuffix(name, ".map")
			d := digestOf(algo, baseName(data))
			if d == "" || isMap && exists(g.s.path(filepath.Join(rel, data))) {
				return false // a map goes with its data
			}
			return isMap || !g.marks.has(filepath.Join(rel, name)) || exists(g.s.path(objectRel(d)))
		})
	})
}

// sweepIngest removes what batches and downloads left behind when they died.
func (g *gcRun) sweepIngest() error {
	names, err := readNames(g.s.path("ingest"))
	if err != nil {
		return err
	}
	for _, name := range names {
		rel := filepath.Join("ingest", name)
		if g.dirTooYoungOrFile(rel) {
			continue
		}
		if err := g.removeFile(rel); err != nil {
			return err
		}
	}
	return nil
}

func (g *gcRun) dirTooYoungOrFile(rel string) bool {
	fi, err := os.Lstat(g.s.path(rel))
	if err != nil {
		return true
	}
	if fi.IsDir() {
		return g.dirTooYoung(rel)
	}
	return young(fi.ModTime(), g.cutoff)
}

// eachDir calls fn for each directory that many levels below top, with the sorted names in it.
func (g *gcRun) eachDir(top string, levels int, fn func(rel string, names []string) error) error {
	return g.s.eachDir(top, levels, fn)
}

func (s *Store) eachDir(rel string, levels int, fn func(rel string, names []string) error) error {
	names, err := readNames(s.path(rel))
	if err != nil {
		return err
	}
	if levels == 0 {
		return fn(rel, names)
	}
	for _, n := range names {
		err := s.eachDir(filepath.Join(rel, n), levels-1, fn)
		if err != nil && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
	}
	return nil
}

// readNames lists a directory, sorted; one that is not there is empty.
func readNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !notExist(err) {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// objectDigest is the digest behind a name in objects/<algo>/<xx>.
func objectDigest(rel, name string) digest.Digest {
	return digestOf(filepath.Base(filepath.Dir(rel)), baseName(name))
}
