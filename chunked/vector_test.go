package chunked

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

//go:embed testdata/storage-1.65.0.b64
var vectorB64 string

const vectorDiffID = "3a275927409bd7381c4925bf136188af061216c355133d925b34f71b59940628"

// vector returns the layer written by containers/storage and its positions.
func vector(tb testing.TB) ([]byte, *manifest.TOCRef) {
	tb.Helper()
	blob, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(vectorB64, "\n", ""))
	if err != nil {
		tb.Fatal(err)
	}
	const prefix = "io.github.containers.zstd-chunked."
	ref, err := manifest.TOCRefOf(v1.Descriptor{
		MediaType: v1.MediaTypeImageLayerZstd, Size: int64(len(blob)),
		Digest: "sha256:7345beb30cfccf5a3670b7a3d2302c873753ca31f826e58d14acd23072a8e581",
		Annotations: map[string]string{
			prefix + "manifest-checksum": "sha256:f8ef576c48252adc3ee352e58233b245e81d4a05b2987bf1ed19faf0e61533d3",
			prefix + "manifest-position": "925:852:2507:1",
			prefix + "tarsplit-position": "1785:895:14813",
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return blob, ref
}

func piece(b []byte, r Range) []byte { return b[r.Off:r.End()] }

// readLayer does all that a reader of a whole layer does: parse, prove, index, read every file, rebuild the tar. It
// returns a description of all that is served.
func readLayer(blob []byte, ref *manifest.TOCRef) (string, error) {
	toc, err := ParseTOC(piece(blob, ref.TOC), ref, int64(len(blob)))
	if err != nil {
		return "", err
	}
	ts, err := ParseTarSplit(piece(blob, ref.TarSplit), toc.TarSplitDigest, ref.TarSplitRawLen)
	if err != nil {
		return "", err
	}
	b, err := BuildIndex(toc)
	if err != nil {
		return "", err
	}
	x, err := OpenIndex(b)
	if err != nil {
		return "", err
	}
	open := func(name string) (io.ReadCloser, error) {
		obj, ok := x.ObjectByPath(name)
		if !ok {
			return nil, fmt.Errorf("no object for %q", name)
		}
		r := NewFileReader(bytes.NewReader(blob), x.Chunks(obj))
		return io.NopCloser(io.NewSectionReader(r, 0, x.Object(obj).Size)), nil
	}
	var out strings.Builder
	for path, e := range x.Walk() {
		fmt.Fprintf(&out, "%s %+v %q %v", path, x.Attr(e), x.Readlink(e), x.IsWhiteout(e))
		for _, xa := range x.xattrs(e) {
			fmt.Fprintf(&out, " %s=%x", xa.name, xa.value)
		}
		if obj, ok := x.Content(e); ok {
			r, err := open(path)
			if err != nil {
				return "", err
			}
			h := sha256.New()
			if _, err := io.Copy(h, r); err != nil {
				return "", err
			}
			if got := "sha256:" + hex.EncodeToString(h.Sum(nil)); got != string(x.Object(obj).Digest) {
				return "", fmt.Errorf("%s is %s", path, got)
			}
			fmt.Fprintf(&out, " %x", h.Sum(nil))
		}
		out.WriteByte('\n')
	}
	tar := sha256.New()
	if err := CheckTarSplit(nil, x, ts); err != nil {
		return "", err
	}
	if err := ProveTar(nil, tar, x, ts, open); err != nil {
		return "", err
	}
	fmt.Fprintf(&out, "tar %x\n", tar.Sum(nil))
	return out.String(), nil
}

func TestVector(t *testing.T) {
	blob, ref := vector(t)
	got, err := readLayer(blob, ref)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(got, "tar "+vectorDiffID+"\n") {
		t.Errorf("tar is not %s:\n%s", vectorDiffID, got)
	}
	for _, want := range []string{
		"d {Mode:16877 UID:0 GID:0 RdevMajor:0 RdevMinor:0 Nlink:2 Size:4096 MtimeSec:1700000000 MtimeNsec:0} ",
		"d/hl {Mode:33188 UID:0 GID:0 RdevMajor:0 RdevMinor:0 Nlink:2 Size:6 ",
		"d/gone {Mode:8192 UID:0 GID:0 RdevMajor:0 RdevMinor:0 Nlink:1 Size:0 MtimeSec:0 MtimeNsec:0} \"\" true",
		"d/wh-c {Mode:8192 ",
		" user.k=760077",
		"security.capability=",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestVectorChunks(t *testing.T) {
	blob, ref := vector(t)
	toc, err := ParseTOC(piece(blob, ref.TOC), ref, int64(len(blob)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range toc.Entries {
		for _, c := range e.Chunks {
			got[e.Name] += fmt.Sprintf("%d+%d@%d-%d %v; ", c.Off, c.Size, c.Blob.Off, c.Blob.End(), c.Zeros)
		}
	}
	want := map[string]string{
		"d/small":   "0+6@109-128 false; ",
		"d/holes":   "0+100@246-260 false; 100+5000@0-0 true; 5100+613@275-302 false; ",
		"d/allzero": "0+4096@389-417 false; ",
		"d/endzero": "0+1@502-516 false; 1+4096@0-0 true; ",
		"d/xa":      "0+4@812-827 false; ",
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if name == "d/xa" { // the appendix does not say its size
			continue
		}
		if got[name] != want[name] {
			t.Errorf("%s: %q, want %q", name, got[name], want[name])
		}
	}
}

// Every byte outside frames that nobody reads is under some digest.
func TestVectorFlips(t *testing.T) {
	blob, ref := vector(t)
	want, err := readLayer(blob, ref)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range blob {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(blob)
			bad[i] ^= bit
			got, err := readLayer(bad, ref)
			if err == nil && got != want {
				t.Fatalf("flip of byte %d bit %#x is served", i, bit)
			}
			if err != nil {
				refused++
				if !errors.Is(err, ErrDigestMismatch) && !errors.Is(err, ErrMalformed) {
					t.Errorf("flip of byte %d: %v", i, err)
				}
			}
		}
	}
	if refused < len(blob) {
		t.Errorf("only %d of %d flips refused", refused, 2*len(blob))
	}
}

func TestVectorFooter(t *testing.T) {
	blob, ref := vector(t)
	payload := blob[len(blob)-FooterSize:]
	f, err := ParseFooter(payload)
	if err != nil {
		t.Fatal(err)
	}
	if f.TOC != ref.TOC || f.TOCRawLen != ref.TOCRawLen || f.TarSplit != ref.TarSplit || f.TarSplitRawLen != ref.TarSplitRawLen {
		t.Errorf("footer %+v, annotations %+v", f, ref)
	}
	if !bytes.Equal(f.Bytes(), payload) {
		t.Errorf("footer is written as %x, read from %x", f.Bytes(), payload)
	}
}
