package fill

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/tocsin/tocsin/chunked"
)

// trickle gives one byte every 29 seconds, which is less than any timeout.
func trickle(ctx func() context.Context) func(chunked.Range, []byte) io.Reader {
	return func(_ chunked.Range, b []byte) io.Reader { return &trickling{ctx, bytes.NewReader(b)} }
}

type trickling struct {
	ctx func() context.Context
	r   io.Reader
}

func (s *trickling) Read(b []byte) (int, error) {
	select {
	case <-time.After(29 * time.Second):
		return s.r.Read(b[:1])
	case <-s.ctx().Done():
		return 0, errBroken
	}
}

// trickler is a source of b that trickles from the given call on.
func trickler(b *blob, from int) *source {
	s := &source{blob: b.bytes}
	var now context.Context
	s.before = func(ctx context.Context, call int) error {
		now = ctx
		s.body = nil
		if call >= from {
			s.body = trickle(func() context.Context { return now })
		}
		return nil
	}
	return s
}

// read returns how long a file took to be read, and fails if it is wrong.
func timeToRead(t *testing.T, l *Layer, b *blob, name string) time.Duration {
	t.Helper()
	began := time.Now()
	got, err := readFile(t.Context(), openName(t, l, name))
	if err != nil || !bytes.Equal(got, b.files[name]) {
		t.Errorf("%s: wrong, error %v", name, err)
	}
	return time.Since(began)
}

// A source that trickles costs a reader a few seconds while there is another one:
// another host is asked beside it, and of one host the next source after a window.
func TestTricklingSource(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	for name, c := range map[string]struct {
		host string
		most time.Duration
	}{
		"another host":  {"b.example", hedgeAfter},
		"the same host": {"a.example", slowWindow},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, openStore(t, t.TempDir()), &Options{Window: -1})
				bad := trickler(b, 1)
				l := addBlob(t, p, b, bad)
				spec := b.spec(c.host)
				spec.Source.Repo = "other"
				if _, err := p.AddLayer(t.Context(), spec, &source{blob: b.bytes}); err != nil {
					t.Fatal(err)
				}
				if d := timeToRead(t, l, b, "bin/tool"); d > c.most {
					t.Errorf("the read took %v, more than %v", d, c.most)
				}
				if calls, _ := bad.asked(1); calls == 0 {
					t.Error("the bad source was not asked")
				}
				<-time.After(2 * slowWindow) // the slow request is given up
				if d := timeToRead(t, l, b, "var/big"); d != 0 {
					t.Errorf("the next read took %v", d)
				}
			})
		})
	}
}

// What another image's sources are asked for already comes through the reader's own
// layer, when they trickle.
func TestTricklingSourceOfAnotherImage(t *testing.T) {
	same := file{"lib/same", random(7, 300_000)}
	hostile, victim := makeBlob(t, file{"a", random(1, 100)}, same), makeBlob(t, same, file{"b", random(2, 100)})
	warm(t, victim)
	for _, host := range []string{"b.example", "a.example"} {
		t.Run(host, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPool(t, openStore(t, t.TempDir()), &Options{Window: -1})
				lh := addBlob(t, p, hostile, trickler(hostile, 1))
				n, err := p.AddLayer(t.Context(), victim.spec(host), &source{blob: victim.bytes})
				if err != nil {
					t.Fatal(err)
				}
				lv, err := p.Layer(n)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				fh, stuck := openName(t, lh, same.name), make(chan error, 1)
				go func() { _, err := readFile(ctx, fh); stuck <- err }()
				synctest.Wait()
				if d := timeToRead(t, lv, victim, same.name); d != hedgeAfter {
					t.Errorf("the read took %v, want %v", d, hedgeAfter)
				}
				if err := <-stuck; err != nil { // it has the chunks too
					t.Error(err)
				}
				cancel()
				if m := p.Stats().Mismatches; m != 0 {
					t.Errorf("%d mismatches", m)
				}
			})
		})
	}
}

// A line that is only slow is not made slower by second requests.
func TestNoSecondRequestOnASlowLine(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), nil)
		src, other := &source{blob: b.bytes}, &source{blob: b.bytes}
		l := addBlob(t, p, b, src)
		if _, err := p.AddLayer(t.Context(), b.spec("b.example"), other); err != nil {
			t.Fatal(err)
		}
		src.body = func(_ chunked.Range, b []byte) io.Reader { return slow{bytes.NewReader(b), time.Second} }
		if d := timeToRead(t, l, b, "var/big"); d < 40*time.Second {
			t.Errorf("the line was not slow: %v", d)
		}
		if calls, _ := other.asked(0); calls != 0 {
			t.Errorf("%d second requests", calls)
		}
		if at := src.twice(); at >= 0 {
			t.Errorf("byte %d was fetched twice", at)
		}
	})
}

// A second request that fails leaves the first one alone.
func TestHedgeFails(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), nil)
		open := make(chan struct{})
		l := addBlob(t, p, b, parked(b, make(chan string, 10), "a", open))
		broken := &source{blob: b.bytes, body: func(chunked.Range, []byte) io.Reader { return iotest.ErrReader(errBroken) }}
		if _, err := p.AddLayer(t.Context(), b.spec("b.example"), broken); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(2*hedgeAfter, func() { close(open) })
		if d := timeToRead(t, l, b, "etc/small"); d != 2*hedgeAfter {
			t.Errorf("the read took %v", d)
		}
		if calls, _ := broken.asked(0); calls == 0 {
			t.Error("the other host was not asked")
		}
	})
}

// A TOC that trickles does not keep another image from its own source, and gets what
// that one brought; alone it ends in bounded time.
func TestTricklingTOC(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), nil)
		began := time.Now()
		first := make(chan error, 1)
		go func() {
			_, err := p.AddLayer(t.Context(), b.spec("a.example"), trickler(b, 0))
			first <- err
		}()
		synctest.Wait()
		if _, err := p.AddLayer(t.Context(), b.spec("b.example"), &source{blob: b.bytes}); err != nil {
			t.Fatal(err)
		}
		if err := <-first; err != nil {
			t.Errorf("the one that trickled: %v", err)
		}
		if d := time.Since(began); d < hedgeAfter || d > hedgeAfter+time.Second { // it may wait for the store's lock
			t.Errorf("after %v, want %v", d, hedgeAfter)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), nil)
		began := time.Now()
		_, err := p.AddLayer(t.Context(), b.spec("a.example"), trickler(b, 0))
		if d := time.Since(began); !errors.Is(err, ErrSlow) || d > DefaultReadTimeout+2*time.Second {
			t.Errorf("alone: %v after %v", err, d)
		}
	})
}

// A TOC is fetched for those who wait, and for nobody else.
func TestTOCOfNobody(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		src := &source{blob: b.bytes, before: func(ctx context.Context, _ int) error {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return ctx.Err()
		}}
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		if _, err := p.AddLayer(ctx, b.spec("a.example"), src); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if err := <-ended; time.Since(began) != time.Second {
			t.Errorf("the fetch ended after %v with %v", time.Since(began), err)
		}
	})
}

// Of sources that failed the last one's caller says why; a source that another caller
// asked in vain is asked again.
func TestTOCSourceFails(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), nil)
		failing := &source{blob: b.bytes, before: func(context.Context, int) error { <-time.After(time.Second); return errBroken }}
		first := make(chan error, 1)
		go func() { _, err := p.AddLayer(t.Context(), b.spec("a.example"), failing); first <- err }()
		synctest.Wait()
		if _, err := p.AddLayer(t.Context(), b.spec("a.example"), &source{blob: b.bytes}); err != nil {
			t.Errorf("the second caller: %v", err)
		}
		if err := <-first; !errors.Is(err, errBroken) {
			t.Errorf("the first caller: %v", err)
		}
	})
}
