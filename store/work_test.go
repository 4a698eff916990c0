package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// clock is the time of several stores, which stand for processes of one machine.
type clock struct{ at time.Time }

func (c *clock) now() time.Time { c.at = c.at.Add(time.Millisecond); return c.at }

func (c *clock) store(t testing.TB, root string) *Store {
	t.Helper()
	s := must[*Store](t)(open(root, nil, &disk{}, "00000000-0000-0000-0000-000000000001"))
	s.now = c.now
	t.Cleanup(func() { ok(t, s.Close()) })
	return s
}

// transaction is what a copy of an image of one tar layer does to the store, step by step. Of everything that it needs
// a part is here already, and nothing else holds it.
type transaction struct {
	s      *Store
	work   *Work
	batch  *Batch
	layer  uint64
	im     image
	second digest.Digest // config of another instance of the list
	kept   digest.Digest
}

func (x *transaction) steps() map[int]func() error {
	ctx := context.Background()
	list := []func() error{
		func() (err error) { x.work, err = x.s.Begin(); return err },
		func() error { return x.s.PutBlob(ctx, x.second, reader("second config")) },
		func() error { x.batch = x.s.NewBatch(); return x.batch.Put(digest.FromString("old"), 3, reader("old")) },
		func() error { _, _, err := x.batch.PutNew(reader("old too")); return err },
		func() error { _, _, err := x.batch.PutNew(reader("new")); return err },
		func() error { return x.batch.Put(digest.FromString("newer"), 5, reader("newer")) },
		func() error { return x.batch.Commit() },
		func() (err error) {
			x.layer, err = x.s.PutLayer(LayerRow{DiffID: digest.FromString("tar")}, testIndex("old", "old too", "new", "newer"), []byte("split"))
			return err
		},
		func() error { return x.s.PutBlob(ctx, x.im.record.Config, reader(lifeConfig)) },
		func() error { return x.s.PutBlob(ctx, x.kept, reader("kept blob")) },
		func() error {
			m := x.im.manifests[0]
			return errors.Join(x.s.PutManifest(m.Raw, m.Digest, m.MediaType), x.s.PutSignatures(m.Digest, [][]byte{[]byte("signed")}))
		},
		func() error { _, err := x.s.PutView(Chain{Layers: []uint64{x.layer}}, []byte("tree")); return err },
		func() error {
			x.im.record.Layers = []uint64{x.layer}
			return x.s.Commit(Commit{Records: []Record{x.im.record}, Manifests: x.im.manifests, Name: "img",
				Kept: map[digest.Digest][]digest.Digest{x.im.record.Manifest: {x.kept, x.second}}})
		},
		func() error { return x.work.End() },
	}
	out := map[int]func() error{}
	for i, f := range list {
		out[i] = f
	}
	return out
}

// newTransaction makes a store in which what the transaction reuses is old and garbage.
func newTransaction(t *testing.T, c *clock) *transaction {
	t.Helper()
	s := c.store(t, t.TempDir())
	putObjects(t, s, "old", "old too", "garbage")
	for _, b := range []string{"second config", lifeConfig} {
		putBytes(t, s, []byte(b))
	}
	c.at = c.at.Add(50 * time.Minute)
	return &transaction{s: s, im: lifeImage(), second: digest.FromString("second config"), kept: digest.FromString("kept blob")}
}

// TestNothingOfATransactionIsLost lets hours pass before each step of a transaction, and before all of them, and has gc
// run there, in this process and in another, with the grace period and without.
func TestNothingOfATransactionIsLost(t *testing.T) {
	n := len((&transaction{}).steps())
	for _, when := range []struct{ jump, grace time.Duration }{{5 * time.Hour, 0}, {-5 * time.Hour, 0}, {0, -1}, {5 * time.Hour, -1}} {
		for at := 1; at <= n; at++ { // before the first step there is nothing to hold; n: at all steps
			for _, elsewhere := range []bool{false, true} {
				name := fmt.Sprintf("%v, grace %v, step %d, elsewhere %v", when.jump, when.grace, at, elsewhere)
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					transactWithGC(t, when.jump, when.grace, at, elsewhere)
				})
			}
		}
	}
}

func transactWithGC(t *testing.T, jump, grace time.Duration, at int, elsewhere bool) {
	c := &clock{time.Now()}
	x := newTransaction(t, c)
	collector := x.s
	if elsewhere {
		collector = c.store(t, x.s.Root())
	}
	collect := func() {
		must[[]Finding](t)(collector.GC(t.Context(), GCOptions{Grace: grace, Objects: testObjects}))
	}
	steps := x.steps()
	for i := range len(steps) {
		if i > 0 && (i == at || at == len(steps)) {
			c.at = c.at.Add(jump)
			collect()
			if jump < 0 {
				c.at = c.at.Add(-jump) // the clock is put right again
				collect()
			}
		}
		if err := steps[i](); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	c.at = c.at.Add(5 * time.Hour)
	collect()
	wantClean(t, x.s)
	if r, _, err := x.s.Resolve("img"); err != nil || len(r) != 1 {
		t.Fatal(r, err)
	}
	for _, content := range []string{"old", "old too", "new", "newer"} {
		if !hasObject(x.s, content) {
			t.Errorf("%q is gone", content)
		}
	}
	for _, d := range []digest.Digest{x.second, x.kept, x.im.record.Config} {
		if _, there := x.s.HasBlob(d); !there {
			t.Errorf("blob %s is gone", d)
		}
	}
	if sigs, err := x.s.Signatures(x.im.record.Manifest); err != nil || len(sigs) != 1 {
		t.Errorf("signatures %q %v", sigs, err)
	}
	if hasObject(x.s, "garbage") {
		t.Error("garbage stays")
	}
	ok(t, x.s.RemoveName("img"))
	c.at = c.at.Add(5 * time.Hour)
	collect()
	if left := filesBelow(t, x.s.path("objects")); len(left) > 0 {
		t.Errorf("a transaction that is over keeps %v", left)
	}
}

// A failed transaction leaves what another one reuses, and an old one takes nothing with it that a younger one needs.
func TestTwoTransactionsShareAnObject(t *testing.T) {
	for _, end := range []func(b *Batch) error{(*Batch).Abort, (*Batch).Commit} {
		c := &clock{time.Now()}
		a := c.store(t, t.TempDir())
		b := c.store(t, a.Root())
		putObjects(t, a, "shared")
		c.at = c.at.Add(5 * time.Hour)
		one, two := a.NewBatch(), b.NewBatch()
		ok(t, one.Put(digest.FromString("shared"), 6, reader("shared")))
		ok(t, one.Put(digest.FromString("both"), 4, reader("both")))
		c.at = c.at.Add(5 * time.Hour)
		ok(t, two.Put(digest.FromString("shared"), 6, reader("")))
		ok(t, two.Put(digest.FromString("both"), 4, reader("both")))
		ok(t, end(one))
		c.at = c.at.Add(5 * time.Hour)
		must[[]Finding](t)(a.GC(t.Context(), GCOptions{Objects: testObjects}))
		work := must[*Work](t)(b.Begin())
		ok(t, two.Commit())
		c.at = c.at.Add(5 * time.Hour)
		must[[]Finding](t)(a.GC(t.Context(), GCOptions{Grace: -1, Objects: testObjects}))
		if !hasObject(b, "both") {
			t.Error("an object that was committed under work is gone")
		}
		ok(t, work.End())
	}
}

// What a transaction does not touch goes while it is under way.
func TestWorkHoldsNothingOlder(t *testing.T) {
	c := &clock{time.Now()}
	s := c.store(t, t.TempDir())
	putObjects(t, s, "garbage")
	c.at = c.at.Add(2 * time.Hour)
	w := must[*Work](t)(s.Begin())
	putObjects(t, s, "held")
	c.at = c.at.Add(24 * time.Hour)
	found := must[[]Finding](t)(s.GC(t.Context(), GCOptions{Objects: testObjects}))
	if hasObject(s, "garbage") || !hasObject(s, "held") {
		t.Errorf("garbage %v, held %v", hasObject(s, "garbage"), hasObject(s, "held"))
	}
	if len(found) == 0 || found[0].Kind != "kept" {
		t.Errorf("gc does not say what holds it back: %+v", found)
	}
	ok(t, w.End())
	ok(t, w.End())
	must[[]Finding](t)(s.GC(t.Context(), GCOptions{Objects: testObjects}))
	if hasObject(s, "held") {
		t.Error("work that has ended keeps things")
	}
}

// The work of a process that was killed keeps nothing.
func TestWorkDiesWithProcess(t *testing.T) {
	s := newStore(t)
	c := start(t, "batch", s.Root())
	if !c.lines(1) {
		t.Fatal(c.err)
	}
	if since, _, err := s.oldestWork(); err != nil || since.IsZero() {
		t.Fatal(since, err)
	}
	putObjects(t, s, "x")
	gcAll(t, s, GCOptions{})
	if !hasObject(s, "x") {
		t.Fatal("gc took what a living process may have reused")
	}
	c.kill()
	gcAll(t, s, GCOptions{})
	if left := filesBelow(t, s.path("pins")); len(left) > 0 || hasObject(s, "x") {
		t.Fatalf("a dead process keeps %v, and x: %v", left, hasObject(s, "x"))
	}
}

// Names in pins/ that are no work of ours are no work.
func TestWorkNames(t *testing.T) {
	for name, want := range map[string]bool{
		"work-12-345-678": true, "12-345": false, "work-": false, "work-1-2": false, "work-1-x-3": false, "work-1-2-3-4": false,
	} {
		if _, got := workSince(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// Several processes replace one object that has rotted; each finds it whole afterwards.
func TestReplaceRottedObject(t *testing.T) {
	s := newStore(t)
	const content = "an object"
	d := digest.FromString(content)
	putObjects(t, s, content)
	ok(t, s.LinkObject(d, digest.FromString("list"), int64(len(content))))
	path := s.path(objectRel(d))
	for range 20 {
		ok(t, os.Chmod(path, 0o600))
		ok(t, os.WriteFile(path, []byte("short"), 0o600))
		var all sync.WaitGroup
		errs := make([]error, 8)
		for i := range errs {
			b := must[*Store](t)(Open(s.Root(), nil)).NewBatch()
			ok(t, b.Put(d, int64(len(content)), reader(content)))
			all.Go(func() { errs[i] = b.Commit() })
		}
		all.Wait()
		ok(t, errors.Join(errs...))
		if got := must[[]byte](t)(os.ReadFile(path)); string(got) != content {
			t.Fatalf("%q", got)
		}
		if left := filesBelow(t, filepath.Dir(path)); len(left) != 1 {
			t.Fatalf("left %v", left)
		}
	}
}
