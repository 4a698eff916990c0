package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// sparseLayer is the index of files with so many zeros in chunks of 1 GiB or less, and one byte.
func sparseLayer(t *testing.T, zeros ...int64) *Index {
	t.Helper()
	b := NewIndexBuilder(nil)
	for i, left := range zeros {
		name := fmt.Sprint("f", i)
		e := Entry{Type: TypeReg, Name: name, Digest: digest.FromString(name), Size: left + 1}
		e.Chunks = []Chunk{{Size: 1, Digest: digest.FromString("x")}}
		for off := int64(1); left > 0; {
			n := min(left, 1<<30)
			e.Chunks = append(e.Chunks, Chunk{Off: off, Size: n, Zeros: true, Digest: digest.FromString(fmt.Sprint(n))})
			off, left = off+n, left-n
		}
		if err := b.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	data, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(data)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// The zeros of the files that may become whole never add up to more than MaxZerosHashed; small files go first.
func TestCompletable(t *testing.T) {
	const all = MaxZerosHashed
	for _, tc := range []struct {
		name  string
		zeros []int64
		want  []bool
	}{
		{"no zeros", []int64{0, 0}, []bool{true, true}},
		{"at the limit", []int64{all}, []bool{true}},
		{"one beyond", []int64{all + 1}, []bool{false}},
		{"at the limit together", []int64{all - 5, 5}, []bool{true, true}},
		{"one beyond together", []int64{all - 5, 6, 0}, []bool{false, true, true}},
		{"terabytes", []int64{1 << 40, 1 << 40, 0, 1 << 20}, []bool{false, false, true, true}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := sparseLayer(t, tc.zeros...)
			sum := int64(0)
			for i, want := range tc.want {
				obj, ok := x.ObjectByPath(fmt.Sprint("f", i))
				if !ok {
					t.Fatalf("no file %d", i)
				}
				if got := x.Completable(obj); got != want {
					t.Errorf("file %d with %d zeros: %v", i, tc.zeros[i], got)
				}
				if x.Completable(obj) {
					sum += tc.zeros[i]
				}
			}
			if sum > all {
				t.Errorf("%d zeros may be hashed", sum)
			}
		})
	}
}

// addAll adds entries to a builder until one is refused.
func addAll(b *IndexBuilder, entries ...Entry) error {
	for _, e := range entries {
		if err := b.Add(e); err != nil {
			return err
		}
	}
	return nil
}

func dirEntry(name string) Entry { return Entry{Type: TypeDir, Name: name} }

func linkEntry(name, target string) Entry {
	return Entry{Type: TypeSymlink, Name: name, LinkName: target}
}

// xattrEntry is a directory with n attributes.
func xattrEntry(n int) Entry {
	e := Entry{Type: TypeDir, Name: "d", Xattrs: map[string][]byte{}}
	for i := range n {
		e.Xattrs[fmt.Sprint("user.", i)] = nil
	}
	return e
}

// linkRow is a name that leads through n links, one after the other.
func linkRow(n int) []Entry {
	return []Entry{dirEntry("d"), linkEntry("d/l", "."), dirEntry("d/" + strings.Repeat("l/", n) + "x")}
}

// linkChain is a directory l0 and n symlinks, each to the one before, and a name below the last.
func linkChain(n int) []Entry {
	entries := []Entry{dirEntry("l0")}
	for i := 1; i <= n; i++ {
		entries = append(entries, linkEntry(fmt.Sprint("l", i), fmt.Sprint("l", i-1)))
	}
	return append(entries, dirEntry(fmt.Sprintf("l%d/x", n)))
}

// Each limit on one entry: at it the entry is taken, one beyond it is refused.
func TestEntryLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	deep := func(n int) string { return strings.Repeat("x/", (n-1)/2) + long(1+(n-1)%2) } // a path of n bytes
	for _, tc := range []struct {
		name       string
		at, beyond []Entry
		want       error
	}{
		{"component", []Entry{dirEntry(long(255))}, []Entry{dirEntry(long(256))}, ErrMalformed},
		{"path", []Entry{dirEntry(deep(4096) + "/x")}, []Entry{dirEntry(deep(4097) + "/x")}, ErrMalformed},
		{"target", []Entry{linkEntry("l", long(4095))}, []Entry{linkEntry("l", long(4096))}, ErrMalformed},
		{"symlinks", linkRow(255), linkRow(256), ErrMalformed},
		{"symlinks in symlinks", linkChain(39), linkChain(40), ErrMalformed},
		{"steps", []Entry{linkEntry("l", strings.Repeat("./", 2047)+"d"), linkEntry("m", strings.Repeat("./", 2046)+"l"), dirEntry("m/x")},
			[]Entry{linkEntry("l", strings.Repeat("./", 2047)+"d"), linkEntry("m", strings.Repeat("./", 2047)+"l"), dirEntry("m/x")}, ErrTooBig},
		{"xattrs", []Entry{xattrEntry(256)}, []Entry{xattrEntry(257)}, ErrTooBig},
		{"xattrs together", []Entry{xattrEntry(256), xattrEntry(1)},
			[]Entry{xattrEntry(256), {Type: TypeDir, Name: "d", Xattrs: map[string][]byte{"user.one": nil}}}, ErrTooBig},
		{"xattr name", []Entry{{Type: TypeDir, Name: "d", Xattrs: map[string][]byte{"user." + long(250): nil}}},
			[]Entry{{Type: TypeDir, Name: "d", Xattrs: map[string][]byte{"user." + long(251): nil}}}, ErrMalformed},
		{"xattr value", []Entry{{Type: TypeDir, Name: "d", Xattrs: map[string][]byte{"user.a": make([]byte, 65535)}}},
			[]Entry{{Type: TypeDir, Name: "d", Xattrs: map[string][]byte{"user.a": make([]byte, 65536)}}}, ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := addAll(NewIndexBuilder(nil), tc.at...); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			if err := addAll(NewIndexBuilder(nil), tc.beyond...); !errors.Is(err, tc.want) {
				t.Errorf("one beyond: %v", err)
			}
		})
	}
}

// A layer of as many names as there may be is built, one of one more is not.
func TestEntriesLimit(t *testing.T) {
	ws := &Workspace{Region: testRegion(t)}
	b := NewIndexBuilder(ws)
	for i := range MaxEntries {
		if err := b.Add(dirEntry(strconv.FormatInt(int64(i), 36))); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Add(dirEntry("one more")); !errors.Is(err, ErrTooBig) {
		t.Errorf("one beyond: %v", err)
	}
}

// The same of chunks.
func TestChunksLimit(t *testing.T) {
	c := newContentTable(&Workspace{Region: testRegion(t)})
	d := digest.FromString("a")
	if !c.use(d) {
		t.Fatal("sha256 is not used")
	}
	c.begin()
	for i := range int64(MaxChunks) {
		if _, err := c.chunk(&Chunk{Off: i, Size: 1, Digest: d}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.chunk(&Chunk{Off: MaxChunks, Size: 1, Digest: d}); !errors.Is(err, ErrTooBig) {
		t.Errorf("one beyond: %v", err)
	}
}

// What is too long for the strings of a layer is refused; the limit is made small, as 1 GiB of them takes long.
func TestStringsLimit(t *testing.T) {
	b := NewIndexBuilder(nil)
	b.tree.strs.limit = 10
	if err := addAll(b, dirEntry("12345"), dirEntry("67890")); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if err := b.Add(dirEntry("x")); !errors.Is(err, ErrTooBig) {
		t.Errorf("one beyond: %v", err)
	}
}

// An image may have so many layers, and so many names in all of them.
func TestImageLimits(t *testing.T) {
	b := NewIndexBuilder(nil)
	const each = MaxImageEntries / 64
	for i := range each {
		if err := b.Add(dirEntry(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	data, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	x, err := OpenIndex(data)
	if err != nil {
		t.Fatal(err)
	}
	ws := &Workspace{Region: testRegion(t)}
	layers := slices.Repeat([]*Index{x}, 64)
	view, err := Merge(ws, layers)
	if err != nil {
		t.Fatalf("entries at the limit: %v", err)
	}
	if v, err := OpenView(view); err != nil || v.NumEntries() != each+1 {
		t.Errorf("entries at the limit: %v", err)
	}
	one := openLayer(t, []testEntry{parseTestEntry(t, "d one")})
	if _, err := Merge(ws, append(layers, one)); !errors.Is(err, ErrTooBig) {
		t.Errorf("entries one beyond: %v", err)
	}
	if _, err := Merge(nil, slices.Repeat([]*Index{one}, MaxLayers)); err != nil {
		t.Errorf("layers at the limit: %v", err)
	}
	if _, err := Merge(nil, slices.Repeat([]*Index{one}, MaxLayers+1)); !errors.Is(err, ErrTooBig) {
		t.Errorf("layers one beyond: %v", err)
	}
}

// A layer whose names lead through symlinks of 4 KiB each is refused after a bounded number of steps; honest symlinks of
// directories cost nothing that adds up.
func TestSymlinkBomb(t *testing.T) {
	b := NewIndexBuilder(nil)
	err := addAll(b, dirEntry("l0"))
	for i := 1; i < 255 && err == nil; i++ {
		err = b.Add(linkEntry(fmt.Sprint("l", i), strings.Repeat("./", 2040)+fmt.Sprint("l", i-1)))
	}
	names := 0
	for ; err == nil && names < MaxEntries; names++ {
		err = b.Add(dirEntry(fmt.Sprintf("l%d/%d", 1+names%2, names)))
	}
	if !errors.Is(err, ErrTooBig) {
		t.Errorf("after %d names: %v", names, err)
	}
	if most := freeSteps / 1000; names > most {
		t.Errorf("%d names were taken", names)
	}
	b = NewIndexBuilder(nil)
	err = addAll(b, dirEntry("usr/lib/x86_64-linux-gnu"), linkEntry("lib", "usr/lib"), linkEntry("usr/lib/here", "/usr/../usr/lib/x86_64-linux-gnu"))
	for i := 0; i < 100_000 && err == nil; i++ {
		err = b.Add(dirEntry(fmt.Sprintf("lib/here/%d", i)))
	}
	if err != nil || b.resolver.left < freeSteps {
		t.Errorf("honest symlinks: %d steps left, %v", b.resolver.left, err)
	}
}

// Links to a file with a large ACL are counted, since each looks at all of it.
func TestACLBomb(t *testing.T) {
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255}
	for i := range 8000 {
		acl = append(acl, 2, 0, 4, 0, byte(i), byte(i>>8), 0, 0)
	}
	for _, tag := range []byte{4, 0x10, 0x20} {
		acl = append(acl, tag, 0, 4, 0, 255, 255, 255, 255)
	}
	b := NewIndexBuilder(nil)
	err := b.Add(Entry{Type: TypeReg, Name: "f", Mode: 0o644, Xattrs: map[string][]byte{aclAccess: acl}})
	if err != nil {
		t.Fatal(err)
	}
	links := 0
	for ; err == nil && links < MaxEntries; links++ {
		err = b.Add(Entry{Type: TypeHardlink, Name: strconv.Itoa(links), LinkName: "f", Mode: 0o644})
	}
	if !errors.Is(err, ErrTooBig) || links > 1000 {
		t.Errorf("after %d links: %v", links, err)
	}
}

// Chunks may not share bytes of the blob, unless they are one, and all of them together fit in it.
func TestPlaces(t *testing.T) {
	file := func(name, chunk string, off, end int) string {
		return fmt.Sprintf(`{"type":"reg","name":"%s","size":100,"digest":"%s","offset":%d,"endOffset":%d},`, name, digest.FromString(chunk), off, end)
	}
	two := func(name, first string, off, end int) string { // in two chunks, of which the first has 50 bytes of the blob
		d := digest.FromString(first)
		return fmt.Sprintf(`{"type":"reg","name":"%s","size":100,"digest":"%s","offset":%d,"endOffset":%d,"chunkSize":40,"chunkDigest":"%s"},`+
			`{"type":"chunk","name":"%s","offset":%d,"chunkOffset":40,"chunkSize":60,"chunkDigest":"%s"},`,
			name, digest.FromString(name), off, end, d, name, off+50, digest.FromString(name+"2"))
	}
	for _, tc := range []struct {
		name, entries string
		good          bool
	}{
		{"one after the other", file("a", "a", 10, 110) + file("b", "b", 110, 210), true},
		{"in another order", file("b", "b", 110, 210) + file("a", "a", 10, 110), true},
		{"one byte shared", file("a", "a", 10, 111) + file("b", "b", 110, 210), false},
		{"one inside the other", file("a", "a", 10, 210) + file("b", "b", 20, 30), false},
		{"one place, two digests", file("a", "a", 10, 110) + file("b", "b", 10, 110), false},
		{"one place, one content", file("a", "a", 10, 110) + file("b", "a", 10, 110), true},
		{"one place, one chunk of two files", two("a", "x", 10, 110) + file("c", "c", 110, 120), true},
		{"all of the blob", file("a", "a", 0, 500) + file("b", "b", 500, 1000), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := parseDoc(t, entriesDoc(strings.TrimSuffix(tc.entries, ",")))
			if (err == nil) != tc.good || err != nil && !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
		})
	}
	c := newContentTable(nil)
	if !c.use(digest.FromString("a")) {
		t.Fatal("sha256 is not used")
	}
	c.begin()
	for i := range int64(3) { // three times one chunk at one place
		if _, err := c.chunk(&Chunk{Off: 10 * i, Size: 10, Digest: digest.FromString("a"), Blob: Range{Off: 5, Len: 10}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.checkPlaces(30); err != nil {
		t.Errorf("as many bytes as the blob has: %v", err)
	}
	if err := c.checkPlaces(29); !errors.Is(err, ErrMalformed) {
		t.Errorf("one byte more than the blob has: %v", err)
	}
}

// A chunk's place may run on, but no more of it is read than its content can need.
func TestPlaceThatRunsOn(t *testing.T) {
	b, ref := tocBytes(t, entriesDoc(`{"type":"reg","name":"f","size":100,"digest":"$A","offset":10},{"type":"reg","name":"g","size":1,"digest":"$B","offset":900000,"endOffset":900001}`))
	ref.TOC.Off = 1_000_000
	toc, err := ParseTOC(b, ref, -1)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := toc.Entries[0].Chunks[0].Blob, (Range{Off: 10, Len: maxFrames(100)}); got != want {
		t.Errorf("place %v, want %v", got, want)
	}
	// What zstd makes of bytes that it cannot make smaller stays below the bound.
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(gear[i&255] >> (i >> 8 & 31))
	}
	for _, n := range []int{1, 1000, len(noise)} {
		if got := int64(len(zstdBytes(t, noise[:n]))); got > maxFrames(int64(n)) {
			t.Errorf("%d bytes in a frame of %d", n, got)
		}
	}
}

// A value of a TOC that is as long as it may be is read, be its field known or not; a longer one is refused.
func TestJSONValueLimit(t *testing.T) {
	doc := func(n int) string {
		return `{"version":1,"later":"` + strings.Repeat("x", n-2) + `","entries":[]}`
	}
	if _, err := parseDoc(t, doc(maxJSONValue)); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := parseDoc(t, doc(maxJSONValue+2)); !errors.Is(err, ErrTooBig) {
		t.Errorf("beyond: %v", err)
	}
	deep := `{"version":1,"later":` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20) + `,"entries":[]}`
	if _, err := parseDoc(t, deep); !errors.Is(err, ErrMalformed) {
		t.Errorf("depth: %v", err)
	}
}

// The same of a line of a tar-split.
func TestSplitLineLimit(t *testing.T) {
	line := func(n int) []byte { return append(bytes.Repeat([]byte(" "), n), "\n"...) }
	read := func(b []byte) error {
		s, err := NewTarSplit(b).scan()
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		_, err = s.next()
		return err
	}
	if err := read(line(maxSplitLine)); err != io.EOF {
		t.Errorf("at the limit: %v", err)
	}
	if err := read(line(maxSplitLine + 1<<16)); !errors.Is(err, ErrTooBig) {
		t.Errorf("beyond: %v", err)
	}
}

// A TOC whose window is memory that nobody needs is refused.
func TestWindowLimit(t *testing.T) {
	doc := []byte(entriesDoc(`{"type":"dir","name":"d"}`))
	compress := func(window int) ([]byte, *manifest.TOCRef) {
		var buf bytes.Buffer
		z, err := zstd.NewWriter(&buf, zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(doc); err != nil {
			t.Fatal(err)
		}
		if err := z.Flush(); err != nil { // before its end is known
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes(), &manifest.TOCRef{Digest: digest.FromBytes(buf.Bytes()), TOC: Range{Off: 1008, Len: int64(buf.Len())}, TOCRawLen: int64(len(doc))}
	}
	b, ref := compress(maxStreamWindow)
	if _, err := ParseTOC(b, ref, blobSize); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	b, ref = compress(2 * maxStreamWindow)
	if _, err := ParseTOC(b, ref, blobSize); !errors.Is(err, ErrMalformed) {
		t.Errorf("beyond: %v", err)
	}
}

// Everything long ends with the workspace, with its error and no verdict.
func TestStop(t *testing.T) {
	errStop := errors.New("stop")
	after := func(n int) *Workspace {
		return &Workspace{Stop: func() error {
			if n--; n < 0 {
				return errStop
			}
			return nil
		}}
	}
	data, ref, _ := bigTOC(t, 20_000)
	stops := 0
	for ; ; stops++ {
		_, _, err := IndexTOC(after(stops), data, ref, -1)
		if err == nil {
			break
		}
		if !errors.Is(err, errStop) || ours(err) {
			t.Fatalf("after %d questions: %v", stops, err)
		}
	}
	if stops < 30 {
		t.Errorf("asked %d times only", stops)
	}
	zeros, zerosRef := tocBytes(t, entriesDoc(`{"type":"reg","name":"f","size":4294967296,"digest":"$A","offset":10,"endOffset":20,"chunkType":"zeros"}`))
	if _, _, err := IndexTOC(after(10), zeros, zerosRef, -1); !errors.Is(err, errStop) {
		t.Errorf("4 GiB of zeros: %v", err)
	}
	if _, err := Merge(after(1), []*Index{bigIndex(t, 50_000)}); !errors.Is(err, errStop) {
		t.Errorf("merge: %v", err)
	}
}

// What a workspace cannot give is its error and no verdict.
func TestWorkspaceWithoutRoom(t *testing.T) {
	errFull := errors.New("disk full")
	data, ref, _ := bigTOC(t, 50_000)
	for _, ws := range []*Workspace{
		{Region: func(int) (func(int) ([]byte, error), error) { return nil, errFull }},
		{Region: func(int) (func(int) ([]byte, error), error) {
			return func(int) ([]byte, error) { return nil, errFull }, nil
		}},
	} {
		if _, _, err := IndexTOC(ws, data, ref, -1); !errors.Is(err, errFull) || ours(err) {
			t.Errorf("index: %v", err)
		}
		if _, err := Merge(ws, []*Index{bigIndex(t, 50_000)}); !errors.Is(err, errFull) || ours(err) {
			t.Errorf("merge: %v", err)
		}
	}
}

// The same tables come out of the heap and of regions.
func TestRegionsGiveTheSameBytes(t *testing.T) {
	data, ref, _ := bigTOC(t, 50_000)
	ws := &Workspace{Region: testRegion(t)}
	heap, _, err := IndexTOC(nil, data, ref, -1)
	if err != nil {
		t.Fatal(err)
	}
	index, _, err := IndexTOC(ws, data, ref, -1)
	if err != nil || !bytes.Equal(index, heap) {
		t.Errorf("index differs: %v", err)
	}
	x, y := bigIndex(t, 50_000), bigIndex(t, 100)
	if heap, err = Merge(nil, []*Index{x, y}); err != nil {
		t.Fatal(err)
	}
	view, err := Merge(ws, []*Index{x, y})
	if err != nil || !bytes.Equal(view, heap) {
		t.Errorf("view differs: %v", err)
	}
}

// numbers finds what was added and not removed, however hashes collide.
func TestNumbers(t *testing.T) {
	var n numbers
	hash := func(i int32) uint32 { return uint32(i) % 7 * 3 } // of few values
	have := map[int32]bool{}
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		i := r.Int32N(200)
		got, ok := n.find(hash(i), func(k int32) bool { return k == i })
		if ok != have[i] || ok && got != i {
			t.Fatalf("%d: found %d, %v", i, got, ok)
		}
		if ok {
			n.remove(hash(i), i)
		} else if err := n.add(hash(i), i); err != nil {
			t.Fatal(err)
		}
		have[i] = !ok
	}
}

// A tar-split may be as long as manifest says, compressed and not.
func TestSplitSizeLimit(t *testing.T) {
	good := zstdBytes(t, []byte("\n"))
	if _, err := ParseTarSplit(good, digest.FromBytes(good), manifest.MaxTarSplitRaw); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := ParseTarSplit(good, digest.FromBytes(good), manifest.MaxTarSplitRaw+1); !errors.Is(err, ErrTooBig) {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := ParseTarSplit(make([]byte, manifest.MaxTarSplitSize+1), digest.FromBytes(good), 1); !errors.Is(err, ErrTooBig) {
		t.Errorf("one compressed byte more: %v", err)
	}
}

// A chunk of data may have as many bytes as are decoded at once.
func TestChunkSizeLimit(t *testing.T) {
	file := `{"type":"reg","name":"f","size":%d,"digest":"$A","offset":10,"endOffset":20}`
	if _, err := parseDoc(t, entriesDoc(fmt.Sprintf(file, MaxChunkSize))); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	if _, err := parseDoc(t, entriesDoc(fmt.Sprintf(file, MaxChunkSize+1))); !errors.Is(err, ErrTooBig) {
		t.Errorf("one beyond: %v", err)
	}
}

// What a tar names again and again is counted each time, whether contents are read or not.
func TestProofLimits(t *testing.T) {
	header := func(name string, size int64) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR}
	}
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for range 3 {
		if err := w.WriteHeader(header("f", 4)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("text")); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	x := indexOf(t, &TOC{Entries: []Entry{{Type: TypeReg, Name: "f", Mode: 0o644, Size: 4, Digest: digest.FromString("text"), Chunks: []Chunk{
		{Size: 2, Digest: digest.FromString("te"), Blob: Range{Len: 2}}, {Off: 2, Size: 2, Digest: digest.FromString("xt"), Blob: Range{Off: 2, Len: 2}},
	}}}})
	for name, tc := range map[string]struct {
		chunks, bytes int64
		want          error
	}{
		"at the limits":  {6, 12, nil},
		"a chunk beyond": {5, 12, ErrTooBig},
		"a byte beyond":  {6, 11, ErrTooBig},
	} {
		for _, unread := range []bool{false, true} {
			d := newDeriver(x)
			d.chunks, d.bytes, d.unread = tc.chunks, tc.bytes, unread
			_, _, err := IndexTar(nil, bytes.NewReader(raw.Bytes()), d.put)
			if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
				t.Errorf("%s, unread %v: %v", name, unread, err)
			}
		}
	}
}
