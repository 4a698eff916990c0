package copy

import (
	"bytes"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// variantForms are the ways in which a variant can be made: both media types of the sentinel, with either kind of diff_ids.
func variantForms() []string { return []string{"upstream", "upstream-oci", "bound", "bound-upstream"} }

// crafted is a layer with two views as a plain image and as a variant in each form, in the registry.
func (w *world) crafted(name string, layer v1.Descriptor, b *builder, diffID digest.Digest) {
	w.t.Helper()
	plain := b.imageOf([]v1.Descriptor{layer}, diffID)
	for suffix, d := range map[string]v1.Descriptor{
		"plain":          plain,
		"upstream":       b.variantOf(plain, manifest.SentinelTypeUpstream, false),
		"upstream-oci":   b.variantOf(plain, manifest.SentinelTypeOCI, false),
		"bound":          b.variantOf(plain, manifest.SentinelTypeOCI, true),
		"bound-upstream": b.variantOf(plain, manifest.SentinelTypeUpstream, true),
	} {
		w.copy(b.name(d, suffix+name), w.docker(suffix+":"+name), nil)
	}
}

func tagged(name string) string { return strings.ReplaceAll(name, " ", "-") }

// TOC content is not the tar's, and the diffID is the tar's: a scanner sees one thing. The plain image is refused, the
// variant is what its table of contents says. Nothing is left of what was refused.
func TestTOCIsNotTheTar(t *testing.T) { // threat 1, S19, S21
	scanned, run := views(t)
	for kind, shown := range run {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t, 4)
			b := w.build("src")
			w.crafted(tagged(kind), b.twoViews(scanned, shown, nil), b, digest.FromBytes(scanned))
			if _, err := w.try(w.docker("plain:"+tagged(kind)), "store:x", nil); !isFillDiffID(err) {
				t.Errorf("plain: %v", err)
			}
			w.unnamed()
			for _, form := range variantForms() {
				w.env = w.machine(4)
				w.copy(w.docker(form+":"+tagged(kind)), "store:x", nil)
				if got := w.stored("store:x", manifest.TOCOnly); !bytes.Equal(got[0], shown) {
					t.Errorf("%s: the stored layer is not the table of contents'", form)
				}
				w.unverified()
			}
		})
	}
}

// unnamed demands that the store has no image.
func (w *world) unnamed() {
	w.t.Helper()
	names, err := w.env.Store.Names()
	records, err2 := w.env.Store.Records()
	if err := errors.Join(err, err2); err != nil || len(names)+len(records) != 0 {
		w.t.Errorf("names %v, records %v, %v", names, records, err)
	}
}

// unverified demands that no layer of the store has a diffID, because none was compared (S22).
func (w *world) unverified() {
	w.t.Helper()
	rows, err := w.env.Store.Layers()
	if err != nil || len(rows) == 0 {
		w.t.Fatalf("%d layers, %v", len(rows), err)
	}
	for _, r := range rows {
		if r.DiffID != "" {
			w.t.Errorf("layer %d (TOC %s) has the diffID %s", r.Number, r.TOC, r.DiffID)
		}
	}
}

// The diffID is that of the TOC view: a pull by TOC is right, one of the whole tar fails.
func TestDiffIDOfTheTOC(t *testing.T) { // threat 2
	scanned, run := views(t)
	for kind, shown := range run {
		w := newWorld(t, 4)
		b := w.build("src")
		w.crafted(tagged(kind), b.twoViews(scanned, shown, nil), b, digest.FromBytes(shown))
		w.copy(w.docker("plain:"+tagged(kind)), "store:x", nil)
		if got := w.stored("store:x", manifest.TOCUnbound); !bytes.Equal(got[0], shown) {
			t.Errorf("%s: another tree", kind)
		}
		w.env = w.machine(4)
		w.front.Add(front.Rule{Path: "/blobs/", Ranged: true, Do: front.Status(http.StatusNotImplemented, "UNSUPPORTED")})
		if _, err := w.try(w.docker("plain:"+tagged(kind)), "store:x", nil); !errors.Is(err, ErrDiffID) {
			t.Errorf("%s: the whole tar: %v", kind, err)
		}
		w.unnamed()
		w.front.Behave()
		for _, form := range variantForms() {
			w.env = w.machine(4)
			w.copy(w.docker(form+":"+tagged(kind)), "store:x", nil)
		}
	}
}

// The table of contents says other metadata than the tar-split: nobody takes it.
func TestTOCIsNotTheTarSplit(t *testing.T) { // threat 3
	scanned, run := views(t)
	for kind, shown := range run {
		w := newWorld(t, 4)
		b := w.build("src")
		w.crafted(tagged(kind), b.twoViews(scanned, shown, scanned), b, digest.FromBytes(scanned))
		for _, form := range append(variantForms(), "plain") {
			w.env = w.machine(4)
			_, err := w.try(w.docker(form+":"+tagged(kind)), "store:x", nil)
			if kind == "content" && form != "plain" {
				// The metadata agree, so only a rebuilt tar tells: the variant is the TOC view, which is not exported.
				if err != nil {
					t.Errorf("%s %s: %v", kind, form, err)
				}
				if _, err := w.try(w.docker(form+":"+tagged(kind)), w.docker("out:1"), &Options{Compress: Compression{Algorithm: algoGzip}}); !errors.Is(err, ErrDiffID) {
					t.Errorf("export of %s: %v", form, err)
				}
				continue
			}
			if err == nil || kind != "content" && !errors.Is(err, chunked.ErrMalformed) || kind == "content" && !isFillDiffID(err) {
				t.Errorf("%s %s: %v", kind, form, err)
			}
			w.unnamed()
		}
	}
}

// A tar-split of another tar with the same files: the plain image fails its diffID; the variant is served, and what is
// exported of it has the digest of what was really written.
func TestSwappedTarSplit(t *testing.T) { // threat 4, S30
	w := newWorld(t, 4)
	scanned, _ := views(t)
	padded := append(bytes.Clone(scanned), make([]byte, 10240)...)
	b := w.build("src")
	w.crafted("x", b.twoViews(scanned, scanned, padded), b, digest.FromBytes(scanned))
	if _, err := w.try(w.docker("plain:x"), "store:x", nil); !isFillDiffID(err) {
		t.Errorf("plain: %v", err)
	}
	w.unnamed()
	for _, form := range variantForms() {
		w.copy(w.docker(form+":x"), "store:"+form, nil)
		for _, dst := range []string{w.docker("out:" + form), "docker-archive:" + filepath.Join(w.dir, form+".tar")} {
			o := &Options{Compress: Compression{Algorithm: algoGzip}}
			if strings.HasPrefix(dst, "docker-archive") {
				o = nil
			}
			w.copy(w.docker(form+":x"), dst, o)
			im := w.situation(dst).instances[0].image
			if got := im.Layers[0].DiffID; got != digest.FromBytes(padded) {
				t.Errorf("%s: exported with the diffID %s", dst, got)
			}
			w.checkTars(dst, [][]byte{padded})
		}
	}
}

// What is exported of a variant is its TOC view with new diffIDs, never what its config claims.
func TestExportIsTheTOCView(t *testing.T) { // S30
	scanned, run := views(t)
	for kind, shown := range run {
		w := newWorld(t, 4)
		b := w.build("src")
		w.crafted(tagged(kind), b.twoViews(scanned, shown, nil), b, digest.FromBytes(scanned))
		for _, form := range variantForms() {
			from := w.docker(form + ":" + tagged(kind))
			dst := "docker-archive:" + filepath.Join(w.dir, form+".tar")
			w.copy(from, dst, nil)
			w.checkTars(dst, [][]byte{shown})
			if got := w.situation(dst).instances[0].image.Layers[0].DiffID; got != digest.FromBytes(shown) {
				t.Errorf("%s %s: diffID %s", kind, form, got)
			}
			w.copy(from, "store:"+form, nil)
			w.copy("store:"+form, w.docker("of-store:"+form), &Options{Compress: Compression{Algorithm: algoZstd}})
			w.checkTars(w.docker("of-store:"+form), [][]byte{shown})
		}
	}
}

// broken are images that carry marks of a sentinel of one media type without being correct variants.
func (b *builder) broken(mediaType, otherType string) map[string]v1.Descriptor {
	scanned, _ := views(b.w.t)
	layer := b.layer(algoChunked, scanned)
	id, toc := digest.FromBytes(scanned), digest.Digest(layer.Annotations["io.github.containers.zstd-chunked.manifest-checksum"])
	s, other := b.blob(mediaType, manifest.SentinelContent()), b.blob(otherType, manifest.SentinelContent())
	typed := b.blob(mediaType, scanned) // a tar that says it is the sentinel
	asTar := s
	asTar.MediaType = v1.MediaTypeImageLayer
	unknown := s
	unknown.MediaType = "application/vnd.example.sentinel"
	legacy := b.blob(v1.MediaTypeImageLayer, []byte("zstd:chunked"))
	of := func(ids []digest.Digest, layers ...v1.Descriptor) v1.Descriptor { return b.imageOf(layers, ids...) }
	ids := func(d ...digest.Digest) []digest.Digest { return d }
	return map[string]v1.Descriptor{
		"a tar of the sentinel's type":   of(ids(typed.Digest, id), typed, layer),
		"the sentinel at index 1":        of(ids(id, s.Digest), layer, s),
		"the sentinel twice":             of(ids(s.Digest, s.Digest, toc), s, s, layer),
		"one of each type":               of(ids(s.Digest, toc, s.Digest), s, layer, other),
		"the sentinel under a tar type":  of(ids(s.Digest, id), asTar, layer),
		"the sentinel of a third type":   of(ids(s.Digest, toc), unknown, layer),
		"another diff_id of it":          of(ids(id, toc), s, layer),
		"diff_ids of both kinds":         of(ids(s.Digest, toc, id), s, layer, layer),
		"the 12 bytes":                   of(ids(legacy.Digest, id), legacy, layer),
		"a layer without a TOC":          of(ids(s.Digest, id), s, b.layer(algoGzip, scanned)),
		"its diff_id for another layer":  of(ids(s.Digest), layer),
		"one TOC-less layer among three": of(ids(s.Digest, toc, id, toc), s, layer, b.layer(algoZstd, scanned), layer),
	}
}

// What has some marks of a sentinel is no image at all, wherever it comes from and goes to, and before a layer moves.
func TestBrokenSentinels(t *testing.T) { // threat 5, threat 6, S2, S4, S5, S6
	brokenSentinels(t, manifest.SentinelTypeOCI, manifest.SentinelTypeUpstream)
	brokenSentinels(t, manifest.SentinelTypeUpstream, manifest.SentinelTypeOCI)
}

func brokenSentinels(t *testing.T, mediaType, otherType string) {
	t.Helper()
	w := newWorld(t, 4)
	b := w.build("src")
	seen := make(map[string]string)
	for name, d := range b.broken(mediaType, otherType) {
		src := b.name(d, tagged(name))
		for _, dst := range []string{"store:x", w.docker("a:1"), w.layout("out") + ":x"} {
			w.front.Forget()
			_, err := w.try(src, dst, nil)
			if !errors.Is(err, manifest.ErrSentinel) {
				t.Errorf("%s to %s: %v", name, dst, err)
				continue
			}
			_, text, _ := strings.Cut(err.Error(), manifest.ErrSentinel.Error())
			if other, ok := seen[text]; ok && other != name {
				t.Errorf("%s and %s: the same error %q", name, other, text)
			}
			seen[text] = name
			if n := w.front.Count("POST", "/uploads/"); n != 0 {
				t.Errorf("%s: %d uploads", name, n)
			}
		}
	}
	w.empty(w.env)
}

// A variant was pulled first. The plain image of the same layer, whose tar is another, is not taken for verified by it:
// not at once, and not after a restart.
func TestNoReuseOfAnUnverifiedLayer(t *testing.T) { // threat 7, S21, S22, S23
	scanned, run := views(t)
	for kind, shown := range run {
		for _, restart := range []bool{false, true} {
			w := newWorld(t, 4)
			b := w.build("src")
			w.crafted(tagged(kind), b.twoViews(scanned, shown, nil), b, digest.FromBytes(scanned))
			w.copy(w.docker("bound:"+tagged(kind)), "store:variant", nil)
			w.unverified()
			if restart {
				w.restart()
			}
			if _, err := w.try(w.docker("plain:"+tagged(kind)), "store:plain", nil); !isFillDiffID(err) {
				t.Errorf("%s: %v", kind, err)
			}
			rows, err := w.env.Store.Layers() // what was rebuilt has its own digest, not the one that was claimed
			if err != nil || len(rows) != 1 || rows[0].DiffID != digest.FromBytes(shown) {
				t.Errorf("%s: layers %+v, %v", kind, rows, err)
			}
			if names, err := w.env.Store.Names(); err != nil || len(names) != 1 {
				t.Errorf("%s: names %v, %v", kind, names, err)
			}
		}
	}
}

// The plain image came as a tar. Its layer is not the variant's, whose files are those of the table of contents.
func TestNoReuseOfATarLayer(t *testing.T) { // S21
	scanned, run := views(t)
	for kind, shown := range run {
		w := newWorld(t, 4)
		b := w.build("src")
		w.crafted(tagged(kind), b.twoViews(scanned, shown, nil), b, digest.FromBytes(scanned))
		w.front.Add(front.Rule{Path: "/blobs/", Ranged: true, Do: front.Status(http.StatusNotImplemented, "UNSUPPORTED")})
		w.copy(w.docker("plain:"+tagged(kind)), "store:plain", nil)
		if got := w.stored("store:plain", manifest.TOCUnbound); !bytes.Equal(got[0], scanned) {
			t.Errorf("%s: the plain image is not its tar", kind)
		}
		w.front.Behave()
		w.restart()
		w.copy(w.docker("bound:"+tagged(kind)), "store:variant", nil)
		if got := w.stored("store:variant", manifest.TOCOnly); !bytes.Equal(got[0], shown) {
			t.Errorf("%s: the variant is not its table of contents", kind)
		}
	}
}

// A benign layer that a variant brought becomes a verified one by rebuilding its tar, without a byte of it fetched again.
func TestUpgradeWithoutDownload(t *testing.T) { // S21
	w := newWorld(t, 4)
	scanned, _ := views(t)
	b := w.build("src")
	layer := b.layer(algoChunked, scanned)
	w.crafted("x", layer, b, digest.FromBytes(scanned))
	w.copy(w.docker("bound:x"), "store:variant", nil)
	w.unverified()
	w.restart()
	w.front.Forget()
	w.copy(w.docker("plain:x"), "store:plain", nil)
	if n := w.front.Bytes("GET", layer.Digest.String()); n != 0 {
		t.Errorf("%d bytes of the layer were fetched", n)
	}
	rows, err := w.env.Store.Layers()
	if err != nil || len(rows) != 1 || rows[0].DiffID != digest.FromBytes(scanned) {
		t.Errorf("layers %+v, %v", rows, err)
	}
}

// An annotation in the list makes nobody a variant, and its absence nobody a plain image.
func TestTheListIsAHint(t *testing.T) { // threat 8, S3
	scanned, run := views(t)
	w := newWorld(t, 4)
	b := w.build("src")
	layer := b.twoViews(scanned, run["content"], nil)
	plain := b.imageOf([]v1.Descriptor{layer}, digest.FromBytes(scanned))
	variant := b.variantOf(plain, manifest.SentinelTypeOCI, true)
	plain.Annotations = map[string]string{manifest.AnnotationSentinel: "true", manifest.AnnotationZstd: "true"}
	for _, o := range []*Options{nil, {Platform: platform(t, "linux/amd64"), Prefer: manifest.PreferVariant}} {
		w.env = w.machine(4)
		if _, err := w.try(b.name(b.list(plain), "annotated"), "store:x", o); !isFillDiffID(err) {
			t.Errorf("a plain image that is annotated: %v", err)
		}
		w.unnamed()
	}
	w.env = w.machine(4)
	w.copy(b.name(b.list(variant), "unannotated"), "store:x", nil)
	if got := w.stored("store:x", manifest.TOCOnly); !bytes.Equal(got[0], run["content"]) {
		t.Error("a variant that is not annotated was not read by its table of contents")
	}
	in, err := Inspect(t.Context(), w.env, w.ref(b.name(b.list(plain), "inspected")), &Options{})
	if err != nil || !strings.Contains(in.Instances[0].Why, "the list says otherwise") || in.Instances[0].Trust != "TOCUnbound" {
		t.Errorf("%+v, %v", in, err)
	}
}

// The table of contents is not the one that the annotation names.
func TestTOCDigestMismatch(t *testing.T) { // threat 9, S20
	w := newWorld(t, 4)
	scanned, _ := views(t)
	b := w.build("src")
	layer := b.layer(algoChunked, scanned)
	good := layer.Annotations
	layer.Annotations = map[string]string{}
	for k, v := range good {
		layer.Annotations[k] = v
	}
	layer.Annotations["io.github.containers.zstd-chunked.manifest-checksum"] = digest.FromString("another").String()
	w.crafted("x", layer, b, digest.FromBytes(scanned))
	for _, form := range append(variantForms(), "plain") {
		if _, err := w.try(w.docker(form+":x"), "store:x", nil); !errors.Is(err, fill.ErrDigestMismatch) && !errors.Is(err, chunked.ErrDigestMismatch) {
			t.Errorf("%s: %v", form, err)
		}
		if _, err := w.try(w.docker(form+":x"), w.docker("out:1"), &Options{Compress: Compression{Algorithm: algoGzip}}); form != "plain" && !errors.Is(err, chunked.ErrDigestMismatch) {
			t.Errorf("export of %s: %v", form, err)
		}
	}
	w.empty(w.env)
}

// restart is the same machine after all processes ended.
func (w *world) restart() {
	w.t.Helper()
	if err := errors.Join(w.env.Pool.Close(), w.env.Store.Close()); err != nil {
		w.t.Fatal(err)
	}
	w.env = w.machineAt(w.env.Store.Root(), w.env.Jobs)
}
