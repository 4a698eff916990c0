package copy

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// Only what may change is replaced, in an image that changes anyway, and never for somebody who signs or expects a digest.
// rule 25, rule 36
func TestReplaceable(t *testing.T) {
	layer := func(mediaType string, b manifest.Binding) manifest.Layer {
		return manifest.Layer{Descriptor: v1.Descriptor{MediaType: mediaType, Digest: digest.FromString("l"), Size: 1}, DiffID: digest.FromString("t"), Binding: b}
	}
	gz := layer(v1.MediaTypeImageLayerGzip, manifest.BindTar)
	edited := imagePlan{instance: instance{image: &manifest.Image{}}, encode: []bool{true, false}, compress: Compression{Algorithm: algoZstd, Level: 9}, forms: []string{v1.MediaTypeImageManifest}}
	plain, fixed, anew := edited, edited, edited
	anew.compress.Anew = true
	plain.encode, plain.compress = []bool{false, false}, Compression{}
	fixed.fixed = true
	signed := &Options{Signatures: Signing{Signers: make([]Signer, 1)}}
	expects := &Options{Push: Pushing{Expect: digest.FromString("x")}}
	n512 := &naming{alg: digest.SHA512}
	for what, c := range map[string]struct {
		p      imagePlan
		l      manifest.Layer
		encode bool
		n      *naming
		o      *Options
		want   string // compression and algorithm; "" for no
	}{
		"made anew":             {edited, gz, true, &naming{}, &Options{}, "zstd sha256"},
		"in another algorithm":  {edited, gz, true, n512, &Options{}, "zstd sha512"},
		"not made anew":         {edited, gz, false, &naming{}, &Options{}, "zstd sha256"},
		"renamed":               {edited, gz, false, n512, &Options{}, ""},
		"nothing changes":       {plain, gz, false, &naming{}, &Options{}, ""},
		"the manifest is fixed": {fixed, gz, true, &naming{}, &Options{}, ""},
		"--recompress":          {anew, gz, true, &naming{}, &Options{}, ""},
		"a signer":              {edited, gz, true, &naming{}, signed, ""},
		"a digest is expected":  {edited, gz, true, &naming{}, expects, ""},
		"encrypted":             {edited, layer(v1.MediaTypeImageLayerGzip+"+encrypted", manifest.BindTar), true, &naming{}, &Options{}, ""},
		"bound by its TOC":      {edited, layer(v1.MediaTypeImageLayerZstd, manifest.BindTOC), true, &naming{}, &Options{}, ""},
		"the sentinel":          {edited, layer(manifest.SentinelTypeOCI, manifest.BindSentinel), false, &naming{}, &Options{}, ""},
	} {
		got := ""
		if n, ok := c.p.replaceable(c.l, c.encode, c.n, c.o); ok {
			got = n.as + " " + n.algorithm.String()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

// A candidate is in the compression that is needed, whatever its level, and one of the manifest's types can say it.
// rule 38
func TestNeedTakes(t *testing.T) {
	oci, docker := v1.MediaTypeImageManifest, manifest.DockerManifest
	for _, c := range []struct {
		as, is string
		forms  []string
		want   bool
	}{
		{algoGzip, algoGzip, []string{docker}, true},
		{algoGzip, recipeGzip, []string{docker}, true},
		{recipeGzip, algoGzip, nil, false},
		{algoZstd, algoChunked, []string{oci}, true},
		{algoChunked, algoZstd, []string{oci}, false},
		{algoChunked, algoChunked, []string{docker}, false},
		{algoChunked, algoChunked, []string{docker, oci}, true},
		{algoChunked, algoChunked, nil, true},
		{algoNone, algoNone, []string{docker}, true},
		{algoNone, algoGzip, nil, false},
		{algoGzip, "", nil, false},
		{"", "", nil, false},
	} {
		f := plainFact("t", "b", c.is)
		n := need{as: c.as, algorithm: digest.SHA256, forms: c.forms}
		if n.takes(f) != c.want {
			t.Errorf("%q for %q in %v: %v", c.is, c.as, c.forms, !c.want)
		}
		n.algorithm = digest.SHA512
		if n.takes(f) {
			t.Errorf("%q for %q in another algorithm", c.is, c.as)
		}
		n.algorithm, n.other = digest.SHA256, f.Blob
		if n.takes(f) {
			t.Errorf("%q for %q: the blob itself", c.is, c.as)
		}
	}
}

// Those seen here come first, then those seen elsewhere, at most five together, then at most two that were not seen.
// rule 37
func TestSubstitutes(t *testing.T) {
	var facts []fact
	for _, blob := range strings.Fields("u1 a1 u2 b1 u3 h1 ab1 h2") {
		facts = append(facts, plainFact("t", blob, algoZstd))
	}
	facts = append(facts, plainFact("t", "h3", algoGzip))
	name := make(map[digest.Digest]string)
	for _, blob := range strings.Fields("u1 a1 u2 b1 u3 h1 ab1 h2 h3") {
		name[digest.FromString(blob)] = blob
	}
	where := map[string][]string{"a1": {"a"}, "b1": {"b"}, "h1": {"own"}, "h2": {"c", "own"}, "h3": {"own"}, "ab1": {"a", "b"}}
	var got []string
	for _, c := range substitutes(facts, need{as: algoZstd, algorithm: digest.SHA256}, "own", func(d digest.Digest) []string { return where[name[d]] }) {
		got = append(got, name[c.Blob]+"@"+c.repo)
	}
	if want := []string{"h1@", "h2@", "a1@a", "b1@b", "ab1@a", "u1@", "u2@"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// remembering gives a world a memory of its own.
func (w *world) remembering() *world {
	w.t.Helper()
	dir := w.t.TempDir()
	w.env.Locations, w.env.Facts = OpenLocations(filepath.Join(dir, "locations")), OpenFacts(filepath.Join(dir, "facts"))
	return w
}

// later is another process with the memory that this one saved.
func (w *world) later() {
	w.t.Helper()
	if err := errors.Join(w.env.Locations.Save(), w.env.Facts.Save()); err != nil {
		w.t.Fatal(err)
	}
	w.env.Locations, w.env.Facts = OpenLocations(w.env.Locations.path), OpenFacts(w.env.Facts.path)
}

func said(res *Result, what string) bool {
	return slices.ContainsFunc(res.Notes, func(n string) bool { return strings.Contains(n, what) })
}

// What was made anew once is not made again where it is, in a later process too: nothing is read of the layers or
// written, and the digest is the same. rule 34, rule 36, rule 40
func TestReuseInTheSamePlace(t *testing.T) {
	for _, to := range []string{"docker", "oci", "dir", "containerd"} {
		for _, algo := range []string{algoChunked, algoZstd} {
			t.Run(to+" "+algo, func(t *testing.T) {
				w := newWorld(t, 2).remembering()
				src := w.multi(algoGzip)
				dst := map[string]func() string{
					"docker": func() string { return w.docker("to:1") }, "oci": func() string { return w.layout("to") + ":x" },
					"dir": func() string { return "dir:" + filepath.Join(w.dir, "to") }, "containerd": func() string { return w.inContainerd("to") },
				}[to]()
				o := &Options{Compress: Compression{Algorithm: algo}}
				first := w.copy(src, dst, o)
				w.later()
				w.front.Forget()
				meter := &started{}
				w.env.Progress = meter
				again := &Options{Compress: Compression{Algorithm: algo, Level: 9}} // rule 38: the level is no part of it
				second := w.copy(src, dst, again)
				if first.Digest != second.Digest {
					t.Errorf("the second time it is %s, the first time it was %s", second.Digest, first.Digest)
				}
				if names := meter.with(algo + " "); len(names) != 0 {
					t.Errorf("made again: %q", names)
				}
				if n := w.front.Count("PUT", "/blobs/") + w.front.Count("POST", "/blobs/"); n != 0 {
					t.Errorf("%d blobs were sent", n)
				}
				if !said(second, "3 layers were not made anew") {
					t.Errorf("nothing is said: %q", second.Notes)
				}
			})
		}
	}
}

// started remembers what a progress was told.
type started struct {
	silent
	mu    sync.Mutex
	names []string
}

func (s *started) Start(name string, size int64) Meter {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
	return s.silent.Start(name, size)
}

// with are the names that begin so.
func (s *started) with(prefix string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.names {
		if strings.HasPrefix(n, prefix) {
			out = append(out, n)
		}
	}
	return out
}

// made is how many layers a copy made anew.
func (w *world) made(src, dst string, o *Options) (*Result, int) {
	w.t.Helper()
	log := &started{}
	w.env.Progress = log
	res := w.copy(src, dst, o)
	return res, len(log.with(o.Compress.Algorithm + " "))
}

// In another repository of the host the blobs are asked for and mounted. Where the registry has lost them, or does not
// answer, they are made again. rule 37
func TestReuseFromAnotherRepository(t *testing.T) {
	w := newWorld(t, 2).remembering()
	src, tars := w.single()
	o := &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: sentinelNone}
	first := w.copy(src, w.docker("one:1"), o)
	w.later()
	w.front.Forget()
	res, made := w.made(src, w.docker("two:1"), o)
	if made != 0 || res.Digest != first.Digest {
		t.Errorf("%d layers made again, and the digest is %s and not %s", made, res.Digest, first.Digest)
	}
	if n := w.front.Count("PUT", "/two/blobs/"); n > 1 {
		t.Errorf("%d blobs were sent, and more than the config", n)
	}
	w.checkTars(w.docker("two:1"), tars)
	for i, lost := range []front.Action{front.Status(404, "BLOB_UNKNOWN"), front.Status(403, "DENIED"), front.Status(500, "UNKNOWN")} {
		for _, repo := range []string{"one", "two", "lost0", "lost1"}[:2+i] {
			w.front.Add(front.Rule{Method: "HEAD", Path: "/" + repo + "/blobs/", Do: lost})
		}
		name := w.docker("lost" + strconv.Itoa(i) + ":1")
		res, made := w.made(src, name, o)
		if made != 2 || res.Digest != first.Digest {
			t.Errorf("lost %d: %d layers made again, the digest is %s and not %s", i, made, res.Digest, first.Digest)
		}
		w.front.Behave()
		w.checkTars(name, tars)
	}
}

// A layer that would go as it is makes room for one that the destination has, where the manifest changes anyway and only
// there; a note says which digest changed. rule 25, rule 37, rule 40
func TestReuseInsteadOfSending(t *testing.T) {
	w := newWorld(t, 2).remembering()
	tars := small(t)
	b := w.build("mixed")
	old := b.name(b.image("linux/amd64", algoGzip, tars...), "old")
	// The same tars, the first in a gzip blob of somebody else's.
	mixed := b.imageOf([]v1.Descriptor{b.layer(recipeGzip, tars[0]), b.layer(algoNone, tars[1])}, digest.FromBytes(tars[0]), digest.FromBytes(tars[1]))
	src := b.name(mixed, "mixed")
	// Both gzip blobs of the first tar are known here, because both were read.
	for _, ref := range []string{old, src} {
		w.copy(ref, w.layout("read")+":"+filepath.Base(ref), &Options{Compress: Compression{Algorithm: algoZstd}})
	}
	w.copy(old, w.docker("to:1"), nil)
	w.later()
	gz := w.situation(old).instances[0].image.Layers[0]
	other := w.situation(src).instances[0].image.Layers[0]
	if gz.Digest == other.Digest {
		t.Fatal("the two encoders give the same blob")
	}
	plain := w.copy(src, w.docker("to:plain"), nil)
	if plain.Digest != w.situation(src).top.digest {
		t.Error("a copy that was to change nothing did")
	}
	w = newWorldLike(w)
	w.copy(old, w.docker("to:1"), nil)
	w.front.Forget()
	res := w.copy(src, w.docker("to:2"), &Options{Compress: Compression{Algorithm: algoGzip}})
	got := w.situation(w.docker("to:2")).instances[0].image.Layers
	if got[0].Digest != gz.Digest || got[1].Digest != w.situation(old).instances[0].image.Layers[1].Digest {
		t.Errorf("layers %s and %s", got[0].Digest, got[1].Digest)
	}
	if !said(res, "layer "+other.Digest.String()+" is "+gz.Digest.String()+" now") {
		t.Errorf("nothing is said: %q", res.Notes)
	}
	if n := w.front.Count("PUT", "/blobs/"); n != 1 {
		t.Errorf("%d blobs were sent, and not the config alone", n)
	}
	w.checkTars(w.docker("to:2"), tars)
}

// newWorldLike is another registry for a machine with the same memory of tars.
func newWorldLike(w *world) *world {
	next := newWorld(w.t, 2).remembering()
	next.env.Facts = w.env.Facts
	return next
}

// What a configuration claims of a layer that nobody here has read is no fact: the layer is read, and found out. rule 18
func TestReuseBelievesNoConfig(t *testing.T) {
	w := newWorld(t, 2).remembering()
	src, tars := w.single()
	o := &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: sentinelNone}
	w.copy(src, w.docker("to:1"), o)
	b := w.build("liar")
	liar := b.name(b.imageOf([]v1.Descriptor{b.layer(algoGzip, tarOf(t, file{"evil", nil})), b.layer(algoGzip, tars[1])}, digest.FromBytes(tars[0]), digest.FromBytes(tars[1])), "x")
	before := len(w.env.Facts.list)
	if _, err := w.try(liar, w.docker("to:2"), o); !errors.Is(err, ErrDiffID) {
		t.Errorf("%v", err)
	}
	if got := len(w.env.Facts.list); got != before {
		t.Errorf("%d facts, before there were %d", got, before)
	}
}

// A registry that has a blob by its own word and serves other bytes for it poisons nothing: the copy out of it fails, and
// no fact comes of it. rule 17, rule 18
func TestReuseIsNotPoisoned(t *testing.T) {
	w := newWorld(t, 2).remembering()
	src, tars := w.single()
	o := &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: sentinelNone}
	first := w.copy(src, w.docker("to:1"), o)
	layer := w.situation(w.docker("to:1")).instances[0].image.Layers[0]
	w.front.Add(front.Rule{Method: "GET", Path: "/blobs/" + layer.Digest.String(), Do: func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
		raw := make([]byte, layer.Size)
		rw.Write(raw)
	}})
	again, made := w.made(src, w.docker("to:2"), o) // it is asked with HEAD only
	if made != 0 || again.Digest != first.Digest {
		t.Errorf("%d made again, %s", made, again.Digest)
	}
	before := len(w.env.Facts.list)
	if _, err := w.try(w.docker("to:1"), w.layout("out")+":x", &Options{Compress: Compression{Algorithm: algoGzip}}); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("%v", err)
	}
	for _, f := range w.env.Facts.list[before:] {
		if f.Tar != digest.FromBytes(tars[1]) {
			t.Errorf("learnt from a liar: %+v", f)
		}
	}
	if tar := w.env.Facts.tarOf(layer.Digest); tar != digest.FromBytes(tars[0]) {
		t.Errorf("the tar of %s is %s now", layer.Digest, tar)
	}
}

// Who signs gets what was made here, not what is there already. rule 25
func TestReuseNotForSigners(t *testing.T) {
	w := newWorld(t, 2).remembering()
	src, _ := w.single()
	o := &Options{Compress: Compression{Algorithm: algoZstd}}
	w.copy(src, w.docker("to:1"), o)
	if _, made := w.made(src, w.docker("to:2"), o); made != 0 {
		t.Errorf("%d layers made without a signer", made)
	}
	o.Signatures.Signers = []Signer{newKeys(t).cosign}
	if _, made := w.made(src, w.docker("to:3"), o); made != 2 {
		t.Errorf("%d layers made for a signer", made)
	}
}

// A dry run says what is reused and why, and nothing is mounted for that. rule 36
func TestReuseDryRun(t *testing.T) {
	w := newWorld(t, 2).remembering()
	src, _ := w.single()
	o := &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: sentinelNone}
	w.copy(src, w.docker("one:1"), o)
	w.copy(src, w.layout("one")+":1", o)
	made := w.situation(w.docker("one:1")).instances[0].image.Layers
	w.front.Forget()
	for _, dst := range []string{w.docker("one:2"), w.docker("two:1"), w.layout("one") + ":2"} {
		res, err := DryRun(t.Context(), w.env, w.ref(src), w.ref(dst), o)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range res.Instances[0].Blobs[1:] {
			if b.Action != ActionReuse || !strings.Contains(b.Reason, made[i].Digest.String()) {
				t.Errorf("%s: %s %q", dst, b.Action, b.Reason)
			}
		}
		if text := res.String(); !strings.Contains(text, "reuse:") {
			t.Errorf("%s", text)
		}
	}
	if n := w.front.Count("POST", "/"); n != 0 {
		t.Errorf("%d requests that change something", n)
	}
	res, err := DryRun(t.Context(), w.env, w.ref(src), w.ref(w.layout("empty")+":2"), o)
	if err != nil || res.Instances[0].Blobs[1].Action != ActionEncode {
		t.Errorf("%v %+v", err, res)
	}
}

// Out of the store, whose files were compared with the diffIDs when they came, layers are made once. rule 18, rule 35
func TestReuseFromTheStore(t *testing.T) {
	w := newWorld(t, 2).remembering()
	src, tars := w.single()
	w.copy(src, "store:here:1", nil)
	o := &Options{Compress: Compression{Algorithm: algoGzip}}
	first, made := w.made("store:here:1", w.docker("to:1"), o)
	if made != 2 {
		t.Fatalf("%d layers made", made)
	}
	for _, l := range w.situation("store:here:1").instances[0].image.Layers {
		if f := w.env.Facts.of(l.DiffID); slices.ContainsFunc(f, func(f fact) bool { return f.As == algoNone }) {
			t.Errorf("a blob that nobody read: %+v", f)
		}
	}
	w.later()
	second, made := w.made("store:here:1", w.docker("to:2"), o)
	if made != 0 || first.Digest != second.Digest {
		t.Errorf("%d layers made again, %s and %s", made, first.Digest, second.Digest)
	}
	w.checkTars(w.docker("to:2"), tars)
}

// Digests of another algorithm are no substitutes. rule 38, D12
func TestReuseOfOneAlgorithm(t *testing.T) {
	w := newWorld(t, 2).remembering()
	src, _ := w.single()
	o := &Options{Compress: Compression{Algorithm: algoZstd}}
	w.copy(src, w.layout("to")+":1", o)
	o512 := &Options{Compress: o.Compress, Digests: must(t, digest.SHA512)}
	first, made := w.made(src, w.layout("to")+":2", o512)
	if made != 2 {
		t.Errorf("%d layers made", made)
	}
	second, made := w.made(src, w.layout("to")+":3", o512)
	if made != 0 || first.Digest != second.Digest {
		t.Errorf("%d layers made again, %s and %s", made, first.Digest, second.Digest)
	}
}

// Without a memory, and with one that was lost, everything is as it was. rule 34
func TestReuseWithoutMemory(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	b := &Options{Compress: Compression{Algorithm: algoZstd}}
	first, _ := w.made(src, w.layout("to")+":1", b)
	second, made := w.made(src, w.layout("to")+":1", b)
	if made != 2 || first.Digest != second.Digest {
		t.Errorf("%d layers made, %s and %s", made, first.Digest, second.Digest)
	}
	w.remembering()
	w.copy(src, w.layout("to")+":1", b)
	w.later()
	if err := os.WriteFile(w.env.Facts.path, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, made = w.made(src, w.layout("to")+":1", b); made != 2 {
		t.Errorf("%d layers made", made)
	}
}
