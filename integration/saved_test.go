package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// TestSavedWithContainerd: containerd imports all images that tocsin saved into one archive, under their names, and runs
// them; tocsin pushes and loads what containerd exported of several.
func TestSavedWithContainerd(t *testing.T) {
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
	refs := []string{m.Registry + "/one:1", m.Registry + "/two:2"}
	for i, ref := range refs {
		layout := writeImage(t, treelistLayer(t), mkimage.File("/data/which", []byte{byte('1' + i), '\n'}))
		must(m.Tocsin(ctx, "push", layout, ref))
	}
	for _, form := range []string{"docker", "oci"} {
		file := filepath.Join(m.Dir, form+".tar")
		digests := strings.Fields(must(m.Tocsin(ctx, append([]string{"save", "--format", form, "-o", file}, refs...)...)))
		if len(digests) != len(refs) {
			t.Fatalf("%s: digests %q", form, digests)
		}
		must(m.Ctr(ctx, "images", "import", file))
		list := must(m.Ctr(ctx, "images", "list"))
		for i, ref := range refs {
			if !strings.Contains(list, ref+" ") || !strings.Contains(list, digests[i]) {
				t.Fatalf("%s: %s %s is not in\n%s", form, ref, digests[i], list)
			}
			if out := must(m.Run(ctx, harness.Container{Image: ref, Args: []string{"/treelist", "/data"}})); !strings.Contains(out, "which") {
				t.Errorf("%s: %s shows %s", form, ref, out)
			}
		}
		exported := filepath.Join(m.Dir, form+"-exported.tar")
		must(m.Export(ctx, exported, refs...))
		for i, ref := range refs {
			if got := must(m.Tocsin(ctx, "push", exported, ref, m.Registry+"/again:"+form)); got != digests[i] {
				t.Errorf("%s: %s pushed again is %s, not %s", form, ref, got, digests[i])
			}
		}
		if got := strings.Fields(must(m.Tocsin(ctx, "load", "-i", exported))); len(got) != len(refs) {
			t.Errorf("%s: loaded %q", form, got)
		}
		must(m.Ctr(ctx, append([]string{"images", "remove", "--sync"}, refs...)...))
	}
}
