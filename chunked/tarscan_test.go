package chunked

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// scanTar gives a scanner a whole tar, with the contents that it expects.
func scanTar(raw []byte, each func(m tarMember)) error {
	s := newTarScanner()
	for at := 0; at < len(raw); {
		if s.state == scanContent {
			each(s.file)
			n := s.file.size
			if n > int64(len(raw)-at) {
				return unsayable("the tar is cut off")
			}
			if err := s.content(s.file.name, n); err != nil {
				return err
			}
			at += int(n)
			continue
		}
		seen := s.file
		s.file = tarMember{}
		n := min(blockSize-at%blockSize, len(raw)-at)
		if err := s.bytes(raw[at:][:n]); err != nil {
			return err
		}
		if at += n; s.file.flag == 0 {
			s.file = seen
		} else if s.state != scanContent {
			each(s.file)
		}
	}
	return s.end()
}

// edited is a tar with one header's bytes changed.
func edited(t testing.TB, f tarFile, edit func(h []byte)) []byte {
	t.Helper()
	raw := makeTar(t, f)
	edit(raw)
	fixHeaderSum(raw)
	return raw
}

// withPAX puts an extended header with these records in front of a tar.
func withPAX(records string, raw []byte) []byte {
	h := bytes.Clone(raw[:blockSize])
	clear(h[:100])
	copy(h, "PaxHeader")
	h[156] = flagPAX
	copy(h[124:], fmt.Sprintf("%011o\x00", len(records)))
	clear(h[345:])
	copy(h[257:], magicUSTAR)
	fixHeaderSum(h)
	h = append(h, records...)
	h = append(h, make([]byte, -len(h)&(blockSize-1))...)
	return append(h, raw...)
}

// paxRecord is one PAX record.
func paxRecord(key, value string) string {
	n := len(key) + len(value) + 3
	for size := 0; size != n; {
		size = n
		n = len(fmt.Sprint(size)) + len(key) + len(value) + 3
	}
	return fmt.Sprintf("%d %s=%s\n", n, key, value)
}

// What all readers read alike passes, whatever wrote it.
func TestTarScannerTakes(t *testing.T) {
	big := reg("big", nil)
	big.Uid, big.Gid, big.Format = 1<<30, 1<<29, tar.FormatGNU
	long := reg(strings.Repeat("long/", 60)+"name", []byte("x"))
	gnu, link := long, other(tar.TypeSymlink, strings.Repeat("n/", 90)+"l", strings.Repeat("t", 300))
	gnu.Format, link.Format = tar.FormatGNU, tar.FormatGNU
	old := reg("old", []byte("x"))
	old.ModTime, old.Format = time.Unix(-1e9, 5), tar.FormatPAX
	for name, raw := range map[string][]byte{
		"one of everything":       makeTar(t, manyKinds()...),
		"long names of PAX":       makeTar(t, long),
		"long names of GNU":       makeTar(t, gnu, link, reg("after", []byte("y"))),
		"owners in base 256":      makeTar(t, big),
		"a time before the epoch": makeTar(t, old),
		"numbers in PAX again":    withPAX(paxRecord("uid", "7")+paxRecord("size", "1"), edited(t, reg("f", []byte("x")), func(h []byte) { copy(h[108:], "0000007\x00") })),
		"a size only in PAX":      withPAX(paxRecord("size", "1"), edited(t, reg("f", []byte("x")), func(h []byte) { copy(h[124:], "00000000000\x00") })),
		"a size that is clamped":  withPAX(paxRecord("size", "1"), edited(t, reg("f", []byte("x")), func(h []byte) { copy(h[124:], "77777777777\x00") })),
		"spaces around a number":  edited(t, reg("f", nil), func(h []byte) { copy(h[100:], "   644 \x00") }),
		"no end marker":           makeTar(t, reg("f", []byte("x")))[:1024],
	} {
		if err := scanTar(raw, func(tarMember) {}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What some readers read differently, or not at all, does not.
func TestTarScannerRefuses(t *testing.T) {
	f := reg("f", []byte("x"))
	set := func(at int, text string) func([]byte) { return func(h []byte) { copy(h[at:], text) } }
	type file = tarFile
	long := reg(strings.Repeat("n", 200), []byte("x"))
	long.Format = tar.FormatGNU
	global := makeTar(t, file{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}}, f)
	twoPAX := withPAX(paxRecord("path", "a"), withPAX(paxRecord("path", "b"), makeTar(t, f)))
	for name, raw := range map[string][]byte{
		"type NUL":                    edited(t, f, set(156, "\x00")),
		"contiguous file":             edited(t, f, set(156, "7")),
		"unknown type":                edited(t, f, set(156, "Z")),
		"old sparse file":             edited(t, f, set(156, "S")),
		"global header":               global,
		"directory by its slash":      edited(t, f, set(0, "d/\x00")),
		"V7 directory by its slash":   edited(t, f, func(h []byte) { copy(h, "d/\x00"); h[156] = 0; clear(h[257:512]) }),
		"V7":                          edited(t, f, func(h []byte) { clear(h[257:512]) }),
		"star":                        edited(t, f, set(508, "tar\x00")),
		"GNU with a time":             edited(t, f, func(h []byte) { copy(h[257:], magicGNU); copy(h[345:], "00000000001\x00") }),
		"hard link with a size":       edited(t, other(tar.TypeLink, "l", "f"), set(124, "00000000001\x00")),
		"directory with a size":       edited(t, other(tar.TypeDir, "d/", ""), set(124, "00000000001\x00")),
		"device with a size":          edited(t, other(tar.TypeChar, "c", ""), set(124, "00000000001\x00")),
		"directory with a PAX size":   withPAX(paxRecord("size", "1"), makeTar(t, other(tar.TypeDir, "d/", ""))),
		"negative owner":              edited(t, f, func(h []byte) { copy(h[257:], magicGNU); copy(h[108:], "\xff\xff\xff\xff\xff\xff\xff\xff") }),
		"negative size":               edited(t, f, set(124, "-0000000001\x00")),
		"base 256 in USTAR":           edited(t, f, set(108, "\x80\x00\x00\x00\x00\x00\x00\x07")),
		"no size":                     edited(t, f, set(124, strings.Repeat("\x00", 12))),
		"size with a NUL in it":       edited(t, f, set(124, "0000000\x00001\x00")),
		"size with a letter":          edited(t, f, set(124, "0000000000x\x00")),
		"signed checksum":             func() []byte { b := makeTar(t, f); b[160] ^= 1; return b }(),
		"other uid in PAX":            withPAX(paxRecord("uid", "7"), edited(t, f, set(108, "0000010\x00"))),
		"other size in PAX":           withPAX(paxRecord("size", "1"), edited(t, f, set(124, "00000000007\x00"))),
		"path twice in PAX":           withPAX(paxRecord("path", "a")+paxRecord("path", "a"), makeTar(t, f)),
		"two PAX headers":             twoPAX,
		"PAX before the end":          withPAX(paxRecord("path", "a"), make([]byte, 1024)),
		"GNU's name and PAX":          withPAX(paxRecord("path", "a"), makeTar(t, long)),
		"two long names":              append(makeTar(t, long)[:1024], makeTar(t, long)...),
		"long name with NUL":          func() []byte { b := makeTar(t, long); b[512+9] = 0; return b }(),
		"sparse 0.1":                  withPAX(paxRecord("GNU.sparse.map", "0,1")+paxRecord("GNU.sparse.size", "4"), makeTar(t, f)),
		"sparse 1.0":                  unfoldSparse(makeTar(t, f)),
		"path with NUL":               withPAX(paxRecord("path", "a\x00b"), makeTar(t, f)),
		"path that is empty":          withPAX(paxRecord("path", ""), makeTar(t, f)),
		"size with a sign":            withPAX(paxRecord("size", "+1"), makeTar(t, f)),
		"negative uid in PAX":         withPAX(paxRecord("uid", "-1"), makeTar(t, f)),
		"time with an exponent":       withPAX(paxRecord("mtime", "1e9"), makeTar(t, f)),
		"ACL that only some set":      withPAX(paxRecord("SCHILY.acl.access", "user::rw-"), makeTar(t, f)),
		"libarchive's xattr":          withPAX(paxRecord("LIBARCHIVE.xattr.user.a", "YQ"), makeTar(t, f)),
		"charset of names":            withPAX(paxRecord("hdrcharset", "BINARY"), makeTar(t, f)),
		"xattr with an escape":        withPAX(paxRecord("SCHILY.xattr.user.a%3Db", "x"), makeTar(t, f)),
		"unknown record":              withPAX(paxRecord("VENDOR.x", "y"), makeTar(t, f)),
		"record of a wrong length":    withPAX("8 path=a\n", makeTar(t, f)),
		"record with a leading zero":  withPAX("010 path=a\n", makeTar(t, f)),
		"NULs after the records":      withPAX(paxRecord("path", "a")+"\x00\x00", makeTar(t, f)),
		"name not UTF-8":              makeTar(t, reg("a\xff", nil)),
		"link without a target":       edited(t, other(tar.TypeSymlink, "l", "x"), set(157, "\x00")),
		"parent in a name":            makeTar(t, reg("a/../b", nil)),
		"nothing but one zero block":  make([]byte, 512),
		"data after one block":        append(makeTar(t, f)[:1536:1536], makeTar(t, f)...),
		"data after the end":          append(makeTar(t, f), makeTar(t, f)...),
		"end within the padding":      makeTar(t, f)[:1000],
		"end within a header":         append(makeTar(t, f)[:1024:1024], make([]byte, 100)...),
		"end after an extension":      withPAX(paxRecord("path", "a"), makeTar(t, f))[:1024],
		"name longer than a megabyte": withPAX(paxRecord("comment", strings.Repeat("x", maxExtension)), makeTar(t, f)),
	} {
		if err := scanTar(raw, func(tarMember) {}); !errors.Is(err, ErrUnsayable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Contents come under their own names, whole, and where the headers want them.
func TestTarScannerContents(t *testing.T) {
	two := makeTar(t, reg("d/a", []byte("1234")), reg("b", []byte("1234")), reg("empty", nil))
	a, b := two[:512], two[1024:1536]
	pad := make([]byte, 508)
	for name, feed := range map[string]func(s *tarScanner) []error{
		"in a segment":     func(s *tarScanner) []error { return []error{s.bytes(two[:516])} },
		"other name":       func(s *tarScanner) []error { return []error{s.bytes(a), s.content("b", 4)} },
		"other size":       func(s *tarScanner) []error { return []error{s.bytes(a), s.content("d/a", 3)} },
		"twice":            func(s *tarScanner) []error { return []error{s.bytes(a), s.content("d/a", 4), s.content("d/a", 4)} },
		"within a header":  func(s *tarScanner) []error { return []error{s.bytes(a[:100]), s.content("d/a", 4)} },
		"as padding":       func(s *tarScanner) []error { return []error{s.bytes(a), s.content("d/a", 4), s.content("d/a", 508)} },
		"none":             func(s *tarScanner) []error { return []error{s.bytes(a), s.end()} },
		"none for another": func(s *tarScanner) []error { return []error{s.bytes(a), s.bytes(b)} },
		"after the end":    func(s *tarScanner) []error { return []error{s.bytes(make([]byte, 1024)), s.content("d/a", 4)} },
		"of nothing":       func(s *tarScanner) []error { return []error{s.bytes(two[2048:2560]), s.content("empty", 4)} },
	} {
		errs := feed(newTarScanner())
		for i, err := range errs {
			if last := i == len(errs)-1; last != errors.Is(err, ErrMalformed) {
				t.Errorf("%s: step %d: %v", name, i, err)
			}
		}
	}
	s := newTarScanner()
	for i, err := range []error{
		s.content("whatever", 0), s.bytes(a), s.content("./d//a", 4), s.bytes(pad), s.bytes(b), s.content("b", 4), s.bytes(pad), s.bytes(two[2048:]), s.end(),
	} {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
}

// FuzzTarScanner: what passes, archive/tar reads as the scanner has read it, to its end.
func FuzzTarScanner(f *testing.F) {
	gnu := reg(strings.Repeat("n", 200), []byte("x"))
	gnu.Format = tar.FormatGNU
	seeds := [][]byte{
		makeTar(f, manyKinds()...)[:8192], makeTar(f, gnu), withPAX(paxRecord("size", "1")+paxRecord("path", "d/a"), makeTar(f, reg("f", []byte("x")))),
		edited(f, reg("f", nil), func(h []byte) { h[156] = 'S' }), makeTar(f, reg("f", nil))[:600],
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for at := 0; at+512 <= len(raw); at += 512 {
			if magic := string(raw[at:][257:265]); magic == magicUSTAR || magic == magicGNU {
				fixHeaderSum(raw[at:]) // or nothing but the first block would ever pass
			}
		}
		var got []tarMember
		err := scanTar(raw, func(m tarMember) { got = append(got, m) })
		if err != nil {
			if !errors.Is(err, ErrUnsayable) && !errors.Is(err, ErrMalformed) { // malformed: cut off before a content
				t.Errorf("foreign error: %v", err)
			}
			return
		}
		tr := tar.NewReader(bytes.NewReader(raw))
		for i := 0; ; i++ {
			h, err := tr.Next()
			if err == io.EOF {
				if i != len(got) {
					t.Errorf("archive/tar reads %d files, the scanner %d", i, len(got))
				}
				return
			}
			if err != nil {
				t.Fatalf("archive/tar: %v after %d of %d files", err, i, len(got))
			}
			if i >= len(got) {
				t.Fatalf("archive/tar reads %q too", h.Name)
			}
			m := got[i]
			if h.Name != m.name || h.Typeflag != m.flag || h.Size != m.size || h.Linkname != m.link {
				t.Errorf("archive/tar reads %q %q %d %q, the scanner %+v", h.Name, h.Typeflag, h.Size, h.Linkname, m)
			}
		}
	})
}
