package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// write puts an archive into the world's directory.
func (w *world) write(name string, raw []byte) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// savedShapes are archives whose images have no manifest, or have one in an index, by who writes them so.
func savedShapes(t testing.TB) map[string][]byte {
	a, b := small(t)[0], small(t)[1]
	shapes := map[string][]byte{
		"docker 1.10": saved(t, a, b), "docker 1.9": legacy(t, a, b),
		"crane gzip": crane(t, algoGzip, a, b), "crane zstd": crane(t, algoZstd, a, b), "crane plain": crane(t, algoNone, a, b),
		"podman": podman(t, a, b), "list of buildkit": buildkit(t, a, b),
	}
	for _, algo := range []string{algoNone, algoGzip, algoZstd} {
		shapes["docker 25 "+algo], _ = stored(t, algo, a, b)
	}
	return shapes
}

// buildkit is what docker buildx build -o type=oci writes: the entries sorted by name, no manifest.json, and under the one
// entry of index.json a list of the image and of its attestations (containerd, core/images/archive/exporter.go; moby/buildkit,
// exporter/oci and docs/attestations/attestation-storage.md).
func buildkit(t testing.TB, a, b []byte) []byte {
	blobs := []member{{name: "blobs/"}, {name: "blobs/sha256/"}}
	add := func(mediaType, content string) v1.Descriptor {
		blobs = append(blobs, member{name: "blobs/sha256/" + hexOf(content), content: content})
		return v1.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	}
	image := func(config string, layers ...v1.Descriptor) v1.Descriptor {
		m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
			Config: add(v1.MediaTypeImageConfig, config), Layers: layers}
		return add(v1.MediaTypeImageManifest, asJSON(t, m))
	}
	list := func(entries ...v1.Descriptor) string {
		return asJSON(t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: entries})
	}
	gz := layerMediaType(algoGzip)
	built := image(config(t, a, b), add(gz, compress(t, algoGzip, string(a))), add(gz, compress(t, algoGzip, string(b))))
	built.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
	statement := add("application/vnd.in-toto+json", `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":"https://slsa.dev/provenance/v0.2"}`)
	statement.Annotations = map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"}
	about := image(`{"architecture":"unknown","os":"unknown","config":{},"rootfs":{"type":"layers","diff_ids":["`+statement.Digest.String()+`"]}}`, statement)
	about.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	about.Annotations = map[string]string{"vnd.docker.reference.digest": built.Digest.String(), "vnd.docker.reference.type": "attestation-manifest"}
	top := add(v1.MediaTypeImageIndex, list(built, about))
	top.Annotations = map[string]string{
		"io.containerd.image.name": "docker.io/ours/both:1", v1.AnnotationRefName: "1", v1.AnnotationCreated: "2026-11-21T00:00:00Z",
	}
	all := append(blobs, member{name: "index.json", content: list(top)}, member{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`})
	slices.SortFunc(all, func(x, y member) int { return strings.Compare(x.name, y.name) })
	return archive(t, all...)
}

// What buildkit wrote is one list of two, and its digest the one that buildx's metadata file names.
func TestDigestsBuildkit(t *testing.T) { // D25
	w := newWorld(t, 2)
	got, err := Digests(t.Context(), w.write("x.tar", buildkit(t, small(t)[0], small(t)[1])), &DigestOptions{Which: "ours/both:1"})
	if err != nil || len(got) != 1 || got[0].Kind != KindStored || len(got[0].Instances) != 2 || len(got[0].Missing) != 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if im := got[0].Instances[0]; im.Platform != "linux/amd64" || len(im.DiffIDs) != 2 || im.Layers[0].Compression != algoGzip {
		t.Errorf("%+v", im)
	}
	for _, platform := range []string{"linux/amd64", "linux/arm64"} {
		p := plat(t, platform)
		_, err := Digests(t.Context(), w.dir+"/x.tar", &DigestOptions{Platform: &p})
		if (platform == "linux/arm64") != errors.Is(err, manifest.ErrNotFound) || platform == "linux/amd64" && err != nil {
			t.Errorf("%s: %v", platform, err)
		}
	}
}

// podman is what podman save and skopeo write as docker-archive: plain layers under their diffIDs, and the links to them
// that docker had in version 1.10 (containers/image, docker/internal/tarfile/writer.go).
func podman(t testing.TB, a, b []byte) []byte {
	c := config(t, a, b)
	x, y := hexOf(string(a)), hexOf(string(b))
	id := strings.Repeat("4", 64)
	return archive(t,
		member{name: x + ".tar", content: string(a)}, member{name: y + ".tar", content: string(b)},
		member{name: hexOf(c) + ".json", content: c},
		member{name: id + "/layer.tar", link: "../" + y + ".tar"}, member{name: id + "/VERSION", content: "1.0"},
		member{name: id + "/json", content: `{"id":"` + id + `","layer_id":"sha256:` + y + `"}`},
		member{name: "repositories", content: `{"localhost/both":{"1":"` + id + `"}}`},
		member{name: "manifest.json", content: asJSON(t, []savedImage{{
			Config: hexOf(c) + ".json", RepoTags: []string{"localhost/both:1"}, Layers: []string{x + ".tar", y + ".tar"},
		}})},
	)
}

// way is how an image without a manifest is written.
type way struct {
	recipe string
	format Format
}

// TestDigestsAreWhatCopyWrites: for every shape, every image in it, and every way to write it, the foretold digest is the
// one that a copy into a registry has, also when the whole archive is compressed.
func TestDigestsAreWhatCopyWrites(t *testing.T) {
	w := newWorld(t, 4)
	n := 0
	for shape, raw := range savedShapes(t) {
		for wrap, text := range map[string]string{"": string(raw), ".gz": compress(t, algoGzip, string(raw)), ".zst": compress(t, algoZstd, string(raw))} {
			n++
			path := w.write(fmt.Sprint(n, ".tar", wrap), []byte(text))
			found, err := ReadContents(t.Context(), path)
			if err != nil {
				t.Fatalf("%s: %v", shape, err)
			}
			for _, made := range []way{{}, {recipe: recipeNone}, {recipe: recipeGzip}, {recipeGzip, FormatDocker}} {
				o := &DigestOptions{All: true, Recipe: made.recipe, Format: made.format}
				if made.format != "" && (strings.HasPrefix(shape, "docker 25") || strings.HasPrefix(shape, "list")) {
					if _, err := Digests(t.Context(), path, o); !errors.Is(err, ErrUsage) {
						t.Errorf("%s: a list in another format was foretold: %v", shape, err)
					}
					o.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
				}
				all, err := Digests(t.Context(), path, o)
				if (made.format == FormatDocker) && strings.HasSuffix(shape, "zstd") && errors.Is(err, manifest.ErrUnsupported) {
					continue
				}
				if err != nil && !errors.Is(err, ErrNoRecipe) || len(all) != len(found.Images) {
					t.Fatalf("%s%s %+v: %d answers, %v", shape, wrap, made, len(all), err)
				}
				for i, im := range all {
					checkForetold(w, found.Ref(i), o, im)
				}
			}
		}
	}
}

func checkForetold(w *world, ref manifest.Ref, asked *DigestOptions, im Digested) {
	w.t.Helper()
	what := fmt.Sprintf("%s %+v", ref, asked)
	if im.Digest == "" {
		if asked.Recipe != "" || im.Kind != KindPredicted || im.ImageID == "" || len(im.DiffIDs) == 0 {
			w.t.Errorf("%s: no digest: %+v", what, im)
		}
		return
	}
	o := &Options{Format: asked.Format, Platform: asked.Platform, Push: Pushing{Recipe: asked.Recipe, Tars: true, Expect: im.Digest}}
	if len(im.Missing) > 0 {
		o.Platform = &v1.Platform{OS: "linux", Architecture: "amd64"}
		one, err := Digests(w.t.Context(), ref.Path, &DigestOptions{Which: fmt.Sprint("@", ref.Index), Platform: o.Platform})
		if err != nil {
			w.t.Fatalf("%s: %v", what, err)
		}
		im, o.Push.Expect = one[0], one[0].Digest
	}
	res, err := Copy(w.t.Context(), w.env, ref, w.ref(w.docker("foretold:x")), o)
	if err != nil || res.Digest != im.Digest || res.MediaType != im.MediaType {
		w.t.Errorf("%s: foretold %s %s, got %+v, %v", what, im.Digest, im.MediaType, res, err)
	}
	if o.Push.Expect = digest.FromString("other"); !errors.Is(copyErr(w, ref, o), ErrExpect) {
		w.t.Errorf("%s: another digest than expected was written", what)
	}
}

func copyErr(w *world, ref manifest.Ref, o *Options) error {
	_, err := Copy(w.t.Context(), w.env, ref, w.ref(w.docker("foretold:other")), o)
	if raw, _ := Raw(w.t.Context(), w.env, w.ref(w.docker("foretold:other")), false, &Options{}); raw != nil {
		w.t.Error("a manifest was written")
	}
	return err
}

// Kinds, digests and what else is said of an image.
func TestDigestsKinds(t *testing.T) {
	w := newWorld(t, 2)
	a, b := small(t)[0], small(t)[1]
	gz, image := stored(t, algoGzip, a, b)
	id := digest.FromString(config(t, a, b))
	diffIDs := []digest.Digest{digest.FromBytes(a), digest.FromBytes(b)}
	for _, c := range []struct {
		name, which, kind, recipe string
		raw                       []byte
		ask                       string
	}{
		{"docker 25", "", KindStored, "", gz, recipeGzip},
		{"crane", "r.example/both:v", KindAsIs, "", crane(t, algoGzip, a, b), recipeGzip},
		{"docker 1.10", "docker.io/ours/both:1", KindPredicted, "", saved(t, a, b), ""},
		{"docker 1.10", "ours/both:1", KindPredicted, recipeNone, saved(t, a, b), recipeNone},
		{"docker 1.10", "@0", KindPredicted, recipeGzip, saved(t, a, b), recipeGzip},
	} {
		o := &DigestOptions{Which: c.which, Recipe: c.ask}
		got, err := Digests(t.Context(), w.write("x.tar", c.raw), o)
		undecided := c.kind == KindPredicted && c.recipe == ""
		if errors.Is(err, ErrNoRecipe) != undecided || err != nil && !undecided || len(got) != 1 {
			t.Fatalf("%s: %+v, %v", c.name, got, err)
		}
		im := got[0]
		if len(im.Instances) == 1 && len(im.Missing) == 1 {
			im = im.Instances[0]
		}
		if im.Kind != c.kind || im.Recipe != c.recipe || im.ImageID != id || !slices.Equal(im.DiffIDs, diffIDs) || im.Platform != "linux/amd64" {
			t.Errorf("%s: %+v", c.name, im)
		}
		if c.kind == KindStored && im.Digest != image || undecided != (im.Digest == "") || undecided != (len(im.Layers) == 0) {
			t.Errorf("%s: %+v", c.name, im)
		}
		for _, l := range im.Layers {
			if packed := c.recipe != recipeNone; packed != (l.Compression == algoGzip) || packed != strings.HasSuffix(l.MediaType, "gzip") {
				t.Errorf("%s: %+v", c.name, l)
			}
		}
	}
}

// TestDigestsGolden: with gzip.v1 and with none the manifests themselves never change either.
func TestDigestsGolden(t *testing.T) {
	var squares []byte
	for i := range 50_000 {
		squares = fmt.Appendln(squares, i*i)
	}
	tars := [][]byte{tarOf(t, file{"etc/", nil}, file{"etc/passwd", []byte("root:x:0:0\n")}), tarOf(t, file{"squares", squares})}
	w := newWorld(t, 1)
	path := w.write("x.tar", saved(t, tars[0], tars[1]))
	for made, want := range map[way]digest.Digest{
		{recipe: recipeNone}:       "sha256:032f8c97b1c111e1335fa0f903f440689674069e2b69e8472c921d062c37bdf3",
		{recipe: recipeGzip}:       "sha256:360120973b71da9c9143e8e07e7ff1e8a54bbcbe80e3eca51f668408a3bbeaa8",
		{recipeGzip, FormatDocker}: "sha256:f997aa47f723fa81dff7fcf6fe63f036ec3c753877acbb06c194842d7dc2dbd8",
	} {
		got, err := Digests(t.Context(), path, &DigestOptions{Which: "@0", Recipe: made.recipe, Format: made.format})
		if err != nil || got[0].Digest != want {
			t.Errorf("%+v: %+v, %v, want %s", made, got, err, want)
		}
	}
}

// TestDigestsStreamed: of a stream the answers are those of the file.
func TestDigestsStreamed(t *testing.T) {
	w := newWorld(t, 2)
	for shape, raw := range savedShapes(t) {
		want, err := Digests(t.Context(), w.write("x.tar", raw), &DigestOptions{All: true, Recipe: recipeGzip})
		if err != nil {
			t.Fatalf("%s: %v", shape, err)
		}
		if got, err := foretell(t.Context(), raw); err != nil || asJSON(t, got) != asJSON(t, want) {
			t.Errorf("%s: %+v, %v, want %+v", shape, got, err, want)
		}
	}
}

// Digests in another algorithm are of the same bytes.
func TestDigestsAlgorithm(t *testing.T) {
	w := newWorld(t, 1)
	a, b := small(t)[0], small(t)[1]
	for _, raw := range [][]byte{crane(t, algoGzip, a, b), saved(t, a, b)} {
		got, err := Digests(t.Context(), w.write("x.tar", raw), &DigestOptions{Which: "@0", Algorithm: digest.SHA512, Recipe: recipeGzip})
		if err != nil {
			t.Fatal(err)
		}
		im := got[0]
		if im.ImageID != digest.SHA512.FromString(config(t, a, b)) || im.DiffIDs[1] != digest.SHA512.FromBytes(b) || im.Digest.Algorithm() != digest.SHA512 {
			t.Errorf("%+v", im)
		}
		for _, l := range im.Layers {
			if l.Digest.Algorithm() != digest.SHA512 {
				t.Errorf("%+v", l)
			}
		}
	}
}

// TestDigestsRefuse: what was tampered with, has two meanings, or is cut off has no digest, nor does push take it.
func TestDigestsRefuse(t *testing.T) {
	w := newWorld(t, 2)
	a, b := small(t)[0], small(t)[1]
	other := tarOf(t, file{"other", []byte("x")})
	gz := crane(t, algoGzip, a, b)
	oci, _ := stored(t, algoGzip, a, b)
	swap := func(raw []byte, old, by string) []byte {
		if len(old) != len(by) || !bytes.Contains(raw, []byte(old)) {
			t.Fatalf("nothing to replace by %d bytes", len(by))
		}
		return bytes.Replace(bytes.Clone(raw), []byte(old), []byte(by), 1)
	}
	changed := bytes.Clone(a)
	changed[len(changed)/2] ^= 1
	layer := compress(t, algoGzip, string(b))
	broken := []byte(layer)
	broken[len(broken)/2] ^= 1
	head := func(extra ...member) []byte { // an archive of one plain layer, and more
		c := config(t, other)
		return archive(t, append([]member{{name: hexOf(c) + ".json", content: c}, {name: "l.tar", content: string(other)},
			{name: "manifest.json", content: asJSON(t, []savedImage{{Config: hexOf(c) + ".json", Layers: []string{"l.tar"}}})}}, extra...)...)
	}
	lied := config(t, other, b)
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"a plain layer tampered with":   {swap(saved(t, a, b), string(a), string(changed)), ErrDiffID},
		"a gzip layer tampered with":    {swap(gz, layer, string(broken)), manifest.ErrMalformed},
		"a stored layer tampered with":  {swap(oci, layer, string(broken)), manifest.ErrDigestMismatch},
		"a stored config tampered with": {swap(oci, `"os":"linux"`, `"os":"minix"`), manifest.ErrDigestMismatch},
		"a config tampered with":        {swap(gz, `"os":"linux"`, `"os":"minix"`), manifest.ErrDigestMismatch},
		"a lying config": {archive(t, member{name: "c", content: lied}, member{name: "1", content: compress(t, algoGzip, string(a))},
			member{name: "2", content: layer}, member{name: "manifest.json", content: `[{"Config":"c","Layers":["1","2"]}]`}), ErrDiffID},
		"a name for two contents": {head(member{name: "l.tar", content: string(b)}), manifest.ErrMalformed},
		"a link outside":          {head(member{name: "x", link: "../../etc/passwd"}), manifest.ErrMalformed},
		"a name outside":          {head(member{name: "../x", content: "x"}), manifest.ErrMalformed},
		"a layer that is away":    {archive(t, member{name: "c", content: lied}, member{name: "manifest.json", content: `[{"Config":"c","Layers":["1","2"]}]`}), manifest.ErrMalformed},
		"cut in a layer":          {gz[:len(gz)/2], manifest.ErrMalformed},
		"cut between entries":     {head()[:len(head())-1024], manifest.ErrMalformed},
		"nothing":                 {nil, manifest.ErrMalformed},
		"cut, compressed":         {[]byte(compress(t, algoGzip, string(gz))[:500]), manifest.ErrMalformed},
		"cut in the checksum":     {[]byte(compress(t, algoGzip, string(gz))[:len(compress(t, algoGzip, string(gz)))-4]), manifest.ErrMalformed},
		"no archive of images":    {archive(t, member{name: "etc/passwd", content: "root"}), ErrUsage},
		"a huge document":         {head(member{name: "index.json", content: "{" + strings.Repeat(" ", maxIndexSize)}, member{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`}), manifest.ErrMalformed},
		"too many documents":      {head(documents(maxScanned/(7<<20) + 1)...), manifest.ErrMalformed},
	} {
		path := w.write("bad.tar", c.raw)
		got, err := Digests(t.Context(), path, &DigestOptions{Which: "@0", Recipe: recipeGzip})
		if !errors.Is(err, c.want) || got != nil {
			t.Errorf("%s: %+v, %v, want %v", name, got, err, c.want)
		}
		if name == "too many documents" {
			continue // which push, that reads what it is told to, has no use for
		}
		if found, err := ReadContents(t.Context(), path); err == nil {
			o := &Options{Push: Pushing{Recipe: recipeGzip, Tars: true}, Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}
			if _, err := Copy(t.Context(), w.env, found.Ref(0), w.ref(w.docker("bad:x")), o); err == nil {
				t.Errorf("%s: it was copied", name)
			}
		}
	}
}

// documents are n files that could each be a manifest.
func documents(n int) []member {
	var out []member
	for i := range n {
		out = append(out, member{name: fmt.Sprint(i, ".json"), content: `{"schemaVersion":2,"x":"` + strings.Repeat("x", 7<<20) + `"}`})
	}
	return out
}

// Bombs of both compressions, as a layer and as the whole archive, end early.
func TestDigestsBombs(t *testing.T) {
	w := newWorld(t, 1)
	zeros := string(make([]byte, 64<<20))
	layer := compress(t, algoZstd, zeros)
	c := config(t, []byte(zeros))
	inner := archive(t, member{name: "c", content: c}, member{name: "l", content: layer}, member{name: "manifest.json", content: `[{"Config":"c","Layers":["l"]}]`})
	outer := []byte(compress(t, algoZstd, string(archive(t, member{name: "zeros", content: zeros}))))
	for name, raw := range map[string][]byte{"layer": inner, "archive": outer} {
		path := w.write("bomb.tar", raw)
		if _, err := Digests(t.Context(), path, &DigestOptions{bomb: 1 << 20}); !errors.Is(err, manifest.ErrMalformed) || !strings.Contains(err.Error(), "became more than") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Digests(t.Context(), w.write("bomb.tar", inner), &DigestOptions{}); err != nil {
		t.Errorf("64 MiB of zeros are no bomb: %v", err)
	}
}

// The documents of an archive may come first or last, and an OCI layout may be a directory; the answer is the same.
func TestDigestsOrder(t *testing.T) {
	w := newWorld(t, 2)
	src := w.multi(algoGzip)
	dir := strings.TrimSuffix(strings.TrimPrefix(src, "oci:"), ":x")
	want := w.situation(src).top.digest
	first := w.write("first.tar", tarDir(t, dir))
	w.copy(src, "oci-archive:"+filepath.Join(w.dir, "last.tar"), nil)
	w.copy(src, "dir:"+filepath.Join(w.dir, "skopeo"), nil)
	var answers []string
	for _, path := range []string{dir, first, filepath.Join(w.dir, "last.tar"), filepath.Join(w.dir, "skopeo")} {
		for _, platform := range []*v1.Platform{nil, {OS: "linux", Architecture: "arm64", Variant: "v8"}} {
			got, err := Digests(t.Context(), path, &DigestOptions{Platform: platform})
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if platform == nil && (got[0].Digest != want || len(got[0].Instances) != 3 || got[0].MediaType != v1.MediaTypeImageIndex) {
				t.Errorf("%s: %+v", path, got)
			}
			got[0].Ref = ""
			answers = append(answers, asJSON(t, got))
		}
		if _, err := Digests(t.Context(), path, &DigestOptions{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}); !errors.Is(err, manifest.ErrNotFound) {
			t.Errorf("%s: a platform that is not there: %v", path, err)
		}
	}
	for i, a := range answers {
		if a != answers[i%2] {
			t.Errorf("%s\nis not\n%s", a, answers[i%2])
		}
	}
}

// A layout directory with a damaged blob has no digest.
func TestDigestsDirectoryDamaged(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	dir := strings.TrimSuffix(strings.TrimPrefix(src, "oci:"), ":x")
	for _, l := range w.situation(src).instances[0].image.Layers {
		name := filepath.Join(dir, "blobs/sha256", l.Digest.Encoded())
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(good)
		flipped[len(good)-1] ^= 1
		for _, bad := range [][]byte{flipped, good[:len(good)-1], append(bytes.Clone(good), 0), nil} {
			if err := os.WriteFile(name, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Digests(t.Context(), dir, &DigestOptions{}); !errors.Is(err, manifest.ErrDigestMismatch) && !errors.Is(err, manifest.ErrMalformed) {
				t.Errorf("%d bytes: %v", len(bad), err)
			}
		}
		if err := os.WriteFile(name, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Digests(t.Context(), dir, &DigestOptions{}); err != nil {
		t.Error(err)
	}
}

// A layout whose blobs and diffIDs are sha512 is verified as such.
func TestDigestsSHA512(t *testing.T) { // D5
	a, b := small(t)[0], small(t)[1]
	alg := digest.SHA512
	for _, c := range []struct {
		diffID digest.Digest
		want   error
	}{{alg.FromBytes(b), nil}, {alg.FromBytes(a), ErrDiffID}} {
		var members []member
		add := func(mediaType, content string) v1.Descriptor {
			members = append(members, member{name: "blobs/sha512/" + alg.FromString(content).Encoded(), content: content})
			return v1.Descriptor{MediaType: mediaType, Digest: alg.FromString(content), Size: int64(len(content))}
		}
		m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
		m.Layers = []v1.Descriptor{add(v1.MediaTypeImageLayerGzip, compress(t, algoGzip, string(b)))}
		m.Config = add(v1.MediaTypeImageConfig, asJSON(t, v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{c.diffID}}}))
		top := add(v1.MediaTypeImageManifest, asJSON(t, m))
		members = append(members, member{name: "oci-layout", content: `{"imageLayoutVersion":"1.0.0"}`},
			member{name: "index.json", content: asJSON(t, v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{top}})})
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(path, archive(t, members...), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := Digests(t.Context(), path, &DigestOptions{})
		if !errors.Is(err, c.want) || c.want == nil && (err != nil || got[0].Digest != top.Digest) {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// TestDigestsAnyByte: whichever bit of an archive changes, there is an error or the same image; and where the archive
// says the digest, the same digest.
func TestDigestsAnyByte(t *testing.T) {
	tars := [][]byte{tarOf(t, file{"a", []byte("a")}), tarOf(t)}
	oci, _ := stored(t, algoGzip, tars[0], tars[1])
	for name, raw := range map[string][]byte{"stored": oci, "as-is": crane(t, algoGzip, tars[0], tars[1])} {
		good, err := foretell(t.Context(), raw)
		if err != nil || len(good) != 1 {
			t.Fatal(good, err)
		}
		for i := 0; i < len(raw); i += 11 {
			bad := bytes.Clone(raw)
			bad[i] ^= 1
			got, err := foretell(t.Context(), bad)
			if err == nil && (len(got) != 1 || got[0].ImageID != good[0].ImageID || name == "stored" && got[0].Digest != good[0].Digest) {
				t.Errorf("%s: byte %d: another answer without an error: %+v", name, i, got)
			}
		}
	}
}

// foretell answers for all images of an archive in memory.
func foretell(ctx context.Context, raw []byte) ([]Digested, error) {
	d := &digester{o: &DigestOptions{All: true, Recipe: recipeGzip}, want: measuring{algs: []digest.Algorithm{digest.SHA256}, recipe: true, bomb: 1 << 24}}
	return d.stream(ctx, bytes.NewReader(raw), "archive")
}

// FuzzDigests: any bytes have an answer or an error that says what is wrong with them.
func FuzzDigests(f *testing.F) {
	tars := [][]byte{tarOf(f, file{"a", []byte("a")}), tarOf(f)}
	oci, _ := stored(f, algoGzip, tars[0], tars[1])
	seeds := [][]byte{saved(f, tars[0], tars[1]), legacy(f, tars[0], tars[1]), oci, crane(f, algoZstd, tars[0], tars[1]), podman(f, tars[0], tars[1])}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, err := foretell(t.Context(), raw)
		for _, kind := range []error{nil, manifest.ErrMalformed, manifest.ErrUnsupported, manifest.ErrDigestMismatch, manifest.ErrSentinel, ErrDiffID, ErrNotFound, ErrUsage} {
			if kind == nil && err == nil || kind != nil && errors.Is(err, kind) {
				return
			}
		}
		t.Fatalf("an error of no kind: %v", err)
	})
}
