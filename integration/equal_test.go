package integration

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/trees"
)

// runcMounts are what runc mounts over in a container; there only `tocsin mount` shows the image.
var runcMounts = []string{"/proc", "/sys", "/dev", "/run", "/treelist"}

// TestEqualTrees: what tocsin shows of an image, on a mount and in a container, is what stock overlayfs shows of it.
// It runs for every image that tools/images.sh made; make bench makes more of them than make test.
func TestEqualTrees(t *testing.T) {
	harness.Need(t)
	treelist := filepath.Join(t.TempDir(), "treelist")
	if err := harness.Build("./integration/trees/cmd/treelist", treelist); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"debian-python", "debian-node", "debian-java"} {
		t.Run(name, func(t *testing.T) {
			if name != "debian-python" {
				if _, err := os.Stat(filepath.Join("..", ".cache", "images", name)); err != nil {
					t.Skip("made by make bench only: ", err)
				}
			}
			equalTrees(t, harness.Image(t, name), treelist)
		})
	}
}

func equalTrees(t *testing.T, layout, treelist string) {
	m := harness.Start(t, &harness.Options{Serve: true, Config: "background = \"off\"\n"})
	ctx := t.Context()
	must := func(_ string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	plain, err := m.Push(ctx, "image:gzip", layout, "gzip")
	must("", err)
	lazy := m.Registry + "/image:lazy"
	must(m.Tocsin(ctx, "copy", "--compress", "zstd:chunked", "--sentinel", "only", "oci:"+layout+":gzip", "docker://"+lazy))
	must(m.Tocsin(ctx, "copy", "docker://"+lazy, "store:image"))
	must(m.Ctr(ctx, "images", "pull", "--plain-http", "--snapshotter", "overlayfs", plain))
	must(m.Ctr(ctx, "images", "pull", "--plain-http", "--snapshotter", "tocsin", lazy))

	clock := fromTheClock(t, layout)
	compare := func(t *testing.T, want, got []trees.Row) {
		if len(want) < 3000 {
			t.Errorf("only %d paths", len(want))
		}
		differences := trees.Diff(want, got, func(path, field string) bool { return field == "mtime" && clock[path] })
		for i, line := range differences {
			if i == 30 {
				t.Fatalf("and %d more", len(differences)-i)
			}
			t.Error(line)
		}
	}
	t.Run("container", func(t *testing.T) {
		compare(t, inContainer(t, m, plain, "overlayfs", treelist), inContainer(t, m, lazy, "tocsin", treelist))
	})
	t.Run("mount", func(t *testing.T) {
		stock, ours := m.Dir+"/stock", m.Dir+"/ours"
		must("", errors.Join(os.Mkdir(stock, 0o700), os.Mkdir(ours, 0o700)))
		must(m.Ctr(ctx, "images", "mount", "--snapshotter", "overlayfs", plain, stock))
		want, err := trees.Capture(stock, nil)
		must(m.Ctr(ctx, "images", "unmount", "--rm", "--snapshotter", "overlayfs", stock))
		must("", err)
		must(m.Tocsin(ctx, "mount", "store:image", ours))
		got, err := trees.Capture(ours, nil)
		must(m.Tocsin(ctx, "umount", ours))
		must("", err)
		compare(t, want, got)
	})
}

func inContainer(t *testing.T, m *harness.Machine, ref, snapshotter, treelist string) []trees.Row {
	t.Helper()
	out, err := m.Run(t.Context(), harness.Container{
		Snapshotter: snapshotter,
		Image:       ref,
		Flags:       []string{"--privileged", "--mount", "type=bind,src=" + treelist + ",dst=/treelist,options=rbind:ro"},
		Args:        append([]string{"/treelist", "/"}, runcMounts...),
	})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := trees.Read(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// fromTheClock lists the directories whose mtime containerd takes from the clock: the root, and those that the topmost
// layer which touches them only implies.
func fromTheClock(t *testing.T, layout string) map[string]bool {
	t.Helper()
	clock := map[string]bool{"/": true}
	for _, layer := range gzipLayers(t, layout) {
		names := tarNames(t, filepath.Join(layout, "blobs", "sha256", layer.Encoded()))
		for _, name := range names {
			for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
				clock[dir] = true
			}
		}
		for _, name := range names {
			if name != "/" {
				delete(clock, name)
			}
		}
	}
	return clock
}

func gzipLayers(t *testing.T, layout string) []digest.Digest {
	t.Helper()
	read := func(name string, into any) {
		raw, err := os.ReadFile(filepath.Join(layout, name))
		if err == nil {
			err = json.Unmarshal(raw, into)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var index v1.Index
	read("index.json", &index)
	i := slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == "gzip" })
	var manifest v1.Manifest
	read("blobs/sha256/"+index.Manifests[i].Digest.Encoded(), &manifest)
	var layers []digest.Digest
	for _, layer := range manifest.Layers {
		layers = append(layers, layer.Digest)
	}
	return layers
}

// tarNames lists what a layer names, cleaned, whiteouts included.
func tarNames(t *testing.T, blob string) []string {
	t.Helper()
	file, err := os.Open(blob)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for reader := tar.NewReader(unzipped); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, path.Clean("/"+header.Name))
	}
}
