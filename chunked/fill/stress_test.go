package fill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/tocsin/tocsin/chunked"
)

// Two pools with stores of their own over one root stand for two processes.
// Many readers, a source that often breaks, readers that leave, completions of
// everything beside them: no byte is ever wrong, and in the end all is there
// and nobody holds anything.
func TestStress(t *testing.T) {
	b := makeBlob(t, append(mixedFiles(), smallFiles(60)...)...)
	root := t.TempDir()
	var broken atomic.Int64
	src := &source{blob: b.bytes}
	var pools []*Pool
	var layers []*Layer
	for range 2 {
		p := newPool(t, openStore(t, root), &Options{Jobs: 3, MaxRange: 150_000, Window: 300_000})
		pools, layers = append(pools, p), append(layers, addBlob(t, p, b, src))
	}
	src.body = func(_ chunked.Range, body []byte) io.Reader {
		if broken.Add(1)%5 == 0 {
			return io.MultiReader(bytes.NewReader(body[:len(body)/2]), iotest.ErrReader(errBroken))
		}
		return bytes.NewReader(body)
	}
	names := make([]string, 0, len(b.files))
	for name := range b.files {
		names = append(names, name)
	}
	var wg sync.WaitGroup
	for g := range 12 {
		l := layers[g%2]
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range 40 {
				stressRead(t, l, b, names[r.IntN(len(names))], r)
			}
		})
	}
	for _, l := range layers {
		wg.Go(func() {
			for {
				err := l.Ensure(t.Context(), nil, Background)
				if err == nil {
					return
				}
				if !errors.Is(err, errBroken) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i, l := range layers {
		checkFiles(t, l, b)
		if m := pools[i].Stats().Mismatches; m != 0 {
			t.Errorf("%d mismatches", m)
		}
	}
	for _, l := range layers {
		if err := l.Ensure(t.Context(), nil, Foreground); err != nil {
			t.Error(err)
		}
	}
}

func stressRead(t *testing.T, l *Layer, b *blob, name string, r *rand.Rand) {
	want := b.files[name]
	x, _ := l.Index().ObjectByPath(name)
	f, err := l.Open(x)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	ctx := t.Context()
	if r.IntN(4) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(r.IntN(2000))*time.Microsecond)
		defer cancel()
	}
	off := r.Int64N(int64(len(want)))
	for off < int64(len(want)) {
		got := make([]byte, r.IntN(200_000)+1)
		n, err := f.ReadAt(ctx, got, off)
		if !bytes.Equal(got[:n], want[off:off+int64(n)]) {
			t.Errorf("%s: wrong bytes at %d", name, off)
			return
		}
		if err != nil && err != io.EOF {
			if !errors.Is(err, errBroken) && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			return
		}
		off += int64(n)
	}
}
