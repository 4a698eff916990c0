package lazyfs

import (
	"fmt"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/tocsin/tocsin/chunked"
)

// benchFS shows one view, number 1, of a directory with n empty files.
func benchFS(b *testing.B, n int) *FS {
	b.Helper()
	build := chunked.NewIndexBuilder(nil)
	for i := range n {
		if err := build.Add(chunked.Entry{Type: chunked.TypeReg, Name: fmt.Sprintf("file-%06d.txt", i), Mode: 0o644}); err != nil {
			b.Fatal(err)
		}
	}
	raw, err := build.Finish()
	if err != nil {
		b.Fatal(err)
	}
	index, err := chunked.OpenIndex(raw)
	if err != nil {
		b.Fatal(err)
	}
	merged, err := chunked.Merge(nil, []*chunked.Index{index})
	if err != nil {
		b.Fatal(err)
	}
	tree, err := chunked.OpenView(merged)
	if err != nil {
		b.Fatal(err)
	}
	f := New(&Options{Single: 1})
	f.views.open[1] = &view{tree: tree}
	return f
}

// BenchmarkList lists 1,000 files with their attributes, as a kernel does that asks for 32 KiB at a time.
func BenchmarkList(b *testing.B) {
	f := benchFS(b, 1000)
	buf := make([]byte, 32<<10)
	b.ReportAllocs()
	for b.Loop() {
		for off, n := uint64(0), uint64(0); off < 1002; off += n {
			out := fuse.NewDirEntryList(buf, off)
			in := &fuse.ReadIn{InHeader: fuse.InHeader{NodeId: rootNode}, Offset: off}
			n = 0
			st := f.list(in, func(t *chunked.View, view uint64, d fuse.DirEntry, e uint32) bool {
				entry := out.AddDirLookupEntry(d)
				if entry == nil {
					return false
				}
				fillEntry(t, view, e, entry)
				n++
				return true
			})
			if !st.Ok() || n == 0 {
				b.Fatal(st, n)
			}
		}
	}
}

// BenchmarkLookup finds one file of 1,000.
func BenchmarkLookup(b *testing.B) {
	f := benchFS(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		var out fuse.EntryOut
		if st := f.Lookup(nil, &fuse.InHeader{NodeId: rootNode}, "file-000500.txt", &out); !st.Ok() || out.NodeId == 0 {
			b.Fatal(st)
		}
	}
}
