package copy

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// recorder is a destination that remembers what it was told, and fails a manifest that names what it never heard of.
type recorder struct {
	destination
	mu        sync.Mutex
	announced map[digest.Digest]bool
	committed int
}

func (r *recorder) announce(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.announced[d] = true
}

func (r *recorder) has(ctx context.Context, d v1.Descriptor) (bool, error) {
	r.announce(d.Digest)
	return r.destination.has(ctx, d)
}

func (r *recorder) put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	r.announce(d.Digest)
	return r.destination.put(ctx, d, open)
}

func (r *recorder) create() (spool, error) {
	s, err := r.destination.create()
	return &recordedSpool{s, r}, err
}

type recordedSpool struct {
	spool
	to *recorder
}

func (s *recordedSpool) commit(ctx context.Context, d v1.Descriptor) error {
	err := s.spool.commit(ctx, d)
	if err == nil {
		s.to.announce(d.Digest)
	}
	return err
}

var errUnannounced = errors.New("a manifest names what was never announced")

// names fails if a manifest names what was not announced before it.
func (r *recorder) names(doc document) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.committed > 0 {
		return errors.New("something was written after the name")
	}
	var named []v1.Descriptor
	if l, err := manifest.ParseList(doc.raw, doc.mediaType); err == nil {
		named = l.Instances
	} else {
		m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
		if err != nil {
			return err
		}
		named = append(slices.Clone(m.Layers), m.Config)
	}
	for _, d := range named {
		if !r.announced[d.Digest] {
			return errUnannounced
		}
	}
	r.announced[doc.digest] = true
	return nil
}

func (r *recorder) putManifest(ctx context.Context, doc document) error {
	if err := r.names(doc); err != nil {
		return err
	}
	return r.destination.putManifest(ctx, doc)
}

func (r *recorder) commit(ctx context.Context, doc document) error {
	if err := r.names(doc); err != nil {
		return err
	}
	r.committed++
	return r.destination.commit(ctx, doc)
}

// Every place hears of every blob before the manifest that names it, and of the name once, at the end.
func TestAnnounced(t *testing.T) { // S14, S15, rule 49
	w := newWorld(t, 4)
	single, _ := w.single()
	multi := w.multi(algoGzip)
	for _, e := range endpoints() {
		for _, src := range []string{single, multi} {
			for _, layout := range []string{sentinelNone, "hidden", "upstream", "only", "strip"} {
				if e.plain && (src == multi || layout != sentinelNone && layout != "strip") {
					continue
				}
				o, from := &Options{Sentinel: layout}, src
				if layout == "strip" {
					from = w.docker("to-strip:1")
					w.copy(single, from, &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: "only"})
					o = &Options{Compress: Compression{Algorithm: algoNone}}
				} else if !e.plain {
					o.Compress.Algorithm = algoChunked
				}
				w.recorded(from, e.ref(w, strings.ReplaceAll(e.name+layout, ":", "-")), o)
			}
		}
	}
}

// recorded copies through a recorder.
func (w *world) recorded(src, dst string, o *Options) {
	w.t.Helper()
	from, err := openSource(w.env, w.ref(src))
	if err != nil {
		w.t.Fatal(err)
	}
	judge, err := newJudged(w.env, from, w.ref(src), false)
	if err != nil {
		w.t.Fatal(err)
	}
	s, p, o, err := prepare(w.t.Context(), judge, w.ref(dst), o)
	if err != nil {
		w.t.Fatal(err)
	}
	to, err := openDestination(w.env, w.ref(dst))
	if err != nil {
		w.t.Fatal(err)
	}
	rec := &recorder{destination: to, announced: make(map[digest.Digest]bool)}
	r := newRunner(w.env, from, rec, o)
	r.to = p.naming.over(r)
	_, err = r.run(w.t.Context(), s, p)
	if err := errors.Join(err, to.close(), from.close()); err != nil || rec.committed != 1 {
		w.t.Errorf("%s to %s: %v, %d commits", src, dst, err, rec.committed)
	}
}

// In the registry: blobs, the instances by digest, and then the tag, once.
func TestTagIsWrittenOnce(t *testing.T) { // S11, S15
	w := newWorld(t, 4)
	src, _ := w.single()
	w.copy(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algoChunked}})
	var manifests []string
	for _, r := range w.front.Log() {
		if r.Method == http.MethodPut && strings.Contains(r.Path, "/manifests/") {
			manifests = append(manifests, r.Path)
		} else if r.Method == http.MethodPut && len(manifests) > 0 {
			t.Errorf("%s after a manifest", r)
		}
	}
	if len(manifests) != 3 || !strings.HasSuffix(manifests[2], "/manifests/1") || strings.Contains(strings.Join(manifests[:2], " "), "/manifests/1 ") {
		t.Errorf("manifests %q", manifests)
	}
}

// A place that is wrapped into a list has the plain image by its own digest too, and nothing beside the list.
func TestWrapIsWhole(t *testing.T) { // S11
	w := newWorld(t, 4)
	src, tars := w.single()
	for _, dst := range []string{"dir:" + filepath.Join(w.dir, "d"), w.layout("out") + ":x", w.docker("a:1")} {
		res := w.copy(src, dst, &Options{Compress: Compression{Algorithm: algoChunked}})
		if res.Digest != digest.FromBytes(w.raw(dst)) {
			t.Errorf("%s: said %s", dst, res.Digest)
		}
		w.checkTars(dst, tars)
	}
	plain := w.situation(w.docker("a:1")).instances[0].desc.Digest
	if _, err := os.Stat(filepath.Join(w.dir, "d", plain.Encoded()+".manifest.json")); err != nil {
		t.Errorf("dir: has not the plain instance: %v", err)
	}
	if c, err := ReadContents(t.Context(), filepath.Join(w.dir, "out")); err != nil || len(c.Images) != 1 {
		t.Errorf("the layout lists %+v, %v", c, err)
	}
}

// Where digests must stay, the default adds no variant and says why; by name it is refused before a blob moves.
func TestNoVariantWhereDigestsStay(t *testing.T) { // S11, S12, S35
	w := newWorld(t, 4)
	b := w.build("src")
	tars := small(t)
	one := b.image("linux/amd64", algoChunked, tars...)
	single, multi := b.name(one, "one"), b.name(b.list(one), "list")
	k := newKeys(t)
	w.copy(single, w.docker("signed:1"), &Options{Signatures: Signing{Signers: []Signer{k.cosign}}})
	for name, tt := range map[string]struct {
		src, dst string
		o        Options
	}{
		"preserved, single":  {single, w.docker("a:1"), Options{Preserve: true}},
		"preserved, list":    {multi, w.docker("b:1"), Options{Preserve: true}},
		"digested":           {single, w.docker("c@" + one.Digest.String()), Options{}},
		"signed":             {w.docker("signed:1"), w.docker("d:1"), Options{Signatures: Signing{Look: true}}},
		"signed, to a dir":   {w.docker("signed:1"), "dir:" + filepath.Join(w.dir, "d"), Options{Signatures: Signing{Look: true}}},
		"digested, and list": {multi, w.docker("e@" + digest.FromBytes(w.raw(multi)).String()), Options{}},
	} {
		o := tt.o
		o.Compress.Algorithm = algoChunked
		res := w.copy(tt.src, tt.dst, &o)
		if !slices.ContainsFunc(res.Notes, func(n string) bool { return strings.HasPrefix(n, "no sentinel variant was added, because ") }) {
			t.Errorf("%s: notes %q", name, res.Notes)
		}
		if res.Digest != digest.FromBytes(w.raw(tt.src)) {
			t.Errorf("%s: other bytes", name)
		}
		o.Sentinel = "hidden"
		w.front.Forget()
		if _, err := w.try(tt.src, tt.dst, &o); !errors.Is(err, ErrPreserve) || w.front.Count("POST", "/uploads/") != 0 {
			t.Errorf("%s: a variant by name: %v", name, err)
		}
	}
}

// A signed image stays in the list that is made around it, and whoever can sign signs that and the variant too.
func TestWrapOfASignedImage(t *testing.T) { // S11, S35
	w := newWorld(t, 4)
	b := w.build("src")
	single := b.name(b.image("linux/amd64", algoChunked, small(t)...), "one")
	old, mine := newKeys(t), newKeys(t)
	w.copy(single, w.docker("signed:1"), &Options{Signatures: Signing{Signers: []Signer{old.cosign}}})
	res := w.copy(w.docker("signed:1"), w.docker("out:1"), &Options{
		Compress: Compression{Algorithm: algoChunked}, Signatures: Signing{Look: true, Signers: []Signer{mine.cosign}},
	})
	signatures := w.signaturesOf(w.docker("out:1"))
	s := w.situation(w.docker("out:1"))
	if len(s.instances) != 2 || len(signatures) != 3 || len(signatures[res.Digest]) != 1 || len(signatures[s.instances[1].desc.Digest]) != 1 {
		t.Fatalf("%d instances, %d signed manifests", len(s.instances), len(signatures))
	}
	if plain := s.instances[0].desc.Digest; plain != digest.FromBytes(w.raw(single)) || len(signatures[plain]) != 2 {
		t.Errorf("the plain image %s has %d signatures", plain, len(signatures[plain]))
	}
	o := &Options{Compress: Compression{Algorithm: algoGzip}, Signatures: Signing{Look: true, Signers: []Signer{mine.cosign}}}
	if _, err := w.try(w.docker("signed:1"), w.docker("no:1"), o); !errors.Is(err, ErrPreserve) {
		t.Errorf("an edit of what is signed: %v", err)
	}
}

// Docker's documents cannot say what a variant is: a Docker list becomes an index for it, and a variant Docker's only
// without its sentinel.
func TestVariantsAreOCI(t *testing.T) { // S8
	w := newWorld(t, 4)
	src := w.multi(algoGzip)
	w.copy(src, w.docker("docker:1"), &Options{Select: Select{Platforms: []v1.Platform{plat(t, "linux/amd64")}, Strip: true}, Format: FormatDocker})
	if l := w.situation(w.docker("docker:1")).list; l.MediaType != manifest.DockerList {
		t.Fatalf("%s", l.MediaType)
	}
	w.copy(w.docker("docker:1"), w.docker("oci:1"), &Options{Compress: Compression{Algorithm: algoChunked}})
	s := w.situation(w.docker("oci:1"))
	if s.list.MediaType != v1.MediaTypeImageIndex || len(s.instances) != 2 || s.instances[1].image.Manifest.MediaType != v1.MediaTypeImageManifest {
		t.Errorf("%s", s.top.raw)
	}
	if _, err := w.try(w.docker("oci:1"), w.docker("no:1"), &Options{Format: FormatDocker}); !errors.Is(err, ErrUsage) && !errors.Is(err, manifest.ErrUnsupported) {
		t.Errorf("a variant as Docker's: %v", err)
	}
	w.copy(w.docker("oci:1"), w.docker("back:1"), &Options{Compress: Compression{Algorithm: algoGzip}, Format: FormatDocker})
	if back := w.situation(w.docker("back:1")); back.list.MediaType != manifest.DockerList || len(back.instances) != 1 || w.sentinels(w.docker("back:1")) != 0 {
		t.Errorf("%s", back.top.raw)
	}
}

// A tar that no table of contents can say has no variant, and who asked for one is told which entry it was and why.
func TestWhyThereIsNoVariant(t *testing.T) {
	for name, tt := range map[string]struct {
		raw  []byte
		says string
	}{
		"a hard link to a symlink": {tarWith(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/link", Linkname: "x"},
			tar.Header{Typeflag: tar.TypeLink, Name: "etc/hard", Linkname: "etc/link"}), `"etc/hard"`},
		"a hard link to a fifo": {tarWith(t, tar.Header{Typeflag: tar.TypeFifo, Name: "run/fifo"},
			tar.Header{Typeflag: tar.TypeLink, Name: "run/hard", Linkname: "run/fifo"}), `"run/hard"`},
		"a name that is not UTF-8": {tarWith(t, tar.Header{Typeflag: tar.TypeReg, Name: "etc/\xff", Format: tar.FormatGNU}), `"etc/\xff"`},
	} {
		w := newWorld(t, 4)
		b := w.build("src")
		src := b.name(b.image("linux/amd64", algoGzip, tt.raw), "x")
		o := &Options{Compress: Compression{Algorithm: algoChunked}}
		if res := w.copy(src, w.docker("plain:1"), o); !strings.Contains(strings.Join(res.Notes, "\n"), tt.says) {
			t.Errorf("%s: notes %q", name, res.Notes)
		}
		o.Sentinel = "only"
		if _, err := w.try(src, w.docker("no:1"), o); !errors.Is(err, ErrUsage) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), "no TOC can say this tar") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The sentinel is a constant: nobody is asked for it, and what a source has under its digest reaches nobody.
func TestSentinelComesFromMemory(t *testing.T) { // S16, S18
	w := newWorld(t, 4)
	ref, _ := w.published("only")
	w.front.Add(front.Rule{Method: "GET", Path: manifest.SentinelDigest.String(), Do: front.FlipBit(300)})
	w.front.Forget()
	w.copy(ref, w.layout("out")+":x", nil)
	w.copy(ref, "store:x", nil)
	if n := w.front.Count("GET", manifest.SentinelDigest.String()); n != 0 {
		t.Errorf("the sentinel was asked for %d times", n)
	}
	if got := w.blobOf(w.layout("out")+":x", manifest.SentinelDescriptor(manifest.SentinelTypeOCI, digest.SHA256)); !bytes.Equal(got, manifest.SentinelContent()) {
		t.Errorf("the layout has another sentinel of %d bytes", len(got))
	}
	if rows, err := w.env.Store.Layers(); err != nil || len(rows) != 2 {
		t.Errorf("%d layers in the store, the sentinel is none (%v)", len(rows), err)
	}
	if _, ok := w.env.Store.HasBlob(manifest.SentinelDigest); ok {
		t.Error("the store keeps the sentinel")
	}
}

// Plain image and variant are two images of one content: different configs, and every file once.
func TestTwoImagesOneContent(t *testing.T) { // S18, S23
	w := newWorld(t, 4)
	ref, _ := w.published("hidden")
	w.copy(ref, "store:x", nil)
	records, _, err := w.env.Store.Resolve(w.ref("store:x").StoreName())
	if err != nil || len(records) != 2 || records[0].Config == records[1].Config || records[0].Manifest == records[1].Manifest {
		t.Fatalf("%+v, %v", records, err)
	}
	if !slices.Equal(records[0].Layers, records[1].Layers) || len(records[0].Layers) != 2 {
		t.Errorf("layers %v and %v", records[0].Layers, records[1].Layers)
	}
}

// A preferred variant with wrong content ends the copy. Only a place that cannot serve it leads to the plain image.
func TestContentNeverFallsBack(t *testing.T) { // S20, S26, rule 68
	w := newWorld(t, 4)
	b := w.build("src")
	tars := small(t)
	plain := b.image("linux/amd64", algoGzip, tars...)
	layer := b.layer(algoChunked, tars[0])
	layer.Annotations["io.github.containers.zstd-chunked.manifest-checksum"] = digest.FromString("another").String()
	variant := b.variantOf(b.imageOf([]v1.Descriptor{layer}, digest.FromBytes(tars[0])), manifest.SentinelTypeOCI, true)
	entries, err := manifest.PublishInstances(plain, variant, *plain.Platform, manifest.LayoutHidden)
	if err != nil {
		t.Fatal(err)
	}
	w.copy(b.name(b.list(entries...), "x"), w.docker("a:1"), nil)
	o := &Options{Platform: platform(t, "linux/amd64"), Prefer: manifest.PreferVariant}
	w.front.Forget()
	if _, err := w.try(w.docker("a:1"), "store:a", o); !errors.Is(err, fill.ErrDigestMismatch) && !errors.Is(err, chunked.ErrDigestMismatch) {
		t.Errorf("got %v", err)
	}
	for _, l := range w.situation(w.docker("a:1")).instances[0].image.Layers {
		if n := w.front.Count("GET", l.Digest.String()); n != 0 {
			t.Errorf("the plain image's layer %s was asked for", l.Digest)
		}
	}
	w.empty(w.env)
	w.front.Add(front.Rule{Path: "/blobs/", Ranged: true, Do: front.IgnoreRange()})
	if res := w.copy(w.docker("a:1"), "store:a", o); len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "the plain image was taken") {
		t.Errorf("notes %q", res.Notes)
	}
}

// Encrypted layers have no table of contents that anybody may use.
func TestEncryptedHasNoVariant(t *testing.T) { // S36, rule 42
	w := newWorld(t, 4)
	b := w.build("src")
	tars := small(t)
	layer := b.layer(algoChunked, tars[0])
	layer.MediaType += "+encrypted"
	src := b.name(b.imageOf([]v1.Descriptor{layer}, digest.FromBytes(tars[0])), "x")
	for _, layout := range []string{"", "hidden", "only"} {
		_, err := w.try(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: layout})
		if s := w.reg.Manifest("a", "1"); s != nil && bytes.Contains(s, []byte("sentinel")) {
			t.Errorf("%q: an encrypted image got a variant (%v)", layout, err)
		}
		if s := w.reg.Manifest("a", "1"); s != nil && !bytes.Contains(s, []byte(layer.Digest)) { // rule 42: untouched
			t.Errorf("%q: an encrypted layer was made anew", layout)
		}
	}
}

// The three layouts go round through every place that keeps manifests, and a store that keeps their blobs, across a
// restart of it, and nothing of them changes. The sentinel is there again where it comes out.
func TestLayoutsGoRound(t *testing.T) { // S28, S29
	w := newWorld(t, 4)
	for _, layout := range []string{"hidden", "upstream", "only"} {
		first, tars := w.published(layout)
		at := first
		for _, e := range endpoints() {
			if e.plain {
				continue
			}
			next := e.ref(w, "round-"+layout+"-"+e.name)
			w.copy(at, next, &Options{Preserve: true})
			sameImage(w, first, next)
			at = next
		}
		w.checkTars(at, tars)
		w.env = w.machine(4)
		w.copy(at, "store:"+layout, &Options{Layers: Layers{KeepBlobs: true}})
		w.restart()
		w.copy("store:"+layout, "store:again-"+layout, &Options{Preserve: true})
		for _, name := range []string{"store:" + layout, "store:again-" + layout} {
			if !bytes.Equal(w.raw(name), w.raw(first)) {
				t.Errorf("%s has another manifest", name)
			}
		}
		for _, e := range endpoints() {
			if !e.plain {
				next := e.ref(w, "of-store-"+layout+"-"+e.name)
				w.copy("store:"+layout, next, &Options{Preserve: true})
				sameImage(w, first, next)
			}
		}
	}
}

// zstd and zstd:chunked have one annotation in a list. What an instance is, its layers say.
func TestChunkedIsNotZstd(t *testing.T) { // S34
	w := newWorld(t, 4)
	add := &Options{Select: Select{Add: []Compression{{Algorithm: algoChunked}}}}
	for _, layout := range []string{"hidden", "upstream"} {
		ref, _ := w.published(layout)
		w.copy(ref, w.docker("same-"+layout+":1"), add)
		if !bytes.Equal(w.raw(w.docker("same-"+layout+":1")), w.raw(ref)) {
			t.Errorf("%s: something was added to what is chunked already", layout)
		}
	}
	b := w.build("src")
	zstd := b.image("linux/amd64", algoZstd, small(t)...)
	zstd.Annotations = map[string]string{manifest.AnnotationZstd: "true"}
	w.copy(b.name(b.list(zstd), "zstd"), w.docker("added:1"), add)
	if s := w.situation(w.docker("added:1")); len(s.instances) != 2 || s.instances[1].image.Trust != manifest.TOCUnbound {
		t.Errorf("%s", s.top.raw)
	}
}
