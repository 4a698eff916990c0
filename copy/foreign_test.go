package copy

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// rule 46: a layer that others may not pass on goes as its descriptor. Made anew it is a layer as any other, without
// URLs (rule 40), if the source has its bytes.
func TestForeignLayer(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("a")
	tars := small(t)
	d := b.image("linux/amd64", algoGzip, tars...)
	var m v1.Manifest
	if err := json.Unmarshal(w.manifestOf(b.name(d, "right"), d), &m); err != nil {
		t.Fatal(err)
	}
	m.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	m.Layers[0].URLs = []string{"https://127.0.0.1:1/never-asked"}
	here := b.name(b.json(v1.MediaTypeImageManifest, m), "here")
	m.Layers[0].Digest = digest.FromString("not here")
	src := b.name(b.json(v1.MediaTypeImageManifest, m), "foreign")
	for _, dst := range []string{w.docker("a:1"), "dir:" + t.TempDir(), "oci-archive:" + t.TempDir() + "/x.tar", w.layout("x") + ":x"} {
		w.copy(src, dst, &Options{Preserve: true})
		if l := w.situation(dst).instances[0].image.Layers[0]; l.URLs[0] != m.Layers[0].URLs[0] {
			t.Errorf("%s: %+v", dst, l)
		}
	}
	if n := w.front.Count("POST", "/v2/a/blobs/uploads/"); n != 2 { // the other layer and the config
		t.Errorf("%d uploads", n)
	}
	for _, dst := range []string{w.docker("b:1"), "docker-archive:" + t.TempDir() + "/x.tar"} {
		if _, err := w.try(src, dst, &Options{Compress: Compression{Algorithm: algoNone}}); err == nil {
			t.Errorf("%s: made of nothing", dst)
		}
	}
	w.copy(here, w.docker("c:1"), &Options{Compress: Compression{Algorithm: algoZstd}})
	if l := w.situation(w.docker("c:1")).instances[0].image.Layers[0]; l.URLs != nil || l.MediaType != v1.MediaTypeImageLayerZstd || manifest.IsForeign(l.MediaType) {
		t.Errorf("%+v", l)
	}
	w.checkTars(w.docker("c:1"), tars)
}

// rule 2: one image of a list is written under the reference itself, and nothing by its digest.
func TestOneOfAList(t *testing.T) {
	w := newWorld(t, 2)
	src := w.multi(algoGzip)
	amd := plat(t, "linux/amd64")
	res := w.copy(src, w.docker("a:1"), &Options{Platform: &amd})
	if n, tagged := w.front.Count("PUT", "/manifests/"), w.front.Count("PUT", "/v2/a/manifests/1"); n != 1 || tagged != 1 || res.Instances != 1 {
		t.Errorf("%d manifests, %d under the tag, %d instances", n, tagged, res.Instances)
	}
	if s := w.situation(w.docker("a:1")); s.list != nil || s.top.digest != w.listOf(src)[0].Digest {
		t.Errorf("%s", s.top.digest)
	}
}
