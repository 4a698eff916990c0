package chunked

import (
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

//go:embed testdata/view.txt
var viewCases string

// viewCase is one case of testdata/view.txt.
type viewCase struct {
	name   string
	layers [][]testEntry
	tree   string
	stock  string // why overlayfs shows something else
}

// testEntry is an entry with its content.
type testEntry struct {
	Entry
	content string
}

func parseViewCases(tb testing.TB) (cases []viewCase) {
	tb.Helper()
	section := ""
	for line := range strings.Lines(viewCases) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "" || line[0] == '#':
		case strings.HasPrefix(line, "== "):
			cases = append(cases, viewCase{name: line[3:]})
		case strings.HasPrefix(line, "stock: "):
			cases[len(cases)-1].stock = line[7:]
		case strings.HasPrefix(line, "-- "):
			section = line[3:]
			if section == "layer" {
				c := &cases[len(cases)-1]
				c.layers = append(c.layers, nil)
			}
		case section == "layer":
			c := &cases[len(cases)-1]
			at := len(c.layers) - 1
			c.layers[at] = append(c.layers[at], parseTestEntry(tb, line))
		default:
			cases[len(cases)-1].tree += line + "\n"
		}
	}
	return cases
}

func parseTestEntry(tb testing.TB, line string) testEntry {
	tb.Helper()
	words := strings.Fields(line)
	e := testEntry{Entry: Entry{Name: words[1], Mode: 0o644, ModTime: time.Unix(0, 0)}}
	for _, w := range words[2:] {
		key, value, ok := strings.Cut(w, "=")
		if !ok {
			e.content = w
			continue
		}
		base := 10
		if key == "mode" {
			base = 8
		}
		n, err := strconv.ParseInt(value, base, 64)
		switch key {
		case "mode":
			e.Mode = n
		case "uid":
			e.UID = int(n)
		case "gid":
			e.GID = int(n)
		case "mtime":
			e.ModTime = time.Unix(n, 0)
		default:
			err = nil
			if e.Xattrs == nil {
				e.Xattrs = map[string][]byte{}
			}
			e.Xattrs[key] = []byte(value)
		}
		if err != nil {
			tb.Fatalf("%q: %v", line, err)
		}
	}
	e.setType(tb, words[0], strings.Contains(line, "mode="))
	return e
}

// setType reads the first letter, which says what content is.
func (e *testEntry) setType(tb testing.TB, letter string, hasMode bool) {
	tb.Helper()
	switch letter {
	case "f":
		e.Type, e.Size = TypeReg, int64(len(e.content))
		if e.Size > 0 {
			e.Digest = digest.FromString(e.content)
			e.Chunks = []Chunk{{Size: e.Size, Digest: e.Digest}}
		}
		return
	case "d":
		e.Type = TypeDir
		if !hasMode {
			e.Mode = 0o755
		}
	case "l":
		e.Type, e.LinkName = TypeSymlink, e.content
	case "h":
		e.Type, e.LinkName = TypeHardlink, e.content
	case "p":
		e.Type = TypeFifo
	case "c":
		e.Type = TypeChar
		if _, err := fmt.Sscanf(e.content, "%d:%d", &e.DevMajor, &e.DevMinor); err != nil {
			tb.Fatal(err)
		}
	default:
		tb.Fatalf("entry type %q", letter)
	}
	e.content = ""
}

// openLayer builds a layer's index.
func openLayer(tb testing.TB, entries []testEntry) *Index {
	tb.Helper()
	b := NewIndexBuilder(nil)
	for _, e := range entries {
		if err := b.Add(e.Entry); err != nil {
			tb.Fatal(err)
		}
	}
	return finishIndex(tb, b)
}

func finishIndex(tb testing.TB, b *IndexBuilder) *Index {
	tb.Helper()
	data, err := b.Finish()
	if err != nil {
		tb.Fatal(err)
	}
	x, err := OpenIndex(data)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

func merge(tb testing.TB, layers ...*Index) *View {
	tb.Helper()
	b, err := Merge(nil, layers)
	if err != nil {
		tb.Fatal(err)
	}
	v, err := OpenView(b)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// line is how a tree shows one name; group numbers the hardlinks that show more than one name or count.
func treeLine(path string, a Attr, link, content string, xattrs []xattr) string {
	links, mtime := fmt.Sprint(a.Nlink), fmt.Sprint(a.MtimeSec)
	if a.Mode&modeType == modeDir {
		links, mtime = "-", "-"
	}
	s := fmt.Sprintf("%o %d:%d %s %s %s", a.Mode, a.UID, a.GID, links, mtime, path)
	switch a.Mode & modeType {
	case modeReg:
		s += fmt.Sprintf(" %q", content)
	case modeSymlink:
		s += " -> " + link
	case modeChar, modeBlock:
		s += fmt.Sprintf(" dev %d:%d", a.RdevMajor, a.RdevMinor)
	}
	for _, x := range xattrs {
		s += fmt.Sprintf(" %s=%s", x.name, x.value)
	}
	return s
}

// groups adds " group N" to names of one inode with more than one link.
type groups struct{ ids []uint64 }

func (g *groups) of(a Attr, id uint64) string {
	if a.Nlink < 2 || a.Mode&modeType == modeDir {
		return ""
	}
	at := slices.Index(g.ids, id)
	if at < 0 {
		at = len(g.ids)
		g.ids = append(g.ids, id)
	}
	return fmt.Sprintf(" group %d", at+1)
}

func dumpView(tb testing.TB, v *View, layers []*Index, contents map[digest.Digest]string) string {
	tb.Helper()
	var out []string
	var g groups
	for path, e := range v.Walk() {
		content := ""
		if slot, obj, ok := v.Content(e); ok {
			content = contents[layers[slot].Object(obj).Digest]
		}
		a := v.Attr(e)
		out = append(out, treeLine(path, a, v.Readlink(e), content, v.xattrs(e))+g.of(a, uint64(e)))
	}
	return strings.Join(out, "\n") + "\n"
}

func TestView(t *testing.T) {
	cases := parseViewCases(t)
	if len(cases) < 30 {
		t.Fatalf("only %d cases", len(cases))
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			contents := map[digest.Digest]string{}
			var layers []*Index
			for _, l := range tc.layers {
				for _, e := range l {
					contents[e.Digest] = e.content
				}
				layers = append(layers, openLayer(t, l))
			}
			v := merge(t, layers...)
			if got := dumpView(t, v, layers, contents); got != tc.tree {
				t.Errorf("got\n%swant\n%s", got, tc.tree)
			}
			if a := v.Attr(0); a.Mode != modeDir|0o755 || a.UID != 0 || a.GID != 0 || a.MtimeSec != 0 {
				t.Errorf("root is %+v", a)
			}
			checkLookups(t, v)
		})
	}
}

// checkLookups compares Lookup and Parent with Child.
func checkLookups(t *testing.T, v *View) {
	t.Helper()
	for e := range uint32(v.NumEntries()) {
		for i := range v.NumChildren(e) {
			name, child := v.Child(e, i)
			if got, ok := v.Lookup(e, name); !ok || got != child {
				t.Errorf("lookup of %q in %d: %d, %v, want %d", name, e, got, ok, child)
			}
			if v.Attr(child).Mode&modeType == modeDir && v.Parent(child) != e {
				t.Errorf("parent of %d is %d, not %d", child, v.Parent(child), e)
			}
		}
		if _, ok := v.Lookup(e, "no such name"); ok {
			t.Errorf("found a name in %d that is not there", e)
		}
	}
}

// An implied directory has the time of what is below it, a directory of its own the time it was given.
func TestViewDirectoryTimes(t *testing.T) {
	dir := func(name string, mtime int64) testEntry {
		return testEntry{Entry: Entry{Type: TypeDir, Name: name, Mode: 0o755, ModTime: time.Unix(mtime, 7)}}
	}
	file := func(name string) testEntry { return testEntry{Entry: Entry{Type: TypeReg, Name: name}} }
	v := merge(t,
		openLayer(t, []testEntry{dir("a", 10), dir("b", 20), dir("b/c", 30)}),
		openLayer(t, []testEntry{file("a/f"), dir("b", 40), file("b/c/f"), file("d/f")}),
	)
	for name, want := range map[string]int64{"a": 10, "b": 40, "b/c": 30, "d": 0} {
		e, ok := v.lookupPath(name)
		if a := v.Attr(e); !ok || a.MtimeSec != want || want != 0 && a.MtimeNsec != 7 {
			t.Errorf("%s: %+v, want mtime %d", name, a, want)
		}
	}
	for name, want := range map[string]uint32{"": 5, "b": 3, "a": 2} {
		e, _ := v.lookupPath(name)
		if got := v.Attr(e).Nlink; got != want {
			t.Errorf("%q has %d links, want %d", name, got, want)
		}
	}
}

func TestMergeNothing(t *testing.T) {
	v := merge(t)
	if v.NumEntries() != 1 || v.NumLayers() != 0 || v.NumChildren(0) != 0 || v.Parent(0) != 0 {
		t.Errorf("the empty view has %d entries of %d layers", v.NumEntries(), v.NumLayers())
	}
}

func TestIndexBuilderRefuses(t *testing.T) {
	file := Entry{Type: TypeReg, Name: "f"}
	withContent := func(e Entry) Entry {
		e.Size, e.Digest = 1, digest.FromString("x")
		e.Chunks = []Chunk{{Size: 1, Digest: e.Digest}}
		return e
	}
	big := withContent(Entry{Type: TypeReg, Name: "big"})
	big.Chunks = []Chunk{{Size: 2, Digest: big.Digest}}
	sha512 := withContent(Entry{Type: TypeReg, Name: "g"})
	sha512.Digest = digest.SHA512.FromString("x")
	sha512.Chunks = []Chunk{{Size: 1, Digest: sha512.Digest}}
	for _, tc := range []struct {
		name    string
		entries []Entry
		strict  bool // refused in a TOC only
	}{
		{"below a file", []Entry{file, {Type: TypeReg, Name: "f/x"}}, false},
		{"hardlink to nothing", []Entry{{Type: TypeHardlink, Name: "h", LinkName: "f"}}, false},
		{"hardlink to itself", []Entry{file, {Type: TypeHardlink, Name: "f", LinkName: "f"}}, false},
		{"hardlink to a directory", []Entry{{Type: TypeDir, Name: "d"}, {Type: TypeHardlink, Name: "h", LinkName: "d"}}, false},
		{"hardlink to a whiteout", []Entry{{Type: TypeReg, Name: ".wh.f"}, {Type: TypeHardlink, Name: "h", LinkName: "f"}}, false},
		{"whiteout of nothing", []Entry{{Type: TypeReg, Name: "d/.wh."}}, false},
		{"whiteout of dot dot", []Entry{{Type: TypeReg, Name: "d/.wh..."}}, false},
		{"below a whiteout", []Entry{{Type: TypeReg, Name: ".wh.d/f"}}, false},
		{"below what a whiteout hides", []Entry{{Type: TypeReg, Name: ".wh.d"}, {Type: TypeReg, Name: "d/f"}}, false},
		{"symlink loop", []Entry{{Type: TypeSymlink, Name: "a", LinkName: "b"}, {Type: TypeSymlink, Name: "b", LinkName: "a"}, {Type: TypeReg, Name: "a/x"}}, false},
		{"symlink to nothing", []Entry{{Type: TypeSymlink, Name: "a"}}, false},
		{"unknown type", []Entry{{Type: "door", Name: "a"}}, false},
		{"owner", []Entry{{Type: TypeReg, Name: "a", UID: 1<<32 - 1}}, false},
		{"device", []Entry{{Type: TypeBlock, Name: "a", DevMajor: 4096}}, false},
		{"chunks beyond the size", []Entry{big}, false},
		{"mixed algorithms", []Entry{withContent(file), sha512}, false},
		{"xattr too big", []Entry{{Type: TypeDir, Name: "d", Xattrs: map[string][]byte{"user.a": make([]byte, 65536)}}}, false},
		{"twice", []Entry{file, file}, true},
		{"twice through a symlink", []Entry{{Type: TypeDir, Name: "d"}, {Type: TypeSymlink, Name: "s", LinkName: "/d"}, {Type: TypeReg, Name: "d/f"}, {Type: TypeReg, Name: "s/f"}}, true},
		{"file over implied directory", []Entry{{Type: TypeReg, Name: "d/f"}, {Type: TypeReg, Name: "d"}}, true},
		{"whiteout with content", []Entry{withContent(Entry{Type: TypeReg, Name: ".wh.x"})}, true},
		{"file over a directory with a name", []Entry{{Type: TypeDir, Name: "d"}, {Type: TypeReg, Name: "d"}}, false},
		{"directory over the link its name leads through", []Entry{{Type: TypeSymlink, Name: "a/b", LinkName: "/a"}, {Type: TypeDir, Name: "a/b/b"}}, false},
		{"link that a directory's name leads through", []Entry{
			{Type: TypeSymlink, Name: "l", LinkName: "d"}, {Type: TypeDir, Name: "l/e"}, {Type: TypeReg, Name: "l"},
		}, false},
		{"file over a directory with one in it", []Entry{{Type: TypeDir, Name: "d/e"}, {Type: TypeReg, Name: "d"}}, false},
		{"whiteout of what is there", []Entry{file, {Type: TypeReg, Name: ".wh.f"}}, false},
		{"whiteout of a directory with content", []Entry{{Type: TypeReg, Name: "d/f"}, {Type: TypeReg, Name: ".wh.d"}}, false},
		{"whiteout twice", []Entry{{Type: TypeReg, Name: ".wh.f"}, {Type: TypeReg, Name: "./.wh.f"}}, false},
		{"opaque over what is implied", []Entry{{Type: TypeReg, Name: "d/e/f"}, {Type: TypeReg, Name: "d/.wh..wh..opq"}}, false},
		{"opaque root over what is implied", []Entry{{Type: TypeDir, Name: "d"}, {Type: TypeReg, Name: "d/e/f"}, {Type: TypeReg, Name: ".wh..wh..opq"}}, false},
		{"broken attribute", []Entry{{Type: TypeReg, Name: "f", Xattrs: map[string][]byte{"security.capability": []byte("v")}}}, false},
		{"broken attribute of a device that is a whiteout", []Entry{{Type: TypeChar, Name: "f", Xattrs: map[string][]byte{"security.capability": []byte("v")}}}, false},
		{"out of a link in a link", []Entry{
			{Type: TypeSymlink, Name: "a", LinkName: "x/y"}, {Type: TypeSymlink, Name: "b", LinkName: "a/../z"}, {Type: TypeReg, Name: "b/f"},
		}, false},
		{"absolute link in a link", []Entry{
			{Type: TypeSymlink, Name: "a", LinkName: "/x"}, {Type: TypeSymlink, Name: "b", LinkName: "a"}, {Type: TypeReg, Name: "b/f"},
		}, false},
		{"below a dropped marker", []Entry{{Type: TypeReg, Name: ".wh..wh.plnk/1"}}, true},
		{"dropped marker with content", []Entry{withContent(Entry{Type: TypeReg, Name: ".wh..wh.plnk/1"})}, true},
		{"hardlink to a symlink", []Entry{{Type: TypeSymlink, Name: "s", LinkName: "x"}, {Type: TypeHardlink, Name: "h", LinkName: "s"}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := BuildIndex(&TOC{Entries: tc.entries}); !errors.Is(err, ErrMalformed) {
				t.Errorf("as a TOC: %v", err)
			}
			b := NewIndexBuilder(nil)
			var err error
			for _, e := range tc.entries {
				err = errors.Join(err, b.Add(e))
			}
			if (err == nil) != tc.strict || err != nil && !errors.Is(err, ErrMalformed) {
				t.Errorf("as a tar: %v", err)
			}
		})
	}
}

// What is read through a symlink of the layer is found by the name the tar gives it.
func TestObjectByPath(t *testing.T) {
	x := openLayer(t, []testEntry{
		parseTestEntry(t, "d usr/lib"), parseTestEntry(t, "l lib usr/lib"), parseTestEntry(t, "l up usr/lib/../../lib"),
		parseTestEntry(t, "f lib/a one"), parseTestEntry(t, "h b lib/a"), parseTestEntry(t, "f e"), parseTestEntry(t, "f same one"),
	})
	if x.NumObjects() != 1 || x.ContentBytes() != 3 {
		t.Errorf("%d objects, %d bytes", x.NumObjects(), x.ContentBytes())
	}
	for name, want := range map[string]bool{
		"lib/a": true, "usr/lib/a": true, "./b": true, "/up/a": true, "same": true,
		"e": false, "lib": false, "usr": false, "nope": false, "lib/../b": false, "usr/lib/a/x": false, "": false,
	} {
		if _, ok := x.ObjectByPath(name); ok != want {
			t.Errorf("ObjectByPath(%q): %v", name, ok)
		}
	}
	first, end := x.ObjectsByNumber(x.Object(0).Number())
	if first != 0 || end != 1 {
		t.Errorf("object 0 found at %d to %d", first, end)
	}
	if first, end = x.ObjectsByNumber(x.Object(0).Number() + 1); first != end {
		t.Errorf("no object found at %d to %d", first, end)
	}
}

// A flipped bit at rest is an error.
func TestTablesFlipped(t *testing.T) {
	c := parseViewCases(t)[0]
	x := openLayer(t, c.layers[0])
	index, err := BuildIndex(&TOC{Entries: []Entry{c.layers[0][0].Entry, c.layers[0][1].Entry}})
	if err != nil {
		t.Fatal(err)
	}
	view, err := Merge(nil, []*Index{x})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(index) {
		index[i/8] ^= 1 << (i % 8)
		if _, err := OpenIndex(index); !errors.Is(err, ErrMalformed) {
			t.Fatalf("index with bit %d flipped: %v", i, err)
		}
		index[i/8] ^= 1 << (i % 8)
	}
	for i := range 8 * len(view) {
		view[i/8] ^= 1 << (i % 8)
		if _, err := OpenView(view); !errors.Is(err, ErrMalformed) {
			t.Fatalf("view with bit %d flipped: %v", i, err)
		}
		view[i/8] ^= 1 << (i % 8)
	}
	for _, b := range [][]byte{nil, index[:len(index)-1], append(slices.Clone(index), 0), view} {
		if _, err := OpenIndex(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("index of %d bytes: %v", len(b), err)
		}
	}
}
