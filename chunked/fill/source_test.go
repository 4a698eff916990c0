package fill

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// blob is a zstd:chunked layer and what it says.
type blob struct {
	bytes   []byte
	written *chunked.Written
	files   map[string][]byte
}

// file is one regular file of a test layer.
type file struct {
	name    string
	content []byte
}

// random returns n bytes that do not compress and differ for each seed.
func random(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func makeTar(t testing.TB, files []file) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for _, f := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content))}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return raw.Bytes()
}

func makeBlob(t testing.TB, files ...file) *blob {
	t.Helper()
	var out bytes.Buffer
	w, err := chunked.Compress(&out, bytes.NewReader(makeTar(t, files)), nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &blob{bytes: out.Bytes(), written: w, files: map[string][]byte{}}
	for _, f := range files {
		if len(f.content) > 0 {
			b.files[f.name] = f.content
		}
	}
	return b
}

// smallFiles are files of one chunk each.
func smallFiles(n int) []file {
	out := make([]file, n)
	for i := range out {
		out[i] = file{fmt.Sprintf("d%d/f%d", i%50, i), fmt.Appendf(nil, "file %d\n%s", i, bytes.Repeat([]byte{byte(i), byte(i >> 8)}, i%700))}
	}
	return out
}

// mixed is a layer with files of all kinds: small, empty, of many chunks, with holes.
func mixedFiles() []file {
	holes := append(append(random(1, 100_000), make([]byte, 500_000)...), random(2, 3000)...)
	return []file{
		{"bin/tool", random(3, 700_000)},
		{"etc/empty", nil},
		{"etc/small", []byte("small\n")},
		{"etc/again", []byte("small\n")},
		{"var/holes", holes},
		{"var/zeros", make([]byte, 90_000)},
		{"var/big", random(4, 2_500_000)},
	}
}

func (b *blob) spec(host string) LayerSpec {
	return LayerSpec{
		Blob:   v1.Descriptor{Digest: b.written.Digest, Size: b.written.Size},
		TOC:    b.written.TOC,
		Source: store.Source{Host: host, Repo: "test", Blob: b.written.Digest, Size: b.written.Size},
	}
}

// source serves a blob from memory and can misbehave. Its fields are set
// before it is used.
type source struct {
	blob []byte
	// before runs at the beginning of each call, which fails with its error.
	before func(ctx context.Context, call int) error
	// body may replace the body of a range.
	body func(r chunked.Range, b []byte) io.Reader
	// skip leaves out the last range of a call.
	skip bool

	mu    sync.Mutex
	calls [][]chunked.Range
}

func (s *source) ReadRanges(ctx context.Context, ranges []chunked.Range, fn func(chunked.Range, io.Reader) error) error {
	s.mu.Lock()
	call := len(s.calls)
	s.calls = append(s.calls, append([]chunked.Range(nil), ranges...))
	end := int64(0)
	for i, r := range ranges {
		if r.Len <= 0 || r.Off < end || i > 0 && r.Off == 0 || r.End() > int64(len(s.blob)) {
			s.mu.Unlock()
			return fmt.Errorf("bad ranges %v", ranges)
		}
		end = r.End()
	}
	s.mu.Unlock()
	if s.before != nil {
		if err := s.before(ctx, call); err != nil {
			return err
		}
	}
	if s.skip {
		ranges = ranges[:len(ranges)-1]
	}
	for _, r := range ranges {
		var body io.Reader = bytes.NewReader(s.blob[r.Off:r.End()])
		if s.body != nil {
			body = s.body(r, s.blob[r.Off:r.End()])
		}
		if err := fn(r, body); err != nil {
			return err
		}
	}
	return nil
}

// asked returns all ranges of all calls from the given one on.
func (s *source) asked(from int) (calls int, ranges []chunked.Range) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.calls[from:] {
		ranges = append(ranges, c...)
	}
	return len(s.calls) - from, ranges
}

// twice returns the first byte that was asked for more than once, -1 if none was.
func (s *source) twice() int64 {
	_, ranges := s.asked(0)
	slices.SortFunc(ranges, func(a, b chunked.Range) int { return cmp.Compare(a.Off, b.Off) })
	for i := 1; i < len(ranges); i++ {
		if ranges[i].Off < ranges[i-1].End() {
			return ranges[i].Off
		}
	}
	return -1
}

func openStore(t testing.TB, root string) *store.Store {
	t.Helper()
	st, err := store.Open(root, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func newPool(t testing.TB, st *store.Store, o *Options) *Pool {
	t.Helper()
	p := New(st, o)
	t.Cleanup(func() { p.Close() })
	return p
}

// addBlob adds b from src and returns its layer.
func addBlob(t testing.TB, p *Pool, b *blob, src Source) *Layer {
	t.Helper()
	n, err := p.AddLayer(t.Context(), b.spec("a.example"), src)
	if err != nil {
		t.Fatal(err)
	}
	l, err := p.Layer(n)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// openName opens a file of the layer by its path.
func openName(t testing.TB, l *Layer, name string) *File {
	t.Helper()
	x, ok := l.Index().ObjectByPath(name)
	if !ok {
		t.Fatalf("no %s in the index", name)
	}
	f, err := l.Open(x)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// readFile reads a whole file in one call.
func readFile(ctx context.Context, f *File) ([]byte, error) {
	b := make([]byte, f.Size())
	_, err := f.ReadAt(ctx, b, 0)
	return b, err
}

// checkFiles reads every file of b through l and compares it.
func checkFiles(t testing.TB, l *Layer, b *blob) {
	t.Helper()
	for name, want := range b.files {
		got, err := readFile(t.Context(), openName(t, l, name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: wrong content, error %v", name, err)
		}
	}
}

// waitComplete waits until f's object is complete, without fetching.
func waitComplete(t testing.TB, f *File) {
	t.Helper()
	if err := f.h.complete(t.Context(), levelRead); err != nil {
		t.Fatal(err)
	}
}

var errBroken = errors.New("broken pipe")

func sha256Of(b []byte) digest.Digest { return digest.FromBytes(b) }

// edited returns b with a TOC made of other JSON, and the reference that a
// manifest of such a layer would have.
func edited(t testing.TB, b *blob, edit func(json []byte) []byte) *blob {
	t.Helper()
	ref := *b.written.TOC
	json := edit(unzstd(t, b.bytes[ref.TOC.Off:ref.TOC.End()]))
	packed := zstdOf(t, json)
	out := append([]byte(nil), b.bytes...)
	ref.Digest = digest.FromBytes(packed)
	ref.TOC = manifest.Range{Off: int64(len(out)), Len: int64(len(packed))}
	ref.TOCRawLen = int64(len(json))
	out = append(out, packed...)
	w := *b.written
	w.TOC, w.Digest, w.Size = &ref, digest.FromBytes(out), int64(len(out))
	return &blob{bytes: out, written: &w, files: b.files}
}
