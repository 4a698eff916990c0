package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/trees"
	"github.com/tocsin/tocsin/manifest"
)

// TestPodmanAndBuildah: images that podman and buildah of this machine build and push as zstd:chunked are what their tables
// of contents and their tars both say, and are mounted as they were built. Old releases write no tar-split (Debian 12 has podman
// 4.3 and buildah 1.28), so nothing but the whole tar proves theirs; of newer ones the tar is rebuilt from the table.
func TestPodmanAndBuildah(t *testing.T) {
	harness.Need(t)
	b := newBuildah(t)
	for _, program := range []string{"buildah", "podman"} {
		t.Run(program, func(t *testing.T) {
			b := *b
			b.t = t
			layout := filepath.Join(t.TempDir(), "layout")
			b.run(program, "push", "--quiet", "--compression-format", "zstd:chunked", "localhost/top", "oci:"+layout+":x")
			provable := b.provable(layout)
			t.Logf("%s: provable by its tar-split: %t", strings.TrimSpace(b.run(program, "--version")), provable)
			out := b.tocsin("verify", "--trust", "--json", "oci:"+layout+":x")
			var compared []struct {
				Trust  string
				Layers int
			}
			if err := json.Unmarshal([]byte(out), &compared); err != nil || len(compared) != 1 || compared[0].Layers != 2 {
				t.Errorf("verify --trust: %s, %v", out, err)
			} else if want := map[bool]string{true: manifest.TOCUnbound.String(), false: manifest.TarOnly.String()}[provable]; compared[0].Trust != want {
				t.Errorf("trust %s, want %s", compared[0].Trust, want)
			}
			b.tocsin("copy", "--policy", b.policy, "oci:"+layout+":x", "store:"+program)
			point := t.TempDir()
			b.tocsin("mount", "store:"+program, point)
			defer b.run("umount", point)
			got, err := trees.Capture(point, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range trees.Diff(b.want, got, func(path, _ string) bool { return path == "/" }) {
				t.Error(line)
			}
		})
	}
}

// buildah builds images in a store of its own, whatever the machine's configuration says.
type buildah struct {
	t      *testing.T
	dir    string
	policy string
	binary string
	want   []trees.Row // the tree of localhost/top
}

func newBuildah(t *testing.T) *buildah {
	t.Helper()
	dir := t.TempDir()
	b := &buildah{t: t, dir: dir, policy: filepath.Join(dir, "policy.json"), binary: filepath.Join(dir, "tocsin")}
	for _, program := range []string{"podman", "buildah"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("TOCSIN_SKIP") == "never" {
				t.Fatal(err)
			}
			t.Skip("needs podman and buildah (make test installs them): ", err)
		}
	}
	if err := harness.Build("./cmd/tocsin", b.binary); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"policy.json": `{"default":[{"type":"insecureAcceptAnything"}]}`, "registries.conf": "", "containers.conf": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree := filepath.Join(dir, "tree")
	b.run("sh", "-c", awkwardTree, "sh", tree)
	base := strings.TrimSpace(b.run("buildah", "from", "scratch"))
	b.run("buildah", "copy", "--quiet", base, tree, "/")
	b.run("buildah", "commit", "--quiet", base, "localhost/base")
	top := strings.TrimSpace(b.run("buildah", "from", "localhost/base"))
	root := strings.TrimSpace(b.run("buildah", "mount", top))
	b.run("sh", "-c", `cd "$1" && rm -r d etc/gone && echo new >etc/new && rm etc/sl && mkdir etc/sl && echo in >etc/sl/in`, "sh", root)
	b.run("buildah", "commit", "--quiet", top, "localhost/top")
	after := strings.TrimSpace(b.run("buildah", "from", "localhost/top"))
	root = strings.TrimSpace(b.run("buildah", "mount", after))
	var err error
	if b.want, err = trees.Capture(root, nil); err != nil {
		t.Fatal(err)
	}
	return b
}

// awkwardTree makes a tree below $1: long names, hard links, modes, attributes, devices.
const awkwardTree = `set -e
mkdir -p "$1" && cd "$1" && mkdir -p usr/bin etc d/deep
echo hello >etc/f && ln etc/f etc/hl && ln -s f etc/sl && echo x >etc/gone && : >etc/empty
head -c 300000 /dev/urandom >usr/bin/big && chmod 4755 usr/bin/big && head -c 100000 /dev/zero >usr/holes
long=$(printf 'long/%.0s' $(seq 30)) && mkdir -p "$long" && echo x >"$long/$(printf 'n%.0s' $(seq 150))"
echo 'naïve' >'usr/naïve – ☃' && mkfifo d/ff usr/ff && mknod usr/null c 1 3 && chown 3000000:4000000 etc/empty && chmod 1777 d
touch -d '2001-02-03 04:05:06' etc/f`

// run runs a program, which must succeed, and returns what it wrote to stdout.
func (b *buildah) run(program string, args ...string) string {
	b.t.Helper()
	if program == "podman" || program == "buildah" {
		own := []string{"--root", filepath.Join(b.dir, "root"), "--runroot", filepath.Join(b.dir, "run"), "--storage-driver", "vfs"}
		switch args[0] {
		case "push", "commit", "from":
			args = append([]string{args[0], "--signature-policy", b.policy}, args[1:]...)
		}
		args = append(own, args...)
	}
	cmd := exec.CommandContext(b.t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "CONTAINERS_REGISTRIES_CONF="+filepath.Join(b.dir, "registries.conf"),
		"CONTAINERS_CONF="+filepath.Join(b.dir, "containers.conf"), "BUILDAH_ISOLATION=chroot", "LC_ALL=C.UTF-8",
		"TOCSIN_ROOT="+filepath.Join(b.dir, "store"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatalf("%s %q: %v\n%s", program, args, err, &stderr)
	}
	return string(out)
}

func (b *buildah) tocsin(args ...string) string {
	b.t.Helper()
	return b.run(b.binary, args...)
}

// provable says whether every layer of the one image in a layout has a tar-split, by its annotations.
func (b *buildah) provable(layout string) bool {
	b.t.Helper()
	read := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(layout, name))
		if err != nil {
			b.t.Fatal(err)
		}
		return raw
	}
	var index v1.Index
	decode(b.t, read("index.json"), &index)
	var m v1.Manifest
	decode(b.t, read("blobs/sha256/"+index.Manifests[0].Digest.Encoded()), &m)
	for _, l := range m.Layers {
		if l.Annotations["io.github.containers.zstd-chunked.tarsplit-position"] == "" {
			return false
		}
	}
	return true
}
