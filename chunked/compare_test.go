package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
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

// differences is what the two readings of one layer do not say alike: none if the index derived from the tar is the TOC's.
func differences(t testing.TB, toc *TOC, raw []byte) ([]Difference, error) {
	t.Helper()
	x := indexOf(t, toc)
	b, err := DeriveIndex(nil, bytes.NewReader(raw), x)
	if err != nil {
		return nil, err
	}
	tar, err := OpenIndex(b)
	if err != nil {
		t.Fatal(err)
	}
	found := CompareIndexes(x, tar)
	if bytes.Equal(b, x.raw) != (len(found) == 0) {
		t.Errorf("the same bytes: %t, differences: %v", bytes.Equal(b, x.raw), found)
	}
	return found, nil
}

func TestDeriveIndex(t *testing.T) {
	zeros := string(make([]byte, 300<<10))
	f := tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, "content"}
	l := tarEntry{tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "f", Mode: 0o777}, ""}
	z := tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "d/z", Mode: 0o644}, "x" + zeros + "y"}
	raw := tarred(t, f, l, z)
	toc := writtenTOC(t, raw)
	changed := func(e tarEntry, change func(*tarEntry)) tarEntry { change(&e); return e }
	for name, c := range map[string]struct {
		tar  []byte
		want []Difference
	}{
		"the same":       {raw, nil},
		"another order":  {tarred(t, z, l, f), nil},
		"nothing":        {tarred(t), []Difference{{"d", "extra"}, {"d/z", "extra"}, {"f", "extra"}, {"l", "extra"}}},
		"one more":       {tarred(t, f, l, z, tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "g"}, ""}), []Difference{{"g", "missing"}}},
		"twice":          {tarred(t, f, l, z, f), nil},
		"the directory":  {tarred(t, f, l, tarEntry{tar.Header{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o755}, ""}, z), []Difference{{"d", "time"}, {"d", "implied"}}},
		"target":         {tarred(t, f, changed(l, func(e *tarEntry) { e.Linkname = "z" }), z), []Difference{{"l", "link target"}}},
		"type":           {tarred(t, f, changed(l, func(e *tarEntry) { e.Typeflag, e.Mode = tar.TypeLink, 0o644 }), z), []Difference{{"f", "hard links"}, {"l", "type"}}},
		"length":         {tarred(t, changed(f, func(e *tarEntry) { e.content = "c" }), l, z), []Difference{{"f", "content"}}},
		"byte":           {tarred(t, changed(f, func(e *tarEntry) { e.content = "c0ntent" }), l, z), []Difference{{"f", "content"}}},
		"byte in a hole": {tarred(t, f, l, changed(z, func(e *tarEntry) { e.content = "x" + zeros[:1000] + "!" + zeros[1001:] + "y" })), []Difference{{"d/z", "content"}}},
		"several": {tarred(t, changed(f, func(e *tarEntry) { e.Mode, e.Gid, e.content = 0o4755, 3, "CONTENT" }), l, z),
			[]Difference{{"f", "mode"}, {"f", "owner"}, {"f", "content"}}},
		"attribute": {tarred(t, changed(f, func(e *tarEntry) { e.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"} }), l, z),
			[]Difference{{"f", "xattr"}}},
		"opaque":   {tarred(t, f, l, z, tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "d/.wh..wh..opq"}, ""}), []Difference{{"d", "opaque"}}},
		"whiteout": {tarred(t, f, l, z, tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "d/.wh.g"}, ""}), []Difference{{"d/g", "missing"}}},
		"replaced": {tarred(t, f, l, z, changed(l, func(e *tarEntry) { e.Typeflag, e.Name, e.Linkname = tar.TypeReg, "l", "" })), []Difference{{"l", "type"}}},
	} {
		got, err := differences(t, toc, c.tar)
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	if got, err := differences(t, toc, tarred(t, tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "a/../../b"}, ""})); !errors.Is(err, ErrMalformed) {
		t.Errorf("a name that leaves the root: %v, %v", got, err)
	}
	for n := range raw[:1024] { // a tar that breaks off is an error or differs
		if got, err := differences(t, toc, raw[:n]); err == nil && len(got) == 0 {
			t.Errorf("the first %d bytes are the same", n)
		}
	}
}

// A chunk that is not the file's is another reading too, although the whole has the right digest: chunks are shown before
// anybody has seen the whole.
func TestDeriveIndexLooksAtChunks(t *testing.T) {
	long := strings.Repeat("content ", 100_000)
	for _, content := range []string{"content", long, long + string(make([]byte, 64<<10)) + long} {
		f := tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, content}
		raw := tarred(t, f)
		for i := range writtenTOC(t, raw).Entries[0].Chunks {
			toc := writtenTOC(t, raw)
			c := &toc.Entries[0].Chunks[i]
			c.Zeros = false
			c.Digest = digest.FromString("evil")
			if got, err := differences(t, toc, raw); err != nil || !slices.Equal(got, []Difference{{"f", "content"}}) {
				t.Errorf("chunk %d: %v, %v", i, got, err)
			}
			if c.Zeros = true; len(content) == len(long) {
				if got, err := differences(t, toc, raw); err != nil || !slices.Equal(got, []Difference{{"f", "content"}}) {
					t.Errorf("chunk %d as zeros: %v, %v", i, got, err)
				}
			}
		}
	}
}

// Whatever a tar is, it is read to its end or refused, and what is found is bounded.
func FuzzDeriveIndex(f *testing.F) {
	one := tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, "content"}
	raw := tarred(f, one)
	toc := writtenTOC(f, raw)
	f.Add(raw)
	f.Add(raw[:600])
	f.Fuzz(func(t *testing.T, in []byte) {
		got, err := differences(t, toc, in)
		if err != nil && !ours(err) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("foreign error: %v", err)
		}
		if len(got) > maxDifferences {
			t.Errorf("%d differences", len(got))
		}
	})
}
