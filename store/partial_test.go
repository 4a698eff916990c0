package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// testFile is a content of chunks of 8 bytes; every third is zeros and has no digest.
type testFile struct {
	content []byte
	n       int
}

func newTestFile(n int) *testFile {
	f := &testFile{make([]byte, 8*n), n}
	for i := range f.content {
		if i/8%3 != 2 {
			f.content[i] = byte(i) | 1
		}
	}
	return f
}

func (f *testFile) chunk(i int) []byte { return f.content[8*i : 8*i+8] }

func (f *testFile) span(i int) Span {
	if i%3 == 2 {
		return Span{Off: int64(8 * i), Size: 8}
	}
	return Span{int64(8 * i), 8, digest.FromBytes(f.chunk(i))}
}

func (f *testFile) key() PartialKey {
	return PartialKey{digest.FromBytes(f.content), digest.FromString("some list"), int64(len(f.content))}
}

func (f *testFile) open(t testing.TB, s *Store) *Partial {
	t.Helper()
	p := must[*Partial](t)(s.OpenPartial(f.key(), f.span, f.n))
	t.Cleanup(func() { p.Close() })
	return p
}

func (f *testFile) fill(t testing.TB, p *Partial, i int) {
	t.Helper()
	if i%3 == 2 {
		ok(t, p.WriteZeros(i))
	} else {
		ok(t, p.Write(i, f.chunk(i)))
	}
}

func wantPartials(t testing.TB, s *Store, n int) {
	t.Helper()
	if got := filesBelow(t, s.path("partial")); len(got) != n {
		t.Fatalf("%d files below partial: %v", len(got), got)
	}
}

func TestPartial(t *testing.T) {
	s := newStore(t)
	f := newTestFile(7)
	a, b := f.open(t, s), f.open(t, s)
	for i := range f.n {
		if a.Has(i) {
			t.Fatalf("chunk %d before it was written", i)
		}
		wantIs(t, a.Finish(), ErrConflict)
		f.fill(t, a, i)
		if !b.Has(i) || b.Missing() != f.n-i-1 {
			t.Fatalf("the other does not see chunk %d", i)
		}
	}
	if a.Has(-1) || a.Has(f.n) {
		t.Fatal("chunks outside")
	}
	wantIs(t, a.Write(0, []byte("short")), ErrConflict)
	wantIs(t, a.Write(f.n, nil), ErrConflict)
	ok(t, a.Finish())
	ok(t, a.Finish())
	ok(t, b.Finish())
	got := must[[]byte](t)(io.ReadAll(io.NewSectionReader(b, 0, 1<<20)))
	if !bytes.Equal(got, f.content) || !s.HasObject(f.key().Digest, f.key().Size) {
		t.Fatal("wrong object")
	}
	_, err := s.OpenPartial(f.key(), f.span, f.n)
	wantIs(t, err, ErrComplete)
	wantPartials(t, s, 0)
	wantClean(t, s)
}

func TestPartialEmpty(t *testing.T) {
	s := newStore(t)
	f := newTestFile(0)
	ok(t, f.open(t, s).Finish())
	if !s.HasObject(digest.FromString(""), 0) {
		t.Fatal("no empty object")
	}
}

// A TOC may give true chunks of a false whole. The last one to notice removes it.
func TestPartialMismatch(t *testing.T) {
	s := newStore(t)
	f := newTestFile(2)
	k := f.key()
	k.Digest = digest.FromString("somebody else's file")
	a := must[*Partial](t)(s.OpenPartial(k, f.span, f.n))
	b := must[*Partial](t)(s.OpenPartial(k, f.span, f.n))
	for i := range f.n {
		f.fill(t, a, i)
	}
	wantIs(t, a.Finish(), ErrDigestMismatch)
	wantPartials(t, s, 2)
	a.Close()
	wantIs(t, b.Finish(), ErrDigestMismatch)
	b.Close()
	wantPartials(t, s, 0)
	if s.HasObject(k.Digest, k.Size) {
		t.Fatal("a wrong object")
	}
}

// After a reboot marks are hints: data that was never written back must not be believed.
func TestPartialOtherBoot(t *testing.T) {
	s := newStore(t)
	f := newTestFile(7)
	p := f.open(t, s)
	for i := range 6 {
		f.fill(t, p, i)
	}
	p.Close()
	data, err := os.OpenFile(p.path, os.O_RDWR, 0)
	ok(t, err)
	defer data.Close()
	data.WriteAt([]byte("garbage"), 8)   // chunk 1 has a digest
	data.WriteAt([]byte("garbage"), 5*8) // chunk 5 is zeros
	marks, err := os.OpenFile(p.path+".map", os.O_RDWR, 0)
	ok(t, err)
	defer marks.Close()
	marks.WriteAt([]byte{7}, mapHeader+3) // neither 0 nor 1

	s.boot = "00000000-0000-0000-0000-000000000000"
	p = f.open(t, s)
	for i, want := range []bool{true, false, true, false, true, false, false} {
		if p.Has(i) != want {
			t.Errorf("chunk %d: %v", i, p.Has(i))
		}
	}
	for i := range f.n {
		f.fill(t, p, i)
	}
	ok(t, p.Finish())
	wantClean(t, s)
}

// In one boot nobody verifies again: a killed process cannot lose the order of two writes.
func TestPartialSameBootBelieves(t *testing.T) {
	s := newStore(t)
	f := newTestFile(3)
	p := f.open(t, s)
	f.fill(t, p, 0)
	p.Close()
	called := false
	p = must[*Partial](t)(s.OpenPartial(f.key(), func(i int) Span { called = true; return f.span(i) }, f.n))
	defer p.Close()
	if !p.Has(0) || called {
		t.Fatal("chunk verified again")
	}
}

// A map that a dead process left speaks of a file that is gone.
func TestPartialStaleMap(t *testing.T) {
	s := newStore(t)
	f := newTestFile(3)
	p := f.open(t, s)
	f.fill(t, p, 0)
	p.Close()
	ok(t, os.Remove(p.path))
	if p = f.open(t, s); p.Has(0) {
		t.Fatal("believed a stale map")
	}
}

func TestPartialWrongMapSize(t *testing.T) {
	s := newStore(t)
	f := newTestFile(3)
	f.open(t, s).Close()
	_, err := s.OpenPartial(f.key(), f.span, 2)
	wantIs(t, err, ErrCorrupt)
}

// Layers that disagree on one chunk do not share a file.
func TestPartialByList(t *testing.T) {
	s := newStore(t)
	f := newTestFile(3)
	a := f.open(t, s)
	f.fill(t, a, 0)
	k := f.key()
	k.List = digest.SHA512.FromString("another list")
	b := must[*Partial](t)(s.OpenPartial(k, f.span, f.n))
	defer b.Close()
	if b.Has(0) {
		t.Fatal("shared between chunk lists")
	}
}

// Many finish at once while others open: nobody may replace the object by the empty file of one who came late.
func TestPartialFinishRace(t *testing.T) {
	s := newStore(t)
	for round := range 20 {
		f := newTestFile(round + 1)
		done := make(chan error)
		const fillers = 4
		for range fillers {
			go func() { done <- fillOnce(s, f) }()
		}
		for range fillers {
			ok(t, <-done)
		}
		b := must[[]byte](t)(os.ReadFile(s.path(objectRel(f.key().Digest))))
		if !bytes.Equal(b, f.content) {
			t.Fatalf("round %d: wrong object of %d bytes", round, len(b))
		}
	}
	wantClean(t, s)
}

func fillOnce(s *Store, f *testFile) error {
	p, err := s.OpenPartial(f.key(), f.span, f.n)
	if errors.Is(err, ErrComplete) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	for i := range f.n {
		if p.Has(i) {
			continue
		}
		if i%3 == 2 {
			err = p.WriteZeros(i)
		} else {
			err = p.Write(i, f.chunk(i))
		}
		if err != nil {
			return err
		}
	}
	return p.Finish()
}

// Whatever bytes a map holds, only chunks whose data is right are believed after another boot.
func FuzzChunkMap(f *testing.F) {
	seeds := [][]byte{nil, []byte("x"), []byte(mapMagic), append([]byte(mapMagic+"another boot"), bytes.Repeat([]byte{1}, 80)...),
		bytes.Repeat([]byte{1}, mapHeader+4), bytes.Repeat([]byte{255}, mapHeader+3)}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, b := range seeds {
		f.Add(b)
	}
	const boot = "11111111-2222-3333-4444-555555555555"
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.HasPrefix(b, []byte(mapMagic+boot)) {
			t.Skip("written by this boot")
		}
		path := filepath.Join(t.TempDir(), "map")
		ok(t, os.WriteFile(path, b, 0o600))
		m, err := openChunkMap(path, 4, boot, func(i int) bool { return i == 2 })
		if err != nil {
			wantIs(t, err, ErrCorrupt)
			return
		}
		defer m.close()
		for i := range 4 {
			if m.has(i) && i != 2 {
				t.Fatalf("chunk %d believed", i)
			}
		}
	})
}

// Hashing that is broken off costs nothing but the hashing.
func TestFinishBrokenOff(t *testing.T) {
	s := newStore(t)
	f := newTestFile(5)
	p := f.open(t, s)
	for i := range f.n {
		f.fill(t, p, i)
	}
	why := errors.New("shutting down")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	wantIs(t, p.FinishContext(ctx), why)
	if p.Missing() != 0 || s.HasObject(f.key().Digest, f.key().Size) {
		t.Errorf("%d chunks are missing after it was broken off", p.Missing())
	}
	ok(t, p.Finish())
	if !s.HasObject(f.key().Digest, f.key().Size) {
		t.Error("not complete")
	}
}
