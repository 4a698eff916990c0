package integration

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// TestContainerdPlace: a list goes into a real containerd and out again with its digest, containerd's garbage collection
// leaves it alone, ctr runs it; and what ctr pulled in part goes on in part.
func TestContainerdPlace(t *testing.T) { // L11, L13, rule 49
	harness.Need(t)
	module, err := harness.RepoDir()
	if err == nil {
		err = harness.Build("./cmd/tocsin", filepath.Join(module, "bin", "tocsin"))
	}
	if err != nil {
		t.Fatal(err)
	}
	layout := writeImage(t, treelistLayer(t), mkimage.File("/data/one", []byte("1\n")))
	for _, version := range []string{"2.4", "2.1"} {
		t.Run(version, func(t *testing.T) {
			m := harness.Start(t, &harness.Options{Containerd: version})
			ctx := t.Context()
			must := func(out string, err error) string {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				return strings.TrimSpace(out)
			}
			pushed := m.Registry + "/list:1"
			amd := must(m.Tocsin(ctx, "copy", "oci:"+layout+":gzip", "oci:"+m.Dir+"/two:amd64"))
			arm := must(m.Tocsin(ctx, "copy", "--platform", "linux/arm64", "tarball:"+rootTar(t, m.Dir), "oci:"+m.Dir+"/two:arm64"))
			listOf(t, m.Dir+"/two", map[string]string{"amd64": amd, "arm64": arm})
			want := must(m.Tocsin(ctx, "copy", "oci:"+m.Dir+"/two:list", "docker://"+pushed))
			written := m.Registry + "/list:2"
			if got := must(m.Tocsin(ctx, "copy", "docker://"+pushed, "containerd:"+m.Namespace+"/"+written)); got != want {
				t.Errorf("digest %s, want %s", got, want)
			}
			// An image that goes away takes containerd's collection with it.
			must(m.Ctr(ctx, "images", "tag", written, "docker.io/library/gone:1"))
			must(m.Ctr(ctx, "images", "rm", "--sync", "docker.io/library/gone:1"))
			back := "oci:" + filepath.Join(m.Dir, "back") + ":x"
			if got := must(m.Tocsin(ctx, "copy", "containerd:"+m.Namespace+"/"+written, back)); got != want {
				t.Errorf("back: digest %s, want %s", got, want)
			}
			if plan := must(m.Tocsin(ctx, "copy", "--dry-run", back, "docker://"+m.Registry+"/again:1")); strings.Contains(plan, "left out") {
				t.Errorf("not all came back: %s", plan)
			}
			if leases := must(m.Ctr(ctx, "leases", "list", "-q")); strings.Contains(leases, "tocsin-") {
				t.Errorf("leases %s", leases)
			}
			if out := must(m.Run(ctx, harness.Container{Image: written, Args: []string{"/treelist", "/data"}})); !strings.Contains(out, "one") {
				t.Errorf("the container saw %s", out)
			}

			// ctr takes this machine's platform only. The list keeps its digest all the same.
			other := m.Namespace + "-pulled"
			must(m.Ctr(ctx, "-n", other, "images", "pull", "--plain-http", "--platform", "linux/amd64", pushed))
			part := "oci:" + filepath.Join(m.Dir, "part") + ":x"
			if got := must(m.Tocsin(ctx, "copy", "containerd:"+other+"/"+pushed, part)); got != want {
				t.Errorf("in part: digest %s, want %s", got, want)
			}
			if plan := must(m.Tocsin(ctx, "copy", "--dry-run", "containerd:"+other+"/"+pushed, "docker://"+m.Registry+"/again:1")); !strings.Contains(plan, "it is not there; its entry stays") {
				t.Errorf("nothing is missing: %s", plan)
			}
			plain := must(m.Tocsin(ctx, "digest", "--platform", "linux/amd64", "docker://"+pushed))
			if got := must(m.Tocsin(ctx, "copy", "--platform", "linux/amd64", "containerd:"+other+"/"+pushed, "docker://"+m.Registry+"/one:1")); got != plain {
				t.Errorf("one image: digest %s, want %s", got, plain)
			}
			if got := must(m.Tocsin(ctx, "copy", "containerd:"+other+"/@"+plain, "store:one")); got != plain {
				t.Errorf("into the store: digest %s, want %s", got, plain)
			}
			must(m.Ctr(ctx, "-n", other, "images", "rm", "--sync", pushed))

			refused(t, m, 2, "copy", "containerd:"+other+"/"+pushed, part)
			refused(t, m, 1, "--address", filepath.Join(m.Dir, "nobody.sock"), "copy", "containerd:"+m.Namespace+"/"+written, part)
		})
	}
}

// rootTar is a tar of one file, unlike what other images have.
func rootTar(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "arm", Typeflag: tar.TypeReg, Mode: 0o644, Size: 4}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("arm\n")); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "arm.tar")
	if err := errors.Join(w.Close(), os.WriteFile(name, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	return name
}

// listOf adds an index of images that a layout has, by architecture, under the name "list".
func listOf(t *testing.T, layout string, images map[string]string) {
	t.Helper()
	idx := v1.Index{MediaType: v1.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	blob := func(d digest.Digest) string { return filepath.Join(layout, "blobs/sha256", d.Encoded()) }
	for arch, d := range images {
		raw, err := os.ReadFile(blob(digest.Digest(d)))
		if err != nil {
			t.Fatal(err)
		}
		idx.Manifests = append(idx.Manifests, v1.Descriptor{
			MediaType: v1.MediaTypeImageManifest, Digest: digest.Digest(d), Size: int64(len(raw)),
			Platform: &v1.Platform{OS: "linux", Architecture: arch},
		})
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	top := v1.Index{Manifests: []v1.Descriptor{{
		MediaType: idx.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw)),
		Annotations: map[string]string{v1.AnnotationRefName: "list"},
	}}}
	top.SchemaVersion = 2
	names, err := json.Marshal(top)
	if err == nil {
		err = errors.Join(os.WriteFile(blob(digest.FromBytes(raw)), raw, 0o644), os.WriteFile(filepath.Join(layout, "index.json"), names, 0o644))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// refused demands that tocsin ends with an exit code.
func refused(t *testing.T, m *harness.Machine, code int, args ...string) {
	t.Helper()
	_, err := m.Tocsin(t.Context(), args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Errorf("tocsin %s: %v, want exit code %d", strings.Join(args, " "), err, code)
	}
}
