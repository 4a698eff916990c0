package copy

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// rootTar is a small root file system with times of its own.
func rootTar(t testing.TB, newest time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for i, name := range []string{"etc/", "etc/passwd", "bin/sh"} {
		h := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg, Size: 2, ModTime: time.Unix(int64(1000+i), 0), Format: tar.FormatPAX}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Size, h.ModTime = tar.TypeDir, 0, newest
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := tw.Write([]byte("x\n")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An image made of a tar is one layer, the file itself, and says when its newest file was made and for which platform it
// is. It depends on nothing else: neither on the file's name, nor on the clock, nor on how it is read.
func TestTarball(t *testing.T) {
	newest := time.Date(2021, 3, 4, 5, 6, 7, 0, time.UTC)
	raw := rootTar(t, newest)
	for _, algo := range []string{algoNone, algoGzip, algoZstd} {
		w := newWorld(t, 4)
		blob := compress(t, algo, string(raw))
		write(t, w.dir, "a.tar", blob)
		write(t, w.dir, "b:c@1.bin", blob)
		arm := &Options{Platform: platform(t, "linux/arm64/v8")}
		first := w.copy("tarball:"+w.dir+"/a.tar", w.layout("first")+":x", arm)
		for i, again := range []string{"tarball:" + w.dir + "/a.tar", "tarball:" + w.dir + "/b:c@1.bin"} {
			if res := w.copy(again, w.docker("again:1"), arm); res.Digest != first.Digest {
				t.Errorf("%s, copy %d: digest %s, then %s", algo, i, first.Digest, res.Digest)
			}
		}
		into(t, []byte(blob), func() {
			if res := w.copy("tarball:-", w.layout("stdin")+":x", arm); res.Digest != first.Digest {
				t.Errorf("%s: from standard input the digest is %s, not %s", algo, res.Digest, first.Digest)
			}
		})
		if res := w.copy("tarball:"+w.dir+"/a.tar", w.layout("amd")+":x", &Options{Platform: platform(t, "linux/amd64")}); res.Digest == first.Digest {
			t.Error("the platform is not part of the image")
		}
		im := w.situation(w.layout("first") + ":x").instances[0].image
		if got := manifest.FormatPlatform(im.Config.Platform); got != "linux/arm64/v8" {
			t.Errorf("platform %s", got)
		}
		if len(im.Layers) != 1 || im.Layers[0].Digest != digest.FromString(blob) || im.Layers[0].DiffID != digest.FromBytes(raw) || im.Layers[0].MediaType != layerMediaType(algo) {
			t.Errorf("%s: layers %+v", algo, im.Layers)
		}
		if !strings.Contains(string(im.Config.Raw), `"created":"2021-03-04T05:06:07Z"`) {
			t.Errorf("config %s", im.Config.Raw)
		}
		w.checkTars(w.docker("again:1"), [][]byte{raw})
		w.copy("tarball:"+w.dir+"/a.tar", "docker-archive:"+w.dir+"/out.tar", nil)
		w.checkTars("docker-archive:"+w.dir+"/out.tar", [][]byte{raw})
		w.copy("tarball:"+w.dir+"/a.tar", "store:x", nil)
		if got := w.stored("store:x", manifest.TarOnly); !bytes.Equal(got[0], raw) {
			t.Error("the store has another tar")
		}
	}
}

// The digest of one tar, so that no change of ours goes unnoticed.
func TestTarballGolden(t *testing.T) {
	w := newWorld(t, 2)
	write(t, w.dir, "empty.tar", string(tarOf(t)))
	d, err := Resolve(t.Context(), w.env, w.ref("tarball:"+w.dir+"/empty.tar"), &Options{Platform: platform(t, "linux/amd64")})
	const want = "sha256:b03be28cbb414f4cd06b5f394ab571b58e55af3094c526b09bbb50952e9cc179"
	if err != nil || d != want {
		t.Errorf("%s, %v; want %s", d, err, want)
	}
}

func TestTarballRefuses(t *testing.T) {
	w := newWorld(t, 2)
	raw := rootTar(t, time.Unix(0, 0))
	for name, c := range map[string]struct {
		content string
		want    error
	}{
		"empty":       {"", manifest.ErrMalformed},
		"no tar":      {strings.Repeat("no tar", 1000), manifest.ErrMalformed},
		"broken gzip": {compress(t, algoGzip, string(raw))[:60], nil},
		"cut":         {string(raw[:700]), manifest.ErrMalformed},
	} {
		write(t, w.dir, "a.tar", c.content)
		_, err := w.try("tarball:"+w.dir+"/a.tar", w.layout("no")+":x", nil)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := w.try("tarball:"+w.dir+"/none.tar", w.layout("no")+":x", nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	if _, err := w.try("tarball:"+w.dir, w.layout("no")+":x", nil); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("a directory: %v", err)
	}
	src, _ := w.single()
	if _, err := w.try(src, "tarball:"+w.dir+"/x.tar", nil); !errors.Is(err, ErrUsage) {
		t.Errorf("as a destination: %v", err)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "no")); err == nil {
		t.Error("a layout was made for nothing")
	}
}

// A file that changes between the look at it and the copy is no image any more.
func TestTarballChanges(t *testing.T) { // rule 17
	w := newWorld(t, 2)
	raw := rootTar(t, time.Unix(0, 0))
	write(t, w.dir, "a.tar", string(raw))
	src, err := openSource(w.env, w.ref("tarball:"+w.dir+"/a.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.close()
	if _, err := src.top(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(w.dir, "a.tar"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("y"), 1024); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	body, err := src.blob(t.Context(), src.(*tarball).tar)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := new(bytes.Buffer).ReadFrom(body); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("%v", err)
	}
}

// FuzzTarball: nothing makes looking at a file do anything but answer or refuse, and the same file gets the same answer.
func FuzzTarball(f *testing.F) {
	seeds := [][]byte{rootTar(f, time.Unix(1<<31, 0)), tarOf(f), []byte(compress(f, algoGzip, string(tarOf(f)))), []byte(compress(f, algoZstd, string(tarOf(f)))), {}}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := readRootFS(bytes.NewReader(raw))
		b, again := readRootFS(bytes.NewReader(raw))
		if (err == nil) != (again == nil) || a != b {
			t.Fatalf("%+v %v, then %+v %v", a, err, b, again)
		}
		if err == nil && (a.digest != digest.FromBytes(raw) || a.size != int64(len(raw))) {
			t.Fatalf("%+v", a)
		}
	})
}
