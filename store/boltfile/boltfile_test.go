package boltfile

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// database makes a file with branch pages, overflow, buckets in buckets, an empty one, and free pages; and gives its rows.
func database(t testing.TB) (raw []byte, rows map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	rows = map[string]string{}
	for round := range 2 {
		err = db.Update(func(tx *bolt.Tx) error {
			for _, name := range []string{"big", "empty", "rows"} {
				if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
					return err
				}
			}
			inner, err := tx.Bucket([]byte("rows")).CreateBucketIfNotExists([]byte("inner"))
			if err != nil {
				return err
			}
			put := func(b *bolt.Bucket, where, k, v string) {
				rows[where+"/"+k] = v
				if err := b.Put([]byte(k), []byte(v)); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 300 {
				put(tx.Bucket([]byte("rows")), "rows", fmt.Sprintf("key %04d", i), fmt.Sprintf("value %d of round %d", i, round))
			}
			put(inner, "rows/inner", "k", "v")
			put(tx.Bucket([]byte("big")), "big", "b", string(bytes.Repeat([]byte("0123456789"), 2000)))
			return tx.Bucket([]byte("rows")).SetSequence(77)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw, rows
}

func open(raw []byte) (*File, error) { return Open(bytes.NewReader(raw), int64(len(raw))) }

func read(f *File) (rows map[string]string, sequence uint64, problems []error) {
	rows = map[string]string{}
	problems = f.Rows(func(r Row) {
		if r.Bucket {
			sequence = max(sequence, r.Sequence)
			return
		}
		rows[string(bytes.Join(append(slices.Clone(r.Path), r.Key), []byte("/")))] = string(r.Value)
	})
	return rows, sequence, problems
}

func TestSoundFile(t *testing.T) {
	raw, want := database(t)
	f, err := open(raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Verify(); err != nil {
		t.Error(err)
	}
	if problems := f.Check(10); len(problems) > 0 {
		t.Error(problems)
	}
	got, sequence, problems := read(f)
	if !maps.Equal(got, want) || sequence != 77 || len(problems) > 0 {
		t.Errorf("%d rows, want %d; sequence %d; %v", len(got), len(want), sequence, problems)
	}
	for _, n := range []int{0, 1, 100, 4096, 8192, len(raw) / 2} {
		if f, err := open(raw[:n]); err == nil && f.Verify() == nil {
			t.Errorf("a file cut to %d bytes is sound", n)
		}
	}
}

// TestFlippedBits: whatever passes Verify is safe to give to bbolt: it reads and writes without a panic. And what
// cannot be read of a damaged file is at most a part.
func TestFlippedBits(t *testing.T) {
	raw, want := database(t)
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	noticed, kept := 0, 0
	for i := range 600 {
		at, bit := rnd.IntN(len(raw)), rnd.IntN(8)
		if i < 300 { // headers and elements are where it hurts
			at = rnd.IntN(len(raw)/4096)*4096 + rnd.IntN(48)
		}
		bad := slices.Clone(raw)
		bad[at] ^= 1 << bit
		f, err := open(bad)
		if err != nil || f.Verify() != nil {
			noticed++
		} else {
			use(t, filepath.Join(dir, "x.db"), bad)
		}
		if err != nil {
			t.Fatalf("byte %d: nothing is left: %v", at, err)
		}
		if got, _, _ := read(f); len(got) > len(want)/2 {
			kept++
		}
	}
	if noticed < 60 || kept < 550 {
		t.Errorf("%d flips noticed; %d files mostly readable", noticed, kept)
	}
}

// use lets bbolt do everything with a file.
func use(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := open(after)
		if err == nil {
			err = f.Verify()
		}
		if err != nil {
			t.Errorf("a file that was verified is damaged after a transaction: %v", err)
		}
	}()
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			if b == nil {
				return nil
			}
			if err := b.ForEach(func(_, _ []byte) error { return nil }); err != nil {
				return err
			}
			for i := range 50 {
				k := fmt.Appendf(nil, "key %04d", i*5)
				if b.Bucket(k) != nil {
					continue
				}
				if err := b.Put(k, bytes.Repeat([]byte("x"), 200)); err != nil {
					return nil //nolint:nilerr // a key that is a bucket by now
				}
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRandomDatabases: whatever bbolt has written, by many transactions, is sound.
func TestRandomDatabases(t *testing.T) {
	for seed := range uint64(6) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		path := filepath.Join(t.TempDir(), "x.db")
		for range 60 {
			db, err := bolt.Open(path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoSync: true})
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bolt.Tx) error { return change(rnd, tx) })
			if cerr := db.Close(); err != nil || cerr != nil {
				t.Fatal(err, cerr)
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			f, err := open(raw)
			if err != nil {
				t.Fatal(err)
			}
			if problems := f.Check(3); len(problems) > 0 {
				t.Fatalf("seed %d: %v", seed, problems)
			}
		}
	}
}

// change puts and deletes rows in buckets at random, and deletes a bucket now and then.
func change(rnd *rand.Rand, tx *bolt.Tx) error {
	for range 1 + rnd.IntN(3) {
		name := []byte{'a' + byte(rnd.IntN(3))}
		if rnd.IntN(40) == 0 && tx.Bucket(name) != nil {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		b, err := tx.CreateBucketIfNotExists(name)
		if err != nil {
			return err
		}
		if rnd.IntN(3) == 0 {
			if b, err = b.CreateBucketIfNotExists([]byte("zz-inner")); err != nil {
				return err
			}
		}
		deletes := rnd.IntN(4) > 1
		for range rnd.IntN(200) {
			k := fmt.Appendf(nil, "%0*d", 4+rnd.IntN(2)*40, rnd.IntN(400))
			if deletes {
				err = b.Delete(k)
			} else {
				err = b.Put(k, make([]byte, rnd.IntN(1+rnd.IntN(6000))))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// FuzzRows: no input makes a walk panic, and none makes it read more than the file has.
func FuzzRows(f *testing.F) {
	raw, _ := database(f)
	f.Add(raw)
	f.Add(raw[:3*4096])
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := open(b)
		if err != nil {
			return
		}
		_ = file.Verify()
		_ = file.Check(10)
		file.Rows(func(r Row) {
			if len(r.Key)+len(r.Value) > len(b) {
				t.Fatal("a row larger than the file")
			}
		})
	})
}
