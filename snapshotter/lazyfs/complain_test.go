package lazyfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/store"
)

func TestQuiet(t *testing.T) {
	var q quiet
	start := time.Unix(1e9, 0)
	for i, c := range []struct {
		node  uint64
		after time.Duration
		want  bool
	}{
		{1, 0, true}, {1, 0, false}, {1, time.Second, false}, {2, 2 * time.Second, true}, {3, quietFor - 1, true}, {1, quietFor - 1, false},
		{1, quietFor, true}, {1, quietFor, false}, {3, quietFor + 1, false}, {2, quietFor + 2*time.Second, true},
		{3, 2*quietFor - 1, true}, {1, 3 * quietFor, true},
	} {
		if got := q.due(c.node, start.Add(c.after)); got != c.want {
			t.Errorf("%d: node %d after %v: %v", i, c.node, c.after, got)
		}
	}
	said := 0
	for node := range uint64(10 * complaintsMost) {
		if q.due(1000+node, start.Add(10*quietFor)) {
			said++
		}
	}
	if said != complaintsMost {
		t.Errorf("%d lines in a minute", said)
	}
}

func TestFailures(t *testing.T) {
	var f failures
	start := time.Unix(1e9, 0)
	if err := f.get(1, start); err != nil {
		t.Error(err)
	}
	f.note(1, errStale, start)
	if err := f.get(1, start.Add(rememberFailure-1)); !errors.Is(err, errStale) {
		t.Errorf("just before: %v", err)
	}
	if err := f.get(1, start.Add(rememberFailure)); err != nil {
		t.Errorf("after: %v", err)
	}
	f.note(1, errStale, start)
	f.note(1, nil, start)
	if err := f.get(1, start); err != nil {
		t.Errorf("after it could be opened: %v", err)
	}
	for n := range uint64(10 * failuresMost) {
		f.note(n, errStale, start)
	}
	if len(f.m) > failuresMost {
		t.Errorf("%d failures are remembered", len(f.m))
	}
}

// readEntry reads a path of a view as the kernel would, "" its root.
func readEntry(t *testing.T, fs *FS, n uint64, path string) ([]byte, fuse.Status) {
	t.Helper()
	in := &fuse.ReadIn{Size: 4096}
	in.NodeId = viewNode(n, 0)
	if path != "" {
		err := fs.views.with(n, func(v *view) error {
			entry := uint32(0)
			for part := range strings.SplitSeq(path, "/") {
				e, ok := v.tree.Lookup(entry, part)
				if !ok {
					return fmt.Errorf("%s: %w", path, os.ErrNotExist)
				}
				entry = e
			}
			in.NodeId = viewNode(n, entry)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	r, status := fs.Read(make(chan struct{}), in, make([]byte, 4096))
	if status != fuse.OK {
		return nil, status
	}
	b, _ := r.Bytes(nil)
	return b, status
}

// opened counts how often a file is opened while fn runs.
func opened(t *testing.T, path string, fn func()) (n int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(fd)
	// IN_CLOSE keeps equal events apart, which would count as one.
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_CLOSE); err != nil {
		t.Fatal(err)
	}
	fn()
	buf := make([]byte, 64<<10)
	for {
		got, err := unix.Read(fd, buf)
		if err != nil {
			return n
		}
		for at := 0; at < got; at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:])) {
			if binary.NativeEndian.Uint32(buf[at+4:])&unix.IN_OPEN != 0 {
				n++
			}
		}
	}
}

// However often a read fails, it is logged once, with the image and the path, and the
// store's index is opened once or twice: for a layer without a source, a denied view, and
// one whose layer is gone.
func TestFailingReadsAreQuiet(t *testing.T) {
	const times = 200
	s := newSetup(t)
	believed, err := s.pool.ViewOf(t.Context(), store.Chain{Layers: []uint64{s.layer}, Claim: digest.FromString("claim")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.store.DenyView(believed, "its tar is another"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		view uint64
		path string // in the log
	}{
		"no source":   {s.view, "/d/"}, // it has two names
		"denied view": {believed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pool := fill.New(s.store, nil)
			defer pool.Close()
			var log bytes.Buffer
			fs := New(&Options{Store: s.store, Pool: pool, Logger: slog.New(slog.NewTextHandler(&log, nil)),
				Image: func(view uint64) string { return fmt.Sprintf("registry.test/x:%d", view) }})
			defer fs.views.close()
			path := "d/small"
			if c.path == "" { // nothing can be looked up
				path = ""
			}
			n := opened(t, filepath.Join(s.store.Root(), "index.db"), func() {
				for range times {
					if _, status := readEntry(t, fs, c.view, path); status != fuse.EIO {
						t.Fatalf("status %v", status)
					}
				}
			})
			if n == 0 || n > 10 {
				t.Errorf("index.db was opened %d times for %d reads", n, times)
			}
			said := strings.TrimSpace(log.String())
			if strings.Count(said, "\n") != 0 || !strings.Contains(said, fmt.Sprintf("image=registry.test/x:%d path=%s", c.view, c.path)) {
				t.Errorf("log: %s", said)
			}
		})
	}
}

// What gc has removed is not mapped any more once nobody reads it.
func TestSweep(t *testing.T) {
	s := newSetup(t)
	var log bytes.Buffer
	fs := New(&Options{Store: s.store, Pool: s.pool, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer fs.views.close()
	if got, status := readEntry(t, fs, s.view, "d/small"); status != fuse.OK || string(got) != "hello\n" {
		t.Fatalf("%q, %v", got, status)
	}
	sweep := func() {
		if err := errors.Join(fs.Sweep(), s.pool.Sweep()); err != nil {
			t.Error(err)
		}
	}
	sweep()
	if n := len(mapped(t, s.store.Root())); n != 2 {
		t.Fatalf("mapped in use: %v", mapped(t, s.store.Root()))
	}
	l, err := s.pool.Layer(s.layer)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := l.Index().ObjectByPath("d/big")
	open, err := l.Open(x)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.GC(t.Context(), store.GCOptions{Grace: -1, DropView: fs.DropView}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Layer(s.layer); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("gc left the layer: %v", err)
	}
	sweep()
	if left := mapped(t, s.store.Root()); len(left) != 1 || !strings.Contains(left[0], "/index (deleted)") {
		t.Errorf("mapped with a file open: %v", left)
	}
	buf := make([]byte, 1000)
	if _, err := open.ReadAt(t.Context(), buf, 1<<20); err != nil || !bytes.Equal(buf, noise(3 << 20)[1<<20:1<<20+1000]) {
		t.Errorf("a file that is open: %v", err)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	if left := mapped(t, s.store.Root()); len(left) != 0 {
		t.Errorf("mapped for nobody: %v", left)
	}
	if _, err := l.Open(x); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open of a layer that is gone: %v", err)
	}
	if _, status := readEntry(t, fs, s.view, ""); status != fuse.Status(stale) {
		t.Errorf("a view that is gone: %v", status)
	}
}

// mapped are the files of layers and views below root that are mapped to memory.
func mapped(t *testing.T, root string) (files []string) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Skip(err)
	}
	for line := range strings.Lines(string(raw)) {
		for _, dir := range []string{"/layers/", "/views/"} {
			if _, path, ok := strings.Cut(line, root+dir); ok {
				files = append(files, strings.TrimSpace(dir+path))
			}
		}
	}
	return files
}
