package copy

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// published is a chunked image and its variant in a layout, in the registry.
func (w *world) published(layout string) (ref string, tars [][]byte) {
	w.t.Helper()
	return w.publishedAs(layout, "")
}

// publishedAs is published with a type of the sentinel of its own, "" for that of the layout.
func (w *world) publishedAs(layout, mediaType string) (ref string, tars [][]byte) {
	w.t.Helper()
	src, tars := w.single()
	ref = w.docker("published-" + layout + typeName(mediaType) + ":1")
	w.copy(src, ref, &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: layout, Layers: Layers{SentinelType: mediaType}})
	return ref, tars
}

// typeName is short for a type of the sentinel, as part of a name.
func typeName(mediaType string) string {
	switch mediaType {
	case manifest.SentinelTypeOCI:
		return "-oci"
	case manifest.SentinelTypeUpstream:
		return "-pr681"
	}
	return ""
}

// sentinelTypes are the media types that a sentinel can have.
func sentinelTypes() []string {
	return []string{manifest.SentinelTypeOCI, manifest.SentinelTypeUpstream}
}

// sentinels are the marks of a variant that are left in a reference: sentinel layers, annotations, and diff_ids.
func (w *world) sentinels(ref string) (n int) {
	w.t.Helper()
	s := w.situation(ref)
	for _, in := range s.instances {
		n += strings.Count(string(in.doc.raw), "zstd-chunked-sentinel")
		if in.image != nil {
			n += strings.Count(string(in.image.Config.Raw), string(manifest.SentinelDigest)) + strings.Count(string(in.image.Config.Raw), "zstd:chunked sentinel")
		}
	}
	return n + strings.Count(string(s.top.raw), manifest.AnnotationSentinel)
}

// A variant that tocsin made of a consistent image gives back the plain image, byte for byte, when its layers lose their
// tables of contents: the config and so the image ID are the ones from before.
func TestStrip(t *testing.T) { // S27, S28, S30, rule 69
	for _, layout := range []string{"only", "upstream", "hidden"} {
		for i, algo := range []string{algoGzip, algoNone, algoGzip, algoNone} {
			mediaType := sentinelTypes()[i/2]
			t.Run(layout+" "+algo+" "+mediaType, func(t *testing.T) {
				w := newWorld(t, 4)
				ref, tars := w.publishedAs(layout, mediaType)
				before := w.situation(func() string { src, _ := w.single(); return src }()).instances[0].image
				res := w.copy(ref, w.docker("out:1"), &Options{Compress: Compression{Algorithm: algo}})
				s := w.situation(w.docker("out:1"))
				if n := w.sentinels(w.docker("out:1")); n != 0 || len(s.instances) != 1 || len(res.Notes) == 0 {
					t.Errorf("%d marks of a sentinel, %d instances, notes %q in %s", n, len(s.instances), res.Notes, s.top.raw)
				}
				if !bytes.Equal(s.instances[0].image.Config.Raw, before.Config.Raw) {
					t.Errorf("config\n%s\nwant\n%s", s.instances[0].image.Config.Raw, before.Config.Raw)
				}
				w.checkTars(w.docker("out:1"), tars)
				if s.list != nil && (s.list.Instances[0].Annotations[manifest.AnnotationZstd] != "" || s.list.Instances[0].Platform.OS != "linux") {
					t.Errorf("entry %+v", s.list.Instances[0])
				}
				if _, err := w.try(ref, w.docker("kept:1"), &Options{Compress: Compression{Algorithm: algo}, Preserve: true}); !errors.Is(err, ErrPreserve) {
					t.Errorf("with digests preserved: %v", err)
				}
			})
		}
	}
}

// A variant whose plain sibling is left behind takes its platform back.
func TestStripHiddenAlone(t *testing.T) { // S28
	w := newWorld(t, 4)
	ref, tars := w.published("hidden")
	variant := w.situation(ref).instances[1].desc.Digest
	o := &Options{Compress: Compression{Algorithm: algoGzip}}
	o.Select.Digests, o.Select.Strip = append(o.Select.Digests, variant), true
	w.copy(ref, w.docker("out:1"), o)
	s := w.situation(w.docker("out:1"))
	if len(s.instances) != 1 || w.sentinels(w.docker("out:1")) != 0 {
		t.Fatalf("%s", s.top.raw)
	}
	d := s.list.Instances[0]
	if d.Platform == nil || manifest.FormatPlatform(*d.Platform) != "linux/amd64" || len(d.Annotations) != 0 {
		t.Errorf("entry %+v", d)
	}
	w.checkTars(w.docker("out:1"), tars)
}

// Without another compression every byte stays, in every layout (S28).
func TestNoStripWithoutReason(t *testing.T) { // S28
	w := newWorld(t, 4)
	for i, layout := range []string{"hidden", "upstream", "only", "hidden", "upstream", "only"} {
		ref, _ := w.publishedAs(layout, sentinelTypes()[i/3])
		for _, o := range []*Options{nil, {Preserve: true}, {Compress: Compression{Algorithm: algoZstd}}, {Compress: Compression{Algorithm: algoChunked}}} {
			to := w.layout("kept-"+layout) + ":x"
			w.copy(ref, to, o)
			sameImage(w, ref, to)
		}
	}
}

// Out of a store that keeps files only, a variant's layers are made anew, and with them the variant.
func TestStripFromStore(t *testing.T) { // S29, S30
	w := newWorld(t, 4)
	ref, tars := w.published("only")
	w.copy(ref, "store:v", nil)
	w.copy("store:v", w.docker("gzip:1"), &Options{Compress: Compression{Algorithm: algoGzip}})
	w.checkTars(w.docker("gzip:1"), tars)
	if w.sentinels(w.docker("gzip:1")) != 0 {
		t.Errorf("%s", w.raw(w.docker("gzip:1")))
	}
	w.copy("store:v", w.docker("again:1"), &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: "only"})
	if im := w.situation(w.docker("again:1")).instances[0].image; !im.Sentinel() || !im.ChainBound {
		t.Errorf("%s", im.Manifest.Raw)
	}
	if _, err := w.try("store:v", w.docker("no:1"), nil); !errors.Is(err, ErrPreserve) {
		t.Errorf("without a compression: %v", err)
	}
}

// Every layout becomes every other one by name, and again what it was; the second time nothing changes.
func TestLayoutsChange(t *testing.T) { // S10, S11
	layouts := []string{"hidden", "upstream", "only"}
	w := newWorld(t, 4)
	want := make(map[string][]byte)
	for _, l := range layouts {
		ref, _ := w.published(l)
		want[l] = w.raw(ref)
	}
	for _, from := range layouts {
		for _, to := range layouts {
			ref := w.docker("published-" + from + ":1")
			dst := w.docker(from + "-to-" + to + ":1")
			w.copy(ref, dst, &Options{Sentinel: to})
			s := w.situation(dst)
			if to == "only" && from != "only" {
				// An index with the one variant under its real platform: the source was a list.
				if len(s.instances) != 1 || !s.instances[0].image.ChainBound || manifest.Hidden(s.instances[0].desc) {
					t.Errorf("%s to only: %s", from, s.top.raw)
				}
				if s.instances[0].doc.digest != w.situation(w.docker("published-only:1")).top.digest {
					t.Errorf("%s to only: another variant", from)
				}
			} else if got := w.raw(dst); !bytes.Equal(got, want[to]) {
				t.Errorf("%s to %s:\n%s\nwant\n%s", from, to, got, want[to])
			}
			w.front.Forget()
			again := w.copy(dst, dst, &Options{Sentinel: to})
			if again.Digest != s.top.digest || w.front.Count("POST", "/uploads/") != 0 {
				t.Errorf("%s to %s: the second time changed something", from, to)
			}
		}
	}
}

// One variant for each platform, also when a list has two images for one.
func TestOneVariantForAPlatform(t *testing.T) { // S10
	w := newWorld(t, 4)
	tars := small(t)
	b := w.build("src")
	one, two := b.image("linux/amd64", algoGzip, tars...), b.image("linux/amd64", algoZstd, tars...)
	win1, win2 := b.image("windows/amd64", algoGzip, tars[0]), b.image("windows/amd64", algoGzip, tars[1])
	win1.Platform = &v1.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.17763.1"}
	win2.Platform = &v1.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.1"}
	src := b.name(b.list(one, two, win1, win2), "x")
	for _, layout := range []string{"hidden", "upstream"} {
		o := &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: layout}
		first := w.copy(src, w.docker(layout+":1"), o)
		s := w.situation(w.docker(layout + ":1"))
		variants := make(map[string]int)
		for _, in := range s.instances {
			if in.image.Sentinel() {
				variants[platformKey(in)]++
			}
		}
		if len(s.instances) != 7 || len(variants) != 3 {
			t.Errorf("%d instances, variants %v", len(s.instances), variants)
		}
		if again := w.copy(w.docker(layout+":1"), w.docker(layout+":2"), o); again.Digest != first.Digest {
			t.Errorf("%s: %s, then %s", layout, first.Digest, again.Digest)
		}
		want := v1.Platform{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.7"}
		d, err := s.list.Choose(want, manifest.PreferVariant)
		if p, ok := manifest.PlatformOf(d); err != nil || !manifest.IsVariant(d) || !ok || p.OSVersion != "10.0.20348.1" {
			t.Errorf("%s: chose %+v, %v", layout, d, err)
		}
	}
}

// With "only" the plain instance's layers are not encoded and copied for nothing.
func TestOnlyCopiesNothingTwice(t *testing.T) { // S7
	w := newWorld(t, 4)
	b := w.build("src")
	plain := b.image("linux/amd64", algoChunked, small(t)...)
	other := b.image("linux/amd64", algoGzip, tarOf(t, file{"other", noise(9, 5000)}))
	w.copy(b.name(b.list(plain, other), "x"), w.docker("a:1"), &Options{Sentinel: "only", Compress: Compression{Algorithm: algoChunked}})
	// Two layers, the sentinel and the variant's config; nothing of the image that left.
	if n := w.front.Count("POST", "/uploads/"); n != 4 {
		t.Errorf("%d uploads: %v", n, w.front.Log())
	}
}

// The sentinel's sha512 name is as good as the other one: such variants go round, are pulled, and are stripped.
func TestSentinelOfSHA512(t *testing.T) { // S2, S27, S28
	for _, layout := range []string{"hidden", "upstream", "only"} {
		w := newWorld(t, 4)
		src, tars := w.single()
		at := w.layout("a") + ":x"
		w.copy(src, at, &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: layout, Digests: must(t, digest.SHA512)})
		s := w.situation(at)
		v := s.instances[len(s.instances)-1].image
		if !v.Sentinel() || v.Layers[0].Digest != manifest.SentinelDigest512 {
			t.Fatalf("%s: %s", layout, v.Manifest.Raw)
		}
		for _, next := range []string{"dir:" + w.dir + "/d", "oci-archive:" + w.dir + "/a.tar", w.layout("b") + ":x"} {
			w.copy(at, next, &Options{Preserve: true})
			sameImage(w, at, next)
		}
		w.copy(at, "store:x", nil)
		for i, raw := range w.stored("store:x", manifest.TOCOnly) {
			if !bytes.Equal(raw, tars[i]) {
				t.Errorf("%s: layer %d is another tar", layout, i)
			}
		}
		w.copy(at, w.layout("c")+":x", &Options{Compress: Compression{Algorithm: algoGzip}})
		w.checkTars(w.layout("c")+":x", tars)
		if raw := w.raw(w.layout("c") + ":x"); bytes.Contains(raw, []byte("sentinel")) {
			t.Errorf("%s: %s", layout, raw)
		}
	}
}

// sentinelOf is the media type of the first layer of the variant at ref.
func (w *world) sentinelOf(ref string) string {
	w.t.Helper()
	for _, in := range w.situation(ref).instances {
		if in.image != nil && in.image.Sentinel() {
			return in.image.Layers[0].MediaType
		}
	}
	w.t.Errorf("%s: no variant", ref)
	return ""
}

// New variants have the type of their layout unless another is asked for, and but for it the same bytes.
func TestSentinelType(t *testing.T) {
	w := newWorld(t, 4)
	for layout, want := range map[string]string{"hidden": manifest.SentinelTypeOCI, "only": manifest.SentinelTypeOCI, "upstream": manifest.SentinelTypeUpstream} {
		ref, _ := w.published(layout)
		if got := w.sentinelOf(ref); got != want {
			t.Errorf("%s: %s", layout, got)
		}
		for _, mediaType := range sentinelTypes() {
			as, _ := w.publishedAs(layout, mediaType)
			if got := w.sentinelOf(as); got != mediaType {
				t.Errorf("%s as %s: %s", layout, mediaType, got)
			}
			one, other := w.situation(ref).instances, w.situation(as).instances
			a, b := one[len(one)-1].image, other[len(other)-1].image
			if !bytes.Equal(a.Config.Raw, b.Config.Raw) || strings.Replace(string(a.Manifest.Raw), want, mediaType, 1) != string(b.Manifest.Raw) {
				t.Errorf("%s as %s:\n%s\nand\n%s", layout, mediaType, a.Manifest.Raw, b.Manifest.Raw)
			}
		}
	}
	src, _ := w.single()
	for _, o := range []*Options{
		{Layers: Layers{SentinelType: manifest.SentinelTypeOCI}}, {Layers: Layers{SentinelType: manifest.SentinelTypeUpstream}, Sentinel: sentinelNone},
		{Layers: Layers{SentinelType: manifest.SentinelTypeUpstream}, Compress: Compression{Algorithm: algoGzip}},
	} {
		if _, err := w.try(src, w.docker("no:1"), o); !errors.Is(err, ErrUsage) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// A variant that is there keeps its type in every copy, also where it is made again for other digests; a layout that is
// asked for by name decides anew, and a type that is asked for decides last. The second time nothing changes.
func TestSentinelTypeOfAVariant(t *testing.T) { // S10, S28
	w := newWorld(t, 4)
	for _, from := range []string{"hidden", "upstream", "only"} {
		for _, mediaType := range sentinelTypes() {
			ref, tars := w.publishedAs(from, mediaType)
			kept := w.layout("kept-"+from+typeName(mediaType)) + ":x"
			w.copy(ref, kept, nil)
			sameImage(w, ref, kept)
			again := w.layout("sha512-"+from+typeName(mediaType)) + ":x"
			w.copy(ref, again, &Options{Digests: must(t, digest.SHA512)})
			if got := w.sentinelOf(again); got != mediaType {
				t.Errorf("%s, %s, in sha512: %s", from, mediaType, got)
			}
			for _, to := range []manifest.Layout{manifest.LayoutHidden, manifest.LayoutUpstream, manifest.LayoutOnly} {
				for _, asked := range []string{"", manifest.SentinelTypeOCI, manifest.SentinelTypeUpstream} {
					want := asked
					if asked == "" {
						want = to.SentinelType()
					}
					dst, o := w.docker(from+typeName(mediaType)+"-to-"+string(to)+typeName(asked)+":1"), &Options{Sentinel: string(to), Layers: Layers{SentinelType: asked}}
					w.copy(ref, dst, o)
					if got := w.sentinelOf(dst); got != want {
						t.Errorf("%s, %s, to %s, %q: %s", from, mediaType, to, asked, got)
					}
					w.checkTars(dst, tars)
					s := w.situation(dst)
					if again := w.copy(dst, dst, o); again.Digest != s.top.digest {
						t.Errorf("%s, %s, to %s, %q: the second time changed something", from, mediaType, to, asked)
					}
				}
			}
		}
	}
}

// What was pulled as a variant is saved as the plain image that it was made from: the image ID is the plain one's.
func TestSaveOfAPulledVariant(t *testing.T) { // S30
	w := newWorld(t, 4)
	ref, tars := w.published("hidden")
	want := w.situation(ref).instances[0].image.Config.Raw
	w.copy(ref, "store:x", &Options{Platform: platform(t, "linux/amd64"), Prefer: manifest.PreferVariant})
	if im := w.situation("store:x").instances[0].image; !im.Sentinel() {
		t.Fatalf("the store has %s", im.Manifest.Raw)
	}
	to := "docker-archive:" + w.dir + "/saved.tar"
	w.copy("store:x", to, nil)
	w.checkTars(to, tars)
	if got := w.situation(to).instances[0].image.Config.Raw; !bytes.Equal(got, want) {
		t.Errorf("config\n%s\nwant\n%s", got, want)
	}
}

// Without a tar-split nobody knows the tar, so the sentinel stays or the copy ends, before a layer moves.
func TestNoStripWithoutTarSplit(t *testing.T) { // S27, S30
	w := newWorld(t, 4)
	for _, mediaType := range sentinelTypes() {
		w.noStripWithoutTarSplit(mediaType)
	}
}

func (w *world) noStripWithoutTarSplit(mediaType string) {
	t := w.t
	t.Helper()
	b := w.build("src" + typeName(mediaType))
	layer := b.layer(algoChunked, small(t)[0])
	delete(layer.Annotations, "io.github.containers.zstd-chunked.tarsplit-position")
	s := b.blob(mediaType, manifest.SentinelContent())
	toc := digest.Digest(layer.Annotations["io.github.containers.zstd-chunked.manifest-checksum"])
	src := b.name(b.imageOf([]v1.Descriptor{s, layer}, manifest.SentinelDigest, toc), "x")
	w.copy(src, "store:x", nil)
	w.copy(src, w.docker("kept:1"), &Options{Compress: Compression{Algorithm: algoChunked}})
	w.front.Forget()
	for _, o := range []*Options{{Compress: Compression{Algorithm: algoGzip}}, {Sentinel: "hidden"}, {Sentinel: "upstream"}} {
		if _, err := w.try(src, w.docker("out:1"), o); !errors.Is(err, manifest.ErrUnsupported) || !strings.Contains(err.Error(), "has no tar-split") {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := w.try("store:x", "docker-archive:"+w.dir+"/out.tar", nil); !errors.Is(err, manifest.ErrUnsupported) {
		t.Errorf("out of the store: %v", err)
	}
	if n := w.front.Count("POST", "/uploads/"); n != 0 {
		t.Errorf("%d uploads", n)
	}
}
