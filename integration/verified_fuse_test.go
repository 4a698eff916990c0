package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/trees"
	"github.com/tocsin/tocsin/snapshotter/lazyfs"
)

// childTree names, in the environment of a child of this test binary, the directory that it reads.
const childTree = "TOCSIN_TEST_TREE"

// looked is one path as a child saw it: a row of trees, or the error of reading it.
type looked struct {
	Row string
	Err string
}

// TestChildReadsATree is not a test: it is the process that reads a mount for TestFlippedBitsThroughFUSE, because a
// process that reads a file system it serves itself may wait for itself.
func TestChildReadsATree(t *testing.T) {
	root := os.Getenv(childTree)
	if root == "" {
		return
	}
	names, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]looked{}
	for _, name := range names {
		only := "/" + name.Name()
		rows, err := trees.Capture(root, &trees.Options{Skip: func(path string) bool { return path != only }})
		var b bytes.Buffer
		if err != nil {
			seen[only] = looked{Err: err.Error()}
		} else if err := trees.Write(&b, rows[len(rows)-1:]); err != nil {
			t.Fatal(err)
		} else {
			seen[only] = looked{Row: b.String()}
		}
	}
	raw, err := json.Marshal(seen)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(os.Getenv(childTree+"_OUT"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// readAsChild has a child read a directory.
func readAsChild(t *testing.T, root string) map[string]looked {
	t.Helper()
	out := filepath.Join(t.TempDir(), "seen")
	cmd := exec.Command(os.Args[0], "-test.run=^TestChildReadsATree$")
	cmd.Env = append(os.Environ(), childTree+"="+root, childTree+"_OUT="+out)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("child: %v\n%s", err, b)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var seen map[string]looked
	if err := json.Unmarshal(raw, &seen); err != nil {
		t.Fatal(err)
	}
	return seen
}

// lockedBuffer takes the log of a server while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// mounted shows a view on a directory while fn runs, and returns what the server logged.
func (l *local) mounted(t *testing.T, view uint64, fn func(root string)) string {
	t.Helper()
	dir := t.TempDir()
	device, err := lazyfs.Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	var log lockedBuffer
	served := make(chan error, 1)
	server := lazyfs.New(&lazyfs.Options{Store: l.store, Pool: l.pool, Single: view, Passthrough: true,
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	go func() { served <- server.Serve(device) }()
	fn(dir)
	if err := errors.Join(unix.Unmount(dir, 0), <-served, device.Close()); err != nil {
		t.Error(err)
	}
	return log.String()
}

// TestFlippedBitsThroughFUSE is TestFlippedBitsFromTheRegistry with a kernel between: what a process reads of a mount
// is right, or fails and leaves the object's name in the log.
func TestFlippedBitsThroughFUSE(t *testing.T) {
	harness.Need(t)
	f := newFar(t)
	files, more := smallLayer()
	im := f.publish(t, "small", "only", layerOf(files, more))
	layer := im.DataLayers()[0]
	read := func(at int) (map[string]looked, string, error) {
		f.front.Behave()
		if at >= 0 {
			f.front.Add(front.Rule{Path: layer.Digest.String(), Do: front.FlipBit(at)})
		}
		l := openLocal(t, t.TempDir(), f)
		defer l.close()
		view, _, err := l.add(t.Context(), f, "small", im)
		if err != nil {
			return nil, "", err
		}
		var seen map[string]looked
		log := l.mounted(t, view, func(root string) { seen = readAsChild(t, root) })
		return seen, log, nil
	}
	want, log, err := read(-1)
	if err != nil || len(want) != len(files)+len(more) || log != "" {
		t.Fatal(want, log, err)
	}
	denied := 0
	for at := int64(0); at < layer.TOC.TOC.Off; at += 97 {
		got, log, err := read(int(at))
		if err != nil {
			continue // seen in the TOC or tar-split: TestFlippedBitsFromTheRegistry
		}
		for name, w := range want {
			g, ok := got[name]
			switch {
			case !ok:
				t.Errorf("byte %d: %s is missing", at, name)
			case g.Err != "":
				denied++
				if !strings.Contains(g.Err, "input/output error") || !strings.Contains(log, "object sha256:") {
					t.Errorf("byte %d: %s: %s; log:\n%s", at, name, g.Err, log)
				}
			case g.Row != w.Row:
				t.Fatalf("byte %d: WRONG: %s is\n%s, want\n%s", at, name, g.Row, w.Row)
			}
		}
	}
	if denied == 0 {
		t.Error("no flip was noticed")
	}
}
