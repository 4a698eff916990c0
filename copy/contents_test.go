package copy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

func TestTransportOf(t *testing.T) {
	for _, c := range []struct {
		directory bool
		files     string
		want      manifest.Transport
	}{
		{true, "oci-layout index.json blobs", manifest.OCI},
		{true, "oci-layout", manifest.OCI}, // a layout that has no image yet
		{true, "version manifest.json", manifest.Dir},
		{true, "manifest.json", ""},
		{true, "", ""},
		{false, "oci-layout index.json blobs", manifest.OCIArchive},
		{false, "oci-layout index.json manifest.json repositories", manifest.OCIArchive},
		{false, "manifest.json repositories", manifest.DockerArchive},
		{false, "repositories", manifest.DockerArchive},
		{false, "oci-layout", ""},
		{false, "etc usr", ""},
	} {
		files := strings.Fields(c.files)
		got, err := transportOf(c.directory, func(name string) bool {
			for _, f := range files {
				if f == name {
					return true
				}
			}
			return false
		})
		if got != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, manifest.ErrUnsupported) {
			t.Errorf("%v %q: %q, %v, want %q", c.directory, c.files, got, err, c.want)
		}
	}
}

func TestPick(t *testing.T) {
	one := []Contained{{}}
	three := []Contained{{Names: []string{"docker.io/library/a:latest"}}, {Names: []string{"b:1", "c"}}, {Names: []string{"b:2", "a:latest"}}}
	for _, c := range []struct {
		images []Contained
		which  string
		want   int
		err    error
	}{
		{one, "", 0, nil},
		{one, "@0", 0, nil},
		{one, "@1", 0, ErrNotFound},
		{one, "@x", 0, ErrNotFound},
		{one, "x", 0, ErrNotFound},
		{nil, "", 0, ErrNotFound},
		{three, "", 0, ErrUsage},
		{three, "@2", 2, nil},
		{three, "b:2", 2, nil},
		{three, "docker.io/library/b:1", 1, nil},
		{three, "c:latest", 1, nil},
		{three, "a:latest", 2, nil}, // the very spelling before the normalised one
		{three, "a", 0, ErrUsage},   // two of them
		{three, "NO", 0, ErrNotFound},
	} {
		got, err := (&Contents{Path: "f", Images: c.images}).Pick(c.which)
		if got != c.want || !errors.Is(err, c.err) || c.err == nil && err != nil {
			t.Errorf("%q: %d, %v, want %d, %v", c.which, got, err, c.want, c.err)
		}
		if c.err == ErrUsage && c.which == "" && !strings.Contains(err.Error(), `@1 "b:1"`) {
			t.Errorf("the images are not named: %v", err)
		}
	}
}

func TestSaveAndReadContents(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	layers := []mkimage.Layer{mkimage.File("a", []byte("shared"))}
	if _, err := mkimage.Write(ctx, filepath.Join(dir, "img"), "team/x:1", layers, nil); err != nil {
		t.Fatal(err)
	}
	layers = append(layers, mkimage.File("b", []byte("own")))
	if _, err := mkimage.Write(ctx, filepath.Join(dir, "img"), "y", layers, nil); err != nil {
		t.Fatal(err)
	}
	ref := func(name string) manifest.Ref {
		return manifest.Ref{Transport: manifest.OCI, Path: filepath.Join(dir, "img"), Name: name, Index: -1}
	}
	for _, form := range []manifest.Transport{manifest.OCIArchive, manifest.DockerArchive} {
		t.Run(string(form), func(t *testing.T) {
			file := filepath.Join(dir, string(form)+".tar")
			to := Saved{Path: file, Transport: form}
			done, err := Save(ctx, &Env{}, to, []manifest.Ref{ref("team/x:1"), ref("y")}, nil)
			if err != nil {
				t.Fatal(err)
			}
			c, err := ReadContents(ctx, file)
			if err != nil || c.Transport != manifest.OCIArchive || len(c.Images) != 2 {
				t.Fatalf("%+v, %v", c, err)
			}
			for i, name := range []string{"docker.io/team/x:1", "y"} {
				at, err := c.Pick(name)
				if err != nil || at != i || c.Images[i].Digest != done[i].Digest {
					t.Errorf("%s at %d: %+v, %v", name, at, c.Images[i], err)
				}
				out := manifest.Ref{Transport: manifest.OCI, Path: filepath.Join(t.TempDir(), "out"), Index: -1}
				if res, err := Copy(ctx, &Env{}, c.Ref(i), out, nil); err != nil || res.Digest != done[i].Digest {
					t.Errorf("copied out again: %+v, %v", res, err)
				}
			}
			if form == manifest.DockerArchive {
				// The way readers of manifest.json take.
				in := manifest.Ref{Transport: form, Path: file, Name: "docker.io/team/x:1", Index: -1}
				out := manifest.Ref{Transport: manifest.OCI, Path: filepath.Join(t.TempDir(), "out"), Index: -1}
				if res, err := Copy(ctx, &Env{}, in, out, nil); err != nil || res.Digest != done[0].Digest {
					t.Errorf("read as a docker archive: %+v, %v", res, err)
				}
			}
			before, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Save(ctx, &Env{}, to, []manifest.Ref{ref("y"), ref("y")}, nil); !errors.Is(err, ErrUsage) {
				t.Errorf("one name twice: %v", err)
			}
			if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
				t.Errorf("the archive that was there is gone: %v", err)
			}
		})
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("left over: %v", entries)
	}
}
