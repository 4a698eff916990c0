package gzipv1

import (
	"bytes"
	stdgzip "compress/gzip"
	"go/parser"
	gotoken "go/token"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func pack(t testing.TB, raw []byte, cut int) []byte {
	t.Helper()
	var out bytes.Buffer
	z := NewWriter(&out)
	for part := range slices.Chunk(raw, cut) {
		if n, err := z.Write(part); err != nil || n != len(part) {
			t.Fatalf("wrote %d of %d: %v", n, len(part), err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func checkRoundTrip(t testing.TB, raw, packed []byte) {
	t.Helper()
	r, err := stdgzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, raw) {
		t.Fatalf("%d bytes came back as %d others", len(raw), len(got))
	}
}

// xorshift is a generator of this file's own: the golden digests must not depend on anybody's library.
type xorshift uint64

func (x *xorshift) next() uint64 {
	*x ^= *x << 13
	*x ^= *x >> 7
	*x ^= *x << 17
	return uint64(*x)
}

// goldenInputs are contents that reach every part of the encoder.
func goldenInputs() map[string][]byte {
	x := xorshift(1)
	random := make([]byte, 300_000)
	for i := range random {
		random[i] = byte(x.next() >> 32)
	}
	var words []byte
	for len(words) < 400_000 {
		n := x.next() % 97
		words = append(words, "the quick brown fox jumps over a lazy dog and "[n%40:n%40+3+n%4]...)
		if n > 80 {
			words = strconv.AppendUint(words, x.next()%1000, 10)
		}
	}
	// Counts that grow like Fibonacci's make codes longer than deflate allows.
	var skewed []byte
	for s, a, b := byte(0), 1, 1; a < 30_000; s, a, b = s+1, b, a+b {
		skewed = append(skewed, bytes.Repeat([]byte{s}, a)...)
	}
	for i := len(skewed) - 1; i > 0; i-- {
		j := int(x.next() % uint64(i+1))
		skewed[i], skewed[j] = skewed[j], skewed[i]
	}
	far := slices.Concat(random[:40_000], words[:1000], random[40_000:70_000], words[:1000], random[:32_768], random[:32_768])
	return map[string][]byte{
		"empty": {}, "one": {'x'}, "zeros": make([]byte, 1<<20), "random": random, "words": words, "skewed": skewed, "far": far,
		"segment": words[:segmentSize], "segment and one": words[:segmentSize+1], "mixed": slices.Concat(words[:100_000], random[:100_000], words[50_000:90_000]),
	}
}

// TestGolden: the digests of gzip.v1 never change, with no version of Go, on no machine. If this fails, the
// encoder is wrong and not the table.
func TestGolden(t *testing.T) {
	golden := map[string]digest.Digest{
		"empty":           "sha256:30e6fa98fb48c2b132824d1ac5e2243c0be9e9082ff32598d34d7687ca7f6c7f",
		"one":             "sha256:53445b4929892e2e2429c0bd7dc9bd7237665159b4ba3051de2caf47d33d476f",
		"zeros":           "sha256:4ec5c65cf1cde1394687673e09ce0be007e286562a73b7bb1559edfa39a88bb3",
		"random":          "sha256:d200717d6d392b3bfb3b4929866183f360f09fc2df6e117ed8acf2534bd4185a",
		"words":           "sha256:afe504d16f84c0184fbd8a86d41b0ca4567c4bf4793ac4cbd076281e1d7719b7",
		"skewed":          "sha256:3bd7d10219a6f9af7e2624e04918cd12e557dc64ba155614914eb24e6c8a2eb0",
		"far":             "sha256:8d1121168fedeed29d6a439f3cab9ee69f1e180d1368d3dcd3d16b5c461a71da",
		"segment":         "sha256:c73abcd37b0c86c697d686c90b02b8fc70a97bc5745bc447d1f2d34b0030eccc",
		"segment and one": "sha256:a43d385dd15f69687b993d83b3342f3298472dfdf0fb451fcaa5c50ed3872e2e",
		"mixed":           "sha256:1a84470e941a8eaef1fd9aa69fd581ef1d9e5bf6beb9f211171b4644d26a0e25",
	}
	for name, raw := range goldenInputs() {
		packed := pack(t, raw, 1<<20)
		checkRoundTrip(t, raw, packed)
		if got := digest.FromBytes(packed); got != golden[name] {
			t.Errorf("%q: %q, // %d to %d", name, got, len(raw), len(packed))
		}
	}
}

// What is written does not depend on how the input was cut.
func TestCuts(t *testing.T) {
	for name, raw := range goldenInputs() {
		want := pack(t, raw, 1<<20)
		for _, cut := range []int{7, 4096, segmentSize, segmentSize + 1} {
			if !bytes.Equal(pack(t, raw, cut), want) {
				t.Errorf("%s: cut into parts of %d it became something else", name, cut)
			}
		}
	}
}

// Positions are counted modulo 2^32, so an input of more than 4 GiB goes on as it began.
func TestWraps(t *testing.T) {
	raw := goldenInputs()["mixed"]
	var out bytes.Buffer
	z := NewWriter(&out)
	z.deflate.base = 1<<32 - 100_000
	if _, err := z.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	checkRoundTrip(t, raw, out.Bytes())
	if !bytes.Equal(out.Bytes(), pack(t, raw, 1<<20)) {
		t.Error("it became something else")
	}
}

// TestFrozen: the encoder imports nothing whose next version could write other bytes.
func TestFrozen(t *testing.T) {
	allowed := []string{"cmp", "encoding/binary", "hash/crc32", "io", "math/bits", "slices"}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, im := range file.Imports {
			if path, _ := strconv.Unquote(im.Path.Value); !slices.Contains(allowed, path) {
				t.Errorf("%s imports %s", name, path)
			}
		}
	}
}

func FuzzWriter(f *testing.F) {
	for _, raw := range goldenInputs() {
		f.Add(raw[:min(len(raw), 4000)], 100)
	}
	f.Add(goldenInputs()["segment and one"], segmentSize)
	f.Fuzz(func(t *testing.T, raw []byte, cut int) {
		packed := pack(t, raw, 1<<20)
		checkRoundTrip(t, raw, packed)
		if cut > 0 && !bytes.Equal(packed, pack(t, raw, cut)) {
			t.Error("the cut matters")
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	raw := goldenInputs()["words"]
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		pack(b, raw, 1<<18)
	}
}
