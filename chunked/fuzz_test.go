package chunked

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
)

// ours says whether an error is one that bad input may give.
func ours(err error) bool {
	return errors.Is(err, ErrMalformed) || errors.Is(err, ErrUnsayable) || errors.Is(err, ErrTooBig) || errors.Is(err, ErrDigestMismatch)
}

// FuzzTOC: what parses makes an index that opens, whose objects are those of the TOC; all else is refused properly.
func FuzzTOC(f *testing.F) {
	blob, ref := vector(f)
	r, err := newBoundedReader(piece(blob, ref.TOC), ref.TOCRawLen)
	if err != nil {
		f.Fatal(err)
	}
	doc, err := io.ReadAll(r)
	if err != nil {
		f.Fatal(err)
	}
	seeds := []string{
		string(doc), `{"version":1,"entries":[]}`,
		entriesDoc(`{"type":"reg","name":"f","size":100,"digest":"$A","offset":10,"endOffset":90,"chunkSize":40,"chunkDigest":"$B"},` +
			`{"type":"chunk","name":"f","offset":50,"chunkOffset":40,"chunkSize":60,"chunkDigest":"$C"}`),
		entriesDoc(`{"type":"symlink","name":"a","linkName":"../b"},{"type":"reg","name":"a/x"},{"type":"reg","name":".wh.x"},{"type":"dir","name":"d","xattrs":{"user.a":"YQ=="}}`),
		entriesDoc(`{"type":"reg","name":"f","size":10,"digest":"$C","offset":10,"endOffset":90},{"type":"reg","name":"g","size":10,"digest":"$A","offset":10,"endOffset":90},{"type":"reg","name":"h","size":10,"digest":"$B","offset":89}`),
		entriesDoc(`{"type":"dir","name":"x"},{"type":"symlink","name":"l","linkName":"././././x"},{"type":"symlink","name":"m","linkName":"/l/../l"},{"type":"reg","name":"m/f"},{"type":"hardlink","name":"l/g","linkName":"m/f","xattrs":{"security.capability":"YQ==","user.b":"YQ=="}}`),
		entriesDoc(`{"type":"dir","name":"./"},{"type":"reg","name":".wh.x"},{"type":"dir","name":"x"},{"type":"reg","name":"x/.wh..wh..opq"},{"type":"reg","name":".wh..wh.plnk/1"},{"type":"char","name":"y"}`),
	}
	for _, s := range seeds {
		f.Add(s)
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, doc string) {
		if len(doc) > 1<<16 {
			return
		}
		sameAsSlow(t, doc)
		toc, err := parseDoc(t, doc)
		if err != nil {
			if !ours(err) {
				t.Errorf("foreign error: %v", err)
			}
			return
		}
		b, err := BuildIndex(toc)
		if err != nil {
			t.Fatalf("parsed, but not built: %v", err)
		}
		data, ref := tocBytes(t, doc)
		if streamed, split, err := IndexTOC(nil, data, ref, blobSize); err != nil || !bytes.Equal(streamed, b) || split != toc.TarSplitDigest {
			t.Fatalf("read as a stream it is another index: %v", err)
		}
		x, err := OpenIndex(b)
		if err != nil {
			t.Fatalf("built index does not open: %v", err)
		}
		for _, e := range toc.Entries {
			obj, ok := x.ObjectByPath(e.Name)
			if e.Type != TypeReg {
				continue
			}
			if ok != (e.Size > 0) || ok && (x.Object(obj).Digest != e.Digest || jsonOf(x.Chunks(obj)) != jsonOf(e.Chunks)) {
				t.Errorf("%q: object %d, %v", e.Name, obj, ok)
			}
		}
		v := merge(t, x, x)
		walkAll(t, &v.table)
	})
}

// walkAll calls every accessor of every entry.
func walkAll(tb testing.TB, t *table) {
	tb.Helper()
	names := 0
	for _, e := range t.walk {
		names++
		t.Attr(e)
		t.Readlink(e)
	}
	if dirents := len(t.sec[secDirents]) / direntLen; names != dirents {
		tb.Errorf("walked %d names of %d", names, dirents)
	}
	for e := range t.n {
		for i := range t.NumChildren(e) {
			name, c := t.Child(e, i)
			if got, ok := t.Lookup(e, name); !ok || got != c {
				tb.Errorf("%q in %d is %d, looked up %d", name, e, c, got)
			}
		}
		t.Parent(e)
		for i := range t.NumXattrs(e) {
			t.Xattr(e, i)
		}
	}
	t.lookupPath("a/b")
	_, _ = follow(t, "a/b")
}

// withSum gives fuzzed bytes the CRC that lets them in.
func withSum(b []byte) []byte {
	b = bytes.Clone(b)
	if len(b) >= headerLen {
		binary.LittleEndian.PutUint32(b[8:], tableSum(b))
	}
	return b
}

func fuzzLayers(f *testing.F) (indexes, views [][]byte) {
	for _, tc := range parseViewCases(f) {
		var layers []*Index
		for _, l := range tc.layers {
			b := NewIndexBuilder(nil)
			for _, e := range l {
				if err := b.Add(e.Entry); err != nil {
					f.Fatal(err)
				}
			}
			data, err := b.Finish()
			if err != nil {
				f.Fatal(err)
			}
			x, err := OpenIndex(data)
			if err != nil {
				f.Fatal(err)
			}
			indexes, layers = append(indexes, data), append(layers, x)
		}
		data, err := Merge(nil, layers)
		if err != nil {
			f.Fatal(err)
		}
		views = append(views, data)
	}
	if len(indexes) == 0 || len(views) == 0 {
		f.Fatal("no seeds")
	}
	return indexes, views
}

// FuzzIndex: any bytes that open can be walked, read and merged without a panic.
func FuzzIndex(f *testing.F) {
	indexes, _ := fuzzLayers(f)
	for _, b := range indexes {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := OpenIndex(withSum(b))
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("foreign error: %v", err)
			}
			return
		}
		walkAll(t, &x.table)
		for i := range x.NumObjects() {
			x.ObjectsByNumber(x.Object(i).Number())
			for _, c := range x.Chunks(i) {
				if k := x.ChunkAt(i, c.Off); x.Chunk(i, k).Off != c.Off {
					t.Errorf("chunk %d of object %d does not have offset %d", k, i, c.Off)
				}
			}
		}
		for e := range x.n {
			if obj, ok := x.Content(e); ok && x.Object(obj).Size != x.Attr(e).Size {
				t.Errorf("entry %d has another size than its object", e)
			}
		}
		x.ObjectByPath("a/f")
		v := merge(t, x, x)
		walkAll(t, &v.table)
	})
}

// FuzzView: any bytes that open can be walked without a panic.
func FuzzView(f *testing.F) {
	_, views := fuzzLayers(f)
	for _, b := range views {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := OpenView(withSum(b))
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("foreign error: %v", err)
			}
			return
		}
		walkAll(t, &v.table)
		for e := range v.n {
			if slot, _, ok := v.Content(e); ok && slot >= v.NumLayers() {
				t.Errorf("entry %d lies in layer %d of %d", e, slot, v.NumLayers())
			}
		}
	})
}

// FuzzFooter: what parses is written again byte for byte.
func FuzzFooter(f *testing.F) {
	blob, _ := vector(f)
	seeds := [][]byte{blob[len(blob)-FooterSize:], make([]byte, FooterSize), nil}
	for _, s := range seeds {
		f.Add(s)
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		footer, err := ParseFooter(b)
		if err == nil && !bytes.Equal(footer.Bytes(), b) {
			t.Errorf("%x is written as %x", b, footer.Bytes())
		}
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("foreign error: %v", err)
		}
	})
}

// FuzzTarSplit: no tar-split but the right one, however it is spelled, proves the vector's TOC.
func FuzzTarSplit(f *testing.F) {
	blob, ref := vector(f)
	toc, err := ParseTOC(piece(blob, ref.TOC), ref, int64(len(blob)))
	if err != nil {
		f.Fatal(err)
	}
	ts, err := ParseTarSplit(piece(blob, ref.TarSplit), toc.TarSplitDigest, ref.TarSplitRawLen)
	if err != nil {
		f.Fatal(err)
	}
	raw, err := ts.Raw()
	if err != nil {
		f.Fatal(err)
	}
	seeds := [][]byte{raw, piece(blob, ref.TarSplit), raw[:len(raw)/2], bytes.ReplaceAll(raw, []byte(`"size":6`), []byte(`"size":600`)), nil}
	for _, s := range seeds {
		f.Add(s)
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	x := indexOf(f, toc)
	open := func(name string) (io.ReadCloser, error) {
		obj, ok := x.ObjectByPath(name)
		if !ok {
			return nil, ErrMalformed
		}
		return io.NopCloser(io.NewSectionReader(NewFileReader(bytes.NewReader(blob), x.Chunks(obj)), 0, x.Object(obj).Size)), nil
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		ts := NewTarSplit(b)
		checked := CheckTarSplit(nil, x, ts)
		for what, err := range map[string]error{
			"check": checked, "prove": ProveTar(nil, &limitedBuffer{}, x, ts, open), "assemble": AssembleTar(&limitedBuffer{}, ts, open),
		} {
			if err != nil && !ours(err) && !errors.Is(err, errFull) {
				t.Errorf("%s: foreign error: %v", what, err)
			}
			if what == "prove" && err == nil && checked != nil {
				t.Errorf("proved, although %v", checked)
			}
		}
	})
}

var errFull = errors.New("buffer is full")

// limitedBuffer counts, and refuses to be filled without end.
type limitedBuffer struct{ n int }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.n += len(p); b.n > 1<<20 {
		return 0, errFull
	}
	return len(p), nil
}

// FuzzDecodeChunk: nothing but the right content is ever returned.
func FuzzDecodeChunk(f *testing.F) {
	content := bytes.Repeat([]byte("content of a chunk "), 10)
	good := zstdBytes(f, content)
	empty := zstdBytes(f, nil)
	seeds := [][]byte{good, append(bytes.Clone(good), empty...), append(append([]byte("\x50\x2a\x4d\x18\x02\x00\x00\x00xx"), good[:0]...), good...), good[:20], nil}
	for _, s := range seeds {
		f.Add(s)
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	c := Chunk{Size: int64(len(content)), Digest: digest.FromBytes(content), Blob: Range{Len: 1}}
	f.Fuzz(func(t *testing.T, b []byte) {
		dst := make([]byte, len(content))
		err := DecodeChunk(dst, b, c)
		if err == nil && !bytes.Equal(dst, content) {
			t.Error("wrong bytes")
		}
		if err != nil && !ours(err) {
			t.Errorf("foreign error: %v", err)
		}
	})
}
