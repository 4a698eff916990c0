package fill

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/store"
)

// parked is a source that takes requests for content and answers none before open is
// closed. asked gets one value for each.
func parked(b *blob, asked chan<- string, name string, open <-chan struct{}) *source {
	return &source{blob: b.bytes, before: func(ctx context.Context, call int) error {
		if call == 0 {
			return nil
		}
		asked <- name
		select {
		case <-open:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}}
}

// Of many layers a few are completed at a time, and one is completed once.
func TestBackgroundAFewAtATime(t *testing.T) {
	st := openStore(t, t.TempDir())
	blobs := make([]*blob, 5)
	for i := range blobs {
		blobs[i] = makeBlob(t, file{"f", random(uint64(i), 70_000)})
	}
	warm(t, blobs[0])
	synctest.Test(t, func(t *testing.T) {
		p := New(st, &Options{Background: true})
		asked, open := make(chan string, 100), make(chan struct{})
		var layers []uint64
		for i, b := range blobs {
			layers = append(layers, addBlob(t, p, b, parked(b, asked, fmt.Sprint(i), open)).Number())
		}
		for _, n := range layers {
			p.Background([]uint64{n})
			p.Background([]uint64{n})
		}
		synctest.Wait()
		if n := len(asked); n != atATime {
			t.Errorf("%d layers are fetched at a time, want %d", n, atATime)
		}
		close(open)
		synctest.Wait()
		if n := len(asked); n != len(layers) {
			t.Errorf("%d requests for %d layers", n, len(layers))
		}
		p.Close()
	})
	for i, b := range blobs {
		if want := b.files["f"]; !st.HasObject(sha256Of(want), int64(len(want))) {
			t.Errorf("layer %d is not complete", i)
		}
	}
}

// What is completed for nobody ends at once; a reader of the same chunk gets it.
func TestAbandon(t *testing.T) {
	b, other := makeBlob(t, mixedFiles()...), makeBlob(t, file{"f", random(8, 100_000)})
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		st := openStore(t, t.TempDir())
		p := newPool(t, st, &Options{Background: true, MaxRange: 300_000, Jobs: 2})
		asked, open := make(chan string, 100), make(chan struct{})
		l := addBlob(t, p, b, parked(b, asked, "b", open))
		kept := addBlob(t, p, other, parked(other, asked, "other", open))
		p.Background([]uint64{l.Number(), kept.Number()})
		synctest.Wait()
		if len(asked) != 1 {
			t.Fatalf("%d requests under way", len(asked))
		}
		p.Abandon(l.Number())
		synctest.Wait()
		<-asked
		if len(asked) != 1 || <-asked != "other" {
			t.Error("the next layer was not begun")
		}
		p.mu.Lock()
		for _, o := range p.objects {
			if n := o.refs.Load(); n != 0 && len(o.state.flights) > 0 && o.key.Digest != sha256Of(other.files["f"]) {
				t.Errorf("object of %d bytes is still fetched", o.key.Size)
			}
		}
		p.mu.Unlock()
		close(open)
		checkFiles(t, l, b)
	})
}

// A reader that waits for a chunk that the completion had asked for does not notice
// that the layer is abandoned.
func TestAbandonUnderAReader(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), &Options{Background: true})
		asked, open := make(chan string, 100), make(chan struct{})
		l := addBlob(t, p, b, parked(b, asked, "b", open))
		p.Background([]uint64{l.Number()})
		synctest.Wait()
		f := openName(t, l, "bin/tool")
		got, errs := make([]byte, len(b.files["bin/tool"])), make(chan error, 1)
		go func() { _, err := f.ReadAt(t.Context(), got, 0); errs <- err }()
		synctest.Wait()
		p.Abandon(l.Number())
		synctest.Wait()
		close(open)
		if err := <-errs; err != nil || !bytes.Equal(got, b.files["bin/tool"]) {
			t.Errorf("the read: %v", err)
		}
	})
}

// Long files that nobody waits for take turns to be hashed, and end when their layer
// is abandoned; one that somebody waits for is hashed at once.
func TestHashingTakesTurns(t *testing.T) {
	zeros := make([]byte, longObject)
	b := makeBlob(t, file{"a", append([]byte("a"), zeros...)})
	st := openStore(t, t.TempDir())
	p := newPool(t, st, nil)
	l := addBlob(t, p, b, &source{blob: b.bytes})
	for range atATime {
		p.behind.hashing <- struct{}{}
	}
	behind := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { behind <- l.Ensure(ctx, nil, Background) }()
	f := openName(t, l, "a")
	waitFull(t, f)
	if f.Complete() != nil {
		t.Fatal("it was hashed out of turn")
	}
	cancel()
	if err := <-behind; err == nil {
		t.Error("the completion did not wait")
	}
	f.h.mu.Lock()
	first := f.h.state.fin
	f.h.mu.Unlock()
	p.Abandon(l.Number())
	<-first.done
	if !abandoned(first.err) {
		t.Errorf("the completion ended with %v", first.err)
	}
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	if f.Complete() == nil {
		t.Error("it is not complete")
	}
}

// waitFull returns when all chunks of a file are here and its completion has begun.
func waitFull(t *testing.T, f *File) {
	t.Helper()
	for t.Context().Err() == nil {
		f.h.mu.Lock()
		begun := f.h.state.fin != nil
		f.h.mu.Unlock()
		if begun {
			return
		}
		if part, ok := f.h.body.(*store.Partial); ok {
			part.Missing()
		}
	}
}

// A file with more zeros than are ever hashed is read chunk by chunk, completed by
// nobody, and keeps nothing else of its layer from being complete.
func TestTooManyZeros(t *testing.T) {
	st := openStore(t, t.TempDir())
	p := newPool(t, st, nil)
	builder := chunked.NewIndexBuilder(nil)
	for _, f := range []struct {
		name   string
		chunks int64
	}{{"big", 17}, {"small", 1}} {
		size := int64(chunked.MaxZeros)
		if f.name == "small" {
			size = 5000
		}
		e := chunked.Entry{Type: chunked.TypeReg, Name: f.name, Mode: 0o644, Size: f.chunks * size, Digest: digest.FromString(f.name)}
		if f.name == "small" {
			e.Digest = digest.FromBytes(make([]byte, size))
		}
		for i := range f.chunks {
			e.Chunks = append(e.Chunks, chunked.Chunk{Off: i * size, Size: size, Zeros: true, Digest: digest.FromString("zeros")})
		}
		if err := builder.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	index, err := builder.Finish()
	if err != nil {
		t.Fatal(err)
	}
	n, err := st.PutLayer(store.LayerRow{TOC: digest.FromString("TOC")}, index, nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.Layer(n)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
		t.Fatal(err)
	}
	f, buf := openName(t, l, "big"), []byte("not zeros")
	if _, err := f.ReadAt(t.Context(), buf, 50<<30); err != nil || !bytes.Equal(buf, make([]byte, len(buf))) {
		t.Errorf("read: %q, %v", buf, err)
	}
	if f.Complete() != nil || !st.HasObject(digest.FromBytes(make([]byte, 5000)), 5000) {
		t.Error("the wrong file is complete")
	}
	if d := time.Since(began); d > 20*time.Second {
		t.Errorf("it took %v: the zeros were hashed", d)
	}
}
