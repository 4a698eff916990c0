package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// TestArchivesWithContainerd: containerd imports, unpacks and runs what tocsin wrote into each kind of archive, and
// what it exports tocsin reads with the digest that it had.
func TestArchivesWithContainerd(t *testing.T) {
	harness.Need(t)
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
			want := must(m.Tocsin(ctx, "digest", "oci:"+layout+":gzip"))
			for _, c := range []struct {
				name, to, as string
				flags        []string
			}{
				{"docker-archive", "docker-archive:" + filepath.Join(m.Dir, "docker.tar") + ":ours/docker:1", "docker.io/ours/docker:1", nil},
				{"oci-archive", "oci-archive:" + filepath.Join(m.Dir, "oci.tar") + ":1", "ours/oci:1", []string{"--base-name", "ours/oci"}},
			} {
				file := strings.SplitN(c.to, ":", 3)[1]
				written := must(m.Tocsin(ctx, "copy", "oci:"+layout+":gzip", c.to))
				if c.name == "oci-archive" && written != want {
					t.Errorf("%s: digest %s, want %s", c.name, written, want)
				}
				must(m.Ctr(ctx, append(append([]string{"images", "import"}, c.flags...), file)...))
				if list := must(m.Ctr(ctx, "images", "list")); !strings.Contains(list, c.as+" ") || !strings.Contains(list, written) {
					t.Fatalf("%s: imported %s as\n%s", c.name, written, list)
				}
				out := must(m.Run(ctx, harness.Container{Image: c.as, Args: []string{"/treelist", "/data"}}))
				if !strings.Contains(out, `"one"`) && !strings.Contains(out, `/one"`) {
					t.Errorf("%s: the container saw %s", c.name, out)
				}
				exported := filepath.Join(m.Dir, c.name+"-exported.tar")
				must(m.Export(ctx, exported, c.as))
				for _, from := range []string{"oci-archive:", "docker-archive:"} {
					if got := must(m.Tocsin(ctx, "digest", from+exported)); got != written {
						t.Errorf("%s exported, as %s digest %s, want %s", c.name, from, got, written)
					}
					back := "oci:" + filepath.Join(m.Dir, "back-"+c.name+"-"+from[:3])
					if got := must(m.Tocsin(ctx, "copy", from+exported, back)); got != written {
						t.Errorf("%s exported, copied from %s: digest %s, want %s", c.name, from, got, written)
					}
				}
				if err := os.Remove(file); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
