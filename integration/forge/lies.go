package forge

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Lie is a layer whose table of contents or tar-split does not say what its tar says. Every one is complete and sound by
// itself: each place can be read, and only a comparison of them shows that something is wrong.
type Lie struct {
	Kind string // what is lied about: "content", "name", "order", "type", "size", "attributes", "whiteouts", "links", "duplicates", "tar-split"
	Name string
	// Layer returns the layer in an algorithm.
	Layer func(digest.Algorithm) (*Layer, error)
}

// Base returns the honest layer that most lies are told of. It fits below and above any other layer.
func Base(alg digest.Algorithm) (*Layer, error) { return algorithm(alg)(New(baseMembers()...)) }

func baseMembers() []Member {
	owned := File("etc/owned", []byte("owned\n"))
	owned.Uid, owned.Gid, owned.Mode = 1000, 1000, 0o640
	return []Member{
		Dir("bin/"), File("bin/tool", []byte("good tool\n")), File("bin/same", []byte("evil tool\n")),
		File("bin/long", bytes.Repeat([]byte("a line of a longer file\n"), 200)),
		Dir("etc/"), owned, File("etc/attr", []byte("attr\n")).Xattr("user.kind", "good"), File("etc/empty", nil),
		Symlink("link", "bin/tool"), Hardlink("bin/hard", "bin/tool"), Char("null", 1, 3), Fifo("fifo"),
		Dir("gone/"), File("gone/.wh.file", nil), Dir("opaque/"), File("opaque/.wh..wh..opq", nil), File("opaque/new", []byte("new\n")),
	}
}

// algorithm finishes a layer of New.
func algorithm(alg digest.Algorithm) func(*Layer, error) (*Layer, error) {
	return func(l *Layer, err error) (*Layer, error) {
		if err != nil {
			return nil, err
		}
		l.Algorithm, l.DiffID, l.ChunkSize = alg, alg, 1000
		return l, nil
	}
}

// of is the lie that an edit of the base makes.
func of(kind, name string, tell func(*Layer)) Lie {
	return Lie{kind, name, func(alg digest.Algorithm) (*Layer, error) {
		l, err := Base(alg)
		if err == nil {
			tell(l)
		}
		return l, err
	}}
}

// two is the lie of a table and a tar that have the same members in another order, or different ones.
func two(kind, name string, inTar, inTOC []Member) Lie {
	return Lie{kind, name, func(alg digest.Algorithm) (*Layer, error) {
		l, err := algorithm(alg)(New(inTar...))
		if err != nil {
			return nil, err
		}
		other, err := New(inTOC...)
		if err != nil {
			return nil, err
		}
		l.TOC = other.TOC
		return l, nil
	}}
}

// Lies returns all lies that have a name, grouped by kind. A proof that the table and the tar are one image refuses
// every one of them: containerd would show another tree of the tar than the table has.
func Lies() []Lie {
	return slices.Concat(contentLies(), nameLies(), orderLies(), typeLies(), attributeLies(), whiteoutLies(), linkLies(), duplicateLies(), splitLies())
}

func evil() []byte { return []byte("EVIL tool\n") } // as long as the good one

func contentLies() []Lie {
	return []Lie{
		of("content", "another content of the same size", func(l *Layer) { l.Entry("bin/tool").Content = evil() }),
		of("content", "another content, given inline by the tar-split", func(l *Layer) {
			l.Entry("bin/tool").Content = evil()
			inline(l, "bin/tool")
		}),
		of("content", "another content, all of the tar in one segment", func(l *Layer) {
			l.Entry("bin/tool").Content = evil()
			l.Split = wholeSegment(l)
		}),
		of("content", "another content, the good one under the name of another file", func(l *Layer) {
			l.Entry("bin/tool").Content = evil()
			l.Entry("bin/same").Content = []byte("good tool\n")
			l.Line("bin/tool").SetName("bin/same")
			renameSecond(l, "bin/same", "bin/tool")
		}),
		of("content", "another content, the good one in an entry that only the table has", func(l *Layer) {
			l.Entry("bin/tool").Content = evil()
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "reg", Name: "bin/other", Mode: 0o644}, Content: []byte("good tool\n")})
			l.Line("bin/tool").SetName("bin/other")
		}),
		of("content", "contents of two files of one size swapped", func(l *Layer) {
			a, b := l.Entry("bin/tool"), l.Entry("bin/same")
			a.Content, b.Content = b.Content, a.Content
		}),
		of("content", "one chunk of several is another one", func(l *Layer) {
			e := l.Entry("bin/long")
			e.Content = bytes.Replace(bytes.Clone(e.Content), []byte("a line"), []byte("A LINE"), 1)
		}),
		of("content", "the digest of the good content over chunks of another", func(l *Layer) {
			good := l.Entry("bin/long").Content
			l.Entry("bin/long").Content = bytes.ToUpper(good)
			l.Entry("bin/long").Edit = func(lines []Wire) []Wire {
				lines[0].Digest = l.Algorithm.FromBytes(good)
				return lines
			}
		}),
		of("content", "zeros where the tar has text", func(l *Layer) {
			e := l.Entry("bin/long")
			e.Content = append(make([]byte, 2000), e.Content[2000:]...)
		}),
		of("size", "a longer content", func(l *Layer) { l.Entry("bin/tool").Content = []byte("good tool\nand more\n") }),
		of("size", "a shorter content", func(l *Layer) { l.Entry("bin/tool").Content = []byte("good") }),
		of("size", "no content", func(l *Layer) { l.Entry("bin/tool").Content, l.Entry("bin/tool").Size = nil, 0 }),
		of("size", "content of an empty file", func(l *Layer) { l.Entry("etc/empty").Content = evil() }),
		of("size", "content of an empty file, which the tar-split gives too", func(l *Layer) {
			l.Entry("etc/empty").Content = evil()
			*l.Line("etc/empty") = FileLine("etc/empty", evil())
		}),
	}
}

func nameLies() []Lie {
	return []Lie{
		of("name", "another name", func(l *Layer) { l.Entry("bin/tool").Name, l.Entry("bin/hard").LinkName = "bin/root", "bin/root" }),
		of("name", "another name, in the tar-split too", func(l *Layer) {
			l.Entry("bin/same").Name = "bin/root"
			l.Line("bin/same").SetName("bin/root")
		}),
		of("name", "names of two files swapped", func(l *Layer) {
			a, b := l.Entry("bin/tool"), l.Entry("bin/same")
			a.Name, b.Name = b.Name, a.Name
		}),
		of("name", "names of two files swapped, in the tar-split too", func(l *Layer) {
			a, b := l.Entry("bin/tool"), l.Entry("bin/same")
			a.Name, b.Name = b.Name, a.Name
			l.Line("bin/tool").SetName("bin/same")
			renameSecond(l, "bin/same", "bin/tool")
		}),
		of("name", "a file more", func(l *Layer) {
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "reg", Name: "bin/more", Mode: 0o4755}, Content: evil()})
		}),
		of("name", "an empty file more", func(l *Layer) {
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "reg", Name: "etc/nologin", Mode: 0o644}})
		}),
		of("name", "a file more, which the tar-split puts behind the tar", func(l *Layer) {
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "reg", Name: "bin/more", Mode: 0o4755}, Content: evil()})
			l.Tar.End = append(make([]byte, 2*blockSize), evil()...)
			l.Split = append(l.Split[:len(l.Split)-1], Segment(make([]byte, 2*blockSize)), FileLine("bin/more", evil()))
			last := &l.Split[len(l.Split)-2]
			last.Payload = append(make([]byte, padding(l)), last.Payload...)
		}),
		of("name", "a file less", func(l *Layer) { drop(l, "etc/owned") }),
		of("name", "an empty file less", func(l *Layer) { drop(l, "etc/empty") }),
		of("name", "a directory less", func(l *Layer) { drop(l, "etc/") }),
		of("name", "one letter in upper case", func(l *Layer) { l.Entry("etc/empty").Name = "etc/Empty" }),
	}
}

func orderLies() []Lie {
	intoLink := []Member{File("d/f", []byte("evil\n")), Dir("e/"), Symlink("d", "e")}
	linkFirst := []Member{Symlink("d", "e"), Dir("e/"), File("d/f", []byte("evil\n"))}
	hidden := []Member{File(".wh.d", nil), Dir("d/"), File("d/up", []byte("up\n"))}
	opaque := []Member{Dir("d/"), File("d/up", []byte("up\n")), File(".wh.d", nil)}
	through := []Member{Dir("a/"), Dir("b/"), Symlink("l", "a"), File("l/f", []byte("f\n"))}
	before := []Member{Dir("a/"), Dir("b/"), File("l/f", []byte("f\n")), Symlink("l", "a")}
	mode := Hardlink("hard", "file")
	mode.Mode = 0o4755
	return []Lie{
		two("order", "a link before what is below its name", intoLink, linkFirst),
		two("order", "a link after what is below its name", through, before),
		two("order", "a whiteout after what it hides, before it in the tar", hidden, opaque),
		two("order", "a whiteout before what it hides, after it in the tar", opaque, hidden),
		two("order", "two hard links of one file, whose modes differ",
			[]Member{File("file", []byte("f\n")), mode, Hardlink("other", "file")},
			[]Member{File("file", []byte("f\n")), Hardlink("other", "file"), mode}),
	}
}

func typeLies() []Lie {
	become := func(was, is string) Lie {
		return of("type", fmt.Sprintf("%s is a %s", was, is), func(l *Layer) {
			e := l.Entry(was)
			e.Type, e.Content, e.Size = is, nil, 0
			switch is {
			case "symlink":
				e.LinkName = "/etc/shadow"
			case "hardlink":
				e.LinkName = "bin/tool"
			case "reg":
				e.LinkName, e.Content = "", evil()
			}
		})
	}
	return []Lie{
		become("etc/owned", "symlink"), become("etc/owned", "hardlink"), become("etc/owned", "dir"),
		become("etc/empty", "fifo"), become("etc/empty", "char"), become("link", "reg"),
		become("bin/hard", "reg"), become("null", "block"), become("fifo", "reg"), become("etc/empty", "block"),
	}
}

func attributeLies() []Lie {
	set := func(name, path string, edit func(*Entry)) Lie {
		return of("attributes", name, func(l *Layer) { edit(l.Entry(path)) })
	}
	return []Lie{
		set("mode", "etc/owned", func(e *Entry) { e.Mode = 0o666 }),
		set("setuid", "etc/owned", func(e *Entry) { e.Mode |= 0o4000 }),
		set("mode of a directory", "bin/", func(e *Entry) { e.Mode = 0o777 }),
		set("owner", "etc/owned", func(e *Entry) { e.UID = 0 }),
		set("group", "etc/owned", func(e *Entry) { e.GID = 0 }),
		set("owner of a link", "link", func(e *Entry) { e.UID = 5 }),
		set("time", "etc/owned", func(e *Entry) { e.ModTime = e.ModTime.Add(time.Second) }),
		set("a nanosecond", "etc/owned", func(e *Entry) { e.ModTime = e.ModTime.Add(1) }),
		set("no time", "etc/owned", func(e *Entry) { e.ModTime = time.Time{} }),
		set("value of an attribute", "etc/attr", func(e *Entry) { e.Xattrs = map[string][]byte{"user.kind": []byte("evil")} }),
		set("an attribute less", "etc/attr", func(e *Entry) { e.Xattrs = nil }),
		set("an attribute more", "etc/owned", func(e *Entry) {
			e.Xattrs = map[string][]byte{"security.capability": []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}
		}),
		set("device number", "null", func(e *Entry) { e.DevMinor = 1 }),
		set("mode of a hard link", "bin/hard", func(e *Entry) { e.Mode |= 0o4000 }),
	}
}

func whiteoutLies() []Lie {
	return []Lie{
		of("whiteouts", "another name is hidden", func(l *Layer) { l.Entry("gone/.wh.file").Name = "gone/.wh.other" }),
		of("whiteouts", "nothing is hidden", func(l *Layer) { drop(l, "gone/.wh.file") }),
		of("whiteouts", "one name more is hidden", func(l *Layer) {
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "reg", Name: "gone/.wh.more", Mode: 0o644}})
		}),
		of("whiteouts", "the opaque directory is none", func(l *Layer) { drop(l, "opaque/.wh..wh..opq") }),
		of("whiteouts", "another directory is opaque", func(l *Layer) { l.Entry("opaque/.wh..wh..opq").Name = "etc/.wh..wh..opq" }),
		of("whiteouts", "a directory more is opaque", func(l *Layer) {
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "reg", Name: "bin/.wh..wh..opq", Mode: 0o644}})
		}),
		of("whiteouts", "a whiteout is a file", func(l *Layer) { l.Entry("gone/.wh.file").Name = "gone/file" }),
		of("whiteouts", "a file is a whiteout", func(l *Layer) { l.Entry("etc/empty").Name = "etc/.wh.empty" }),
		of("whiteouts", "a device stands for a whiteout", func(l *Layer) {
			e := l.Entry("null")
			e.DevMajor, e.DevMinor = 0, 0
		}),
	}
}

func linkLies() []Lie {
	return []Lie{
		of("links", "target of a symbolic link", func(l *Layer) { l.Entry("link").LinkName = "bin/same" }),
		of("links", "target of a hard link", func(l *Layer) { l.Entry("bin/hard").LinkName = "bin/same" }),
		of("links", "a copy instead of a hard link", func(l *Layer) {
			e := l.Entry("bin/hard")
			e.Type, e.LinkName, e.Content = "reg", "", []byte("good tool\n")
		}),
		of("links", "a hard link instead of a copy", func(l *Layer) {
			l.Entry("etc/empty").Type, l.Entry("etc/empty").LinkName = "hardlink", "bin/tool"
		}),
		of("links", "a hard link more", func(l *Layer) {
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "hardlink", Name: "bin/login", LinkName: "bin/same", Mode: 0o644}})
		}),
		of("links", "a symbolic link more", func(l *Layer) {
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "symlink", Name: "bin/login", LinkName: "same", Mode: 0o777}})
		}),
	}
}

func duplicateLies() []Lie {
	twice := []Member{File("bin/tool", []byte("good\n")), File("bin/tool", []byte("evil\n"))}
	spelled := []Member{File("bin/tool", []byte("good\n")), File("./bin/tool", []byte("evil\n"))}
	return []Lie{
		two("duplicates", "the tar has a name twice, the table the first", twice, twice[:1]),
		two("duplicates", "the tar has a name twice, the table the last", twice, twice[1:]),
		two("duplicates", "the tar has a name in two spellings, the table one", spelled, spelled[:1]),
		two("duplicates", "the table has a name twice", twice[:1], twice),
		two("duplicates", "the table has a name in two spellings", spelled[:1], spelled),
		two("duplicates", "the tar has a file and a link of one name, the table the file", []Member{File("x", nil), Symlink("x", "y")}, []Member{File("x", nil)}),
		of("duplicates", "an entry twice", func(l *Layer) { l.TOC = append(l.TOC, *l.Entry("bin/tool")) }),
	}
}

func splitLies() []Lie {
	edit := func(name string, tell func(*Layer)) Lie { return of("tar-split", name, tell) }
	return []Lie{
		edit("another checksum", func(l *Layer) { l.Line("bin/tool").Payload = make([]byte, 8) }),
		edit("another size", func(l *Layer) { l.Line("bin/tool").Size-- }),
		edit("a line less", func(l *Layer) { l.Split = slices.Delete(l.Split, at(l, "bin/tool"), at(l, "bin/tool")+1) }),
		edit("a line twice", func(l *Layer) { l.Split = slices.Insert(l.Split, at(l, "bin/tool"), *l.Line("bin/tool")) }),
		edit("a segment less", func(l *Layer) { l.Split = slices.Delete(l.Split, at(l, "bin/tool")-1, at(l, "bin/tool")) }),
		edit("a segment more", func(l *Layer) { l.Split = append(l.Split, Segment(make([]byte, blockSize))) }),
		edit("lines in another order", func(l *Layer) {
			i, k := at(l, "bin/tool"), at(l, "bin/same")
			l.Split[i], l.Split[k] = l.Split[k], l.Split[i]
		}),
		edit("the tar-split of another tar", func(l *Layer) {
			if other, err := SplitOf(&Tar{Members: []Member{File("other", []byte("other"))}}); err == nil {
				l.Split = other
			}
		}),
		edit("nothing", func(l *Layer) { l.Split = []Line{} }),
		edit("not JSON", func(l *Layer) { l.EditSplit = func([]byte) []byte { return []byte("no JSON\n") } }),
		edit("a header is the content of a file", func(l *Layer) {
			i := at(l, "bin/same") - 1 // the header of bin/same behind the padding of bin/tool
			head := l.Split[i].Payload
			cut := len(head) - blockSize
			l.TOC = append(l.TOC, Entry{Wire: Wire{Type: "reg", Name: "cover", Mode: 0o644}, Content: head[cut:]})
			l.Split[i] = Segment(head[:cut])
			l.Split = slices.Insert(l.Split, i+1, FileLine("cover", head[cut:]))
		}),
	}
}

// at is where the line of a file is in the tar-split.
func at(l *Layer, name string) int {
	return slices.IndexFunc(l.Split, func(line Line) bool { return line.GetName() == name })
}

// inline makes the tar-split give the content of a file itself.
func inline(l *Layer, name string) {
	for _, m := range l.Tar.Members {
		if m.Name == name {
			l.Split[at(l, name)] = Segment(m.Content)
		}
	}
}

// wholeSegment is the tar-split that gives all of the tar itself; nil for a tar that cannot be written.
func wholeSegment(l *Layer) []Line {
	raw, err := l.Tar.Bytes()
	if err != nil {
		return nil
	}
	return []Line{Segment(raw)}
}

// renameSecond gives the second line of a name another one.
func renameSecond(l *Layer, from, to string) {
	seen := false
	for i := range l.Split {
		if l.Split[i].GetName() != from {
			continue
		}
		if seen {
			l.Split[i].SetName(to)
			return
		}
		seen = true
	}
}

// drop takes an entry out of the table.
func drop(l *Layer, name string) {
	l.TOC = slices.DeleteFunc(l.TOC, func(e Entry) bool { return e.Name == name })
}

// padding is the length of what fills the last block of the last member.
func padding(l *Layer) int {
	last := l.Tar.Members[len(l.Tar.Members)-1]
	return -len(last.Content) & (blockSize - 1)
}
