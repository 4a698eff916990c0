package oracle

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// TestDigestOfTheirArchives: of archives that crane and containers/image (which skopeo and podman are made of) wrote,
// tocsin says the digest that the image has in a real registry after tocsin push, compressed as a whole or not; and what
// is in the registry crane finds valid.
func TestDigestOfTheirArchives(t *testing.T) {
	src, _ := layoutOf(t)
	tocsin, reg, dir := program(t), newRegistry(t), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	theirCopy(t, ref(t, "oci", src+":image"), ref(t, "oci-archive", path("skopeo-oci.tar")+":ours/x:1"), false)
	theirCopy(t, ref(t, "oci", src+":list"), ref(t, "oci-archive", path("skopeo-list.tar")+":ours/x:1"), true)
	theirCopy(t, ref(t, "oci", src+":image"), ref(t, "docker-archive", path("podman.tar")+":ours/x:1"), false)
	craneArchives(t, path)
	for name, flags := range map[string][]string{
		"skopeo-oci.tar": nil, "skopeo-list.tar": nil, "crane.tar": nil, "crane-two.tar": nil,
		"podman.tar": {"--recipe", "gzip.v1"},
	} {
		packed := name + ".gz"
		compressFile(t, path(name), path(packed))
		for _, file := range []string{name, packed} {
			for i, flags := range [][]string{flags, append([]string{"--platform", "linux/amd64"}, flags...)} {
				args := append(flags, path(file))
				if name == "crane-two.tar" {
					args = append(args, "ours/two:2")
				}
				want := ran(t, tocsin, append([]string{"digest"}, args...)...)
				at := fmt.Sprintf("%s/digest:%d", reg.host, i)
				got := ran(t, tocsin, append(append([]string{"push", "--insecure", "--expect", want}, args...), at)...)
				there, err := crane.Digest(at, crane.Insecure)
				if err != nil || got != want || there != want {
					t.Errorf("%s %v: foretold %s, push said %s, the registry has %s, %v", file, flags, want, got, there, err)
				}
				checkPulled(t, at)
			}
		}
	}
	if out, err := exec.CommandContext(t.Context(), tocsin, "digest", path("podman.tar")).Output(); err == nil || bytes.HasPrefix(out, []byte("sha256:")) {
		t.Errorf("the digest of plain layers was guessed: %s", out)
	}
}

// craneArchives writes an image with gzip layers, and two images that share its configuration, as crane pull does.
func craneArchives(t *testing.T, path func(string) string) {
	t.Helper()
	var one ggcr.Image = empty.Image
	for i := range 2 {
		raw := makeTar(t, reg(fmt.Sprint("file", i), noise(uint64(i), 100_000)))
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if one, err = mutate.AppendLayers(one, layer); err != nil {
			t.Fatal(err)
		}
	}
	config, err := one.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", "amd64"
	if one, err = mutate.ConfigFile(one, config); err != nil {
		t.Fatal(err)
	}
	if err := crane.Save(one, "ours/x:1", path("crane.tar")); err != nil {
		t.Fatal(err)
	}
	two, err := mutate.Config(one, ggcr.Config{Cmd: []string{"two"}})
	if err != nil {
		t.Fatal(err)
	}
	images := map[name.Reference]ggcr.Image{}
	for text, im := range map[string]ggcr.Image{"ours/one:1": one, "ours/two:2": two} {
		tag, err := name.NewTag(text)
		if err != nil {
			t.Fatal(err)
		}
		images[tag] = im
	}
	if err := tarball.MultiRefWriteToFile(path("crane-two.tar"), images); err != nil {
		t.Fatal(err)
	}
}

// checkPulled has crane compare every blob and diffID of what is at a reference.
func checkPulled(t *testing.T, at string) {
	t.Helper()
	desc, err := crane.Get(at, crane.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if desc.MediaType.IsIndex() {
		index, err := desc.ImageIndex()
		if err == nil {
			err = validate.Index(index)
		}
		if err != nil {
			t.Error(err)
		}
		return
	}
	im, err := desc.Image()
	if err == nil {
		err = validate.Image(im)
	}
	if err != nil {
		t.Error(err)
	}
}

func ran(t *testing.T, program string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v\n%s", args, err, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func compressFile(t *testing.T, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write(raw)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
