package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"go/build"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// benchTarSize is enough to keep all workers busy and little enough to run often.
const benchTarSize = 64 << 20

// benchTar returns a tar of the Go tree's sources, the same on every machine with this release of Go.
func benchTar(b *testing.B) []byte {
	b.Helper()
	src := filepath.Join(build.Default.GOROOT, "src")
	if _, err := os.Stat(src); err != nil {
		b.Skipf("the sources of Go are missing: %v", err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	errFull := errors.New("enough")
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if buf.Len() > benchTarSize {
			return errFull
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			return err
		}
		_, err = w.Write(content)
		return err
	})
	if err != nil && !errors.Is(err, errFull) {
		b.Fatal(err)
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return buf.Bytes()
}

// BenchmarkCompress writes a chunked blob; its MB/s are of the tar. BenchmarkStream is what to compare it with.
func BenchmarkCompress(b *testing.B) {
	raw := benchTar(b)
	for _, workers := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(fmt.Sprintf("level=3/workers=%d", workers), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			var w *Written
			for b.Loop() {
				var err error
				if w, err = Compress(io.Discard, bytes.NewReader(raw), &WriterOptions{Level: 3, Workers: workers}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(w.Size)/float64(w.TarSize), "ratio")
		})
	}
}

// BenchmarkStream compresses the same tar as one plain zstd frame in one goroutine, and computes nothing else.
func BenchmarkStream(b *testing.B) {
	raw := benchTar(b)
	b.SetBytes(int64(len(raw)))
	var out countingWriter
	for b.Loop() {
		out = 0
		enc, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(3)), zstd.WithEncoderConcurrency(1))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := enc.Write(raw); err != nil {
			b.Fatal(err)
		}
		if err := enc.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(out)/float64(len(raw)), "ratio")
}

type countingWriter int64

func (w *countingWriter) Write(p []byte) (int, error) {
	*w += countingWriter(len(p))
	return len(p), nil
}
