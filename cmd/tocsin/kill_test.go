package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/store"
)

// killBench runs tocsin as a process against a registry that kills it.
type killBench struct {
	t     *testing.T
	front *front.Front
	reg   *front.Registry
	host  string
	dir   string
}

func newKillBench(t *testing.T) *killBench {
	b := &killBench{t: t, reg: front.NewRegistry(), dir: t.TempDir()}
	b.front = front.New(b.reg)
	srv := httptest.NewServer(b.front)
	t.Cleanup(srv.Close)
	b.host = strings.TrimPrefix(srv.URL, "http://")
	b.image("old", 1, 2)
	b.image("new", 3, 10)
	return b
}

// fileSize is the size of the one file in each layer.
const fileSize = 60 << 10

// image writes layout img:NAME, with a few layers of files that do not compress.
func (b *killBench) image(name string, seed byte, files int) {
	b.t.Helper()
	r := rand.NewChaCha8([32]byte{seed})
	var layers []mkimage.Layer
	for i := range files {
		content := make([]byte, fileSize)
		_, _ = r.Read(content)
		layers = append(layers, mkimage.File(fmt.Sprintf("f%d", i), content))
	}
	if _, err := mkimage.Write(b.t.Context(), filepath.Join(b.dir, "img"), name, layers, nil); err != nil {
		b.t.Fatal(err)
	}
}

func (b *killBench) command(ctx context.Context, root string, args ...string) *exec.Cmd {
	b.t.Helper()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Args = append([]string{"tocsin"}, args...) // by this name TestMain knows it
	cmd.Env = append(os.Environ(), "TOCSIN_ROOT="+root, "HOME="+b.dir, "TMPDIR="+b.dir,
		"XDG_CACHE_HOME="+b.t.TempDir()) // what one run learned must not change what another asks
	cmd.Dir = b.dir
	return cmd
}

// run is a command that must end well; it returns its stdout.
func (b *killBench) run(root string, args ...string) string {
	b.t.Helper()
	cmd := b.command(b.t.Context(), root, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("tocsin %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(out)
}

// killed runs a command that is killed when its n-th request to the registry arrives, or, for odd n, when half of the
// answer was sent. It reports whether the command lived to make that request.
func (b *killBench) killed(n int, root string, args ...string) bool {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	cmd := b.command(ctx, root, args...)
	hit, dead := make(chan struct{}), make(chan struct{})
	defer close(dead)
	b.front.Behave()
	b.front.Forget()
	b.front.Add(front.Rule{Skip: n, Times: 1, Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if n%2 == 1 {
			rec := httptest.NewRecorder()
			next.ServeHTTP(rec, r)
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			_ = http.NewResponseController(w).Flush()
		}
		<-hit // so that cmd.Process is there
		_ = cmd.Process.Kill()
		<-dead
		panic(http.ErrAbortHandler)
	}})
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	close(hit)
	err := cmd.Wait()
	b.front.Behave()
	return err != nil
}

// killPoints are ten of the n requests that an undisturbed run makes, the first and the last among them.
func killPoints(t *testing.T, n int) []int {
	t.Helper()
	if n < 10 {
		t.Fatalf("a run makes only %d requests", n)
	}
	var points []int
	for i := range 10 {
		points = append(points, i*(n-1)/9)
	}
	return points
}

// files lists the regular files below a directory that have their final names, with sizes.
func files(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	out := make(map[string]int64)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), ".") {
			return err
		}
		info, err := d.Info()
		if err == nil {
			out[d.Name()] = info.Size()
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return out
}

// complete is how many bytes of content a store need not fetch again: with a TOC those of every complete object, of tars
// those of the layers that are there as a whole, and of kept blobs those.
func complete(t *testing.T, root, form string) (bytes int64) {
	t.Helper()
	if form != "tar" {
		where := "objects"
		if form == "kept" {
			where = "blobs"
		}
		for _, size := range files(t, filepath.Join(root, where)) {
			bytes += size
		}
		return bytes
	}
	st, err := store.Open(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	layers, err := st.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(layers)) * fileSize
}

// A pull that is killed leaves a clean store with the names it had, and the next one fetches only what is missing.
func TestKillIntoStore(t *testing.T) { // L33, rule 56
	for _, form := range []string{"tar", "zstd:chunked", "kept"} {
		t.Run(form, func(t *testing.T) {
			b := newKillBench(t)
			args := []string{"copy"}
			if form == "zstd:chunked" {
				args = append(args, "--compress", form, "--sentinel", "only")
			}
			src := "docker://" + b.host + "/new:1"
			b.run(filepath.Join(b.dir, "unused"), append(args, "oci:img:new", src)...)
			pull := []string{"copy", src, "store:x"}
			if form == "kept" {
				pull = append(pull, "--keep-blobs")
			}
			b.front.Forget()
			want := b.run(filepath.Join(b.dir, "undisturbed"), pull...)
			requests, all := b.front.Count("", ""), b.front.Bytes("GET", "/blobs/")
			for _, n := range killPoints(t, requests) {
				root := filepath.Join(b.dir, fmt.Sprint("root", n))
				old := b.run(root, "copy", "oci:img:old", "store:x")
				before := complete(t, root, form)
				if !b.killed(n, root, pull...) {
					t.Fatalf("request %d was not made: %v", n, b.front.Log())
				}
				b.run(root, "check", "--verify")
				if got := b.run(root, "digest", "store:x"); got != old {
					t.Errorf("killed at %d: the name moved to %s", n, got)
				}
				have := complete(t, root, form) - before
				b.front.Forget()
				if got := b.run(root, pull...); got != want {
					t.Errorf("killed at %d: the next run made %s of %s", n, got, want)
				}
				if got := b.front.Bytes("GET", "/blobs/"); got > all-have+64<<10 {
					t.Errorf("killed at %d with %d of %d bytes complete, the next run fetched %d", n, have, all, got)
				}
				b.run(root, "check", "--verify")
			}
		})
	}
}

// The same into a layout, whose blobs are all it has, and nothing half-written stays.
func TestKillIntoLayout(t *testing.T) {
	b := newKillBench(t)
	root := filepath.Join(b.dir, "unused")
	src := "docker://" + b.host + "/new:1"
	b.run(root, "copy", "oci:img:new", src)
	b.front.Forget()
	want := b.run(root, "copy", src, "oci:undisturbed:x")
	for _, n := range killPoints(t, b.front.Count("", "")) {
		out := fmt.Sprint("out", n)
		old := b.run(root, "copy", "oci:img:old", "oci:"+out+":x")
		if !b.killed(n, root, "copy", src, "oci:"+out+":x") {
			t.Fatalf("request %d was not made: %v", n, b.front.Log())
		}
		if got := b.run(root, "digest", "oci:"+out+":x"); got != old {
			t.Errorf("killed at %d: the name moved to %s", n, got)
		}
		have := files(t, filepath.Join(b.dir, out, "blobs"))
		b.front.Forget()
		if got := b.run(root, "copy", src, "oci:"+out+":x"); got != want {
			t.Errorf("killed at %d: the next run made %s of %s", n, got, want)
		}
		for _, r := range b.front.Log() {
			_, hex, blob := strings.Cut(r.Path, "/blobs/sha256:")
			if size, ok := have[hex]; blob && ok && r.Method == "GET" && size > 4<<10 { // configs are read to plan
				t.Errorf("killed at %d: %s was complete and is fetched again", n, hex)
			}
		}
		if left, err := filepath.Glob(filepath.Join(b.dir, out, "blobs", ".tocsin-*")); err != nil || len(left) != 0 {
			t.Errorf("killed at %d: left over: %v %v", n, left, err)
		}
		b.run(root, "copy", "oci:"+out+":x", "oci:"+out+"-read:x") // verifies every blob
	}
}

// The same into a registry: the tag is last, and what is there is not sent again.
func TestKillIntoRegistry(t *testing.T) {
	b := newKillBench(t)
	root := filepath.Join(b.dir, "unused")
	dst := func(n int) string { return fmt.Sprintf("docker://%s/new%d:1", b.host, n) }
	b.front.Forget()
	want := b.run(root, "copy", "oci:img:new", dst(1000))
	for _, n := range killPoints(t, b.front.Count("", "")) {
		old := b.run(root, "copy", "oci:img:old", dst(n))
		if !b.killed(n, root, "copy", "oci:img:new", dst(n)) {
			t.Fatalf("request %d was not made: %v", n, b.front.Log())
		}
		got := b.run(root, "digest", dst(n))
		last := b.front.Log()
		if got != old && !(got == want && putTag(last)) {
			t.Errorf("killed at %d: the tag moved to %s", n, got)
		}
		b.front.Forget()
		if got := b.run(root, "copy", "oci:img:new", dst(n)); got != want {
			t.Errorf("killed at %d: the next run made %s of %s", n, got, want)
		}
		there := make(map[string]bool) // by the answers to HEAD
		for _, r := range b.front.Log() {
			if r.Method == http.MethodHead && r.Status == http.StatusOK {
				_, d, _ := strings.Cut(r.Path, "/blobs/")
				there[d] = true
			}
		}
		for _, r := range b.front.Log() {
			for d := range there {
				if r.Method == http.MethodPut && strings.Contains(r.Query, strings.TrimPrefix(d, "sha256:")) {
					t.Errorf("killed at %d: %s was there and is sent again", n, d)
				}
			}
		}
		b.run(root, "copy", dst(n), fmt.Sprintf("oci:from%d:x", n)) // verifies every blob
	}
}

// putTag reports whether the manifest was put by its tag.
func putTag(log []front.Request) bool {
	for _, r := range log {
		if r.Method == http.MethodPut && strings.HasSuffix(r.Path, "/manifests/1") {
			return true
		}
	}
	return false
}
