package integration

import (
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/harness"
	"github.com/tocsin/tocsin/integration/mkimage"
	"github.com/tocsin/tocsin/manifest"
)

// A variant that copies another image's diff_ids claims its chain ids. Whoever comes first, in one namespace or two, the
// other image shows its own files.
func TestHostileDiffIDs(t *testing.T) {
	harness.Need(t)
	program := treelistLayer(t)
	l := newLab(t, &harness.Options{Serve: true, Config: backgroundOff, LayerTypes: true})
	number := 0
	for _, c := range []hostileCase{
		{victim: "only", as: "oci"}, {victim: "only", as: "upstream", shared: true},
		{victim: "upstream", as: "upstream"}, {victim: "upstream", as: "oci", shared: true},
		{victim: "none", as: "oci", shared: true}, {victim: "none", as: "upstream", shared: true},
	} {
		for _, c.first = range []string{"victim", "hostile"} {
			for _, c.namespace = range []string{"", "elsewhere"} {
				number++
				c.repo = fmt.Sprintf("h%d", number)
				t.Run(fmt.Sprintf("%s, sentinel of type %s, lower layer shared %t, %s first, namespace %q", c.victim, c.as, c.shared, c.first, c.namespace), func(t *testing.T) {
					l := *l
					l.t = t
					l.hostile(program, c)
				})
			}
		}
	}
}

type hostileCase struct {
	repo      string
	victim    string // how it was published: the flag --sentinel
	as        string // the type of its sentinel and the hostile image's: the flag --sentinel-type
	shared    bool   // the hostile image's lower layer is the victim's
	first     string // who is pulled first
	namespace string // of the hostile image; "": the victim's
}

// hostile publishes an image and another that copies its diff_ids, pulls both, and looks at what the first one shows.
// The hostile one must not be taken, but containerd answers for a chain that the namespace has without asking anybody.
func (l *lab) hostile(program mkimage.Layer, c hostileCase) {
	l.t.Helper()
	good, evil := "the good file of "+c.repo+"\n", "the EVIL file of "+c.repo+"\n"
	as := []string{"--sentinel-type", c.as}
	if c.victim == "none" {
		as = nil
	}
	l.convert(writeImage(l.t, program, mkimage.File("/data/file", []byte(good))), "gzip", c.victim, c.repo+":published", as...)
	lower := program
	if !c.shared {
		lower = mkimage.File("/other", []byte("of "+c.repo))
	}
	l.convert(writeImage(l.t, lower, mkimage.File("/data/file", []byte(evil))), "gzip", "only", c.repo+":evil", "--sentinel-type", c.as)
	l.variantAlone(c.repo, "published", "victim")
	l.copyDiffIDs(c.repo, "evil", "victim", "hostile")
	tags := []string{"victim", "hostile"}
	if c.first == "hostile" {
		tags = []string{"hostile", "victim"}
	}
	for _, tag := range tags {
		args := []string{"images", "pull", "--plain-http", "--snapshotter", "tocsin", l.far + "/" + c.repo + ":" + tag}
		if tag == "hostile" && c.namespace != "" {
			args = append([]string{"--namespace", l.Namespace + "-" + c.namespace}, args...)
		}
		_, err := l.Ctr(l.t.Context(), args...)
		switch unasked := c.first == "victim" && c.namespace == ""; {
		case tag == "victim" && err != nil:
			l.t.Fatalf("the victim cannot be pulled: %v", err)
		case tag == "hostile" && err == nil && !unasked:
			l.t.Error("the hostile image was taken")
		case tag == "hostile" && err != nil:
			l.t.Log(err)
		}
	}
	listing := l.run(l.far+"/"+c.repo+":victim", "/treelist", "/data")
	l.hasFile(listing, good)
}

// hasFile wants a listing to have a file with that content.
func (l *lab) hasFile(listing, content string) {
	l.t.Helper()
	want := digest.FromString(content).Encoded()
	for _, row := range readRows(l.t, listing) {
		if row.SHA256 == want {
			return
		}
	}
	l.t.Errorf("no file with the digest %s of %q in:\n%s", want, content, listing)
}

// variantAlone names the last instance of an index, or the image that a tag is.
func (l *lab) variantAlone(repo, tag, as string) {
	l.t.Helper()
	raw, mediaType := l.raw(repo, "manifests", tag)
	var index v1.Index
	decode(l.t, raw, &index)
	if n := len(index.Manifests); n > 0 {
		raw, mediaType = l.raw(repo, "manifests", index.Manifests[n-1].Digest.String())
	}
	l.put("http://"+l.Registry+"/v2/"+repo+"/manifests/"+as, mediaType, raw)
}

// copyDiffIDs publishes the image from with the diff_ids of victim; without its sentinel if victim has none.
func (l *lab) copyDiffIDs(repo, from, victim, as string) {
	l.t.Helper()
	im, v := l.image(repo, from), l.image(repo, victim)
	im.config.RootFS.DiffIDs = v.config.RootFS.DiffIDs
	if !manifest.IsSentinelDigest(v.config.RootFS.DiffIDs[0]) {
		im.manifest.Layers = im.manifest.Layers[1:]
		im.config.History = nil
	}
	im.manifest.Config = l.putBlob(repo, im.manifest.Config.MediaType, im.config)
	l.putManifest(repo, as, v1.MediaTypeImageManifest, im.manifest)
}
