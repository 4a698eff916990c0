package forge

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Layer is what a zstd:chunked layer says, in each of the places where it says it. Its zero value is an empty layer that
// contradicts itself in nothing.
type Layer struct {
	Tar   Tar     // what the frames decompress to
	TOC   []Entry // in the order of the JSON
	Split []Line  // nil: no tar-split at all

	Algorithm digest.Algorithm // of files, chunks, TOC, tar-split and blob; "": sha256
	DiffID    digest.Algorithm // of the tar; "": sha256
	ChunkSize int              // at which content is cut; 0: 64 KiB
	Hidden    [][]byte         // payloads of further skippable frames, behind the data

	EditTOC        func(json []byte) []byte
	EditSplit      func(lines []byte) []byte
	EditRef        func(*manifest.TOCRef)
	EditDescriptor func(*v1.Descriptor)
}

// New returns the honest layer of a tar that has these members.
func New(members ...Member) (*Layer, error) { return Of(Tar{Members: members}) }

// Of is New for a tar with an end of its own. A tar that archive/tar cannot read has no honest layer, which is an error;
// a Layer of it is put together from the parts that are wanted.
func Of(t Tar) (*Layer, error) {
	l := &Layer{Tar: t}
	raw, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	if l.TOC, err = Entries(raw); err != nil {
		return nil, err
	}
	l.Split, err = SplitOf(&t)
	return l, err
}

// Entry returns the first entry of a name, with or without a slash behind it. It panics if there is none.
func (l *Layer) Entry(name string) *Entry {
	for i := range l.TOC {
		if path.Clean(l.TOC[i].Name) == path.Clean(name) {
			return &l.TOC[i]
		}
	}
	panic(fmt.Sprintf("forge: no entry %q", name))
}

// Line returns the first line of the tar-split that is of a file of that name. It panics if there is none.
func (l *Layer) Line(name string) *Line {
	for i := range l.Split {
		if l.Split[i].GetName() == name {
			return &l.Split[i]
		}
	}
	panic(fmt.Sprintf("forge: no line %q", name))
}

// Blob is a layer as it is published.
type Blob struct {
	Bytes      []byte
	Descriptor v1.Descriptor    // with the annotations
	TOC        *manifest.TOCRef // what the annotations say
	Tar        []byte           // what the frames decompress to
	DiffID     digest.Digest    // of Tar
}

// Write returns the blob of l: the tar frame by frame, hidden content, TOC, tar-split and footer.
func (l *Layer) Write() (*Blob, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("forge: %w", err)
	}
	w := &writer{layer: l, enc: enc, alg: l.Algorithm, chunk: l.ChunkSize, places: map[string][]manifest.Range{}}
	if w.alg == "" {
		w.alg = digest.SHA256
	}
	if w.chunk == 0 {
		w.chunk = 64 << 10
	}
	return w.write()
}

// writer writes one blob.
type writer struct {
	layer  *Layer
	enc    *zstd.Encoder
	alg    digest.Algorithm
	chunk  int
	out    []byte
	places map[string][]manifest.Range // of the chunks of a content
}

func (w *writer) write() (*Blob, error) {
	parts, err := w.layer.Tar.parts()
	if err != nil {
		return nil, err
	}
	var raw bytes.Buffer
	for _, p := range parts {
		raw.Write(p.bytes)
		if p.member == nil {
			w.frame(p.bytes)
		} else {
			w.content(p.bytes)
		}
	}
	w.hidden()
	for _, payload := range w.layer.Hidden {
		w.skippable(payload)
	}
	ref, err := w.tables()
	if err != nil {
		return nil, err
	}
	return w.blob(raw.Bytes(), ref), nil
}

// frame appends b as one frame and returns where it is.
func (w *writer) frame(b []byte) manifest.Range {
	at := len(w.out)
	w.out = w.enc.EncodeAll(b, w.out)
	return manifest.Range{Off: int64(at), Len: int64(len(w.out) - at)}
}

// content appends a file chunk by chunk.
func (w *writer) content(b []byte) {
	var places []manifest.Range
	for _, chunk := range cut(b, w.chunk) {
		places = append(places, w.frame(chunk))
	}
	if _, twice := w.places[string(b)]; !twice {
		w.places[string(b)] = places
	}
}

// hidden appends what the TOC shows and the tar has not, in a frame that is skipped.
func (w *writer) hidden() {
	var at int
	for i := range w.layer.TOC {
		e := &w.layer.TOC[i]
		if _, there := w.places[string(e.Content)]; there || len(e.Content) == 0 {
			continue
		}
		if at == 0 {
			w.skippable(nil)
			at = len(w.out)
		}
		w.content(e.Content)
	}
	if at > 0 {
		binary.LittleEndian.PutUint32(w.out[at-4:], uint32(len(w.out)-at))
	}
}

// skippable appends a frame that decoders skip, and returns where its payload is.
func (w *writer) skippable(payload []byte) manifest.Range {
	w.out = binary.LittleEndian.AppendUint32(w.out, 0x184D2A50)
	w.out = binary.LittleEndian.AppendUint32(w.out, uint32(len(payload)))
	at := len(w.out)
	w.out = append(w.out, payload...)
	return manifest.Range{Off: int64(at), Len: int64(len(payload))}
}

// tables appends TOC, tar-split and footer.
func (w *writer) tables() (*manifest.TOCRef, error) {
	doc := document{Version: 1, Entries: []Wire{}}
	split, splitRaw, err := w.split()
	if err != nil {
		return nil, err
	}
	if split != nil {
		doc.TarSplitDigest = w.alg.FromBytes(split)
	}
	for i := range w.layer.TOC {
		e := &w.layer.TOC[i]
		doc.Entries = append(doc.Entries, e.lines(w.alg, cut(e.Content, w.chunk), w.places[string(e.Content)])...)
	}
	toc, err := doc.json()
	if err != nil {
		return nil, err
	}
	if w.layer.EditTOC != nil {
		toc = w.layer.EditTOC(toc)
	}
	packed := w.enc.EncodeAll(toc, nil)
	ref := &manifest.TOCRef{Digest: w.alg.FromBytes(packed), TOC: w.skippable(packed), TOCRawLen: int64(len(toc)), Dialect: manifest.DialectContainers}
	if split != nil {
		ref.TarSplit, ref.TarSplitRawLen = w.skippable(split), splitRaw
	}
	if w.layer.EditRef != nil {
		w.layer.EditRef(ref)
	}
	w.skippable(footer(ref))
	return ref, nil
}

// split returns the compressed tar-split, nil if there is none.
func (w *writer) split() (packed []byte, raw int64, err error) {
	if w.layer.Split == nil {
		return nil, 0, nil
	}
	lines, err := numbered(w.layer.Split)
	if err != nil {
		return nil, 0, err
	}
	if w.layer.EditSplit != nil {
		lines = w.layer.EditSplit(lines)
	}
	return w.enc.EncodeAll(lines, nil), int64(len(lines)), nil
}

func footer(ref *manifest.TOCRef) []byte {
	var b []byte
	for _, n := range []int64{ref.TOC.Off, ref.TOC.Len, ref.TOCRawLen, 1, ref.TarSplit.Off, ref.TarSplit.Len, ref.TarSplitRawLen} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n))
	}
	return append(b, "GNUlInUx"...)
}

func (w *writer) blob(raw []byte, ref *manifest.TOCRef) *Blob {
	diff := w.layer.DiffID
	if diff == "" {
		diff = digest.SHA256
	}
	b := &Blob{Bytes: w.out, TOC: ref, Tar: raw, DiffID: diff.FromBytes(raw)}
	b.Descriptor = v1.Descriptor{
		MediaType: v1.MediaTypeImageLayerZstd, Digest: w.alg.FromBytes(b.Bytes), Size: int64(len(b.Bytes)), Annotations: ref.Annotations(),
	}
	if w.layer.EditDescriptor != nil {
		w.layer.EditDescriptor(&b.Descriptor)
	}
	return b
}
