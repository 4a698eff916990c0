package copy

import (
	"archive/tar"
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// unpack takes a tar into a store of its own and writes it again.
func unpack(t *testing.T, w *world, raw []byte, alg digest.Algorithm) (*unpacked, error) {
	t.Helper()
	batch := w.env.Store.NewBatch()
	u, err := untar(nil, bytes.NewReader(raw), batch, alg)
	if err != nil {
		if abort := batch.Abort(); abort != nil {
			t.Error(abort)
		}
		return nil, err
	}
	return u, batch.Commit()
}

// rebuilt writes the tar of something unpacked again.
func rebuilt(t *testing.T, w *world, u *unpacked) []byte {
	t.Helper()
	x, err := chunked.OpenIndex(u.index)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = chunked.AssembleTar(&out, chunked.NewTarSplit(u.split), func(name string) (io.ReadCloser, error) {
		i, ok := x.ObjectByPath(name)
		if !ok {
			t.Fatalf("%q is not in the index", name)
		}
		return w.env.Store.OpenObject(x.Object(i).Digest, x.Object(i).Size)
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestUntar(t *testing.T) {
	awkward := func(l mkimage.Layer) []byte {
		var b bytes.Buffer
		if err := l.Tar(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	plain := tarOf(t, file{"dir/", nil}, file{"dir/f", []byte("content")}, file{"empty", nil})
	tars := map[string][]byte{
		"plain":              plain,
		"no entries":         tarOf(t),
		"nothing at all":     {},
		"no end marker":      plain[:len(plain)-1024],
		"padded":             append(bytes.Clone(plain), make([]byte, 9000)...),
		"something after":    append(bytes.Clone(plain), "and then some"...),
		"long names":         tarOf(t, file{strings.Repeat("d/", 100) + strings.Repeat("n", 200), []byte("x")}),
		"leading slash, dot": tarOf(t, file{"/abs", []byte("1")}, file{"./rel", []byte("2")}),
		"awkward":            awkward(mkimage.Awkward()[0]),
		"awkward changes":    awkward(mkimage.Awkward()[1]),
		"not UTF-8":          awkward(mkimage.NotUTF8()),
	}
	for name, raw := range tars {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1)
			u, err := unpack(t, w, raw, digest.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			if u.diffID != digest.FromBytes(raw) {
				t.Errorf("diffID %s", u.diffID)
			}
			if !bytes.Equal(rebuilt(t, w, u), raw) {
				t.Error("the tar written again is another one")
			}
		})
	}
	w := newWorld(t, 1)
	if u, err := unpack(t, w, plain, digest.SHA512); err != nil || u.diffID != digest.SHA512.FromBytes(plain) {
		t.Errorf("sha512: %v", err)
	}
}

// Broken tars are errors, nothing of them stays, and nobody is left reading them.
func TestUntarRefuses(t *testing.T) {
	plain := tarOf(t, file{"f", noise(1, 3000)}, file{"g", noise(2, 3000)})
	header := func(h tar.Header) []byte {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	damaged := bytes.Clone(plain)
	damaged[600] ^= 1 // content: another tar, but a tar
	badSum := bytes.Clone(plain)
	badSum[150] ^= 1
	tars := map[string][]byte{
		"cut in a file":          plain[:2000],
		"cut in a header":        plain[:300],
		"bad checksum":           badSum,
		"no tar":                 bytes.Repeat([]byte("not a tar. "), 200),
		"out of the tree":        tarOf(t, file{"../../etc/passwd", []byte("x")}),
		"hardlink to nothing":    header(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "missing"}),
		"hardlink out of it":     header(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../x"}),
		"a gzip where a tar was": {0x1f, 0x8b, 0x08, 0x00},
	}
	w := newWorld(t, 1)
	before := runtime.NumGoroutine()
	for name, raw := range tars {
		if _, err := unpack(t, w, raw, digest.SHA256); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	w.empty(w.env)
	limit := time.Now().Add(10 * time.Second)
	for runtime.NumGoroutine() > before && time.Now().Before(limit) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	if u, err := unpack(t, w, damaged, digest.SHA256); err != nil || u.diffID == digest.FromBytes(plain) {
		t.Errorf("other content: %v", err)
	}
}

// Gzip members one after the other, and what stands after the last, are read as other tools read them.
func TestOpenTar(t *testing.T) {
	raw := tarOf(t, file{"f", noise(1, 70000)})
	var members bytes.Buffer
	for _, part := range [][]byte{raw[:1000], raw[1000:]} {
		z := gzip.NewWriter(&members)
		if _, err := z.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, blob := range map[string][]byte{"members": members.Bytes(), "plain": raw} {
		tr, err := compression.NewReader(bytes.NewReader(blob))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(tr)
		if err != nil || !bytes.Equal(got, raw) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
	for name, blob := range map[string][]byte{"half": members.Bytes()[:500], "garbage behind": append(members.Bytes(), "garbage"...)} {
		tr, err := compression.NewReader(bytes.NewReader(blob))
		if err == nil {
			_, err = io.ReadAll(tr)
		}
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
