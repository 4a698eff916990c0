package integration

import (
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/integration/trees"
)

// treelistLayer is a layer with a static program that lists a tree, so that small images can show themselves.
func treelistLayer(t *testing.T) mkimage.Layer {
	t.Helper()
	built := filepath.Join(t.TempDir(), "treelist")
	if err := harness.Build("./integration/trees/cmd/treelist", built); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	return mkimage.File("/treelist", program)
}

// writeImage makes a layout with one gzip image, called "gzip".
func writeImage(t *testing.T, layers ...mkimage.Layer) string {
	t.Helper()
	layout := filepath.Join(t.TempDir(), "layout")
	if _, err := mkimage.Write(t.Context(), layout, "gzip", layers, nil); err != nil {
		t.Fatal(err)
	}
	return layout
}

// shown lists what a container of the image sees below dir.
func (l *lab) shown(ref, dir string) []trees.Row {
	l.t.Helper()
	return readRows(l.t, l.run(ref, "/treelist", dir))
}

func readRows(t *testing.T, out string) []trees.Row {
	t.Helper()
	rows, err := trees.Read(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// sameRows wants got to be what stock overlayfs shows of dir, but for the times that containerd takes from the clock.
func sameRows(t *testing.T, what, layout, dir string, want, got []trees.Row) {
	t.Helper()
	clock := fromTheClock(t, layout)
	if len(want) == 0 {
		t.Errorf("%s: nothing to compare with", what)
	}
	for _, line := range trees.Diff(want, got, func(name, field string) bool { return field == "mtime" && clock[path.Join(dir, name)] }) {
		t.Errorf("%s: %s", what, line)
	}
}

// removeAll removes images as a user would, and waits until their snapshots are gone.
func (l *lab) removeAll(refs ...string) {
	l.t.Helper()
	l.ctr(append([]string{"images", "rm", "--sync"}, refs...)...)
}

// The ways to pull an image that is not lazy, through the same snapshotter, all show the same tree, fetch all layers,
// and leave nothing behind.
func TestEagerPulls(t *testing.T) {
	harness.Need(t)
	layout := writeImage(t, append([]mkimage.Layer{treelistLayer(t)}, mkimage.Awkward()...)...)
	for _, version := range []string{"2.4", "2.1"} {
		t.Run("containerd "+version, func(t *testing.T) {
			l := newLab(t, &harness.Options{Containerd: version, Serve: true, Config: backgroundOff})
			plain := l.must(l.Push(t.Context(), "image:gzip", layout, "gzip"))
			l.convert(layout, "gzip", "hidden", "image:hidden")
			l.convert(layout, "gzip", "none", "image:chunked")
			l.convert(layout, "gzip", "only", "image:lazy")
			l.index("image", "gzip", "index")
			l.ctr("images", "pull", "--plain-http", "--snapshotter", "overlayfs", plain)
			stock := readRows(t, l.must(l.Run(t.Context(), harness.Container{Image: plain, Args: []string{"/treelist", "/awkward"}})))
			l.removeAll(plain)
			for _, pull := range []struct {
				tag   string
				flags []string
			}{
				{"index", nil}, {"hidden", nil}, {"chunked", nil}, {"gzip", nil},
				{"index", []string{"--local"}}, {"hidden", []string{"--local"}}, {"chunked", []string{"--local"}}, {"gzip", []string{"--local"}},
			} {
				what := strings.Join(append([]string{pull.tag}, pull.flags...), " ")
				ref := l.pull("image:"+pull.tag, pull.flags...)
				if n := len(l.pins()); n != 0 {
					t.Errorf("%s: an eager pull made %d pins", what, n)
				}
				sameRows(t, what, layout, "/awkward", stock, l.shown(ref, "/awkward"))
				l.removeAll(ref)
				l.checkNothingLeft()
			}
			ref := l.pull("image:lazy")
			sameRows(t, "lazy", layout, "/awkward", stock, l.shown(ref, "/awkward"))
			if len(l.pins()) == 0 {
				t.Error("nothing holds the lazy layers")
			}
			l.removeAll(ref)
			l.checkNothingLeft()
		})
	}
}

// index publishes the image behind a tag once more, as an index of one.
func (l *lab) index(repo, tag, as string) {
	l.t.Helper()
	raw, mediaType := l.raw(repo, "manifests", tag)
	im := l.image(repo, tag)
	l.putManifest(repo, as, v1.MediaTypeImageIndex, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: mediaType, Digest: im.digest, Size: int64(len(raw)),
			Platform: &v1.Platform{OS: im.config.OS, Architecture: im.config.Architecture},
		}},
	})
}

// A client that unpacks by itself cannot take a variant; it must fail, and nothing of it may stay.
func TestLocalPullOfVariant(t *testing.T) {
	harness.Need(t)
	layout := writeImage(t, treelistLayer(t), mkimage.File("/data/file", []byte("content\n")))
	for version, as := range versionsAndTypes() {
		if version != "2.4" && version != "2.1" {
			continue
		}
		t.Run("containerd "+version+" "+as, func(t *testing.T) {
			l := newLab(t, &harness.Options{Containerd: version, Serve: true, Config: backgroundOff, LayerTypes: as == "upstream"})
			l.convert(layout, "gzip", "only", "image:lazy", "--sentinel-type", as)
			t.Log(l.fails("images", "pull", "--local", "--plain-http", "--snapshotter", "tocsin", l.far+"/image:lazy"))
			l.checkNothingLeft()
			if out := l.ctr("snapshots", "--snapshotter", "tocsin", "ls"); strings.Count(out, "\n") != 1 {
				t.Errorf("containerd has snapshots:\n%s", out)
			}
			ref := l.pull("image:lazy") // and the daemon is none the worse for it
			if rows := l.shown(ref, "/data"); len(rows) != 2 {
				t.Errorf("rows of /data: %+v", rows)
			}
		})
	}
}
