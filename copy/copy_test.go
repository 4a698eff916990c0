package copy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// Unmodified copies are the same bytes wherever they went, lists and attestations included.
func TestUnmodified(t *testing.T) { // rule 1, rule 24, rule 55, L19
	w := newWorld(t, 4)
	single, tars := w.single()
	for _, src := range []string{single, w.multi(algoGzip), w.multi(algoChunked)} {
		want := w.raw(src)
		steps := []string{src, w.docker("a/b:1"), w.docker("c/d:2"), w.layout("there") + ":x"}
		for i := 1; i < len(steps); i++ {
			res := w.copy(steps[i-1], steps[i], nil)
			if res.Digest != digest.FromBytes(want) {
				t.Errorf("%s: digest %s", steps[i], res.Digest)
			}
			if got := w.raw(steps[i]); !bytes.Equal(got, want) {
				t.Errorf("%s: other bytes:\n%s\nwant\n%s", steps[i], got, want)
			}
		}
		before, after := w.situation(src), w.situation(steps[3])
		for i := range before.instances {
			if !bytes.Equal(before.instances[i].doc.raw, after.instances[i].doc.raw) {
				t.Errorf("%s: instance %d differs", src, i)
			}
			for _, d := range before.instances[i].blobs {
				if w.blobOf(steps[3], d) == nil {
					t.Errorf("%s: blob %s of an attestation is missing", src, d.Digest)
				}
			}
		}
	}
	w.copy(single, w.layout("again")+":x", nil)
	w.checkTars(w.layout("again")+":x", tars)
}

func (w *world) blobOf(ref string, d v1.Descriptor) []byte {
	raw, err := os.ReadFile(filepath.Join(w.ref(ref).Path, "blobs", "sha256", d.Digest.Encoded()))
	if err != nil {
		return nil
	}
	return raw
}

func TestConverted(t *testing.T) { // rule 41, rule 44
	for _, algo := range []string{algoNone, algoGzip, algoZstd, algoChunked} {
		t.Run(algo, func(t *testing.T) {
			w := newWorld(t, 4)
			src, tars := w.single()
			w.copy(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algo, Level: 0}, Sentinel: sentinelNone})
			w.checkTars(w.docker("a:1"), tars)
			before, after := w.situation(src), w.situation(w.docker("a:1"))
			if b, a := before.instances[0].image, after.instances[0].image; !bytes.Equal(b.Config.Raw, a.Config.Raw) {
				t.Error("the config, and so the diffIDs, changed")
			}
			for _, l := range after.instances[0].image.Layers {
				if l.MediaType != layerMediaType(algo) {
					t.Errorf("%s: media type %s", algo, l.MediaType)
				}
				if l.Provable() != (algo == algoChunked) {
					t.Errorf("%s: provable %v", algo, l.Provable())
				}
			}
			// The second run sends nothing: gzip's and zstd's bytes are the same for the same tar.
			w.front.Forget()
			w.copy(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algo}, Sentinel: sentinelNone})
			if n := w.front.Count("POST", "/uploads/"); n != 0 {
				t.Errorf("%d uploads in the second run", n)
			}
		})
	}
}

func TestSentinelLayouts(t *testing.T) { // S9, S10, S11, rule 67
	want := map[string]struct{ instances, hidden int }{
		"hidden": {2, 1}, "upstream": {2, 0}, "only": {1, 0},
	}
	for layout, n := range want {
		t.Run(layout, func(t *testing.T) {
			w := newWorld(t, 4)
			src, tars := w.single()
			o := &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: layout}
			first := w.copy(src, w.docker("a:1"), o)
			w.checkTars(w.docker("a:1"), tars)
			s := w.situation(w.docker("a:1"))
			variants, hidden := 0, 0
			for _, in := range s.instances {
				if in.image.Trust == manifest.TOCOnly {
					variants++
					if in.image.ChainBound != (layout != "upstream") {
						t.Errorf("chain bound: %v", in.image.ChainBound)
					}
				}
				if manifest.Hidden(in.desc) {
					hidden++
				}
			}
			if len(s.instances) != n.instances || variants != 1 || hidden != n.hidden {
				t.Errorf("%d instances, %d variants, %d hidden", len(s.instances), variants, hidden)
			}
			// Idempotent: from the source again, and from what came out.
			w.front.Forget()
			if again := w.copy(src, w.docker("a:1"), o); again.Digest != first.Digest {
				t.Errorf("second run wrote %s after %s", again.Digest, first.Digest)
			}
			if up := w.front.Count("POST", "/uploads/"); up != 0 {
				t.Errorf("%d uploads in the second run", up)
			}
			if again := w.copy(w.docker("a:1"), w.docker("b:1"), o); again.Digest != first.Digest {
				t.Errorf("a copy of the copy is %s, not %s", again.Digest, first.Digest)
			}
			w.copy(w.docker("a:1"), "store:a", nil)
			for i, raw := range w.stored("store:a", manifest.TOCOnly) {
				if !bytes.Equal(raw, tars[i]) {
					t.Errorf("layer %d of the stored variant has another tar", i)
				}
			}
		})
	}
}

// Data layers are shared: adding a variant sends a sentinel, a config, and manifests.
func TestVariantSharesLayers(t *testing.T) { // S7
	w := newWorld(t, 4)
	src := w.multi(algoChunked)
	w.copy(src, w.docker("a:1"), nil)
	w.front.Forget()
	res := w.copy(src, w.docker("a:1"), &Options{Sentinel: "hidden"})
	if n := w.front.Count("POST", "/uploads/"); n != 3 { // the sentinel, and a config for each of two platforms
		t.Errorf("%d uploads, want 3", n)
	}
	s := w.situation(w.docker("a:1"))
	if len(s.instances) != 5 || s.list.Annotations["kept"] != "yes" {
		t.Errorf("%d instances, annotations %v", len(s.instances), s.list.Annotations)
	}
	for i := 1; i < 4; i += 2 {
		plain, variant := s.instances[i-1].image, s.instances[i].image
		if plain == nil || variant == nil || plain.Trust != manifest.TOCUnbound || variant.Trust != manifest.TOCOnly {
			t.Fatalf("instances %d and %d are not an image and its variant", i-1, i)
		}
		for k, l := range variant.DataLayers() {
			if l.Digest != plain.Layers[k].Digest {
				t.Errorf("layer %d is not shared", k)
			}
		}
	}
	if again := w.copy(w.docker("a:1"), w.docker("a:2"), &Options{Sentinel: "hidden"}); again.Digest != res.Digest {
		t.Errorf("variants of variants: %s, want %s", again.Digest, res.Digest)
	}
}

func TestIntoStoreAndBack(t *testing.T) {
	for _, algo := range []string{algoGzip, algoZstd, algoNone, algoChunked} {
		t.Run(algo, func(t *testing.T) {
			w := newWorld(t, 4)
			b := w.build("src")
			tars := small(t)
			src := b.name(b.image("linux/amd64", algo, tars...), "x")
			w.copy(src, w.docker("a:1"), nil)
			res := w.copy(w.docker("a:1"), "store:a", nil)
			if !bytes.Equal(w.raw("store:a"), w.raw(src)) || res.Digest != digest.FromBytes(w.raw(src)) {
				t.Error("the store has another manifest")
			}
			trust := manifest.TarOnly
			if algo == algoChunked {
				trust = manifest.TOCUnbound
			}
			for i, raw := range w.stored("store:a", trust) {
				if !bytes.Equal(raw, tars[i]) {
					t.Errorf("layer %d is another tar", i)
				}
			}
			w.copy("store:a", w.docker("back:1"), &Options{Compress: Compression{Algorithm: algoChunked}})
			w.checkTars(w.docker("back:1"), tars)
			w.copy("store:a", "store:b", nil)
			if !bytes.Equal(w.raw("store:b"), w.raw(src)) {
				t.Error("store:b is another image")
			}
			// A second pull moves no layer.
			w.front.Forget()
			w.copy(w.docker("a:1"), "store:a", nil)
			for _, l := range w.situation(src).instances[0].image.Layers {
				if n := w.front.Bytes("GET", l.Digest.String()); n != 0 {
					t.Errorf("%d bytes of layer %s in the second pull", n, l.Digest)
				}
			}
			if pins, err := w.env.Store.Pins(""); err != nil || len(pins) != 0 {
				t.Errorf("pins are left: %v %v", pins, err)
			}
		})
	}
}

func TestStoreToStoreVariant(t *testing.T) {
	w := newWorld(t, 4)
	src, tars := w.single()
	w.copy(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algoChunked}, Sentinel: "only"})
	w.copy(w.docker("a:1"), "store:a", nil)
	w.copy("store:a", "store:b", nil)
	for i, raw := range w.stored("store:b", manifest.TOCOnly) {
		if !bytes.Equal(raw, tars[i]) {
			t.Errorf("layer %d is another tar", i)
		}
	}
}

// Only objects that are missing are fetched, and by range.
func TestOnlyMissing(t *testing.T) { // rule 34
	w := newWorld(t, 4)
	big, add := noise(1, 1<<20), noise(2, 20<<10)
	b := w.build("src")
	one := b.name(b.image("linux/amd64", algoChunked, tarOf(t, file{"big", big})), "one")
	two := b.name(b.image("linux/amd64", algoChunked, tarOf(t, file{"other-name", big}, file{"add", add})), "two")
	w.copy(one, w.docker("a:1"), nil)
	w.copy(two, w.docker("a:2"), nil)
	w.copy(w.docker("a:1"), "store:one", nil)
	w.front.Forget()
	w.copy(w.docker("a:2"), "store:two", nil)
	layer := w.situation(two).instances[0].image.Layers[0]
	if n := w.front.Bytes("GET", layer.Digest.String()); n < int64(len(add)) || n > 64<<10 {
		t.Errorf("%d bytes of the layer were fetched for a new file of %d", n, len(add))
	}
	for _, r := range w.front.Log() {
		if strings.Contains(r.Path, layer.Digest.String()) && r.Range == "" {
			t.Errorf("not a range: %s", r)
		}
	}
}

// A layer that instances share moves once.
func TestSharedLayerOnce(t *testing.T) { // rule 47, rule 48
	for _, algo := range []string{algoGzip, algoChunked} {
		w := newWorld(t, 4)
		src := w.multi(algo)
		shared := w.situation(src).instances[0].image.Layers[0]
		w.copy(src, w.docker("a:1"), nil)
		puts := 0
		for _, r := range w.front.Log() {
			if r.Method == "PUT" && strings.Contains(r.Query, shared.Digest.Encoded()) {
				puts++
			}
		}
		if puts != 1 {
			t.Errorf("%s: %d uploads of the shared layer", algo, puts)
		}
		w.front.Forget()
		w.copy(w.docker("a:1"), "store:a", nil)
		if n := w.front.Bytes("GET", shared.Digest.String()); n > shared.Size {
			t.Errorf("%s: %d bytes of a shared layer of %d", algo, n, shared.Size)
		}
		w.copy(w.docker("a:1"), w.docker("b:1"), nil) // the same registry mounts
		for _, r := range w.front.Log() {
			if r.Method == "PUT" && strings.Contains(r.Path, "/uploads/") {
				t.Errorf("sent what could be mounted: %s", r)
			}
		}
		w.front.Forget()
		w.copy(w.docker("a:1"), w.docker("c:1"), &Options{Compress: Compression{Algorithm: algoZstd}, Sentinel: sentinelNone})
		if n := w.front.Count("GET", shared.Digest.String()); algo == algoGzip && n != 1 {
			t.Errorf("the shared layer was read %d times to be encoded", n)
		}
	}
}

func TestOneJob(t *testing.T) {
	w := newWorld(t, 1)
	src := w.multi(algoGzip)
	w.copy(src, w.docker("a:1"), &Options{Compress: Compression{Algorithm: algoChunked}})
	w.copy(w.docker("a:1"), w.docker("b:1"), nil)
	w.copy(w.docker("a:1"), w.layout("out")+":x", nil)
	w.copy(w.docker("a:1"), "store:a", nil)
	w.copy(src, "store:b", nil)
	amd := v1.Platform{OS: "linux", Architecture: "amd64"}
	w.copy("store:b", w.docker("d:1"), &Options{Platform: &amd, Compress: Compression{Algorithm: algoGzip}})
}

// A wrong diffID ends a pull however the layer comes, and nothing gets a name.
func TestWrongDiffID(t *testing.T) { // rule 17, rule 35
	for _, algo := range []string{algoGzip, algoChunked} {
		w := newWorld(t, 4)
		b := w.build("src")
		tars := small(t)
		p := v1.Platform{OS: "linux", Architecture: "amd64"}
		config := v1.Image{Platform: p, RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(tars[1])}}}
		m := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{b.layer(algo, tars[0])}}
		m.SchemaVersion = 2
		m.Config = b.json(v1.MediaTypeImageConfig, config)
		src := b.name(b.json(v1.MediaTypeImageManifest, m), "x")
		w.copy(src, w.docker("a:1"), nil) // an unmodified copy is no business of ours
		for _, from := range []string{src, w.docker("a:1")} {
			_, err := w.try(from, "store:a", nil)
			if !errors.Is(err, ErrDiffID) && !isFillDiffID(err) {
				t.Errorf("%s from %s: %v", algo, from, err)
			}
		}
		names, err := w.env.Store.Names()
		records, err2 := w.env.Store.Records()
		if err != nil || err2 != nil || len(names)+len(records) != 0 {
			t.Errorf("committed: %v %v (%v %v)", names, records, err, err2)
		}
		if algo == algoGzip {
			if _, err := w.try(src, w.docker("b:1"), &Options{Compress: Compression{Algorithm: algoChunked}}); !errors.Is(err, ErrDiffID) {
				t.Errorf("conversion: %v", err)
			}
			if w.reg.Manifest("b", "1") != nil {
				t.Error("a converted copy was named")
			}
		}
	}
}

func TestDigestedDestination(t *testing.T) { // L16, rule 20
	w := newWorld(t, 2)
	src, _ := w.single()
	d := digest.FromBytes(w.raw(src))
	w.copy(src, w.docker("a@"+d.String()), nil)
	if w.reg.Manifest("a", d.String()) == nil {
		t.Error("not there")
	}
	w.front.Forget()
	_, err := w.try(src, w.docker("a@"+digest.FromString("other").String()), nil)
	if !errors.Is(err, ErrPreserve) || w.front.Count("", "/v2/") != 0 {
		t.Errorf("%v; requests %v", err, w.front.Log())
	}
}

func TestCancelled(t *testing.T) { // rule 56
	for _, dst := range []string{"docker", "layout", "store"} {
		w := newWorld(t, 2)
		src, _ := w.single()
		w.copy(src, w.docker("a:1"), nil)
		ctx, cancel := context.WithCancel(t.Context())
		w.front.Add(front.Rule{Method: "GET", Path: "/blobs/", Skip: 1, Do: front.Gate(0, ctx.Done())})
		to := map[string]string{"docker": w.docker("to:1"), "layout": w.layout("to") + ":x", "store": "store:to"}[dst]
		w.front.Forget()
		done := make(chan error, 1)
		go func() {
			// From another host, so that nothing is mounted.
			from := w.ref(w.docker("a:1"))
			from.Host = strings.Replace(from.Host, "127.0.0.1", "localhost", 1)
			_, err := Copy(ctx, w.env, from, w.ref(to), nil)
			done <- err
		}()
		await(t, func() bool { return w.front.Count("GET", "/blobs/") >= 2 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", dst, err)
		}
		if w.reg.Manifest("to", "1") != nil {
			t.Error("a tag is left")
		}
		if raw, _ := os.ReadFile(filepath.Join(w.dir, "to", "index.json")); bytes.Contains(raw, []byte(`"x"`)) {
			t.Error("a name is left in the layout")
		}
		if names, err := w.env.Store.Names(); err != nil || len(names) != 0 {
			t.Errorf("names %v %v", names, err)
		}
		if left, _ := filepath.Glob(filepath.Join(w.dir, "to", "*", tempPrefix+"*")); len(left) != 0 {
			t.Errorf("left in the layout: %v", left)
		}
	}
}

func TestTwoIntoOneLayout(t *testing.T) {
	w := newWorld(t, 4)
	src, _ := w.single()
	err := forEach(t.Context(), 8, func(ctx context.Context, i int) error {
		_, err := Copy(ctx, w.env, w.ref(src), w.ref(w.layout("out")+":n"+string(rune('a'+i))), nil)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(w.dir, "out", "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var idx v1.Index
	if err := json.Unmarshal(raw, &idx); err != nil || len(idx.Manifests) != 8 {
		t.Errorf("%d names of 8 (%v)", len(idx.Manifests), err)
	}
}
