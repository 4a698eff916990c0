package copy

import (
	"archive/tar"
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/manifest"
)

// forgery is a layer whose tar is what its diffID says, and whose TOC shows something else.
type forgery struct {
	members []forge.Member
	lie     func(l *forge.Layer)
	differs chunked.Difference // what verify --trust says first
	// asTar: the tar has a form that nothing is proved by, so a plain image is its tar.
	asTar bool
}

// moved puts an element of a list to another place in it.
func moved[T any](list []T, from, to int) []T {
	e := list[from]
	list = slices.Delete(slices.Clone(list), from, from+1)
	return slices.Insert(list, to, e)
}

func forgeries() map[string]forgery {
	tool, other := forge.File("bin/tool", []byte("echo good\n")), forge.File("bin/other", []byte("echo good\n"))
	evil := []byte("echo EVIL\n")
	content := chunked.Difference{Name: "bin/tool", What: "content"}
	base := []forge.Member{forge.Dir("bin/"), tool, other}
	return map[string]forgery{
		"the whole tar in one segment": {base, func(l *forge.Layer) {
			l.Entry("bin/tool").Content = evil
			var all []byte
			for _, line := range l.Split {
				if line.Type == forge.Segment(nil).Type {
					all = append(all, line.Payload...)
				} else if line.Size > 0 {
					all = append(all, tool.Content...)
				}
			}
			l.Split = []forge.Line{forge.Segment(all)}
		}, content, false},
		"one content in a segment": {base, func(l *forge.Layer) {
			l.Entry("bin/tool").Content = evil
			*l.Line("bin/tool") = forge.Segment(tool.Content)
		}, content, false},
		"the line of another file": {base, func(l *forge.Layer) {
			l.Entry("bin/tool").Content = evil
			*l.Line("bin/tool") = forge.FileLine("bin/other", other.Content)
		}, content, false},
		"honest lines, content that nothing has": {base, func(l *forge.Layer) {
			l.Entry("bin/tool").Content = evil
		}, content, false},
		"lines of the TOC's content": {base, func(l *forge.Layer) {
			l.Entry("bin/tool").Content = evil
			*l.Line("bin/tool") = forge.FileLine("bin/tool", evil)
		}, content, false},
		"the order of a symlink": {
			[]forge.Member{forge.File("d/f", evil), forge.Dir("e/"), forge.Symlink("d", "e")},
			func(l *forge.Layer) { l.TOC = moved(l.TOC, 2, 0) },
			chunked.Difference{Name: "e/f", What: "extra"}, false,
		},
		"the order of a whiteout": {
			[]forge.Member{forge.File("d/.wh.x", nil), forge.Dir("d/x/"), forge.File("d/x/up", []byte("up"))},
			func(l *forge.Layer) { l.TOC = moved(l.TOC, 0, 2) },
			chunked.Difference{}, true, // a TOC cannot have a whiteout of what is there
		},
		"the order of a hard link's attributes": {
			[]forge.Member{tool, forge.Hardlink("bin/l", "bin/tool"), with(forge.Hardlink("bin/m", "bin/tool"), func(h *tar.Header) { h.Mode = 0o4755 })},
			func(l *forge.Layer) { l.TOC = moved(l.TOC, 2, 1) },
			chunked.Difference{Name: "bin/l", What: "mode"}, false,
		},
		"a second tar behind the end": {base, func(l *forge.Layer) {
			more := forge.Tar{Members: []forge.Member{forge.File("bin/tool", evil)}}
			raw, err := more.Bytes()
			if err != nil {
				panic(err)
			}
			l.Tar.End = append(make([]byte, 1024), raw...)
			l.Split = append(l.Split, forge.Segment(raw))
		}, chunked.Difference{}, true},
	}
}

func with(m forge.Member, change func(*tar.Header)) forge.Member {
	change(&m.Header)
	return m
}

// forged publishes a forgery as a plain image and as a variant that names its layer by the tar, and returns the tar.
func (w *world) forged(f forgery) (tar []byte, plain, variant string) {
	t := w.t
	t.Helper()
	l, err := forge.New(f.members...)
	if err != nil {
		t.Fatal(err)
	}
	f.lie(l)
	blob, err := l.Write()
	if err != nil {
		t.Fatal(err)
	}
	if tar, err = l.Tar.Bytes(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(w.dir, "forged")
	for name, sentinel := range map[string]string{"plain": "", "variant": manifest.SentinelTypeOCI} {
		im := forge.Image{Layers: []*forge.Blob{blob}, Sentinel: sentinel}
		bundle, err := im.Bundle()
		if err == nil {
			err = bundle.Layout(dir, name)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tar, "oci:" + dir + ":plain", "oci:" + dir + ":variant"
}

// A layer whose TOC is not its tar is refused by its tar, however its tar-split hides it, and verify --trust names the
// file. A variant of it is what its TOC shows, and what is exported of that is never the tar.
func TestForgedTarSplit(t *testing.T) {
	for name, f := range forgeries() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			raw, plain, variant := w.forged(f)
			got, err := w.compare(plain)
			switch {
			case f.asTar:
				if err != nil || got.Reason == "" || got.Layers != 0 {
					t.Errorf("verify --trust: %+v, %v", got, err)
				}
			case !errors.Is(err, ErrDiffID) || len(got.Differs) == 0:
				t.Errorf("verify --trust: %+v, %v", got, err)
			case (chunked.Difference{Name: got.Differs[0].File, What: got.Differs[0].What}) != f.differs:
				t.Errorf("verify --trust: %+v, want %+v", got.Differs[0], f.differs)
			}
			_, err = w.try(plain, "store:x", nil)
			if f.asTar {
				if err != nil {
					t.Fatal(err)
				}
				if got := w.stored("store:x", manifest.TOCUnbound); !bytes.Equal(got[0], raw) {
					t.Error("another tar is stored")
				}
				return
			}
			if !isFillDiffID(err) && !errors.Is(err, chunked.ErrMalformed) {
				t.Errorf("copied into the store: %v", err)
			}
			w.unnamed()
			for _, dst := range []string{"docker-archive:" + filepath.Join(w.dir, "x.tar"), "store:v"} {
				if _, err := w.try(variant, dst, nil); err == nil && dst != "store:v" {
					for _, l := range w.situation(dst).instances[0].image.Layers {
						if l.DiffID == digest.FromBytes(raw) {
							t.Errorf("%s has the layer of the tar", dst)
						}
					}
				}
			}
		})
	}
}
