package copy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// A manifest's digest can be asked for in another algorithm, and nothing changes by that.
func TestInspectAlgorithm(t *testing.T) { // D23
	w := newWorld(t, 2)
	src, _ := w.single()
	raw := w.raw(src)
	for alg, o := range map[digest.Algorithm]*Options{
		digest.SHA256: {}, digest.SHA384: {Digests: must(t, digest.SHA384)}, digest.SHA512: {Digests: must(t, digest.SHA512)},
	} {
		got, err := Inspect(t.Context(), w.env, w.ref(src), o)
		if err != nil || got.Digest != alg.FromBytes(raw) {
			t.Errorf("%s: %v, %v", alg, got, err)
		}
		if got.Layers[0].Algorithm() != digest.SHA256 {
			t.Errorf("%s: layer %s", alg, got.Layers[0])
		}
	}
}

// Every digest from outside is looked at before it names a file or a request.
func TestHostileDigests(t *testing.T) { // D24
	w := newWorld(t, 2)
	src, _ := w.single()
	good := string(w.raw(src))
	m := w.situation(src).instances[0].image.Manifest
	for _, bad := range []string{
		"sha256:../../../etc/passwd", "sha256:" + strings.Repeat("A", 64), "sha256:" + strings.Repeat("a", 63), "sha512:" + strings.Repeat("a", 64),
		"sha999:" + strings.Repeat("a", 64), "md5:" + strings.Repeat("a", 32), "", "sha256", strings.Repeat("a", 64),
	} {
		for what, was := range map[string]string{"config": m.Config.Digest.String(), "layer": m.Layers[0].Digest.String()} {
			raw := strings.Replace(good, was, bad, 1)
			b := w.build("bad")
			at := b.name(b.blob(v1.MediaTypeImageManifest, []byte(raw)), "x")
			for _, to := range []string{w.layout("to") + ":x", "dir:" + w.dir + "/dir", "store:bad", w.docker("bad:1")} {
				if _, err := w.try(at, to, &Options{Digests: prefer(t, digest.SHA512)}); !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, manifest.ErrUnsupported) {
					t.Errorf("%s %q to %s: %v", what, bad, to, err)
				}
			}
			list := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":3}]}`, v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, bad)
			at = b.name(b.blob(v1.MediaTypeImageIndex, []byte(list)), "list")
			if _, err := w.try(at, w.layout("to")+":x", nil); !errors.Is(err, manifest.ErrMalformed) && !errors.Is(err, manifest.ErrUnsupported) {
				t.Errorf("list with %q: %v", bad, err)
			}
		}
	}
}

// What kept its bytes keeps its digest: a layout that goes into the store with its blobs comes out the same; a docker
// archive of plain tars has a digest of its own, and nobody claims another.
func TestDigestKept(t *testing.T) { // D25
	w := newWorld(t, 2)
	src, _ := w.single()
	w.copy(src, "store:kept:1", &Options{Layers: Layers{KeepBlobs: true}})
	if res := w.copy("store:kept:1", w.layout("out")+":x", nil); res.Digest != w.situation(src).top.digest {
		t.Errorf("out of the store: %s", res.Digest)
	}
	w.copy(src, "docker-archive:"+w.dir+"/a.tar", nil)
	if _, err := w.try("docker-archive:"+w.dir+"/a.tar", w.docker("a@"+w.situation(src).top.digest.String()), nil); !errors.Is(err, ErrPreserve) {
		t.Errorf("out of a docker archive: %v", err)
	}
}

// Importing computes the digests that are named and no others: of a sha256 image nothing in the store is of sha512.
func TestImportAlgorithms(t *testing.T) { // rule 65
	w := newWorld(t, 2)
	src, _ := w.single()
	w.copy(src, "store:a", nil)
	for _, dir := range []string{"blobs", "objects"} {
		if _, err := os.Stat(filepath.Join(w.env.Store.Root(), dir, "sha512")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s/sha512: %v", dir, err)
		}
	}
	if same, err := w.env.Store.SameAs(w.situation(src).top.digest, digest.SHA512); same != "" || err != nil {
		t.Errorf("a pair that nobody asked for: %s, %v", same, err)
	}
}

// A layer that is here under another algorithm's table of contents is not taken for the one that is asked for: the
// digests of its table are compared as they are, and its blob is read by ranges of its own.
func TestPartialAlgorithm(t *testing.T) { // D12, D13, rule 64
	w := newWorld(t, 2)
	b := w.build("chunked")
	tars := small(t)
	src := b.name(b.image("linux/amd64", algoChunked, tars...), "x")
	w.copy(src, w.docker("a:256"), &Options{Sentinel: "only"})
	w.copy(src, w.docker("a:512"), &Options{Sentinel: "only", Digests: must(t, digest.SHA512)})
	w.copy(w.docker("a:256"), "store:a:256", nil)
	before, err := w.env.Store.Layers()
	if err != nil {
		t.Fatal(err)
	}
	w.front.Forget()
	w.copy(w.docker("a:512"), "store:a:512", nil)
	after, err := w.env.Store.Layers()
	if err != nil || len(after) != len(before)+len(tars) {
		t.Errorf("%d layers, then %d: %v", len(before), len(after), err)
	}
	got := w.stored("store:a:512", manifest.TOCOnly)
	for i := range tars {
		if !bytes.Equal(got[i], tars[i]) {
			t.Errorf("layer %d has another tar", i)
		}
	}
	// A table whose digest is right in one algorithm and is said in the other is wrong.
	m := w.situation(w.docker("a:512")).instances[0].image
	w.front.Add(front.Rule{Path: m.Layers[1].Digest.String(), Do: front.FlipBit(int(m.Layers[1].TOC.TOC.Off))})
	w.env = w.machine(2)
	if _, err := w.try(w.docker("a:512"), "store:a:512", nil); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("a flipped bit in a sha512 table of contents: %v", err)
	}
	if records, err := w.env.Store.Records(); err != nil || len(records) != 0 {
		t.Errorf("%d records, %v", len(records), err)
	}
}

// Tars keep the names that they have in a config unless that is asked for; then each is compared with the old one.
func TestDiffIDAlgorithm(t *testing.T) { // D14, rule 64
	w := newWorld(t, 2)
	src, tars := w.single()
	tarsOf := func(wish manifest.DigestWish) *manifest.DigestWish {
		wish, err := wish.Tars(digest.SHA512)
		if err != nil {
			t.Fatal(err)
		}
		return &wish
	}
	for name, o := range map[string]*Options{
		"alone":    {Digests: tarsOf(manifest.NoWish())},
		"with all": {Digests: tarsOf(*must(t, digest.SHA512))},
		"encoded":  {Digests: tarsOf(manifest.NoWish()), Compress: Compression{Algorithm: algoZstd}},
		"variant":  {Digests: tarsOf(*must(t, digest.SHA512)), Compress: Compression{Algorithm: algoChunked}},
	} {
		to := w.layout("to") + ":" + name
		res := w.copy(src, to, o)
		for _, in := range w.situation(to).instances {
			if in.image.Sentinel() {
				continue
			}
			for i, d := range in.image.Config.DiffIDs {
				if d != digest.SHA512.FromBytes(tars[i]) {
					t.Errorf("%s: diff_ids[%d] is %s", name, i, d)
				}
			}
		}
		w.checkTars(to, tars)
		if again := w.copy(to, w.layout("again")+":"+name, o); again.Digest != res.Digest {
			t.Errorf("%s: a second run gave %s after %s", name, again.Digest, res.Digest)
		}
		for _, c := range []struct {
			dst  string
			with Options
			want error
		}{
			{w.layout("no") + ":x", Options{Preserve: true}, ErrPreserve}, {"store:no", Options{}, ErrUsage},
		} {
			c.with.Digests = o.Digests
			if name == "variant" && c.dst == "store:no" || name == "with all" && c.dst == "store:no" {
				continue // refused for its other digests first or after
			}
			if _, err := w.try(src, c.dst, &c.with); !errors.Is(err, c.want) {
				t.Errorf("%s to %s: %v", name, c.dst, err)
			}
		}
	}
	// A config that lies about its tar stays a lie nobody signs.
	b := w.build("lie")
	d := b.image("linux/amd64", algoGzip, tars[0])
	m := w.situation(b.name(d, "x")).instances[0].image
	raw := strings.Replace(string(m.Config.Raw), m.Config.DiffIDs[0].String(), digest.FromString("x").String(), 1)
	config := b.blob(v1.MediaTypeImageConfig, []byte(raw))
	lie, err := manifest.ReplaceLayers(m.Manifest, config, m.Manifest.Layers, "")
	if err != nil {
		t.Fatal(err)
	}
	at := b.name(b.blob(v1.MediaTypeImageManifest, lie), "lie")
	if _, err := w.try(at, w.layout("no")+":x", &Options{Digests: tarsOf(manifest.NoWish())}); !errors.Is(err, ErrDiffID) {
		t.Errorf("a config that lies: %v", err)
	}
}
