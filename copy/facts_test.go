package copy

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// chunkedFact is a fact about a zstd:chunked blob.
func chunkedFact(tar, blob string) fact {
	toc := manifest.TOCRef{Digest: digest.FromString("toc of " + blob), TOC: manifest.Range{Off: 100, Len: 10}, TOCRawLen: 20,
		TarSplit: manifest.Range{Off: 200, Len: 10}, TarSplitRawLen: 20}
	return fact{Tar: digest.FromString(tar), Blob: digest.FromString(blob), Size: 1000, As: algoChunked, TOC: toc.Annotations()}
}

func plainFact(tar, blob, as string) fact {
	return fact{Tar: digest.FromString(tar), Blob: digest.FromString(blob), Size: 1000, As: as}
}

// What is not known for certain is no fact: a compression without a name, a table of contents without a tar-split or of
// another algorithm, annotations that nobody asked for. rule 18, rule 38
func TestFactValid(t *testing.T) {
	with := func(change func(*fact)) fact {
		f := chunkedFact("tar", "blob")
		f.TOC = maps.Clone(f.TOC)
		change(&f)
		return f
	}
	for what, f := range map[string]fact{
		"unknown compression": plainFact("tar", "blob", ""),
		"another compression": plainFact("tar", "blob", "xz"),
		"no size":             with(func(f *fact) { f.Size = 0 }),
		"no tar":              with(func(f *fact) { f.Tar = "" }),
		"a path for a blob":   with(func(f *fact) { f.Blob = "sha256:../../etc/passwd" }),
		"no TOC":              with(func(f *fact) { f.TOC = nil }),
		"TOC of plain zstd":   with(func(f *fact) { f.As = algoZstd }),
		"TOC beyond the blob": with(func(f *fact) { f.Size = 150 }),
		"more annotations":    with(func(f *fact) { f.TOC["x"] = "y" }),
		"no tar-split":        with(func(f *fact) { delete(f.TOC, "io.github.containers.zstd-chunked.tarsplit-position") }),
		"another algorithm":   with(func(f *fact) { f.Blob = digest.SHA512.FromString("blob") }),
	} {
		if f.valid() {
			t.Errorf("%s: valid", what)
		}
		facts := OpenFacts(filepath.Join(t.TempDir(), "facts"))
		facts.add(f)
		if len(facts.list) != 0 {
			t.Errorf("%s: remembered", what)
		}
	}
	for _, f := range []fact{chunkedFact("tar", "blob"), plainFact("tar", "blob", algoGzip), plainFact("tar", "tar", algoNone)} {
		if !f.valid() {
			t.Errorf("%+v is not valid", f)
		}
	}
}

// The newest come first, each blob once; a table of contents that was made here is not forgotten when its blob is read
// without it; the oldest go.
func TestMergeFacts(t *testing.T) {
	a, b, c := plainFact("t", "a", algoGzip), chunkedFact("t", "b"), plainFact("t", "c", algoZstd)
	if got := mergeFacts([]fact{a, b}, []fact{c, a}); !reflect.DeepEqual(got, []fact{b, c, a}) {
		t.Errorf("%v", got)
	}
	if got := mergeFacts([]fact{b, c}, []fact{plainFact("t", "b", algoZstd)}); !reflect.DeepEqual(got, []fact{c, b}) {
		t.Errorf("the table of contents is forgotten: %v", got)
	}
	if got := mergeFacts([]fact{b}, []fact{plainFact("other", "b", algoZstd)}); got[0].Tar != digest.FromString("other") || len(got) != 1 {
		t.Errorf("the older of two that cannot both be right: %v", got)
	}
	var many []fact
	for i := range maxFacts + 10 {
		many = append(many, plainFact("t", fmt.Sprint(i), algoGzip))
	}
	if got := mergeFacts(many, []fact{a}); len(got) != maxFacts || got[len(got)-1].Blob != a.Blob || got[0].Blob != many[11].Blob {
		t.Errorf("%d facts, the oldest %v", len(got), got[0])
	}
}

// A file outlives its process and is merged with what others wrote meanwhile. One that is damaged, or that another user
// may have written, is ignored and then replaced. rule 18
func TestFactsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cache", "facts")
	a, b := plainFact("t", "a", algoGzip), chunkedFact("t", "b")
	one, two := OpenFacts(path), OpenFacts(path)
	one.add(a)
	two.add(b)
	for _, f := range []*Facts{one, two} {
		if err := f.Save(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, want ...fact) {
		t.Helper()
		got := OpenFacts(path).of(a.Tar)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("two processes", b, a)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := map[string]func(path string) error{
		"others may write":   func(path string) error { return os.Chmod(path, 0o666) },
		"the group may":      func(path string) error { return os.Chmod(path, 0o660) },
		"too big":            func(path string) error { return os.Truncate(path, maxFactsFile+1) },
		"a symbolic link":    func(path string) error { return os.Symlink(path+".real", path) },
		"not a file at all":  func(path string) error { return os.Mkdir(path, 0o700) },
		"zeros":              func(path string) error { return os.WriteFile(path, make([]byte, 100), 0o600) },
		"another user's own": func(path string) error { return os.Chown(path, 12345, -1) },
	}
	for what, damage := range damaged {
		t.Run(what, func(t *testing.T) {
			if strings.HasPrefix(what, "another user") && os.Geteuid() != 0 {
				t.Skip("only root can give a file away")
			}
			path = filepath.Join(t.TempDir(), "facts")
			if what != "a symbolic link" && what != "not a file at all" {
				if err := os.WriteFile(path, raw, 0o600); err != nil {
					t.Fatal(err)
				}
			} else if err := os.WriteFile(path+".real", raw, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := damage(path); err != nil {
				t.Fatal(err)
			}
			check("damaged")
			if what == "not a file at all" {
				return
			}
			again := OpenFacts(path)
			again.add(a)
			if err := again.Save(); err != nil {
				t.Fatal(err)
			}
			check("written anew", a)
		})
	}
}

// A damaged line costs itself only.
func TestParseFactsSkips(t *testing.T) {
	a, b := plainFact("t", "a", algoGzip), chunkedFact("t", "b")
	raw, err := formatFacts([]fact{a, b})
	if err != nil {
		t.Fatal(err)
	}
	raw = append([]byte("{\"tar\":\n\x00\x00\n[]\nnull\n"), raw...)
	if got := parseFacts(append(raw, raw[:40]...)); !reflect.DeepEqual(got, []fact{a, b}) {
		t.Errorf("%v", got)
	}
}

// TestFlippedFacts: a bit that flips at rest loses a fact and never makes another.
func TestFlippedFacts(t *testing.T) {
	want := []fact{plainFact("t", "a", algoGzip), chunkedFact("t", "b")}
	raw, err := formatFacts(want)
	if err != nil {
		t.Fatal(err)
	}
	for at := range raw {
		for bit := range 8 {
			bad := bytes.Clone(raw)
			bad[at] ^= 1 << bit
			for _, got := range parseFacts(bad) {
				if !slices.ContainsFunc(want, func(f fact) bool { return reflect.DeepEqual(f, got) }) {
					t.Fatalf("byte %d, bit %d: %+v", at, bit, got)
				}
			}
		}
	}
}

func FuzzFacts(f *testing.F) {
	raw, err := formatFacts([]fact{plainFact("t", "a", algoGzip), chunkedFact("t", "b")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte("{\"tar\":\"sha256:zz\"}\nnull\n[]\n{}"))
	f.Add(bytes.Replace(raw, []byte("100:10"), []byte("-1:9999999999999999999"), 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list := parseFacts(raw)
		out, err := formatFacts(list)
		if err != nil {
			t.Fatal(err)
		}
		if again := parseFacts(out); !reflect.DeepEqual(list, again) {
			t.Fatalf("%v came back as %v", list, again)
		}
		if i := slices.IndexFunc(list, func(f fact) bool { return !f.valid() }); i >= 0 {
			t.Fatalf("%+v is none", list[i])
		}
	})
}
