package chunked

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"
)

// This file reads the JSON of a TOC: hundreds of megabytes that all look alike. Entries as the known writers spell them
// are read here; every other value is handed to encoding/json, which has the last word on what is well-formed.

// scanAhead is how much of a document is read at once. An entry that does not end in what was read goes the slow way.
const scanAhead = 256 << 10

// scanner cuts a JSON document into its values and the punctuation between them.
type scanner struct {
	r    io.Reader
	ws   *Workspace
	buf  []byte // read, from at on not yet taken
	at   int
	done int64 // bytes taken and dropped from buf
	err  error // of r, after buf
}

// offset returns how many bytes of the document were taken.
func (s *scanner) offset() int64 { return s.done + int64(s.at) }

// more reads on. What was taken is dropped, so slices of buf are good until the next call.
func (s *scanner) more() error {
	if s.err != nil {
		return s.err
	}
	if err := s.ws.stopped(); err != nil {
		return err
	}
	left := len(s.buf) - s.at
	if s.at > 0 {
		s.done += int64(s.at)
		copy(s.buf, s.buf[s.at:])
		s.at, s.buf = 0, s.buf[:left]
	}
	if cap(s.buf)-left < scanAhead {
		s.buf = append(make([]byte, 0, 2*left+2*scanAhead), s.buf...)
	}
	n, err := s.r.Read(s.buf[left : left+scanAhead])
	if err != nil && err != io.EOF {
		err = inputError(err)
	}
	s.buf, s.err = s.buf[:left+n], err
	return nil
}

// peek returns the next byte that is not white space.
func (s *scanner) peek() (byte, error) {
	for {
		for ; s.at < len(s.buf); s.at++ {
			if c := s.buf[s.at]; c != ' ' && c != '\t' && c != '\n' && c != '\r' {
				return c, nil
			}
		}
		if err := s.more(); err != nil {
			return 0, err
		}
	}
}

// take consumes the next byte that is not white space, which must be one of those wanted.
func (s *scanner) take(wanted string) (byte, error) {
	c, err := s.peek()
	if err != nil {
		return 0, unexpected(err)
	}
	if strings.IndexByte(wanted, c) < 0 {
		return 0, malformed("%q at offset %d", c, s.offset())
	}
	s.at++
	return c, nil
}

// value consumes one value of whatever kind and returns where it stands. That it is well-formed is for the caller to
// find out; if it is, it ends here.
func (s *scanner) value() ([]byte, error) {
	if _, err := s.peek(); err != nil {
		return nil, unexpected(err)
	}
	depth, quoted := 0, false
	for i := 0; ; i++ {
		if i > maxJSONValue {
			return nil, tooBig("a value of more than %d bytes at offset %d", maxJSONValue, s.offset())
		}
		for s.at+i >= len(s.buf) {
			if err := s.more(); err != nil {
				return nil, unexpected(err)
			}
		}
		c, end := s.buf[s.at+i], i+1
		switch {
		case quoted && c == '\\':
			i++ // whatever is escaped is no end
			continue
		case c == '"':
			quoted = !quoted
		case quoted:
			continue
		case c == '{' || c == '[':
			depth++
		case depth > 0 && (c == '}' || c == ']'):
			depth--
		case depth == 0 && strings.IndexByte(",:}] \t\n\r", c) >= 0:
			end = i // of a number or a word; of nothing at all, which is no value
		default:
			continue
		}
		if depth == 0 && !quoted {
			v := s.buf[s.at : s.at+end]
			s.at += end
			return v, nil
		}
	}
}

// decode consumes one value as encoding/json understands it.
func (s *scanner) decode(to any) error {
	v, err := s.value()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(v, to); err != nil {
		return inputError(err)
	}
	return nil
}

// entry consumes one element of "entries".
func (s *scanner) entry(p *plainEntries, e *wireEntry) error {
	if _, err := s.peek(); err != nil {
		return unexpected(err)
	}
	if n := p.read(s.buf[s.at:], e); n > 0 {
		s.at += n
		return nil
	}
	*e = wireEntry{}
	return s.decode(e)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return malformed("%v", io.ErrUnexpectedEOF)
	}
	return err
}

// plainEntries reads entries that are spelled plainly: no white space, known keys in their own case and once each, text
// of ASCII without escapes, numbers that are not negative. Strings are cut from shared blocks of memory.
type plainEntries struct {
	block strings.Builder
	name  string // of the last entry, which chunks repeat
	times [3]struct {
		text []byte
		time time.Time
	}
}

// read returns how long the entry at the start of b is; 0 if it is not plain or not whole, and then e is undefined.
func (p *plainEntries) read(b []byte, e *wireEntry) int {
	*e = wireEntry{}
	c := cursor{b: b}
	seen := uint32(0)
	for sep := byte('{'); c.byte(sep); sep = ',' {
		bit := p.field(&c, e)
		if bit == 0 || seen&bit != 0 {
			return 0
		}
		if seen |= bit; c.byte('}') {
			return c.at
		}
	}
	return 0
}

// field reads one key and its value. It returns a bit that stands for the key, 0 if either is not plain.
func (p *plainEntries) field(c *cursor, e *wireEntry) uint32 {
	key, ok := c.text()
	if !ok || !c.byte(':') {
		return 0
	}
	bit := uint32(0)
	switch string(key) {
	case "type":
		bit, ok = 1, p.typ(c, &e.Type)
	case "name":
		bit, ok = 1<<1, p.entryName(c, &e.Name)
	case "linkName":
		bit, ok = 1<<2, p.string(c, &e.LinkName)
	case "mode":
		bit, ok = 1<<3, c.number(&e.Mode)
	case "size":
		bit, ok = 1<<4, c.number(&e.Size)
	case "uid":
		bit, ok = 1<<5, c.int(&e.UID)
	case "gid":
		bit, ok = 1<<6, c.int(&e.GID)
	case "modtime":
		bit, ok = 1<<7, p.time(c, 0, &e.ModTime)
	case "accesstime":
		bit, ok = 1<<8, p.time(c, 1, &e.AccessTime)
	case "changetime":
		bit, ok = 1<<9, p.time(c, 2, &e.ChangeTime)
	case "devMajor":
		bit, ok = 1<<10, c.number(&e.DevMajor)
	case "devMinor":
		bit, ok = 1<<11, c.number(&e.DevMinor)
	case "digest":
		bit, ok = 1<<12, p.string(c, (*string)(&e.Digest))
	case "offset":
		bit, ok = 1<<13, c.number(&e.Offset)
	case "endOffset":
		bit, ok = 1<<14, c.number(&e.EndOffset)
	case "chunkSize":
		bit, ok = 1<<15, c.number(&e.ChunkSize)
	case "chunkOffset":
		bit, ok = 1<<16, c.number(&e.ChunkOffset)
	case "chunkDigest":
		bit, ok = 1<<17, p.string(c, (*string)(&e.ChunkDigest))
	case "chunkType":
		bit, ok = 1<<18, p.string(c, &e.ChunkType)
	}
	if !ok {
		return 0
	}
	return bit
}

func (p *plainEntries) string(c *cursor, to *string) bool {
	text, ok := c.text()
	if !ok {
		return false
	}
	if p.block.Cap()-p.block.Len() < len(text) {
		p.block.Reset()
		p.block.Grow(max(len(text), 64<<10))
	}
	from := p.block.Len()
	p.block.Write(text)
	*to = p.block.String()[from:]
	return true
}

func (p *plainEntries) typ(c *cursor, to *string) bool {
	text, ok := c.text()
	*to = internType(text)
	return ok
}

func (p *plainEntries) entryName(c *cursor, to *string) bool {
	again := *c
	if text, ok := again.text(); ok && string(text) == p.name {
		*c, *to = again, p.name
		return true
	}
	ok := p.string(c, to)
	p.name = *to
	return ok
}

// time reads a time of one of three kinds; the last one of each kind is likely to come again.
func (p *plainEntries) time(c *cursor, kind int, to *time.Time) bool {
	last, from := &p.times[kind], c.at
	if _, ok := c.text(); !ok {
		return false
	}
	if text := c.b[from:c.at]; !bytes.Equal(text, last.text) {
		if last.time.UnmarshalJSON(text) != nil {
			last.text = nil
			return false
		}
		last.text = append(last.text[:0], text...)
	}
	*to = last.time
	return true
}

// cursor reads single tokens of plain JSON. After one that is not plain, or not whole, it stands anywhere.
type cursor struct {
	b  []byte
	at int
}

func (c *cursor) byte(want byte) bool {
	if c.at >= len(c.b) || c.b[c.at] != want {
		return false
	}
	c.at++
	return true
}

func (c *cursor) word(want string) bool {
	if !bytes.HasPrefix(c.b[c.at:], []byte(want)) {
		return false
	}
	c.at += len(want)
	return true
}

// text reads a string and returns what is between the quotes.
func (c *cursor) text() ([]byte, bool) {
	if !c.byte('"') {
		return nil, false
	}
	rest := c.b[c.at:]
	for i, b := range rest {
		if b == '"' {
			c.at += i + 1
			return rest[:i], true
		}
		if b < ' ' || b >= 0x80 || b == '\\' {
			break
		}
	}
	return nil, false
}

func (c *cursor) number(to *int64) bool {
	from, n := c.at, int64(0)
	for ; c.at < len(c.b) && c.b[c.at]-'0' <= 9; c.at++ {
		if c.at-from == 18 {
			return false // might not fit
		}
		n = 10*n + int64(c.b[c.at]-'0')
	}
	*to = n
	// JSON has no leading zeros. What follows the digits is the caller's to look at.
	return c.at == from+1 || c.at > from && c.b[from] != '0'
}

func (c *cursor) int(to *int) bool {
	var n int64
	ok := c.number(&n)
	*to = int(n)
	return ok && int64(*to) == n
}
