package chunked

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/storage"

	"github.com/tocsin/tocsin/manifest"
)

// TarSplit is everything of a tar that is not file content: what its headers and padding were, byte for byte, and where
// files go between them. It is kept as it came and decompressed, within its limit, each time it is read. Safe for
// concurrent use.
type TarSplit struct {
	b     []byte
	limit int64 // uncompressed
}

// ParseTarSplit returns the tar-split in compressed, whose digest must be want: the TOC's TarSplitDigest. An empty want
// is ErrNoTarSplit. Whether the uncompressed form is sound and at most rawLen bytes long shows when it is used.
func ParseTarSplit(compressed []byte, want digest.Digest, rawLen int64) (*TarSplit, error) {
	if want == "" {
		return nil, fmt.Errorf("TOC without the digest of its tar-split: %w", ErrNoTarSplit)
	}
	if int64(len(compressed)) > manifest.MaxTarSplitSize || rawLen > manifest.MaxTarSplitRaw {
		return nil, fmt.Errorf("tar-split %s: %w", want, tooBig("%d bytes, %d uncompressed", len(compressed), rawLen))
	}
	if err := checkDigest(compressed, want); err != nil {
		return nil, fmt.Errorf("tar-split %s: %w", want, err)
	}
	if !bytes.HasPrefix(compressed, []byte(zstdMagic)) {
		return nil, fmt.Errorf("tar-split %s: %w", want, malformed("no zstd frame"))
	}
	return &TarSplit{compressed, rawLen}, nil
}

const zstdMagic = "\x28\xb5\x2f\xfd"

// NewTarSplit returns a tar-split that this machine kept: what Bytes returned, or the uncompressed JSON lines. It keeps b.
func NewTarSplit(b []byte) *TarSplit { return &TarSplit{b, manifest.MaxTarSplitRaw} }

// Bytes returns the form to keep at rest, which NewTarSplit takes back: as small as it came. It must not be changed.
func (t *TarSplit) Bytes() []byte { return t.b }

// Raw returns the uncompressed JSON lines.
func (t *TarSplit) Raw() ([]byte, error) {
	r, err := t.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("tar-split: %w", inputError(err))
	}
	return raw, nil
}

func (t *TarSplit) open() (io.ReadCloser, error) {
	if bytes.HasPrefix(t.b, []byte(zstdMagic)) {
		r, err := newBoundedReader(t.b, t.limit)
		if err != nil {
			return nil, fmt.Errorf("tar-split: %w", err)
		}
		return struct {
			io.Reader
			io.Closer
		}{r, r.IOReadCloser()}, nil
	}
	if int64(len(t.b)) > t.limit {
		return nil, fmt.Errorf("tar-split: %w", tooBig("%d bytes", len(t.b)))
	}
	return io.NopCloser(bytes.NewReader(t.b)), nil
}

// splitScanner yields the lines of a tar-split. A scanned payload is valid until the next call.
type splitScanner struct {
	r       *bufio.Reader
	c       io.Closer
	long    []byte // a line that does not fit r's buffer
	payload []byte
}

func (t *TarSplit) scan() (*splitScanner, error) {
	r, err := t.open()
	if err != nil {
		return nil, err
	}
	return &splitScanner{r: bufio.NewReaderSize(r, 64<<10), c: r}, nil
}

// next returns the next line, io.EOF after the last.
func (s *splitScanner) next() (e storage.Entry, err error) {
	for {
		line, err := s.line()
		if err != nil {
			return e, err
		}
		if line = bytes.TrimSpace(line); len(line) > 0 {
			return s.parse(line)
		}
	}
}

func (s *splitScanner) line() ([]byte, error) {
	line, err := s.r.ReadSlice('\n')
	if err == nil || err == io.EOF && len(line) > 0 {
		return line, nil
	}
	s.long = s.long[:0]
	for errors.Is(err, bufio.ErrBufferFull) {
		if s.long = append(s.long, line...); len(s.long) > maxSplitLine {
			return nil, tooBig("a line of more than %d bytes", maxSplitLine)
		}
		line, err = s.r.ReadSlice('\n')
	}
	if s.long = append(s.long, line...); len(s.long) > 0 && (err == nil || err == io.EOF) {
		return s.long, nil
	}
	if err == io.EOF {
		return nil, err
	}
	return nil, inputError(err)
}

// parse reads one line. Segments, which are nearly all of the bytes, and files are recognised by how every known writer
// spells them; anything else goes to encoding/json.
func (s *splitScanner) parse(line []byte) (e storage.Entry, err error) {
	if rest, ok := bytes.CutPrefix(line, []byte(`{"type":2,"payload":"`)); ok {
		if end := bytes.IndexByte(rest, '"'); end >= 0 && bytes.HasPrefix(rest[end:], []byte(`","position":`)) {
			s.payload, err = base64.StdEncoding.AppendDecode(s.payload[:0], rest[:end])
			if err == nil {
				return storage.Entry{Type: storage.SegmentType, Payload: s.payload}, nil
			}
		}
	}
	if s.plainFile(line, &e) {
		return e, nil
	}
	e = storage.Entry{}
	if err := json.Unmarshal(line, &e); err != nil {
		return e, inputError(err)
	}
	if e.Size < 0 || e.Type != storage.SegmentType && e.Type != storage.FileType {
		return e, malformed("line of type %d, size %d", e.Type, e.Size)
	}
	return e, nil
}

// plainFile reads the line of a file whose name is ASCII; e is undefined when it is something else.
func (s *splitScanner) plainFile(line []byte, e *storage.Entry) bool {
	c := cursor{b: line}
	if !c.word(`{"type":1,"name":`) {
		return false
	}
	name, ok := c.text()
	if !ok || c.word(`,"size":`) && !c.number(&e.Size) || !c.word(`,"payload":`) {
		return false
	}
	if !c.word("null") {
		payload, ok := c.text()
		if !ok {
			return false
		}
		var err error
		if s.payload, err = base64.StdEncoding.AppendDecode(s.payload[:0], payload); err != nil {
			return false
		}
		e.Payload = s.payload
	}
	e.Type, e.Name = storage.FileType, string(name)
	var position int64
	return c.word(`,"position":`) && c.number(&position) && c.word("}") && c.at == len(line)
}

func (s *splitScanner) close() { s.c.Close() }
