package fill

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// BenchmarkSequentialRead reads a 64 MiB file, none of it local, in pieces of
// 128 KiB, from a source that costs nothing.
func BenchmarkSequentialRead(b *testing.B) {
	const size = 64 << 20
	bl := makeBlob(b, file{"big", random(1, size)})
	buf := make([]byte, 128<<10)
	b.SetBytes(size)
	for b.Loop() {
		b.StopTimer()
		p := New(openStore(b, b.TempDir()), nil)
		f := openName(b, addBlob(b, p, bl, &source{blob: bl.bytes}), "big")
		b.StartTimer()
		for off := int64(0); off < size; off += int64(len(buf)) {
			if _, err := f.ReadAt(b.Context(), buf, off); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		p.Close()
		b.ReportMetric(float64(p.Stats().Requests-1), "requests/op")
		b.StartTimer()
	}
}

// BenchmarkReadComplete reads the same file when it is local.
func BenchmarkReadComplete(b *testing.B) {
	const size = 64 << 20
	bl := makeBlob(b, file{"big", random(1, size)})
	p := newPool(b, openStore(b, b.TempDir()), nil)
	l := addBlob(b, p, bl, &source{blob: bl.bytes})
	if err := l.Ensure(b.Context(), nil, Foreground); err != nil {
		b.Fatal(err)
	}
	f := openName(b, l, "big")
	buf := make([]byte, 128<<10)
	b.SetBytes(int64(len(buf)))
	off := int64(0)
	for b.Loop() {
		if _, err := f.ReadAt(b.Context(), buf, off%size); err != nil && err != io.EOF {
			b.Fatal(err)
		}
		off += int64(len(buf))
	}
}

// BenchmarkEnsureSmallFiles makes a layer of 4,000 small files local.
func BenchmarkEnsureSmallFiles(b *testing.B) { benchmarkEnsure(b, smallFiles(4000)) }

// BenchmarkEnsureLargeFile makes a layer of one file of 64 MiB local.
func BenchmarkEnsureLargeFile(b *testing.B) {
	benchmarkEnsure(b, []file{{"big", random(1, 64<<20)}})
}

func benchmarkEnsure(b *testing.B, files []file) {
	bl := makeBlob(b, files...)
	total := int64(0)
	for _, f := range files {
		total += int64(len(f.content))
	}
	b.SetBytes(total)
	for b.Loop() {
		b.StopTimer()
		p := New(openStore(b, b.TempDir()), nil)
		l := addBlob(b, p, bl, &source{blob: bl.bytes})
		b.StartTimer()
		if err := l.Ensure(b.Context(), nil, Foreground); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		p.Close()
		b.ReportMetric(float64(p.Stats().Requests-1), "requests/op")
		b.StartTimer()
	}
}

// BenchmarkVerifyTOC is what a layer of 20,000 files costs before its first byte can be read, the request apart.
func BenchmarkVerifyTOC(b *testing.B) {
	var raw, blob bytes.Buffer
	w := tar.NewWriter(&raw)
	for i := range 20_000 {
		content := fmt.Sprint("file ", i)
		hdr := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("d%d/f%d", i/50, i), Size: int64(len(content)), Mode: 0o644}
		if err := w.WriteHeader(hdr); err != nil {
			b.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	written, err := chunked.Compress(&blob, &raw, nil)
	if err != nil {
		b.Fatal(err)
	}
	ref := written.TOC
	cut := func(r manifest.Range) []byte { return blob.Bytes()[r.Off:r.End()] }
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := verifyTOC(nil, [2][]byte{cut(ref.TOC), cut(ref.TarSplit)}, ref, written.Size); err != nil {
			b.Fatal(err)
		}
	}
}
