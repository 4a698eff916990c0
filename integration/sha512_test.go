package integration

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// TestSHA512: an image whose digests are all sha512 is pulled and run by a containerd that knows them, from overlayfs and
// from tocsin, and its sentinel variant lazily; it goes into that containerd and out again unchanged. One that knows
// sha256 only says so by itself, and is not sent anything.
//
// The registry is our own in this process: the real one keeps no manifest under sha512.
func TestSHA512(t *testing.T) { // D1, D17, D21
	harness.Need(t)
	layout := writeImage(t, treelistLayer(t), mkimage.File("/data/one", []byte("1\n")))
	for version, knows := range map[string]bool{"2.4": true, "2.3": true, "2.1": false} {
		t.Run(version, func(t *testing.T) {
			l := newLab(t, &harness.Options{Containerd: version, Serve: true, Config: backgroundOff})
			seen := front.New(front.NewRegistry())
			server := httptest.NewServer(seen)
			t.Cleanup(server.Close)
			at := strings.TrimPrefix(server.URL, "http://")
			tocsin := func(args ...string) string {
				t.Helper()
				return strings.TrimSpace(l.must(l.Tocsin(t.Context(), args...)))
			}
			plain, lazy := at+"/a:plain", at+"/a:lazy"
			want := tocsin("copy", "--digest-algorithm", "sha512", "oci:"+layout+":gzip", "docker://"+plain)
			tocsin("copy", "--digest-algorithm", "sha512", "--compress", "zstd:chunked", "--sentinel", "only", "oci:"+layout+":gzip", "docker://"+lazy)
			here := "containerd:" + l.Namespace + "/" + at + "/b:1"
			if !knows {
				if said := l.fails("images", "pull", "--plain-http", plain); !strings.Contains(said, "unexpected commit digest") {
					t.Errorf("%s", said)
				}
				refused(t, l.Machine, 6, "copy", "docker://"+plain, here)
				if got := tocsin("copy", "--digest-algorithm", "sha256", "docker://"+plain, here); !strings.HasPrefix(got, "sha256:") {
					t.Errorf("in sha256: %s", got)
				}
				return
			}
			for _, c := range []struct{ snapshotter, ref string }{{"overlayfs", plain}, {"tocsin", plain}, {"tocsin", lazy}} {
				seen.Forget()
				l.ctr("images", "pull", "--plain-http", "--snapshotter", c.snapshotter, c.ref)
				out := l.must(l.Run(t.Context(), harness.Container{Snapshotter: c.snapshotter, Image: c.ref, Args: []string{"/treelist", "/data"}}))
				if !strings.Contains(out, "/one") {
					t.Errorf("%s on %s: the container saw %s", c.ref, c.snapshotter, out)
				}
				for _, r := range seen.Log() {
					if c.ref == lazy && r.Range == "" && r.Bytes > 100<<10 {
						t.Errorf("not lazily: %s, %d bytes", r, r.Bytes)
					}
				}
				l.ctr("images", "rm", "--sync", c.ref)
			}
			if got := tocsin("copy", "docker://"+plain, here); got != want {
				t.Errorf("into containerd: %s, want %s", got, want)
			}
			if out := l.must(l.Run(t.Context(), harness.Container{Snapshotter: "overlayfs", Image: at + "/b:1", Args: []string{"/treelist", "/data"}})); !strings.Contains(out, "/one") {
				t.Errorf("from containerd: the container saw %s", out)
			}
			if got := tocsin("copy", here, "docker://"+at+"/b:1"); got != want {
				t.Errorf("out of containerd: %s, want %s", got, want)
			}
		})
	}
}
