package copy

import (
	"archive/tar"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

func must(t testing.TB, alg digest.Algorithm) *manifest.DigestWish {
	t.Helper()
	w, err := manifest.MustUse(alg)
	if err != nil {
		t.Fatal(err)
	}
	return &w
}

func prefer(t testing.TB, alg digest.Algorithm) *manifest.DigestWish {
	t.Helper()
	w, err := manifest.NoWish().Prefer(alg)
	if err != nil {
		t.Fatal(err)
	}
	return &w
}

var anyDigest = regexp.MustCompile(`sha[0-9]+:[0-9a-f]{64,128}`)

// scan demands that every digest of an image or list is of alg, whoever names it: manifests and lists as a whole, tables
// of contents, and the config of a sentinel variant. Plain configs keep the diffIDs of their tars.
func (w *world) scan(ref string, alg digest.Algorithm) {
	w.t.Helper()
	src, err := openSource(w.env, w.ref(ref))
	if err != nil {
		w.t.Fatal(err)
	}
	defer src.close()
	only := func(what string, text []byte) {
		w.t.Helper()
		for _, d := range anyDigest.FindAll(text, -1) {
			if !strings.HasPrefix(string(d), alg.String()+":") {
				w.t.Errorf("%s: %s has %s", ref, what, d)
			}
		}
	}
	s := w.situation(ref)
	if s.top.digest.Algorithm() != alg {
		w.t.Errorf("%s is %s", ref, s.top.digest)
	}
	only("the top", s.top.raw)
	var walk func([]instance)
	walk = func(list []instance) {
		for _, in := range list {
			only("instance "+in.doc.digest.String(), in.doc.raw)
			only("its descriptor", []byte(asJSON(w.t, in.desc)))
			walk(in.children)
			for _, d := range in.blobs {
				readAll(w.t, src, d)
			}
			if in.image == nil {
				continue
			}
			if in.image.ChainBound {
				only("the config of a variant", in.image.Config.Raw)
			}
			readAll(w.t, src, in.image.Manifest.Config)
			for _, l := range in.image.Layers {
				if _, stored := src.(*storeSource); stored && l.Binding == manifest.BindSentinel {
					continue // the store has no need of its bytes
				}
				readAll(w.t, src, l.Descriptor)
				if l.TOC != nil {
					w.scanTOC(src, l, alg)
				}
			}
		}
	}
	walk(s.instances)
}

func (w *world) scanTOC(src source, l manifest.Layer, alg digest.Algorithm) {
	w.t.Helper()
	ranges, _ := src.ranged(l.Descriptor)
	if ranges == nil { // the store has read it already
		return
	}
	err := ranges.ReadRanges(w.t.Context(), []manifest.Range{l.TOC.TOC}, func(_ manifest.Range, body io.Reader) error {
		raw, err := io.ReadAll(body)
		if err != nil {
			return err
		}
		toc, err := chunked.ParseTOC(raw, l.TOC, l.Size)
		if err != nil {
			return err
		}
		for _, d := range append([]digest.Digest{l.TOC.Digest, toc.TarSplitDigest}, digestsIn(toc)...) {
			if d.Algorithm() != alg {
				w.t.Errorf("table of contents of %s has %s", l.Digest, d)
			}
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
}

func digestsIn(toc *chunked.TOC) (out []digest.Digest) {
	for _, e := range toc.Entries {
		if e.Digest != "" {
			out = append(out, e.Digest)
		}
		for _, c := range e.Chunks {
			out = append(out, c.Digest)
		}
	}
	return out
}

// registryLike is another registry, in front of which something stands.
func (w *world) registryLike(wrap func(http.Handler) http.Handler) (*front.Registry, *front.Front, string) {
	reg := front.NewRegistry()
	f := front.New(wrap(reg))
	srv := httptest.NewServer(f)
	w.t.Cleanup(srv.Close)
	return reg, f, "docker://" + strings.TrimPrefix(srv.URL, "http://") + "/"
}

// nothingSent allows a probe: the empty config, and a manifest of that under its digest.
func nothingSent(t *testing.T, f *front.Front, what string) {
	t.Helper()
	if f == nil {
		return
	}
	if n := f.Count("POST", "/uploads/"); n > 1 {
		t.Errorf("%s: %d uploads begun", what, n)
	}
	for _, r := range f.Log() {
		if r.Method == "PUT" && strings.Contains(r.Path, "/manifests/") && !strings.Contains(r.Path, "/manifests/sha512:") {
			t.Errorf("%s: %s", what, r)
		}
	}
}

// The names of files follow (L23, L24), and the version that says so.
func TestAlgorithmNames(t *testing.T) { // D5, D6, D14, D21, L23, L24
	w := newWorld(t, 4)
	src, tars := w.single()
	dir := filepath.Join(w.dir, "d")
	w.copy(src, "dir:"+dir, &Options{Digests: must(t, digest.SHA512)})
	before, after := w.situation(src).instances[0].image, w.situation("dir:" + dir).instances[0].image
	want := []string{"manifest.json", "version", "sha512-" + after.Manifest.Config.Digest.Encoded()}
	for _, l := range after.Layers {
		want = append(want, "sha512-"+l.Digest.Encoded())
	}
	if got := names(t, dir); len(got) != len(want) {
		t.Errorf("files %q, want %q", got, want)
	}
	for _, name := range want {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	if v := read(t, filepath.Join(dir, "version")); v != dirVersion12 {
		t.Errorf("version %q", v)
	}
	if string(before.Config.Raw) != string(after.Config.Raw) {
		t.Error("the config changed, and with it the diffIDs")
	}
	w.checkTars("dir:"+dir, tars)
	w.copy("dir:"+dir, w.layout("l")+":x", nil)
	for _, e := range names(t, filepath.Join(w.dir, "l", "blobs")) {
		if e != "sha512" {
			t.Errorf("blobs/%s", e)
		}
	}
	// Back again, and it is the image that it was.
	back := w.copy("dir:"+dir, "dir:"+dir+"2", &Options{Digests: must(t, digest.SHA256)})
	if back.Digest != w.situation(src).top.digest {
		t.Errorf("back: %s", back.Digest)
	}
	if v := read(t, filepath.Join(dir+"2", "version")); v != dirVersion11 {
		t.Errorf("version %q", v)
	}
}

// A config's descriptor is edited as a whole.
func TestAlgorithmDescriptor(t *testing.T) { // D6, D9, D14, rule 62
	w := newWorld(t, 2)
	b := w.build("src")
	d := b.image("linux/amd64", algoGzip, small(t)...)
	var m map[string]any
	raw := w.read(b, d.Digest)
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	config := m["config"].(map[string]any)
	config["data"], config["urls"] = w.read(b, digest.Digest(config["digest"].(string))), []string{"https://example.com/c"}
	config["annotations"], config["x-unknown"] = map[string]string{"kept": "yes"}, 1
	layer := m["layers"].([]any)[0].(map[string]any)
	layer["annotations"] = map[string]string{"kept": "too", "containerd.io/snapshot/stargz/toc.digest": digest.FromString("x").String()}
	edited := b.json(d.MediaType, m)
	edited.Platform = d.Platform
	src := b.name(edited, "x")
	first := w.copy(src, w.layout("to")+":x", &Options{Digests: must(t, digest.SHA512)})
	w.scan(w.layout("to")+":x", digest.SHA512)
	got := string(w.raw(w.layout("to") + ":x"))
	if strings.Contains(got, `"data"`) || strings.Contains(got, `"urls"`) {
		t.Errorf("data or URLs of the old digest: %s", got)
	}
	for _, kept := range []string{`"kept": "yes"`, `"kept":"too"`, `"x-unknown": 1`} {
		if !strings.Contains(got, kept) {
			t.Errorf("%s is gone: %s", kept, got)
		}
	}
	again := w.copy(w.layout("to")+":x", w.layout("to2")+":x", &Options{Digests: must(t, digest.SHA512)})
	if again.Digest != first.Digest || string(w.raw(w.layout("to2")+":x")) != got {
		t.Errorf("a second run gave %s after %s", again.Digest, first.Digest)
	}
}

func (w *world) read(b *builder, d digest.Digest) []byte {
	w.t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.dir, "blobs", d.Algorithm().String(), d.Encoded()))
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// A variant whose tables of contents become another algorithm's is made again, in the layout that it had: the new
// sentinel's digest, and in a chain-bound config the new digests of the tables of contents (D16).
func TestAlgorithmVariant(t *testing.T) { // D16, S27
	w := newWorld(t, 4)
	src, tars := w.single()
	for _, layout := range []string{"hidden", "upstream", "only"} {
		w.copy(src, w.layout("a")+":"+layout, &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: layout})
		o := &Options{Digests: must(t, digest.SHA512)}
		res := w.copy(w.layout("a")+":"+layout, w.layout("b")+":"+layout, o)
		w.scan(w.layout("b")+":"+layout, digest.SHA512)
		before, after := w.situation(w.layout("a")+":"+layout), w.situation(w.layout("b")+":"+layout)
		if len(before.instances) != len(after.instances) {
			t.Fatalf("%s: %d instances became %d", layout, len(before.instances), len(after.instances))
		}
		for i, in := range after.instances {
			old := before.instances[i]
			if in.image.Trust != old.image.Trust || in.image.ChainBound != old.image.ChainBound || manifest.Hidden(in.desc) != manifest.Hidden(old.desc) {
				t.Errorf("%s: instance %d is another kind: %v, %+v", layout, i, in.image.Trust, in.desc)
			}
			if !in.image.Sentinel() {
				w.checkTars(w.layout("b")+":"+layout, tars)
				continue
			}
			if in.image.Layers[0].Digest != manifest.SentinelDigest512 || in.image.Config.DiffIDs[0] != manifest.SentinelDigest512 {
				t.Errorf("%s: sentinel %s, diff_ids %v", layout, in.image.Layers[0].Digest, in.image.Config.DiffIDs)
			}
		}
		if again := w.copy(w.layout("b")+":"+layout, w.layout("c")+":"+layout, o); again.Digest != res.Digest {
			t.Errorf("%s: a second run gave %s after %s", layout, again.Digest, res.Digest)
		}
	}
}

// What became sha512 on its way into a registry goes through a layout, a directory and the store back into one, byte for
// byte.
func TestAlgorithmChain(t *testing.T) { // D1, D20, D21, D25, L23, L24, L25
	w := newWorld(t, 4)
	single, _ := w.single()
	for name, src := range map[string]string{"image": single, "chunked": w.multi(algoChunked), "lists": w.nest(), "variants": w.hidden()} {
		first := w.copy(src, w.docker(name+":1"), &Options{Digests: must(t, digest.SHA512)})
		want := w.raw(w.docker(name + ":1"))
		steps := []string{w.docker(name + ":1"), w.layout("o-"+name) + ":x", "dir:" + filepath.Join(w.dir, "d-"+name), "store:" + name + ":1", w.docker(name + "-back:1")}
		for i := 1; i < len(steps); i++ {
			res := w.copy(steps[i-1], steps[i], &Options{Layers: Layers{KeepBlobs: strings.HasPrefix(steps[i], "store:")}, Preserve: true})
			if res.Digest != first.Digest || string(w.raw(steps[i])) != string(want) {
				t.Errorf("%s: %s, not %s", steps[i], res.Digest, first.Digest)
			}
			w.scan(steps[i], digest.SHA512)
		}
		if w.reg.Manifest(name+"-back", first.Digest.String()) == nil {
			t.Errorf("%s: the registry has it under another digest", name)
		}
	}
}

// hidden is a list of two platforms with their sentinel variants.
func (w *world) hidden() string {
	w.copy(w.multi(algoGzip), w.layout("hidden")+":x", &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: "hidden"})
	return w.layout("hidden") + ":x"
}

// Several images in one archive, in sha512: blobs that they share are in it once.
func TestAlgorithmSave(t *testing.T) { // D1, L24
	w := newWorld(t, 4)
	single, tars := w.single()
	b := w.build("second")
	second := b.name(b.image("linux/arm64", algoGzip, tars...), "y")
	to := Saved{Path: filepath.Join(w.dir, "s.tar"), Transport: manifest.OCIArchive}
	refs := []manifest.Ref{w.ref(single), w.ref(second)}
	results, err := Save(t.Context(), w.env, to, refs, &Options{Digests: must(t, digest.SHA512)})
	if err != nil {
		t.Fatal(err)
	}
	for i, res := range results {
		w.scan("oci-archive:"+to.Path+":@"+strconv.Itoa(i), digest.SHA512)
		if got := w.situation("oci-archive:" + to.Path + ":@" + strconv.Itoa(i)).top.digest; got != res.Digest {
			t.Errorf("%s, said %s", got, res.Digest)
		}
	}
	f, err := os.Open(to.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	seen := make(map[string]bool)
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil || seen[h.Name] {
			t.Fatalf("%+v twice, or %v", h, err)
		}
		seen[h.Name] = true
	}
}
