package copy

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// matrixForm is a source of the matrix, in sha256, and what is asked of it besides an algorithm.
type matrixForm struct {
	src string
	o   Options

	stay    string // why it cannot have another algorithm, in an error's words
	list    bool   // what would be written is one
	variant bool   // one would be in it
	same    bool   // it is what it is asked to be
}

// made says that layers are asked to be another than they are.
func (f matrixForm) made() bool { return f.o.Compress.Algorithm != "" || f.o.Sentinel != "" }

func (w *world) forms() map[string]matrixForm {
	single, tars := w.single()
	b := w.build("forms")
	chunkedOne := b.name(b.image("linux/amd64", algoChunked, tars...), "x")
	for _, layout := range []string{"only", "hidden", "upstream"} {
		w.copy(chunkedOne, w.layout("variant")+":"+layout, &Options{Sentinel: layout})
	}
	k := newKeys(w.t)
	signed := "dir:" + w.dir + "/signed"
	w.copy(single, signed, &Options{Signatures: Signing{Signers: []Signer{k.gpg}, Identity: "reg.example/a:1"}})
	amd := []v1.Platform{plat(w.t, "linux/amd64")}
	return map[string]matrixForm{
		"single":               {src: single},
		"list":                 {src: w.multi(algoGzip), list: true},
		"list of lists":        {src: w.nest(), list: true},
		"chunked":              {src: chunkedOne},
		"list, chunked":        {src: w.multi(algoChunked), list: true},
		"new variant":          {src: single, o: Options{Compress: Compression{Algorithm: algoChunked}}, list: true, variant: true},
		"new variant, draft":   {src: chunkedOne, o: Options{Sentinel: "upstream"}, list: true, variant: true},
		"variant alone":        {src: w.layout("variant") + ":only", variant: true},
		"variant, hidden":      {src: w.layout("variant") + ":hidden", list: true, variant: true},
		"variant, draft":       {src: w.layout("variant") + ":upstream", list: true, variant: true},
		"signed":               {src: signed, stay: "it is signed"},
		"signed, removed":      {src: signed, o: Options{Signatures: Signing{Remove: true}}},
		"preserved":            {src: single, o: Options{Preserve: true}, stay: "--preserve-digests was given"},
		"one platform":         {src: w.multi(algoGzip), o: Options{Platform: &amd[0]}},
		"sparse":               {src: w.multi(algoGzip), o: Options{Select: Select{Platforms: amd}}, stay: "its entry stays in the list", list: true},
		"sparse, stripped":     {src: w.multi(algoGzip), o: Options{Select: Select{Platforms: amd, Strip: true}}, list: true},
		"encoded":              {src: single, o: Options{Compress: Compression{Algorithm: algoZstd}}},
		"encoded plainly":      {src: chunkedOne, o: Options{Compress: Compression{Algorithm: algoGzip}}},
		"encoded as it is now": {src: chunkedOne, o: Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: sentinelNone}, same: true},
	}
}

// matrixPlace is a destination of the matrix.
type matrixPlace struct {
	at       func(name string, top digest.Digest) string
	front    *front.Front // of a registry
	algs     []digest.Algorithm
	refuses  string // says this of other algorithms
	plain    bool   // holds one image whose layers are plain tars
	signs    bool   // keeps signatures
	digested bool   // is named by the digest that the source has
	asIs     bool   // changes nothing
	absent   func(to string)
}

var (
	sha256Only = []digest.Algorithm{digest.SHA256}
	without384 = []digest.Algorithm{digest.SHA256, digest.SHA512}
	every      = []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512}
)

func (w *world) places() map[string]matrixPlace {
	same := func(h http.Handler) http.Handler { return h }
	behind := func(wrap func(http.Handler) http.Handler, algs []digest.Algorithm, digested bool) matrixPlace {
		reg, f, host := w.registryLike(wrap)
		h := matrixPlace{front: f, algs: algs, refuses: "does not keep", digested: digested}
		h.at = func(name string, top digest.Digest) string {
			if digested {
				return host + name + "@" + top.String()
			}
			return host + name + ":v1"
		}
		h.absent = func(to string) {
			w.t.Helper()
			if name := w.ref(to).Repo; reg.Manifest(name, "v1") != nil {
				w.t.Errorf("%s is there", to)
			}
		}
		return h
	}
	path := func(transport, suffix string, algs []digest.Algorithm) matrixPlace {
		return matrixPlace{
			at: func(name string, _ digest.Digest) string {
				return transport + ":" + filepath.Join(w.dir, "to", name) + suffix
			},
			algs: algs, refuses: "knows sha256 only",
			absent: func(to string) { w.t.Helper(); nothingAt(w.t, w.ref(to).Path) },
		}
	}
	plain := func(h matrixPlace) matrixPlace {
		h.plain, h.refuses = true, "knows sha256 only"
		return h
	}
	daemon := matrixPlace{algs: sha256Only, at: func(name string, _ digest.Digest) string { return "docker-daemon:ours/" + name + ":1" }}
	daemon.absent = func(to string) {
		w.t.Helper()
		if slices.Contains(w.daemon.Names(), strings.TrimPrefix(to, "docker-daemon:")) {
			w.t.Errorf("%s is there", to)
		}
	}
	daemons := matrixPlace{algs: every, at: func(name string, _ digest.Digest) string { return w.inContainerd(name + ":1") }}
	daemons.absent = func(to string) {
		w.t.Helper()
		images, err := w.containerd.Images(w.t.Context(), "ours")
		for _, im := range images {
			if im.Name == w.ref(to).StoreName() || err != nil {
				w.t.Errorf("%s is there (%v)", to, err)
			}
		}
	}
	old := daemons
	old.at = func(name string, _ digest.Digest) string { return "containerd:theirs/" + name + ":1" } // where no blob is in sha512
	old.algs, old.refuses = sha256Only, "containerd keeps no"
	stored := matrixPlace{algs: every, asIs: true, signs: true, at: func(name string, _ digest.Digest) string { return "store:" + name + ":1" }}
	stored.absent = func(to string) {
		w.t.Helper()
		if _, _, err := w.env.Store.Resolve(w.ref(to).StoreName()); err == nil {
			w.t.Errorf("%s is there", to)
		}
	}
	dir := path("dir", "", every)
	dir.signs = true
	return map[string]matrixPlace{
		"registry of both":             behind(same, without384, false),
		"registry of sha256":           behind(front.OnlySHA256, sha256Only, false),
		"registry, only blobs":         behind(front.BlobsOnly, sha256Only, false),
		"registry that lies":           behind(front.LyingDigests, sha256Only, false),
		"registry of both, digested":   behind(same, without384, true),
		"registry of sha256, digested": behind(front.OnlySHA256, sha256Only, true),
		"oci":                          path("oci", ":x", every),
		"dir":                          dir,
		"oci-archive":                  path("oci-archive", ".tar:x", every),
		"docker-archive":               plain(path("docker-archive", ".docker", sha256Only)),
		"docker-daemon":                plain(daemon),
		"containerd":                   daemons,
		"containerd, old":              old,
		"store":                        stored,
	}
}

// reason is an error that the matrix foretells.
type reason struct {
	is   error
	says string
}

// foretold are the reasons why a form cannot be at a place in an algorithm; one of them is the answer. None means that
// it can.
func foretold(h matrixPlace, f matrixForm, alg digest.Algorithm) (out []reason) {
	add := func(when bool, is error, says string) {
		if when {
			out = append(out, reason{is, says})
		}
	}
	other := alg != digest.SHA256
	add(!slices.Contains(h.algs, alg), manifest.ErrUnsupported, h.refuses)
	add(other && f.stay != "", ErrPreserve, f.stay)
	add(f.variant && alg == digest.SHA384, ErrUsage, "no variant with sha384")
	add(h.plain && f.list && !f.made(), ErrUsage, "one image, not a list")
	add(h.plain && f.made(), ErrUsage, "means nothing there")
	add(h.plain && f.o.Preserve, ErrPreserve, "--preserve-digests was given")
	add(!h.signs && f.stay == "it is signed", ErrUsage, "signatures")
	add(h.plain && f.stay == "it is signed", ErrPreserve, "signed")
	add(h.digested && (other || f.made() && !f.same || f.o.Platform != nil || f.o.Select.Strip), ErrPreserve, "the destination names")
	add(h.asIs && other, ErrPreserve, "the store takes images as they are")
	add(h.asIs && f.made(), ErrUsage, "store")
	return out
}

// TestAlgorithmMatrix copies every form to every place in every algorithm. Either every digest of what is there is of
// that algorithm, or there was the error that was foretold before anything was there; a registry got no more than the
// empty config.
func TestAlgorithmMatrix(t *testing.T) { // D1, D5, D13, D15, D16, D18, D19, D20, rule 61, rule 62, L23, L24
	w := newWorld(t, 4)
	forms := w.forms()
	if err := os.Mkdir(filepath.Join(w.dir, "to"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.inContainerd("") // it runs from here on
	for placeName, place := range w.places() {
		w.containerd.Old.Store(placeName == "containerd, old")
		for formName, f := range forms {
			for _, alg := range every {
				what := placeName + ", " + formName + ", " + alg.String()
				o := f.o
				o.Digests = must(t, alg)
				o.KeepBlobs = placeName == "store"
				to := place.at(strings.Map(letters, what), w.situation(f.src).top.digest)
				if place.front != nil {
					place.front.Forget()
				}
				res, err := w.try(f.src, to, &o)
				why := foretold(place, f, alg)
				switch {
				case (err == nil) != (len(why) == 0):
					t.Errorf("%s: %v, foretold %v", what, err, why)
				case err != nil:
					if !slices.ContainsFunc(why, func(r reason) bool { return errors.Is(err, r.is) && strings.Contains(err.Error(), r.says) }) {
						t.Errorf("%s: %v, foretold %v", what, err, why)
					}
					nothingSent(t, place.front, what)
					place.absent(to)
				case res.Digest.Algorithm() != alg:
					t.Errorf("%s: said %s", what, res.Digest)
				default:
					if formName != "sparse" {
						t.Run(what, func(t *testing.T) { w.scan(to, alg) })
					}
				}
			}
		}
	}
	w.free()
}

func letters(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
		return r
	}
	return -1
}
