package oracle

import (
	"archive/tar"
	"bytes"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// file is one entry of a test's tar; its header gets the size of the content.
type file struct {
	tar.Header
	content []byte
}

var day = time.Unix(1700000000, 0)

func reg(name string, content []byte) file {
	return file{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: day}, content}
}

func other(flag byte, name, link string) file {
	return file{tar.Header{Typeflag: flag, Name: name, Linkname: link, Mode: 0o755, ModTime: day}, nil}
}

// link is a hard link with the mode of its target, as every tar has it: readers differ in which of the two they set.
func link(name, target string) file {
	f := other(tar.TypeLink, name, target)
	f.Mode = 0o644
	return f
}

func xattrs(f file, records map[string]string) file {
	f.Format, f.PAXRecords = tar.FormatPAX, map[string]string{}
	for k, v := range records {
		f.PAXRecords["SCHILY.xattr."+k] = v
	}
	return f
}

func device(name string, flag byte, major, minor int64) file {
	f := other(flag, name, "")
	f.Devmajor, f.Devminor = major, minor
	return f
}

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(255) + 1)
	}
	return b
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func makeTar(t testing.TB, files ...file) []byte {
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

// layers returns tars that each show one side of the format.
func layers(t testing.TB) map[string][]byte {
	zeros := func(n int) []byte { return make([]byte, n) }
	long := strings.Repeat("long-", 30)
	precise := reg("precise", []byte("x"))
	precise.Format, precise.ModTime, precise.AccessTime, precise.ChangeTime = tar.FormatPAX, day.Add(5), day.Add(-6), day.Add(7)
	owned := reg("owned", []byte("y"))
	owned.Uid, owned.Gid, owned.Mode = 3_000_000, 4_000_000, 0o4755
	gnu := reg(long+"/gnu", []byte("long"))
	gnu.Format = tar.FormatGNU
	epoch := reg("epoch", []byte("z"))
	epoch.ModTime = time.Unix(0, 0)
	return map[string][]byte{
		"holes": makeTar(t, other(tar.TypeDir, "d/", ""),
			reg("d/holes", concat(noise(1, 100), zeros(5000), noise(2, 101), zeros(512), noise(3, 200))),
			reg("d/all", zeros(4096)), reg("d/end", concat([]byte{1}, zeros(4096))), reg("d/start", concat(zeros(4096), []byte{1})),
			reg("d/longzeros", zeros(5<<20)), reg("d/between", concat(noise(4, 700), zeros(3<<20), noise(5, 10)))),
		"big":       makeTar(t, reg("big", noise(6, 3<<20)), reg("text", bytes.Repeat([]byte("all work and no play "), 40_000))),
		"hardlinks": makeTar(t, reg("f", []byte("content")), link("l", "f"), link("m", "l")),
		"xattrs": makeTar(t, xattrs(reg("f", []byte("content")), map[string]string{"user.k": "v\x00\xff",
			"security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}),
			xattrs(other(tar.TypeDir, "d/", ""), map[string]string{"user.dir": "1"})),
		"devices": makeTar(t, device("null", tar.TypeChar, 1, 3), device("loop", tar.TypeBlock, 7, 1), other(tar.TypeFifo, "ff", "")),
		"whiteouts": makeTar(t, other(tar.TypeDir, "d/", ""), reg("d/.wh.gone", nil), other(tar.TypeDir, "o/", ""),
			reg("o/.wh..wh..opq", nil), reg("o/new", []byte("new"))),
		"names": makeTar(t, reg(long+"/"+long+"/pax", []byte("long")), gnu, reg("naïve – ☃", []byte("unicode")),
			reg("a<b>&c", []byte("json")), other(tar.TypeSymlink, "sl", strings.Repeat("t/", 300)), reg("./dot", []byte("dot"))),
		"metadata": makeTar(t, precise, owned, epoch, reg("empty", nil)),
		"nothing":  makeTar(t),
	}
}

// contents returns the content of each regular file of a tar by its name as it is there.
func contents(t testing.TB, raw []byte) map[string][]byte {
	t.Helper()
	m := map[string][]byte{}
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return m
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr.Typeflag != tar.TypeReg {
			continue
		}
		if m[hdr.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}
