package copy

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
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

// rule 46, rule 70, L17: on request a foreign layer comes from its URLs, is compared with its digest, and is an ordinary
// layer from then on.
func TestDownloadForeign(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("a")
	tars := small(t)
	d := b.image("linux/amd64", algoGzip, tars...)
	var m v1.Manifest
	if err := json.Unmarshal(w.manifestOf(b.name(d, "right"), d), &m); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.dir, "blobs/sha256", m.Layers[0].Digest.Encoded())
	blob, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("credentials were sent")
		}
		switch req.URL.Path {
		case "/right":
			_, _ = rw.Write(blob)
		case "/wrong":
			_, _ = rw.Write(append([]byte("x"), blob[1:]...))
		case "/moved":
			http.Redirect(rw, req, "/right", http.StatusFound)
		default:
			http.NotFound(rw, req)
		}
	}))
	defer web.Close()
	m.Layers[0].MediaType = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	foreign := func(urls ...string) (there, here string) {
		m.Layers[0].URLs = urls
		name := digest.FromString(strings.Join(urls, " ")).Encoded()[:8]
		here = b.name(b.json(v1.MediaTypeImageManifest, m), name)
		w.copy(here, w.docker(name+":1"), nil)
		return w.docker(name + ":1"), here
	}
	with := &Options{Layers: Layers{DownloadForeign: true}}
	right, local := foreign(web.URL+"/nothing", web.URL+"/moved")
	dry, err := DryRun(t.Context(), w.env, w.ref(right), w.ref(w.docker("x:1")), nil)
	if err != nil || dry.Instances[0].Blobs[1].Action != ActionElsewhere {
		t.Errorf("%+v, %v", dry, err)
	}
	for _, dst := range []string{w.docker("to/a:1"), w.layout("to") + ":x", "docker-archive:" + t.TempDir() + "/x.tar"} {
		w.copy(right, dst, with)
		if l := w.situation(dst).instances[0].image.Layers[0]; l.URLs != nil || manifest.IsForeign(l.MediaType) {
			t.Errorf("%s: %+v", dst, l.Descriptor)
		}
		w.checkTars(dst, tars)
	}
	w.copy(right, "store:to", with) // which keeps manifests as they came
	if s := w.situation("store:to"); !manifest.IsForeign(s.instances[0].image.Layers[0].MediaType) {
		t.Errorf("%+v", s.instances[0].image.Layers[0])
	}
	wrong, _ := foreign(web.URL + "/wrong")
	gone, _ := foreign(web.URL + "/nothing")
	for i, c := range []struct {
		src  string
		o    *Options
		want error
	}{
		{wrong, with, manifest.ErrDigestMismatch},
		{gone, with, registry.ErrNotFound},
		{right, &Options{Layers: Layers{DownloadForeign: true}, Preserve: true}, ErrPreserve},
		{local, with, registry.ErrBadAnswer}, // a layout may not lead to this machine's network
	} {
		if _, err := w.try(c.src, w.layout("no")+":x", c.o); !errors.Is(err, c.want) {
			t.Errorf("%d: %v, want %v", i, err, c.want)
		}
	}
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
