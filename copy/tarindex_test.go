package copy

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

func index(t testing.TB, raw []byte) (*tarIndex, error) {
	return indexTar(t.Context(), bytes.NewReader(raw), int64(len(raw)))
}

func TestIndexTar(t *testing.T) {
	long := strings.Repeat("d/", 100) + "file"
	x, err := index(t, archive(t,
		member{name: "dir/"}, member{name: "./dir/a", content: "one"}, member{name: "dir/a", content: "one"},
		member{name: "b", link: "dir/a"}, member{name: "c", link: "dir/a", hard: true}, member{name: "dir/d", link: "../b"},
		member{name: "dir/d", link: "../b"}, member{name: long, content: "deep"}, member{name: "nowhere", link: "gone"},
		member{name: "loop", link: "pool"}, member{name: "pool", link: "loop"}, member{name: "empty"},
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"dir/a": "one", "b": "one", "c": "one", "dir/d": "one", long: "deep", "empty": ""} {
		if got, err := x.readUnverified(name, 10); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, want := range map[string]error{"nowhere": ErrNotFound, "loop": manifest.ErrMalformed, "dir": ErrNotFound, "x": ErrNotFound} {
		if _, err := x.find(name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	if _, err := x.readUnverified("dir/a", 2); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("a file above its limit: %v", err)
	}
}

func TestIndexTarRefuses(t *testing.T) {
	many := make([]member, maxArchiveEntries+1)
	for i := range many {
		many[i].name = "same"
	}
	header := func(h tar.Header) []byte {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		_, _ = tw.Write(make([]byte, h.Size))
		_ = tw.Close()
		return b.Bytes()
	}
	whole := archive(t, member{name: "a", content: strings.Repeat("a", 2000)})
	sparse := header(tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 512})
	sparse[156] = tar.TypeGNUSparse
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"absolute name":          {archive(t, member{name: "/a", content: "x"}), manifest.ErrMalformed},
		"name outside":           {archive(t, member{name: "a/../../b", content: "x"}), manifest.ErrMalformed},
		"name with dots":         {archive(t, member{name: "a/../b", content: "x"}), manifest.ErrMalformed},
		"symlink outside":        {archive(t, member{name: "a/b", link: "../../c"}), manifest.ErrMalformed},
		"absolute symlink":       {archive(t, member{name: "a", link: "/etc/passwd"}), manifest.ErrMalformed},
		"hard link outside":      {archive(t, member{name: "a", link: "../c", hard: true}), manifest.ErrMalformed},
		"other content":          {archive(t, member{name: "a", content: "x"}, member{name: "./a", content: "y"}), manifest.ErrMalformed},
		"other length":           {archive(t, member{name: "a", content: "x"}, member{name: "a", content: "xx"}), manifest.ErrMalformed},
		"file and link":          {archive(t, member{name: "a", content: "x"}, member{name: "a", link: "b"}), manifest.ErrMalformed},
		"link and file":          {archive(t, member{name: "a", link: "b"}, member{name: "a", content: "x"}), manifest.ErrMalformed},
		"two links":              {archive(t, member{name: "a", link: "b"}, member{name: "a", link: "c"}), manifest.ErrMalformed},
		"cut in a file":          {whole[:1500], manifest.ErrMalformed},
		"cut in a header":        {whole[:100], manifest.ErrMalformed},
		"too many":               {archive(t, many...), manifest.ErrMalformed},
		"a name beyond PATH_MAX": {archive(t, member{name: strings.Repeat("a", maxArchiveName+1)}), manifest.ErrMalformed},
		"sparse, GNU":            {sparse, manifest.ErrMalformed}, // its checksum is wrong too
	} {
		if _, err := index(t, c.raw); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, h := range []tar.Header{
		{Name: "a", Typeflag: tar.TypeGNUSparse},
		{Name: "a", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"GNU.sparse.realsize": "9"}},
	} {
		x := &tarIndex{tarNames: newTarNames[span]()}
		if err := x.enter(&h, span{}); !errors.Is(err, manifest.ErrUnsupported) {
			t.Errorf("sparse file: %v", err)
		}
	}
}

// FuzzTarIndex: whatever the bytes are, names stay inside, files lie within the archive, and finding ends.
func FuzzTarIndex(f *testing.F) {
	// Small ones: the fuzzer spends its time on every byte of a seed.
	tars := [][]byte{tarOf(f, file{"a", []byte("a")}), tarOf(f)}
	oci, _ := stored(f, algoGzip, tars[0], tars[1])
	seeds := [][]byte{
		saved(f, tars[0], tars[1]), legacy(f, tars[0], tars[1]), oci, crane(f, algoGzip, tars[0], tars[1]),
		archive(f, member{name: "a", content: "x"}, member{name: "b", link: "a"}, member{name: "c", link: "b", hard: true}),
		make([]byte, 1024),
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := index(t, raw)
		if err != nil {
			if !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, manifest.ErrUnsupported) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for name, s := range x.files {
			if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") {
				t.Errorf("name %q", name)
			}
			if s.size < 0 || s.off < 0 || s.off+s.size > int64(len(raw)) {
				t.Fatalf("%q at %+v of %d", name, s, len(raw))
			}
			if n, err := io.Copy(io.Discard, x.section(s)); n != s.size || err != nil {
				t.Fatalf("%q: %d of %d bytes, %v", name, n, s.size, err)
			}
		}
		for name := range x.links {
			_, _ = x.find(name)
		}
	})
}

// FuzzSaved: manifest.json and repositories give names that stay inside the archive, or an error.
func FuzzSaved(f *testing.F) {
	seeds := []string{
		`[{"Config":"c.json","RepoTags":["a:1","b.example/c:2"],"Layers":["1/layer.tar","2/layer.tar"]}]`,
		`[{"Config":"blobs/sha256/` + strings.Repeat("a", 64) + `","RepoTags":null,"Layers":[]}]`,
		`{"a":{"1":"` + strings.Repeat("1", 64) + `","2":"` + strings.Repeat("2", 64) + `"}}`,
		`[]`, `{}`, `null`, `[{"Config":"../c","Layers":["/x"]}]`,
	}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if saved, err := parseSaved(raw); err == nil {
			for _, s := range saved {
				for _, name := range append(s.Layers, s.Config) {
					clean := path.Clean(name)
					if path.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
						t.Errorf("name %q", name)
					}
				}
				for _, tag := range s.RepoTags {
					_ = normalName(tag)
				}
			}
		} else if !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%v", err)
		}
		if images, err := parseRepositories(raw); err == nil {
			for i, im := range images {
				if len(im.id) != 64 || len(im.tags) == 0 || i > 0 && images[i-1].id >= im.id {
					t.Errorf("images %+v", images)
				}
			}
		} else if !errors.Is(err, manifest.ErrMalformed) {
			t.Errorf("%v", err)
		}
	})
}
