package copy

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/manifest"
)

// twoViews makes a layer that is one tar for who decompresses it, and another one for who reads its table of contents:
// the blob holds both, the frames of the second where a decompressor skips them. The tar-split is that of a third tar, or
// of the second if that is nil.
func (b *builder) twoViews(asTar, asTOC, asSplit []byte) v1.Descriptor {
	t := b.w.t
	t.Helper()
	blob, toc := chunkedBlob(t, asTOC)
	data := blob[:min(toc.TOC.Off, toc.TarSplit.Off)-8]
	split := blob[toc.TarSplit.Off:toc.TarSplit.End()]
	splitRaw := toc.TarSplitRawLen
	if asSplit != nil {
		other, ref := chunkedBlob(t, asSplit)
		split, splitRaw = other[ref.TarSplit.Off:ref.TarSplit.End()], ref.TarSplitRawLen
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	out := enc.EncodeAll(asTar, nil)
	shift := int64(len(out)) + 8
	out = appendSkippable(out, data)
	raw := shifted(t, blob[toc.TOC.Off:toc.TOC.End()], shift, digest.FromBytes(split))
	packed := enc.EncodeAll(raw, nil)
	ref := manifest.TOCRef{
		Digest: digest.FromBytes(packed), TOCRawLen: int64(len(raw)), TarSplitRawLen: splitRaw,
		TOC:      manifest.Range{Off: int64(len(out)) + 8, Len: int64(len(packed))},
		TarSplit: manifest.Range{Off: int64(len(out)) + 16 + int64(len(packed)), Len: int64(len(split))},
	}
	out = appendSkippable(appendSkippable(out, packed), split)
	d := b.blob(v1.MediaTypeImageLayerZstd, out)
	d.Annotations = ref.Annotations()
	return d
}

func chunkedBlob(t *testing.T, raw []byte) ([]byte, *manifest.TOCRef) {
	t.Helper()
	var out bytes.Buffer
	w, err := chunked.Compress(&out, bytes.NewReader(raw), nil)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), w.TOC
}

func appendSkippable(b, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, 0x184D2A50)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// shifted is a table of contents whose content moved, and that names another tar-split.
func shifted(t *testing.T, packed []byte, by int64, split digest.Digest) []byte {
	t.Helper()
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	raw, err := dec.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	var toc map[string]any
	in := json.NewDecoder(bytes.NewReader(raw))
	in.UseNumber()
	if err := in.Decode(&toc); err != nil {
		t.Fatal(err)
	}
	entries, _ := toc["entries"].([]any)
	for _, e := range entries {
		entry := e.(map[string]any)
		for _, key := range []string{"offset", "endOffset"} {
			if n, ok := entry[key].(json.Number); ok {
				v, err := n.Int64()
				if err != nil {
					t.Fatal(err)
				}
				entry[key] = v + by
			}
		}
	}
	toc["tarSplitDigest"] = split
	raw, err = json.Marshal(toc)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// imageOf makes an image of layers that are there, with these diff_ids.
func (b *builder) imageOf(layers []v1.Descriptor, diffIDs ...digest.Digest) v1.Descriptor {
	p := v1.Platform{OS: "linux", Architecture: "amd64"}
	config := v1.Image{Platform: p, RootFS: v1.RootFS{Type: "layers", DiffIDs: diffIDs}}
	for range layers {
		config.History = append(config.History, v1.History{CreatedBy: "made by hand"})
	}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: layers}
	m.Config = b.json(v1.MediaTypeImageConfig, config)
	d := b.json(v1.MediaTypeImageManifest, m)
	d.Platform = &p
	return d
}

// variantOf adds the sentinel variant of an image that is in the layout.
func (b *builder) variantOf(plain v1.Descriptor, mediaType string, chainBound bool) v1.Descriptor {
	t := b.w.t
	t.Helper()
	read := func(d digest.Digest) []byte {
		raw, err := os.ReadFile(filepath.Join(b.dir, "blobs/sha256", d.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	m, err := manifest.ParseManifest(read(plain.Digest), "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := manifest.ParseConfig(read(m.Config.Digest))
	if err != nil {
		t.Fatal(err)
	}
	im, err := manifest.NewImage(m, c)
	if err != nil {
		t.Fatal(err)
	}
	rawManifest, rawConfig, err := manifest.AddSentinel(im, mediaType, chainBound)
	if err != nil {
		t.Fatal(err)
	}
	b.blob("", rawConfig)
	b.blob("", manifest.SentinelContent())
	d := b.blob(v1.MediaTypeImageManifest, rawManifest)
	d.Platform = plain.Platform
	return d
}

// tarWith is a tar of these headers, with content for those that say a size.
func tarWith(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		content := []byte(h.Linkname)
		if h.Typeflag == tar.TypeReg {
			h.Linkname, h.Size = "", int64(len(content))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := tw.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// views are what a hostile layer shows to the one and to the other reader, in each way in which they can differ.
func views(t testing.TB) (scanned []byte, run map[string][]byte) {
	t.Helper()
	file := func(name, content string, change func(*tar.Header)) tar.Header {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Linkname: content, Mode: 0o644}
		if change != nil {
			change(&h)
		}
		return h
	}
	other := tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755}
	with := func(content string, change func(*tar.Header)) []byte {
		return tarWith(t, other, file("etc/shadow", content, change), file("etc/group", "root:x:0:\n", nil))
	}
	good := "root:*:::::::\n"
	return with(good, nil), map[string][]byte{
		"content":      with("root::::::::::", nil),
		"mode":         with(good, func(h *tar.Header) { h.Mode = 0o4755 }),
		"owner":        with(good, func(h *tar.Header) { h.Uid = 1000 }),
		"xattr":        with(good, func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"} }),
		"extra file":   tarWith(t, other, file("etc/shadow", good, nil), file("etc/group", "root:x:0:\n", nil), file("etc/evil", "x", nil)),
		"missing file": tarWith(t, other, file("etc/group", "root:x:0:\n", nil)),
	}
}
