package chunked

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// maxHeap is what a build may have in memory beyond what is mapped from files.
const maxHeap = 256 << 20

// costs are the images that cost most: the name of each says what it has as much of as the limits allow.
var costs = map[string]func(w *bufio.Writer){
	"files": func(w *bufio.Writer) { // each with content of its own, 200 to a directory
		for i := range 1_000_000 {
			d := digest.FromString(strconv.Itoa(i))
			fmt.Fprintf(w, `{"type":"reg","name":"usr/share/thing-%05d/file-%07d.txt","mode":420,"size":5000,"modtime":"2023-11-14T22:13:20Z","digest":"%s","offset":%d,"endOffset":%d},`+"\n", i/200, i, d, 1000+2000*i, 2500+2000*i)
		}
	},
	"names": func(w *bufio.Writer) {
		for i := range MaxEntries {
			fmt.Fprintf(w, `{"type":"dir","name":"%x"},`, i)
		}
	},
	"chunks": func(w *bufio.Writer) { // the blob's offsets in the wrong order
		a := digest.FromString("a")
		per := MaxChunks / 8
		for f := range 8 {
			base := (8 - f) * 10 * per
			for i := range per {
				if i == 0 {
					fmt.Fprintf(w, `{"type":"reg","name":"%d","size":%d,"digest":"%s","offset":%d,"endOffset":%d,"chunkSize":1,"chunkDigest":"%s"},`, f, per, digest.FromString(strconv.Itoa(f)), base, base+10*per, a)
					continue
				}
				fmt.Fprintf(w, `{"type":"chunk","name":"%d","offset":%d,"chunkOffset":%d,"chunkSize":1,"chunkDigest":"%s"},`, f, base+10*i, i, a)
			}
		}
	},
	"xattrs": func(w *bufio.Writer) {
		for i := range 1_000_000 {
			fmt.Fprintf(w, `{"type":"dir","name":"%x","xattrs":{"user.%x":"%08d"}},`, i, i, i)
		}
	},
}

// TestCosts reads the worst tables of contents, each in a process of its own, and merges what comes out; the memory that
// is not of files stays below maxHeap. It takes a minute or two for each.
func TestCosts(t *testing.T) {
	if os.Getenv("TOCSIN_COSTS") == "" {
		t.Skip("TOCSIN_COSTS is not set: takes minutes")
	}
	for name := range costs {
		t.Run(name, func(t *testing.T) {
			toc := filepath.Join(t.TempDir(), "toc")
			raw := writeTOC(t, toc, costs[name])
			cmd := exec.Command(os.Args[0], "-test.run", "^TestCostOfOne$", "-test.v")
			cmd.Env = append(os.Environ(), "TOCSIN_COST="+toc, fmt.Sprint("TOCSIN_COST_RAW=", raw), "GODEBUG=")
			out, err := cmd.CombinedOutput()
			t.Logf("%s: %d bytes uncompressed\n%s", name, raw, out)
			if err != nil {
				t.Fatal(err)
			}
			use := cmd.ProcessState.SysUsage().(*syscall.Rusage)
			t.Logf("%s: %v of user, %v of system time, %d MiB with mapped files", name, cmd.ProcessState.UserTime(), cmd.ProcessState.SystemTime(), use.Maxrss>>10)
		})
	}
}

func writeTOC(t *testing.T, path string, entries func(w *bufio.Writer)) (raw int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	count := &counter{}
	w := bufio.NewWriter(writerFunc(func(b []byte) (int, error) { count.n += int64(len(b)); return z.Write(b) }))
	w.WriteString(`{"version":1,"entries":[`)
	entries(w)
	w.WriteString(`{"type":"dir","name":"./"}]}`)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return count.n
}

type counter struct{ n int64 }

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// TestCostOfOne is the process that TestCosts starts.
func TestCostOfOne(t *testing.T) {
	path := os.Getenv("TOCSIN_COST")
	if path == "" {
		t.Skip("started by TestCosts only")
	}
	raw, err := strconv.ParseInt(os.Getenv("TOCSIN_COST_RAW"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	toc := mapFile(t, path)
	ref := &manifest.TOCRef{Digest: digest.FromBytes(toc), TOC: Range{Off: 1 << 41, Len: int64(len(toc))}, TOCRawLen: raw}
	most := int64(0)
	ws := &Workspace{Region: testRegion(t), Stop: func() error { most = max(most, anonymous(t)); return nil }}
	index, _, err := IndexTOC(ws, toc, ref, -1)
	if err != nil {
		t.Fatal(err)
	}
	report := func(what string, cost int64) {
		most = max(most, anonymous(t))
		t.Logf("%s: %d MiB beside mapped files, reckoned as %d MiB; processor time so far %v", what, most>>20, cost>>20, processorTime(t))
		if most > maxHeap {
			t.Errorf("%s takes %d MiB", what, most>>20)
		}
		most = 0
	}
	report("parse and index", BuildCost(ref))
	x, err := OpenIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	layers := []*Index{x}
	if 2*x.NumEntries() <= MaxImageEntries {
		layers = append(layers, x)
	}
	if _, err := Merge(ws, layers); err != nil {
		t.Fatal(err)
	}
	report("merge", MergeCost(int64(len(layers)*x.NumEntries())))
}

func mapFile(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b, err := syscall.Mmap(int(f.Fd()), 0, int(fi.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testRegion gives regions of sparse files.
func testRegion(t *testing.T) func(int) (func(int) ([]byte, error), error) {
	dir := t.TempDir()
	return func(limit int) (func(int) ([]byte, error), error) {
		f, err := os.CreateTemp(dir, "")
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := f.Truncate(int64(limit)); err != nil {
			return nil, err
		}
		b, err := syscall.Mmap(int(f.Fd()), 0, limit, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
		if err != nil {
			return nil, err
		}
		t.Cleanup(func() { syscall.Munmap(b) })
		return func(n int) ([]byte, error) { return b[:n:n], nil }, nil
	}
}

// anonymous returns how much memory of this process is not of files.
func anonymous(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Skip("this kernel does not tell RssAnon")
	return 0
}

func processorTime(t *testing.T) string {
	t.Helper()
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%.1f s", float64(use.Utime.Sec+use.Stime.Sec)+float64(use.Utime.Usec+use.Stime.Usec)/1e6)
}
