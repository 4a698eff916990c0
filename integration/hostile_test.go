package integration_test

import (
	"archive/tar"
	"bytes"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

// lying is an image whose only layer has a TOC that was edited after it was written.
type lying struct {
	blob v1.Descriptor
	toc  *manifest.TOCRef
}

// lie puts a layer into the registry whose TOC has another text in place of the one that im's first layer has.
func (f *far) lie(t *testing.T, from *manifest.Image, repo, was, is string) lying {
	t.Helper()
	layer := from.DataLayers()[0]
	blob := slices.Clone(f.reg.Blob(repo, layer.Digest.String()))
	toc := *layer.TOC
	dec, err := zstd.NewReader(bytes.NewReader(blob[toc.TOC.Off:toc.TOC.End()]))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	text, err := io.ReadAll(dec)
	if err != nil || bytes.Count(text, []byte(was)) == 0 {
		t.Fatalf("nothing to replace in the TOC: %v", err)
	}
	text = bytes.Replace(text, []byte(was), []byte(is), 1)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(text, nil)
	toc.TOC = manifest.Range{Off: int64(len(blob)), Len: int64(len(packed))}
	toc.TOCRawLen, toc.Digest = int64(len(text)), digest.FromBytes(packed)
	blob = append(blob, packed...)
	d := digest.Digest(f.reg.AddBlob(repo, blob))
	return lying{v1.Descriptor{MediaType: layer.MediaType, Digest: d, Size: int64(len(blob))}, &toc}
}

// TestHostileTOCNeverChangesAnotherImage: a TOC names the digest of another image's file and gives chunks of its own
// for it, which are true to their own digests. Whatever is read and completed first, the other image shows its own
// file, and nobody ever sees an object of that name with other bytes.
func TestHostileTOCNeverChangesAnotherImage(t *testing.T) {
	f := newFar(t)
	victim, evil := holed(50, 4), holed(60, 4)
	good := f.publish(t, "good", "only", layerOf(content{"sudo": victim, "other": []byte("x\n")}, nil))
	bad := f.lie(t, f.publish(t, "bad", "only", layerOf(content{"sudo": evil}, nil)), "bad",
		`"`+digest.FromBytes(evil).String()+`"`, `"`+digest.FromBytes(victim).String()+`"`)
	want := goodTree(t, f, "good", good)

	steps := map[string]func(t *testing.T, l *local, v *views){
		"read the good one":     func(t *testing.T, l *local, v *views) { v.readGood(t, l) },
		"read the bad one":      func(t *testing.T, l *local, v *views) { v.readBad(t, l) },
		"begin the good one":    func(t *testing.T, l *local, v *views) { readHead(t, l, v.layer(t, l, v.good), "sudo", 2000) },
		"begin the bad one":     func(t *testing.T, l *local, v *views) { readHead(t, l, v.layer(t, l, v.bad), "sudo", 2000) },
		"complete the good one": func(t *testing.T, l *local, v *views) { _ = v.ensure(t, l, v.good) },
		"complete the bad one": func(t *testing.T, l *local, v *views) {
			there := l.store.HasObject(digest.FromBytes(victim), int64(len(victim)))
			if err := v.ensure(t, l, v.bad); err == nil && !there {
				t.Error("the lie was completed")
			}
		},
		"restart": func(t *testing.T, l *local, v *views) {
			l.close()
			*l = *openLocal(t, l.store.Root(), f)
		},
	}
	for _, order := range [][]string{
		{"read the bad one", "read the good one", "read the bad one"},
		{"read the good one", "read the bad one", "read the good one"},
		{"begin the bad one", "begin the good one", "complete the bad one", "read the good one", "complete the good one", "read the bad one"},
		{"begin the good one", "begin the bad one", "complete the good one", "read the bad one", "complete the bad one"},
		{"complete the bad one", "begin the good one", "complete the bad one", "complete the good one", "complete the bad one"},
		{"begin the bad one", "restart", "begin the good one", "restart", "complete the bad one", "restart", "complete the good one", "restart", "read the bad one"},
	} {
		l := openLocal(t, t.TempDir(), f)
		v := &views{want: want, evil: evil, victim: victim}
		v.add(t, l, f, good, bad)
		for _, step := range order {
			steps[step](t, l, v)
			v.settle(t, l)
		}
		v.readGood(t, l)
		l.close()
	}
}

// views are the two images in one store.
type views struct {
	good, bad    uint64
	want         shown
	evil, victim []byte
}

func (v *views) add(t *testing.T, l *local, f *far, good *manifest.Image, bad lying) {
	t.Helper()
	var err error
	if v.good, _, err = l.add(t.Context(), f, "good", good); err != nil {
		t.Fatal(err)
	}
	n, err := l.addLayer(t.Context(), f, "bad", bad.blob, bad.toc)
	if err != nil {
		t.Fatal(err)
	}
	if v.bad, err = l.pool.View(t.Context(), []uint64{n}); err != nil {
		t.Fatal(err)
	}
}

func (v *views) layer(t *testing.T, l *local, view uint64) uint64 {
	t.Helper()
	chain, err := l.store.ViewChain(view)
	if err != nil {
		t.Fatal(err)
	}
	return chain.Layers[0]
}

func (v *views) ensure(t *testing.T, l *local, view uint64) error {
	ly, err := l.pool.Layer(v.layer(t, l, view))
	if err != nil {
		t.Fatal(err)
	}
	return ly.Ensure(t.Context(), nil, fill.Foreground)
}

func (v *views) readGood(t *testing.T, l *local) {
	t.Helper()
	got, failed, err := l.read(t.Context(), v.good)
	if err != nil || len(failed) > 0 {
		t.Fatalf("the honest image: %v %v", err, failed)
	}
	sameOrFailed(t, "the honest image", v.want, got, failed)
}

// readBad demands that every byte of the lying image is what its TOC says, of the chunk or of the whole, or that the
// read fails. It may be the one in the beginning and the other in the end, when the honest file is completed between.
func (v *views) readBad(t *testing.T, l *local) {
	t.Helper()
	ly, err := l.pool.Layer(v.layer(t, l, v.bad))
	if err != nil {
		t.Fatal(err)
	}
	obj, ok := ly.Index().ObjectByPath("sudo")
	if !ok {
		t.Fatal("no such path")
	}
	file, err := ly.Open(obj)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for off := 0; off < len(v.evil); off += 500 {
		got := make([]byte, min(500, len(v.evil)-off))
		if _, err := file.ReadAt(t.Context(), got, int64(off)); err != nil {
			return
		}
		for i, b := range got {
			if b != v.evil[off+i] && b != v.victim[off+i] {
				t.Fatalf("the lying image shows a byte at %d that nobody named", off+i)
			}
		}
	}
}

// settle looks at the store itself: an object of the victim's name has the victim's bytes.
func (v *views) settle(t *testing.T, l *local) {
	t.Helper()
	file, err := l.store.OpenObject(digest.FromBytes(v.victim), int64(len(v.victim)))
	if err != nil {
		return
	}
	defer file.Close()
	if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, v.victim) {
		t.Fatalf("WRONG: the victim's object has %d other bytes, %v", len(got), err)
	}
}

// TestOverlayXattrsAreDropped: an image's own trusted.* and user.overlay.* attributes, which overlayfs would obey, are
// in no view, whether the layer came by its TOC or as a tar. Others are.
func TestOverlayXattrsAreDropped(t *testing.T) {
	records := map[string]string{}
	for _, name := range []string{"trusted.overlay.redirect", "trusted.overlay.metacopy", "trusted.x", "user.overlay.opaque", "user.fine", "security.capability"} {
		records["SCHILY.xattr."+name] = "v"
	}
	records["SCHILY.xattr.security.capability"] = "\x01\x00\x00\x02\x00\x04" + strings.Repeat("\x00", 14)
	layers := []mkimage.Layer{layerOf(content{"a": []byte("a")}, []tar.Header{
		{Typeflag: tar.TypeDir, Name: "dir", Mode: 0o755, PAXRecords: records},
		{Typeflag: tar.TypeReg, Name: "file", Mode: 0o644, PAXRecords: records},
	})}
	f := newFar(t)
	im := f.publish(t, "hostile", "only", layers...)
	byTOC := goodTree(t, f, "hostile", im)

	layout := filepath.Join(t.TempDir(), "layout")
	if _, err := mkimage.Write(t.Context(), layout, "x", layers, nil); err != nil {
		t.Fatal(err)
	}
	l := openLocal(t, t.TempDir(), f)
	if _, err := copy.Copy(t.Context(), &copy.Env{Store: l.store, Pool: l.pool}, ref(t, "oci:"+layout+":x"), ref(t, "store:hostile"), nil); err != nil {
		t.Fatal(err)
	}
	l.wantStored(t, "hostile", byTOC)
	for _, name := range []string{"dir", "file"} {
		row := byTOC[name]
		if strings.Contains(row, "trusted.") || strings.Contains(row, "user.overlay.") || !strings.Contains(row, "user.fine=\"v\"") || !strings.Contains(row, "security.capability=") {
			t.Errorf("%s: %s", name, row)
		}
	}
}
