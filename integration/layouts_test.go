package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
)

// uncounted is what containerd says of a sentinel that is no layer to it, and inapplicable of one that is a layer and that
// it has to unpack.
const (
	uncounted    = "number of layers and diffIDs don't match"
	inapplicable = "no processor for media-type"
)

// refusal is what containerd says when it cannot pull a variant with a snapshotter that is not tocsin's.
func refusal(sentinelType string) string {
	if sentinelType == "oci" {
		return inapplicable
	}
	return uncounted
}

// seesOne runs a container of the layouts' image, which must find the file in it. ctr may lose all that a container wrote
// when it ended before ctr had opened the pipe, so silence with success is asked again, a few times.
func (l *lab) seesOne(snapshotter, image string) {
	l.t.Helper()
	var out string
	for range 5 {
		out = l.must(l.Run(l.t.Context(), harness.Container{Snapshotter: snapshotter, Image: image, Args: []string{"/treelist", "/data"}}))
		if out != "" {
			break
		}
	}
	if !strings.Contains(out, "one") {
		l.t.Errorf("%s: a container of %s saw %q", snapshotter, image, out)
	}
}

// stock: without layer_types every containerd takes the hidden tag for the plain image, with either snapshotter, and with
// overlayfs nothing else of the layouts. With tocsin's it takes variants whose sentinel is a layer to it, from 2.1 on. What
// it could not take leaves nothing, and the daemon's log says what to do.
func (l *lab) stock(version string, p layouts) { // S9, S31
	l.t.Helper()
	hidden := l.far + "/layouts:hidden"
	for _, snapshotter := range []string{"overlayfs", "tocsin"} {
		l.ctr("images", "pull", "--plain-http", "--snapshotter", snapshotter, hidden)
		l.seesOne(snapshotter, hidden)
		if images := l.ctr("images", "ls"); !strings.Contains(images, p.tags["hidden"]) {
			l.t.Errorf("ctr images ls:\n%s", images)
		}
		held := l.contents()
		for _, layer := range l.image("layouts", p.plain).manifest.Layers {
			if !strings.Contains(encoded(held), layer.Digest.String()) {
				l.t.Errorf("%s: containerd does not hold the plain image's layer %s", snapshotter, layer.Digest)
			}
		}
		l.ctr("images", "rm", "--sync", hidden)
		l.collected()
		for _, ref := range []string{"@" + p.variant, ":only"} {
			switch {
			case snapshotter == "overlayfs" || p.sentinel == "upstream":
				l.cannotPull(snapshotter, ref, refusal(p.sentinel))
			case version == "2.0":
				l.cannotPull(snapshotter, ref, "the client names no image")
			default:
				l.lazily(ref, true)
				continue
			}
			l.collected()
		}
	}
	for _, snapshotter := range []string{"overlayfs", "tocsin"} {
		// A snapshot may be left until containerd's own lease ends: it was unpacking the other image.
		l.cannotPull(snapshotter, ":upstream", uncounted)
	}
}

func encoded[T ~string](all []T) string {
	var b strings.Builder
	for _, s := range all {
		b.WriteString(string(s) + " ")
	}
	return b.String()
}

// cannotPull wants no image of a pull that has to fail.
func (l *lab) cannotPull(snapshotter, ref, why string) {
	l.t.Helper()
	if said := l.fails("images", "pull", "--plain-http", "--snapshotter", snapshotter, l.far+"/layouts"+ref); !strings.Contains(said, why) {
		l.t.Errorf("%s, %s: %s", snapshotter, ref, said)
	}
	if left := l.ctr("images", "ls", "-q"); left != "" {
		l.t.Errorf("%s, %s: images left: %s", snapshotter, ref, left)
	}
}

// logged waits until the daemon's log has a text.
func (l *lab) logged(text string) {
	l.t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	for {
		raw, err := os.ReadFile(filepath.Join(l.Dir, "serve.log"))
		if err == nil && strings.Contains(string(raw), text) {
			return
		}
		select {
		case <-look.C:
		case <-deadline.C:
			l.t.Errorf("the daemon's log does not say %q (%v)", text, err)
			return
		}
	}
}

// lazily pulls with tocsin's snapshotter, and demands that the layers stay where they are, or do not.
func (l *lab) lazily(ref string, want bool) {
	l.t.Helper()
	name := l.pull("layouts" + ref)
	if n := len(l.contents()); want && n != 2 {
		l.t.Errorf("%s: containerd holds %d blobs, want manifest and config", ref, n)
	}
	if lazy := len(l.pins()) > 0; lazy != want {
		l.t.Errorf("%s: lazy is %v", ref, lazy)
	}
	l.seesOne("tocsin", name)
	l.ctr("images", "rm", "--sync", name)
	l.collected()
}

// TestPlainPull: plain ctr pulls a variant lazily, by a tag that is one and by the digest of a hidden one, and the hidden
// tag is the plain image all the same. A sentinel of the upstream draft's type needs layer_types for that, ours needs
// nothing. Another snapshotter takes no variant in either case.
func TestPlainPull(t *testing.T) { // S18, S19
	harness.Need(t)
	layout := writeImage(t, treelistLayer(t), mkimage.File("/data/one", []byte("1\n")))
	for version, sentinelType := range versionsAndTypes() {
		if version == "2.0" {
			continue // its ctr can neither count nor name images: TestPullInto
		}
		t.Run(version+" "+sentinelType, func(t *testing.T) {
			l := newLab(t, &harness.Options{Containerd: version, Serve: true, Config: backgroundOff, LayerTypes: sentinelType == "upstream"})
			p := l.publishLayouts(layout, sentinelType)
			for ref, lazy := range map[string]bool{":only": true, "@" + p.variant: true, ":hidden": false} {
				l.lazily(ref, lazy)
			}
			l.cannotPull("overlayfs", "@"+p.variant, refusal(sentinelType))
			l.collected()
			raw, err := os.ReadFile(filepath.Join(l.Dir, "serve.log"))
			if err != nil || sentinelType == "oci" && strings.Contains(string(raw), "layer_types") {
				t.Errorf("the daemon speaks of layer_types (%v):\n%s", err, raw)
			}
		})
	}
}
