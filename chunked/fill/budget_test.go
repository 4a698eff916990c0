package fill

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tocsin/tocsin/chunked"
)

// A build waits until others have let go, no longer than its context, and one
// that fits nowhere is refused with the figures.
func TestBudgetOfBuilds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(30 << 20) // 20 MiB for builds
		first, err := b.build(t.Context(), 15<<20)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := b.build(ctx, 6<<20); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("beyond the budget: %v", err)
		}
		second := make(chan error, 1)
		go func() {
			done, err := b.build(t.Context(), 20<<20)
			if err == nil {
				done()
			}
			second <- err
		}()
		synctest.Wait()
		select {
		case err := <-second:
			t.Errorf("it did not wait: %v", err)
		default:
		}
		first()
		if err := <-second; err != nil {
			t.Error(err)
		}
		_, err = b.build(t.Context(), 20<<20+1)
		if !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), "about 21 MiB, and 20 MiB are allowed") {
			t.Errorf("too large by itself: %v", err)
		}
	})
}

// Where memory has no room for chunks and small files they go through files,
// with the same content in the end.
func TestNoRoomInMemory(t *testing.T) {
	b := makeBlob(t, append(mixedFiles(), smallFiles(40)...)...)
	st := openStore(t, t.TempDir())
	p := newPool(t, st, &Options{Jobs: 3, MaxRange: 150_000})
	l := addBlob(t, p, b, &source{blob: b.bytes})
	chunks, objects := p.opt.Memory/8, p.opt.Memory-p.opt.Memory/3*2-p.opt.Memory/8
	if !p.memory.chunks.TryAcquire(chunks) || !p.memory.objects.TryAcquire(objects) {
		t.Fatal("the budget is not what it was")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for name, want := range b.files {
		if !st.HasObject(sha256Of(want), int64(len(want))) {
			t.Errorf("%s is not complete", name)
		}
	}
	checkFiles(t, l, b)
	p.memory.chunks.Release(chunks)
	p.memory.objects.Release(objects)
}

// What was taken is given back, after failures too.
func TestBudgetIsGivenBack(t *testing.T) {
	b := makeBlob(t, append(mixedFiles(), smallFiles(40)...)...)
	bad := bytes.Clone(b.bytes)
	for at := 0; at < int(b.written.TOC.TOC.Off); at += 1000 {
		bad[at] ^= 1
	}
	for _, raw := range [][]byte{bad, b.bytes} {
		p := New(openStore(t, t.TempDir()), nil)
		l := addBlob(t, p, b, &source{blob: raw})
		_, err := p.View(t.Context(), []uint64{l.Number()})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Ensure(t.Context(), nil, Foreground); (err == nil) != bytes.Equal(raw, b.bytes) {
			t.Errorf("ensure: %v", err)
		}
		p.Close()
		m, total := p.memory, p.opt.Memory
		if !m.builds.TryAcquire(total/3*2) || !m.chunks.TryAcquire(total/8) || !m.objects.TryAcquire(total-total/3*2-total/8) {
			t.Error("something was not given back")
		}
	}
}

// A layer and a view that do not fit are refused by name.
func TestTooLargeForMemory(t *testing.T) {
	b := makeBlob(t, smallFiles(2000)...)
	st := openStore(t, t.TempDir())
	p := newPool(t, st, &Options{Memory: 64 << 10})
	_, err := p.AddLayer(t.Context(), b.spec("a.example"), &source{blob: b.bytes})
	if !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), b.written.Digest.String()) {
		t.Errorf("layer: %v", err)
	}
	l := addBlob(t, newPool(t, st, nil), b, &source{blob: b.bytes})
	if _, err := p.View(t.Context(), []uint64{l.Number()}); !errors.Is(err, ErrMemory) || !strings.Contains(err.Error(), "view of layers [1]") {
		t.Errorf("view: %v", err)
	}
}

// Builds, and the waiting for one, end with the pool.
func TestBuildsEndWithThePool(t *testing.T) {
	b := makeBlob(t, smallFiles(3000)...)
	st := openStore(t, t.TempDir())
	p := New(st, nil)
	l := addBlob(t, p, b, &source{blob: b.bytes})
	done, err := p.memory.build(t.Context(), p.memory.most)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	waiting := make(chan error, 1)
	go func() { _, err := p.View(t.Context(), []uint64{l.Number()}); waiting <- err }()
	ended, end := context.WithCancelCause(t.Context())
	end(ErrClosed)
	regions := st.NewRegions()
	defer regions.Close()
	ref := b.written.TOC
	raw := [2][]byte{b.bytes[ref.TOC.Off:ref.TOC.End()], b.bytes[ref.TarSplit.Off:ref.TarSplit.End()]}
	if _, _, err := verifyTOC(Workspace(ended, regions), raw, ref, b.written.Size); !errors.Is(err, ErrClosed) {
		t.Errorf("a TOC: %v", err)
	}
	if _, err := chunked.Merge(Workspace(ended, regions), []*chunked.Index{l.Index()}); !errors.Is(err, ErrClosed) {
		t.Errorf("a view: %v", err)
	}
	p.Close()
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("waiting for a build: %v", err)
	}
}
