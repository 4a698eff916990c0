package copy

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/store"
)

// collecting is a Progress that runs gc without a grace period, as another process does hours later, when a copy has
// come so far; 0: at every step.
type collecting struct {
	t     *testing.T
	st    *store.Store
	at    int64
	steps atomic.Int64
}

func (c *collecting) Start(string, int64) Meter { c.step(); return c }
func (c *collecting) Add(int64)                 { c.step() }
func (c *collecting) Done(error)                { c.step() }

func (c *collecting) step() {
	if n := c.steps.Add(1); c.at == 0 || c.at == n {
		c.collect()
	}
}

func (c *collecting) collect() {
	if _, err := c.st.GC(c.t.Context(), store.GCOptions{Grace: -1, Objects: fill.IndexObjects}); err != nil {
		c.t.Error(err)
	}
}

// A list of two images, whose files are here as garbage, comes into the store while gc runs at one step of it, or at each:
// in every form of layer, with its blobs kept and without.
func TestCopyBesideGC(t *testing.T) {
	for _, algo := range []string{algoGzip, algoChunked} {
		for _, keepBlobs := range []bool{false, true} {
			for at := range int64(9) {
				t.Run(fmt.Sprintf("%s, kept %v, step %d", algo, keepBlobs, at), func(t *testing.T) {
					t.Parallel()
					copyBesideGC(t, algo, &Options{Layers: Layers{KeepBlobs: keepBlobs}}, at)
				})
			}
		}
	}
}

func copyBesideGC(t *testing.T, algo string, o *Options, at int64) {
	w := newWorld(t, 1)
	shared := []file{{"a", noise(1, 100<<10)}, {"b", noise(2, 200<<10)}}
	b := w.build("before")
	before := b.name(b.image("linux/amd64", algo, tarOf(t, shared...)), "x")
	b = w.build("list")
	src := b.name(b.list(b.image("linux/amd64", algo, tarOf(t, append(shared, file{"amd", noise(3, 1000)})...)),
		b.image("linux/arm64", algo, tarOf(t, append(shared, file{"arm", noise(4, 1000)})...))), "x")
	w.copy(before, "store:before", o)
	if err := w.env.Store.RemoveName("docker.io/library/before:latest"); err != nil {
		t.Fatal(err)
	}
	other, err := store.Open(w.env.Store.Root(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	gc := &collecting{t: t, st: other, at: at}
	w.env.Progress = gc
	w.copy(src, "store:x", o)
	if n := gc.steps.Load(); n < max(at, 4) {
		t.Skipf("a copy of %d steps", n)
	}
	w.clean()
	if o.KeepBlobs {
		identical(w, src, "store:x")
	}
	for _, in := range w.situation(src).instances {
		w.stored("store:x", in.image.Trust)
	}
	if err := w.env.Store.RemoveName("docker.io/library/x:latest"); err != nil {
		t.Fatal(err)
	}
	gc.collect()
	w.empty(w.env)
}
