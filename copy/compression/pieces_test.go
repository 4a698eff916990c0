package compression

import (
	"bytes"
	stdgzip "compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/tocsin/tocsin/manifest"
)

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// mixed is content of which some compresses, longer than two pieces of each encoder's.
func mixed(n int) []byte {
	lines := bytes.Repeat([]byte("a line that comes again and again\n"), n/34+1)
	return append(append(lines[:n/2:n/2], noise(3, n/4)...), lines...)[:n]
}

func encodedBy(t testing.TB, algo string, raw []byte, cut int) []byte {
	t.Helper()
	var b bytes.Buffer
	enc, err := NewWriter(&b, algo, 0)
	if err != nil {
		t.Fatal(err)
	}
	for rest := raw; len(rest) > 0; {
		n := min(cut, len(rest))
		if _, err := enc.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := enc.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// rule 41: the encoders give the same bytes however many cores there are and however the tar comes, and a reader that
// is not ours reads them.
func TestParallelEncoders(t *testing.T) {
	for algo, piece := range map[string]int{manifest.Gzip: gzipPiece, manifest.Zstd: zstdPiece} {
		for _, n := range []int{0, 1, piece - 1, piece, piece + 1, 2 * piece, 2*piece + 12345} {
			raw := mixed(n)
			once := encodedBy(t, algo, raw, 1<<20)
			cores := runtime.GOMAXPROCS(1)
			again := encodedBy(t, algo, raw, 65521)
			runtime.GOMAXPROCS(4)
			more := encodedBy(t, algo, raw, 3<<20)
			runtime.GOMAXPROCS(cores)
			if !bytes.Equal(once, again) || !bytes.Equal(once, more) {
				t.Errorf("%s of %d bytes differs: %d, %d, %d", algo, n, len(once), len(again), len(more))
			}
			var r io.Reader
			var err error
			if algo == manifest.Gzip {
				r, err = stdgzip.NewReader(bytes.NewReader(once)) // one member with the right sum and length
			} else {
				r, err = zstd.NewReader(bytes.NewReader(once))
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(got, raw) {
				t.Errorf("%s of %d bytes comes back as %d: %v", algo, n, len(got), err)
			}
			if n > piece && len(once) > n/2 {
				t.Errorf("%s of %d bytes: %d", algo, n, len(once))
			}
		}
	}
}

// A place that cannot be written to ends the encoder with its error, wherever that comes.
func TestParallelEncoderFails(t *testing.T) {
	for _, algo := range []string{manifest.Gzip, manifest.Zstd} {
		for _, room := range []int64{10, 1 << 20} {
			enc, err := NewWriter(&full{room}, algo, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(enc, iotest.OneByteReader(bytes.NewReader(nil)))
			for i := 0; i < 5 && err == nil; i++ {
				_, err = enc.Write(noise(byte(i), zstdPiece))
			}
			if err := errors.Join(err, enc.Close()); !errors.Is(err, errFull) {
				t.Errorf("%s: %v", algo, err)
			}
		}
	}
}

var errFull = errors.New("full")

type full struct{ room int64 }

func (f *full) Write(p []byte) (int, error) {
	if f.room -= int64(len(p)); f.room < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestSniff(t *testing.T) { // rule 43
	for head, want := range map[string]string{
		"": manifest.None, "\x1f": manifest.None, "\x1f\x8b": manifest.Gzip, "\x28\xb5\x2f\xfd": manifest.Zstd,
		"\x50\x2a\x4d\x18": manifest.Zstd, "\x5f\x2a\x4d\x18": manifest.Zstd, "\x60\x2a\x4d\x18": manifest.None, "etc/": manifest.None,
	} {
		if got := Sniff([]byte(head)); got != want {
			t.Errorf("%x: %s, want %s", head, got, want)
		}
	}
}
