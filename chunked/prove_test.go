package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// proved runs the proof over a tar-split, with contents by name, and returns what it wrote.
func proved(x *Index, split []byte, contents map[string]string) ([]byte, error) {
	var out bytes.Buffer
	err := ProveTar(nil, &out, x, NewTarSplit(split), func(name string) (io.ReadCloser, error) {
		c, ok := contents[name]
		if !ok {
			return nil, io.ErrNoProgress
		}
		return io.NopCloser(strings.NewReader(c)), nil
	})
	return out.Bytes(), err
}

// The proof holds for the tar itself, and for nothing that differs from it in a line, a content or the TOC.
func TestProveTar(t *testing.T) {
	good := func() ([]testEntry, map[string]string) {
		return splitLayer(t), map[string]string{"d/f": "hello", "long/" + strings.Repeat("x", 200): "y"}
	}
	layer, contents := good()
	raw := layerTar(t, layer)
	split := string(splitOf(t, raw))
	out, err := proved(indexOf(t, tocOf(layer)), []byte(split), contents)
	if err != nil || !bytes.Equal(out, raw) {
		t.Fatalf("%d bytes, %v", len(out), err)
	}
	for name, tc := range map[string]struct {
		split    string
		contents func(map[string]string)
		toc      func(*TOC)
		want     error
	}{
		"another line's name": {split: strings.Replace(split, `"name":"d/f","size":5`, `"name":"d/h","size":5`, 1), want: ErrMalformed},
		"another line's size": {split: strings.Replace(split, `"name":"d/f","size":5`, `"name":"d/f","size":4`, 1), want: ErrMalformed},
		"another line's sum":  {split: strings.Replace(split, `"name":"d/f","size":5,"payload":"`, `"name":"d/f","size":5,"payload":"AAAA`, 1), want: ErrTwoReadings},
		"content that rotted": {contents: func(c map[string]string) { c["d/f"] = "hellO" }, want: ErrDigestMismatch},
		"content cut off":     {contents: func(c map[string]string) { c["d/f"] = "hell" }, want: ErrMalformed},
		"content and more":    {contents: func(c map[string]string) { c["d/f"] = "hello!" }, want: ErrMalformed},
		"no content":          {contents: func(c map[string]string) { delete(c, "d/f") }, want: io.ErrNoProgress},
		"the TOC's content": {
			contents: func(c map[string]string) { c["d/f"] = "HELLO" },
			toc: func(toc *TOC) {
				d := digest.FromString("HELLO")
				toc.Entries[1].Digest, toc.Entries[1].Chunks = d, []Chunk{{Size: 5, Digest: d}}
			},
			want: ErrTwoReadings, // the tar-split was made with another one
		},
		"the TOC's chunks": {
			toc: func(toc *TOC) {
				toc.Entries[1].Chunks = []Chunk{{Size: 2, Digest: digest.FromString("he")}, {Off: 2, Size: 3, Digest: digest.FromString("evi")}}
			},
			want: ErrTwoReadings,
		},
		"the TOC's mode": {toc: func(toc *TOC) { toc.Entries[8].Mode = 0o4755 }, want: ErrTwoReadings},
		"the TOC's link": {toc: func(toc *TOC) { toc.Entries[4].LinkName = "evil" }, want: ErrTwoReadings},
		"half of it":     {split: split[:len(split)/2], want: ErrMalformed},
	} {
		layer, contents := good()
		toc := tocOf(layer)
		if tc.toc != nil {
			tc.toc(toc)
		}
		if tc.contents != nil {
			tc.contents(contents)
		}
		if tc.split == "" {
			tc.split = split
		}
		_, err := proved(indexOf(t, toc), []byte(tc.split), contents)
		if !errors.Is(err, tc.want) || tc.want == ErrDigestMismatch && errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What breaks the stream is no verdict on the tar: it comes back as it is.
func TestProveTarBrokenWriter(t *testing.T) {
	layer := splitLayer(t)
	x, ts := indexOf(t, tocOf(layer)), NewTarSplit(splitOf(t, layerTar(t, layer)))
	for n := range 40 {
		w := &failAfter{left: n * 100}
		err := ProveTar(nil, w, x, ts, func(name string) (io.ReadCloser, error) {
			if strings.HasPrefix(name, "long") {
				return io.NopCloser(strings.NewReader("y")), nil
			}
			return io.NopCloser(strings.NewReader("hello")), nil
		})
		if !errors.Is(err, io.ErrClosedPipe) || ours(err) {
			t.Errorf("after %d bytes: %v", n*100, err)
		}
	}
}

type failAfter struct{ left int }

func (w *failAfter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

// BenchmarkProveTar is the whole proof: the tar put together, indexed, and its contents and chunks hashed.
func BenchmarkProveTar(b *testing.B) {
	raw := tarred(b, tarEntry{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, string(noise(1, 64<<20))})
	toc := writtenTOC(b, raw)
	x, split := indexOf(b, toc), splitOf(b, raw)
	content := raw[len(raw)-1024-64<<20 : len(raw)-1024]
	b.SetBytes(64 << 20)
	for b.Loop() {
		err := ProveTar(nil, io.Discard, x, NewTarSplit(split), func(string) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(content)), nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
