package chunked

import (
	"archive/tar"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vbatts/tar-split/tar/storage"
)

// CheckTarSplit proves that t describes the tar that ts was split from: every entry has exactly one header and every
// header one entry, equal in type, name, link, mode, size, owner, times, device numbers and xattrs, and what ts says of
// files agrees. A nil ts is ErrNoTarSplit, any disagreement ErrMalformed.
func CheckTarSplit(t *TOC, ts *TarSplit) error {
	if ts == nil {
		return fmt.Errorf("check of the TOC: %w", ErrNoTarSplit)
	}
	s, err := ts.scan()
	if err != nil {
		return err
	}
	defer s.close()
	m := &splitMatcher{toc: t, seen: make([]bool, len(t.Entries))}
	src := &splitReader{s: s, file: m.file}
	if err := m.run(tar.NewReader(src)); err != nil {
		return fmt.Errorf("TOC against tar-split: %w", inputError(err))
	}
	if err := src.drain(); err != nil {
		return fmt.Errorf("tar-split: %w", inputError(err))
	}
	return nil
}

// splitMatcher finds the entry of each header.
type splitMatcher struct {
	toc   *TOC
	seen  []bool
	next  int            // most TOCs are in the order of the tar
	index map[string]int // by clean name, made when one is not
}

func (m *splitMatcher) run(tr *tar.Reader) error {
	matched := 0
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if hdr.Typeflag == tar.TypeXGlobalHeader {
			continue // names no file; containerd ignores it
		}
		i, err := m.find(hdr.Name)
		if err != nil {
			return err
		}
		if i < 0 || m.seen[i] {
			return malformed("%q of the tar is not in the TOC, or twice in the tar", hdr.Name)
		}
		if field := differs(&m.toc.Entries[i], hdr); field != "" {
			return malformed("%q has another %s in the TOC than in the tar", hdr.Name, field)
		}
		m.seen[i], m.next = true, i+1
		matched++
	}
	if matched != len(m.seen) {
		for i, ok := range m.seen {
			if !ok {
				return malformed("%q of the TOC is not in the tar", m.toc.Entries[i].Name)
			}
		}
	}
	return nil
}

// find returns the entry with a name, -1 if there is none.
func (m *splitMatcher) find(name string) (int, error) {
	clean, err := CleanName(name)
	if err != nil {
		return -1, err
	}
	if m.next < len(m.toc.Entries) {
		if at, err := CleanName(m.toc.Entries[m.next].Name); err == nil && at == clean {
			return m.next, nil
		}
	}
	if m.index == nil {
		m.index = make(map[string]int, len(m.toc.Entries))
		for i := range m.toc.Entries {
			if c, err := CleanName(m.toc.Entries[i].Name); err == nil {
				m.index[c] = i
			}
		}
	}
	if i, ok := m.index[clean]; ok {
		return i, nil
	}
	return -1, nil
}

// file checks a line about a file's content: it is by this name that the tar will be assembled.
func (m *splitMatcher) file(name string, size int64) error {
	if size == 0 {
		return nil
	}
	i, err := m.find(name)
	if err != nil {
		return err
	}
	if i < 0 {
		return malformed("content of %q, which is not in the TOC", name)
	}
	if e := &m.toc.Entries[i]; e.Type != TypeReg || e.Size != size {
		return malformed("%d bytes of content of %q, a %s of %d", size, name, e.Type, e.Size)
	}
	return nil
}

// differs names the first thing that is not equal; "" if all is.
func differs(e *Entry, h *tar.Header) string {
	if all := allDiffers(e, h); len(all) > 0 {
		return all[0]
	}
	return ""
}

// allDiffers names all that is not equal.
func allDiffers(e *Entry, h *tar.Header) (fields []string) {
	for _, c := range []struct {
		field string
		same  bool
	}{
		{"type", e.Type == headerType(h.Typeflag)},
		{"link target", e.LinkName == h.Linkname},
		{"mode", e.Mode == h.Mode},
		{"size", e.Size == h.Size},
		{"owner", e.UID == h.Uid && e.GID == h.Gid},
		{"device number", e.DevMajor == h.Devmajor && e.DevMinor == h.Devminor},
		{"time", sameTime(e.ModTime, h.ModTime) && sameTime(e.AccessTime, h.AccessTime) && sameTime(e.ChangeTime, h.ChangeTime)},
		{"xattr", sameXattrs(e, h)},
	} {
		if !c.same {
			fields = append(fields, c.field)
		}
	}
	return fields
}

func sameXattrs(e *Entry, h *tar.Header) bool {
	n := 0
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		n++
		if have, ok := e.Xattrs[name]; !ok || string(have) != value {
			return false
		}
	}
	return n == len(e.Xattrs)
}

// sameTime compares times of which an absent one is the epoch.
func sameTime(a, b time.Time) bool {
	epoch := time.Unix(0, 0)
	if a.IsZero() {
		a = epoch
	}
	if b.IsZero() {
		b = epoch
	}
	return a.Equal(b)
}

// headerType is the TOC's word for a tar's type; "" for those a TOC cannot say.
func headerType(flag byte) string {
	switch flag {
	case tar.TypeReg:
		return TypeReg
	case tar.TypeDir:
		return TypeDir
	case tar.TypeSymlink:
		return TypeSymlink
	case tar.TypeLink:
		return TypeHardlink
	case tar.TypeChar:
		return TypeChar
	case tar.TypeBlock:
		return TypeBlock
	case tar.TypeFifo:
		return TypeFifo
	}
	return ""
}

// splitReader is the tar of a tar-split with zeros for the content of files, which it skips without reading them.
type splitReader struct {
	s     *splitScanner
	file  func(name string, size int64) error
	seg   []byte
	zeros int64
	pos   int64
}

// fill makes seg or zeros not empty.
func (r *splitReader) fill() error {
	for len(r.seg) == 0 && r.zeros == 0 {
		e, err := r.s.next()
		if err != nil {
			return err
		}
		if e.Type == storage.SegmentType {
			r.seg = e.Payload
			continue
		}
		if e.Size > 1<<60 {
			return tooBig("file of %d bytes", e.Size)
		}
		if err := r.file(e.GetName(), e.Size); err != nil {
			return err
		}
		r.zeros = e.Size
	}
	return nil
}

func (r *splitReader) Read(p []byte) (int, error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	var n int
	if len(r.seg) > 0 {
		n = copy(p, r.seg)
		r.seg = r.seg[n:]
	} else {
		n = int(min(int64(len(p)), r.zeros))
		clear(p[:n])
		r.zeros -= int64(n)
	}
	r.pos += int64(n)
	return n, nil
}

// Seek skips forward from where the reader is, which is all that archive/tar asks for. Behind the end it stops there.
func (r *splitReader) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || off < 0 {
		return 0, fmt.Errorf("tar-split: seek %d from %d", off, whence)
	}
	for off > 0 {
		err := r.fill()
		if err == io.EOF {
			break
		}
		if err != nil {
			return 0, err
		}
		n := min(off, max(int64(len(r.seg)), r.zeros)) // one of them is empty
		if len(r.seg) > 0 {
			r.seg = r.seg[n:]
		} else {
			r.zeros -= n
		}
		off -= n
		r.pos += n
	}
	return r.pos, nil
}

// drain checks what comes after the end of the tar: padding. A file there would get into the assembled tar without any
// parser of tars having seen it.
func (r *splitReader) drain() error {
	if r.zeros > 0 {
		return malformed("the tar ends inside a file")
	}
	for {
		e, err := r.s.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Type != storage.SegmentType && e.Size > 0 {
			return malformed("file %q after the end of the tar", e.GetName())
		}
	}
}
