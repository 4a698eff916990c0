package chunked

import (
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// tocParser checks the entries of a TOC one by one, merges the chunks into their files, and gives each to a builder. It
// holds one entry; what is known of a chunk only later, where it ends in the blob, is handed in later.
type tocParser struct {
	b       *IndexBuilder
	toc     *TOC // what the document says beside the entries
	keep    bool // the entries are kept in toc too
	version int
	count   int   // entries and chunks
	limit   int64 // chunks end at or before this offset of the blob

	entry Entry    // the last one
	file  tocFile  // its content, if it is a file with some
	open  tocChunk // the chunk whose end in the blob is not known yet
}

// tocFile is a file whose chunks are being read.
type tocFile struct {
	reading bool
	off     int64 // in the file, where the next chunk begins
	from    int64 // in the blob, where the last one did
	end     int64 // its endOffset; 0: not given
}

// tocChunk is a chunk that ends where the next offset says.
type tocChunk struct {
	waiting bool
	chunk   Chunk
	number  int32  // in the builder; -1: it knows the content already
	kept    *Chunk // in the TOC that is kept
}

func newTOCParser(ws *Workspace, ref *manifest.TOCRef, blobSize int64) *tocParser {
	limit := ref.TOC.Off
	if ref.TarSplit.Len > 0 {
		limit = min(limit, ref.TarSplit.Off)
	}
	if limit -= frameHeader; blobSize >= 0 {
		limit = min(limit, blobSize)
	}
	return &tocParser{b: newStrictBuilder(ws), toc: &TOC{}, limit: limit}
}

func (p *tocParser) add(e *wireEntry) error {
	if p.count++; p.count > MaxEntries+MaxChunks {
		return tooBig("more than %d entries and chunks", MaxEntries+MaxChunks)
	}
	if e.Mode < 0 || e.Size < 0 || e.UID < 0 || e.GID < 0 || e.DevMajor < 0 || e.DevMinor < 0 ||
		e.Offset < 0 || e.EndOffset < 0 || e.ChunkSize < 0 || e.ChunkOffset < 0 {
		return malformed("%.256q has a negative number", e.Name)
	}
	if e.ChunkType != "" && e.ChunkType != "zeros" {
		return malformed("%.256q has chunk type %.100q", e.Name, e.ChunkType)
	}
	if e.Type == typeChunk {
		return p.addChunk(e)
	}
	if err := p.endFile(); err != nil {
		return err
	}
	if e.Offset > 0 {
		if err := p.close(e.Offset); err != nil {
			return err
		}
	}
	if e.Name == "" {
		return malformed("a %.100q without a name", e.Type)
	}
	p.entry = Entry{
		Type: e.Type, Name: e.Name, LinkName: e.LinkName, Mode: e.Mode, Size: e.Size, UID: e.UID, GID: e.GID,
		ModTime: e.ModTime, AccessTime: e.AccessTime, ChangeTime: e.ChangeTime,
		DevMajor: e.DevMajor, DevMinor: e.DevMinor, Xattrs: e.Xattrs,
	}
	if e.Type == TypeReg {
		return p.startFile(e)
	}
	return p.build(0)
}

// build gives the last entry to the builder. Object is the number of its content, plus one.
func (p *tocParser) build(object uint32) error {
	if p.keep {
		p.toc.Entries = append(p.toc.Entries, p.entry)
	}
	return p.b.add(&p.entry, object)
}

// internType returns t, as the constant if it is a known type.
func internType(t []byte) string {
	for _, c := range [...]string{TypeReg, typeChunk, TypeDir, TypeSymlink, TypeHardlink, TypeChar, TypeBlock, TypeFifo} {
		if string(t) == c {
			return c
		}
	}
	return string(t)
}

// checkDigest holds every digest of a layer to the algorithm of the first.
func (p *tocParser) checkDigest(name string, d digest.Digest) error {
	if !p.b.content.use(d) {
		return malformed("%.256q has digest %.150q in a layer of %q", name, string(d), p.b.content.alg)
	}
	return nil
}

// startFile takes the content that the reg entry itself speaks of.
func (p *tocParser) startFile(e *wireEntry) error {
	if e.Digest != "" {
		if err := p.checkDigest(e.Name, e.Digest); err != nil {
			return err
		}
	}
	if e.Size == 0 {
		if e.Digest != "" && e.Digest != e.Digest.Algorithm().FromBytes(nil) || e.ChunkSize != 0 {
			return malformed("%.256q is empty but has content", e.Name)
		}
		return p.build(0)
	}
	if e.Digest == "" {
		return malformed("%.256q has no digest", e.Name)
	}
	p.entry.Digest = e.Digest
	p.file = tocFile{reading: true, end: e.EndOffset}
	p.b.content.begin()
	return p.takeChunk(e)
}

func (p *tocParser) addChunk(e *wireEntry) error {
	if !p.file.reading {
		return malformed("chunk of %.256q without its file", e.Name)
	}
	if e.Name != p.entry.Name {
		return malformed("chunk of %.256q after %.256q", e.Name, p.entry.Name)
	}
	return p.takeChunk(e)
}

// takeChunk checks one chunk against those before it. It ends the one before.
func (p *tocParser) takeChunk(e *wireEntry) error {
	f, size := &p.file, p.entry.Size
	c := Chunk{Off: e.ChunkOffset, Size: e.ChunkSize, Digest: e.ChunkDigest, Zeros: e.ChunkType == "zeros"}
	if c.Size == 0 {
		c.Size = size - f.off
	}
	if c.Off != f.off || c.Size <= 0 || c.Size > size-f.off || e.Offset < f.from {
		return malformed("%.256q has a chunk of %d bytes at %d, blob offset %d", e.Name, c.Size, c.Off, e.Offset)
	}
	if c.Size == size { // the only one
		if c.Digest == "" {
			c.Digest = p.entry.Digest
		} else if c.Digest != p.entry.Digest {
			return malformed("%.256q has one chunk with another digest", e.Name)
		}
	} else if err := p.checkDigest(e.Name, c.Digest); err != nil {
		return err
	}
	if c.Zeros && c.Size > MaxZeros {
		return tooBig("%.256q has %d zeros", e.Name, c.Size)
	}
	if !c.Zeros && c.Size > MaxChunkSize {
		return tooBig("%.256q has a chunk of %d bytes", e.Name, c.Size)
	}
	if f.off > 0 {
		if err := p.close(e.Offset); err != nil {
			return err
		}
	}
	f.off, f.from = c.End(), e.Offset
	if !c.Zeros {
		c.Blob.Off = e.Offset
	}
	return p.openChunk(c, e.Offset)
}

// openChunk adds a chunk whose end in the blob is not known yet.
func (p *tocParser) openChunk(c Chunk, from int64) error {
	n, err := p.b.content.chunk(&c)
	if err != nil {
		return err
	}
	p.open = tocChunk{waiting: true, chunk: c, number: n}
	p.open.chunk.Blob.Off = from
	if p.keep {
		p.entry.Chunks = append(p.entry.Chunks, c)
		p.open.kept = &p.entry.Chunks[len(p.entry.Chunks)-1]
	}
	return nil
}

// endFile gives the last entry, if it is a file with content, to the builder.
func (p *tocParser) endFile() error {
	if !p.file.reading {
		return nil
	}
	f := p.file
	p.file = tocFile{}
	if f.off != p.entry.Size {
		return malformed("%.256q has %d bytes in chunks, not %d", p.entry.Name, f.off, p.entry.Size)
	}
	object, fresh, err := p.b.content.end(p.entry.Digest, p.entry.Size)
	if err != nil {
		return err
	}
	if !fresh {
		p.open.number = -1
	}
	if err := p.build(object); err != nil {
		return err
	}
	if f.end == 0 {
		return nil // where the next offset is
	}
	return p.close(f.end)
}

// close ends the chunk that waits for it.
func (p *tocParser) close(end int64) error {
	if !p.open.waiting {
		return nil
	}
	p.open.waiting = false
	c := p.open.chunk
	if end > p.limit {
		return malformed("a chunk ends at %d of the blob, behind the data", end)
	}
	n := end - c.Blob.Off
	if n < 0 || n == 0 && !c.Zeros {
		return malformed("a chunk at blob offsets %d to %d", c.Blob.Off, end)
	}
	if c.Zeros {
		return nil
	}
	n = min(n, maxFrames(c.Size))
	if p.open.kept != nil {
		p.open.kept.Blob.Len = n
	}
	if p.open.number >= 0 {
		p.b.content.setLen(p.open.number, n)
	}
	return nil
}

// maxFrames bounds the bytes of a blob that are read for a chunk of size bytes. A place may be longer: the chunk's frames
// begin it, and headers or whatever comes before the next file may follow them.
func maxFrames(size int64) int64 { return size + size/16 + 64<<10 }

// finish does what needs the whole document.
func (p *tocParser) finish() error {
	if err := p.endFile(); err != nil {
		return err
	}
	if err := p.close(p.limit); err != nil {
		return err
	}
	if err := p.b.content.checkPlaces(p.limit); err != nil {
		return err
	}
	return p.b.content.checkZeros()
}
