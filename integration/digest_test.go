package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// TestDigestWithContainerd: of what the real containerd exports and of what tocsin saves, plain and compressed as a whole,
// digest says what the real registry has after push; containerd knows the image under the same digest and image ID.
func TestDigestWithContainerd(t *testing.T) {
	harness.Need(t)
	m := harness.Start(t, &harness.Options{Containerd: "2.4"})
	ctx := t.Context()
	must := func(out string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	ref := m.Registry + "/one:1"
	layout := writeImage(t, treelistLayer(t), mkimage.File("/data/which", []byte("1\n")))
	pushed := must(m.Tocsin(ctx, "push", layout, ref))
	must(m.Ctr(ctx, "images", "pull", "--plain-http", ref))
	path := func(name string) string { return filepath.Join(m.Dir, name) }
	must(m.Export(ctx, path("exported.tar"), ref))
	must(m.Tocsin(ctx, "save", "--format", "oci", "-o", path("oci.tar"), ref))
	saved := must(m.Tocsin(ctx, "save", "-o", path("docker.tar"), ref))
	must(m.Exec(ctx, "gzip", "-k", path("exported.tar")))
	must(m.Tocsin(ctx, "copy", "--compress", "zstd", "docker://"+ref, "oci-archive:"+path("zstd.tar")))
	for name, want := range map[string]string{
		"exported.tar": pushed, "exported.tar.gz": pushed, "oci.tar": pushed, "docker.tar": saved, "zstd.tar": "",
	} {
		got := must(m.Tocsin(ctx, "digest", path(name)))
		if want != "" && got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		sent := must(m.Tocsin(ctx, "push", "--expect", got, path(name), m.Registry+"/again:1"))
		if has := must(m.Tocsin(ctx, "digest", m.Registry+"/again:1")); sent != got || has != got {
			t.Errorf("%s: foretold %s, push said %s, the registry has %s", name, got, sent, has)
		}
	}
	// The node has the image under this digest, and its ID is what the archives say.
	if list := must(m.Ctr(ctx, "images", "list")); !strings.Contains(list, pushed) {
		t.Errorf("containerd does not know %s:\n%s", pushed, list)
	}
	id := must(m.Tocsin(ctx, "digest", "--image-id", path("exported.tar")))
	for _, name := range []string{"docker.tar", "zstd.tar"} {
		if got := must(m.Tocsin(ctx, "digest", "--image-id="+id, path(name))); got != id {
			t.Errorf("%s: image ID %s, want %s", name, got, id)
		}
	}
	if out := must(m.Ctr(ctx, "content", "get", id)); !strings.Contains(out, "diff_ids") {
		t.Errorf("the node has no config %s", id)
	}
	// An archive without any manifest, as docker wrote before 25.
	must(m.Exec(ctx, "tar", "-C", m.Dir, "-xf", path("docker.tar"), "manifest.json", "blobs"))
	must(m.Exec(ctx, "tar", "-C", m.Dir, "-cf", path("old.tar"), "manifest.json", "blobs"))
	if _, err := m.Tocsin(ctx, "digest", path("old.tar")); err == nil {
		t.Error("a digest that depends on a recipe was guessed")
	}
	for _, recipe := range []string{"gzip.v1", "none"} {
		got := must(m.Tocsin(ctx, "digest", "--recipe", recipe, path("old.tar")))
		must(m.Tocsin(ctx, "push", "--recipe", recipe, path("old.tar"), m.Registry+"/old:1"))
		if has := must(m.Tocsin(ctx, "digest", m.Registry+"/old:1")); has != got {
			t.Errorf("%s: foretold %s, the registry has %s", recipe, got, has)
		}
		must(m.Ctr(ctx, "images", "pull", "--plain-http", m.Registry+"/old:1"))
	}
}
