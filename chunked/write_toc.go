package chunked

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/archive/tar"
	"github.com/vbatts/tar-split/tar/storage"

	"github.com/tocsin/tocsin/manifest"
)

// paxXattr is the prefix of the PAX records that hold extended attributes.
const paxXattr = "SCHILY.xattr."

// wireType returns what a TOC calls a type of tar entry.
func wireType(flag byte) (string, bool) {
	switch flag {
	case tar.TypeReg:
		return TypeReg, true
	case tar.TypeDir:
		return TypeDir, true
	case tar.TypeSymlink:
		return TypeSymlink, true
	case tar.TypeLink:
		return TypeHardlink, true
	case tar.TypeChar:
		return TypeChar, true
	case tar.TypeBlock:
		return TypeBlock, true
	case tar.TypeFifo:
		return TypeFifo, true
	}
	return "", false
}

// newWireEntry says hdr as a TOC does, without what describes content. ErrUnsayable if there is no way.
func newWireEntry(hdr *tar.Header) (*wireEntry, error) {
	typ, ok := wireType(hdr.Typeflag)
	if !ok {
		return nil, unsayable("entry of type %q", hdr.Typeflag)
	}
	if err := sayable(hdr); err != nil {
		return nil, err
	}
	e := &wireEntry{
		Type: typ, Name: hdr.Name, LinkName: hdr.Linkname, Mode: hdr.Mode, Size: hdr.Size,
		UID: hdr.Uid, GID: hdr.Gid, DevMajor: hdr.Devmajor, DevMinor: hdr.Devminor,
	}
	for k, v := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(k, paxXattr); ok {
			if e.Xattrs == nil {
				e.Xattrs = make(map[string][]byte)
			}
			e.Xattrs[name] = []byte(v)
		}
	}
	for _, t := range []struct {
		to   *time.Time
		from time.Time
	}{{&e.ModTime, hdr.ModTime}, {&e.AccessTime, hdr.AccessTime}, {&e.ChangeTime, hdr.ChangeTime}} {
		if t.from.IsZero() {
			continue
		}
		utc := t.from.UTC()
		if y := utc.Year(); y < 0 || y > 9999 {
			return nil, unsayable("time in the year %d", y)
		}
		*t.to = utc
	}
	return e, nil
}

// withoutContent returns e as an Entry of an empty file, if it is a file.
func (e *wireEntry) withoutContent() Entry {
	return Entry{
		Type: e.Type, Name: e.Name, LinkName: e.LinkName, Mode: e.Mode, UID: e.UID, GID: e.GID,
		DevMajor: e.DevMajor, DevMinor: e.DevMinor, Xattrs: e.Xattrs,
	}
}

// lines returns the elements of "entries" that say e with these chunks, whose places are in the blob. A file that is one
// chunk has no chunk fields; else each chunk ends where the next one begins, and the last one at EndOffset.
func (e *wireEntry) lines(chunks []Chunk) []wireEntry {
	if len(chunks) == 0 {
		return []wireEntry{*e}
	}
	lines := make([]wireEntry, len(chunks))
	for i, c := range chunks {
		line := &lines[i]
		if *line = (wireEntry{Type: typeChunk, Name: e.Name}); i == 0 {
			*line = *e
			line.EndOffset = chunks[len(chunks)-1].Blob.End()
		}
		line.Offset = c.Blob.Off
		if len(chunks) == 1 {
			continue
		}
		line.ChunkSize, line.ChunkOffset, line.ChunkDigest = c.Size, c.Off, c.Digest
		if c.Zeros {
			line.ChunkType = "zeros"
		}
	}
	if len(chunks) == 1 {
		lines[0].Digest = chunks[0].Digest
	}
	return lines
}

// zstdBuffer compresses into memory and counts what goes in, up to a limit.
type zstdBuffer struct {
	name     string // in errors
	limit    int64  // of the compressed bytes
	rawLimit int64
	raw      int64
	buf      bytes.Buffer
	enc      *zstd.Encoder
}

func newZstdBuffer(name string, limit, rawLimit int64) (*zstdBuffer, error) {
	z := &zstdBuffer{name: name, limit: limit, rawLimit: rawLimit}
	var err error
	z.enc, err = zstd.NewWriter(&z.buf, zstd.WithEncoderConcurrency(1))
	return z, err
}

// Write implements io.Writer. ErrTooBig past the limit.
func (z *zstdBuffer) Write(p []byte) (int, error) {
	if z.raw += int64(len(p)); z.raw > z.rawLimit {
		return 0, fmt.Errorf("write %s: %w: over %d bytes", z.name, ErrTooBig, z.rawLimit)
	}
	return z.enc.Write(p)
}

// finish returns the compressed bytes. ErrTooBig past their limit.
func (z *zstdBuffer) finish() ([]byte, error) {
	if err := z.enc.Close(); err != nil {
		return nil, fmt.Errorf("compress %s: %w", z.name, err)
	}
	if int64(z.buf.Len()) > z.limit {
		return nil, fmt.Errorf("write %s: %w: %d bytes compressed", z.name, ErrTooBig, z.buf.Len())
	}
	return z.buf.Bytes(), nil
}

// tocWriter writes the JSON of a TOC as its entries become known.
type tocWriter struct {
	z     *zstdBuffer
	lines int
}

func newTOCWriter() (*tocWriter, error) {
	z, err := newZstdBuffer("TOC", manifest.MaxTOCSize, manifest.MaxTOCSize)
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(z, `{"version":1,"entries":[`)
	return &tocWriter{z: z}, err
}

func (t *tocWriter) add(lines []wireEntry) error {
	for i := range lines {
		j, err := json.Marshal(&lines[i])
		if err != nil {
			return fmt.Errorf("TOC entry %q: %w", lines[i].Name, err)
		}
		if t.lines++; t.lines > 1 {
			j = append([]byte{','}, j...)
		}
		if t.lines > MaxEntries {
			return fmt.Errorf("write TOC: %w: over %d entries and chunks", ErrTooBig, MaxEntries)
		}
		if _, err := t.z.Write(j); err != nil {
			return err
		}
	}
	return nil
}

// finish ends the JSON with the digest of the tar-split and returns the compressed TOC.
func (t *tocWriter) finish(split digest.Digest) ([]byte, error) {
	if _, err := fmt.Fprintf(t.z, `],"tarSplitDigest":%q}`, split); err != nil {
		return nil, err
	}
	return t.z.finish()
}

// splitWriter writes a tar-split.
type splitWriter struct {
	z    *zstdBuffer
	pack storage.Packer
}

func newSplitWriter() (*splitWriter, error) {
	z, err := newZstdBuffer("tar-split", manifest.MaxTarSplitSize, manifest.MaxTarSplitRaw)
	if err != nil {
		return nil, err
	}
	return &splitWriter{z: z, pack: storage.NewJSONPacker(z)}, nil
}

// segment adds bytes that are no content of a file.
func (s *splitWriter) segment(raw []byte) error {
	_, err := s.pack.AddEntry(storage.Entry{Type: storage.SegmentType, Payload: raw})
	return err
}

// file adds the place of a file's content, which may be none.
func (s *splitWriter) file(name string, size int64, crc []byte) error {
	_, err := s.pack.AddEntry(storage.Entry{Type: storage.FileType, Name: name, Size: size, Payload: crc})
	return err
}
