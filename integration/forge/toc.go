package forge

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// Wire is one element of a TOC's "entries": a path, or one more chunk of it.
type Wire struct {
	Type        string            `json:"type"`
	Name        string            `json:"name"`
	LinkName    string            `json:"linkName,omitempty"`
	Mode        int64             `json:"mode,omitempty"`
	Size        int64             `json:"size,omitempty"`
	UID         int               `json:"uid,omitempty"`
	GID         int               `json:"gid,omitempty"`
	ModTime     time.Time         `json:"modtime,omitzero"`
	AccessTime  time.Time         `json:"accesstime,omitzero"`
	ChangeTime  time.Time         `json:"changetime,omitzero"`
	DevMajor    int64             `json:"devMajor,omitempty"`
	DevMinor    int64             `json:"devMinor,omitempty"`
	Xattrs      map[string][]byte `json:"xattrs,omitempty"`
	Digest      digest.Digest     `json:"digest,omitempty"`
	Offset      int64             `json:"offset,omitempty"`
	EndOffset   int64             `json:"endOffset,omitempty"`
	ChunkSize   int64             `json:"chunkSize,omitempty"`
	ChunkOffset int64             `json:"chunkOffset,omitempty"`
	ChunkDigest digest.Digest     `json:"chunkDigest,omitempty"`
	ChunkType   string            `json:"chunkType,omitempty"`
}

// Entry is one path of a TOC.
type Entry struct {
	Wire
	// Content is what the entry shows. Size, digests, chunks and offsets of a "reg" entry follow from it.
	Content []byte
	// Edit, if not nil, gets the finished lines of the entry, its chunks included, and returns those that are written.
	Edit func(lines []Wire) []Wire
}

// Entries returns what an honest TOC says of a tar: one entry for each header that archive/tar reads, with the content
// that it reads. Global headers have none.
func Entries(raw []byte) ([]Entry, error) {
	var entries []Entry
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, fmt.Errorf("forge: TOC of a tar: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		e := Entry{Wire: wireOf(h)}
		if e.Type == "reg" {
			if e.Content, err = io.ReadAll(tr); err != nil {
				return nil, fmt.Errorf("forge: content of %q: %w", h.Name, err)
			}
		}
		entries = append(entries, e)
	}
}

func wireOf(h *tar.Header) Wire {
	w := Wire{
		Type: typeName(h.Typeflag), Name: h.Name, LinkName: h.Linkname, Mode: h.Mode, UID: h.Uid, GID: h.Gid,
		ModTime: h.ModTime.UTC(), DevMajor: h.Devmajor, DevMinor: h.Devminor,
	}
	if !h.AccessTime.IsZero() {
		w.AccessTime = h.AccessTime.UTC()
	}
	if !h.ChangeTime.IsZero() {
		w.ChangeTime = h.ChangeTime.UTC()
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if w.Xattrs == nil {
				w.Xattrs = map[string][]byte{}
			}
			w.Xattrs[name] = []byte(value)
		}
	}
	return w
}

// typeName is the TOC's word for a type of tar header; a type that a TOC does not know keeps its letter.
func typeName(flag byte) string {
	switch flag {
	case tar.TypeReg, tar.TypeGNUSparse, '7':
		return "reg"
	case tar.TypeDir:
		return "dir"
	case tar.TypeSymlink:
		return "symlink"
	case tar.TypeLink:
		return "hardlink"
	case tar.TypeChar:
		return "char"
	case tar.TypeBlock:
		return "block"
	case tar.TypeFifo:
		return "fifo"
	}
	return string(rune(flag))
}

// lines returns the elements of "entries" for e, whose chunks are at places.
func (e *Entry) lines(alg digest.Algorithm, chunks [][]byte, places []manifest.Range) []Wire {
	first := e.Wire
	if e.Type == "reg" && len(chunks) > 0 {
		first.Size, first.Digest = int64(len(e.Content)), alg.FromBytes(e.Content)
	}
	lines := []Wire{first}
	off := int64(0)
	for i, chunk := range chunks {
		if i > 0 {
			lines = append(lines, Wire{Type: "chunk", Name: e.Name})
		}
		line := &lines[i]
		line.Offset = places[i].Off
		if len(chunks) > 1 {
			line.ChunkSize, line.ChunkOffset, line.ChunkDigest = int64(len(chunk)), off, alg.FromBytes(chunk)
			if len(chunk) >= minHole && len(bytes.Trim(chunk, "\x00")) == 0 {
				line.ChunkType = "zeros"
			}
		}
		off += int64(len(chunk))
	}
	if len(chunks) > 0 {
		lines[0].EndOffset = places[len(places)-1].End()
	}
	if e.Edit != nil {
		lines = e.Edit(lines)
	}
	return lines
}

// minHole is the length from which a chunk of zeros is said to be one.
const minHole = 1024

// cut returns content in chunks of at most size bytes.
func cut(content []byte, size int) [][]byte { return slices.Collect(slices.Chunk(content, size)) }

// document is the JSON of a TOC.
type document struct {
	Version        int           `json:"version"`
	Entries        []Wire        `json:"entries"`
	TarSplitDigest digest.Digest `json:"tarSplitDigest,omitempty"`
}

func (d *document) json() ([]byte, error) {
	raw, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("forge: TOC: %w", err)
	}
	return raw, nil
}
