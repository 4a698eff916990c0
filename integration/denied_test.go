package integration

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/integration/trees"
	"github.com/tocsin/tocsin/manifest"
)

// crossed is a zstd:chunked layer that is the tar of these files, and whose TOC calls the first by the second's name and
// the other way round. They are of one size, so nothing but the whole tar's digest tells.
func crossed(t *testing.T, names [2]string, contents [2]string) (blob []byte, toc *manifest.TOCRef, diffID digest.Digest) {
	t.Helper()
	var raw, out bytes.Buffer
	tw := tar.NewWriter(&raw)
	for i, name := range names {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(contents[i]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(contents[i])); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	diffID = digest.FromBytes(raw.Bytes())
	w, err := chunked.Compress(&out, &raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	blob, ref := out.Bytes(), *w.TOC
	dec, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	doc, err := dec.DecodeAll(blob[ref.TOC.Off:ref.TOC.End()], nil)
	if err != nil {
		t.Fatal(err)
	}
	doc = crossEntries(t, doc)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(doc, nil)
	blob = binary.LittleEndian.AppendUint32(blob, 0x184D2A50) // a frame that a decompressor skips
	blob = binary.LittleEndian.AppendUint32(blob, uint32(len(packed)))
	ref.TOC = manifest.Range{Off: int64(len(blob)), Len: int64(len(packed))}
	ref.Digest, ref.TOCRawLen = digest.FromBytes(packed), int64(len(doc))
	return append(blob, packed...), &ref, diffID
}

// crossEntries gives each of the two entries of a TOC the content of the other.
func crossEntries(t *testing.T, doc []byte) []byte {
	t.Helper()
	var toc map[string]json.RawMessage
	var entries []map[string]json.RawMessage
	decode(t, doc, &toc)
	decode(t, toc["entries"], &entries)
	if len(entries) != 2 {
		t.Fatalf("entries: %s", doc)
	}
	for _, key := range []string{"digest", "offset", "endOffset", "chunkDigest"} {
		a, b := entries[0][key], entries[1][key]
		if a != nil && b != nil {
			entries[0][key], entries[1][key] = b, a
		}
	}
	toc["entries"] = encode(t, entries)
	return encode(t, toc)
}

// publishCrossed puts a crossed layer on top of an honest image without a sentinel, under two tags, and returns the
// layer's digest.
func (l *lab) publishCrossed(repo, on string, tags ...string) digest.Digest {
	l.t.Helper()
	im := l.image(repo, on)
	blob, toc, diffID := crossed(l.t, [2]string{"liar/one", "liar/two"}, [2]string{"one\n", "two\n"})
	layer := l.putBytes(repo, v1.MediaTypeImageLayerZstd, blob)
	layer.Annotations = toc.Annotations()
	im.config.RootFS.DiffIDs = append(im.config.RootFS.DiffIDs, diffID)
	im.config.History = append(im.config.History, v1.History{CreatedBy: "crossed"})
	im.manifest.Config = l.putBlob(repo, v1.MediaTypeImageConfig, im.config)
	im.manifest.Layers = append(im.manifest.Layers, layer)
	for _, tag := range tags {
		l.putManifest(repo, tag, v1.MediaTypeImageManifest, im.manifest)
	}
	return layer.Digest
}

// ask has treelist in a container list a directory, and returns the error that it met.
func ask(t *testing.T, h *harness.Held, dir string) (rows []trees.Row, failed string) {
	t.Helper()
	if _, err := h.In.Write([]byte(dir + "\n")); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for {
		line, err := h.Out.ReadString('\n')
		switch {
		case err != nil:
			t.Fatalf("list %s in the container: %q, %v", dir, line, err)
		case line == "ok\n":
			return readRows(t, out.String()), ""
		case !strings.HasPrefix(line, "{"):
			return nil, line
		}
		out.WriteString(line)
	}
}

// With unbound = "verify" an image whose TOC is not its tar runs at once. When the comparison has failed, the container
// gets EIO for all that it reads, the log names it, and containerd can neither pull nor run the image again: not in this
// namespace, not in another one, not after a restart of the daemon.
func TestUnboundDenied(t *testing.T) { // threat 1
	harness.Need(t)
	l := newLab(t, &harness.Options{Serve: true, Config: backgroundOff + "unbound = \"verify\"\nunverified_chains = true\n"})
	l.convert(writeImage(t, mkimage.File("/honest/file", []byte("honest\n"))), "gzip", "none", "image:honest")
	liar := l.publishCrossed("image", "honest", "liar", "again")
	open := make(chan struct{})
	l.front.Add(front.Rule{Path: liar.String(), Ranged: true, Skip: 1, Do: front.Gate(0, open)}) // all but the TOC
	ref := l.pull("image:liar")
	for _, d := range l.image("image", "liar").manifest.Layers {
		if slices.Contains(l.contents(), d.Digest) {
			t.Errorf("not lazy: containerd holds layer %s", d.Digest)
		}
	}
	program := filepath.Join(t.TempDir(), "treelist")
	if err := harness.Build("./integration/trees/cmd/treelist", program); err != nil {
		t.Fatal(err)
	}
	h, err := l.Hold(t.Context(), harness.Container{Snapshotter: "tocsin", Image: ref, Args: []string{"/treelist", "-"},
		Flags: []string{"--mount", "type=bind,src=" + program + ",dst=/treelist,options=rbind:ro"}})
	if err != nil {
		t.Fatal(err)
	}
	if rows, failed := ask(t, h, "/honest"); failed != "" || len(rows) != 2 {
		t.Errorf("before the comparison: %+v, %s", rows, failed)
	}
	close(open)
	l.logged("running=[" + l.Namespace + "/" + h.ID + "]")
	for _, dir := range []string{"/honest", "/liar"} {
		if rows, failed := ask(t, h, dir); !strings.Contains(failed, "input/output error") {
			t.Errorf("%s of the denied image: %+v, %q, want EIO", dir, rows, failed)
		}
	}
	l.refused()
	if err := h.End(); err != nil {
		t.Error(err)
	}
	l.restartServe()
	l.refused()
	if said := l.fails("run", "--rm", "--snapshotter", "tocsin", ref, "refused", "/treelist", "-"); !strings.Contains(said, "is denied") {
		t.Errorf("a container of the denied image: %s", said)
	}
	l.removeAll(ref)
	l.refused()
}

// refused wants no namespace to get a denied image by another name.
func (l *lab) refused() {
	l.t.Helper()
	again := l.far + "/image:again"
	for _, ns := range []string{l.Namespace, l.Namespace + "-other"} {
		said := l.fails("-n", ns, "images", "pull", "--plain-http", "--snapshotter", "tocsin", again)
		if !strings.Contains(said, "does not match its diffID") {
			l.t.Errorf("%s: %s", ns, said)
		}
		if names := l.ctr("-n", ns, "images", "ls", "-q"); strings.Contains(names, again) {
			l.t.Errorf("%s: images:\n%s", ns, names)
		}
	}
}
