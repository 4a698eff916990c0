package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

var errDown = errors.New("registry is down")

// registry is a Remote in this process that notes what it was asked for.
type registry struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	asked map[string]int // "manifest", "blob", "toc", "content"; "ended" for content that waited in vain
	down  map[string]bool
	tocs  map[digest.Digest]manifest.Range // of the layers
	gate  chan struct{}                    // content waits for it, if not nil

	sentinel string // its media type in the variants that are made here
}

func newRegistry() *registry {
	return &registry{blobs: map[digest.Digest][]byte{}, asked: map[string]int{}, down: map[string]bool{}, tocs: map[digest.Digest]manifest.Range{}, sentinel: manifest.SentinelTypeOCI}
}

func (r *registry) put(raw []byte) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(raw)
	r.blobs[d] = raw
	return d
}

func (r *registry) ask(what string, d digest.Digest) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[what]++
	raw, ok := r.blobs[d]
	if r.down[what] || !ok {
		return nil, fmt.Errorf("%s %s: %w", what, d, errDown)
	}
	return raw, nil
}

// log returns what was asked for since the last call.
func (r *registry) log() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = map[string]int{}
	return asked
}

func (r *registry) setDown(what string, down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down[what] = down
}

func (r *registry) Manifest(_ context.Context, _ string, d digest.Digest) ([]byte, string, error) {
	raw, err := r.ask("manifest", d)
	return raw, v1.MediaTypeImageManifest, err
}

func (r *registry) Blob(_ context.Context, _ string, d v1.Descriptor) ([]byte, error) {
	return r.ask("blob", d.Digest)
}

func (r *registry) Layer(_ context.Context, _ string, d v1.Descriptor) (fill.Source, store.Source, error) {
	place := store.Source{Host: "registry.test", Repo: "x", Blob: d.Digest, Size: d.Size, MediaType: d.MediaType}
	return blobSource{r, d.Digest}, place, nil
}

func (r *registry) connect(_ context.Context, src store.Source) (fill.Source, error) {
	return blobSource{r, src.Blob}, nil
}

type blobSource struct {
	r *registry
	d digest.Digest
}

func (b blobSource) ReadRanges(ctx context.Context, ranges []chunked.Range, fn func(chunked.Range, io.Reader) error) error {
	b.r.mu.Lock()
	gate, toc, what := b.r.gate, b.r.tocs[b.d], "content"
	b.r.mu.Unlock()
	if last := ranges[len(ranges)-1]; last.End() >= toc.End() {
		what = "toc"
	}
	raw, err := b.r.ask(what, b.d)
	if err != nil {
		return err
	}
	if what == "content" && gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			_, _ = b.r.ask("ended", b.d)
			return ctx.Err()
		}
	}
	for _, r := range ranges {
		if err := fn(r, bytes.NewReader(raw[r.Off:r.End()])); err != nil {
			return err
		}
	}
	return nil
}

// tarOf makes a tar of regular files, sorted by nothing: pairs of name and content.
func tarOf(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), ModTime: time.Unix(1e9, 0), Format: tar.FormatPAX}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layer compresses a tar into the registry.
func (r *registry) layer(t testing.TB, tar []byte, level int) (v1.Descriptor, digest.Digest) {
	t.Helper()
	var b bytes.Buffer
	w, err := chunked.Compress(&b, bytes.NewReader(tar), &chunked.WriterOptions{Level: level})
	if err != nil {
		t.Fatal(err)
	}
	d := r.put(b.Bytes())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tocs[d] = w.TOC.TOC
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayerZstd, Digest: d, Size: w.Size, Annotations: w.TOC.Annotations()}, w.DiffID
}

// image puts the image of some layers into the registry: plain, as it may be read as
// tar too.
func (r *registry) image(t testing.TB, layers []v1.Descriptor, diffIDs []digest.Digest) *manifest.Image {
	t.Helper()
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:    layers,
	})
	if err != nil {
		t.Fatal(err)
	}
	return r.publish(t, raw, config)
}

// plain makes an image of one layer per tar.
func (r *registry) plain(t testing.TB, level int, tars ...[]byte) *manifest.Image {
	t.Helper()
	var layers []v1.Descriptor
	var diffIDs []digest.Digest
	for _, raw := range tars {
		l, d := r.layer(t, raw, level)
		layers, diffIDs = append(layers, l), append(diffIDs, d)
	}
	return r.image(t, layers, diffIDs)
}

// variant makes the sentinel variant of im.
func (r *registry) variant(t testing.TB, im *manifest.Image, chainBound bool) *manifest.Image {
	t.Helper()
	raw, config, err := manifest.AddSentinel(im, r.sentinel, chainBound)
	if err != nil {
		t.Fatal(err)
	}
	return r.publish(t, raw, config)
}

func (r *registry) publish(t testing.TB, raw, config []byte) *manifest.Image {
	t.Helper()
	m, err := manifest.ParseManifest(raw, v1.MediaTypeImageManifest)
	if err != nil {
		t.Fatal(err)
	}
	c, err := manifest.ParseConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	im, err := manifest.NewImage(m, c)
	if err != nil {
		t.Fatal(err)
	}
	r.put(raw)
	r.put(config)
	return im
}

// claiming is im with other diff_ids, which manifest.NewImage would not accept.
func (r *registry) claiming(t testing.TB, im *manifest.Image, diffIDs ...digest.Digest) *manifest.Image {
	t.Helper()
	config := im.Config.Raw
	for i, d := range diffIDs {
		config = bytes.Replace(config, []byte(im.Config.DiffIDs[i]), []byte(d), 1)
	}
	raw := bytes.Replace(im.Manifest.Raw, []byte(im.Manifest.Config.Digest), []byte(r.put(config)), 1)
	fake := *im
	fake.Manifest = &manifest.Manifest{Raw: raw, Digest: r.put(raw)}
	fake.Config = &manifest.Config{Raw: config, DiffIDs: diffIDs}
	return &fake
}

// daemon is a snapshotter with its store and pool, and containerd's client for it.
type daemon struct {
	snapshots.Snapshotter
	root  string
	st    *store.Store
	pool  *fill.Pool
	s     *Snapshotter
	stops []func() error
}

// start opens a daemon on root. o may set policy; its Store, Pool, Root and MountDir
// are filled in.
func start(t testing.TB, root string, r *registry, o Options) *daemon {
	t.Helper()
	return startPool(t, root, r, o, fill.Options{})
}

// startPool is start with options for the pool, but for Connect.
func startPool(t testing.TB, root string, r *registry, o Options, po fill.Options) *daemon {
	t.Helper()
	d := &daemon{root: root}
	var err error
	if d.st, err = store.Open(root, nil); err != nil {
		t.Fatal(err)
	}
	po.Connect = r.connect
	d.pool = fill.New(d.st, &po)
	o.Root, o.Store, o.Pool, o.MountDir = root, d.st, d.pool, root+"/mnt"
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	if o.Remote == nil {
		o.Remote = r
	}
	if d.s, err = New(&o); err != nil {
		t.Fatal(err)
	}
	client, stop, err := dial(d.s)
	if err != nil {
		t.Fatal(err)
	}
	d.Snapshotter = client
	d.stops = []func() error{stop, d.s.Close, d.pool.Close, d.st.Close}
	t.Cleanup(func() { d.stop(t) })
	return d
}

func (d *daemon) stop(t testing.TB) {
	t.Helper()
	for _, stop := range d.stops {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
	d.stops = nil
}

// labels are what containerd's transfer service sends for layer i.
func labels(im *manifest.Image, i int) map[string]string {
	l := im.Layers[i]
	m := map[string]string{
		snapshots.LabelSnapshotRef:    manifest.ChainIDs(im.Config.DiffIDs)[i].String(),
		snapshots.LabelSnapshotDiffID: l.DiffID.String(),
	}
	if strings.HasPrefix(l.MediaType, "application/vnd.oci.image.layer.") { // containerd's images.IsLayerType
		m["containerd.io/snapshot/cri.image-ref"] = "registry.test/x:latest"
		m["containerd.io/snapshot/cri.manifest-digest"] = im.Manifest.Digest.String()
		m["containerd.io/snapshot/cri.layer-digest"] = l.Digest.String()
	}
	return m
}

// pull does what containerd does with a snapshotter in one namespace, and returns the
// backend's name of each layer's snapshot; "" ends the list at the first layer that
// containerd would have to unpack.
func (d *daemon) pull(ns string, im *manifest.Image) (names []string, err error) {
	ctx := namespaces.WithNamespace(context.Background(), ns)
	parent := ""
	for i := range im.Layers {
		l := labels(im, i)
		ref := l[snapshots.LabelSnapshotRef]
		key := fmt.Sprintf("%s/%d/extract-%d-test %s", ns, i, i, ref)
		_, err := d.Prepare(ctx, key, parent, snapshots.WithLabels(l))
		if err == nil {
			return append(names, ""), nil
		}
		if !errdefs.IsAlreadyExists(err) {
			return names, err
		}
		name, err := d.find(ctx, ref, parent)
		if err != nil {
			return names, err
		}
		names, parent = append(names, name), name
	}
	return names, nil
}

// find is containerd's look-up after an ErrAlreadyExists.
func (d *daemon) find(ctx context.Context, ref, parent string) (string, error) {
	var found []snapshots.Info
	filter := fmt.Sprintf(`labels.%q==%s,parent==%q`, snapshots.LabelSnapshotRef, ref, parent)
	err := d.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		found = append(found, info)
		return nil
	}, filter)
	if err != nil {
		return "", err
	}
	if len(found) != 1 || found[0].Kind != snapshots.KindCommitted || found[0].Parent != parent || found[0].Labels[snapshots.LabelSnapshotRef] != ref {
		return "", fmt.Errorf("answer %s is listed as %+v", ref, found)
	}
	_, err = d.Stat(ctx, found[0].Name)
	return found[0].Name, err
}

// all returns the names of all snapshots.
func (d *daemon) all(t testing.TB) []string {
	t.Helper()
	var names []string
	err := d.Walk(context.Background(), func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// pins returns the targets of the snapshots' pins by snapshot id.
func (d *daemon) pins(t testing.TB) map[string]store.PinTarget {
	t.Helper()
	pins, err := d.st.Pins(pinPrefix)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]store.PinTarget{}
	for _, p := range pins {
		m[p.ID] = p.Target
	}
	return m
}

// eachType runs a test for both media types of the sentinel.
func eachType(t *testing.T, test func(t *testing.T, mediaType string)) {
	t.Helper()
	for _, mediaType := range []string{manifest.SentinelTypeOCI, manifest.SentinelTypeUpstream} {
		t.Run(mediaType, func(t *testing.T) { test(t, mediaType) })
	}
}
