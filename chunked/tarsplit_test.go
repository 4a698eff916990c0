package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"
)

// splitOf makes a tar-split with the library everybody else uses.
func splitOf(tb testing.TB, tarball []byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	r, done, err := asm.NewInputTarStreamWithDone(bytes.NewReader(tarball), storage.NewJSONPacker(&out), storage.NewDiscardFilePutter())
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		tb.Fatal(err)
	}
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// layerTar writes the entries of a layer as a tar.
func layerTar(tb testing.TB, layer []testEntry) []byte {
	tb.Helper()
	flags := map[string]byte{
		TypeReg: tar.TypeReg, TypeDir: tar.TypeDir, TypeSymlink: tar.TypeSymlink, TypeHardlink: tar.TypeLink,
		TypeChar: tar.TypeChar, TypeBlock: tar.TypeBlock, TypeFifo: tar.TypeFifo,
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range layer {
		h := &tar.Header{
			Typeflag: flags[e.Type], Name: e.Name, Linkname: e.LinkName, Mode: e.Mode, Uid: e.UID, Gid: e.GID, Size: e.Size,
			ModTime: e.ModTime, Devmajor: e.DevMajor, Devminor: e.DevMinor, PAXRecords: map[string]string{}, Format: tar.FormatPAX,
		}
		for name, value := range e.Xattrs {
			h.PAXRecords["SCHILY.xattr."+name] = string(value)
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// splitLayer is a layer with one of everything.
func splitLayer(tb testing.TB) []testEntry {
	tb.Helper()
	var layer []testEntry
	for _, line := range []string{
		"d d/ mode=0750 uid=3 mtime=5", "f d/f hello mode=4755 uid=1 gid=2 mtime=100 user.k=v security.x=y", "f d/empty mtime=7",
		"h d/h d/f mode=4755 uid=1 gid=2 mtime=100", "l d/l f mtime=9", "p d/p", "c d/c 1:3", "f d/.wh.gone", "f " + "long/" + strings.Repeat("x", 200) + " y",
	} {
		layer = append(layer, parseTestEntry(tb, line))
	}
	layer[1].ModTime = time.Unix(100, 5)
	return layer
}

func tocOf(layer []testEntry) *TOC {
	t := &TOC{}
	for _, e := range layer {
		t.Entries = append(t.Entries, e.Entry)
	}
	return t
}

// indexOf is the index of a TOC.
func indexOf(tb testing.TB, toc *TOC) *Index {
	tb.Helper()
	b, err := BuildIndex(toc)
	if err != nil {
		tb.Fatal(err)
	}
	x, err := OpenIndex(b)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

func TestCheckTarSplit(t *testing.T) {
	raw := splitOf(t, layerTar(t, splitLayer(t)))
	swap := func(toc *TOC) { toc.Entries[0], toc.Entries[4] = toc.Entries[4], toc.Entries[0] }
	for _, tc := range []struct {
		name string
		edit func(*TOC)
		want error
	}{
		{"the same", func(*TOC) {}, nil},
		{"another order", swap, nil},
		{"names spelled differently", func(toc *TOC) { toc.Entries[0].Name = "./d" }, nil},
		{"absent time", func(toc *TOC) { toc.Entries[5].ModTime = time.Time{} }, nil},
		{"another zone", func(toc *TOC) { toc.Entries[0].ModTime = toc.Entries[0].ModTime.In(time.FixedZone("x", 3600)) }, nil},
		// The hard link to the file says the same again, and is what counts.
		{"mode that a hard link sets again", func(toc *TOC) { toc.Entries[1].Mode = 0o755 }, nil},
		// Times of access and change are shown by no mount.
		{"atime", func(toc *TOC) { toc.Entries[1].AccessTime = time.Unix(1, 0) }, nil},
		{"ctime", func(toc *TOC) { toc.Entries[1].ChangeTime = time.Unix(1, 0) }, nil},
		{"M13 type", func(toc *TOC) { toc.Entries[2].Type = TypeFifo }, ErrMalformed},
		{"M13 name", func(toc *TOC) { toc.Entries[2].Name = "d/other" }, ErrMalformed},
		{"M13 link target", func(toc *TOC) { toc.Entries[4].LinkName = "g" }, ErrMalformed},
		{"M13 mode", func(toc *TOC) { toc.Entries[8].Mode = 0o755 }, ErrMalformed},
		{"M13 size", func(toc *TOC) {
			toc.Entries[1].Size, toc.Entries[1].Chunks = 6, []Chunk{{Size: 6, Digest: toc.Entries[1].Digest}}
		}, ErrMalformed},
		{"M13 uid", func(toc *TOC) { toc.Entries[8].UID++ }, ErrMalformed},
		{"M13 gid", func(toc *TOC) { toc.Entries[8].GID++ }, ErrMalformed},
		{"M13 mtime", func(toc *TOC) { toc.Entries[8].ModTime = time.Unix(100, 6) }, ErrMalformed},
		{"M13 device", func(toc *TOC) { toc.Entries[6].DevMinor++ }, ErrMalformed},
		{"M13 xattr value", func(toc *TOC) { toc.Entries[1].Xattrs["user.k"] = []byte("w") }, ErrMalformed},
		{"M13 xattr missing", func(toc *TOC) { delete(toc.Entries[1].Xattrs, "user.k") }, ErrMalformed},
		{"M13 xattr more", func(toc *TOC) { toc.Entries[1].Xattrs["user.z"] = nil }, ErrMalformed},
		{"M13 entry missing", func(toc *TOC) { toc.Entries = toc.Entries[1:] }, ErrMalformed},
		{"M13 last entry missing", func(toc *TOC) { toc.Entries = toc.Entries[:len(toc.Entries)-1] }, ErrMalformed},
		{"M13 entry more", func(toc *TOC) { toc.Entries = append(toc.Entries, Entry{Type: TypeDir, Name: "more"}) }, ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			toc := tocOf(splitLayer(t))
			tc.edit(toc)
			if err := CheckTarSplit(nil, indexOf(t, toc), NewTarSplit(raw)); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
	if err := CheckTarSplit(nil, indexOf(t, &TOC{}), nil); !errors.Is(err, ErrNoTarSplit) {
		t.Errorf("no tar-split: %v", err)
	}
}

// What the headers say is one thing, what the lines about files say another.
func TestCheckTarSplitLines(t *testing.T) {
	layer := splitLayer(t)
	raw := string(splitOf(t, layerTar(t, layer)))
	twice := splitOf(t, layerTar(t, append(splitLayer(t), parseTestEntry(t, "f d/extra z"))))
	for _, tc := range []struct{ name, raw string }{
		{"size of a file", strings.Replace(raw, `"name":"d/f","size":5`, `"name":"d/f","size":6`, 1)},
		{"huge file", strings.Replace(raw, `"name":"d/f","size":5`, `"name":"d/f","size":9223372036854775807`, 1)},
		{"negative size", strings.Replace(raw, `"name":"d/f","size":5`, `"name":"d/f","size":-5`, 1)},
		{"name of a file", strings.Replace(raw, `"name":"d/f","size":5`, `"name":"d/x","size":5`, 1)},
		{"file of a directory", strings.Replace(raw, `"name":"d/f","size":5`, `"name":"d/","size":5`, 1)},
		{"file after the end", raw + `{"type":1,"name":"d/f","size":5,"payload":"AAAAAAAAAAA=","position":99}` + "\n"},
		{"no JSON", raw + "x\n"},
		{"unknown line", raw + `{"type":3}` + "\n"},
		{"half of it", raw[:len(raw)/2]},
		{"bad base64", strings.Replace(raw, `"payload":"`, `"payload":"!`, 1)},
		{"a file the TOC has not", string(twice)},
		{"nothing", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.raw == raw {
				t.Fatal("the edit changed nothing")
			}
			if err := CheckTarSplit(nil, indexOf(t, tocOf(layer)), NewTarSplit([]byte(tc.raw))); !ours(err) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestParseTarSplit(t *testing.T) {
	raw := splitOf(t, layerTar(t, splitLayer(t)))
	b := zstdBytes(t, raw)
	d := digest.FromBytes(b)
	ts, err := ParseTarSplit(b, d, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ts.Raw(); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("raw: %d bytes, %v", len(got), err)
	}
	if got, err := NewTarSplit(ts.Bytes()).Raw(); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("kept and read again: %d bytes, %v", len(got), err)
	}
	if _, err := ParseTarSplit(b, "", 1); !errors.Is(err, ErrNoTarSplit) {
		t.Errorf("M12 no digest: %v", err)
	}
	if _, err := ParseTarSplit(b[1:], d, int64(len(raw))); !errors.Is(err, ErrDigestMismatch) {
		t.Errorf("M12 mismatch: %v", err)
	}
	if _, err := ParseTarSplit(raw, digest.FromBytes(raw), int64(len(raw))); !errors.Is(err, ErrMalformed) {
		t.Errorf("not compressed: %v", err)
	}
	if _, err := ParseTarSplit(b, d, 1<<40); !errors.Is(err, ErrTooBig) {
		t.Errorf("M20 claims too much: %v", err)
	}
	short, err := ParseTarSplit(b, d, int64(len(raw))-1)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckTarSplit(nil, indexOf(t, tocOf(splitLayer(t))), short); !errors.Is(err, ErrMalformed) {
		t.Errorf("more than claimed: %v", err)
	}
}

func TestAssembleTar(t *testing.T) {
	layer := splitLayer(t)
	want := layerTar(t, layer)
	ts := NewTarSplit(splitOf(t, want))
	content := map[string]string{}
	for _, e := range layer {
		if e.content != "" {
			content[e.Name] = e.content
		}
	}
	open := func(name string) (io.ReadCloser, error) {
		c, ok := content[name]
		if !ok {
			return nil, io.ErrNoProgress
		}
		return io.NopCloser(strings.NewReader(c)), nil
	}
	var out bytes.Buffer
	if err := AssembleTar(&out, ts, open); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), want) {
		t.Error("assembled tar is another one")
	}
	for bad, want := range map[string]error{"hellO": ErrDigestMismatch, "hell": ErrMalformed, "hello!": ErrMalformed} {
		content["d/f"] = bad
		if err := AssembleTar(io.Discard, ts, open); !errors.Is(err, want) {
			t.Errorf("content %q: %v, want %v", bad, err, want)
		}
	}
	delete(content, "d/f")
	if err := AssembleTar(io.Discard, ts, open); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("open fails: %v", err)
	}
}

func TestFileReader(t *testing.T) {
	parts := []string{"first chunk ", "", "third chunk, longer"}
	var blob, content []byte
	var chunks []Chunk
	for i, p := range parts {
		c := Chunk{Off: int64(len(content)), Size: int64(len(p)), Blob: Range{Off: int64(len(blob))}}
		if i == 1 {
			p = strings.Repeat("\x00", 2000)
			c.Size, c.Zeros = 2000, true
		} else {
			frames := append(zstdBytes(t, []byte(p[:4])), zstdBytes(t, []byte(p[4:]))...)
			frames = append(frames, zstdBytes(t, nil)...)
			c.Blob.Len = int64(len(frames))
			blob = append(blob, frames...)
		}
		c.Digest = digest.FromString(p)
		content = append(content, p...)
		chunks = append(chunks, c)
	}
	r := NewFileReader(bytes.NewReader(blob), chunks)
	for off := range content {
		for _, n := range []int{1, 13, 1999, len(content)} {
			p := make([]byte, n)
			got, err := r.ReadAt(p, int64(off))
			want := content[off:min(len(content), off+n)]
			if !bytes.Equal(p[:got], want) || (err == io.EOF) != (off+n > len(content)) || err != nil && err != io.EOF {
				t.Fatalf("read of %d at %d: %d bytes, %v", n, off, got, err)
			}
		}
	}
	if n, err := r.ReadAt(make([]byte, 1), int64(len(content))); n != 0 || err != io.EOF {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if _, err := r.ReadAt(nil, -1); err == nil {
		t.Error("read at -1 gives no error")
	}
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 0x10
		p := make([]byte, len(content))
		n, err := NewFileReader(bytes.NewReader(bad), chunks).ReadAt(p, 0)
		if !bytes.Equal(p[:n], content[:n]) || n < len(content) && !ours(err) {
			t.Errorf("flip of byte %d: %d bytes, %v", i, n, err)
		}
	}
	if _, err := NewFileReader(bytes.NewReader(blob[:10]), chunks).ReadAt(make([]byte, 5), 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off blob: %v", err)
	}
	fromTar := []Chunk{{Size: 3, Digest: digest.FromString("abc")}}
	if _, err := NewFileReader(bytes.NewReader(nil), fromTar).ReadAt(make([]byte, 1), 0); !errors.Is(err, ErrMalformed) {
		t.Errorf("content of a tar: %v", err)
	}
}

func TestDecodeChunk(t *testing.T) {
	content := []byte("hello, chunk")
	frames := zstdBytes(t, content)
	c := Chunk{Size: int64(len(content)), Digest: digest.FromBytes(content)}
	for _, tc := range []struct {
		name   string
		dst    int
		frames []byte
		c      Chunk
		want   error
	}{
		{"good", len(content), frames, c, nil},
		{"two frames, one empty", len(content), append(zstdBytes(t, nil), frames...), c, nil},
		{"other length of dst", len(content) + 1, frames, c, ErrMalformed},
		{"the next file's headers behind", len(content), append(bytes.Clone(frames), zstdBytes(t, []byte("x"))...), c, nil},
		{"more than it says", len(content) - 1, frames, Chunk{Size: c.Size - 1, Digest: c.Digest}, ErrMalformed},
		{"skippable frame before", len(content), append([]byte("\x50\x2a\x4d\x18\x03\x00\x00\x00abc"), frames...), c, nil},
		{"skippable frame cut off", len(content), []byte("\x50\x2a\x4d\x18\x03\x00\x00\x00ab"), c, ErrMalformed},
		{"less than it says", len(content) + 1, frames, Chunk{Size: c.Size + 1, Digest: c.Digest}, ErrMalformed},
		{"half a frame behind", len(content), append(bytes.Clone(frames), frames[:7]...), c, nil},
		{"no frames", len(content), nil, c, ErrMalformed},
		{"cut off", len(content), frames[:len(frames)-1], c, ErrMalformed},
		{"other digest", len(content), frames, Chunk{Size: c.Size, Digest: digest.FromString("x")}, ErrDigestMismatch},
		{"sha512", len(content), frames, Chunk{Size: c.Size, Digest: digest.SHA512.FromBytes(content)}, nil},
		{"zeros", 5, nil, Chunk{Size: 5, Zeros: true}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dst := bytes.Repeat([]byte("x"), tc.dst)
			err := DecodeChunk(dst, tc.frames, tc.c)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			want := content
			if tc.c.Zeros {
				want = make([]byte, 5)
			}
			if err == nil && !bytes.Equal(dst, want) {
				t.Errorf("got %q", dst)
			}
		})
	}
}
