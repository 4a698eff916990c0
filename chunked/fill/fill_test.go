package fill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/store"
)

func TestAddLayerIsOneRequest(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	src := &source{blob: b.bytes}
	p := newPool(t, openStore(t, t.TempDir()), nil)
	var numbers sync.Map
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			n, err := p.AddLayer(t.Context(), b.spec("a.example"), src)
			if err != nil {
				t.Error(err)
			}
			numbers.Store(n, true)
		})
	}
	wg.Wait()
	calls, ranges := src.asked(0)
	if calls != 1 || len(ranges) != 1 {
		t.Errorf("%d calls, ranges %v; want one call for one range that holds TOC and tar-split", calls, ranges)
	}
	if ranges[0].Off != b.written.TOC.TOC.Off || ranges[0].End() != b.written.TOC.TarSplit.End() {
		t.Errorf("asked for %v, TOC %v tar-split %v", ranges[0], b.written.TOC.TOC, b.written.TOC.TarSplit)
	}
	other := &source{blob: b.bytes}
	n, err := p.AddLayer(t.Context(), b.spec("b.example"), other)
	if err != nil {
		t.Fatal(err)
	}
	if calls, _ := other.asked(0); calls != 0 {
		t.Errorf("a known TOC digest cost %d requests", calls)
	}
	if _, ok := numbers.Load(n); !ok {
		t.Errorf("one TOC digest, two layers")
	}
	row, err := p.st.Layer(n)
	if err != nil {
		t.Fatal(err)
	}
	if len(row.Sources) != 2 || row.Sources[1].Host != "b.example" {
		t.Errorf("sources %v", row.Sources)
	}
}

func TestAddLayerWithSeparateTarSplit(t *testing.T) {
	b := edited(t, makeBlob(t, append(mixedFiles(), file{"pad", random(9, 200_000)})...), func(json []byte) []byte { return json })
	// Now the TOC lies behind the tar-split, with the footer between them.
	src := &source{blob: b.bytes}
	p := newPool(t, openStore(t, t.TempDir()), &Options{MaxGap: 1})
	addBlob(t, p, b, src)
	calls, ranges := src.asked(0)
	if calls != 1 || len(ranges) != 2 {
		t.Errorf("%d calls, ranges %v; want one call for two ranges", calls, ranges)
	}
}

func TestReadAtIsTheContent(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	src := &source{blob: b.bytes}
	// Without joined gaps, so that no byte has a reason to come twice.
	p := newPool(t, openStore(t, t.TempDir()), &Options{MaxGap: 1})
	l := addBlob(t, p, b, src)
	r := rand.New(rand.NewPCG(3, 4))
	for name, want := range b.files {
		f := openName(t, l, name)
		for range 60 {
			off, n := r.Int64N(int64(len(want))+100), r.IntN(150_000)
			got := make([]byte, n)
			k, err := f.ReadAt(t.Context(), got, off)
			expect := []byte(nil)
			if off < int64(len(want)) {
				expect = want[off:min(int64(len(want)), off+int64(n))]
			}
			if !bytes.Equal(got[:k], expect) {
				t.Fatalf("%s: %d bytes at %d: wrong", name, n, off)
			}
			if k < n && err != io.EOF || k == n && err != nil {
				t.Fatalf("%s: %d of %d bytes at %d: error %v", name, k, n, off, err)
			}
		}
	}
	if at := src.twice(); at >= 0 {
		t.Errorf("byte %d was fetched twice", at)
	}
	checkFiles(t, l, b)
	for name := range b.files {
		f := openName(t, l, name)
		waitComplete(t, f)
		if f.Complete() == nil {
			t.Errorf("%s is not complete after it was read", name)
		}
	}
	if got := p.Stats(); got.BytesNeeded > got.BytesFetched || got.BytesNeeded == 0 || got.Mismatches != 0 {
		t.Errorf("stats %+v", got)
	}
}

// What is complete needs nobody.
func TestCompleteWithoutSource(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	root := t.TempDir()
	first := New(openStore(t, root), nil)
	l := addBlob(t, first, b, &source{blob: b.bytes})
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	first.Close()
	p := newPool(t, openStore(t, root), nil)
	again, err := p.Layer(l.Number())
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, again, b)
	if s := p.Stats(); s.Requests != 0 {
		t.Errorf("%d requests", s.Requests)
	}
	f := openName(t, again, "var/big")
	if got, err := io.ReadAll(io.NewSectionReader(f.Complete(), 0, 1<<40)); err != nil || !bytes.Equal(got, b.files["var/big"]) {
		t.Errorf("complete file: wrong, error %v", err)
	}
}

func TestZerosCostNothing(t *testing.T) {
	hole := make([]byte, 40<<20)
	b := makeBlob(t, file{"f", append(append([]byte("begin"), hole...), "end"...)}, file{"z", random(1, 90_000)})
	src := &source{blob: b.bytes}
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, b, src)
	f := openName(t, l, "f")
	got := make([]byte, 1<<20)
	if _, err := f.ReadAt(t.Context(), got, 10<<20); err != nil || !bytes.Equal(got, hole[:len(got)]) {
		t.Fatalf("wrong zeros, error %v", err)
	}
	if calls, ranges := src.asked(1); calls != 0 {
		t.Errorf("zeros were fetched: %v", ranges)
	}
	checkFiles(t, l, b)
}

// gate lets calls of a source through when it is opened.
type gate struct {
	arrived chan int
	open    chan struct{}
}

func newGate() *gate { return &gate{make(chan int, 100), make(chan struct{})} }

// before stops every call but the one for the TOC.
func (g *gate) before(ctx context.Context, call int) error {
	if call == 0 {
		return nil
	}
	g.arrived <- call
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestSingleFlight(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	g := newGate()
	src := &source{blob: b.bytes, before: g.before}
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, b, src)
	var wg sync.WaitGroup
	for range 40 {
		f := openName(t, l, "var/big")
		wg.Go(func() {
			got, err := readFile(t.Context(), f)
			if err != nil || !bytes.Equal(got, b.files["var/big"]) {
				t.Errorf("wrong content, error %v", err)
			}
		})
	}
	<-g.arrived
	close(g.open)
	wg.Wait()
	if at := src.twice(); at >= 0 {
		t.Errorf("byte %d was fetched twice", at)
	}
	if calls, _ := src.asked(1); calls != 1 {
		t.Errorf("%d calls for one file", calls)
	}
}

// Two layers with the same file share one partial object and each chunk's one fetch.
func TestSingleFlightAcrossLayers(t *testing.T) {
	same := file{"lib/same", random(7, 600_000)}
	a, b := makeBlob(t, file{"a", random(1, 100)}, same), makeBlob(t, same, file{"b", random(2, 100)})
	g := newGate()
	srcA := &source{blob: a.bytes, before: g.before}
	srcB := &source{blob: b.bytes}
	p := newPool(t, openStore(t, t.TempDir()), nil)
	la, lb := addBlob(t, p, a, srcA), addBlob(t, p, b, srcB)
	fa, fb := openName(t, la, same.name), openName(t, lb, same.name)
	var wg sync.WaitGroup
	check := func(f *File) {
		got, err := readFile(t.Context(), f)
		if err != nil || !bytes.Equal(got, same.content) {
			t.Errorf("wrong content, error %v", err)
		}
	}
	wg.Go(func() { check(fa) })
	<-g.arrived
	wg.Go(func() { check(fb) })
	close(g.open)
	wg.Wait()
	if calls, _ := srcB.asked(1); calls != 0 {
		t.Errorf("the second layer fetched what was under way")
	}
}

// A layer whose source fails must not keep another layer from the chunk that
// both were waiting for.
func TestSharedFlightFails(t *testing.T) {
	same := file{"lib/same", random(7, 300_000)}
	a, b := makeBlob(t, file{"a", random(1, 100)}, same), makeBlob(t, same, file{"b", random(2, 100)})
	failing, arrived := make(chan struct{}), make(chan struct{})
	srcA := &source{blob: a.bytes, before: func(_ context.Context, call int) error {
		if call == 0 {
			return nil
		}
		close(arrived)
		<-failing
		return errBroken
	}}
	p := newPool(t, openStore(t, t.TempDir()), nil)
	la, lb := addBlob(t, p, a, srcA), addBlob(t, p, b, &source{blob: b.bytes})
	fa, fb := openName(t, la, same.name), openName(t, lb, same.name)
	errs := make(chan error, 1)
	go func() { _, err := readFile(t.Context(), fa); errs <- err }()
	<-arrived
	all, fresh, err := fb.h.want(0, 1, ask{level: levelRead, read: true})
	if len(all) != 1 || len(fresh) != 0 || err != nil {
		t.Fatalf("the chunk is not under way: %d, %d, %v", len(all), len(fresh), err)
	}
	close(failing)
	if err := fb.h.await(t.Context(), all[:1]); err != nil {
		t.Errorf("second layer: %v", err)
	}
	if err := <-errs; !errors.Is(err, errBroken) {
		t.Errorf("first layer: %v", err)
	}
	if got, err := readFile(t.Context(), fb); err != nil || !bytes.Equal(got, same.content) {
		t.Errorf("wrong content, error %v", err)
	}
}

func TestReaderLeaves(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	g := newGate()
	src := &source{blob: b.bytes, before: g.before}
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, b, src)
	f := openName(t, l, "bin/tool")
	ctx, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := readFile(ctx, f); first <- err }()
	<-g.arrived
	second := make(chan error, 1)
	var got []byte
	go func() { var err error; got, err = readFile(t.Context(), f); second <- err }()
	leave()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("reader that left: %v", err)
	}
	close(g.open)
	if err := <-second; err != nil || !bytes.Equal(got, b.files["bin/tool"]) {
		t.Errorf("reader that stayed: %v", err)
	}
	if calls, _ := src.asked(1); calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

// With nobody left, a fetch goes on and what it brought is kept.
func TestFetchWithoutReaders(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	g := newGate()
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, b, &source{blob: b.bytes, before: g.before})
	f := openName(t, l, "bin/tool")
	ctx, leave := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { _, err := readFile(ctx, f); first <- err }()
	<-g.arrived
	leave()
	<-first
	all, fresh, err := f.h.want(0, l.index.NumChunks(f.h.x), ask{level: levelRead})
	if err != nil || len(fresh) != 0 || len(all) == 0 {
		t.Fatalf("%d under way, %d new, error %v", len(all), len(fresh), err)
	}
	close(g.open)
	if err := f.h.await(t.Context(), all); err != nil {
		t.Error(err)
	}
}

// What another process completes is noticed by files that are open here.
func TestAnotherProcessCompletes(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	root := t.TempDir()
	src := &source{blob: b.bytes}
	here, there := newPool(t, openStore(t, root), nil), newPool(t, openStore(t, root), nil)
	l := addBlob(t, here, b, src)
	f := openName(t, l, "var/big")
	if _, err := f.ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
	if f.Complete() != nil {
		t.Fatal("complete after ten bytes")
	}
	other := addBlob(t, there, b, &source{blob: b.bytes})
	checkFiles(t, other, b)
	waitComplete(t, openName(t, other, "var/big"))
	before := here.Stats().Requests
	got, err := readFile(t.Context(), f)
	if err != nil || !bytes.Equal(got, b.files["var/big"]) {
		t.Errorf("wrong content, error %v", err)
	}
	if n := here.Stats().Requests - before; n != 0 {
		t.Errorf("%d requests for what is here", n)
	}
	waitComplete(t, f)
	if f.Complete() == nil {
		t.Error("not complete here")
	}
}

// The same when it completes the object without our partial one, so that no
// mark tells.
func TestAnotherProcessStores(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	root := t.TempDir()
	p := newPool(t, openStore(t, root), &Options{Window: -1})
	l := addBlob(t, p, b, &source{blob: b.bytes})
	f := openName(t, l, "bin/tool")
	if _, err := f.ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
		t.Fatal(err)
	}
	want := b.files["bin/tool"]
	batch := openStore(t, root).NewBatch()
	if err := batch.Put(sha256Of(want), int64(len(want)), bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	if err := batch.Commit(); err != nil {
		t.Fatal(err)
	}
	before := p.Stats().Requests
	if got, err := readFile(t.Context(), f); err != nil || !bytes.Equal(got, want) {
		t.Errorf("wrong content, error %v", err)
	}
	if n := p.Stats().Requests - before; n != 0 || f.Complete() == nil {
		t.Errorf("%d requests for what is here", n)
	}
	if n := partials(t, p.st); n != 0 {
		t.Errorf("%d files under partial/", n)
	}
}

// spec/mounts.md C9: an object of another length is not this object.
func TestLengthDisagrees(t *testing.T) {
	st := openStore(t, t.TempDir())
	p := newPool(t, st, nil)
	content := random(1, 500)
	batch := st.NewBatch()
	if err := batch.Put(sha256Of(content), 500, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if err := batch.Commit(); err != nil {
		t.Fatal(err)
	}
	builder := chunked.NewIndexBuilder(nil)
	d := sha256Of(content)
	err := builder.Add(chunked.Entry{Type: chunked.TypeReg, Name: "f", Mode: 0o644, Size: 400, Digest: d,
		Chunks: []chunked.Chunk{{Size: 400, Digest: d}}})
	if err != nil {
		t.Fatal(err)
	}
	index, err := builder.Finish()
	if err != nil {
		t.Fatal(err)
	}
	n, err := st.PutLayer(store.LayerRow{DiffID: digest.FromString("some tar")}, index, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.Layer(n)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Open(0); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("open: %v", err)
	}
	if err := l.Ensure(t.Context(), nil, Foreground); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("ensure: %v", err)
	}
}

func TestClose(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	g := newGate()
	p := New(openStore(t, t.TempDir()), &Options{Jobs: 1})
	l := addBlob(t, p, b, &source{blob: b.bytes, before: g.before})
	errs := make(chan error, 2)
	for _, name := range []string{"var/big", "bin/tool"} {
		f := openName(t, l, name)
		go func() { _, err := readFile(t.Context(), f); errs <- err }()
	}
	<-g.arrived
	p.Close()
	for range 2 {
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("reader: %v", err)
		}
	}
	if err := l.Ensure(t.Context(), nil, Foreground); !errors.Is(err, ErrClosed) {
		t.Errorf("ensure after close: %v", err)
	}
}

func TestView(t *testing.T) {
	p := newPool(t, openStore(t, t.TempDir()), nil)
	a, b := makeBlob(t, file{"a", []byte("a")}), makeBlob(t, file{"b", []byte("b")})
	la, lb := addBlob(t, p, a, &source{blob: a.bytes}), addBlob(t, p, b, &source{blob: b.bytes})
	var numbers sync.Map
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			n, err := p.View(t.Context(), []uint64{la.Number(), lb.Number()})
			if err != nil {
				t.Error(err)
			}
			numbers.Store(n, true)
		})
	}
	wg.Wait()
	found := 0
	numbers.Range(func(any, any) bool { found++; return true })
	if found != 1 {
		t.Errorf("%d views of one chain", found)
	}
	empty, err := p.View(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.st.View(empty)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	v, err := chunked.OpenView(m.Bytes())
	if err != nil || v.NumEntries() != 1 {
		t.Errorf("the empty view: %v", err)
	}
	if _, err := p.View(t.Context(), []uint64{99}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("view of no layer: %v", err)
	}
}

// partials counts the files under partial/.
func partials(t testing.TB, st *store.Store) (n int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(st.Root(), "partial"), func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
