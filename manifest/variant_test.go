package manifest

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func variantOf(t *testing.T, im *Image, mediaType string, chainBound bool) (*Image, string, string) {
	t.Helper()
	m, c, err := AddSentinel(im, mediaType, chainBound)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewImage(mustManifest(t, string(m)), mustConfig(t, string(c)))
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, m, c)
	}
	return v, string(m), string(c)
}

func TestAddSentinel(t *testing.T) { eachType(t, testAddSentinel) } // S5, S6

func testAddSentinel(t *testing.T, mediaType string) {
	for _, n := range []int{1, 2, 5} {
		for _, chainBound := range []bool{true, false} {
			plain := chunkedImage(t, n)
			v, _, _ := variantOf(t, plain, mediaType, chainBound)
			if v.Trust != TOCOnly || v.ChainBound != chainBound || !reflect.DeepEqual(v.Manifest.Layers[0], SentinelDescriptor(mediaType, digest.SHA256)) {
				t.Errorf("%d layers: %v %v %+v", n, v.Trust, v.ChainBound, v.Manifest.Layers[0])
			}
			for i, l := range v.DataLayers() {
				want := tarDigest(i)
				if chainBound {
					want = tocDigest(i)
				}
				if !reflect.DeepEqual(l.Descriptor, plain.Layers[i].Descriptor) || l.DiffID != want {
					t.Errorf("layer %d: %+v", i, l)
				}
			}
			if len(v.Config.History) != n+2 || v.Config.History[0].CreatedBy != sentinelHistory || v.Config.History[0].EmptyLayer {
				t.Errorf("history: %+v", v.Config.History)
			}
		}
	}
}

// The bytes of the variant are those of the plain documents with exactly the
// intended text changed, and taking it back gives every byte back.
// S5, S6
func TestAddSentinelTouchesNothingElse(t *testing.T) { eachType(t, testAddSentinelTouchesNothingElse) }

func testAddSentinelTouchesNothingElse(t *testing.T, mediaType string) {
	plain := chunkedImage(t, 2)
	_, m, c := variantOf(t, plain, mediaType, true)
	wantConfig := strings.NewReplacer(
		fmt.Sprintf("[\n      %q", tarDigest(0)), fmt.Sprintf("[\n      %q,\n      %q", SentinelDigest, tocDigest(0)),
		tarDigest(1).String(), tocDigest(1).String(),
		`"history": [`, `"history": [{"created_by":"zstd:chunked sentinel"},`,
	).Replace(string(plain.Config.Raw))
	if c != wantConfig {
		t.Errorf("config\n%s\nwant\n%s", c, wantConfig)
	}
	wantManifest := strings.NewReplacer(
		plain.Manifest.Config.Digest.String(), digest.FromString(c).String(),
		fmt.Sprintf(`"size": %d`, len(plain.Config.Raw)), fmt.Sprintf(`"size": %d`, len(c)),
		"\"layers\": [\n    ", "\"layers\": [\n    "+string(marshal(SentinelDescriptor(mediaType, "")))+",\n    ",
	).Replace(string(plain.Manifest.Raw))
	if m != wantManifest {
		t.Errorf("manifest\n%s\nwant\n%s", m, wantManifest)
	}
}

func TestStripSentinelUndoesAddSentinel(t *testing.T) {
	eachType(t, testStripSentinelUndoesAddSentinel)
} // S27, rule 69

func testStripSentinelUndoesAddSentinel(t *testing.T, mediaType string) {
	for _, n := range []int{1, 3} {
		for _, chainBound := range []bool{true, false} {
			plain := chunkedImage(t, n)
			v, _, _ := variantOf(t, plain, mediaType, chainBound)
			m, c, err := StripSentinel(v, digestsOf(n))
			if err != nil || string(m) != string(plain.Manifest.Raw) || string(c) != string(plain.Config.Raw) {
				t.Errorf("%d layers: %v\n%s\n%s", n, err, m, c)
			}
		}
	}
}

// A history that did not fit before is left alone (as PR 681 leaves all).
func TestSentinelAndInconsistentHistory(t *testing.T) {
	eachType(t, testSentinelAndInconsistentHistory)
}

func testSentinelAndInconsistentHistory(t *testing.T, mediaType string) {
	for name, change := range map[string]func(string) string{
		"one too few": func(c string) string {
			return replace(c, `"created_by": "layer 0"`, `"created_by": "layer 0", "empty_layer": true`)
		},
		"empty": func(c string) string { return c[:strings.Index(c, `"history"`)] + `"history": []}` },
		"null":  func(c string) string { return c[:strings.Index(c, `"history"`)] + `"history": null}` },
		"none":  func(c string) string { return c[:strings.Index(c, `"history"`)] + `"z": 1}` },
	} {
		config := change(prettyConfig(tarDigest(0)))
		plain, err := NewImage(mustManifest(t, manifestOf(v1.MediaTypeImageManifest, config, chunkedLayer(0))), mustConfig(t, config))
		if err != nil {
			t.Fatal(err)
		}
		v, _, c := variantOf(t, plain, mediaType, false)
		if strings.Contains(c, sentinelHistory) || !reflect.DeepEqual(v.Config.History, plain.Config.History) {
			t.Errorf("%s: %s", name, c)
		}
		_, back, err := StripSentinel(v, digestsOf(1))
		if err != nil || string(back) != config {
			t.Errorf("%s: strip: %v\n%s", name, err, back)
		}
	}
}

func TestSentinelDigestAlgorithm(t *testing.T) { eachType(t, testSentinelDigestAlgorithm) } // S2

func testSentinelDigestAlgorithm(t *testing.T, mediaType string) {
	layer := chunkedLayer(0)
	layer.Digest = digest.SHA512.FromString("blob")
	config := prettyConfig(tarDigest(0))
	raw := manifestOf(v1.MediaTypeImageManifest, config, layer)
	raw = replace(raw, digest.FromString(config).String(), digest.SHA512.FromString(config).String())
	plain, err := NewImage(mustManifest(t, raw), mustConfig(t, config))
	if err != nil {
		t.Fatal(err)
	}
	v, _, c := variantOf(t, plain, mediaType, true)
	if v.Layers[0].Digest != SentinelDigest512 || v.Manifest.Config.Digest != digest.SHA512.FromString(c) {
		t.Errorf("%+v", v.Manifest)
	}
}

// A config embedded in its descriptor must not survive the edit.
func TestAddSentinelDropsEmbeddedConfig(t *testing.T) {
	eachType(t, testAddSentinelDropsEmbeddedConfig)
}

func testAddSentinelDropsEmbeddedConfig(t *testing.T, mediaType string) {
	config := prettyConfig(tarDigest(0))
	raw := replace(manifestOf(v1.MediaTypeImageManifest, config, chunkedLayer(0)), `"x-config": true`, `"x-config": true, "data": "e30="`)
	plain, err := NewImage(mustManifest(t, raw), mustConfig(t, config))
	if err != nil {
		t.Fatal(err)
	}
	v, m, _ := variantOf(t, plain, mediaType, true)
	if v.Manifest.Config.Data != nil || !strings.Contains(m, "x-config") {
		t.Errorf("%s", m)
	}
}

func TestAddSentinelRefuses(t *testing.T) { eachType(t, testAddSentinelRefuses) } // S4, S8, S10, rule 67

func testAddSentinelRefuses(t *testing.T, mediaType string) {
	v, _, _ := variantOf(t, chunkedImage(t, 1), mediaType, true)
	if _, _, err := AddSentinel(v, mediaType, true); !errors.Is(err, ErrSentinel) {
		t.Errorf("twice: %v", err)
	}
	for name, layers := range map[string][]v1.Descriptor{
		"no layers":    nil,
		"one is gzip":  {chunkedLayer(0), gzipLayer()},
		"no tar-split": {chunkedLayer(0), withoutSplit(chunkedLayer(1))},
	} {
		im, err := newImage(t, layers, digestsOf(len(layers)))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := AddSentinel(im, mediaType, true); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := AddSentinel(chunkedImage(t, 1), v1.MediaTypeImageLayer, true); !errors.Is(err, ErrSentinel) {
		t.Errorf("with the type of a tar: %v", err)
	}
	config := prettyConfig(tarDigest(0))
	docker, err := NewImage(mustManifest(t, manifestOf(DockerManifest, config, chunkedLayer(0))), mustConfig(t, config))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := AddSentinel(docker, mediaType, true); !errors.Is(err, ErrUnsupported) {
		t.Errorf("docker: %v", err)
	}
}

func TestStripSentinelRefuses(t *testing.T) { eachType(t, testStripSentinelRefuses) }

func testStripSentinelRefuses(t *testing.T, mediaType string) {
	plain := chunkedImage(t, 1)
	if _, _, err := StripSentinel(plain, digestsOf(1)); !errors.Is(err, ErrSentinel) {
		t.Errorf("plain: %v", err)
	}
	v, _, _ := variantOf(t, plain, mediaType, true)
	if _, _, err := StripSentinel(v, digestsOf(2)); !errors.Is(err, ErrMalformed) {
		t.Errorf("two ids for one layer: %v", err)
	}
	if _, _, err := StripSentinel(v, []digest.Digest{"x"}); !errors.Is(err, ErrMalformed) {
		t.Errorf("bad id: %v", err)
	}
}

// Whoever counts OCI's layers only finds one diff id more than layers with PR 681's type, which containerd refuses; with
// ours the counts agree, and the first layer has a type that is no tar's. Whoever takes every layer for a tar finds none in
// the first. All of it holds in every layout.
func TestUnawareReadersFail(t *testing.T) { eachType(t, testUnawareReadersFail) } // S31

func testUnawareReadersFail(t *testing.T, mediaType string) {
	for _, chainBound := range []bool{true, false} {
		v, _, _ := variantOf(t, chunkedImage(t, 3), mediaType, chainBound)
		known := 0
		for _, l := range v.Manifest.Layers {
			if IsLayer(l.MediaType) {
				known++
			}
		}
		if known != 3 || len(v.Config.DiffIDs) != 4 || len(v.Manifest.Layers) != 4 {
			t.Errorf("%d layers that others know, %d diff ids", known, len(v.Config.DiffIDs))
		}
		first := v.Manifest.Layers[0].MediaType
		if strings.HasPrefix(first, "application/vnd.oci.image.layer.v1.") != (mediaType == SentinelTypeOCI) || strings.HasPrefix(first, v1.MediaTypeImageLayer) {
			t.Errorf("type %s", first)
		}
	}
}
