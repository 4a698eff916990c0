package differential

import (
	"bytes"
	"slices"
	"time"

	"github.com/tocsin/tocsin/integration/forge"
)

// lie makes the table or the tar-split of a layer say something else than its tar.
func (g *grower) lie(l *forge.Layer) {
	if len(l.TOC) == 0 || g.rare(8) {
		l.TOC = slices.Insert(l.TOC, g.n(len(l.TOC)+1)%(len(l.TOC)+1), g.entry())
		return
	}
	if l.Split != nil && g.rare(3) {
		g.lieInSplit(l)
		return
	}
	i, k := g.n(min(len(l.TOC), 256)), g.n(min(len(l.TOC), 256))
	e, other := &l.TOC[i], &l.TOC[k]
	switch g.n(22) {
	case 0, 1, 2:
		*e, *other = *other, *e
	case 3, 4:
		moved := *e
		l.TOC = slices.Insert(slices.Delete(l.TOC, i, i+1), min(k, len(l.TOC)-1), moved)
	case 5:
		l.TOC = slices.Delete(l.TOC, i, i+1)
	case 6:
		l.TOC = slices.Insert(l.TOC, k, *e)
	case 7, 8:
		if len(e.Content) > 0 {
			e.Content = bytes.ToUpper(e.Content)
		}
	case 9:
		e.Content = g.content()
	case 10:
		e.Name = g.spelled(g.fresh())
	case 11:
		e.Name = g.spelled(e.Name)
	case 12:
		e.Type = of(g.choices, "reg", "dir", "symlink", "hardlink", "char", "block", "fifo")
	case 13:
		e.LinkName = g.known(g.names)
	case 14:
		e.Mode ^= of(g.choices, int64(0o4000), 1, 0o100000, 0o777)
	case 15:
		e.UID, e.GID = of(g.choices, 0, 1, 1<<32-1), of(g.choices, 0, 1)
	case 16:
		e.ModTime = of(g.choices, time.Time{}, time.Unix(5, 0).UTC(), e.ModTime.Add(1), time.Unix(0, 0).UTC())
	case 17:
		name, value := g.xattr()
		e.Xattrs = of(g.choices, nil, map[string][]byte{name: []byte(value)})
	case 18:
		e.DevMajor, e.DevMinor = int64(g.n(3)), int64(g.n(3))
	case 19:
		e.Content, other.Content = other.Content, e.Content
	case 20:
		e.Edit = g.falseLines
	default:
		e.Name, other.Name = other.Name, e.Name
	}
}

// entry is one that the tar has not.
func (g *grower) entry() forge.Entry {
	e := forge.Entry{Wire: forge.Wire{Type: of(g.choices, "reg", "dir", "symlink", "hardlink"), Name: g.fresh(), Mode: 0o755}}
	switch e.Type {
	case "reg":
		e.Content = g.content()
	case "symlink":
		e.LinkName = g.target()
	case "hardlink":
		e.LinkName = g.known(g.files)
	}
	if g.rare(6) {
		e = forge.Entry{Wire: forge.Wire{Type: "reg", Name: g.whiteout().Name}}
	}
	return e
}

// falseLines changes what was computed: digests, places and chunks.
func (g *grower) falseLines(lines []forge.Wire) []forge.Wire {
	w := &lines[g.n(min(len(lines), 256))]
	switch g.n(8) {
	case 0:
		w.Digest = lines[len(lines)-1].ChunkDigest
	case 1:
		w.Offset += of(g.choices, int64(1), -1, 100)
	case 2:
		w.ChunkType = of(g.choices, "zeros", "")
	case 3:
		w.ChunkSize, w.ChunkOffset = w.ChunkSize+1, w.ChunkOffset+1
	case 4:
		w.Size += of(g.choices, int64(1), -1)
	case 5:
		w.EndOffset += of(g.choices, int64(1), 1000)
	case 6:
		return append(lines, *w)
	default:
		w.ChunkDigest = w.Digest
	}
	return lines
}

func (g *grower) lieInSplit(l *forge.Layer) {
	i, k := g.n(min(len(l.Split), 256)), g.n(min(len(l.Split), 256))
	line, other := &l.Split[i], &l.Split[k]
	switch g.n(13) {
	case 0:
		line.SetName(g.known(g.names))
	case 1:
		a, b := line.GetName(), other.GetName()
		line.SetName(b)
		other.SetName(a)
	case 2:
		*line, *other = *other, *line
	case 3:
		l.Split = slices.Delete(l.Split, i, i+1)
	case 4:
		l.Split = slices.Insert(l.Split, k, *line)
	case 5, 6:
		g.inline(l, of(g.choices, 1, 1000))
	case 7:
		line.Size += of(g.choices, int64(1), -1, 512, -line.Size)
	case 8:
		if raw, err := l.Tar.Bytes(); err == nil {
			l.Split = []forge.Line{forge.Segment(raw)}
		}
	case 9:
		line.Payload = of(g.choices, nil, other.Payload, []byte("x"))
	case 10:
		l.Split = append(l.Split, of(g.choices, forge.Segment(make([]byte, 512)), forge.FileLine(g.known(g.files), g.content()), forge.Segment([]byte("x"))))
	default:
		g.cover(l, i)
	}
}

// inline replaces the file lines of the first so many contents by the content itself, as bytes of the tar.
func (g *grower) inline(l *forge.Layer, many int) {
	content := map[string][]byte{}
	for _, m := range l.Tar.Members {
		content[m.Name] = m.Content
	}
	for i := range l.Split {
		if line := &l.Split[i]; line.Size > 0 && many > 0 && int64(len(content[line.GetName()])) == line.Size {
			*line = forge.Segment(content[line.GetName()])
			many--
		}
	}
}

// cover makes a part of a segment the content of an entry that the tar has not.
func (g *grower) cover(l *forge.Layer, i int) {
	line := l.Split[i]
	if len(line.Payload) < 512 {
		return
	}
	part := line.Payload[:512*(1+g.n(len(line.Payload)/512))]
	name := "cover"
	if g.rare(2) {
		name = g.known(g.files)
	}
	e := forge.Entry{Wire: forge.Wire{Type: "reg", Name: name, Mode: 0o644}, Content: part}
	l.TOC = append(l.TOC, e)
	l.Split = slices.Insert(l.Split, i, forge.FileLine(name, part))
	l.Split[i+1] = forge.Segment(line.Payload[len(part):])
}
