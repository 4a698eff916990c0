package registry

import (
	"bufio"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/tocsin/tocsin/manifest"
)

// errShape: an answer to a range is not shaped as such; also ErrBadAnswer. Unlike the rest of those it is worth another
// try, because caches in front of registries answer so in passing.
var errShape = fmt.Errorf("%w to a range", ErrBadAnswer)

// segment is a stretch of a blob as a server sends it: claimed to start at off, length bytes long.
type segment struct {
	manifest.Range
	body io.Reader // exactly Len bytes, or an error before
}

// segments gives the stretches of one answer; io.EOF after the last.
type segments interface {
	next() (*segment, error)
}

// parseContentRange reads "bytes a-b/total" of a blob of size bytes. A total of "*" is accepted; anything else that
// does not fit is ErrBadAnswer.
func parseContentRange(s string, size int64) (manifest.Range, error) {
	bad := func(why string) (manifest.Range, error) {
		return manifest.Range{}, fmt.Errorf("%w: Content-Range %.100q: %s", errShape, s, why)
	}
	unit, rest, ok := strings.Cut(strings.TrimSpace(s), " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return bad("unit is not bytes")
	}
	span, total, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		return bad("no total")
	}
	if n, err := parseOffset(total); total != "*" && (err != nil || n != size) {
		return bad(fmt.Sprintf("the blob has %d bytes", size))
	}
	first, last, ok := strings.Cut(span, "-")
	a, err := parseOffset(first)
	b, err2 := parseOffset(last)
	if !ok || err != nil || err2 != nil || b < a || b >= size {
		return bad("no stretch of the blob")
	}
	return manifest.Range{Off: a, Len: b - a + 1}, nil
}

// parseOffset is strict where strconv takes signs.
func parseOffset(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err
}

// segmentsOf reads the shape of a 200 or 206 answer about a blob of size bytes.
func segmentsOf(resp *http.Response, size int64) (segments, error) {
	if resp.StatusCode == http.StatusOK {
		if resp.ContentLength >= 0 && resp.ContentLength != size {
			return nil, fmt.Errorf("%w: %d bytes, the blob has %d", errShape, resp.ContentLength, size)
		}
		return &oneSegment{&segment{manifest.Range{Off: 0, Len: size}, &exactReader{resp.Body, size}}}, nil
	}
	mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	if strings.EqualFold(strings.TrimSpace(mediaType), "multipart/byteranges") {
		return &multipartSegments{r: bufio.NewReaderSize(resp.Body, 32<<10), size: size, boundary: boundaryOf(resp.Header.Get("Content-Type"))}, nil
	}
	at, err := parseContentRange(resp.Header.Get("Content-Range"), size)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength >= 0 && resp.ContentLength != at.Len {
		return nil, fmt.Errorf("%w: %d bytes for a Content-Range of %d", errShape, resp.ContentLength, at.Len)
	}
	return &oneSegment{&segment{at, &exactReader{resp.Body, at.Len}}}, nil
}

// boundaryOf reads the boundary where mime can; "" where a server sends it without the quotes it would need. The
// parts' own lengths are what separates them, so the boundary only serves to notice a stream out of step.
func boundaryOf(contentType string) string {
	_, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	return params["boundary"]
}

type oneSegment struct{ s *segment }

func (o *oneSegment) next() (*segment, error) {
	if o.s == nil {
		return nil, io.EOF
	}
	s := o.s
	o.s = nil
	return s, nil
}

// multipartSegments reads multipart/byteranges. Part bodies are as long as their Content-Range says and are never
// searched for the boundary: they may contain it.
type multipartSegments struct {
	r        *bufio.Reader
	size     int64
	boundary string // "": the first delimiter says it
	current  *exactReader
	at       int64 // the end of the current part
}

// The bounds of what stands between two parts.
const (
	maxPartLine  = 1 << 10
	maxPartLines = 32
)

func (m *multipartSegments) next() (*segment, error) {
	if m.current != nil {
		if _, err := io.Copy(io.Discard, m.current); err != nil {
			return nil, err
		}
	}
	end, err := m.delimiter()
	if err != nil {
		return nil, err
	}
	if end {
		return nil, io.EOF
	}
	at, err := m.header()
	if err != nil {
		return nil, err
	}
	if at.Off < m.at { // in order and apart, there cannot be more of them than the blob is long
		return nil, fmt.Errorf("%w: a part at %d after one that ends at %d", errShape, at.Off, m.at)
	}
	m.at = at.End()
	m.current = &exactReader{m.r, at.Len}
	return &segment{at, m.current}, nil
}

// delimiter reads up to a line that starts a part, or the one that ends the answer. Empty lines may come before.
func (m *multipartSegments) delimiter() (end bool, err error) {
	line := ""
	for i := 0; line == ""; i++ {
		if i > 4 {
			return false, fmt.Errorf("%w: no boundary between parts", errShape)
		}
		if line, err = m.line(); err != nil {
			return false, err
		}
	}
	rest, ok := strings.CutPrefix(line, "--")
	if ok && m.boundary == "" && rest != "" {
		m.boundary = rest
		return false, nil
	}
	switch {
	case ok && rest == m.boundary:
		return false, nil
	case ok && rest == m.boundary+"--":
		return true, nil
	}
	return false, fmt.Errorf("%w: %.100q between parts", errShape, line)
}

func (m *multipartSegments) header() (at manifest.Range, err error) {
	found := false
	for range maxPartLines {
		line, err := m.line()
		if err != nil {
			return at, err
		}
		if line == "" {
			if !found {
				return at, fmt.Errorf("%w: a part without Content-Range", errShape)
			}
			return at, nil
		}
		name, value, _ := strings.Cut(line, ":")
		if !strings.EqualFold(strings.TrimSpace(name), "Content-Range") {
			continue
		}
		if found {
			return at, fmt.Errorf("%w: a part with two Content-Ranges", errShape)
		}
		if at, err = parseContentRange(value, m.size); err != nil {
			return at, err
		}
		found = true
	}
	return at, fmt.Errorf("%w: a part with too many header lines", errShape)
}

// line reads one line without its end and trailing space, bounded by the buffer.
func (m *multipartSegments) line() (string, error) {
	b, err := m.r.ReadSlice('\n')
	switch {
	case err == io.EOF && len(b) == 0:
		return "", io.ErrUnexpectedEOF
	case err == io.EOF: // the last delimiter needs no end of line
	case err == bufio.ErrBufferFull:
		return "", fmt.Errorf("%w: a line of a part is too long", errShape)
	case err != nil:
		return "", err
	}
	if len(b) > maxPartLine {
		return "", fmt.Errorf("%w: a line of a part is too long", errShape)
	}
	return strings.TrimRight(string(b), " \t\r\n"), nil
}

// exactReader reads n bytes; an earlier end is io.ErrUnexpectedEOF, a later one is not looked at.
type exactReader struct {
	r io.Reader
	n int64
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > e.n {
		p = p[:e.n]
	}
	n, err := e.r.Read(p)
	e.n -= int64(n)
	switch {
	case e.n == 0:
		err = nil // what follows is the next part's, or nobody's
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
