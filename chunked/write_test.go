package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// tarFile is one entry of a test's tar; its header gets the size of the content.
type tarFile struct {
	tar.Header
	content []byte
}

func reg(name string, content []byte) tarFile {
	return tarFile{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: time.Unix(1700000000, 0)}, content}
}

func other(flag byte, name, link string) tarFile {
	return tarFile{tar.Header{Typeflag: flag, Name: name, Linkname: link, Mode: 0o755, ModTime: time.Unix(1700000000, 0)}, nil}
}

func makeTar(t testing.TB, files ...tarFile) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		f.Size = int64(len(f.content))
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// manyKinds is a layer with one of everything.
func manyKinds() []tarFile {
	zeros := func(n int) []byte { return make([]byte, n) }
	pax := func(f tarFile, records map[string]string) tarFile {
		f.PAXRecords, f.Format = records, tar.FormatPAX
		return f
	}
	gnu := func(f tarFile) tarFile {
		f.Format = tar.FormatGNU
		return f
	}
	precise := reg("d/precise", []byte("x"))
	precise.ModTime, precise.Format = time.Unix(1700000000, 123456789), tar.FormatPAX
	precise.AccessTime, precise.ChangeTime = time.Unix(1600000000, 5), time.Unix(1500000000, 6)
	owned := reg("d/owned", []byte("y"))
	owned.Uid, owned.Gid, owned.Mode = 3_000_000, 4_000_000_000, 0o4755
	dev := other(tar.TypeChar, "d/null", "")
	dev.Devmajor, dev.Devminor = 1, 3
	epoch := reg("d/epoch", []byte("z"))
	epoch.ModTime = time.Unix(0, 0)
	long := strings.Repeat("long-", 30)
	return []tarFile{
		other(tar.TypeDir, "./", ""),
		other(tar.TypeDir, "d/", ""),
		reg("d/small", []byte("small\n")),
		reg("d/empty", nil),
		reg("d/holes", concat(noise(1, 100), zeros(5000), noise(2, 101), zeros(512), noise(3, 200))),
		reg("d/allzero", zeros(4096)),
		reg("d/endzero", concat([]byte{1}, zeros(4096))),
		reg("d/startzero", concat(zeros(4096), []byte{1})),
		reg("d/sparse", zeros(5<<20)),
		reg("d/sparse+1", zeros(maxChunk+1)),
		reg("d/zerochunk", zeros(maxChunk)),
		reg("d/window", concat(noise(8, 1000), zeros(windowSize-1000), noise(9, 10))),
		reg("d/window2", concat(noise(8, 1000), zeros(3*windowSize), noise(9, 10))),
		reg("d/big", noise(4, 3<<20)),
		reg("d/block", noise(5, 512)),
		other(tar.TypeLink, "d/hl", "d/small"),
		other(tar.TypeSymlink, "d/sl", "../nowhere"),
		other(tar.TypeFifo, "d/ff", ""),
		dev,
		other(tar.TypeChar, "d/wh-c", ""),
		reg("d/.wh.gone", nil),
		pax(reg("d/xa", []byte("has xattrs")), map[string]string{"SCHILY.xattr.user.k": "v\x00\xff", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04" + strings.Repeat("\x00", 14)}),
		reg("d/naïve – ☃", []byte("unicode")),
		reg("d/a<b>&c", []byte("json escapes")),
		pax(reg(long+"/"+long+"/pax", []byte("long")), nil),
		gnu(reg(long+"/"+long+"/gnu", []byte("long"))),
		gnu(other(tar.TypeSymlink, "d/longlink", strings.Repeat("t/", 300))),
		precise, owned, epoch,
	}
}

func compress(t testing.TB, raw []byte, o *WriterOptions) ([]byte, *Written) {
	t.Helper()
	var blob bytes.Buffer
	w, err := Compress(&blob, bytes.NewReader(raw), o)
	if err != nil {
		t.Fatal(err)
	}
	return blob.Bytes(), w
}

// decode returns what a plain zstd decoder makes of a blob.
func decode(t testing.TB, blob []byte) []byte {
	t.Helper()
	d, err := zstd.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := io.ReadAll(d)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// readBack reads a blob as a verifying reader does.
func readBack(t testing.TB, blob []byte, w *Written) (*TOC, *TarSplit) {
	t.Helper()
	part := func(r Range) []byte { return blob[r.Off:r.End()] }
	toc, err := ParseTOC(part(w.TOC.TOC), w.TOC, w.Size)
	if err != nil {
		t.Fatal(err)
	}
	ts, err := ParseTarSplit(part(w.TOC.TarSplit), toc.TarSplitDigest, w.TOC.TarSplitRawLen)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckTarSplit(nil, indexOf(t, toc), ts); err != nil {
		t.Fatal(err)
	}
	return toc, ts
}

// checkBlob checks everything that must hold of a blob and the tar it was made of, and returns its TOC.
func checkBlob(t testing.TB, raw, blob []byte, w *Written) *TOC {
	t.Helper()
	if !bytes.Equal(decode(t, blob), raw) {
		t.Error("the blob does not decode to the tar")
	}
	if w.DiffID != w.DiffID.Algorithm().FromBytes(raw) || w.TarSize != int64(len(raw)) {
		t.Errorf("tar is %s of %d bytes", w.DiffID, w.TarSize)
	}
	if w.Digest != w.Digest.Algorithm().FromBytes(blob) || w.Size != int64(len(blob)) {
		t.Errorf("blob is %s of %d bytes", w.Digest, w.Size)
	}
	toc, ts := readBack(t, blob, w)
	byName := map[string]*Entry{}
	for i := range toc.Entries {
		e := &toc.Entries[i]
		clean, err := CleanName(e.Name)
		if err != nil {
			t.Fatal(err)
		}
		byName[clean] = e
	}
	var tarBack bytes.Buffer
	err := ProveTar(nil, &tarBack, indexOf(t, toc), ts, func(name string) (io.ReadCloser, error) {
		e := byName[name]
		if e == nil {
			return nil, fmt.Errorf("no entry %q", name)
		}
		return io.NopCloser(io.NewSectionReader(NewFileReader(bytes.NewReader(blob), e.Chunks), 0, e.Size)), nil
	})
	if err != nil {
		t.Error(err)
	}
	if !bytes.Equal(tarBack.Bytes(), raw) {
		t.Error("the tar cannot be put together again")
	}
	foot, err := ParseFooter(blob[len(blob)-FooterSize:])
	if want := (Footer{w.TOC.TOC, w.TOC.TOCRawLen, w.TOC.TarSplit, w.TOC.TarSplitRawLen}); err != nil || foot != want {
		t.Errorf("footer is %v (%v), want %v", foot, err, want)
	}
	return toc
}

func TestCompress(t *testing.T) {
	raw := makeTar(t, manyKinds()...)
	blob, w := compress(t, raw, nil)
	toc := checkBlob(t, raw, blob, w)

	tr, i := tar.NewReader(bytes.NewReader(raw)), 0
	for ; ; i++ {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil || i >= len(toc.Entries) || toc.Entries[i].Name != hdr.Name {
			t.Fatalf("entry %d is not %q: %v", i, hdr.Name, err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		e := toc.Entries[i]
		got, err := io.ReadAll(io.NewSectionReader(NewFileReader(bytes.NewReader(blob), e.Chunks), 0, e.Size))
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%q: wrong content, %v", e.Name, err)
		}
		if len(content) > 0 && e.Digest != digest.FromBytes(content) {
			t.Errorf("%q has digest %s", e.Name, e.Digest)
		}
	}
	if i != len(toc.Entries) {
		t.Errorf("%d entries in the TOC, %d in the tar", len(toc.Entries), i)
	}
}

func TestCompressChunks(t *testing.T) {
	raw := makeTar(t, manyKinds()...)
	blob, w := compress(t, raw, nil)
	toc, _ := readBack(t, blob, w)
	type span struct {
		size  int64
		zeros bool
	}
	want := map[string][]span{
		"d/small":     {{6, false}},
		"d/empty":     {},
		"d/holes":     {{100, false}, {5000, true}, {813, false}},
		"d/allzero":   {{4096, false}}, // one chunk is spelled without a type
		"d/endzero":   {{1, false}, {4096, true}},
		"d/startzero": {{4096, true}, {1, false}},
		"d/sparse":    {{maxChunk, true}, {5<<20 - maxChunk, true}},
		"d/sparse+1":  {{maxChunk, true}, {1, false}},
		"d/zerochunk": {{maxChunk, false}},
		"d/window":    {{1000, false}, {windowSize - 1000, true}, {10, false}},
		"d/window2":   {{1000, false}, {3 * windowSize, true}, {10, false}},
	}
	for _, e := range toc.Entries {
		spans, ok := want[e.Name]
		if !ok {
			continue
		}
		delete(want, e.Name)
		got := []span{}
		for _, c := range e.Chunks {
			got = append(got, span{c.Size, c.Zeros})
		}
		if !slices.Equal(got, spans) {
			t.Errorf("%s: chunks %v, want %v", e.Name, got, spans)
		}
	}
	for name := range want {
		t.Errorf("no %s", name)
	}
}

// Neither the number of workers nor how the tar arrives may show in the blob.
func TestCompressDeterministic(t *testing.T) {
	raw := makeTar(t, append(manyKinds(), reg("text", bytes.Repeat([]byte("some text that compresses, "), 40_000)))...)
	for _, level := range []int{1, 3, 19} {
		want, _ := compress(t, raw, &WriterOptions{Level: level, Workers: 1})
		for _, workers := range []int{2, 5} {
			got, _ := compress(t, raw, &WriterOptions{Level: level, Workers: workers})
			if !bytes.Equal(got, want) {
				t.Errorf("level %d: %d workers write something else than one", level, workers)
			}
		}
		var got bytes.Buffer
		if _, err := Compress(&got, iotest.HalfReader(bytes.NewReader(raw)), &WriterOptions{Level: level, Workers: 4}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("level %d: short reads change the blob", level)
		}
	}
}

func TestCompressEnds(t *testing.T) {
	raw := makeTar(t, reg("a", []byte("content")))
	tests := map[string][]byte{
		"no end mark":             raw[:1024],
		"padded to a record":      append(bytes.Clone(raw), make([]byte, 10240-len(raw))...),
		"odd tail":                append(bytes.Clone(raw), make([]byte, 100)...),
		"nothing but an end mark": make([]byte, 1024),
		"a megabyte of padding":   append(bytes.Clone(raw), make([]byte, 1<<20)...),
	}
	for name, raw := range tests {
		t.Run(name, func(t *testing.T) {
			blob, w := compress(t, raw, nil)
			checkBlob(t, raw, blob, w)
		})
	}
	// Some readers go on after an end like these, or say that the tar is damaged.
	for name, raw := range map[string][]byte{
		"no padding":             raw[:512+7],
		"half an end mark":       raw[:1536],
		"half a block of it":     raw[:1300],
		"something else follows": append(bytes.Clone(raw), "trailing bytes"...),
		"a second tar follows":   append(bytes.Clone(raw), makeTar(t, reg("b", []byte("hidden")))...),
		"it follows one block":   append(raw[:1536:1536], makeTar(t, reg("b", []byte("hidden")))...),
	} {
		if _, err := Compress(io.Discard, bytes.NewReader(raw), nil); !errors.Is(err, ErrUnsayable) && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompressRefuses(t *testing.T) {
	sized := makeTar(t, other(tar.TypeSymlink, "l", "t"))
	copy(sized[124:], "00000000010\x00")
	fixHeaderSum(sized)
	oldHeader := reg("f", nil)
	oldHeader.Format = tar.FormatGNU
	oldSparse := makeTar(t, oldHeader)
	oldSparse[156] = 'S'
	fixHeaderSum(oldSparse)
	negative := makeTar(t, reg("f", nil))
	copy(negative[108:], "\xff\xff\xff\xff\xff\xff\xff\xff")
	fixHeaderSum(negative)
	late := reg("f", nil)
	late.ModTime = time.Date(12000, 1, 1, 0, 0, 0, 0, time.UTC)
	raw := makeTar(t, reg("a", noise(1, 4000)))
	tests := []struct {
		name string
		raw  []byte
		want error
	}{
		{"path twice", makeTar(t, reg("a", nil), reg("a", nil)), ErrPathTwice},
		{"path twice is unsayable too", makeTar(t, reg("a", nil), reg("a", nil)), ErrUnsayable},
		{"path twice in other words", makeTar(t, reg("a", nil), reg("./a", nil)), ErrPathTwice},
		{"directory twice", makeTar(t, other(tar.TypeDir, "d/", ""), other(tar.TypeDir, "d", "")), ErrPathTwice},
		{"opaque marker twice", makeTar(t, reg("d/.wh..wh..opq", nil), reg("./d/.wh..wh..opq", nil)), ErrPathTwice},
		{"root twice", makeTar(t, other(tar.TypeDir, "./", ""), other(tar.TypeDir, "/", "")), ErrPathTwice},
		{"path twice through a symlink", makeTar(t, reg("d/f", nil), other(tar.TypeSymlink, "l", "d"), reg("l/f", nil)), ErrUnsayable},
		{"parent in a name", makeTar(t, reg("a/../b", nil)), ErrUnsayable},
		{"root as a file", makeTar(t, reg(".", nil)), ErrUnsayable},
		{"name not UTF-8", makeTar(t, reg("a\xff", nil)), ErrUnsayable},
		{"link not UTF-8", makeTar(t, other(tar.TypeSymlink, "l", "\xff")), ErrUnsayable},
		{"component too long", makeTar(t, reg(strings.Repeat("n", 256), nil)), ErrUnsayable},
		{"hard link to nothing", makeTar(t, other(tar.TypeLink, "l", "f")), ErrUnsayable},
		{"hard link to what comes later", makeTar(t, other(tar.TypeLink, "l", "f"), reg("f", nil)), ErrUnsayable},
		{"hard link to a symlink", makeTar(t, other(tar.TypeSymlink, "s", "f"), other(tar.TypeLink, "l", "s")), ErrUnsayable},
		{"hard link to itself", makeTar(t, other(tar.TypeLink, "l", "l")), ErrUnsayable},
		{"file as a directory", makeTar(t, reg("f", nil), reg("f/g", nil)), ErrUnsayable},
		{"whiteout with content", makeTar(t, reg("d/.wh.f", []byte("x"))), ErrUnsayable},
		{"global header", makeTar(t, tarFile{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}}), ErrUnsayable},
		{"contiguous file", makeTar(t, tarFile{Header: tar.Header{Typeflag: tar.TypeCont, Name: "c"}}), ErrUnsayable},
		{"PAX sparse", unfoldSparse(makeTar(t, reg("f", []byte("x")))), ErrUnsayable},
		{"GNU sparse", oldSparse, ErrUnsayable},
		{"size of a symlink", sized, ErrUnsayable},
		{"negative owner", negative, ErrUnsayable},
		{"year 12000", makeTar(t, late), ErrUnsayable},
		{"no bytes", nil, ErrUnsayable},
		{"endless padding", append(bytes.Clone(raw), make([]byte, maxHeader)...), ErrUnsayable},
		{"no tar", noise(2, 4096), ErrMalformed},
		{"cut in a header", raw[:100], ErrMalformed},
		{"cut in content", raw[:2000], ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // it also fails if a goroutine stays
				w, err := Compress(io.Discard, bytes.NewReader(tt.raw), nil)
				if w != nil || !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
			})
		})
	}
}

// fixHeaderSum sets the checksum of the first header of a tar that was changed.
func fixHeaderSum(raw []byte) {
	copy(raw[148:156], "        ")
	sum := 0
	for _, c := range raw[:512] {
		sum += int(c)
	}
	copy(raw[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// unfoldSparse puts a PAX header in front of a tar that makes its first file a sparse one; archive/tar writes no such.
func unfoldSparse(raw []byte) []byte {
	record := "22 GNU.sparse.major=9\n"
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "pax", Size: int64(len(record)), Mode: 0o644})
	_, _ = io.WriteString(w, record)
	_ = w.Flush()
	head := buf.Bytes()
	head[156] = tar.TypeXHeader
	fixHeaderSum(head)
	return append(head, raw...)
}

func TestCompressOptions(t *testing.T) {
	for _, o := range []WriterOptions{{Level: -1}, {Level: 23}, {Workers: -1}} {
		if _, err := Compress(io.Discard, bytes.NewReader(make([]byte, 1024)), &o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

type failingWriter struct{ after int }

var errDisk = errors.New("disk full")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, errDisk
	}
	return len(p), nil
}

func TestCompressIOErrors(t *testing.T) {
	raw := makeTar(t, reg("big", noise(1, 20<<20)))
	errRead := errors.New("connection lost")
	for _, after := range []int{0, 1 << 20, 10 << 20, len(raw)} {
		synctest.Test(t, func(t *testing.T) {
			r := io.MultiReader(bytes.NewReader(raw[:after]), iotest.ErrReader(errRead))
			if _, err := Compress(io.Discard, r, nil); !errors.Is(err, errRead) || errors.Is(err, ErrMalformed) {
				t.Errorf("reader fails after %d: %v", after, err)
			}
		})
	}
	blob, _ := compress(t, raw, nil)
	for _, after := range []int{0, 1 << 20, 10 << 20, len(blob) - 1} {
		synctest.Test(t, func(t *testing.T) {
			if _, err := Compress(&failingWriter{after}, bytes.NewReader(raw), nil); !errors.Is(err, errDisk) {
				t.Errorf("writer fails after %d: %v", after, err)
			}
		})
	}
}

// What gets too big for a reader must not be written, wherever it shows: in the TOC, in the tar-split, at their ends.
func TestCompressTooBig(t *testing.T) {
	var files []tarFile
	for i := range 5000 {
		files = append(files, reg(fmt.Sprintf("f%d", i), []byte{1}))
	}
	many, few := makeTar(t, files...), makeTar(t, files[:10]...)
	_, w := compress(t, few, nil)
	tests := []struct {
		name string
		raw  []byte
		set  func(p *pipeline)
	}{
		{"TOC under way", many, func(p *pipeline) { p.com.toc.z.rawLimit = 10_000 }},
		{"TOC at its end", few, func(p *pipeline) { p.com.toc.z.rawLimit = w.TOC.TOCRawLen - 1 }},
		{"tar-split under way", many, func(p *pipeline) { p.desc.split.z.rawLimit = 10_000 }},
		{"compressed tar-split", few, func(p *pipeline) { p.desc.split.z.limit = 200 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := newPipeline(io.Discard, &WriterOptions{Workers: 2})
				if err != nil {
					t.Fatal(err)
				}
				tt.set(p)
				if w, err := p.run(bytes.NewReader(tt.raw)); w != nil || !errors.Is(err, ErrTooBig) {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// blockedWriter stops at the first byte until it is told to go on.
type blockedWriter struct{ goOn chan struct{} }

func (w blockedWriter) Write(p []byte) (int, error) {
	<-w.goOn
	return len(p), nil
}

type countingReader struct {
	r io.Reader
	n int
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += n
	return n, err
}

// A writer that does not take anything must stop the reader soon, however big the file is.
func TestCompressBoundedMemory(t *testing.T) {
	const size = 1 << 40
	hdr := &tar.Header{Typeflag: tar.TypeReg, Name: "big", Size: size, Mode: 0o644}
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(hdr); err != nil {
		t.Fatal(err)
	}
	pattern := noise(1, 1<<20)
	synctest.Test(t, func(t *testing.T) {
		endless := &repeatReader{p: pattern}
		src := &countingReader{r: io.MultiReader(&head, io.LimitReader(endless, 256<<20))}
		w := blockedWriter{make(chan struct{})}
		done := make(chan error, 1)
		go func() {
			_, err := Compress(w, src, &WriterOptions{Workers: 2})
			done <- err
		}()
		synctest.Wait()
		if limit := 8 * (batchSize + maxChunk + windowSize); src.n > limit || src.n < batchSize {
			t.Errorf("%d bytes were read, at most %d are expected", src.n, limit)
		}
		close(w.goOn)
		if err := <-done; !errors.Is(err, ErrMalformed) {
			t.Errorf("the tar is cut short, but: %v", err)
		}
	})
}

type repeatReader struct {
	p  []byte
	at int
}

func (r *repeatReader) Read(p []byte) (int, error) {
	n := copy(p, r.p[r.at:])
	r.at = (r.at + n) % len(r.p)
	return n, nil
}

func TestCompressAnnotations(t *testing.T) {
	_, w := compress(t, makeTar(t, reg("a", []byte("b"))), nil)
	keys := slices.Sorted(maps.Keys(w.TOC.Annotations()))
	want := []string{
		"io.github.containers.zstd-chunked.manifest-checksum",
		"io.github.containers.zstd-chunked.manifest-position",
		"io.github.containers.zstd-chunked.tarsplit-position",
	}
	if !slices.Equal(keys, want) {
		t.Errorf("annotations are %v", keys)
	}
}

// Whatever Compress takes, a verifying reader must take too, and give back.
func FuzzCompress(f *testing.F) {
	seeds := [][]byte{
		makeTar(f, reg("a", []byte("content")), other(tar.TypeLink, "b", "a")),
		makeTar(f, other(tar.TypeDir, "d/", ""), reg("d/holes", concat(noise(1, 10), make([]byte, 2000)))),
		makeTar(f, reg("a", nil), reg("a", nil)),
		unfoldSparse(makeTar(f, reg("f", []byte("x")))),
		make([]byte, 1024),
		nil,
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var blob bytes.Buffer
		w, err := Compress(&blob, bytes.NewReader(raw), &WriterOptions{Workers: 2})
		if err != nil {
			if !errors.Is(err, ErrUnsayable) && !errors.Is(err, ErrMalformed) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		checkBlob(t, raw, blob.Bytes(), w)
	})
}
