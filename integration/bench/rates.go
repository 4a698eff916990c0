package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tocsin/tocsin/integration/harness"
)

const passes = 3 // the best of so many warm passes counts

// rates: reading every file and looking at every entry of one image again and again, through `tocsin mount` and in a
// plain copy on the file system below.
func rates(ctx context.Context) (err error) {
	layout, err := layoutOf("debian-python")
	if err != nil {
		return err
	}
	m, err := harness.New(nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	point, plain := filepath.Join(m.Dir, "mount"), filepath.Join(m.Dir, "plain")
	if err := os.Mkdir(point, 0o700); err != nil {
		return err
	}
	if _, err := m.Tocsin(ctx, "copy", "oci:"+layout+":gzip", "store:bench"); err != nil {
		return err
	}
	if _, err := m.Tocsin(ctx, "mount", "store:bench", point); err != nil {
		return err
	}
	defer func() {
		_, unmounted := m.Tocsin(ctx, "umount", point)
		err = errors.Join(err, unmounted)
	}()
	if _, err := m.Exec(ctx, "cp", "-a", point, plain); err != nil {
		return err
	}
	fmt.Printf("warm rates, best of %d passes\n%-14s %16s %22s\n", passes, "", "read", "readdir and lstat")
	for _, tree := range []struct{ name, dir string }{{"tocsin mount", point}, {"plain files", plain}} {
		read, look, err := measure(tree.dir)
		if err != nil {
			return err
		}
		fmt.Printf("%-14s %11.0f MB/s %16.0f k/s\n", tree.name, read/1e6, look/1e3)
	}
	fmt.Println()
	return nil
}

// measure returns bytes read a second and entries looked at a second.
func measure(dir string) (read, look float64, err error) {
	buffer := make([]byte, 1<<20)
	for range passes + 1 { // the first one warms
		start := time.Now()
		entries, _, err := walk(dir, nil)
		if err != nil {
			return 0, 0, err
		}
		look = max(look, float64(entries)/time.Since(start).Seconds())
		start = time.Now()
		_, bytes, err := walk(dir, buffer)
		if err != nil {
			return 0, 0, err
		}
		read = max(read, float64(bytes)/time.Since(start).Seconds())
	}
	return read, look, nil
}

// walk looks at every entry below dir and, with a buffer, reads every regular file to its end.
func walk(dir string, buffer []byte) (entries, bytes int64, err error) {
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		entries++
		if _, err := os.Lstat(name); err != nil {
			return err
		}
		if buffer == nil || !d.Type().IsRegular() {
			return nil
		}
		n, err := readFile(name, buffer)
		bytes += n
		return err
	})
	return entries, bytes, err
}

func readFile(name string, buffer []byte) (total int64, err error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for {
		n, err := file.Read(buffer)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
