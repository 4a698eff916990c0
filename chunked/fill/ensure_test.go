package fill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

func TestEnsureManySmallFiles(t *testing.T) {
	b := makeBlob(t, smallFiles(600)...)
	src := &source{blob: b.bytes}
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, b, src)
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	for name, want := range b.files {
		if !p.st.HasObject(sha256Of(want), int64(len(want))) {
			t.Errorf("%s is not there", name)
		}
	}
	calls, ranges := src.asked(1)
	if calls != 1 || len(ranges) != 1 {
		t.Errorf("%d calls for %d ranges", calls, len(ranges))
	}
	if n := partials(t, p.st); n != 0 {
		t.Errorf("%d files under partial/", n)
	}
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	if again, _ := src.asked(1); again != calls {
		t.Errorf("the second time cost %d requests", again-calls)
	}
	if len(p.objects) != 0 {
		t.Errorf("%d objects held after everybody left", len(p.objects))
	}
}

func TestEnsureSomeAndTheRest(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	src := &source{blob: b.bytes}
	p := newPool(t, openStore(t, t.TempDir()), &Options{MaxRange: 200_000, Jobs: 2})
	l := addBlob(t, p, b, src)
	x, _ := l.Index().ObjectByPath("var/holes")
	if err := l.Ensure(t.Context(), []int{x}, Foreground); err != nil {
		t.Fatal(err)
	}
	for name, want := range b.files {
		if has := p.st.HasObject(sha256Of(want), int64(len(want))); has != (name == "var/holes") {
			t.Errorf("%s: %v", name, has)
		}
	}
	// A file that is open and partly there gets its rest only.
	f := openName(t, l, "var/big")
	head := make([]byte, 300_000)
	if _, err := f.ReadAt(t.Context(), head, 0); err != nil || !bytes.Equal(head, b.files["var/big"][:len(head)]) {
		t.Fatal(err)
	}
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	if at := src.twice(); at >= 0 {
		t.Errorf("byte %d was fetched twice", at)
	}
	if f.Complete() == nil {
		t.Error("the open file is not complete")
	}
	checkFiles(t, l, b)
	if n := partials(t, p.st); n != 0 {
		t.Errorf("%d files under partial/", n)
	}
	if err := l.Ensure(t.Context(), []int{1 << 20}, Foreground); err == nil {
		t.Error("an object that is not in the layer")
	}
}

// A partial object of another run is gone on with.
func TestEnsureResumes(t *testing.T) {
	b := makeBlob(t, file{"big", random(1, 3_000_000)})
	root := t.TempDir()
	first := New(openStore(t, root), &Options{Window: -1})
	src := &source{blob: b.bytes}
	l := addBlob(t, first, b, src)
	f := openName(t, l, "big")
	if _, err := f.ReadAt(t.Context(), make([]byte, 1_500_000), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	first.Close()
	p := newPool(t, openStore(t, root), nil)
	addBlob(t, p, b, src)
	again, err := p.Layer(l.Number())
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Ensure(t.Context(), nil, Background); err != nil {
		t.Fatal(err)
	}
	if at := src.twice(); at >= 0 {
		t.Errorf("byte %d was fetched twice", at)
	}
	checkFiles(t, again, b)
}

func TestEnsureLeaves(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	g := newGate()
	p := newPool(t, openStore(t, t.TempDir()), &Options{MaxRange: 100_000})
	l := addBlob(t, p, b, &source{blob: b.bytes, before: g.before})
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Ensure(ctx, nil, Foreground) }()
	<-g.arrived
	leave()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	close(g.open)
	checkFiles(t, l, b)
}

func TestBackground(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	src := &source{blob: b.bytes}
	off := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, off, b, src)
	off.Background([]uint64{l.Number()})
	off.Close()
	if calls, _ := src.asked(1); calls != 0 {
		t.Errorf("switched off, and yet %d requests", calls)
	}

	st := openStore(t, t.TempDir())
	on := newPool(t, st, &Options{Background: true})
	l = addBlob(t, on, b, src)
	on.Background([]uint64{404, l.Number()})
	// An Ensure beside it ends only when everything is there, whoever fetched it.
	if err := l.Ensure(t.Context(), nil, Background); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, l, b)
}

func TestTarAndDiffID(t *testing.T) {
	b := makeBlob(t, append(mixedFiles(), smallFiles(30)...)...)
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, b, &source{blob: b.bytes})
	if err := p.VerifyDiffID(t.Context(), l.Number(), digest.FromString("another tar")); !errors.Is(err, ErrDiffID) {
		t.Errorf("another diffID: %v", err)
	}
	if row, err := p.st.Layer(l.Number()); err != nil || row.DiffID != b.written.DiffID {
		t.Errorf("recorded %q, error %v", row.DiffID, err)
	}
	if err := p.VerifyDiffID(t.Context(), l.Number(), b.written.DiffID); err != nil {
		t.Fatal(err)
	}
	if row, err := p.st.Layer(l.Number()); err != nil || row.DiffID != b.written.DiffID {
		t.Errorf("recorded %q, error %v", row.DiffID, err)
	}
	// A known diffID still means that the content is there.
	if err := os.RemoveAll(filepath.Join(p.st.Root(), "objects")); err != nil {
		t.Fatal(err)
	}
	if err := p.VerifyDiffID(t.Context(), l.Number(), b.written.DiffID); err != nil {
		t.Fatal(err)
	}
	for name, want := range b.files {
		if !p.st.HasObject(sha256Of(want), int64(len(want))) {
			t.Errorf("%s is not there", name)
		}
	}
	h := digest.SHA256.Digester()
	if err := l.WriteTar(t.Context(), h.Hash()); err != nil || h.Digest() != b.written.DiffID {
		t.Errorf("tar %s, want %s, error %v", h.Digest(), b.written.DiffID, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.WriteTar(ctx, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := p.VerifyDiffID(t.Context(), l.Number(), "sha256:short"); err == nil {
		t.Error("a digest that is none")
	}
}

// An object that is not what it was once is damage at rest: nothing is known about the image from it, also when the index
// or the object is whole again afterwards.
func TestRotIsNoVerdict(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, b, &source{blob: b.bytes})
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	for name, content := range b.files {
		if len(content) == 0 {
			continue
		}
		d := sha256Of(content)
		path := filepath.Join(p.st.Root(), "objects", "sha256", d.Encoded()[:2], d.Encoded())
		rotten := bytes.Clone(content)
		rotten[len(rotten)/2] ^= 1
		for _, now := range [][]byte{rotten, content} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, now, 0o444); err != nil {
				t.Fatal(err)
			}
			if bytes.Equal(now, content) {
				continue
			}
			if err := p.VerifyDiffID(t.Context(), l.Number(), b.written.DiffID); !errors.Is(err, store.ErrCorrupt) || errors.Is(err, ErrDiffID) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if row, err := p.st.Layer(l.Number()); err != nil || row.DiffID != "" || row.NoTar != "" {
			t.Fatalf("%s: recorded %q, %q, %v", name, row.DiffID, row.NoTar, err)
		}
	}
	if err := p.VerifyDiffID(t.Context(), l.Number(), b.written.DiffID); err != nil {
		t.Error(err)
	}
}

// A layer whose TOC shows other contents than the tar that the config names:
// the diffID says so.
func TestDiffIDOfAnotherView(t *testing.T) {
	tarContent, tocContent := random(1, 50), random(2, 50)
	inTar, other := makeBlob(t, file{"f", tarContent}), makeBlob(t, file{"f", tocContent})
	c, frame := firstChunk(t, inTar), frameOf(t, other)
	if c.Len != int64(len(frame)) {
		t.Fatalf("frames of %d and %d bytes", c.Len, len(frame))
	}
	bad := &blob{bytes: bytes.Clone(inTar.bytes), written: inTar.written}
	copy(bad.bytes[c.Off:], frame)
	bad = edited(t, bad, func(json []byte) []byte {
		return bytes.Replace(json, []byte(sha256Of(tarContent)), []byte(sha256Of(tocContent)), 1)
	})
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, bad, &source{blob: bad.bytes})
	if got, err := readFile(t.Context(), openName(t, l, "f")); err != nil || !bytes.Equal(got, tocContent) {
		t.Fatalf("TOC view: %x, error %v", got, err)
	}
	if err := p.VerifyDiffID(t.Context(), l.Number(), inTar.written.DiffID); !errors.Is(err, ErrDiffID) {
		t.Errorf("error %v", err)
	}
}

// A lazily read file of one chunk never becomes a partial object, and one of
// many chunks does, so that a later run goes on with it.
func TestWhereChunksAreKept(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	st := openStore(t, t.TempDir())
	p := newPool(t, st, &Options{Window: -1})
	l := addBlob(t, p, b, &source{blob: b.bytes})
	small := openName(t, l, "etc/small")
	if _, err := readFile(t.Context(), small); err != nil {
		t.Fatal(err)
	}
	waitComplete(t, small)
	if n := partials(t, st); n != 0 {
		t.Errorf("%d files under partial/", n)
	}
	if _, err := openName(t, l, "bin/tool").ReadAt(t.Context(), make([]byte, 1), 0); err != nil {
		t.Fatal(err)
	}
	if n := partials(t, st); n != 2 {
		t.Errorf("%d files under partial/, want an object and its map", n)
	}
}

// An object that gc removed is fetched again by the next who opens it.
func TestObjectRemoved(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	st := openStore(t, t.TempDir())
	p := newPool(t, st, nil)
	l := addBlob(t, p, b, &source{blob: b.bytes})
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(st.Root(), "objects")); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, l, b)
}

// Also when somebody still has it open, who goes on reading what he opened.
func TestObjectRemovedWhileOpen(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	st := openStore(t, t.TempDir())
	p := newPool(t, st, nil)
	l := addBlob(t, p, b, &source{blob: b.bytes})
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	f := openName(t, l, "bin/tool")
	if err := os.RemoveAll(filepath.Join(st.Root(), "objects")); err != nil {
		t.Fatal(err)
	}
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	for name, want := range b.files {
		if !st.HasObject(sha256Of(want), int64(len(want))) {
			t.Errorf("%s is not there", name)
		}
	}
	if got, err := readFile(t.Context(), f); err != nil || !bytes.Equal(got, b.files["bin/tool"]) {
		t.Errorf("open file: wrong, error %v", err)
	}
}

func firstChunk(t *testing.T, b *blob) chunked.Range {
	t.Helper()
	raw := b.bytes[b.written.TOC.TOC.Off:b.written.TOC.TOC.End()]
	toc, err := chunked.ParseTOC(raw, b.written.TOC, int64(len(b.bytes)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range toc.Entries {
		if len(e.Chunks) > 0 {
			return e.Chunks[0].Blob
		}
	}
	t.Fatal("no chunk")
	return chunked.Range{}
}

func frameOf(t *testing.T, b *blob) []byte {
	c := firstChunk(t, b)
	return b.bytes[c.Off:c.End()]
}

// In whatever order files are read, and whoever does beside it, no more than a tenth of
// a blob is fetched beyond it.
func TestBytesOfABlob(t *testing.T) {
	var files []file
	for i := range 400 {
		files = append(files, file{fmt.Sprintf("d%d/f%d", i%20, i), random(uint64(i), 500+i*37%9000)})
	}
	b := makeBlob(t, files...)
	for round := range 3 {
		p := newPool(t, openStore(t, t.TempDir()), &Options{Background: true, Jobs: 1})
		l := addBlob(t, p, b, &source{blob: b.bytes})
		r := rand.New(rand.NewPCG(uint64(round), 5))
		var wg sync.WaitGroup
		for step := range 2 { // every other one first: what lies between them is fetched later
			for i := step; i < len(files); i += 2 {
				f := openName(t, l, files[i].name)
				wg.Go(func() {
					if got, err := readFile(t.Context(), f); err != nil || !bytes.Equal(got, files[i].content) {
						t.Errorf("%s: wrong, error %v", files[i].name, err)
					}
				})
				if r.IntN(100) == 0 { // else they pile up and leave together
					wg.Wait()
				}
			}
			wg.Wait()
		}
		p.Background([]uint64{l.Number()})
		if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
			t.Fatal(err)
		}
		got, size := p.Stats().BytesFetched, int64(len(b.bytes))
		t.Logf("%d bytes of a blob of %d: %.3f", got, size, float64(got)/float64(size))
		if got*10 > size*11 {
			t.Errorf("%d bytes were fetched of a blob of %d", got, size)
		}
	}
}
