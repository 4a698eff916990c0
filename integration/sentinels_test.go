package integration

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

// brokenVariant changes a good variant into one that has some marks of a sentinel, and not all. scanned is a tar of the
// sentinel's type, and other the sentinel of the other type.
type brokenVariant func(im *published, scanned, other v1.Descriptor)

func brokenVariants() map[string]brokenVariant {
	return map[string]brokenVariant{
		"a tar of the sentinel's type": func(im *published, scanned, _ v1.Descriptor) {
			im.manifest.Layers[0], im.config.RootFS.DiffIDs[0] = scanned, scanned.Digest
		},
		"a tar of its type, with its diff_id": func(im *published, scanned, _ v1.Descriptor) { im.manifest.Layers[0] = scanned },
		"at index 1": func(im *published, _, _ v1.Descriptor) {
			slices.Reverse(im.manifest.Layers[:2])
			slices.Reverse(im.config.RootFS.DiffIDs[:2])
		},
		"twice": func(im *published, _, _ v1.Descriptor) {
			im.manifest.Layers = slices.Insert(im.manifest.Layers, 1, im.manifest.Layers[0])
			im.config.RootFS.DiffIDs = slices.Insert(im.config.RootFS.DiffIDs, 1, im.config.RootFS.DiffIDs[0])
		},
		"of each type once": func(im *published, _, other v1.Descriptor) {
			im.manifest.Layers = append(im.manifest.Layers, other)
			im.config.RootFS.DiffIDs = append(im.config.RootFS.DiffIDs, other.Digest)
		},
		"under a tar's type": func(im *published, _, _ v1.Descriptor) { im.manifest.Layers[0].MediaType = v1.MediaTypeImageLayer },
		"another diff_id of it": func(im *published, _, _ v1.Descriptor) {
			im.config.RootFS.DiffIDs[0] = digest.FromString("another")
		},
		"another size": func(im *published, _, _ v1.Descriptor) { im.manifest.Layers[0].Size++ },
		"diff_ids of both kinds": func(im *published, _, _ v1.Descriptor) {
			im.config.RootFS.DiffIDs[1] = digest.FromString("a tar")
		},
	}
}

// What has some marks of a sentinel is refused by containerd with tocsin's snapshotter, by pull and by pull --into, for
// both types of the sentinel. Nothing of it stays, and the good image is none the worse for it.
func TestBrokenSentinelsUnderContainerd(t *testing.T) { // threat 5, threat 6, S2, S4
	harness.Need(t)
	layout := writeImage(t, treelistLayer(t), mkimage.File("/data/one", []byte("1\n")))
	l := newLab(t, &harness.Options{Serve: true, Config: backgroundOff, LayerTypes: true})
	for as, types := range map[string][2]string{
		"oci":      {manifest.SentinelTypeOCI, manifest.SentinelTypeUpstream},
		"upstream": {manifest.SentinelTypeUpstream, manifest.SentinelTypeOCI},
	} {
		l.convert(layout, "gzip", "only", as+":good", "--sentinel-type", as)
		good := l.image(as, "good")
		scanned := l.putBytes(as, types[0], bytes.Repeat([]byte{0}, 1024)) // a tar without entries
		other := good.manifest.Layers[0]
		other.MediaType = types[1]
		for name, change := range brokenVariants() {
			t.Run(as+" "+name, func(t *testing.T) {
				l := *l
				l.t = t
				im := l.image(as, "good")
				change(&im, scanned, other)
				im.config.History = nil
				im.manifest.Config = l.putBlob(as, im.manifest.Config.MediaType, im.config)
				l.putManifest(as, "broken", v1.MediaTypeImageManifest, im.manifest)
				t.Log(l.fails("images", "pull", "--plain-http", "--snapshotter", "tocsin", l.far+"/"+as+":broken"))
				l.collected()
				if _, err := l.into(l.far + "/" + as + ":broken"); err == nil || !strings.Contains(err.Error(), "sentinel") {
					t.Errorf("pull --into: %v", err)
				}
				l.collected()
			})
		}
		name := l.pull(as + ":good")
		l.seesOne("tocsin", name)
		l.ctr("images", "rm", "--sync", name)
		l.collected()
	}
}

// The store is lost, and containerd remembers its images. A variant that it has not seen is pulled all the same, although
// all variants begin with one snapshot, and the ones from before are pulled again after they were removed.
func TestLostStore(t *testing.T) {
	harness.Need(t)
	for version, as := range versionsAndTypes() {
		if version != "2.4" && version != "2.1" {
			continue
		}
		t.Run(version+" "+as, func(t *testing.T) {
			l := newLab(t, &harness.Options{Containerd: version, Serve: true, Config: backgroundOff, LayerTypes: as == "upstream"})
			l.convert(writeImage(t, treelistLayer(t), mkimage.File("/data/one", []byte("1\n"))), "gzip", "only", "x:before", "--sentinel-type", as)
			l.convert(writeImage(t, mkimage.File("/data/one", []byte("1\n")), treelistLayer(t)), "gzip", "only", "x:after", "--sentinel-type", as)
			before := l.pull("x:before")
			l.seesOne("tocsin", before)
			l.stopServe()
			if err := os.RemoveAll(l.Root()); err != nil {
				t.Fatal(err)
			}
			if err := l.StartServe(); err != nil {
				t.Fatal(err)
			}
			after := l.pull("x:after")
			l.seesOne("tocsin", after)
			l.ctr("images", "rm", "--sync", before)
			l.seesOne("tocsin", l.pull("x:before"))
			for _, name := range []string{before, after} {
				l.ctr("images", "rm", "--sync", name)
			}
			l.collected()
		})
	}
}
