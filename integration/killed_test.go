package integration_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// point is where a process is killed: at the request with that number, counted from 0, after that many bytes of its
// answer. More bytes than there are: after the answer.
type point struct {
	request int
	bytes   int
}

const all = 1 << 30

// killer is a rule of a front that kills a process at a point, once.
type killer struct {
	at   point
	kill func()        // returns when the process is gone
	met  chan struct{} // closed when it is
	// arrived says whether something of what was sent is in the store; the kill waits for that, but not for ever.
	arrived func() bool

	mu   sync.Mutex
	seen int
}

func newKiller(at point, root string, kill func()) *killer {
	k := &killer{at: at, kill: kill, met: make(chan struct{})}
	before := -1
	k.arrived = func() bool {
		n := len(below(root))
		if before < 0 {
			before = n
		}
		return n > before
	}
	return k
}

// rule is the killer's, for requests of tocsin alone: containerd asks the same registry.
func (k *killer) rule() front.Rule {
	return front.Rule{Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		k.mu.Lock()
		mine := strings.HasPrefix(r.UserAgent(), "tocsin/") && k.seen == k.at.request
		if strings.HasPrefix(r.UserAgent(), "tocsin/") {
			k.seen++
		}
		k.mu.Unlock()
		if !mine {
			next.ServeHTTP(w, r)
			return
		}
		k.arrived()
		next.ServeHTTP(&cut{ResponseWriter: w, left: k.at.bytes}, r)
		_ = http.NewResponseController(w).Flush()
		if k.at.bytes > 0 {
			k.untilArrived()
		}
		k.kill()
		close(k.met)
		panic(http.ErrAbortHandler)
	}}
}

// untilArrived waits no more than a while: not every half answer leads to something.
func (k *killer) untilArrived() {
	end, poll := time.NewTimer(5*time.Second), time.NewTicker(10*time.Millisecond)
	defer end.Stop()
	defer poll.Stop()
	for !k.arrived() {
		select {
		case <-poll.C:
		case <-end.C:
			return
		}
	}
}

// below lists the content of a store, whatever is being done to it meanwhile.
func below(root string) (files []string) {
	for _, dir := range []string{"objects", "partial", "layers"} {
		_ = filepath.WalkDir(filepath.Join(root, dir), func(name string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				files = append(files, name)
			}
			return nil
		})
	}
	return files
}

// cut passes the first bytes of a body and swallows the rest.
type cut struct {
	http.ResponseWriter
	left int
}

func (c *cut) Write(p []byte) (int, error) {
	n := min(c.left, len(p))
	c.left -= n
	if n == 0 {
		return len(p), nil
	}
	if _, err := c.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	return len(p), nil
}

// there is what of an image's layers is in a store at rest: the places, in its blobs, of the chunks that need not be
// fetched any more, and of those that must be.
type there struct {
	whole   map[string]bool // layers without a TOC, by blob, that are there
	tocs    map[string]bool // layers, by blob, whose TOC is known
	present map[string][]manifest.Range
	absent  map[string][]manifest.Range
}

func whatIsThere(t *testing.T, root string, im *manifest.Image) there {
	t.Helper()
	st, err := store.Open(root, &store.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	found := there{map[string]bool{}, map[string]bool{}, map[string][]manifest.Range{}, map[string][]manifest.Range{}}
	for _, layer := range im.DataLayers() {
		blob := layer.Digest.String()
		if layer.TOC == nil {
			_, err := st.LayerByDiffID(layer.DiffID)
			found.whole[blob] = err == nil
			continue
		}
		row, err := st.LayerByTOC(layer.TOC.Digest)
		if err != nil {
			continue
		}
		found.tocs[blob] = true
		m, err := st.LayerIndex(row.Number)
		if err != nil {
			t.Fatal(err)
		}
		index, err := chunked.OpenIndex(m.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for x := range index.NumObjects() {
			key := index.Object(x)
			whole := st.HasObject(key.Digest, key.Size)
			hex := key.Digest.Encoded()
			marks, _ := os.ReadFile(filepath.Join(root, "partial", "sha256", hex[:2], key.Name()+".map"))
			for i := range index.NumChunks(x) {
				c := index.Chunk(x, i)
				marked := len(marks) > mapHeader+i && marks[mapHeader+i] == 1
				switch {
				case c.Zeros:
				case whole || marked:
					found.present[blob] = append(found.present[blob], c.Blob)
				default:
					found.absent[blob] = append(found.absent[blob], c.Blob)
				}
			}
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// checkLog demands that no request fetched what was there: no TOC of a known layer, and no range that begins or ends
// with a chunk that was there. Inside a range there may be such chunks, as gaps that are cheaper to read than to skip.
func (th there) checkLog(t *testing.T, what string, log []front.Request, im *manifest.Image) {
	t.Helper()
	for _, layer := range im.DataLayers() {
		blob := layer.Digest.String()
		for _, r := range log {
			if strings.HasSuffix(r.Path, blob) && th.whole[blob] {
				t.Errorf("%s: %s was fetched again", what, r)
			}
			if !strings.HasSuffix(r.Path, blob) || !th.tocs[blob] {
				continue
			}
			if r.Range == "" {
				t.Errorf("%s: all of %s was fetched again", what, blob)
			}
			for _, s := range rangesOf(t, r.Range) {
				first := slices.ContainsFunc(th.absent[blob], func(c manifest.Range) bool { return c.Off == s.Off })
				last := slices.ContainsFunc(th.absent[blob], func(c manifest.Range) bool { return c.End() == s.End() })
				if !first || !last {
					t.Errorf("%s: %s was asked for %v, which begins or ends with what was there", what, blob, s)
				}
			}
		}
	}
}

func rangesOf(t *testing.T, header string) (out []manifest.Range) {
	t.Helper()
	for s := range strings.SplitSeq(strings.TrimPrefix(header, "bytes="), ",") {
		var first, last int64
		if _, err := fmt.Sscanf(strings.TrimSpace(s), "%d-%d", &first, &last); err != nil {
			t.Fatalf("range %q: %v", header, err)
		}
		out = append(out, manifest.Range{Off: first, Len: last - first + 1})
	}
	return out
}

// manyFiles is a layer of small files, one of several chunks, and one that is long.
func manyFiles(seed byte) content {
	files := content{"holed": holed(seed, 4), "long": noise(seed, 700_000)}
	for i := range 60 {
		files[fmt.Sprintf("f%02d", i)] = noise(seed+byte(i), 1000+977*i)
	}
	return files
}

// TestCopyKilled: `tocsin copy` into the store, killed at ten points, loses nothing that was committed, leaves a clean
// store, and the next copy finishes it without fetching again what was there.
func TestCopyKilled(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "tocsin")
	if err := harness.Build("./cmd/tocsin", bin); err != nil {
		t.Fatal(err)
	}
	f := newFar(t)
	kept := []mkimage.Layer{layerOf(manyFiles(1), nil)}
	long := append(kept, layerOf(content{"more": noise(200, 300_000), "x": holed(90, 6)}, nil), layerOf(manyFiles(120), nil))
	for _, c := range []struct {
		name, compress, sentinel string
		points                   []point
	}{
		{"sentinel", "zstd:chunked", "only", []point{{0, 0}, {1, 0}, {1, all}, {2, 0}, {3, 0}, {3, all}, {4, 0}, {4, 200_000}, {5, 50_000}, {5, 280_000}}},
		{"chunked", "zstd:chunked", "none", []point{{3, all}, {4, 200_000}, {5, 50_000}, {5, 280_000}}},
		{"gzip", "gzip", "none", []point{{0, 0}, {1, all}, {2, 0}, {2, 100_000}, {3, 0}, {3, 100_000}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &copy.Options{Compress: copy.Compression{Algorithm: c.compress}, Sentinel: c.sentinel}
			k := &copyKill{t: t, bin: bin, far: f, image: f.publishAs(t, "new", o, long...)}
			f.publishAs(t, "kept", o, kept...)
			k.trees(kept, long)
			k.template = t.TempDir()
			if out, err := k.run(k.template, "kept", nil); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			already := whatIsThere(t, k.template, k.image).size()
			some := false
			for _, at := range c.points {
				some = k.at(at).size() > already || some
			}
			if !some {
				t.Error("no kill left anything of the new image: the points say nothing")
			}
		})
	}
}

// size counts what is there.
func (th there) size() int {
	n := len(th.tocs)
	for _, whole := range th.whole {
		if whole {
			n++
		}
	}
	for _, ranges := range th.present {
		n += len(ranges)
	}
	return n
}

// copyKill is a copy that is killed again and again, each time into a copy of a store that has another image.
type copyKill struct {
	t              *testing.T
	bin, template  string
	far            *far
	image          *manifest.Image
	tree, keptTree shown
}

// trees are what both images must show, as an honest and undisturbed pull of the same layers shows it.
func (k *copyKill) trees(kept, long []mkimage.Layer) {
	k.keptTree = goodTree(k.t, k.far, "good-kept", k.far.publish(k.t, "good-kept", "only", kept...))
	k.tree = goodTree(k.t, k.far, "good-new", k.far.publish(k.t, "good-new", "only", long...))
}

// run copies an image into the store at root, as a process.
func (k *copyKill) run(root, repo string, killed *killer) ([]byte, error) {
	cmd := exec.Command(k.bin, "--root", root, "--plain-http", "copy", k.far.ref(repo), "store:"+repo)
	k.far.front.Behave()
	k.far.front.Forget()
	if killed != nil {
		killed.kill = func() { _ = cmd.Process.Kill() }
		k.far.front.Add(killed.rule())
	}
	return cmd.CombinedOutput()
}

// at kills a copy at a point, looks at what it left, and copies again.
func (k *copyKill) at(at point) there {
	t := k.t
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	if err := os.CopyFS(root, os.DirFS(k.template)); err != nil {
		t.Fatal(err)
	}
	killed := newKiller(at, root, nil)
	if k.image.DataLayers()[0].TOC == nil { // a tar counts when all of it is there
		already := whatIsThere(t, root, k.image).size()
		killed.arrived = func() bool { return whatIsThere(t, root, k.image).size() > already }
	}
	if out, err := k.run(root, "new", killed); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Fatalf("%+v: it was not killed: %v\n%s\n%v", at, err, out, k.far.front.Log())
	}
	checkClean(t, fmt.Sprintf("killed at %+v", at), root)
	left := whatIsThere(t, root, k.image)
	l := openLocal(t, root, k.far)
	k.far.front.Behave()
	k.far.front.Add(front.Rule{Do: front.Status(404, "BLOB_UNKNOWN")}) // what was committed needs nobody
	l.wantStored(t, "kept", k.keptTree)
	l.close()
	if out, err := k.run(root, "new", nil); err != nil {
		t.Fatalf("%+v: second run: %v\n%s", at, err, out)
	}
	left.checkLog(t, fmt.Sprintf("second run after %+v", at), k.far.front.Log(), k.image)
	checkClean(t, fmt.Sprintf("second run after %+v", at), root)
	l = openLocal(t, root, k.far)
	defer l.close()
	l.wantStored(t, "new", k.tree)
	l.wantStored(t, "kept", k.keptTree)
	return left
}

func checkClean(t *testing.T, what, root string) {
	t.Helper()
	st, err := store.Open(root, &store.Options{Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	found, err := st.Check(t.Context(), store.CheckOptions{Verify: true, Objects: fill.IndexObjects,
		Index: func(b []byte) error { _, err := chunked.OpenIndex(b); return err },
		View:  func(b []byte) error { _, err := chunked.OpenView(b); return err }})
	if err != nil || len(found) > 0 {
		t.Errorf("%s: check: %v, %v", what, found, err)
	}
}

// wantStored demands the tree of a copied image.
func (l *local) wantStored(t *testing.T, name string, want shown) {
	t.Helper()
	records, _, err := l.store.Resolve("docker.io/library/" + name + ":latest")
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	view, err := l.pool.View(t.Context(), records[0].Layers)
	if err != nil {
		t.Fatal(err)
	}
	got, failed, err := l.read(t.Context(), view)
	if err != nil || len(failed) > 0 {
		t.Fatal(err, failed)
	}
	sameOrFailed(t, name, want, got, failed)
}
