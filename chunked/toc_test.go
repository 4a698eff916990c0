package chunked

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// blobSize is the size of the blobs the TOCs of these tests claim to lie in: data before 1000.
const blobSize = 5000

func zstdBytes(tb testing.TB, raw []byte) []byte {
	tb.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer enc.Close()
	return enc.EncodeAll(raw, nil)
}

// tocBytes compresses a document and makes the reference to it.
func tocBytes(tb testing.TB, doc string) ([]byte, *manifest.TOCRef) {
	tb.Helper()
	b := zstdBytes(tb, []byte(doc))
	return b, &manifest.TOCRef{
		Digest: digest.FromBytes(b), TOC: Range{Off: 1008, Len: int64(len(b))}, TOCRawLen: int64(len(doc)),
		Dialect: manifest.DialectContainers,
	}
}

func parseDoc(tb testing.TB, doc string) (*TOC, error) {
	tb.Helper()
	b, ref := tocBytes(tb, doc)
	return ParseTOC(b, ref, blobSize)
}

// words replaces $A, $B, $Z... in documents by digests.
func words(doc string) string {
	return strings.NewReplacer(
		"$A512", digest.SHA512.FromString("a").String(),
		"$EMPTY", digest.FromString("").String(),
		"$Z10", digest.FromBytes(make([]byte, 10)).String(),
		"$A", digest.FromString("a").String(), "$B", digest.FromString("b").String(), "$C", digest.FromString("c").String(),
	).Replace(doc)
}

// entriesDoc is a document around entries.
func entriesDoc(entries string) string { return words(`{"version":1,"entries":[` + entries + `]}`) }

func TestParseTOCRefuses(t *testing.T) {
	const (
		file  = `{"type":"reg","name":"f","size":100,"digest":"$A","offset":10,"endOffset":50}`
		first = `{"type":"reg","name":"f","size":100,"digest":"$A","offset":10,"endOffset":90,"chunkSize":40,"chunkDigest":"$B"}`
	)
	for _, tc := range []struct {
		name, doc string
		want      error
	}{
		{"M7 not JSON", `x`, ErrMalformed},
		{"M8 trailing data", entriesDoc("") + "{}", ErrMalformed},
		{"M8 trailing garbage", entriesDoc("") + "x", ErrMalformed},
		{"cut off", `{"version":1,"entries":[` + file, ErrMalformed},
		{"entries twice", `{"version":1,"entries":[],"Entries":[]}`, ErrMalformed},
		{"entries no array", `{"version":1,"entries":{}}`, ErrMalformed},
		{"M9 unknown type", entriesDoc(`{"type":"door","name":"x"}`), ErrMalformed},
		{"M9 no type", entriesDoc(`{"name":"x"}`), ErrMalformed},
		{"M10 chunk first", entriesDoc(`{"type":"chunk","name":"f","offset":10,"chunkSize":60,"chunkDigest":"$B"}`), ErrMalformed},
		{"M10 chunk of another name", entriesDoc(first + `,{"type":"chunk","name":"g","offset":50,"chunkOffset":40,"chunkSize":60,"chunkDigest":"$B"}`), ErrMalformed},
		{"M10 chunk not adjacent", entriesDoc(first + `,{"type":"dir","name":"g"},{"type":"chunk","name":"f","offset":50,"chunkOffset":40,"chunkSize":60,"chunkDigest":"$B"}`), ErrMalformed},
		{"M11 sum too small", entriesDoc(first + `,{"type":"chunk","name":"f","offset":50,"chunkOffset":40,"chunkSize":50,"chunkDigest":"$B"}`), ErrMalformed},
		{"M11 sum too big", entriesDoc(first + `,{"type":"chunk","name":"f","offset":50,"chunkOffset":40,"chunkSize":61,"chunkDigest":"$B"}`), ErrMalformed},
		{"M11 gap", entriesDoc(first + `,{"type":"chunk","name":"f","offset":50,"chunkOffset":41,"chunkSize":59,"chunkDigest":"$B"}`), ErrMalformed},
		{"M11 overlap", entriesDoc(first + `,{"type":"chunk","name":"f","offset":50,"chunkOffset":39,"chunkSize":61,"chunkDigest":"$B"}`), ErrMalformed},
		{"M11 offsets go back", entriesDoc(first + `,{"type":"chunk","name":"f","offset":9,"chunkOffset":40,"chunkSize":60,"chunkDigest":"$B"}`), ErrMalformed},
		{"M11 chunk without bytes", entriesDoc(first + `,{"type":"chunk","name":"f","offset":10,"chunkOffset":40,"chunkSize":60,"chunkDigest":"$B"}`), ErrMalformed},
		{"M11 end before offset", entriesDoc(`{"type":"reg","name":"f","size":100,"digest":"$A","offset":10,"endOffset":9}`), ErrMalformed},
		{"M11 rest, then more", entriesDoc(`{"type":"reg","name":"f","size":100,"digest":"$A","offset":10,"endOffset":90,"chunkDigest":"$A"},{"type":"chunk","name":"f","offset":50,"chunkSize":60,"chunkDigest":"$B"}`), ErrMalformed},
		{"M5 end behind the data", entriesDoc(`{"type":"reg","name":"f","size":100,"digest":"$A","offset":10,"endOffset":1001}`), ErrMalformed},
		{"M5 starts behind the data", entriesDoc(`{"type":"reg","name":"f","size":100,"digest":"$A","offset":1000}`), ErrMalformed},
		{"M12 bad tarSplitDigest", `{"version":1,"tarSplitDigest":"sha256:12","entries":[]}`, ErrMalformed},
		{"M14 twice", entriesDoc(`{"type":"dir","name":"d"},{"type":"dir","name":"d"}`), ErrMalformed},
		{"M14 twice, spelled differently", entriesDoc(`{"type":"dir","name":"d/"},{"type":"dir","name":"./d"}`), ErrMalformed},
		{"M15 dot dot", entriesDoc(`{"type":"dir","name":"a/../b"}`), ErrMalformed},
		{"M15 only dot dot", entriesDoc(`{"type":"reg","name":".."}`), ErrMalformed},
		{"NUL in a name", entriesDoc(`{"type":"dir","name":"a\u0000"}`), ErrMalformed},
		{"component too long", entriesDoc(`{"type":"dir","name":"` + strings.Repeat("x", 256) + `"}`), ErrMalformed},
		{"no name", entriesDoc(`{"type":"dir","name":""}`), ErrMalformed},
		{"root is a file", entriesDoc(`{"type":"reg","name":"./"}`), ErrMalformed},
		{"M16 missing target", entriesDoc(`{"type":"hardlink","name":"h","linkName":"f"}`), ErrMalformed},
		{"M16 later target", entriesDoc(`{"type":"hardlink","name":"h","linkName":"f"},` + file), ErrMalformed},
		{"M16 target is a directory", entriesDoc(`{"type":"dir","name":"f"},{"type":"hardlink","name":"h","linkName":"f"}`), ErrMalformed},
		{"M16 target outside", entriesDoc(file + `,{"type":"hardlink","name":"h","linkName":"../f"}`), ErrMalformed},
		{"M17 negative size", entriesDoc(`{"type":"reg","name":"f","size":-1}`), ErrMalformed},
		{"M17 negative offset", entriesDoc(`{"type":"reg","name":"f","offset":-1}`), ErrMalformed},
		{"M17 negative device", entriesDoc(`{"type":"char","name":"f","devMajor":-1}`), ErrMalformed},
		{"M17 negative uid", entriesDoc(`{"type":"dir","name":"f","uid":-1}`), ErrMalformed},
		{"M17 number out of range", entriesDoc(`{"type":"dir","name":"f","mode":9223372036854775808}`), ErrMalformed},
		{"M18 mixed algorithms", entriesDoc(file + `,{"type":"reg","name":"g","size":100,"digest":"$A512","offset":60,"endOffset":70}`), ErrMalformed},
		{"M18 mixed in chunks", entriesDoc(first + `,{"type":"chunk","name":"f","offset":50,"chunkOffset":40,"chunkSize":60,"chunkDigest":"$A512"}`), ErrMalformed},
		{"M19 version 2", `{"version":2,"entries":[]}`, ErrMalformed},
		{"M19 no version", `{"entries":[]}`, ErrMalformed},
		{"no digest", entriesDoc(`{"type":"reg","name":"f","size":1,"offset":10,"endOffset":20}`), ErrMalformed},
		{"bad digest", entriesDoc(`{"type":"reg","name":"f","size":1,"digest":"sha256:AB","offset":10,"endOffset":20}`), ErrMalformed},
		{"unknown algorithm", entriesDoc(`{"type":"reg","name":"f","size":1,"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","offset":10,"endOffset":20}`), ErrMalformed},
		{"chunk without digest", entriesDoc(`{"type":"reg","name":"f","size":100,"digest":"$A","offset":10,"endOffset":90,"chunkSize":40}`), ErrMalformed},
		{"one chunk, another digest", entriesDoc(`{"type":"reg","name":"f","size":100,"digest":"$A","offset":10,"endOffset":90,"chunkDigest":"$B"}`), ErrMalformed},
		{"empty with a digest", entriesDoc(`{"type":"reg","name":"f","digest":"$A"}`), ErrMalformed},
		{"empty with a chunk", entriesDoc(`{"type":"reg","name":"f","digest":"$EMPTY"},{"type":"chunk","name":"f","offset":5,"chunkSize":1,"chunkDigest":"$A"}`), ErrMalformed},
		{"unknown chunk type", entriesDoc(`{"type":"reg","name":"f","size":10,"digest":"$A","offset":10,"endOffset":20,"chunkType":"ones"}`), ErrMalformed},
		{"zeros that are none", entriesDoc(`{"type":"reg","name":"f","size":10,"digest":"$A","offset":10,"endOffset":20,"chunkType":"zeros"}`), ErrDigestMismatch},
		{"zeros with two digests", entriesDoc(`{"type":"reg","name":"f","size":10,"digest":"$Z10","offset":10,"endOffset":20,"chunkType":"zeros"},{"type":"reg","name":"g","size":10,"digest":"$A","offset":20,"endOffset":30,"chunkType":"zeros"}`), ErrDigestMismatch},
		{"too many zeros", entriesDoc(`{"type":"reg","name":"f","size":4294967297,"digest":"$A","offset":10,"endOffset":20,"chunkType":"zeros"}`), ErrTooBig},
		{"chunk too big", entriesDoc(`{"type":"reg","name":"f","size":268435457,"digest":"$A","offset":10,"endOffset":20}`), ErrTooBig},
		{"bad time", entriesDoc(`{"type":"dir","name":"d","modtime":"yesterday"}`), ErrMalformed},
		{"bad xattr", entriesDoc(`{"type":"dir","name":"d","xattrs":{"user.a":"!"}}`), ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			toc, err := parseDoc(t, tc.doc)
			if !errors.Is(err, tc.want) {
				t.Errorf("got %v, %v, want %v", toc, err, tc.want)
			}
		})
	}
}

func TestParseTOCAccepts(t *testing.T) {
	for _, tc := range []struct {
		name, doc string
		want      []Chunk // of the first entry
	}{
		{"no entries", entriesDoc(""), nil},
		{"unknown fields and other case", words(`{"Version":1,"x":{"y":[1]},"ENTRIES":[{"Type":"dir","NAME":"d","userName":"u","NumLink":3}]}`), nil},
		{"root", entriesDoc(`{"type":"dir","name":"./"}`), nil},
		{"whitespace after", entriesDoc("") + " \n\t", nil},
		{"empty file", entriesDoc(`{"type":"reg","name":"f","digest":"$EMPTY"}`), nil},
		{"one chunk", entriesDoc(`{"type":"reg","name":"f","size":7,"digest":"$A","offset":10,"endOffset":20}`),
			[]Chunk{{Size: 7, Digest: digest.FromString("a"), Blob: Range{Off: 10, Len: 10}}}},
		{"end by the next offset", entriesDoc(`{"type":"reg","name":"f","size":7,"digest":"$A","offset":10},{"type":"dir","name":"d"},{"type":"reg","name":"g","size":7,"digest":"$B","offset":30,"endOffset":31}`),
			[]Chunk{{Size: 7, Digest: digest.FromString("a"), Blob: Range{Off: 10, Len: 20}}}},
		{"end by the TOC", entriesDoc(`{"type":"reg","name":"f","size":7,"digest":"$A","offset":10}`),
			[]Chunk{{Size: 7, Digest: digest.FromString("a"), Blob: Range{Off: 10, Len: 990}}}},
		{"chunks, the last one open", entriesDoc(`{"type":"reg","name":"f","size":30,"digest":"$A","offset":10,"endOffset":90,"chunkSize":10,"chunkDigest":"$B"},` +
			`{"type":"chunk","name":"f","offset":20,"chunkSize":10,"chunkOffset":10,"chunkDigest":"$Z10","chunkType":"zeros"},{"type":"chunk","name":"f","offset":25,"chunkOffset":20,"chunkDigest":"$C"}`),
			[]Chunk{
				{Size: 10, Digest: digest.FromString("b"), Blob: Range{Off: 10, Len: 10}},
				{Off: 10, Size: 10, Digest: digest.FromBytes(make([]byte, 10)), Zeros: true},
				{Off: 20, Size: 10, Digest: digest.FromString("c"), Blob: Range{Off: 25, Len: 65}},
			}},
		{"sha512", entriesDoc(`{"type":"reg","name":"f","size":7,"digest":"$A512","offset":10,"endOffset":20}`),
			[]Chunk{{Size: 7, Digest: digest.SHA512.FromString("a"), Blob: Range{Off: 10, Len: 10}}}},
		{"hardlink to a hardlink", entriesDoc(`{"type":"reg","name":"f"},{"type":"hardlink","name":"g","linkName":"/f"},{"type":"hardlink","name":"h","linkName":"./g"}`), nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			toc, err := parseDoc(t, tc.doc)
			if err != nil {
				t.Fatal(err)
			}
			if len(tc.want) > 0 {
				if got, want := jsonOf(toc.Entries[0].Chunks), jsonOf(tc.want); got != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
			b, err := BuildIndex(toc)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := OpenIndex(b); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestParseTOCBytes(t *testing.T) {
	doc := entriesDoc("")
	good, ref := tocBytes(t, doc)
	for _, tc := range []struct {
		name string
		b    []byte
		edit func(*manifest.TOCRef)
		want error
	}{
		{"M6 other digest", good, func(r *manifest.TOCRef) { r.Digest = digest.FromString("x") }, ErrDigestMismatch},
		{"M2 no digest", good, func(r *manifest.TOCRef) { r.Digest = "sha256:x" }, ErrMalformed},
		{"M7 more than claimed", good, func(r *manifest.TOCRef) { r.TOCRawLen-- }, ErrMalformed},
		{"M4 claims too much", good, func(r *manifest.TOCRef) { r.TOCRawLen = manifest.MaxTOCRaw + 1 }, ErrTooBig},
		{"M7 not zstd", []byte(doc), func(r *manifest.TOCRef) { r.Digest = digest.FromString(doc) }, ErrMalformed},
		{"M7 cut off", good[:len(good)-5], func(r *manifest.TOCRef) { r.Digest = digest.FromBytes(good[:len(good)-5]) }, ErrMalformed},
		{"M4 too many bytes", make([]byte, manifest.MaxTOCSize+1), func(*manifest.TOCRef) {}, ErrTooBig},
		{"nothing", nil, func(r *manifest.TOCRef) { r.Digest = digest.FromBytes(nil) }, ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := *ref
			tc.edit(&r)
			if _, err := ParseTOC(tc.b, &r, blobSize); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// A few kilobytes that grow to the limit must be stopped by the claimed length, not by memory.
func TestParseTOCBomb(t *testing.T) {
	b := zstdBytes(t, bytes.Repeat([]byte(" "), 32<<20))
	ref := &manifest.TOCRef{Digest: digest.FromBytes(b), TOC: Range{Off: 1008, Len: int64(len(b))}, TOCRawLen: 100}
	if _, err := ParseTOC(b, ref, blobSize); !errors.Is(err, ErrMalformed) {
		t.Errorf("got %v", err)
	}
}

func TestListDigest(t *testing.T) {
	a := []Chunk{{Size: 5, Digest: "sha256:1", Blob: Range{Off: 1, Len: 2}}, {Off: 5, Size: 6, Digest: "sha256:2"}}
	b := []Chunk{{Size: 5, Digest: "sha256:1", Blob: Range{Off: 7, Len: 9}}, {Off: 5, Size: 6, Digest: "sha256:2"}}
	if ListDigest(a) != ListDigest(b) {
		t.Error("the place in the blob is in the list digest")
	}
	seen := map[digest.Digest]bool{ListDigest(a): true}
	for i, edit := range []func([]Chunk){
		func(c []Chunk) { c[1].Zeros = true },
		func(c []Chunk) { c[0].Size, c[1].Off = 4, 4 },
		func(c []Chunk) { c[1].Size = 7 },
		func(c []Chunk) { c[1].Digest = "sha256:3" },
	} {
		c := append([]Chunk(nil), b...)
		edit(c)
		if d := ListDigest(c); seen[d] {
			t.Errorf("edit %d gives a list digest seen before", i)
		} else {
			seen[d] = true
		}
	}
	if SingleList("sha256:1", 5) != ListDigest(a[:1]) {
		t.Error("SingleList is not the list of one chunk")
	}
}

func TestObjectKey(t *testing.T) {
	k := ObjectKey{Digest: digest.FromString("a"), Size: 1, List: digest.FromString("b")}
	if k.Name() != k.Digest.Encoded()+"-"+k.List.Encoded() {
		t.Errorf("name %q", k.Name())
	}
	sum := sha256.Sum256([]byte("sha256:" + k.Name()))
	var want uint64
	for _, b := range sum[:8] {
		want = want<<8 | uint64(b)
	}
	if got := k.Number(); got != want>>3 {
		t.Errorf("number %x of %x", got, want)
	}
}

func TestCleanName(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/": "", "./": "", ".": "", "a": "a", "a/": "a", "./a/b": "a/b", "/a//b/./c": "a/b/c", "//a": "a", "..a/b..": "..a/b..",
	} {
		if got, err := CleanName(in); err != nil || got != want {
			t.Errorf("CleanName(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"..", "a/..", "../a", "a\x00", "a/" + strings.Repeat("b", 256)} {
		if got, err := CleanName(in); !errors.Is(err, ErrMalformed) {
			t.Errorf("CleanName(%q) = %q, %v", in, got, err)
		}
	}
}

func TestParseFooter(t *testing.T) {
	good := Footer{TOC: Range{Off: 10, Len: 20}, TOCRawLen: 30, TarSplit: Range{Off: 40, Len: 50}, TarSplitRawLen: 60}.Bytes()
	for name, edit := range map[string]func([]byte) []byte{
		"short":     func(b []byte) []byte { return b[1:] },
		"long":      func(b []byte) []byte { return append(b, 0) },
		"magic":     func(b []byte) []byte { b[60]++; return b },
		"type":      func(b []byte) []byte { b[24] = 2; return b },
		"negative":  func(b []byte) []byte { b[15] = 0x80; return b },
		"overflows": func(b []byte) []byte { b[7], b[15] = 0x7f, 0x7f; return b },
	} {
		if f, err := ParseFooter(edit(bytes.Clone(good))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}
