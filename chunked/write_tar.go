package chunked

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/vbatts/tar-split/archive/tar"
)

// maxHeader bounds the bytes of the tar that go between the contents of two files, or follow the last: a header with all
// its extensions, or the end and what is padded to it. Such a run is one piece of the tar-split and so held in memory.
const maxHeader = 4 << 20

// windowSize is how much content of a file the splitter looks at at once.
const windowSize = 1 << 20

// maxZerosWritten is the longest chunk of zeros that is written, well under what ParseTOC takes.
const maxZerosWritten = 1 << 30

// splitter takes a tar apart: into headers, and contents cut into chunks.
//
// The headers are parsed by tar-split's fork of archive/tar, because that is what every reader compares a TOC with. The
// exact bytes do not depend on it: all it reads goes through the recorder below it, and what is not content is header.
type splitter struct {
	rec  *recorder
	tar  *tar.Reader
	tree *IndexBuilder // what a reader would make of the entries, to refuse early what it would refuse
	scan *tarScanner   // of the headers, to refuse what another reader would take apart differently
	out  *batch
	next func(full *batch) (*batch, error) // hands on a batch, returns an empty one
	win  []byte
}

func newSplitter(ws *Workspace, r io.Reader, next func(full *batch) (*batch, error)) *splitter {
	rec := &recorder{r: bufio.NewReaderSize(r, 64<<10), on: true}
	tree := newStrictBuilder(ws)
	return &splitter{
		rec: rec, tar: tar.NewReader(rec), next: next,
		tree: tree, scan: newTarScanner(), win: make([]byte, 0, windowSize),
	}
}

// run splits the whole tar. All batches but the last, unfinished one were given to next; that one is in s.out.
func (s *splitter) run() error {
	var err error
	if s.out, err = s.next(nil); err != nil {
		return err
	}
	for n := 0; ; n++ {
		hdr, err := s.tar.Next()
		if errors.Is(err, io.EOF) {
			return s.end(n)
		}
		if err != nil {
			return s.broken(err)
		}
		if err := s.file(hdr); err != nil {
			return err
		}
	}
}

// broken says what a failure to read the next header means.
func (s *splitter) broken(err error) error {
	if s.rec.err != nil {
		return s.rec.err
	}
	return fmt.Errorf("read tar: %w: %w", ErrMalformed, err)
}

// file takes one header and the content that follows it.
func (s *splitter) file(hdr *tar.Header) error {
	e, err := s.entry(hdr)
	if err != nil {
		return fmt.Errorf("tar entry %q: %w", hdr.Name, err)
	}
	if err := s.header(e); err != nil {
		return err
	}
	s.rec.on = false
	defer func() { s.rec.on = true }()
	return s.content(e)
}

// entry checks that hdr can be said in a TOC and returns how.
func (s *splitter) entry(hdr *tar.Header) (*wireEntry, error) {
	e, err := newWireEntry(hdr)
	if err != nil {
		return nil, err
	}
	name, err := CleanName(hdr.Name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsayable, err)
	}
	if e.Size > 0 && hasMarker(name) {
		return nil, unsayable("whiteout with content")
	}
	if err := s.tree.Add(e.withoutContent()); err != nil {
		return nil, refusedByReaders(err)
	}
	return e, nil
}

// refusedByReaders returns the error for a tar whose TOC would be refused with err.
func refusedByReaders(err error) error {
	switch {
	case errors.Is(err, ErrPathTwice):
		return fmt.Errorf("%w: %w", ErrUnsayable, ErrPathTwice)
	case errors.Is(err, ErrMalformed), errors.Is(err, ErrTooBig):
		return unsayable("%v", err)
	}
	return err // the workspace's
}

// header hands on what was recorded since the last content; e is nil for the end of the tar.
func (s *splitter) header(e *wireEntry) error {
	raw := s.rec.take()
	err := s.scan.bytes(raw)
	if err == nil && e != nil {
		err = s.scan.content(e.Name, e.Size)
	}
	if err != nil {
		return err
	}
	return s.put(raw, item{entry: e})
}

// content reads and cuts the content of e.
func (s *splitter) content(e *wireEntry) error {
	var off, begin int64 // in the file; begin of an unfinished chunk of zeros
	win, pending := s.win[:0], false
	for off < e.Size {
		if len(win) < cutAhead && int64(len(win)) < e.Size-off {
			var err error
			if win, err = s.refill(win, e.Size-off); err != nil {
				return fmt.Errorf("tar entry %q: read content: %w", e.Name, err)
			}
		}
		n, zeros := leadingZeros(win), true
		if !pending {
			begin = off
			n, zeros = cutChunk(win)
		}
		it := item{entry: e, content: true, zeros: zeros}
		if zeros {
			n = min(n, int(zerosLimit(begin)-(off-begin)))
		}
		off += int64(n)
		pending = zeros && n == len(win) && off < e.Size && off-begin < zerosLimit(begin)
		if !pending {
			it.size = off - begin
		}
		it.final = off == e.Size
		it.whole = it.final && n == int(e.Size)
		if err := s.put(win[:n], it); err != nil {
			return err
		}
		win = win[n:]
	}
	return nil
}

// zerosLimit returns how long a chunk of zeros that begins at off may be. The first chunk of a file is kept short: a file
// that is all zeros and one chunk is spelled as data, which nobody should have to decode in one piece.
func zerosLimit(begin int64) int64 {
	if begin == 0 {
		return maxChunk
	}
	return maxZerosWritten
}

// refill moves what is left in the window to its start and reads behind it, as far as the file and the window go.
func (s *splitter) refill(left []byte, rest int64) ([]byte, error) {
	n := copy(s.win[:cap(s.win)], left)
	win := s.win[:min(rest, int64(cap(s.win)))]
	if _, err := io.ReadFull(s.tar, win[n:]); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if s.rec.err != nil {
			return nil, s.rec.err
		}
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return win, nil
}

// put appends raw to the batch as it, and hands the batch on when it is full.
func (s *splitter) put(raw []byte, it item) error {
	it.from = len(s.out.raw)
	s.out.raw = append(s.out.raw, raw...)
	it.to = len(s.out.raw)
	s.out.items = append(s.out.items, it)
	if len(s.out.raw) < batchSize {
		return nil
	}
	var err error
	s.out, err = s.next(s.out)
	return err
}

// end takes what follows the last of n entries: its padding, the end mark, and anything behind that. It is one piece,
// so that nobody looks for a header in it.
func (s *splitter) end(n int) error {
	if _, err := io.Copy(io.Discard, s.rec); err != nil {
		return s.broken(err)
	}
	if n == 0 && len(s.rec.buf) == 0 {
		return unsayable("no bytes at all")
	}
	if len(s.rec.buf) > 0 {
		if err := s.header(nil); err != nil {
			return err
		}
	}
	return s.scan.end()
}

// recorder passes a tar through and keeps what was read while it is on.
type recorder struct {
	r   io.Reader
	on  bool
	buf []byte
	err error // of r, or too much recorded
}

// Read implements io.Reader.
func (r *recorder) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if r.on {
		r.buf = append(r.buf, p[:n]...)
		if len(r.buf) > maxHeader {
			err = unsayable("over %d bytes between two files, or after the last", maxHeader)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// take returns what was recorded since it was last called, good until the next read.
func (r *recorder) take() []byte {
	b := r.buf
	r.buf = r.buf[:0]
	return b
}

// unsayable returns an error that wraps ErrUnsayable.
func unsayable(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrUnsayable, fmt.Sprintf(format, args...))
}

// sayable returns nil if a TOC can say hdr and a strict reader takes it (spec/zstd-chunked.md 1.6).
func sayable(hdr *tar.Header) error {
	for k := range hdr.PAXRecords {
		switch {
		case strings.HasPrefix(k, "GNU.sparse."):
			return unsayable("sparse file")
		case !utf8.ValidString(k) && strings.HasPrefix(k, paxXattr):
			return unsayable("name of xattr %q is not UTF-8", k)
		case k == paxXattr:
			return unsayable("xattr without a name")
		}
	}
	switch {
	case !utf8.ValidString(hdr.Name) || !utf8.ValidString(hdr.Linkname):
		return unsayable("name is not UTF-8")
	case hdr.Mode < 0 || hdr.Uid < 0 || hdr.Gid < 0 || hdr.Devmajor < 0 || hdr.Devminor < 0:
		return unsayable("negative mode, owner or device number")
	case hdr.Size != 0 && hdr.Typeflag != tar.TypeReg:
		return unsayable("size %d of what is no regular file", hdr.Size)
	}
	return nil
}

// hasMarker reports whether a component of a clean name is a whiteout or another of its kind.
func hasMarker(name string) bool {
	return strings.HasPrefix(name, whiteoutPrefix) || strings.Contains(name, "/"+whiteoutPrefix)
}
