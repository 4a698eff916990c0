package snapshotter

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

func chainNames(im *manifest.Image) []string {
	var names []string
	for _, d := range manifest.ChainIDs(im.Config.DiffIDs) {
		names = append(names, d.String())
	}
	return names
}

func mustPull(t *testing.T, d *daemon, ns string, im *manifest.Image) []string {
	t.Helper()
	names, err := d.pull(ns, im)
	if err != nil {
		t.Fatal(err)
	}
	if want := chainNames(im); !slices.Equal(names, want) {
		t.Fatalf("answered as %q, want %q", names, want)
	}
	return names
}

func mustRefuse(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), text) {
		t.Fatalf("%v, want a refusal with %q", err, text)
	}
}

func TestLazyPull(t *testing.T) { eachType(t, testLazyPull) }

func testLazyPull(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "lower", "b", "b"), tarOf(t, "a", "upper")), true)
	d := start(t, t.TempDir(), r, Options{})

	names := mustPull(t, d, "n1", im)
	if got, want := r.log(), map[string]int{"manifest": 1, "blob": 1, "toc": 2}; !maps.Equal(got, want) {
		t.Errorf("a pull asked for %v, want %v", got, want)
	}
	if got := d.all(t); len(got) != 3 {
		t.Errorf("snapshots: %q", got)
	}
	pins := d.pins(t)
	if len(pins) != 2 {
		t.Errorf("pins: %v", pins) // the sentinel needs none
	}

	ctx := context.Background()
	mounts, err := d.Prepare(ctx, "n1/9/t1", names[2])
	if err != nil {
		t.Fatal(err)
	}
	view, ok, err := d.st.ViewByKey(store.Chain{Layers: pinnedLayers(pins)})
	if err != nil || !ok {
		t.Fatalf("no view of %v ahead of time: %v", pinnedLayers(pins), err)
	}
	lower := fmt.Sprintf("lowerdir=%s/mnt/views/%d", d.root, view)
	if m := mounts[0]; len(mounts) != 1 || m.Type != "overlay" || !slices.Contains(m.Options, lower) {
		t.Errorf("container: %+v, want %s", mounts, lower)
	}
	if mounts, err = d.View(ctx, "n1/10/v", names[2]); err != nil || mounts[0].Type != "bind" || mounts[0].Source != filepath.Join(d.root, "mnt", "views", fmt.Sprint(view)) {
		t.Errorf("view: %+v, %v", mounts, err)
	}
	// An intermediate chain gets its view when somebody asks; the sentinel has one too.
	for _, name := range names[:2] {
		mounts, err := d.View(ctx, "n1/11/"+name, name)
		if err != nil || !strings.HasPrefix(mounts[0].Source, d.root+"/mnt/views/") || mounts[0].Source == fmt.Sprintf("%s/mnt/views/%d", d.root, view) {
			t.Errorf("view of %s: %+v, %v", name, mounts, err)
		}
	}
	for _, p := range d.pins(t) {
		if len(p.Layers) == 0 && len(p.Views) != 1 {
			t.Errorf("a container's pin holds %+v", p)
		}
	}
	if asked := r.log(); len(asked) != 0 {
		t.Errorf("containers asked for %v", asked)
	}
	if err := d.Remove(ctx, names[1]); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a parent was removed: %v", err)
	}
	for _, name := range []string{"n1/9/t1", "n1/10/v", "n1/11/" + names[0], "n1/11/" + names[1], names[2], names[1], names[0]} {
		if err := d.Remove(ctx, name); err != nil {
			t.Error(err)
		}
	}
	if left, pins := d.all(t), d.pins(t); len(left) != 0 || len(pins) != 0 {
		t.Errorf("left: %q, %v", left, pins)
	}
}

func pinnedLayers(pins map[string]store.PinTarget) []uint64 {
	var layers []uint64
	for _, id := range slices.Sorted(maps.Keys(pins)) {
		layers = append(layers, pins[id].Layers...)
	}
	return layers
}

// A commit on top of a lazy chain is a directory above the view, and can be built on.
func TestDirectoryAboveLazy(t *testing.T) { eachType(t, testDirectoryAboveLazy) }

func testDirectoryAboveLazy(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "lower")), true)
	d := start(t, t.TempDir(), r, Options{})
	names := mustPull(t, d, "n1", im)
	ctx := context.Background()
	if _, err := d.Prepare(ctx, "n1/3/c", names[1]); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(ctx, "n1/4/committed", "n1/3/c"); err != nil {
		t.Fatal(err)
	}
	mounts, err := d.View(ctx, "n1/5/v", "n1/4/committed")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("lowerdir=%[1]s/snapshots/3/fs:%[1]s/mnt/views/1", d.root)
	if m := mounts[0]; m.Type != "overlay" || m.Options[0] != want {
		t.Errorf("%+v, want %s", m, want)
	}
	// What extracts there stands above the sentinel still.
	_, err = d.Prepare(ctx, "n1/6/extract-1-x "+digest.FromString("x").String(), "n1/4/committed")
	mustRefuse(t, err, "names no image")
}

// Two namespaces that pull at the same time ask the registry once and share all
// snapshots; a third pull later asks nothing.
func TestNamespacesShare(t *testing.T) { eachType(t, testNamespacesShare) }

func testNamespacesShare(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1"), tarOf(t, "b", "2"), tarOf(t, "c", "3")), true)
	d := start(t, t.TempDir(), r, Options{})
	var wg sync.WaitGroup
	for _, ns := range []string{"n1", "n2"} {
		wg.Go(func() {
			if names, err := d.pull(ns, im); err != nil || !slices.Equal(names, chainNames(im)) {
				t.Errorf("%s: %q, %v", ns, names, err)
			}
		})
	}
	wg.Wait()
	if got, want := r.log(), map[string]int{"manifest": 1, "blob": 1, "toc": 3}; !maps.Equal(got, want) {
		t.Errorf("asked for %v, want %v", got, want)
	}
	mustPull(t, d, "n3", im)
	if asked := r.log(); len(asked) != 0 {
		t.Errorf("a known image was asked for again: %v", asked)
	}
	if got := d.all(t); len(got) != 4 {
		t.Errorf("snapshots: %q", got)
	}
}

func TestPlainImagesAreUnpacked(t *testing.T) {
	r := newRegistry()
	unbound := r.plain(t, 1, tarOf(t, "a", "1"))
	bare := unbound.Manifest.Layers[0]
	bare.Annotations = nil
	tarOnly := r.image(t, []v1.Descriptor{bare}, unbound.Config.DiffIDs)
	d := start(t, t.TempDir(), r, Options{})
	for _, im := range []*manifest.Image{unbound, tarOnly} {
		ctx := context.Background()
		l := labels(im, 0)
		key := "n1/1/extract-" + im.Trust.String()
		mounts, err := d.Prepare(ctx, key, "", snapshots.WithLabels(l))
		if err != nil || mounts[0].Type != "bind" || !slices.Contains(mounts[0].Options, "rw") {
			t.Errorf("%v: %+v, %v", im.Trust, mounts, err)
		}
		if err := d.Commit(ctx, "n1/2/"+im.Trust.String(), key, snapshots.WithLabels(l)); err != nil {
			t.Error(err)
		}
	}
	if asked := r.log(); asked["toc"]+asked["content"] > 0 {
		t.Errorf("content of plain images was asked for: %v", asked)
	}
	if pins := d.pins(t); len(pins) > 0 {
		t.Errorf("pins: %v", pins)
	}
}

// A client that unpacks by itself (--local) sends no labels. It may not unpack a
// variant, from the start or above what another pull has answered.
func TestLocalPullOfVariant(t *testing.T) { eachType(t, testLocalPullOfVariant) }

func testLocalPullOfVariant(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1")), true)
	d := start(t, t.TempDir(), r, Options{})
	chains := chainNames(im)
	ctx := context.Background()
	_, err := d.Prepare(ctx, "n1/1/extract-1-a "+chains[0], "")
	mustRefuse(t, err, "--local")
	if left := d.all(t); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	mustPull(t, d, "n2", im)
	_, err = d.Prepare(ctx, "n1/2/extract-1-b "+chains[1], chains[0])
	mustRefuse(t, err, "names no image")
	// Labels of another client without the image's are no better.
	_, err = d.Prepare(ctx, "n1/3/extract-1-c "+chains[1], chains[0], snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: chains[1]}))
	mustRefuse(t, err, "names no image")
	if left := d.all(t); len(left) != 2 {
		t.Errorf("left: %q", left)
	}
}

// A key that is in use is not an answer, although containerd knows both by one class.
func TestKeyInUse(t *testing.T) { eachType(t, testKeyInUse) }

func testKeyInUse(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1")), true)
	d := start(t, t.TempDir(), r, Options{})
	ctx := context.Background()
	if _, err := d.Prepare(ctx, "k", ""); err != nil {
		t.Fatal(err)
	}
	_, err := d.Prepare(ctx, "k", "", snapshots.WithLabels(labels(im, 0)))
	mustRefuse(t, err, "already exists")
}

func TestTarLayerClaimsSentinel(t *testing.T) { eachType(t, testTarLayerClaimsSentinel) }

func testTarLayerClaimsSentinel(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	good := r.plain(t, 1, tarOf(t, "a", "1"), tarOf(t, "b", "2"))
	im := r.claiming(t, good, manifest.SentinelDigest, good.Config.DiffIDs[1])
	d := start(t, t.TempDir(), r, Options{})
	_, err := d.pull("n1", im)
	mustRefuse(t, err, "claims to be the sentinel")

	// Above an honest sentinel it has no business either.
	mustPull(t, d, "n1", r.variant(t, good, true))
	_, err = d.Prepare(context.Background(), "n1/7/extract-1-x y", manifest.SentinelDigest.String(), snapshots.WithLabels(labels(im, 1)))
	mustRefuse(t, err, "has its diff_id")
	if left := d.all(t); len(left) != 3 {
		t.Errorf("left: %q", left)
	}
}

// The sentinel's Prepare may name the sentinel's own digest, and then the image that it names has to begin with it.
func TestSentinelIsLookedAt(t *testing.T) {
	r := newRegistry()
	plain := r.plain(t, 1, tarOf(t, "a", "1"))
	variant := r.variant(t, plain, true)
	raw := strings.Replace(string(variant.Manifest.Raw), manifest.SentinelTypeOCI, v1.MediaTypeImageLayer, 1)
	broken := r.put([]byte(raw)) // the sentinel under a tar's type: its own digest, and its diff_id
	d := start(t, t.TempDir(), r, Options{})
	good := labels(variant, 0)
	for _, c := range []struct {
		name, label, value, want string
	}{
		{"another layer", "containerd.io/snapshot/cri.layer-digest", variant.Layers[1].Digest.String(), "claims to be the sentinel"},
		{"its other digest", "containerd.io/snapshot/cri.layer-digest", manifest.SentinelDigest512.String(), "claims to be the sentinel"},
		{"a plain image", "containerd.io/snapshot/cri.manifest-digest", plain.Manifest.Digest.String(), "does not begin with the sentinel"},
		{"a broken variant", "containerd.io/snapshot/cri.manifest-digest", broken.String(), "has the sentinel's digest but type"},
		{"no image", "containerd.io/snapshot/cri.manifest-digest", digest.FromString("x").String(), "registry is down"},
	} {
		l := maps.Clone(good)
		l[c.label] = c.value
		_, err := d.Prepare(context.Background(), "n1/1/extract-1-x "+manifest.SentinelDigest.String(), "", snapshots.WithLabels(l))
		if err == nil || !strings.Contains(err.Error(), c.want) || errdefs.IsAlreadyExists(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if left := d.all(t); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
	mustPull(t, d, "n1", variant)
}

// A store that was lost under a containerd that remembers it: all that containerd asks about the sentinel is Stat, and
// every variant of the namespace stands on that snapshot.
func TestSentinelOfALostStore(t *testing.T) {
	ctx := context.Background()
	for _, ref := range []digest.Digest{manifest.SentinelDigest, manifest.SentinelDigest512} {
		r := newRegistry()
		im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1")), true)
		d := start(t, t.TempDir(), r, Options{})
		if _, err := d.Stat(ctx, digest.FromString("x").String()); !errdefs.IsNotFound(err) {
			t.Errorf("another snapshot: %v", err)
		}
		for range 2 {
			info, err := d.Stat(ctx, ref.String())
			if err != nil || info.Kind != snapshots.KindCommitted || info.Parent != "" || info.Labels[snapshots.LabelSnapshotRef] != ref.String() {
				t.Fatalf("%+v, %v", info, err)
			}
		}
		if ref != manifest.SentinelDigest {
			continue
		}
		// What the next variant needs: its layers on that snapshot.
		l := labels(im, 1)
		_, err := d.Prepare(ctx, "n1/2/extract-2-x "+l[snapshots.LabelSnapshotRef], ref.String(), snapshots.WithLabels(l))
		if !errdefs.IsAlreadyExists(err) {
			t.Errorf("above it: %v", err)
		}
	}
	ordinary, err := New(&Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer ordinary.Close()
	if _, err := ordinary.Stat(ctx, manifest.SentinelDigest.String()); !errdefs.IsNotFound(err) {
		t.Errorf("an ordinary snapshotter: %v", err)
	}
}

// A variant that names another image's diff_ids would own that image's chain ids.
func TestHostileVariant(t *testing.T) { eachType(t, testHostileVariant) }

func testHostileVariant(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	victim := r.plain(t, 1, tarOf(t, "bin/sh", "good"))
	evil := r.plain(t, 1, tarOf(t, "bin/sh", "evil"))
	hostile := r.variant(t, r.image(t, evil.Manifest.Layers, victim.Config.DiffIDs), false)
	honest := r.variant(t, victim, false)
	if chainNames(hostile)[1] != chainNames(honest)[1] {
		t.Fatal("this is no attack")
	}
	d := start(t, t.TempDir(), r, Options{})
	_, err := d.pull("n1", hostile)
	mustRefuse(t, err, "does not match its diffID")
	if left := d.all(t); !slices.Equal(left, []string{manifest.SentinelDigest.String()}) {
		t.Errorf("left: %q", left)
	}
	mustPull(t, d, "n1", honest)
	_, err = d.pull("n2", hostile)
	mustRefuse(t, err, "does not match its diffID")
}

// While a chain id stands for one TOC, another TOC cannot have it, even if both are
// believed.
func TestChainIDConflict(t *testing.T) { eachType(t, testChainIDConflict) }

func testChainIDConflict(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	files := tarOf(t, "a", strings.Repeat("text that compresses. ", 1000))
	first := r.variant(t, r.plain(t, 1, files), false)
	second := r.variant(t, r.plain(t, 19, files), false)
	if first.Layers[1].TOC.Digest == second.Layers[1].TOC.Digest {
		t.Fatal("both levels give one TOC")
	}
	d := start(t, t.TempDir(), r, Options{UnverifiedChains: true})
	names := mustPull(t, d, "n1", first)
	if asked := r.log(); asked["content"] > 0 {
		t.Errorf("unverified_chains fetched content: %v", asked)
	}
	_, err := d.pull("n2", second)
	mustRefuse(t, err, "is taken")
	if err := d.Remove(context.Background(), names[1]); err != nil {
		t.Fatal(err)
	}
	mustPull(t, d, "n2", second)
}

func TestVariantWithTarDiffIDsIsCompleted(t *testing.T) {
	eachType(t, testVariantWithTarDiffIDsIsCompleted)
}

func testVariantWithTarDiffIDsIsCompleted(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1"), tarOf(t, "b", "2")), false)
	d := start(t, t.TempDir(), r, Options{})
	mustPull(t, d, "n1", im)
	for _, l := range im.DataLayers() {
		row, err := d.st.LayerByTOC(l.TOC.Digest)
		if err != nil || row.DiffID != l.DiffID {
			t.Errorf("%+v, %v: not proved to be %s", row, err, l.DiffID)
		}
	}
	r.setDown("content", true)
	mustPull(t, d, "n2", im)
}

// A completion that takes longer than a Prepare may goes on by itself.
func TestPrepareTimeout(t *testing.T) { eachType(t, testPrepareTimeout) }

func testPrepareTimeout(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	im := r.variant(t, r.plain(t, 1, tarOf(t, "a", "1")), false)
	r.gate = make(chan struct{})
	d := start(t, t.TempDir(), r, Options{PrepareTimeout: 200 * time.Millisecond})
	_, err := d.pull("n1", im)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "0 % of the image are local, going on; pull again") {
		t.Fatal(err)
	}
	pins, err := d.st.Pins("pull/")
	if err != nil || len(pins) != 1 || pins[0].Expires.IsZero() || len(pins[0].Target.Layers) != 1 {
		t.Errorf("pins: %+v, %v", pins, err)
	}
	close(r.gate)
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err = d.pull("n1", im); err == nil {
			break
		} else if !errdefs.IsUnavailable(err) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if asked := r.log(); asked["content"] != 1 {
		t.Errorf("the pulls asked for %v", asked)
	}
}

// Without its TOCs a variant cannot be pulled, and nothing is left of the try.
func TestRegistryDown(t *testing.T) { eachType(t, testRegistryDown) }

func testRegistryDown(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	plain := r.plain(t, 1, tarOf(t, "a", "1"))
	im := r.variant(t, plain, true)
	d := start(t, t.TempDir(), r, Options{})
	for _, what := range []string{"manifest", "blob", "toc"} {
		r.setDown(what, true)
		_, err := d.pull("n1", im)
		mustRefuse(t, err, errDown.Error())
		if what != "toc" {
			// An image that may be a plain one is unpacked instead.
			if names, err := d.pull("n1-"+what, plain); err != nil || !slices.Equal(names, []string{""}) {
				t.Errorf("%s down: %q, %v", what, names, err)
			}
		}
		r.setDown(what, false)
		if pins := d.pins(t); len(pins) > 0 {
			t.Errorf("%s down: pins %v", what, pins)
		}
	}
	mustPull(t, d, "n1", im)
}

// running is a containerd that says what it was asked and that everything runs.
type running struct {
	mu    sync.Mutex
	asked []string
}

func (r *running) Running(_ context.Context, namespace string, keys []string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, key := range keys {
		r.asked = append(r.asked, namespace+" "+key)
	}
	return keys, nil
}

func (r *running) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = nil
	return asked
}

// denied waits until nothing can stand on a snapshot any more.
func (d *daemon) denied(t *testing.T, name string) {
	t.Helper()
	for n, deadline := 0, time.Now().Add(20*time.Second); ; n++ {
		key := fmt.Sprint("n1/9/", n)
		if _, err := d.View(context.Background(), key, name); err != nil {
			mustRefuse(t, err, "does not match its diffID")
			return
		}
		if err := d.Remove(context.Background(), key); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatal("a false diff_id was never found out")
		}
	}
}

// unbound = "verify": an image is lazy at once and proved in the background. One whose TOC is not its tar is denied,
// after a restart and from another namespace too; an honest image of the same layer is not.
func TestUnboundVerify(t *testing.T) { eachType(t, testUnboundVerify) }

func testUnboundVerify(t *testing.T, mediaType string) {
	r := newRegistry()
	r.sentinel = mediaType
	good := r.plain(t, 1, tarOf(t, "a", "1"))
	liar := r.image(t, good.Manifest.Layers, []digest.Digest{digest.FromString("somebody else's tar")})
	root, asked := t.TempDir(), &running{}
	o := Options{VerifyUnbound: true, UnverifiedChains: true, Containers: asked}
	d := start(t, root, r, o)
	ctx := context.Background()
	r.gate = make(chan struct{})
	names, err := d.pull("n1", liar)
	if err != nil || names[0] == "" {
		t.Fatalf("%q, %v", names, err)
	}
	if _, err := d.Prepare(ctx, "n1/8/container", names[0]); err != nil {
		t.Fatal(err)
	}
	row, err := d.st.LayerByTOC(liar.Layers[0].TOC.Digest)
	if err != nil || row.DiffID != "" {
		t.Fatalf("%+v, %v: compared already", row, err)
	}
	honest := mustPull(t, d, "n2", r.variant(t, good, true))
	if _, err := d.Prepare(ctx, "n2/8/container", honest[1]); err != nil {
		t.Fatal(err)
	}
	close(r.gate)
	d.denied(t, names[0])
	if _, err := d.Mounts(ctx, "n1/8/container"); err == nil {
		t.Error("a container of the denied image is mounted")
	}
	_, err = d.Stat(ctx, names[0]) // all that containerd asks when the image is pulled again
	mustRefuse(t, err, "does not match its diffID")
	if _, err := d.Mounts(ctx, "n2/8/container"); err != nil {
		t.Errorf("a container of another image that shows the same layer: %v", err)
	}
	if row, err = d.st.LayerByTOC(liar.Layers[0].TOC.Digest); err != nil || row.DiffID != good.Layers[0].DiffID || row.Quarantined {
		t.Errorf("%+v, %v: its tar is known now, and no source is to blame", row, err)
	}
	mustPull(t, d, "n1", good) // what it claims is known by now
	d.stop(t)                  // also awaits what is under way
	if got := asked.take(); !slices.Contains(got, "n1 container") || slices.Contains(got, "n2 container") {
		t.Errorf("containerd was asked about %q", got)
	}

	d = start(t, root, r, o)
	r.log()
	d.denied(t, names[0])
	for _, ns := range []string{"n1", "n3"} {
		_, err := d.pull(ns, liar)
		mustRefuse(t, err, "does not match its diffID")
	}
	for _, key := range []string{"n1/8/container", names[0]} {
		if err := d.Remove(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	_, err = d.pull("n1", liar) // not even when nothing is left of the first try
	mustRefuse(t, err, "does not match its diffID")
	if asked := r.log(); asked["content"] > 0 {
		t.Errorf("what is known was fetched again: %v", asked)
	}
	mustPull(t, d, "n1", good)
}

// A claim that a restart broke off is compared when something that stands on it is mounted again.
func TestClaimAfterRestart(t *testing.T) {
	r := newRegistry()
	liar := r.image(t, r.plain(t, 1, tarOf(t, "a", "1")).Manifest.Layers, []digest.Digest{digest.FromString("somebody else's tar")})
	root, o := t.TempDir(), Options{VerifyUnbound: true, UnverifiedChains: true}
	d := start(t, root, r, o)
	r.gate = make(chan struct{})
	names, err := d.pull("n1", liar)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Prepare(context.Background(), "n1/8/container", names[0]); err != nil {
		t.Fatal(err)
	}
	d.stop(t)
	d = start(t, root, r, o)
	close(r.gate)
	if _, err := d.Mounts(context.Background(), "n1/8/container"); err != nil {
		t.Fatal(err)
	}
	d.denied(t, names[0])
}
