package oracle

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/directory"
	dockerarchive "go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/manifest"
	ociarchive "go.podman.io/image/v5/oci/archive"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

// transports are those of containers/image, by the prefixes that tocsin knows them under.
var transports = map[string]func(string) (types.ImageReference, error){
	"oci":            layout.ParseReference,
	"dir":            directory.NewReference,
	"oci-archive":    ociarchive.ParseReference,
	"docker-archive": dockerarchive.ParseReference,
}

// layoutOf writes a layout with a list of two platforms, named "list", and its first instance, named "image".
func layoutOf(t *testing.T) (dir string, configs map[digest.Digest]bool) {
	dir, configs = t.TempDir(), map[digest.Digest]bool{}
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, raw []byte) v1.Descriptor {
		d := digest.FromBytes(raw)
		if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", d.Encoded()), raw, 0o644); err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
	}
	encode := func(v any) []byte {
		raw, err := json.MarshalIndent(v, "", "\t")
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	var instances []v1.Descriptor
	for _, arch := range []string{"amd64", "arm64"} {
		platform := v1.Platform{OS: "linux", Architecture: arch}
		m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
		config := v1.Image{Platform: platform, RootFS: v1.RootFS{Type: "layers"}}
		for i := range 3 {
			var b bytes.Buffer
			tw := tar.NewWriter(&b)
			content := fmt.Sprint(arch, i)
			_ = tw.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content))})
			_, _ = tw.Write([]byte(content))
			_ = tw.Close()
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(b.Bytes()))
			m.Layers = append(m.Layers, put(v1.MediaTypeImageLayer, b.Bytes()))
		}
		m.Config = put(v1.MediaTypeImageConfig, encode(config))
		configs[m.Config.Digest] = true
		d := put(v1.MediaTypeImageManifest, encode(m))
		d.Platform = &platform
		instances = append(instances, d)
	}
	list := put(v1.MediaTypeImageIndex, encode(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: instances,
	}))
	image := instances[0]
	image.Platform = nil
	list.Annotations = map[string]string{v1.AnnotationRefName: "list"}
	image.Annotations = map[string]string{v1.AnnotationRefName: "image"}
	for name, raw := range map[string][]byte{
		"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`),
		"index.json": encode(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{list, image}}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, configs
}

func ref(t *testing.T, transport, rest string) types.ImageReference {
	t.Helper()
	r, err := transports[transport](rest)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// theirCopy copies all instances with containers/image and returns the top manifest's digest.
func theirCopy(t *testing.T, src, dst types.ImageReference, all bool) digest.Digest {
	t.Helper()
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: []signature.PolicyRequirement{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		t.Fatal(err)
	}
	selection := copy.CopySystemImage
	if all {
		selection = copy.CopyAllImages
	}
	raw, err := copy.Image(t.Context(), policy, dst, src, &copy.Options{ImageListSelection: selection})
	if err != nil {
		t.Fatalf("containers/image: %v", err)
	}
	d, err := manifest.Digest(raw)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// program builds tocsin, whose packages have dependencies that this module does not want.
func program(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "tocsin")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", out, "./cmd/tocsin")
	build.Dir = filepath.Join("..", "..")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return out
}

// ourCopy copies with tocsin, as the arguments say, and returns the digest that it prints.
func ourCopy(t *testing.T, tocsin string, args ...string) digest.Digest {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), tocsin, append([]string{"copy"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tocsin copy %s: %v\n%s", strings.Join(args, " "), err, &stderr)
	}
	return digest.Digest(strings.TrimSpace(string(out)))
}

// TestPlaces: what tocsin writes into a place containers/image reads with the same digest, and the reverse. A docker
// archive has no list, and containers/image keeps no manifest in it; there the configuration is what stays.
func TestPlaces(t *testing.T) {
	src, configs := layoutOf(t)
	tocsin := program(t)
	for _, what := range []string{"image", "list"} {
		for _, transport := range []string{"oci", "dir", "oci-archive", "docker-archive"} {
			if what == "list" && transport == "docker-archive" {
				continue
			}
			t.Run(what+" "+transport, func(t *testing.T) {
				dir := t.TempDir()
				place := func(name string) string {
					if transport == "dir" {
						return filepath.Join(dir, name)
					}
					return filepath.Join(dir, name) + ":ours/x:1"
				}
				wrote := ourCopy(t, tocsin, "oci:"+src+":"+what, transport+":"+place("ours"))
				read := theirCopy(t, ref(t, transport, place("ours")), ref(t, "dir", filepath.Join(dir, "read")), what == "list")
				made := theirCopy(t, ref(t, "oci", src+":"+what), ref(t, transport, place("theirs")), what == "list")
				back := ourCopy(t, tocsin, transport+":"+place("theirs"), "oci:"+filepath.Join(dir, "back")+":x")
				if transport != "docker-archive" {
					if read != wrote || back != made { // theirs are compressed on the way
						t.Errorf("tocsin wrote %s, read as %s; containers/image wrote %s, read as %s", wrote, read, made, back)
					}
					return
				}
				if c := configOf(t, filepath.Join(dir, "read", "manifest.json")); !configs[c] {
					t.Errorf("containers/image read an image with config %s", c)
				}
				if c := configOf(t, filepath.Join(dir, "back", "blobs/sha256", back.Encoded())); !configs[c] {
					t.Errorf("tocsin read an image with config %s", c)
				}
			})
		}
	}
}

func configOf(t *testing.T, path string) digest.Digest {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	return m.Config.Digest
}
