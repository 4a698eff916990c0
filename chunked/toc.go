package chunked

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// frameHeader is the length of a skippable frame's header, which lies before what a position points at.
const frameHeader = 8

// ParseTOC verifies and parses a TOC and holds all of it in memory; IndexTOC does not. Nothing of compressed is looked at
// before its digest was compared with ref's. A TOC that does not say of each file, once, what it is and where it lies is
// refused with ErrMalformed, or ErrTooBig where a limit says so, and so is what BuildIndex refuses; wrong bytes are
// ErrDigestMismatch. blobSize bounds the chunks when it is not negative.
func ParseTOC(compressed []byte, ref *manifest.TOCRef, blobSize int64) (*TOC, error) {
	p := newTOCParser(nil, ref, blobSize)
	p.keep = true
	if err := p.read(compressed, ref); err != nil {
		return nil, fmt.Errorf("TOC %s: %w", ref.Digest, err)
	}
	return p.toc, nil
}

// IndexTOC verifies a TOC as ParseTOC does and returns its layer index as BuildIndex does, in the memory of ws, with the
// digest of the compressed tar-split; empty: none. One entry is held at a time. Errors that wrap neither ErrMalformed
// nor ErrTooBig nor ErrDigestMismatch are those of ws and say nothing about the TOC.
func IndexTOC(ws *Workspace, compressed []byte, ref *manifest.TOCRef, blobSize int64) (index []byte, tarSplit digest.Digest, err error) {
	p := newTOCParser(ws, ref, blobSize)
	if err = p.read(compressed, ref); err == nil {
		index, err = p.b.Finish()
	}
	if err != nil {
		return nil, "", fmt.Errorf("TOC %s: %w", ref.Digest, err)
	}
	return index, p.toc.TarSplitDigest, nil
}

func (p *tocParser) read(compressed []byte, ref *manifest.TOCRef) error {
	if int64(len(compressed)) > manifest.MaxTOCSize || ref.TOCRawLen > manifest.MaxTOCRaw {
		return tooBig("%d bytes, %d uncompressed", len(compressed), ref.TOCRawLen)
	}
	if err := checkDigest(compressed, ref.Digest); err != nil {
		return err
	}
	raw, err := newBoundedReader(compressed, ref.TOCRawLen)
	if err != nil {
		return err
	}
	defer raw.Close()
	if err := p.parse(&scanner{r: raw, ws: p.b.ws}); err != nil {
		return err
	}
	return p.finish()
}

// checkDigest compares bytes from outside with the digest that names them.
func checkDigest(b []byte, want digest.Digest) error {
	if err := want.Validate(); err != nil {
		return malformed("digest %q: %v", string(want), err)
	}
	if got := want.Algorithm().FromBytes(b); got != want {
		return fmt.Errorf("%w: got %s", ErrDigestMismatch, got)
	}
	return nil
}

// inputError makes sure that whatever went wrong with input is one of this package's errors.
func inputError(err error) error {
	if errors.Is(err, ErrMalformed) || errors.Is(err, ErrTooBig) || errors.Is(err, ErrDigestMismatch) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrMalformed, err)
}

// boundedReader decompresses, and fails after limit bytes.
type boundedReader struct {
	*zstd.Decoder
	left int64
}

func newBoundedReader(compressed []byte, limit int64) (*boundedReader, error) {
	dec, err := zstd.NewReader(bytes.NewReader(compressed), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxStreamWindow))
	if err != nil {
		return nil, inputError(err)
	}
	return &boundedReader{dec, limit}, nil
}

func (r *boundedReader) Read(p []byte) (int, error) {
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1]
	}
	n, err := r.Decoder.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, malformed("more uncompressed bytes than claimed")
	}
	return n, err
}

// wireEntry is one element of "entries" (spec/zstd-chunked.md 1.4), read and written. Written, it is as containers/storage
// has it: same fields, same order, zero values left out.
type wireEntry struct {
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

// parse reads the document; what only the whole of it can show is left to finish.
func (p *tocParser) parse(s *scanner) error {
	if _, err := s.take("{"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for sep := byte(','); sep == ','; {
		if c, err := s.peek(); err == nil && c != '"' {
			return malformed("%q instead of a key", c)
		}
		var key string
		if err := s.decode(&key); err != nil {
			return err
		}
		if key = strings.ToLower(key); seen[key] { // encoding/json folds case too
			return malformed("%q given twice", key)
		}
		seen[key] = true
		if _, err := s.take(":"); err != nil {
			return err
		}
		if err := p.parseField(s, key); err != nil {
			return err
		}
		var err error
		if sep, err = s.take(",}"); err != nil {
			return err
		}
	}
	return p.parseEnd(s)
}

// parseEnd reads what follows the document.
func (p *tocParser) parseEnd(s *scanner) error {
	if _, err := s.peek(); err != io.EOF {
		return cmp.Or(err, malformed("data after the document"))
	}
	if p.version != 1 {
		return malformed("version %d", p.version)
	}
	return nil
}

func (p *tocParser) parseField(s *scanner, key string) error {
	switch key {
	case "version":
		return s.decode(&p.version)
	case "tarsplitdigest":
		if err := s.decode(&p.toc.TarSplitDigest); err != nil {
			return err
		}
		if d := p.toc.TarSplitDigest; d != "" {
			if err := d.Validate(); err != nil {
				return malformed("tarSplitDigest %.100q: %v", string(d), err)
			}
		}
		return nil
	case "entries":
		return p.parseEntries(s)
	}
	var ignored json.RawMessage
	return s.decode(&ignored)
}

func (p *tocParser) parseEntries(s *scanner) error {
	if c, err := s.peek(); err == nil && c == 'n' {
		var null *struct{} // how containers/storage spells the entries of an empty tar
		return s.decode(&null)
	}
	if _, err := s.take("["); err != nil {
		return err
	}
	if c, err := s.peek(); err == nil && c == ']' {
		s.at++
		return nil
	}
	var e wireEntry
	var plain plainEntries
	for sep := byte(','); sep == ','; {
		if err := s.entry(&plain, &e); err != nil {
			return err
		}
		if err := p.add(&e); err != nil {
			return fmt.Errorf("entry %d: %w", p.count-1, err)
		}
		var err error
		if sep, err = s.take(",]"); err != nil {
			return err
		}
	}
	return nil
}
