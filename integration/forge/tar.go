package forge

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"time"
)

// blockSize is the length of a tar's blocks.
const blockSize = 512

// Member is one member of a tar.
type Member struct {
	tar.Header        // Size is computed for a regular file, unless it is given
	Content    []byte // written behind the header and padded, whatever the type
	// Edit, if not nil, gets the header as archive/tar writes it, extended headers included, and returns what is written.
	// The last block is the header proper.
	Edit func(blocks []byte) []byte
}

// Tar is the members of a tar and what follows them.
type Tar struct {
	Members []Member
	End     []byte // nil: two blocks of zeros, which end a tar
}

// Bytes returns the tar.
func (t *Tar) Bytes() ([]byte, error) {
	parts, err := t.parts()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, p := range parts {
		b.Write(p.bytes)
	}
	return b.Bytes(), nil
}

// part is a run of a tar's bytes: the content of a member, or what is between contents.
type part struct {
	bytes  []byte
	member *Member // nil: no content
}

func (t *Tar) parts() ([]part, error) {
	var parts []part
	var between []byte
	for i := range t.Members {
		m := &t.Members[i]
		head, err := m.header()
		if err != nil {
			return nil, fmt.Errorf("forge: header of %q: %w", m.Name, err)
		}
		parts = append(parts, part{bytes: append(between, head...)})
		between = nil
		if len(m.Content) > 0 {
			parts = append(parts, part{m.Content, m})
			between = make([]byte, -len(m.Content)&(blockSize-1))
		}
	}
	end := t.End
	if end == nil {
		end = make([]byte, 2*blockSize)
	}
	if between = append(between, end...); len(between) > 0 {
		parts = append(parts, part{bytes: between})
	}
	return parts, nil
}

func (m *Member) header() ([]byte, error) {
	h := m.Header
	if h.Typeflag == tar.TypeReg && h.Size == 0 {
		h.Size = int64(len(m.Content))
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
		return nil, err
	}
	if m.Edit == nil {
		return b.Bytes(), nil
	}
	return m.Edit(b.Bytes()), nil
}

// Time is when every member of the constructors below was changed.
func Time() time.Time { return time.Unix(1_700_000_000, 0) }

// File returns a regular file.
func File(name string, content []byte) Member {
	return Member{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: Time()}, Content: content}
}

// Dir returns a directory.
func Dir(name string) Member {
	return Member{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: Time()}}
}

// Symlink returns a symbolic link.
func Symlink(name, target string) Member {
	return Member{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: Time()}}
}

// Hardlink returns another name of a file.
func Hardlink(name, target string) Member {
	return Member{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644, ModTime: Time()}}
}

// Char returns a character device.
func Char(name string, major, minor int64) Member {
	return Member{Header: tar.Header{Typeflag: tar.TypeChar, Name: name, Mode: 0o600, Devmajor: major, Devminor: minor, ModTime: Time()}}
}

// Fifo returns a named pipe.
func Fifo(name string) Member {
	return Member{Header: tar.Header{Typeflag: tar.TypeFifo, Name: name, Mode: 0o600, ModTime: Time()}}
}

// Xattr returns m with one more extended attribute, which makes its header a PAX one.
func (m Member) Xattr(name, value string) Member {
	records := map[string]string{"SCHILY.xattr." + name: value}
	for k, v := range m.PAXRecords {
		records[k] = v
	}
	m.PAXRecords = records
	return m
}

// Fields of a tar header by their place in the block, for Member.Edit.
type Field struct{ Off, Len int }

// FieldName and so on are where the fields of a tar header are.
func FieldName() Field     { return Field{0, 100} }
func FieldMode() Field     { return Field{100, 8} }
func FieldUID() Field      { return Field{108, 8} }
func FieldGID() Field      { return Field{116, 8} }
func FieldSize() Field     { return Field{124, 12} }
func FieldTime() Field     { return Field{136, 12} }
func FieldChecksum() Field { return Field{148, 8} }
func FieldType() Field     { return Field{156, 1} }
func FieldLink() Field     { return Field{157, 100} }
func FieldMagic() Field    { return Field{257, 8} }
func FieldPrefix() Field   { return Field{345, 155} }

// Set returns an edit that puts value, padded with NUL, into a field of the last block and makes its checksum right.
func Set(f Field, value string) func([]byte) []byte {
	return func(blocks []byte) []byte {
		head := blocks[len(blocks)-blockSize:]
		field := head[f.Off : f.Off+f.Len]
		clear(field)
		copy(field, value)
		sign(head)
		return blocks
	}
}

// Base256 returns the binary form of a number for Set, which GNU tar uses where octal digits do not suffice.
func Base256(f Field, n int64) string {
	b := make([]byte, f.Len)
	for i := range b {
		shift := 8 * (f.Len - 1 - i)
		if shift < 64 {
			b[i] = byte(n >> shift)
		} else if n < 0 {
			b[i] = 0xff
		}
	}
	b[0] |= 0x80
	return string(b)
}

// Edits returns the edits done one after the other.
func Edits(edits ...func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		for _, edit := range edits {
			b = edit(b)
		}
		return b
	}
}

// sign puts the checksum into a header block.
func sign(head []byte) {
	f := FieldChecksum()
	field := head[f.Off : f.Off+f.Len]
	copy(field, strings.Repeat(" ", f.Len))
	sum := 0
	for _, c := range head {
		sum += int(c)
	}
	copy(field, fmt.Sprintf("%06o\x00 ", sum))
}

// PAX returns an edit that puts an extended header with these records before the header, as they are given and in their
// order: a key may come twice, contradict the header, or be one that archive/tar does not write. Kind is 'x', or 'g'
// for a global header.
func PAX(kind byte, records ...[2]string) func([]byte) []byte {
	return func(blocks []byte) []byte {
		var body strings.Builder
		for _, r := range records {
			body.WriteString(paxRecord(r[0], r[1]))
		}
		head := make([]byte, blockSize)
		copy(head, "PaxHeaders.0/x")
		copy(head[100:], "0000644\x000000000\x000000000\x00")
		copy(head[124:], fmt.Sprintf("%011o\x00%011o\x00", body.Len(), 0))
		head[156] = kind
		copy(head[257:], "ustar\x0000")
		sign(head)
		text := append([]byte(body.String()), make([]byte, -body.Len()&(blockSize-1))...)
		at := len(blocks) - blockSize
		out := append([]byte(nil), blocks[:at]...)
		return append(append(append(out, head...), text...), blocks[at:]...)
	}
}

// paxRecord returns "length key=value\n", whose length counts itself.
func paxRecord(key, value string) string {
	size := len(key) + len(value) + 3
	for {
		record := fmt.Sprintf("%d %s=%s\n", size, key, value)
		if len(record) == size {
			return record
		}
		size = len(record)
	}
}
