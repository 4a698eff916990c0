package copy

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/copy/dockerd"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/integration/contentd"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// world is a registry in memory behind a front, a store, and a directory for layouts.
type world struct {
	t     *testing.T
	reg   *front.Registry
	front *front.Front
	host  string
	env   *Env
	dir   string

	containerd *contentd.Server // nil until a place of it is named
	daemon     *front.Daemon    // stands in for docker's
	dockerd    *dockerd.Client  // of daemon
}

func newWorld(t *testing.T, jobs int) *world {
	t.Helper()
	w := &world{t: t, reg: front.NewRegistry(), dir: t.TempDir()}
	w.front = front.New(w.reg)
	srv := httptest.NewServer(w.front)
	t.Cleanup(srv.Close)
	w.host = strings.TrimPrefix(srv.URL, "http://")
	w.daemon = &front.Daemon{}
	dsrv := httptest.NewServer(w.daemon)
	t.Cleanup(dsrv.Close)
	var err error
	if w.dockerd, err = dockerd.New(dockerd.Options{Host: "tcp://" + strings.TrimPrefix(dsrv.URL, "http://")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.dockerd.Close() })
	w.env = w.machine(jobs)
	return w
}

// machine is another machine with an empty store, in front of the same registry.
func (w *world) machine(jobs int) *Env { return w.machineAt(w.t.TempDir(), jobs) }

// machineAt is a machine whose store is there already.
func (w *world) machineAt(root string, jobs int) *Env {
	w.t.Helper()
	client := registry.New(&registry.Options{
		PlainHTTP: true, Jobs: jobs, Retries: 1,
		Credentials: func(string) (string, string, error) { return "", "", nil },
	})
	st, err := store.Open(root, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	pool := fill.New(st, &fill.Options{Jobs: jobs, Connect: func(_ context.Context, s store.Source) (fill.Source, error) {
		return client.Repo(s.Host, s.Repo).Ranged(s.Blob, s.Size), nil
	}})
	w.t.Cleanup(func() {
		if err := pool.Close(); err != nil {
			w.t.Error(err)
		}
		if err := st.Close(); err != nil {
			w.t.Error(err)
		}
	})
	env := &Env{Registry: client, Store: st, Pool: pool, Jobs: jobs, Dockerd: w.dockerd}
	w.connect(env)
	return env
}

// inContainerd is an image in the namespace "ours" of a containerd, which runs from here on.
func (w *world) inContainerd(name string) string {
	w.t.Helper()
	if w.containerd == nil {
		dir, err := os.MkdirTemp("", "c") // a socket's path has room for 107 bytes
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { os.RemoveAll(dir) })
		if w.containerd, err = contentd.Start(w.t.Context(), dir); err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() {
			if err := w.containerd.Close(); err != nil {
				w.t.Error(err)
			}
		})
		w.connect(w.env)
	}
	return "containerd:ours/" + name
}

// connect gives an environment what runs of the daemons.
func (w *world) connect(env *Env) {
	w.t.Helper()
	if w.containerd == nil || env.Containerd != nil {
		return
	}
	client, err := containerd.New(w.containerd.Address)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { client.Close() })
	env.Containerd = client
}

func (w *world) layout(name string) string { return "oci:" + filepath.Join(w.dir, name) }
func (w *world) docker(name string) string { return "docker://" + w.host + "/" + name }

func (w *world) ref(s string) manifest.Ref {
	w.t.Helper()
	r, err := manifest.ParseRef(s)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) try(src, dst string, o *Options) (*Result, error) {
	w.t.Helper()
	return Copy(w.t.Context(), w.env, w.ref(src), w.ref(dst), o)
}

func (w *world) copy(src, dst string, o *Options) *Result {
	w.t.Helper()
	res, err := w.try(src, dst, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

// raw reads the top-level manifest of a reference.
func (w *world) raw(ref string) []byte {
	w.t.Helper()
	b, err := Raw(w.t.Context(), w.env, w.ref(ref), false, &Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// situation reads a reference with all its instances.
func (w *world) situation(ref string) situation {
	w.t.Helper()
	src, err := openSource(w.env, w.ref(ref))
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := gather(w.t.Context(), src, &Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// file is a tar entry of a test image.
type file struct {
	name    string
	content []byte
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// noise is content that does not compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// builder makes images in a layout by hand, without package code above the encoders.
type builder struct {
	w   *world
	dir string
	idx v1.Index
}

func (w *world) build(name string) *builder {
	b := &builder{w: w, dir: filepath.Join(w.dir, name)}
	b.idx = v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	if err := os.MkdirAll(filepath.Join(b.dir, "blobs/sha256"), 0o755); err != nil {
		w.t.Fatal(err)
	}
	b.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return b
}

func (b *builder) file(name string, raw []byte) {
	b.w.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), raw, 0o644); err != nil {
		b.w.t.Fatal(err)
	}
}

func (b *builder) blob(mediaType string, raw []byte) v1.Descriptor {
	d := digest.FromBytes(raw)
	b.file("blobs/sha256/"+d.Encoded(), raw)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
}

func (b *builder) json(mediaType string, v any) v1.Descriptor {
	b.w.t.Helper()
	raw, err := json.MarshalIndent(v, "", " ") // not as our own writer would, so that equal bytes mean the original ones
	if err != nil {
		b.w.t.Fatal(err)
	}
	return b.blob(mediaType, raw)
}

// image adds an image for a platform with one layer per tar.
func (b *builder) image(platform, algo string, tars ...[]byte) v1.Descriptor {
	b.w.t.Helper()
	p, err := manifest.ParsePlatform(platform)
	if err != nil {
		b.w.t.Fatal(err)
	}
	config := v1.Image{Platform: p, RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for i, raw := range tars {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(raw))
		config.History = append(config.History, v1.History{CreatedBy: fmt.Sprint("layer ", i)})
		m.Layers = append(m.Layers, b.layer(algo, raw))
	}
	m.Config = b.json(v1.MediaTypeImageConfig, config)
	d := b.json(v1.MediaTypeImageManifest, m)
	d.Platform = &p
	return d
}

func (b *builder) layer(algo string, raw []byte) v1.Descriptor {
	b.w.t.Helper()
	var out bytes.Buffer
	d, _, err := encodeTar(&out, bytes.NewReader(raw), Compression{Algorithm: algo}, encoding{digest.SHA256, digest.SHA256})
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.blob("", out.Bytes())
	return d
}

// attestation adds what buildkit adds: a manifest whose layers are no tars.
func (b *builder) attestation(of v1.Descriptor) v1.Descriptor {
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	m.Config = b.blob(v1.MediaTypeImageConfig, []byte(`{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}`))
	m.Layers = []v1.Descriptor{b.blob("application/vnd.in-toto+json", []byte(`{"_type":"statement"}`))}
	d := b.json(v1.MediaTypeImageManifest, m)
	d.Platform = &v1.Platform{OS: "unknown", Architecture: "unknown"}
	d.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of.Digest.String()}
	return d
}

func (b *builder) list(instances ...v1.Descriptor) v1.Descriptor {
	return b.json(v1.MediaTypeImageIndex, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: instances,
		Annotations: map[string]string{"kept": "yes"},
	})
}

// name puts an image into index.json and returns how to refer to it.
func (b *builder) name(d v1.Descriptor, name string) string {
	b.w.t.Helper()
	d.Annotations = map[string]string{v1.AnnotationRefName: name}
	b.idx.Manifests = append(b.idx.Manifests, d)
	raw, err := json.Marshal(b.idx)
	if err != nil {
		b.w.t.Fatal(err)
	}
	b.file("index.json", raw)
	return "oci:" + b.dir + ":" + name
}

// small are the two layers of the usual test image.
func small(t testing.TB) [][]byte {
	return [][]byte{
		tarOf(t, file{"etc/", nil}, file{"etc/passwd", []byte("root:x:0:0\n")}, file{"empty", nil}),
		tarOf(t, file{"etc/hosts", []byte("::1 localhost\n")}, file{"bin/tool", noise(7, 100<<10)}),
	}
}

// single is a layout with one gzip image; it returns its reference and the tars.
func (w *world) single() (string, [][]byte) {
	tars := small(w.t)
	b := w.build("single")
	return b.name(b.image("linux/amd64", algoGzip, tars...), "x"), tars
}

// multi is a layout with a list of two platforms and an attestation.
func (w *world) multi(algo string) string {
	tars := small(w.t)
	b := w.build("multi-" + strings.ReplaceAll(algo, ":", "-"))
	amd := b.image("linux/amd64", algo, tars...)
	arm := b.image("linux/arm64/v8", algo, tars[0], tarOf(w.t, file{"arm", []byte("only\n")}))
	return b.name(b.list(amd, arm, b.attestation(amd)), "x")
}

// checkTars demands that every container image of a reference can be read back, in every form, as these tars.
func (w *world) checkTars(ref string, tars [][]byte) {
	w.t.Helper()
	src, err := openSource(w.env, w.ref(ref))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, in := range w.situation(ref).instances {
		if in.image == nil {
			continue
		}
		layers := in.image.DataLayers()
		if len(layers) != len(tars) {
			w.t.Fatalf("%s: %d layers, want %d", ref, len(layers), len(tars))
		}
		for i, l := range layers {
			blob, err := src.layer(w.t.Context(), l.Descriptor)
			if err != nil {
				w.t.Fatalf("%s: layer %d: %v", ref, i, err)
			}
			tr, err := compression.NewReader(blob)
			if err != nil {
				w.t.Fatal(err)
			}
			got, err := io.ReadAll(tr)
			if err != nil {
				w.t.Fatalf("%s: layer %d: %v", ref, i, err)
			}
			if err := tr.Close(); err != nil {
				w.t.Fatalf("%s: layer %d: %v", ref, i, err)
			}
			if !bytes.Equal(got, tars[i]) {
				w.t.Errorf("%s: layer %d has another tar", ref, i)
			}
			if l.TOC != nil {
				w.checkTOC(src, l)
			}
			blob.Close()
		}
	}
}

func (w *world) checkTOC(src source, l manifest.Layer) {
	w.t.Helper()
	ranges, _ := src.ranged(l.Descriptor)
	var toc []byte
	err := ranges.ReadRanges(w.t.Context(), []manifest.Range{l.TOC.TOC}, func(_ manifest.Range, body io.Reader) (err error) {
		toc, err = io.ReadAll(body)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := chunked.ParseTOC(toc, l.TOC, l.Size); err != nil {
		w.t.Errorf("TOC of %s: %v", l.Digest, err)
	}
}

// stored are the tars that the store writes for an image of a platform, bottom to top.
func (w *world) stored(name string, trust manifest.Trust) [][]byte {
	w.t.Helper()
	records, _, err := w.env.Store.Resolve(w.ref(name).StoreName())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, rec := range records {
		if rec.Trust != trust.String() {
			continue
		}
		var out [][]byte
		for _, n := range rec.Layers {
			l, err := w.env.Pool.Layer(n)
			if err != nil {
				w.t.Fatal(err)
			}
			var b bytes.Buffer
			if err := l.WriteTar(w.t.Context(), &b); err != nil {
				w.t.Fatal(err)
			}
			out = append(out, b.Bytes())
		}
		return out
	}
	w.t.Fatalf("%s has no record of trust %s: %+v", name, trust, records)
	return nil
}

// empty demands that the store has nothing at all.
func (w *world) empty(env *Env) {
	w.t.Helper()
	names, err := env.Store.Names()
	if err != nil {
		w.t.Fatal(err)
	}
	records, err := env.Store.Records()
	if err != nil {
		w.t.Fatal(err)
	}
	layers, err := env.Store.Layers()
	if err != nil {
		w.t.Fatal(err)
	}
	pins, err := env.Store.Pins("")
	if err != nil {
		w.t.Fatal(err)
	}
	if len(names)+len(records)+len(layers)+len(pins) != 0 {
		w.t.Errorf("the store is not empty: names %v, %d records, %d layers, pins %v", names, len(records), len(layers), pins)
	}
	for _, dir := range []string{"blobs", "objects", "partial", "ingest"} {
		err := filepath.WalkDir(filepath.Join(env.Store.Root(), dir), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !strings.HasSuffix(path, ".lock") {
				w.t.Errorf("left in the store: %s", path)
			}
			return nil
		})
		if err != nil && !os.IsNotExist(err) {
			w.t.Fatal(err)
		}
	}
}
