package copy

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
)

// TestDockerArchiveAges reads archives as each writer of them made them.
func TestDockerArchiveAges(t *testing.T) {
	tars := small(t)
	a, b := tars[0], tars[1]
	raw25, digest25 := stored(t, algoNone, a, b)
	rawContainerd, digestContainerd := stored(t, algoGzip, a, b)
	for _, c := range []struct {
		name, ref string
		raw       []byte
		tars      [][]byte
		digest    digest.Digest // "": made here
	}{
		{name: "1.10, by tag", raw: saved(t, a, b), ref: ":ours/both:1", tars: tars},
		{name: "1.10, by another tag", raw: saved(t, a, b), ref: ":registry.example:5000/both:2", tars: tars},
		{name: "1.10, symlinked layer", raw: saved(t, a, b), ref: ":one", tars: tars[:1]},
		{name: "1.10, by position", raw: saved(t, a, b), ref: "@0", tars: tars},
		{name: "before 1.10", raw: legacy(t, a, b), ref: ":both:old", tars: tars},
		{name: "before 1.10, its base", raw: legacy(t, a, b), ref: ":base:old", tars: tars[:1]},
		{name: "25", raw: raw25, tars: tars, digest: digest25},
		{name: "containerd", raw: rawContainerd, ref: ":both:1", tars: tars, digest: digestContainerd},
		{name: "crane", raw: crane(t, algoGzip, a, b), tars: tars},
		{name: "crane, zstd", raw: crane(t, algoZstd, a, b), tars: tars},
		{name: "compressed whole", raw: []byte(compress(t, algoGzip, string(raw25))), tars: tars, digest: digest25},
		{name: "hard link", raw: archive(t,
			member{name: "a/layer.tar", content: string(a)}, member{name: "b/layer.tar", link: "a/layer.tar", hard: true},
			member{name: "./c.json", content: config(t, a)},
			member{name: "./manifest.json", content: `[{"Config":"c.json","RepoTags":null,"Layers":["b/layer.tar"]}]`},
		), tars: tars[:1]},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 4)
			path := filepath.Join(w.dir, "a.tar")
			write(t, w.dir, "a.tar", string(c.raw))
			ref := "docker-archive:" + path + c.ref
			w.checkTars(ref, c.tars)
			for _, to := range []string{w.docker("x:1"), "oci-archive:" + filepath.Join(w.dir, "b.tar"), "docker-archive:" + filepath.Join(w.dir, "c.tar") + ":x:1"} {
				res := w.copy(ref, to, nil)
				w.checkTars(to, c.tars)
				if c.digest != "" && !strings.HasPrefix(to, "docker-archive") && res.Digest != c.digest {
					t.Errorf("digest %s, but %s was stored", res.Digest, c.digest)
				}
			}
			w.copy(ref, "store:x", nil)
			if got := w.stored("store:x", manifest.TarOnly); len(got) != len(c.tars) {
				t.Errorf("%d layers in the store", len(got))
			}
		})
	}
}

// A history and a platform come out of layers that never had a config.
func TestLegacyConfig(t *testing.T) {
	w := newWorld(t, 2)
	tars := small(t)
	write(t, w.dir, "a.tar", string(legacy(t, tars[0], tars[1])))
	c := w.situation("docker-archive:" + filepath.Join(w.dir, "a.tar") + ":both:old").instances[0].image.Config
	if got := manifest.FormatPlatform(c.Platform); got != "linux/amd64" {
		t.Errorf("platform %s", got)
	}
	if len(c.History) != 2 || c.History[0].CreatedBy != "/bin/sh -c ADD base" || c.History[1].CreatedBy != "/bin/sh -c make" {
		t.Errorf("history %+v", c.History)
	}
	if !strings.Contains(string(c.Raw), `"config":{"Env":["A=b"]}`) {
		t.Errorf("config %s", c.Raw)
	}
}

// TestDockerArchiveDamaged: no byte of an archive can change without the copy failing, or being the same as before.
func TestDockerArchiveDamaged(t *testing.T) { // rule 17
	a, b := tarOf(t, file{"a", []byte("a")}), tarOf(t, file{"b", []byte("b")})
	raw25, _ := stored(t, algoNone, a, b)
	containerd, _ := stored(t, algoGzip, a, b)
	for name, raw := range map[string][]byte{"1.10": saved(t, a, b), "25": raw25, "containerd": containerd, "crane": crane(t, algoGzip, a, b)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2)
			path := filepath.Join(w.dir, "a.tar")
			want := map[string]bool{string(a): true, string(b): true}
			failed := 0
			for n := 3; n < len(raw); n += 97 {
				bad := bytes.Clone(raw)
				bad[n] ^= 0x10
				write(t, w.dir, "a.tar", string(bad))
				for i := range 2 {
					if !tarsOrFailure(w, fmt.Sprintf("docker-archive:%s@%d", path, i), want) {
						failed++
					}
				}
			}
			if failed == 0 {
				t.Error("nothing was noticed")
			}
		})
	}
}

// tarsOrFailure reads every layer of a reference. It is false when that fails, and fails the test when it gives a tar
// that nobody wrote.
func tarsOrFailure(w *world, ref string, want map[string]bool) bool {
	w.t.Helper()
	src, err := openSource(w.env, w.ref(ref))
	if err != nil {
		return false
	}
	defer src.close()
	s, err := gather(w.t.Context(), src, &Options{})
	if err != nil || s.instances[0].image == nil {
		return false
	}
	for _, l := range s.instances[0].image.Layers {
		r, err := src.blob(w.t.Context(), l.Descriptor)
		if err != nil {
			return false
		}
		raw, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return false
		}
		in, err := compression.NewReader(bytes.NewReader(raw))
		if err != nil {
			w.t.Errorf("%s: layer %s: %v", ref, l.Digest, err)
			return false
		}
		got, err := io.ReadAll(in)
		if err != nil || !want[string(got)] {
			w.t.Errorf("%s: layer %s holds something else (%v)", ref, l.Digest, err)
		}
	}
	return true
}

func TestDockerArchiveRefuses(t *testing.T) {
	tars := small(t)
	a, b := tars[0], tars[1]
	c := config(t, a, b)
	name := func(n int) string { return fmt.Sprintf("%d/layer.tar", n) }
	image := func(config string, layers ...string) member {
		return member{name: "manifest.json", content: asJSON(t, []savedImage{{Config: config, Layers: layers}})}
	}
	layers := []member{{name: name(1), content: string(a)}, {name: name(2), content: string(b)}, {name: "c.json", content: c}}
	with := func(more ...member) []byte { return archive(t, append(append([]member(nil), layers...), more...)...) }
	for _, tt := range []struct {
		name, ref string
		raw       []byte
		want      error
	}{
		{"nothing in it", "", archive(t, member{name: "x"}), ErrNotFound},
		{"no tar", "", []byte(strings.Repeat("no tar", 1000)), manifest.ErrMalformed},
		{"which of two", "", saved(t, a, b), ErrUsage},
		{"which of two, of old", "", legacy(t, a, b), ErrUsage},
		{"no such name", ":three", saved(t, a, b), ErrNotFound},
		{"no such position", "@2", saved(t, a, b), ErrNotFound},
		{"layer missing", "", with(image("c.json", name(1), name(3))), ErrNotFound},
		{"a layer too few", "", with(image("c.json", name(1))), manifest.ErrMalformed},
		{"layers swapped", "", with(image("c.json", name(2), name(1))), manifest.ErrDigestMismatch},
		{"config is another", "", with(member{name: hexOf(c) + ".json", content: c + " "}, image(hexOf(c)+".json", name(1), name(2))), manifest.ErrDigestMismatch},
		{"layer outside", "", with(image("c.json", name(1), "../../etc/shadow")), manifest.ErrMalformed},
		{"config outside", "", with(image("/etc/passwd", name(1))), manifest.ErrMalformed},
		{"not JSON", "", with(member{name: "manifest.json", content: "{"}), manifest.ErrMalformed},
		{"manifest.json too big", "", with(member{name: "manifest.json", content: strings.Repeat(" ", maxSavedSize+1)}), manifest.ErrMalformed},
		{"gzip of another tar", "", archive(t, member{name: "1", content: compress(t, algoGzip, string(b))}, member{name: "c.json", content: config(t, a)}, image("c.json", "1")), ErrDiffID},
		{"a loop of old layers", "", archive(t,
			member{name: strings.Repeat("1", 64) + "/json", content: `{"parent":"` + strings.Repeat("1", 64) + `"}`},
			member{name: strings.Repeat("1", 64) + "/layer.tar", content: string(a)},
			member{name: "repositories", content: `{"a":{"b":"` + strings.Repeat("1", 64) + `"}}`}), manifest.ErrMalformed},
		{"an old id that is none", "", archive(t, member{name: "repositories", content: `{"a":{"b":"../x"}}`}), manifest.ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 2)
			write(t, w.dir, "a.tar", string(tt.raw))
			_, err := w.try("docker-archive:"+filepath.Join(w.dir, "a.tar")+tt.ref, w.layout("x")+":y", nil)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
}

// What a docker archive cannot hold is refused before a layer moves, with the reason.
func TestIntoDockerArchive(t *testing.T) { // L26, rule 54
	w := newWorld(t, 4)
	single, tars := w.single()
	w.copy(single, w.docker("gzip:1"), nil)
	w.copy(w.multi(algoChunked), w.docker("list:1"), nil)
	w.copy(w.docker("list:1"), w.docker("variant:1"), &Options{Platform: platform(t, "linux/amd64"), Sentinel: "only"})
	to := filepath.Join(w.dir, "out.tar")
	for _, c := range []struct {
		src  string
		o    Options
		want error
	}{
		{"gzip:1", Options{Preserve: true}, ErrPreserve},
		{"gzip:1", Options{Compress: Compression{Algorithm: algoGzip}}, ErrUsage},
		{"list:1", Options{}, ErrUsage},
		{"list:1", Options{Platform: platform(t, "linux/amd64"), Sentinel: "hidden"}, ErrUsage},
		{"variant:1", Options{Preserve: true}, ErrPreserve},
	} {
		w.front.Forget()
		_, err := w.try(w.docker(c.src), "docker-archive:"+to+":x", &c.o)
		if !errors.Is(err, c.want) {
			t.Errorf("%s %+v: %v, want %v", c.src, c.o, err, c.want)
		}
		for _, r := range w.front.Log() {
			if strings.Contains(r.Path, "/blobs/") && r.Bytes > 4096 {
				t.Errorf("a layer moved: %s", r)
			}
		}
		nothingAt(t, to)
	}
	w.copy(w.docker("gzip:1"), "docker-archive:"+to+":ours/x:1", nil)
	w.checkTars("docker-archive:"+to+":ours/x:1", tars)
	again := w.copy("docker-archive:"+to, "docker-archive:"+to, &Options{Preserve: true}) // onto itself, no change needed
	if again.Digest != digest.FromBytes(w.raw("docker-archive:"+to)) {
		t.Error("the digest changed")
	}
}

// TestDockerArchiveWritten reads what was written as others do, who know nothing of OCI layouts.
func TestDockerArchiveWritten(t *testing.T) {
	w := newWorld(t, 4)
	single, tars := w.single()
	path := filepath.Join(w.dir, "out.tar")
	w.copy(single, "docker-archive:"+path+":ours/x:1", nil)
	files := map[string]string{}
	raw := read(t, path)
	tr := tar.NewReader(strings.NewReader(raw))
	first := ""
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := files[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		if files[h.Name] = string(content); first == "" {
			first = h.Name
		}
	}
	if len(raw)%tarBlock != 0 || !strings.HasSuffix(raw, strings.Repeat("\x00", 2*tarBlock)) || first != "oci-layout" {
		t.Errorf("%d bytes, first %s", len(raw), first)
	}
	var got []savedImage
	if err := json.Unmarshal([]byte(files["manifest.json"]), &got); err != nil || len(got) != 1 {
		t.Fatalf("manifest.json %s: %v", files["manifest.json"], err)
	}
	if strings.Join(got[0].RepoTags, " ") != "ours/x:1" || len(got[0].Layers) != len(tars) {
		t.Errorf("manifest.json %s", files["manifest.json"])
	}
	c, err := manifest.ParseConfig([]byte(files[got[0].Config]))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range got[0].Layers {
		if files[name] != string(tars[i]) || c.DiffIDs[i] != digest.FromString(files[name]) {
			t.Errorf("layer %d is another tar", i)
		}
	}
	var idx v1.Index
	if err := json.Unmarshal([]byte(files["index.json"]), &idx); err != nil || len(idx.Manifests) != 1 {
		t.Fatalf("index.json %s: %v", files["index.json"], err)
	}
	if a := idx.Manifests[0].Annotations; a["io.containerd.image.name"] != "docker.io/ours/x:1" || a[v1.AnnotationRefName] != "1" {
		t.Errorf("annotations %v", a)
	}
}

// rule 43: a layer that claims to be plain but is not has no diffID of its own; a docker archive of it would be wrong,
// so it gets the tar inside. Where that is not the config's either, there is no archive.
func TestDockerArchiveLyingLayer(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("lying")
	tars := small(t)
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = b.blob(v1.MediaTypeImageConfig, []byte(config(t, tars[0])))
	m.Layers = []v1.Descriptor{b.blob(v1.MediaTypeImageLayer, []byte(compress(t, algoGzip, string(tars[0]))))}
	good := "docker-archive:" + filepath.Join(w.dir, "good.tar")
	w.copy(b.name(b.json(v1.MediaTypeImageManifest, m), "good"), good, nil)
	w.checkTars(good, tars[:1])
	m.Layers[0] = b.blob(v1.MediaTypeImageLayer, []byte(compress(t, algoGzip, string(tars[1]))))
	to := filepath.Join(w.dir, "out.tar")
	_, err := w.try(b.name(b.json(v1.MediaTypeImageManifest, m), "x"), "docker-archive:"+to, nil)
	if !errors.Is(err, ErrDiffID) {
		t.Errorf("%v", err)
	}
	nothingAt(t, to)
}

// Standard input and output are archives too. What comes out in one pass is what a file would have been.
func TestArchiveStreams(t *testing.T) {
	for _, transport := range []string{"oci-archive:", "docker-archive:"} {
		w := newWorld(t, 4)
		single, tars := w.single()
		res := w.copy(single, transport+w.dir+"/file.tar", nil)
		raw := throughPipe(t, &os.Stdout, func() { w.copy(single, transport+"-", nil) })
		write(t, w.dir, "streamed.tar", string(raw))
		w.checkTars(transport+w.dir+"/streamed.tar", tars)
		if got := digest.FromBytes(w.raw(transport + w.dir + "/streamed.tar")); got != res.Digest {
			t.Errorf("%s- has digest %s, a file %s", transport, got, res.Digest)
		}
		for _, form := range []string{algoNone, algoGzip, algoZstd} {
			into(t, []byte(compress(t, form, string(raw))), func() {
				if got := w.copy(transport+"-", w.layout("in-"+form)+":x", nil); got.Digest != res.Digest {
					t.Errorf("%s- (%s): digest %s, want %s", transport, form, got.Digest, res.Digest)
				}
			})
		}
	}
}

// throughPipe collects what is written to one of the process's streams.
func throughPipe(t *testing.T, stream **os.File, do func()) []byte {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	collected := make(chan []byte)
	go func() {
		raw, _ := io.ReadAll(r)
		collected <- raw
	}()
	old := *stream
	*stream = w
	do()
	*stream = old
	w.Close()
	raw := <-collected
	r.Close()
	return raw
}

// into gives bytes to standard input.
func into(t *testing.T, raw []byte, do func()) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		_, _ = w.Write(raw)
		w.Close()
	}()
	old := os.Stdin
	os.Stdin = r
	do()
	os.Stdin = old
	<-written
}

// Several images in one oci-archive, as skopeo and buildx write them, are told apart as in a layout.
func TestOCIArchiveSeveral(t *testing.T) { // L24
	w := newWorld(t, 2)
	tars := small(t)
	b := w.build("several")
	one, two := b.image("linux/amd64", algoGzip, tars[0]), b.image("linux/amd64", algoGzip, tars...)
	b.name(one, "a:1")
	b.name(two, "b")
	path := filepath.Join(w.dir, "several.tar")
	write(t, w.dir, "several.tar", string(tarDir(t, b.dir)))
	for ref, want := range map[string]v1.Descriptor{":a:1": one, ":b": two, "@0": one, "@1": two, "@" + two.Digest.String(): two} {
		if got := w.copy("oci-archive:"+path+ref, w.layout("got-"+hexOf(ref))+":x", nil); got.Digest != want.Digest {
			t.Errorf("%s: %s, want %s", ref, got.Digest, want.Digest)
		}
	}
	for ref, want := range map[string]error{"": ErrUsage, ":c": ErrNotFound, "@2": ErrNotFound} {
		if _, err := w.try("oci-archive:"+path+ref, w.layout("no")+":x", nil); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", ref, err, want)
		}
	}
	for _, ref := range []string{"@0", "@" + two.Digest.String()} {
		if _, err := w.try(b.dirRef("b"), "oci-archive:"+w.dir+"/new.tar"+ref, nil); !errors.Is(err, ErrUsage) {
			t.Errorf("destination %s: %v", ref, err)
		}
	}
}

func (b *builder) dirRef(name string) string { return "oci:" + b.dir + ":" + name }

// tarDir is a directory as tar -C DIR -c . writes it.
func tarDir(t *testing.T, dir string) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	if err := tw.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// An archive is never put in place of something that is no file.
func TestArchiveOverwrites(t *testing.T) {
	w := newWorld(t, 2)
	single, tars := w.single()
	if _, err := w.try(single, "oci-archive:"+w.dir, nil); !errors.Is(err, ErrUsage) {
		t.Errorf("over a directory: %v", err)
	}
	if _, err := w.try(single, "oci-archive:/dev/null", nil); !errors.Is(err, ErrUsage) {
		t.Errorf("over a device: %v", err)
	}
	write(t, w.dir, "old.tar", "something old")
	w.copy(single, "oci-archive:"+w.dir+"/old.tar", nil)
	w.checkTars("oci-archive:"+w.dir+"/old.tar", tars)
}
