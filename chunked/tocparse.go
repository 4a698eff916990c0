package chunked

import (
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// tocParser checks the entries of a TOC one by one and merges the chunks into their files.
type tocParser struct {
	toc     *TOC
	version int
	count   int
	limit   int64           // chunks end at or before this offset of the blob
	names   map[string]bool // clean names so far; true: a regular file, or a hardlink to one
	alg     digest.Algorithm
	zeros   map[int64]digest.Digest // lengths of the chunks of zeros
	chunks  int
	room    []Chunk // for the chunks of files to come

	file    []rawChunk // of the last entry if it is a file with content
	fileEnd int64      // its endOffset; 0: not given
	open    int        // entry whose last chunk ends at the next offset given; -1: none
}

// rawChunk is a chunk as it was given.
type rawChunk struct {
	Chunk
	offset int64
}

func newTOCParser(ref *manifest.TOCRef, blobSize int64) *tocParser {
	limit := ref.TOC.Off
	if ref.TarSplit.Len > 0 {
		limit = min(limit, ref.TarSplit.Off)
	}
	if limit -= frameHeader; blobSize >= 0 {
		limit = min(limit, blobSize)
	}
	return &tocParser{toc: &TOC{}, limit: limit, names: map[string]bool{}, zeros: map[int64]digest.Digest{}, open: -1}
}

func (p *tocParser) add(e *wireEntry) error {
	if p.count++; p.count > MaxEntries+MaxChunks {
		return tooBig("more than %d entries and chunks", MaxEntries+MaxChunks)
	}
	if e.Mode < 0 || e.Size < 0 || e.UID < 0 || e.GID < 0 || e.DevMajor < 0 || e.DevMinor < 0 ||
		e.Offset < 0 || e.EndOffset < 0 || e.ChunkSize < 0 || e.ChunkOffset < 0 {
		return malformed("%q has a negative number", e.Name)
	}
	if e.ChunkType != "" && e.ChunkType != "zeros" {
		return malformed("%q has chunk type %q", e.Name, e.ChunkType)
	}
	if e.Type == typeChunk {
		return p.addChunk(e)
	}
	if err := p.endFile(); err != nil {
		return err
	}
	if p.open >= 0 && e.Offset > 0 {
		if err := p.close(e.Offset); err != nil {
			return err
		}
	}
	if len(p.toc.Entries) >= MaxEntries {
		return tooBig("more than %d entries", MaxEntries)
	}
	if err := p.addName(e); err != nil {
		return err
	}
	p.toc.Entries = append(p.toc.Entries, Entry{
		Type: e.Type, Name: e.Name, LinkName: e.LinkName, Mode: e.Mode, Size: e.Size, UID: e.UID, GID: e.GID,
		ModTime: e.ModTime, AccessTime: e.AccessTime, ChangeTime: e.ChangeTime,
		DevMajor: e.DevMajor, DevMinor: e.DevMinor, Xattrs: e.Xattrs,
	})
	if e.Type == TypeReg {
		return p.startFile(e)
	}
	return nil
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

// addName checks type and name, and what a hardlink points at.
func (p *tocParser) addName(e *wireEntry) error {
	name, err := CleanName(e.Name)
	if err != nil {
		return err
	}
	if e.Name == "" || name == "" && e.Type != TypeDir {
		return malformed("a %s with the name %q", e.Type, e.Name)
	}
	if _, twice := p.names[name]; twice {
		return strictly("%q is named twice", e.Name)
	}
	file := false
	switch e.Type {
	case TypeReg:
		file = true
	case TypeHardlink:
		target, err := CleanName(e.LinkName)
		if err != nil {
			return err
		}
		if file = p.names[target]; !file {
			return strictly("hardlink %q to %q, which is no file before it", e.Name, e.LinkName)
		}
	case TypeDir, TypeSymlink, TypeChar, TypeBlock, TypeFifo:
	default:
		return malformed("%q has unknown type %q", e.Name, e.Type)
	}
	p.names[name] = file
	return nil
}

// checkDigest holds every digest of a layer to the algorithm of the first.
func (p *tocParser) checkDigest(name string, d digest.Digest) error {
	if p.alg == "" && knownAlgorithm(d) {
		p.alg = d.Algorithm()
	}
	if p.alg == "" || !validDigest(d, p.alg) {
		return malformed("%q has digest %.150q in a layer of %q", name, string(d), p.alg)
	}
	return nil
}

// startFile takes the content that the reg entry itself speaks of.
func (p *tocParser) startFile(e *wireEntry) error {
	file := &p.toc.Entries[len(p.toc.Entries)-1]
	if e.Digest != "" {
		if err := p.checkDigest(e.Name, e.Digest); err != nil {
			return err
		}
	}
	if e.Size == 0 {
		if e.Digest != "" && e.Digest != e.Digest.Algorithm().FromBytes(nil) || e.ChunkSize != 0 {
			return malformed("%q is empty but has content", e.Name)
		}
		return nil
	}
	if e.Digest == "" {
		return malformed("%q has no digest", e.Name)
	}
	file.Digest = e.Digest
	p.fileEnd = e.EndOffset
	return p.takeChunk(file, e)
}

func (p *tocParser) addChunk(e *wireEntry) error {
	if len(p.file) == 0 {
		return malformed("chunk of %q without its file", e.Name)
	}
	file := &p.toc.Entries[len(p.toc.Entries)-1]
	if e.Name != file.Name {
		return malformed("chunk of %q after %q", e.Name, file.Name)
	}
	return p.takeChunk(file, e)
}

// takeChunk checks one chunk against those before it.
func (p *tocParser) takeChunk(file *Entry, e *wireEntry) error {
	c := rawChunk{Chunk{Off: e.ChunkOffset, Size: e.ChunkSize, Digest: e.ChunkDigest, Zeros: e.ChunkType == "zeros"}, e.Offset}
	off, from := int64(0), int64(0)
	if n := len(p.file); n > 0 {
		off, from = p.file[n-1].End(), p.file[n-1].offset
	}
	if c.Size == 0 {
		c.Size = file.Size - off
	}
	if c.Off != off || c.Size <= 0 || c.Size > file.Size-off || c.offset < from {
		return malformed("%q has a chunk of %d bytes at %d, blob offset %d", file.Name, c.Size, c.Off, c.offset)
	}
	if c.Size == file.Size { // the only one
		if c.Digest == "" {
			c.Digest = file.Digest
		} else if c.Digest != file.Digest {
			return malformed("%q has one chunk with another digest", file.Name)
		}
	} else if err := p.checkDigest(file.Name, c.Digest); err != nil {
		return err
	}
	if c.Zeros {
		if old, ok := p.zeros[c.Size]; ok && old != c.Digest {
			return malformed("%q: %d zeros have two digests", file.Name, c.Size)
		}
		p.zeros[c.Size] = c.Digest
		if c.Size > MaxZeros {
			return tooBig("%q has %d zeros", file.Name, c.Size)
		}
	} else if c.Size > MaxChunkSize {
		return tooBig("%q has a chunk of %d bytes", file.Name, c.Size)
	}
	p.file = append(p.file, c)
	return nil
}

// endFile gives the last entry, if it is a file with content, its chunks.
func (p *tocParser) endFile() error {
	if len(p.file) == 0 {
		return nil
	}
	entry := len(p.toc.Entries) - 1
	file := &p.toc.Entries[entry]
	last := len(p.file) - 1
	if p.file[last].End() != file.Size {
		return malformed("%q has %d bytes in chunks, not %d", file.Name, p.file[last].End(), file.Size)
	}
	if p.chunks += len(p.file); p.chunks > MaxChunks {
		return tooBig("more than %d chunks", MaxChunks)
	}
	file.Chunks = p.newChunks(len(p.file))
	for i, c := range p.file {
		file.Chunks[i] = c.Chunk
		file.Chunks[i].Blob.Off = c.offset
		if i < last {
			if err := setEnd(file, i, p.file[i+1].offset); err != nil {
				return err
			}
		}
	}
	p.open = entry
	end := p.fileEnd
	p.file, p.fileEnd = p.file[:0], 0
	if end == 0 {
		return nil // where the next offset is
	}
	return p.close(end)
}

// newChunks returns room for n chunks, cut from a larger piece.
func (p *tocParser) newChunks(n int) []Chunk {
	if n > len(p.room) {
		p.room = make([]Chunk, max(n, 1024))
	}
	chunks := p.room[:n:n]
	p.room = p.room[n:]
	return chunks
}

// reserve makes room for as many entries as there will be if all of the document looks like its first done bytes.
func (p *tocParser) reserve(done, size int64) {
	n := int64(len(p.toc.Entries))
	if n < int64(cap(p.toc.Entries)) || n < 100 {
		return
	}
	all := float64(n) * float64(size) / float64(done) * 1.02
	p.toc.Entries = slices.Grow(p.toc.Entries, int(min(all, MaxEntries))-int(n)+100)
}

// close ends the last chunk of the file that waits for it.
func (p *tocParser) close(end int64) error {
	file := &p.toc.Entries[p.open]
	p.open = -1
	if end > p.limit {
		return malformed("%q ends at %d, behind the data", file.Name, end)
	}
	return setEnd(file, len(file.Chunks)-1, end)
}

// setEnd computes the range in the blob of chunk i, which began at Blob.Off.
func setEnd(file *Entry, i int, end int64) error {
	c := &file.Chunks[i]
	c.Blob.Len = end - c.Blob.Off
	if c.Blob.Len < 0 || c.Blob.Len == 0 && !c.Zeros {
		return malformed("%q has a chunk at blob offsets %d to %d", file.Name, c.Blob.Off, end)
	}
	if c.Zeros {
		c.Blob = Range{}
	}
	return nil
}

// finish does what needs the whole document.
func (p *tocParser) finish() error {
	if err := p.endFile(); err != nil {
		return err
	}
	if p.open >= 0 {
		if err := p.close(p.limit); err != nil {
			return err
		}
	}
	p.toc.Entries = slices.Clip(p.toc.Entries)
	return p.checkZeros()
}

// checkZeros hashes as many zeros as the longest chunk of them has, once, and compares all on the way.
func (p *tocParser) checkZeros() error {
	if len(p.zeros) == 0 {
		return nil
	}
	h := p.alg.Hash()
	buf := make([]byte, 64<<10)
	done := int64(0)
	for _, size := range slices.Sorted(maps.Keys(p.zeros)) {
		for done < size {
			n := min(size-done, int64(len(buf)))
			h.Write(buf[:n])
			done += n
		}
		if got := digest.NewDigest(p.alg, h); got != p.zeros[size] {
			return fmt.Errorf("%w: %d zeros are %s, not %s", ErrDigestMismatch, size, got, p.zeros[size])
		}
	}
	return nil
}
