package chunked

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// blockSize is the size of a tar's blocks.
const blockSize = 512

// The types of tar headers that a TOC can say, and those that extend the header after them.
const (
	flagReg      = '0'
	flagLink     = '1'
	flagSymlink  = '2'
	flagChar     = '3'
	flagBlock    = '4'
	flagDir      = '5'
	flagFifo     = '6'
	flagPAX      = 'x'
	flagLongName = 'L'
	flagLongLink = 'K'
)

// The two formats of headers that are taken, as magic and version say them.
const (
	magicUSTAR = "ustar\x0000"
	magicGNU   = "ustar  \x00"
)

// tarHeader is what one header block says that decides where the next one is, or what names a file has.
type tarHeader struct {
	flag           byte
	gnu            bool
	name, link     string
	size, uid, gid tarNumber
}

// tarNumber is a number of a header block.
type tarNumber struct {
	v      int64
	max    int64 // the largest that the field takes in octal: what some write for what is larger
	binary bool  // spelled in base 256
}

// parseTarHeader reads one header block. It takes only what Go, GNU tar, libarchive and Python all read alike; all else
// is ErrUnsayable.
func parseTarHeader(b []byte) (h tarHeader, err error) {
	h.flag = b[156]
	switch magic := string(b[257:265]); {
	case magic == magicGNU && zeros(b[345:]): // there are times and a sparse map, or a prefix to who sees USTAR
		h.gnu = true
	case magic == magicUSTAR && zeros(b[500:]): // there star has its mark
		if prefix := tarString(b[345:500]); prefix != "" {
			h.name = prefix + "/"
		}
	default:
		return h, unsayable("a header in a format that is neither USTAR, PAX nor GNU's")
	}
	h.name += tarString(b[:100])
	h.link = tarString(b[157:257])
	for _, f := range []struct {
		what     string
		from, to int
		blank    bool
		into     *tarNumber
	}{
		{"mode", 100, 108, false, nil}, {"uid", 108, 116, false, &h.uid}, {"gid", 116, 124, false, &h.gid},
		{"size", 124, 136, false, &h.size}, {"time", 136, 148, false, nil},
		{"device number", 329, 337, true, nil}, {"device number", 337, 345, true, nil},
	} {
		n, ok := parseTarNumber(b[f.from:f.to], h.gnu, f.blank)
		if !ok {
			return h, unsayable("a header with the %s %q", f.what, b[f.from:f.to])
		}
		if f.into != nil {
			*f.into = n
		}
	}
	if !rightSum(b) {
		return h, unsayable("a header with a wrong checksum")
	}
	return h, nil
}

// tarString is a field up to its first NUL.
func tarString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// parseTarNumber reads a number: octal digits, blanks before them and blanks or NULs after them, or, in GNU's headers, a
// positive one in base 256. A field of blanks alone is 0, where that may be.
func parseTarNumber(b []byte, gnu, blank bool) (n tarNumber, ok bool) {
	if b[0] == 0x80 && gnu {
		n.binary = true
		for i, c := range b[1:] {
			if rest := len(b) - 1 - i; rest > 8 && c != 0 || rest == 8 && c >= 0x80 {
				return n, false
			}
			n.v = n.v<<8 | int64(c)
		}
		return n, true
	}
	n.max = 1<<(3*(len(b)-1)) - 1
	b = bytes.TrimRight(b, " \x00")
	b = bytes.TrimLeft(b, " ")
	if len(b) == 0 {
		return n, blank
	}
	for _, c := range b {
		if c < '0' || c > '7' {
			return n, false
		}
		n.v = n.v<<3 | int64(c-'0')
	}
	return n, true
}

// rightSum compares the sum of a block's bytes, those of the sum itself taken as blanks, with what it says.
func rightSum(b []byte) bool {
	want, ok := parseTarNumber(b[148:156], false, false)
	sum := int64(8 * ' ')
	for i, c := range b {
		if i < 148 || i >= 156 {
			sum += int64(c)
		}
	}
	return ok && sum == want.v
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// parsePAX puts the records of an extended header into says.
func parsePAX(b []byte, says map[string]string) error {
	for len(b) > 0 {
		digits := bytes.IndexByte(b, ' ')
		if digits < 1 || digits > 7 || b[0] == '0' {
			return unsayable("a PAX record without its length")
		}
		n, err := strconv.ParseUint(string(b[:digits]), 10, 32)
		if err != nil || n > uint64(len(b)) || int(n) < digits+2 || b[n-1] != '\n' {
			return unsayable("a PAX record of %q bytes", b[:digits])
		}
		key, value, ok := strings.Cut(string(b[digits+1:n-1]), "=")
		if _, twice := says[key]; !ok || twice {
			return unsayable("PAX record %q without a value, or twice", key)
		}
		if err := checkPAX(key, value); err != nil {
			return err
		}
		says[key] = value
		b = b[n:]
	}
	return nil
}

// checkPAX refuses records that only some readers know, or that they read differently.
func checkPAX(key, value string) error {
	ok := false
	switch key {
	case "path", "linkpath":
		ok = value != "" && strings.IndexByte(value, 0) < 0
	case "size", "uid", "gid":
		_, ok = paxNumber(value)
	case "mtime", "atime", "ctime":
		whole, fraction, point := strings.Cut(strings.TrimPrefix(value, "-"), ".")
		ok = len(whole) < 19 && allDigits(whole) && (!point || allDigits(fraction))
	case "uname", "gname", "comment", "SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "LIBARCHIVE.creationtime":
		ok = strings.IndexByte(value, 0) < 0
	default: // GNU's tar has an escape in the name, %
		name, xattr := strings.CutPrefix(key, paxXattr)
		ok = xattr && name != "" && utf8.ValidString(name) && !strings.ContainsAny(name, "%\x00") ||
			strings.HasPrefix(key, "APK-TOOLS.")
	}
	if !ok {
		return unsayable("PAX record %.100q of value %.100q", key, value)
	}
	return nil
}

// paxNumber reads a number that is not negative.
func paxNumber(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && allDigits(s)
}

func allDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
