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
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// Whatever byte of a blob is wrong: an error or the right bytes, and in the
// end no object that is not what its name says.
func TestNeverWrongBytes(t *testing.T) {
	b := makeBlob(t, file{"small", []byte("hello\n")}, file{"big", random(1, 200_000)},
		file{"holes", append(random(2, 5000), append(make([]byte, 5000), 1)...)})
	var flips [][]int
	for at := 0; at < len(b.bytes); at += 97 * 23 {
		flips = append(flips, []int{at})
	}
	for at := int(b.written.TOC.TOC.Off); at < len(b.bytes); at += 97 {
		flips = append(flips, []int{at})
	}
	var all []int
	for at := 0; at < int(b.written.TOC.TOC.Off)-97; at += 97 {
		all = append(all, at)
	}
	flips = append(flips, all)
	failed := 0
	for _, flip := range flips {
		bad := bytes.Clone(b.bytes)
		for _, at := range flip {
			bad[at] ^= 0x41
		}
		failed += readAllOrFail(t, b, bad)
	}
	if failed == 0 {
		t.Error("no flip was noticed")
	}
}

// readAllOrFail reads b's files from bad bytes and counts what failed.
func readAllOrFail(t *testing.T, b *blob, bad []byte) (failed int) {
	st := openStore(t, t.TempDir())
	p := New(st, nil)
	defer p.Close()
	n, err := p.AddLayer(t.Context(), b.spec("a.example"), &source{blob: bad})
	if err != nil {
		if !errors.Is(err, ErrDigestMismatch) || !errors.Is(err, manifest.ErrDigestMismatch) {
			t.Errorf("add: %v", err)
		}
		return 1
	}
	l, err := p.Layer(n)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range b.files {
		f := openName(t, l, name)
		for off := int64(0); off < f.Size(); off += 30_000 {
			got := make([]byte, min(30_000, f.Size()-off))
			_, err := f.ReadAt(t.Context(), got, off)
			switch {
			case err != nil && !errors.Is(err, ErrNoSource):
				t.Errorf("%s: %v", name, err)
			case err != nil:
				failed++
			case !bytes.Equal(got, want[off:off+int64(len(got))]):
				t.Fatalf("%s: wrong bytes at %d", name, off)
			}
		}
	}
	_ = l.Ensure(t.Context(), nil, Foreground)
	for name, want := range b.files {
		if f, err := st.OpenObject(sha256Of(want), int64(len(want))); err == nil {
			got, err := io.ReadAll(f)
			if f.Close(); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("%s: the object is wrong", name)
			}
		}
	}
	if failed > 0 && p.Stats().Mismatches == 0 {
		t.Error("failure not counted")
	}
	return failed
}

func TestQuarantine(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	bad := bytes.Clone(b.bytes)
	for at := 0; at < int(b.written.TOC.TOC.Off); at += 1000 {
		bad[at] ^= 1
	}
	root := t.TempDir()
	p := newPool(t, openStore(t, root), nil)
	evil, good := &source{blob: bad}, &source{blob: b.bytes}
	l := addBlob(t, p, b, evil)

	f := openName(t, l, "var/big")
	_, err := readFile(t.Context(), f)
	if !errors.Is(err, ErrDigestMismatch) || !errors.Is(err, ErrNoSource) {
		t.Errorf("the read that found out: %v", err)
	}
	before, _ := evil.asked(0)
	if _, err := readFile(t.Context(), f); !errors.Is(err, ErrNoSource) {
		t.Errorf("the next read: %v", err)
	}
	if after, _ := evil.asked(0); after != before {
		t.Errorf("a quarantined source was asked again")
	}
	row, err := p.st.Layer(l.Number())
	if err != nil || !row.Quarantined || row.Sources[0].Quarantined == "" {
		t.Errorf("row %+v, error %v", row, err)
	}

	// Another process remembers, and does not ask it either.
	connects := 0
	again := newPool(t, openStore(t, root), &Options{Connect: func(context.Context, store.Source) (Source, error) {
		connects++
		return evil, nil
	}})
	l2, err := again.Layer(l.Number())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(t.Context(), openName(t, l2, "var/big")); !errors.Is(err, ErrNoSource) || connects != 0 {
		t.Errorf("after a restart: %v, %d connects", err, connects)
	}

	// When its time is over it is asked once more, and its next quarantine is longer.
	rested(t, l)
	before, _ = evil.asked(0)
	if _, err := readFile(t.Context(), f); !errors.Is(err, ErrDigestMismatch) {
		t.Errorf("after the quarantine: %v", err)
	}
	if after, _ := evil.asked(0); after == before {
		t.Error("not asked again after the quarantine")
	}
	if row, err = p.st.Layer(l.Number()); err != nil || row.Sources[0].Strikes != 2 {
		t.Errorf("row %+v, error %v", row, err)
	}

	// Another source makes it work again, also for files that are open.
	if _, err := p.AddLayer(t.Context(), b.spec("b.example"), good); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, l, b)
	if got, err := readFile(t.Context(), f); err != nil || !bytes.Equal(got, b.files["var/big"]) {
		t.Errorf("wrong content, error %v", err)
	}
}

// rested ends the quarantine of a layer's sources in this process.
func rested(t *testing.T, l *Layer) {
	t.Helper()
	for _, pl := range l.src.list {
		if !pl.resting() {
			t.Errorf("%s is in no quarantine", pl.Host)
		}
		l.src.rest(pl, time.Now())
		row, err := l.pool.st.Layer(l.Number())
		if err != nil || !row.Sources[0].Until.After(time.Now()) {
			t.Errorf("recorded: %+v, %v", row, err)
		}
	}
}

// One flipped bit on the wire costs a source a minute, or until the image is pulled from it again.
func TestQuarantineEnds(t *testing.T) {
	for _, how := range []string{"in time", "pulled anew"} {
		b := makeBlob(t, mixedFiles()...)
		flipped := false
		src := &source{blob: b.bytes}
		p := newPool(t, openStore(t, t.TempDir()), nil)
		l := addBlob(t, p, b, src)
		src.body = func(_ chunked.Range, raw []byte) io.Reader {
			if !flipped {
				flipped, raw = true, bytes.Clone(raw)
				raw[len(raw)/2] ^= 1
			}
			return bytes.NewReader(raw)
		}
		f := openName(t, l, "etc/small")
		if _, err := readFile(t.Context(), f); !errors.Is(err, ErrDigestMismatch) {
			t.Errorf("%s: the read of the flipped bit: %v", how, err)
		}
		if _, err := readFile(t.Context(), f); !errors.Is(err, ErrNoSource) {
			t.Errorf("%s: the next read: %v", how, err)
		}
		if how == "in time" {
			rested(t, l)
		} else if again := addBlob(t, p, b, src); again != l {
			t.Error("another layer")
		}
		checkFiles(t, l, b)
	}
}

// A wrong chunk is taken from the next source in the same read.
func TestNextSource(t *testing.T) {
	for name, spoil := range map[string]func(*source){
		"wrong bytes": func(s *source) {
			s.body = func(_ chunked.Range, b []byte) io.Reader {
				b = bytes.Clone(b)
				b[len(b)/2] ^= 1
				return bytes.NewReader(b)
			}
		},
		"error":       func(s *source) { s.before = func(context.Context, int) error { return errBroken } },
		"broken body": func(s *source) { s.body = func(chunked.Range, []byte) io.Reader { return iotest.ErrReader(errBroken) } },
		"short body": func(s *source) {
			s.body = func(_ chunked.Range, b []byte) io.Reader { return bytes.NewReader(b[:len(b)-1]) }
		},
		"range missing": func(s *source) { s.skip = true },
	} {
		t.Run(name, func(t *testing.T) {
			b := makeBlob(t, mixedFiles()...)
			bad, good := &source{blob: b.bytes}, &source{blob: b.bytes}
			p := newPool(t, openStore(t, t.TempDir()), &Options{Connect: func(_ context.Context, s store.Source) (Source, error) {
				if s.Host != "b.example" {
					t.Errorf("connect to %s", s.Host)
				}
				return good, nil
			}})
			l := addBlob(t, p, b, bad)
			if err := p.st.AddSource(l.Number(), b.spec("b.example").Source); err != nil { // by another process
				t.Fatal(err)
			}
			spoil(bad)
			checkFiles(t, l, b)
			if calls, _ := bad.asked(1); calls == 0 {
				t.Error("the bad source was not asked")
			}
			row, err := p.st.Layer(l.Number())
			if err != nil || (row.Sources[0].Quarantined != "") != (name == "wrong bytes") || row.Sources[1].Quarantined != "" {
				t.Errorf("sources %+v, error %v", row.Sources, err)
			}
		})
	}
}

// An error that is only the network's is not the end of the layer.
func TestSourceRecovers(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	src := &source{blob: b.bytes}
	p := newPool(t, openStore(t, t.TempDir()), nil)
	l := addBlob(t, p, b, src)
	broken := true
	src.before = func(context.Context, int) error {
		if broken {
			return errBroken
		}
		return nil
	}
	f := openName(t, l, "etc/small")
	if _, err := readFile(t.Context(), f); !errors.Is(err, errBroken) || errors.Is(err, ErrNoSource) {
		t.Errorf("error %v", err)
	}
	broken = false
	checkFiles(t, l, b)
}

func TestNoSource(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	root := t.TempDir()
	l := addBlob(t, newPool(t, openStore(t, root), nil), b, &source{blob: b.bytes})
	for name, connect := range map[string]Connect{
		"no way to connect": nil,
		"refused":           func(context.Context, store.Source) (Source, error) { return nil, errBroken },
	} {
		p := newPool(t, openStore(t, root), &Options{Connect: connect})
		again, err := p.Layer(l.Number())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := readFile(t.Context(), openName(t, again, "bin/tool")); !errors.Is(err, ErrNoSource) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// hang is a source that does not answer before its context ends.
func hang(ctx context.Context, call int) error {
	if call == 0 {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

// warm makes what packages keep for the whole process, which must not belong
// to one test's bubble.
func warm(t *testing.T, b *blob) {
	t.Helper()
	p := newPool(t, openStore(t, t.TempDir()), nil)
	checkFiles(t, addBlob(t, p, b, &source{blob: b.bytes}), b)
}

func TestDeadline(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		const timeout = 20 * time.Second
		p := newPool(t, openStore(t, t.TempDir()), &Options{ReadTimeout: timeout, Jobs: 1})
		src := &source{blob: b.bytes, before: hang}
		l := addBlob(t, p, b, src)
		f, queued := openName(t, l, "var/big"), openName(t, l, "etc/small")
		began := time.Now()
		first := make(chan error, 1)
		go func() { _, err := readFile(t.Context(), f); first <- err }()
		synctest.Wait()
		_, err := readFile(t.Context(), queued) // waits for the only slot
		for _, err := range []error{err, <-first} {
			if !errors.Is(err, ErrTimeout) {
				t.Errorf("error %v", err)
			}
		}
		if d := time.Since(began); d != timeout {
			t.Errorf("after %v", d)
		}
		<-time.After(timeout) // the second one had the slot meanwhile
		synctest.Wait()
		src.before = nil
		checkFiles(t, l, b) // the slot came free
	})
}

// A source that hangs is given up while somebody still waits, if there is
// another one.
func TestHangingSource(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), &Options{ReadTimeout: 20 * time.Second})
		l := addBlob(t, p, b, &source{blob: b.bytes, before: hang})
		if _, err := p.AddLayer(t.Context(), b.spec("b.example"), &source{blob: b.bytes}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		checkFiles(t, l, b)
		if d := time.Since(began); d >= 20*time.Second {
			t.Errorf("the files took %v", d)
		}
	})
}

// A host that hangs has its own slots: others go on.
func TestHangingHost(t *testing.T) {
	a, b := makeBlob(t, mixedFiles()...), makeBlob(t, file{"f", random(8, 100_000)})
	warm(t, a)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), &Options{ReadTimeout: 20 * time.Second, Jobs: 1})
		l := addBlob(t, p, a, &source{blob: a.bytes, before: hang})
		f := openName(t, l, "var/big")
		stuck := make(chan error, 1)
		go func() { _, err := readFile(t.Context(), f); stuck <- err }()
		synctest.Wait()
		began := time.Now()
		n, err := p.AddLayer(t.Context(), b.spec("b.example"), &source{blob: b.bytes})
		if err != nil {
			t.Fatal(err)
		}
		other, err := p.Layer(n)
		if err != nil {
			t.Fatal(err)
		}
		checkFiles(t, other, b)
		if d := time.Since(began); d != 0 {
			t.Errorf("the other host waited %v", d)
		}
		if err := <-stuck; !errors.Is(err, ErrTimeout) {
			t.Errorf("error %v", err)
		}
	})
}

// slow is a body that gives some bytes now and then.
type slow struct {
	r     io.Reader
	pause time.Duration
}

func (s slow) Read(b []byte) (int, error) {
	<-time.After(s.pause)
	return s.r.Read(b[:min(len(b), 50_000)])
}

// As long as bytes arrive nobody gives up, however long it takes: not the
// reader that waits for them, nor the one that waits for a slot.
func TestSlowIsNotStuck(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	warm(t, b)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), &Options{ReadTimeout: 20 * time.Second, Jobs: 1})
		src := &source{blob: b.bytes}
		l := addBlob(t, p, b, src)
		src.body = func(_ chunked.Range, b []byte) io.Reader { return slow{bytes.NewReader(b), 19 * time.Second} }
		began := time.Now()
		errs := make(chan error, 2)
		for _, name := range []string{"var/big", "etc/small"} {
			f := openName(t, l, name)
			go func() {
				got, err := readFile(t.Context(), f)
				if err == nil && !bytes.Equal(got, b.files[name]) {
					t.Errorf("%s: wrong", name)
				}
				errs <- err
			}()
			synctest.Wait()
		}
		for range 2 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if d := time.Since(began); d < 10*time.Minute {
			t.Errorf("the source was not slow: %v", d)
		}
	})
}

func TestTOCDeadline(t *testing.T) {
	b := makeBlob(t, mixedFiles()...)
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, openStore(t, t.TempDir()), &Options{ReadTimeout: time.Minute})
		src := &source{blob: b.bytes, before: func(ctx context.Context, _ int) error { return hang(ctx, 1) }}
		began := time.Now()
		_, err := p.AddLayer(t.Context(), b.spec("a.example"), src)
		if !errors.Is(err, ErrTimeout) || time.Since(began) != time.Minute {
			t.Errorf("error %v after %v", err, time.Since(began))
		}
	})
}
