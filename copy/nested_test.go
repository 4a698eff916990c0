package copy

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// nest is a layout whose list holds an image, a list of two more and an attestation, and the image again.
func (w *world) nest() string {
	tars := small(w.t)
	b := w.build("nest")
	amd := b.image("linux/amd64", algoGzip, tars...)
	arm := b.image("linux/arm64", algoGzip, tars...)
	inner := b.list(arm, b.image("linux/s390x", algoGzip, tars[0]), b.attestation(arm))
	return b.name(b.list(amd, inner, amd), "x")
}

// rule 11, rule 13, L14, L22: lists in lists and images listed twice come through unchanged, every blob once.
func TestNested(t *testing.T) {
	w := newWorld(t, 4)
	src := w.nest()
	steps := []string{src, w.docker("a:1"), "dir:" + t.TempDir(), "oci-archive:" + t.TempDir() + "/a.tar", w.layout("out") + ":x"}
	for i := 1; i < len(steps); i++ {
		w.front.Forget()
		res := w.copy(steps[i-1], steps[i], &Options{Preserve: true})
		if !bytes.Equal(w.raw(steps[i]), w.raw(src)) || res.Instances != 4 {
			t.Errorf("%s: other bytes, or %d instances", steps[i], res.Instances)
		}
		if i == 1 {
			// Two layers, three configs of images, the attestation's two blobs; five manifests and the list.
			if up, put := w.front.Count("POST", "/uploads/"), w.front.Count("PUT", "/manifests/"); up != 7 || put != 6 {
				t.Errorf("%d uploads, %d manifests", up, put)
			}
		}
		var got []string
		for _, in := range w.situation(steps[i]).instances {
			got = append(got, taken([]instance{in}))
		}
		if !slices.Equal(got, []string{"t", "t[ttt]", "t"}) {
			t.Errorf("%s: %v", steps[i], got)
		}
	}
	w.copy(src, "store:a", nil)
	records, _, err := w.env.Store.Resolve(w.ref("store:a").StoreName())
	if err != nil || len(records) != 3 {
		t.Errorf("%d records: %v", len(records), err)
	}
	if !bytes.Equal(w.raw("store:a"), w.raw(src)) {
		t.Error("store: other bytes")
	}
}

// rule 47, rule 49, L21: a manifest is written after all blobs, and after the manifests that it lists.
func TestChildrenBeforeParents(t *testing.T) {
	w := newWorld(t, 4)
	src := w.nest()
	w.copy(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algoZstd}})
	written := make(map[string]bool)
	manifests := 0
	for _, r := range w.front.Log() {
		name, isManifest := strings.CutPrefix(r.Path, "/v2/a/manifests/")
		if r.Method != "PUT" {
			continue
		}
		if !isManifest {
			if manifests > 0 {
				t.Errorf("blob %s after a manifest", r.Path)
			}
			continue
		}
		manifests++
		raw := w.raw(w.docker("a:1"))
		if name != "1" {
			raw = w.raw(w.docker("a@" + name))
		}
		written[name] = true
		if !manifest.IsList(manifest.GuessMediaType(raw)) {
			continue
		}
		l, err := manifest.ParseList(raw, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range l.Instances {
			if !written[d.Digest.String()] {
				t.Errorf("%s before its instance %s", name, d.Digest)
			}
		}
	}
	if manifests != 6 {
		t.Errorf("%d manifests", manifests)
	}
}

// Edits go through lists in lists, each of which has variants of its own; what is no image stays (rule 12).
func TestNestedEdited(t *testing.T) {
	w := newWorld(t, 4)
	src := w.nest()
	w.copy(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algoChunked}})
	s := w.situation(w.docker("a:1"))
	if got := taken(s.instances); got != "ttt[ttttt]t" {
		t.Fatalf("%s", got)
	}
	inner, before := s.instances[2], w.situation(src).instances[1]
	if inner.list.Annotations["kept"] != "yes" || inner.children[4].desc.Digest != before.children[2].desc.Digest {
		t.Error("the inner list lost something")
	}
	if s.instances[0].desc.Digest != s.instances[3].desc.Digest {
		t.Error("the image that is listed twice is two images now")
	}
	// Strip reaches inside, and a list without entries leaves too.
	one := func(p string) *Options {
		return &Options{Select: Select{Platforms: []v1.Platform{plat(t, p)}, Strip: true}}
	}
	for _, dst := range []string{w.docker("s390x:1"), "store:s390x"} {
		w.copy(src, dst, one("linux/s390x"))
		if l := w.listOf(dst); len(l) != 1 || l[0].MediaType != v1.MediaTypeImageIndex {
			t.Fatalf("%s: %+v", dst, l)
		}
	}
	if got := taken(w.situation(w.docker("s390x:1")).instances); got != "t[t]" {
		t.Error(got)
	}
	w.copy(src, w.docker("amd64:1"), one("linux/amd64"))
	if got := taken(w.situation(w.docker("amd64:1")).instances); got != "tt" {
		t.Error(got)
	}
	if _, err := w.try(src, w.docker("b:1"), &Options{Select: one("linux/s390x").Select, Preserve: true}); !errors.Is(err, ErrPreserve) {
		t.Errorf("strip of what must stay: %v", err)
	}
}

// One platform is found in a list in the list, by the list alone too.
func TestChooseNested(t *testing.T) { // rule 4, rule 5
	w := newWorld(t, 4)
	src := w.nest()
	arm := plat(t, "linux/arm64")
	want := w.situation(src).instances[1].children[0].desc.Digest
	if res := w.copy(src, w.layout("arm")+":x", &Options{Platform: &arm}); res.Digest != want {
		t.Errorf("%s, want %s", res.Digest, want)
	}
	if d, err := Resolve(t.Context(), w.env, w.ref(src), &Options{Platform: &arm}); err != nil || d != want {
		t.Errorf("%s, want %s: %v", d, want, err)
	}
	mips := plat(t, "linux/mips")
	if _, err := w.try(src, w.layout("mips")+":x", &Options{Platform: &mips}); !errors.Is(err, manifest.ErrNotFound) {
		t.Error(err)
	}
}

func TestDepth(t *testing.T) {
	for depth, want := range map[int]error{maxDepth: nil, maxDepth + 1: manifest.ErrUnsupported} {
		w := newWorld(t, 1)
		b := w.build("deep")
		d := b.image("linux/amd64", algoGzip, small(t)...)
		for range depth {
			d = b.list(d, d)
		}
		src := b.name(d, "x")
		if _, err := w.try(src, w.layout("out")+":x", nil); !errors.Is(err, want) {
			t.Errorf("%d lists: %v", depth, err)
		}
	}
}

// A few documents that name each other many times are refused before they are followed.
func TestTooManyEntries(t *testing.T) {
	w := newWorld(t, 1)
	b := w.build("wide")
	d := b.image("linux/amd64", algoGzip, small(t)...)
	for range 3 {
		d = b.list(slices.Repeat([]v1.Descriptor{d}, 200)...)
	}
	if _, err := w.try(b.name(d, "x"), w.layout("out")+":x", nil); !errors.Is(err, manifest.ErrUnsupported) {
		t.Error(err)
	}
}

// L16, rule 20: one image of a list goes under its own digest or, where that can be found, under the list's.
func TestDigestedImageOfList(t *testing.T) {
	w := newWorld(t, 4)
	src := w.multi(algoGzip)
	list, image := made(w.raw(src), "").digest.String(), w.listOf(src)[0].Digest.String()
	amd := plat(t, "linux/amd64")
	single := Options{Platform: &amd}
	tests := []struct {
		dst string
		o   Options
		ok  bool
	}{
		{"store:a@" + list, single, true}, {"store:a@" + image, single, true},
		{"store:a@" + made(nil, "").digest.String(), single, false},
		{w.docker("a@" + image), single, true},
		{w.docker("b@" + list), single, false}, // a registry cannot hold it there
		{w.docker("c@" + list), Options{}, true}, {w.docker("b@" + image), Options{}, false},
	}
	for _, tt := range tests {
		if _, err := w.try(src, tt.dst, &tt.o); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrPreserve) {
			t.Errorf("%s: %v", tt.dst, err)
		}
	}
	if n := w.front.Count("", "/v2/b/"); n != 0 {
		t.Errorf("%d requests for what was refused", n)
	}
	// rule 53: the store finds the image by either digest.
	for _, d := range []string{list, image} {
		if found, err := w.env.Store.Find(w.ref("store:a@" + d)); err != nil || len(found.Records) != 1 {
			t.Errorf("%s: %+v, %v", d, found, err)
		}
	}
}

// Stripping a Docker list leaves a Docker list; editing its images makes an OCI index (L5, rule 26).
func TestDockerList(t *testing.T) {
	w := newWorld(t, 4)
	b := w.build("dockerlist")
	var entries []map[string]any
	for _, arch := range []string{"amd64", "arm64"} {
		d := b.image("linux/"+arch, algoGzip, small(t)...)
		entries = append(entries, map[string]any{"mediaType": d.MediaType, "size": d.Size, "digest": d.Digest, "platform": map[string]string{"os": "linux", "architecture": arch}})
	}
	raw, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": manifest.DockerList, "manifests": entries})
	if err != nil {
		t.Fatal(err)
	}
	src := b.name(b.blob(manifest.DockerList, raw), "x")
	strip := Select{Platforms: []v1.Platform{plat(t, "linux/arm64")}, Strip: true}
	if res := w.copy(src, w.docker("a:1"), &Options{Select: strip}); res.MediaType != manifest.DockerList {
		t.Error(res.MediaType)
	}
	one := Select{Platforms: strip.Platforms}
	if res := w.copy(src, w.docker("a:3"), &Options{Select: one, Compress: Compression{Algorithm: algoZstd}}); res.MediaType != v1.MediaTypeImageIndex {
		t.Error(res.MediaType)
	}
	res := w.copy(src, w.docker("a:2"), &Options{Compress: Compression{Algorithm: algoChunked}})
	if l := w.listOf(w.docker("a:2")); res.MediaType != v1.MediaTypeImageIndex || len(l) != 4 {
		t.Errorf("%s with %d entries", res.MediaType, len(l))
	}
}
