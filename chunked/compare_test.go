package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

// tarred is a tar of headers with content, in which a name may come twice.
func tarred(t testing.TB, entries ...tarEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.ModTime, e.Format, e.Size = time.Unix(1e9, 0), tar.FormatPAX, int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type tarEntry struct {
	tar.Header
	content string
}

func writtenTOC(t testing.TB, raw []byte) *TOC {
	t.Helper()
	var blob bytes.Buffer
	w, err := Compress(&blob, bytes.NewReader(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	toc, err := ParseTOC(blob.Bytes()[w.TOC.TOC.Off:w.TOC.TOC.End()], w.TOC, w.Size)
	if err != nil {
		t.Fatal(err)
	}
	return toc
}

func TestCompareTar(t *testing.T) {
	zeros := string(make([]byte, 300<<10))
	f := tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, "content"}
	l := tarEntry{tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "f", Mode: 0o777}, ""}
	z := tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "z", Mode: 0o644}, "x" + zeros + "y"}
	raw := tarred(t, f, l, z)
	toc := writtenTOC(t, raw)
	changed := func(e tarEntry, change func(*tarEntry)) tarEntry { change(&e); return e }
	for name, c := range map[string]struct {
		tar  []byte
		want []Difference
	}{
		"the same":       {raw, nil},
		"another order":  {tarred(t, z, l, f), nil},
		"nothing":        {tarred(t), []Difference{{"f", "extra"}, {"l", "extra"}, {"z", "extra"}}},
		"one more":       {tarred(t, f, l, z, tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "g"}, ""}), []Difference{{"g", "missing"}}},
		"twice":          {tarred(t, f, l, z, f), []Difference{{"f", "missing"}}},
		"no TOC's name":  {tarred(t, f, l, z, tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "a/../../b"}, ""}), []Difference{{"a/../../b", "missing"}}},
		"target":         {tarred(t, f, changed(l, func(e *tarEntry) { e.Linkname = "z" }), z), []Difference{{"l", "link target"}}},
		"type":           {tarred(t, f, changed(l, func(e *tarEntry) { e.Typeflag = tar.TypeLink }), z), []Difference{{"l", "type"}}},
		"length":         {tarred(t, changed(f, func(e *tarEntry) { e.content = "c" }), l, z), []Difference{{"f", "content"}}},
		"byte":           {tarred(t, changed(f, func(e *tarEntry) { e.content = "c0ntent" }), l, z), []Difference{{"f", "content"}}},
		"byte in a hole": {tarred(t, f, l, changed(z, func(e *tarEntry) { e.content = "x" + zeros[:1000] + "!" + zeros[1001:] + "y" })), []Difference{{"z", "content"}}},
		"several": {tarred(t, changed(f, func(e *tarEntry) { e.Mode, e.Gid, e.content = 0o4755, 3, "CONTENT" }), l, z),
			[]Difference{{"f", "mode"}, {"f", "owner"}, {"f", "content"}}},
		"attribute": {tarred(t, changed(f, func(e *tarEntry) { e.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"} }), l, z),
			[]Difference{{"f", "xattr"}}},
	} {
		got, err := CompareTar(toc, bytes.NewReader(c.tar))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	for n := range raw[:1024] { // a tar that breaks off is an error or differs
		if got, err := CompareTar(toc, bytes.NewReader(raw[:n])); err == nil && len(got) == 0 {
			t.Errorf("the first %d bytes are the same", n)
		}
	}
}

// A chunk that is not the file's is another reading too, although the whole has the right digest: chunks are shown before
// anybody has seen the whole.
func TestCompareTarLooksAtChunks(t *testing.T) {
	f := tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, "content"}
	raw := tarred(t, f)
	toc := writtenTOC(t, raw)
	evil := writtenTOC(t, tarred(t, tarEntry{f.Header, "CONTENT"}))
	toc.Entries[0].Chunks = evil.Entries[0].Chunks
	if got, err := CompareTar(toc, bytes.NewReader(raw)); err != nil || !slices.Equal(got, []Difference{{"f", "content"}}) {
		t.Errorf("%v, %v", got, err)
	}
}

// Whatever a tar is, it is compared to its end or refused, and what is found is bounded.
func FuzzCompareTar(f *testing.F) {
	one := tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, "content"}
	raw := tarred(f, one)
	toc := writtenTOC(f, raw)
	f.Add(raw)
	f.Add(raw[:600])
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		got, err := CompareTar(toc, r)
		if err == nil && r.Len() > 0 {
			t.Errorf("%d bytes were not read", r.Len())
		}
		if len(got) > maxDifferences || err != nil && got != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%d differences, %v", len(got), err)
		}
	})
}
