package copy

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

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

// forms are the sources of the matrix, all in sha256. Some cannot become another algorithm's.
func (w *world) forms(t *testing.T) map[string]struct {
	src  string
	o    Options
	stay error // why it cannot change
} {
	single, tars := w.single()
	b := w.build("forms")
	chunkedOne := b.name(b.image("linux/amd64", algoChunked, tars...), "x")
	for _, layout := range []string{"only", "hidden", "upstream"} {
		w.copy(chunkedOne, w.layout("variant")+":"+layout, &Options{Sentinel: layout})
	}
	k := newKeys(t)
	signed := w.dir + "/signed"
	w.copy(single, "dir:"+signed, &Options{Signatures: Signing{Signers: []Signer{k.gpg}, Identity: "reg.example/a:1"}})
	type form = struct {
		src  string
		o    Options
		stay error
	}
	return map[string]form{
		"single":               {src: single},
		"list":                 {src: w.multi(algoGzip)},
		"list of lists":        {src: w.nest()},
		"chunked":              {src: chunkedOne},
		"list, chunked":        {src: w.multi(algoChunked)},
		"new variant":          {src: single, o: Options{Compress: Compression{Algorithm: algoChunked}}},
		"new variant, draft":   {src: chunkedOne, o: Options{Sentinel: "upstream"}},
		"variant alone":        {src: w.layout("variant") + ":only"},
		"variant, hidden":      {src: w.layout("variant") + ":hidden"},
		"variant, draft":       {src: w.layout("variant") + ":upstream"},
		"signed":               {src: "dir:" + signed, stay: ErrPreserve},
		"signed, removed":      {src: "dir:" + signed, o: Options{Signatures: Signing{Remove: true}}},
		"preserved":            {src: single, o: Options{Preserve: true}, stay: ErrPreserve},
		"one platform":         {src: w.multi(algoGzip), o: Options{Platform: platform(t, "linux/amd64")}},
		"sparse":               {src: w.multi(algoGzip), o: Options{Select: Select{Platforms: one(t)}}, stay: ErrPreserve},
		"sparse, stripped":     {src: w.multi(algoGzip), o: Options{Select: Select{Platforms: one(t), Strip: true}}},
		"encoded":              {src: single, o: Options{Compress: Compression{Algorithm: algoZstd}}},
		"encoded plainly":      {src: chunkedOne, o: Options{Compress: Compression{Algorithm: algoGzip}}},
		"encoded as it is now": {src: chunkedOne, o: Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: sentinelNone}},
	}
}

func one(t *testing.T) []v1.Platform { return []v1.Platform{plat(t, "linux/amd64")} }

// TestAlgorithmMatrix copies every form to every place in every algorithm. Either every digest of what is there is of
// that algorithm, or there was an error before anything was there; a registry got no more than the empty config.
func TestAlgorithmMatrix(t *testing.T) { // D1, D5, D13, D15, D16, D19, D20, rule 61, rule 62, L23, L24
	w := newWorld(t, 4)
	forms := w.forms(t)
	same := func(h http.Handler) http.Handler { return h }
	both, bothFront, bothAt := w.registryLike(same)
	_, onlyFront, onlyAt := w.registryLike(front.OnlySHA256)
	_, blobsFront, blobsAt := w.registryLike(front.BlobsOnly)
	_, liesFront, liesAt := w.registryLike(front.LyingDigests)
	_ = both
	path := func(transport, suffix string) func(string) string {
		return func(name string) string { return transport + ":" + filepath.Join(w.dir, "to", name) + suffix }
	}
	if err := os.Mkdir(filepath.Join(w.dir, "to"), 0o755); err != nil {
		t.Fatal(err)
	}
	places := map[string]struct {
		at    func(name string) string
		front *front.Front
		holds map[digest.Algorithm]bool
		lists bool
	}{
		"registry of both":     {func(n string) string { return bothAt + n + ":v1" }, bothFront, map[digest.Algorithm]bool{digest.SHA256: true, digest.SHA512: true}, true},
		"registry of sha256":   {func(n string) string { return onlyAt + n + ":v1" }, onlyFront, map[digest.Algorithm]bool{digest.SHA256: true}, true},
		"registry, only blobs": {func(n string) string { return blobsAt + n + ":v1" }, blobsFront, map[digest.Algorithm]bool{digest.SHA256: true}, true},
		"registry that lies":   {func(n string) string { return liesAt + n + ":v1" }, liesFront, map[digest.Algorithm]bool{digest.SHA256: true}, true},
		"oci":                  {path("oci", ":x"), nil, map[digest.Algorithm]bool{digest.SHA256: true, digest.SHA384: true, digest.SHA512: true}, true},
		"dir":                  {path("dir", ""), nil, map[digest.Algorithm]bool{digest.SHA256: true, digest.SHA384: true, digest.SHA512: true}, true},
		"oci-archive":          {path("oci-archive", ".tar:x"), nil, map[digest.Algorithm]bool{digest.SHA256: true, digest.SHA384: true, digest.SHA512: true}, true},
		"docker-archive":       {path("docker-archive", ".docker"), nil, map[digest.Algorithm]bool{digest.SHA256: true}, false},
	}
	for placeName, place := range places {
		for formName, form := range forms {
			for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
				name := strings.Map(letters, placeName+formName+alg.String())
				o := form.o
				o.Digests = must(t, alg)
				to := place.at(name)
				if place.front != nil {
					place.front.Forget()
				}
				res, err := w.try(form.src, to, &o)
				variant := strings.Contains(formName, "variant")
				can := place.holds[alg] && (form.stay == nil || alg == digest.SHA256) && !(variant && alg == digest.SHA384)
				if !place.lists || alg == digest.SHA256 {
					can = err == nil // what docker archives cannot hold is not asked here
				}
				switch {
				case alg == digest.SHA256 && err != nil: // something else is the matter
				case (err == nil) != can:
					t.Errorf("%s, %s, %s: %v", placeName, formName, alg, err)
				case err == nil:
					if res.Digest.Algorithm() != alg {
						t.Errorf("%s, %s, %s: said %s", placeName, formName, alg, res.Digest)
					}
					if formName != "sparse" {
						w.scan(to, alg)
					}
				default:
					if form.stay != nil && place.holds[alg] && !errors.Is(err, form.stay) {
						t.Errorf("%s, %s, %s: %v", placeName, formName, alg, err)
					}
					nothingSent(t, place.front, placeName+", "+formName)
					if !strings.HasPrefix(to, "docker:") {
						nothingAt(t, w.ref(to).Path)
					}
				}
			}
		}
	}
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return -1
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
