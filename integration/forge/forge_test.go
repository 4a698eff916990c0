package forge

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

func members() []Member {
	long := File(string(bytes.Repeat([]byte("long/"), 60))+"name", []byte("x")) // more than a header has room for
	return []Member{
		Dir("bin/"), File("bin/tool", bytes.Repeat([]byte("good "), 500)), File("empty", nil), Symlink("link", "bin/tool"),
		Hardlink("bin/same", "bin/tool"), Char("null", 1, 3), Fifo("fifo"), long,
		File("attr", []byte("a")).Xattr("user.x", "1"), File("bin/.wh.gone", nil),
	}
}

func honest(t *testing.T) *Layer {
	t.Helper()
	l, err := New(members()...)
	if err != nil {
		t.Fatal(err)
	}
	l.ChunkSize = 1000
	return l
}

func written(t *testing.T, l *Layer) *Blob {
	t.Helper()
	b, err := l.Write()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func unpack(t *testing.T, packed []byte) []byte {
	t.Helper()
	dec, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	raw, err := io.ReadAll(dec)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestHonest: without a lie the three say the same, as other programs read them.
func TestHonest(t *testing.T) {
	l := honest(t)
	b := written(t, l)
	if !bytes.Equal(unpack(t, b.Bytes), b.Tar) {
		t.Error("the frames do not give the tar")
	}
	if got := len(l.TOC); got != len(members()) {
		t.Errorf("%d entries", got)
	}
	// The tar-split library makes the same lines of the tar.
	var want bytes.Buffer
	in, done, err := asm.NewInputTarStreamWithDone(bytes.NewReader(b.Tar), storage.NewJSONPacker(&want), storage.NewDiscardFilePutter())
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, in)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	lines := unpack(t, b.Bytes[b.TOC.TarSplit.Off:b.TOC.TarSplit.End()])
	if !bytes.Equal(assembled(t, lines, b.Tar), b.Tar) || !bytes.Equal(assembled(t, want.Bytes(), b.Tar), b.Tar) {
		t.Error("the tar-split does not give the tar")
	}
}

// assembled is the tar that the library makes of a tar-split, with the files of a tar.
func assembled(t *testing.T, lines, files []byte) []byte {
	t.Helper()
	getter := storage.NewBufferFileGetPutter()
	for tr := tar.NewReader(bytes.NewReader(files)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, _, err := getter.Put(h.Name, tr); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := io.ReadAll(asm.NewOutputTarStream(getter, storage.NewJSONUnpacker(bytes.NewReader(lines))))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLieIsHidden: what the TOC shows and the tar has not is in the blob, and no reader of the tar sees it.
func TestLieIsHidden(t *testing.T) {
	l := honest(t)
	evil := bytes.Repeat([]byte("evil "), 500)
	l.Entry("bin/tool").Content = evil
	var lines []Wire
	l.Entry("bin/tool").Edit = func(w []Wire) []Wire { lines = w; return w }
	b := written(t, l)
	if !bytes.Equal(unpack(t, b.Bytes), written(t, honest(t)).Tar) {
		t.Error("the lie changed the tar")
	}
	var shown []byte
	for i, w := range lines {
		end := lines[0].EndOffset
		if i+1 < len(lines) {
			end = lines[i+1].Offset
		}
		shown = append(shown, unpack(t, b.Bytes[w.Offset:end])...)
	}
	if !bytes.Equal(shown, evil) || lines[0].Digest != digest.FromBytes(evil) || len(lines) != 3 {
		t.Errorf("the TOC shows %d bytes in %d chunks", len(shown), len(lines))
	}
}

// TestHeaderEdits: what Set and PAX write is a header that archive/tar takes.
func TestHeaderEdits(t *testing.T) {
	m := File("plain", []byte("abc"))
	m.Edit = Edits(Set(FieldUID(), Base256(FieldUID(), 1<<40)), PAX('x', [2]string{"path", "other"}))
	contiguous := File("contiguous", []byte("abc"))
	contiguous.Edit = Set(FieldType(), "7")
	raw, err := (&Tar{Members: []Member{m, contiguous}}).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := Entries(raw)
	if err != nil {
		t.Fatal(err)
	}
	if e := entries[0]; e.Name != "other" || e.UID != 1<<40 || string(e.Content) != "abc" {
		t.Errorf("read as %+v", e.Wire)
	}
	if e := entries[1]; e.Type != "reg" || e.Name != "contiguous" {
		t.Errorf("read as %+v", e.Wire)
	}
}

// TestPlaces: an image and a list in a layout and in a registry, in both algorithms.
func TestPlaces(t *testing.T) {
	reg := front.NewRegistry()
	server := httptest.NewServer(reg)
	t.Cleanup(server.Close)
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		l := honest(t)
		l.Algorithm, l.DiffID = alg, alg
		blob := written(t, l)
		var bundles []*Bundle
		for _, sentinel := range []string{"", manifest.SentinelTypeOCI, manifest.SentinelTypeUpstream} {
			im := &Image{Layers: []*Blob{blob}, Sentinel: sentinel, ChainBound: sentinel != "", Algorithm: alg}
			bundle, err := im.Bundle()
			if err != nil {
				t.Fatal(err)
			}
			bundles = append(bundles, bundle)
		}
		list, err := List(alg, nil, bundles...)
		if err != nil {
			t.Fatal(err)
		}
		dir, repo := t.TempDir(), "forge/"+alg.String()
		if err := list.Layout(dir, "x"); err != nil {
			t.Fatal(err)
		}
		if err := list.Push(t.Context(), server.Client(), server.URL, repo, "x"); err != nil {
			t.Fatal(err)
		}
		if list.Top.Digest != alg.FromBytes(reg.Manifest(repo, "x")) {
			t.Errorf("%s: the tag names another manifest", alg)
		}
		for d, want := range list.all() {
			got, err := os.ReadFile(filepath.Join(dir, "blobs", alg.String(), d.Encoded()))
			if err != nil || !bytes.Equal(got, want) || d != alg.FromBytes(got) {
				t.Errorf("%s: %v, %d bytes", d, err, len(got))
			}
		}
		for _, instance := range bundles {
			d := instance.Top.Digest
			m, err := manifest.ParseManifest(reg.Manifest(repo, d.String()), "")
			if err != nil {
				t.Fatal(err)
			}
			c, err := manifest.ParseConfig(reg.Blob(repo, m.Config.Digest.String()))
			if err != nil {
				t.Fatal(err)
			}
			im, err := manifest.NewImage(m, c)
			if err != nil || im.Sentinel() != (instance != bundles[0]) || im.FirstUnprovable() >= 0 {
				t.Errorf("%s: %v, trust %v", d, err, im.Trust)
			}
		}
	}
}

// TestLies: each lie can be written, in every algorithm, and is not what the honest base says.
func TestLies(t *testing.T) {
	names := map[string]bool{}
	for _, lie := range Lies() {
		if names[lie.Kind+lie.Name] {
			t.Errorf("%s: %s: twice", lie.Kind, lie.Name)
		}
		names[lie.Kind+lie.Name] = true
		for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			l, err := lie.Layer(alg)
			if err != nil {
				t.Fatalf("%s: %s: %v", lie.Kind, lie.Name, err)
			}
			b := written(t, l)
			base, err := Base(alg)
			if err != nil {
				t.Fatal(err)
			}
			if honest := written(t, base); b.TOC.Digest == honest.TOC.Digest || b.Descriptor.Digest.Algorithm() != alg || b.DiffID.Algorithm() != alg {
				t.Errorf("%s: %s: TOC %s, DiffID %s", lie.Kind, lie.Name, b.TOC.Digest, b.DiffID)
			}
			if !bytes.Equal(unpack(t, b.Bytes), b.Tar) {
				t.Errorf("%s: %s: the frames do not give the tar", lie.Kind, lie.Name)
			}
		}
	}
}
