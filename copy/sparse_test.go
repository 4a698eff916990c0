package copy

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// Sparse files, as GNU tar writes them in all its formats, become their whole content. Such a tar is not
// written again, rather than another one.
func TestUntarSparse(t *testing.T) {
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("tar is missing")
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 3<<20)
	copy(content[1<<20:], "in the middle")
	copy(content[len(content)-4:], "end.")
	for _, off := range []int64{1 << 20, int64(len(content) - 20)} {
		if _, err := f.WriteAt(bytes.TrimRight(content[off:min(off+20, int64(len(content)))], "\x00"), off); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.WriteAt([]byte("end."), int64(len(content)-4)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, format := range [][]string{{"--format=gnu"}, {"--format=posix", "--sparse-version=0.0"}, {"--format=posix", "--sparse-version=0.1"}, {"--format=posix", "--sparse-version=1.0"}} {
		raw, err := exec.Command("tar", append(format, "-S", "-C", dir, "-cf", "-", "holes")...).Output()
		if err != nil {
			t.Skipf("tar %v: %v", format, err)
		}
		if len(raw) > len(content)/2 {
			t.Skip("tar did not find the holes of this file system")
		}
		w := newWorld(t, 1)
		u, err := unpack(t, w, raw, digest.SHA256)
		if err != nil {
			t.Errorf("%v: %v", format, err)
			continue
		}
		x, err := chunked.OpenIndex(u.index)
		if err != nil {
			t.Fatal(err)
		}
		i, ok := x.ObjectByPath("holes")
		if !ok || x.Object(i).Digest != digest.FromBytes(content) {
			t.Errorf("%v: wrong content (found %v)", format, ok)
		}
		if u.split != nil {
			t.Errorf("%v: a tar-split is kept that gives another tar", format)
		}
		b := w.build("src")
		src := b.name(b.image("linux/amd64", algoGzip, raw), "x")
		w.copy(src, "store:a", nil)
		_, err = w.try("store:a", w.docker("a:1"), &Options{Compress: Compression{Algorithm: algoGzip}})
		if !errors.Is(err, manifest.ErrUnsupported) {
			t.Errorf("%v: written again: %v", format, err)
		}
	}
}
