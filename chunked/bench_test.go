package chunked

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// bigDoc is a TOC of n files, 50 to a directory, every tenth with four chunks.
func bigDoc(n int) string {
	var b strings.Builder
	b.WriteString(`{"version":1,"entries":[`)
	off := int64(1000)
	const times = `"modtime":"2023-11-14T22:13:20Z","accesstime":"0001-01-01T00:00:00Z","changetime":"0001-01-01T00:00:00Z"`
	for i := range n {
		dir := fmt.Sprintf("usr/share/thing-%04d/sub", i/50)
		if i%50 == 0 {
			fmt.Fprintf(&b, `{"type":"dir","name":"%s/","mode":493,%s},`, dir, times)
		}
		d := digest.FromString(fmt.Sprint(i))
		if i%10 != 0 {
			fmt.Fprintf(&b, `{"type":"reg","name":"%s/file-%06d.txt","mode":420,"size":5000,%s,"digest":"%s","offset":%d,"endOffset":%d},`, dir, i, times, d, off, off+1500)
			off += 2000
			continue
		}
		fmt.Fprintf(&b, `{"type":"reg","name":"%s/file-%06d.txt","mode":420,"size":400,%s,"digest":"%s","offset":%d,"endOffset":%d,"chunkSize":100,"chunkDigest":"%s"},`, dir, i, times, d, off, off+400, d)
		for k := 1; k < 4; k++ {
			fmt.Fprintf(&b, `{"type":"chunk","name":"%s/file-%06d.txt","offset":%d,"chunkOffset":%d,"chunkSize":100,"chunkDigest":"%s"},`, dir, i, off+int64(100*k), 100*k, d)
		}
		off += 2000
	}
	return strings.TrimSuffix(b.String(), ",") + `]}`
}

func bigTOC(tb testing.TB, n int) ([]byte, *manifest.TOCRef, int) {
	tb.Helper()
	doc := bigDoc(n)
	b, ref := tocBytes(tb, doc)
	ref.TOC.Off = 1 << 40
	return b, ref, len(doc)
}

func bigIndex(tb testing.TB, n int) *Index {
	tb.Helper()
	b, ref, _ := bigTOC(tb, n)
	toc, err := ParseTOC(b, ref, -1)
	if err != nil {
		tb.Fatal(err)
	}
	data, err := BuildIndex(toc)
	if err != nil {
		tb.Fatal(err)
	}
	x, err := OpenIndex(data)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

func BenchmarkParseTOC200k(b *testing.B) {
	data, ref, raw := bigTOC(b, 200_000)
	b.SetBytes(int64(raw))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTOC(data, ref, -1); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuildIndex200k(b *testing.B) {
	data, ref, _ := bigTOC(b, 200_000)
	toc, err := ParseTOC(data, ref, -1)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	size := 0
	for b.Loop() {
		out, err := BuildIndex(toc)
		if err != nil {
			b.Fatal(err)
		}
		size = len(out)
	}
	b.ReportMetric(float64(size), "index-bytes")
	var ms runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&ms)
	b.ReportMetric(float64(ms.HeapAlloc), "heap-bytes")
	runtime.KeepAlive(toc)
}

func BenchmarkIndexTOC200k(b *testing.B) {
	data, ref, raw := bigTOC(b, 200_000)
	b.SetBytes(int64(raw))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := IndexTOC(nil, data, ref, -1); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenIndex200k(b *testing.B) {
	data, err := BuildIndex(mustTOC(b, 200_000))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenIndex(data); err != nil {
			b.Fatal(err)
		}
	}
}

func mustTOC(tb testing.TB, n int) *TOC {
	tb.Helper()
	b, ref, _ := bigTOC(tb, n)
	toc, err := ParseTOC(b, ref, -1)
	if err != nil {
		tb.Fatal(err)
	}
	return toc
}

func BenchmarkMerge200kAnd10k(b *testing.B) {
	layers := []*Index{bigIndex(b, 200_000), bigIndex(b, 10_000)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Merge(nil, layers); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenView200k(b *testing.B) {
	data, err := Merge(nil, []*Index{bigIndex(b, 200_000)})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := OpenView(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	v := merge(b, bigIndex(b, 200_000))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := v.lookupPath("usr/share/thing-2000/sub/file-100001.txt"); !ok {
			b.Fatal("not found")
		}
	}
}

// BenchmarkCheckTarSplit proves a TOC of the tar-split of as many empty files.
func BenchmarkCheckTarSplit(b *testing.B) {
	var layer []testEntry
	for i := range 20_000 {
		layer = append(layer, testEntry{Entry: Entry{Type: TypeReg, Name: fmt.Sprintf("usr/share/file-%06d", i), Mode: 0o644, ModTime: time.Unix(1700000000, 0)}})
	}
	raw := splitOf(b, layerTar(b, layer))
	toc := &TOC{}
	for _, e := range layer {
		toc.Entries = append(toc.Entries, e.Entry)
	}
	x := indexOf(b, toc)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if err := CheckTarSplit(nil, x, NewTarSplit(raw)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAssembleTar(b *testing.B) {
	layer := []testEntry{{Entry: Entry{Type: TypeReg, Name: "f", Size: 64 << 20, ModTime: time.Unix(0, 0)}, content: strings.Repeat("x", 64<<20)}}
	raw := splitOf(b, layerTar(b, layer))
	b.SetBytes(64 << 20)
	for b.Loop() {
		err := AssembleTar(io.Discard, NewTarSplit(raw), func(string) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(layer[0].content)), nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
