package forge

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc64"

	"github.com/vbatts/tar-split/tar/storage"
)

// Line is one line of a tar-split: a Segment of the tar's bytes, or the place of a file's content.
type Line = storage.Entry

// Segment returns the line for bytes of the tar.
func Segment(b []byte) Line { return Line{Type: storage.SegmentType, Payload: b} }

// FileLine returns the line for the content of a file: its name, its size and its CRC-64.
func FileLine(name string, content []byte) Line {
	l := Line{Type: storage.FileType, Size: int64(len(content))}
	l.SetName(name)
	if len(content) > 0 {
		h := crc64.New(storage.CRCTable)
		h.Write(content)
		l.Payload = h.Sum(nil)
	}
	return l
}

// SplitOf returns the honest tar-split of t, as the tar-split library has it: a segment before each member and one at
// the end, and a line for each header that names something.
func SplitOf(t *Tar) ([]Line, error) {
	parts, err := t.parts()
	if err != nil {
		return nil, err
	}
	var lines []Line
	member := -1
	for _, p := range parts {
		if p.member != nil {
			lines[len(lines)-1] = FileLine(p.member.Name, p.bytes)
			continue
		}
		lines = append(lines, Segment(p.bytes))
		if member++; member < len(t.Members) && namesFile(&t.Members[member]) {
			lines = append(lines, FileLine(t.Members[member].Name, nil))
		}
	}
	return lines, nil
}

func namesFile(m *Member) bool { return m.Typeflag != 'g' || len(m.Content) > 0 }

// numbered returns the JSON lines, each with its position.
func numbered(lines []Line) ([]byte, error) {
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	for i, l := range lines {
		l.Position = i
		if err := out.Encode(&l); err != nil {
			return nil, fmt.Errorf("forge: tar-split: %w", err)
		}
	}
	return b.Bytes(), nil
}
