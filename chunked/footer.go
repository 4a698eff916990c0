package chunked

import "encoding/binary"

// FooterSize is the length of a footer's payload; a skippable frame's header of 8 bytes lies before it.
const FooterSize = 64

const footerMagic = "GNUlInUx"

// Footer is the last frame of a blob (spec/zstd-chunked.md 1.2). No digest covers it and nothing may be believed
// because it says so: positions come from annotations, see manifest.TOCRef.
type Footer struct {
	TOC            Range
	TOCRawLen      int64
	TarSplit       Range // Len 0: none
	TarSplitRawLen int64
}

// ParseFooter reads the 64 bytes of a footer's payload. Another length, magic or type, and numbers that no blob can have,
// are ErrMalformed.
func ParseFooter(b []byte) (Footer, error) {
	if len(b) != FooterSize || string(b[56:]) != footerMagic {
		return Footer{}, malformed("no footer in %d bytes", len(b))
	}
	var v [7]int64
	for i := range v {
		if v[i] = int64(binary.LittleEndian.Uint64(b[8*i:])); v[i] < 0 {
			return Footer{}, malformed("footer has a number over 2^63")
		}
	}
	if v[3] != 1 {
		return Footer{}, malformed("footer of type %d", v[3])
	}
	f := Footer{TOC: Range{Off: v[0], Len: v[1]}, TOCRawLen: v[2], TarSplit: Range{Off: v[4], Len: v[5]}, TarSplitRawLen: v[6]}
	if f.TOC.End() < 0 || f.TarSplit.End() < 0 {
		return Footer{}, malformed("footer points behind 2^63")
	}
	return f, nil
}

// Bytes returns the payload that ParseFooter reads.
func (f Footer) Bytes() []byte {
	b := make([]byte, 0, FooterSize)
	for _, v := range []int64{f.TOC.Off, f.TOC.Len, f.TOCRawLen, 1, f.TarSplit.Off, f.TarSplit.Len, f.TarSplitRawLen} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return append(b, footerMagic...)
}
