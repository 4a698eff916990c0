package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/store"
)

func TestRestart(t *testing.T) {
	r := newRegistry()
	root := t.TempDir()
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1"), tarOf(t, "b", "2")), true)
	d := start(t, root, r, Options{})
	names := mustPull(t, d, "n1", im)
	ctx := context.Background()
	before, err := d.Prepare(ctx, "n1/9/t1", names[2])
	if err != nil {
		t.Fatal(err)
	}
	if err := d.st.Pin(pinPrefix+"999", store.PinTarget{Layers: pinnedLayers(d.pins(t))}, store.PinOptions{}); err != nil {
		t.Fatal(err)
	}
	pins := d.pins(t)
	d.stop(t)
	r.log()
	for _, what := range []string{"manifest", "blob", "toc", "content"} {
		r.setDown(what, true)
	}

	d = start(t, root, r, Options{})
	delete(pins, pinPrefix+"999")
	if got := d.pins(t); !maps.EqualFunc(got, pins, func(a, b store.PinTarget) bool {
		return slices.Equal(a.Layers, b.Layers) && slices.Equal(a.Views, b.Views)
	}) {
		t.Errorf("pins after a restart: %v, want %v", got, pins)
	}
	after, err := d.Mounts(ctx, "n1/9/t1")
	if err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("mounts %+v, %v; before %+v", after, err, before)
	}
	if _, err := d.Prepare(ctx, "n1/10/t2", names[1]); err != nil {
		t.Error(err)
	}
	if asked := r.log(); len(asked) > 0 {
		t.Errorf("a restart asked for %v", asked)
	}
	// Another namespace needs the image's documents again, and no TOC.
	r.setDown("manifest", false)
	r.setDown("blob", false)
	mustPull(t, d, "n2", im)
}

// content is containerd's content store, which is asked in the client's namespace.
type content struct {
	r     *registry
	ns    string
	wrong bool
}

func (c content) ReadBlob(ctx context.Context, d digest.Digest, max int64) ([]byte, error) {
	if ns, ok := namespaces.Namespace(ctx); !ok || ns != c.ns {
		return nil, fmt.Errorf("namespace %q", ns)
	}
	raw, err := c.r.ask("content store", d)
	if err == nil && c.wrong {
		raw = append([]byte(" "), raw...)
	}
	return raw, err
}

func TestDocumentsComeFromContainerd(t *testing.T) {
	for _, wrong := range []bool{false, true} {
		r := newRegistry()
		im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1")), true)
		d := start(t, t.TempDir(), r, Options{Content: content{r, "n7", wrong}})
		mustPull(t, d, "n7", im)
		want := map[string]int{"content store": 2, "toc": 1}
		if wrong {
			want["manifest"], want["blob"] = 1, 1
		}
		if got := r.log(); !maps.Equal(got, want) {
			t.Errorf("wrong=%v: asked for %v, want %v", wrong, got, want)
		}
	}
}

func TestUsage(t *testing.T) {
	r := newRegistry()
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "12345", "b", "1")), false)
	d := start(t, t.TempDir(), r, Options{})
	ctx := context.Background()
	names := mustPull(t, d, "n1", im) // completed: its diff_ids are tars'
	for i, want := range []snapshots.Usage{{}, {Inodes: 2, Size: 6}} {
		if u, err := d.Usage(ctx, names[i]); err != nil || u != want {
			t.Errorf("usage of layer %d: %+v, %v", i, u, err)
		}
	}
	if _, err := d.Prepare(ctx, "n1/5/c", names[1]); err != nil {
		t.Fatal(err)
	}
	upper := d.s.upper("3")
	before, err := d.Usage(ctx, "n1/5/c")
	if err != nil || before.Inodes != 1 {
		t.Fatalf("%+v, %v", before, err)
	}
	if err := os.WriteFile(upper+"/f", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(upper+"/f", upper+"/g"); err != nil {
		t.Fatal(err)
	}
	if u, err := d.Usage(ctx, "n1/5/c"); err != nil || u.Inodes != 2 || u.Size-before.Size != 1<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	if err := d.Commit(ctx, "n1/6/done", "n1/5/c"); err != nil {
		t.Fatal(err)
	}
	first, err := d.Usage(ctx, "n1/6/done")
	if err != nil || first.Inodes != 2 {
		t.Errorf("%+v, %v", first, err)
	}
	// The count is kept: nobody may write there any more, and nobody walks it again.
	if err := os.RemoveAll(upper); err != nil {
		t.Fatal(err)
	}
	if u, err := d.Usage(ctx, "n1/6/done"); err != nil || u != first {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestOptions(t *testing.T) {
	root := t.TempDir()
	for name, o := range map[string]Options{
		"no root":                {},
		"unbound=verify alone":   {Root: root, VerifyUnbound: true},
		"a mount without a pool": {Root: root, MountDir: "/mnt"},
		"a root with a colon":    {Root: filepath.Join(root, "a:b")},
	} {
		if _, err := New(&o); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := New(&Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// dirs lists ROOT/snapshots without metadata.db.
func dirs(t testing.TB, s *Snapshotter) (live, doomed []string) {
	t.Helper()
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		switch {
		case strings.HasPrefix(e.Name(), discarded):
			doomed = append(doomed, e.Name())
		case e.IsDir():
			live = append(live, e.Name())
		}
	}
	return live, doomed
}

func TestCleanup(t *testing.T) {
	d := start(t, t.TempDir(), newRegistry(), Options{})
	ctx := context.Background()
	for _, key := range []string{"stays", "goes"} {
		if _, err := d.Prepare(ctx, key, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(d.s.upper("77"), 0o700); err != nil { // of a creation that was killed
		t.Fatal(err)
	}
	if err := d.Remove(ctx, "goes"); err != nil {
		t.Fatal(err)
	}
	if live, doomed := dirs(t, d.s); !slices.Equal(live, []string{"1", "77"}) || len(doomed) != 1 {
		t.Errorf("after Remove: %q, %q", live, doomed)
	}
	if err := d.Snapshotter.(snapshots.Cleaner).Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	if live, doomed := dirs(t, d.s); !slices.Equal(live, []string{"1"}) || len(doomed) != 0 {
		t.Errorf("after Cleanup: %q, %q", live, doomed)
	}
}

// A creation that fails half way leaves nothing that the next one, which gets the same
// id, could trip over.
func TestFailedCreate(t *testing.T) {
	d := start(t, t.TempDir(), newRegistry(), Options{})
	ctx := context.Background()
	if _, err := d.Prepare(ctx, "a", ""); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(ctx, "base", "a"); err != nil {
		t.Fatal(err)
	}
	hidden := d.s.path("hidden")
	if err := os.Rename(d.s.upper("1"), hidden); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(ctx, "b", "base"); err == nil {
		t.Fatal("prepared on a parent without a directory")
	}
	if got := d.all(t); !slices.Equal(got, []string{"base"}) {
		t.Errorf("left: %q", got)
	}
	if live, doomed := dirs(t, d.s); slices.Contains(live, "2") || len(doomed) != 1 {
		t.Errorf("left: %q, %q", live, doomed)
	}
	if err := os.Rename(hidden, d.s.upper("1")); err != nil {
		t.Fatal(err)
	}
	m, err := d.Prepare(ctx, "b", "base")
	if err != nil || !slices.Contains(m[0].Options, "upperdir="+d.s.upper("2")) {
		t.Errorf("%+v, %v", m, err)
	}
}

// One snapshot whose row is damaged fails alone and can be removed.
func TestDamagedRow(t *testing.T) {
	r := newRegistry()
	root := t.TempDir()
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1")), true)
	d := start(t, root, r, Options{})
	names := mustPull(t, d, "n1", im)
	ctx := context.Background()
	if _, err := d.Prepare(ctx, "fine", ""); err != nil {
		t.Fatal(err)
	}
	err := d.s.update(ctx, func(_ context.Context, r rows) error { return r.b.Put([]byte("2"), []byte("{")) })
	if err != nil {
		t.Fatal(err)
	}
	d.stop(t)
	d = start(t, root, r, Options{})
	if _, err := d.Mounts(ctx, "fine"); err != nil {
		t.Error(err)
	}
	if _, err := d.Prepare(ctx, "c", names[1]); err == nil || !strings.Contains(err.Error(), "row of snapshot 2") {
		t.Errorf("a damaged row was overlooked: %v", err)
	}
	for _, name := range []string{names[1], names[0], "fine"} {
		if err := d.Remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if pins := d.pins(t); len(pins) > 0 {
		t.Errorf("pins: %v", pins)
	}
}

// BenchmarkAnswerLookup is containerd's look-up after each lazy layer, among as many
// snapshots as a busy node has, beside the same look-up by a scan.
func BenchmarkAnswerLookup(b *testing.B) {
	d := start(b, b.TempDir(), newRegistry(), Options{})
	ctx := context.Background()
	var ref string
	for i := range 2000 {
		ref = digest.FromString(fmt.Sprint(i)).String()
		label := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: ref})
		err := d.s.update(ctx, func(ctx context.Context, _ rows) error {
			if _, err := storage.CreateSnapshot(ctx, snapshots.KindActive, "k", "", label); err != nil {
				return err
			}
			_, err := storage.CommitActive(ctx, "k", ref, snapshots.Usage{}, label)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	answer := fmt.Sprintf(`labels.%q==%s,parent==""`, snapshots.LabelSnapshotRef, ref)
	for name, filter := range map[string]string{"byName": answer, "scan": answer + ",kind==committed"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				n := 0
				err := d.s.Walk(ctx, func(context.Context, snapshots.Info) error { n++; return nil }, filter)
				if err != nil || n != 1 {
					b.Fatal(n, err)
				}
			}
		})
	}
}
