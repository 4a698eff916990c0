package chunked

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// maxExtension bounds the data of one header that extends the next one, as Go's archive/tar does.
const maxExtension = 1 << 20

// tarScanner takes a tar apart as it comes, header by header, and refuses what two of the common readers of tars would
// take apart, or name, differently: with ErrUnsayable, because such a tar may be an honest one. It keeps a few KiB, and
// one extension.
//
// It has contents announced apart from the bytes of the tar, as a tar-split has them, so that it knows that each file
// with content has exactly that content, under its own name, and that nothing else is taken for content: a tar-split that
// gives it otherwise is ErrMalformed.
type tarScanner struct {
	state scanState
	block [blockSize]byte
	have  int   // bytes of block
	left  int64 // bytes until the next header
	ext   []byte
	want  int // of ext, without its padding
	flag  byte
	zeros int // blocks of the end marker so far

	pax                map[string]string
	longName, longLink string
	file               tarMember // the last one
}

// tarMember is a file as the scanner has read it.
type tarMember struct {
	flag       byte
	name, link string
	clean      string // name
	size       int64
}

type scanState int

const (
	scanHeader scanState = iota
	scanExtension
	scanContent
	scanPadding
	scanEnd // after the end marker
)

func newTarScanner() *tarScanner { return &tarScanner{pax: map[string]string{}} }

// bytes takes what is no content of a file.
func (s *tarScanner) bytes(p []byte) error {
	for len(p) > 0 {
		var n int
		var err error
		switch s.state {
		case scanHeader:
			n = copy(s.block[s.have:], p)
			if s.have += n; s.have == blockSize {
				s.have = 0
				err = s.header()
			}
		case scanExtension:
			n = int(min(s.left, int64(len(p))))
			s.ext = append(s.ext, p[:min(n, max(0, s.want-len(s.ext)))]...)
			if s.left -= int64(n); s.left == 0 {
				s.state = scanHeader
				err = s.extension()
			}
		case scanContent:
			err = malformed("the tar-split has content of %q among the headers", s.file.name)
		case scanPadding:
			n = int(min(s.left, int64(len(p))))
			if s.left -= int64(n); s.left == 0 {
				s.state = scanHeader
			}
		case scanEnd:
			if n = len(p); !zeros(p) {
				err = unsayable("data after the end of the tar")
			}
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// content takes a whole file's content, which stands here under that name.
func (s *tarScanner) content(name string, size int64) error {
	if size == 0 {
		return nil // tar-splits name what has no content too
	}
	if s.state != scanContent {
		return malformed("the tar-split has content of %q where the tar has none", name)
	}
	if clean, err := CleanName(name); err != nil || clean != s.file.clean || size != s.file.size {
		return malformed("the tar-split has %d bytes of %q as the content of %q, which has %d", size, name, s.file.name, s.file.size)
	}
	s.pad(size)
	return nil
}

// pad skips what fills the last block of size bytes.
func (s *tarScanner) pad(size int64) {
	s.state = scanPadding
	if s.left = -size & (blockSize - 1); s.left == 0 {
		s.state = scanHeader
	}
}

// end says whether the tar may end here.
func (s *tarScanner) end() error {
	switch {
	case s.state == scanContent:
		return malformed("the tar-split has no content of %q", s.file.name)
	case s.state == scanEnd:
		return nil
	case s.state != scanHeader || s.have > 0 || s.extended():
		return unsayable("the tar is cut off")
	case s.zeros > 0:
		return unsayable("one block of zeros at the end of the tar")
	}
	return nil
}

func (s *tarScanner) extended() bool { return len(s.pax) > 0 || s.longName != "" || s.longLink != "" }

// header takes a whole block where a header should be.
func (s *tarScanner) header() error {
	if zeros(s.block[:]) {
		if s.zeros++; s.zeros == 2 {
			s.state = scanEnd
		}
		if s.extended() {
			return unsayable("a header that extends none")
		}
		return nil
	}
	if s.zeros > 0 {
		return unsayable("one block of zeros before other headers")
	}
	h, err := parseTarHeader(s.block[:])
	if err != nil {
		return err
	}
	switch h.flag {
	case flagPAX, flagLongName, flagLongLink:
		return s.extend(&h)
	}
	return s.member(&h)
}

// extend begins the data of a header that extends the next one.
func (s *tarScanner) extend(h *tarHeader) error {
	size := h.size.v
	switch {
	case size == 0 || size > maxExtension || h.size.binary:
		return unsayable("a header of type %q with %d bytes", h.flag, size)
	case h.flag == flagPAX && (h.gnu || s.extended()), h.flag != flagPAX && (!h.gnu || len(s.pax) > 0),
		h.flag == flagLongName && s.longName != "", h.flag == flagLongLink && s.longLink != "":
		return unsayable("a header of type %q beside others that extend the same one", h.flag)
	}
	s.state, s.flag, s.want = scanExtension, h.flag, int(size)
	s.left = size + -size&(blockSize-1)
	s.ext = s.ext[:0]
	return nil
}

// extension takes the whole data of such a header.
func (s *tarScanner) extension() error {
	if s.flag == flagPAX {
		return parsePAX(s.ext, s.pax)
	}
	text := string(bytes.TrimRight(s.ext, "\x00"))
	if text == "" || strings.IndexByte(text, 0) >= 0 {
		return unsayable("a long name with NUL in it, or of nothing else")
	}
	if s.flag == flagLongName {
		s.longName = text
	} else {
		s.longLink = text
	}
	return nil
}

// member takes the header of a file, with all that extends it.
func (s *tarScanner) member(h *tarHeader) error {
	m := tarMember{flag: h.flag, name: h.name, link: h.link, size: h.size.v}
	if err := s.extendNumbers(h, &m); err != nil {
		return err
	}
	if h.gnu && len(s.pax) > 0 || !h.gnu && s.longName+s.longLink != "" {
		return unsayable("%q has headers of two formats", h.name)
	}
	for _, e := range []struct {
		into     *string
		gnu, key string
	}{{&m.name, s.longName, "path"}, {&m.link, s.longLink, "linkpath"}} {
		if v, ok := s.pax[e.key]; ok {
			*e.into = v
		}
		if e.gnu != "" {
			*e.into = e.gnu
		}
	}
	clear(s.pax)
	s.longName, s.longLink = "", ""
	if err := m.check(); err != nil {
		return err
	}
	s.file = m
	if m.size > 0 {
		s.state = scanContent
	}
	return nil
}

// extendNumbers takes over the numbers of PAX records. What the block says then has to be the same, or what writers put
// there for a number that does not fit.
func (s *tarScanner) extendNumbers(h *tarHeader, m *tarMember) error {
	var ignored int64
	for _, f := range []struct {
		key  string
		own  tarNumber
		into *int64
	}{{"size", h.size, &m.size}, {"uid", h.uid, &ignored}, {"gid", h.gid, &ignored}} {
		text, ok := s.pax[f.key]
		if !ok {
			continue
		}
		n, _ := paxNumber(text)
		if f.own.binary || f.own.v != 0 && f.own.v != f.own.max && f.own.v != n {
			return unsayable("%q has the %s %d in its header and %d in a PAX record", h.name, f.key, f.own.v, n)
		}
		*f.into = n
	}
	return nil
}

// check refuses a file that has no place in a TOC, or another one for other readers.
func (m *tarMember) check() error {
	switch m.flag {
	case flagReg:
	case flagLink, flagSymlink, flagChar, flagBlock, flagDir, flagFifo:
		if m.size != 0 {
			return unsayable("%q has %d bytes and is no regular file", m.name, m.size)
		}
	default:
		return unsayable("%q has the type %q", m.name, m.flag)
	}
	var err error
	if m.clean, err = CleanName(m.name); err != nil {
		return unsayable("%v", err)
	}
	if m.name == "" || m.flag != flagDir && strings.HasSuffix(m.name, "/") {
		return unsayable("%q is the name of what is no directory", m.name)
	}
	linked := m.flag == flagLink || m.flag == flagSymlink
	if linked && m.link == "" || !utf8.ValidString(m.name) || linked && !utf8.ValidString(m.link) {
		return unsayable("%q links to %q: empty, or not UTF-8", m.name, m.link)
	}
	return nil
}
