package trees

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sample makes a small tree with one of everything that needs no root.
func sample(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(root, "d"), 0o751))
	must(os.WriteFile(filepath.Join(root, "d", "f"), []byte("hello"), 0o640))
	must(os.Link(filepath.Join(root, "d", "f"), filepath.Join(root, "hard")))
	must(os.Symlink("d/f", filepath.Join(root, "soft")))
	must(unix.Mkfifo(filepath.Join(root, "pipe"), 0o600))
	must(os.WriteFile(filepath.Join(root, "\xff\"\n"), nil, 0o600))
	when := time.Unix(1600000000, 123456789)
	for _, name := range []string{"\xff\"\n", "pipe", "d/f", "d", ""} {
		must(os.Chtimes(filepath.Join(root, name), when, when))
	}
	now := unix.NsecToTimespec(when.UnixNano())
	must(unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(root, "soft"), []unix.Timespec{now, now}, unix.AT_SYMLINK_NOFOLLOW))
	return root
}

func TestCapture(t *testing.T) {
	rows, err := Capture(sample(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	byPath := map[Bytes]Row{}
	for _, row := range rows {
		got = append(got, string(row.Path))
		byPath[row.Path] = row
		if row.Mtime != 1600000000123456789 {
			t.Errorf("%q: mtime %d", row.Path, row.Mtime)
		}
	}
	if want := []string{"/", "/d", "/d/f", "/hard", "/pipe", "/soft", "/\xff\"\n"}; !reflect.DeepEqual(got, want) {
		t.Errorf("paths %q, want %q", got, want)
	}
	file := byPath["/hard"]
	if file.Size != 5 || file.Nlink != 2 || file.Mode != unix.S_IFREG|0o640 ||
		file.SHA256 != "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824" {
		t.Errorf("hard link: %+v", file)
	}
	if byPath["/soft"].Target != "d/f" || byPath["/pipe"].Mode != unix.S_IFIFO|0o600 || byPath["/d"].Mode != unix.S_IFDIR|0o751 {
		t.Errorf("rows: %+v", byPath)
	}
}

func TestSkip(t *testing.T) {
	rows, err := Capture(sample(t), &Options{Skip: func(path string) bool { return path == "/d" || path == "/pipe" }})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if strings.HasPrefix(string(row.Path), "/d") || row.Path == "/pipe" {
			t.Errorf("%q was not skipped", row.Path)
		}
	}
	if len(rows) != 4 {
		t.Errorf("%d rows", len(rows))
	}
}

func TestRoundTrip(t *testing.T) {
	rows, err := Capture(sample(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	rows[1].Xattrs = []Xattr{{Name: "user.\xfe", Value: "\x00\x01\xff"}}
	var buf bytes.Buffer
	if err := Write(&buf, rows); err != nil {
		t.Fatal(err)
	}
	again, err := Read(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(rows, again) {
		t.Errorf("read back %+v\nwant %+v", again, rows)
	}
	if _, err := Read(strings.NewReader(`{"path":"/x`)); err == nil {
		t.Error("a cut line was read without an error")
	}
}

// Every field of Row must be compared: a new field that Diff forgets fails here.
func TestDiffSeesEveryField(t *testing.T) {
	base := []Row{{Path: "/a"}, {Path: "/b"}}
	typ := reflect.TypeFor[Row]()
	for i := range typ.NumField() {
		name := typ.Field(i).Name
		changed := []Row{{Path: "/a"}, {Path: "/b"}}
		field := reflect.ValueOf(&changed[1]).Elem().Field(i)
		switch field.Kind() {
		case reflect.String:
			field.SetString("/other")
		case reflect.Slice:
			field.Set(reflect.ValueOf([]Xattr{{Name: "user.x", Value: "y"}}))
		case reflect.Int64:
			field.SetInt(1)
		default:
			field.SetUint(1)
		}
		if lines := Diff(base, changed, nil); len(lines) == 0 {
			t.Errorf("a difference in %s was not seen", name)
		}
		if lines := Diff(changed, base, nil); len(lines) == 0 {
			t.Errorf("a difference in %s was not seen the other way round", name)
		}
	}
	if lines := Diff(base, base, nil); lines != nil {
		t.Errorf("equal trees differ: %q", lines)
	}
}

func TestIgnore(t *testing.T) {
	a := []Row{{Path: "/", Mtime: 1, Mode: 1}}
	b := []Row{{Path: "/", Mtime: 2, Mode: 2}}
	lines := Diff(a, b, func(path, field string) bool { return path == "/" && field == "mtime" })
	if len(lines) != 1 || !strings.Contains(lines[0], "mode") {
		t.Errorf("got %q", lines)
	}
	if lines := Diff(a, nil, func(string, string) bool { return true }); len(lines) != 1 {
		t.Errorf("a missing path was ignored: %q", lines)
	}
}
