package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// fields is a JSON object as its values' exact bytes.
func fields(t *testing.T, raw []byte) map[string]json.RawMessage {
	t.Helper()
	var f map[string]json.RawMessage
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return f
}

// items is a JSON array as its elements' exact bytes.
func items(t *testing.T, raw []byte) []json.RawMessage {
	t.Helper()
	var f []json.RawMessage
	if raw == nil {
		return nil
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	return f
}

// variantConfig demands that a config differs from a plain one in diff_ids as wanted, and in one history entry if that
// was consistent, and in no byte of any other value.
func variantConfig(t *testing.T, plain *Config, variant []byte, want []digest.Digest) {
	t.Helper()
	sameBut(t, plain.Raw, variant, "rootfs", "history")
	a, b := fields(t, plain.Raw), fields(t, variant)
	sameBut(t, a["rootfs"], b["rootfs"], "diff_ids")
	var got []digest.Digest
	if err := json.Unmarshal(fields(t, b["rootfs"])["diff_ids"], &got); err != nil || !slices.Equal(got, want) {
		t.Fatalf("diff_ids %v, want %v (%v)", got, want, err)
	}
	before, after := items(t, a["history"]), items(t, b["history"])
	if consistentHistory(plain) {
		if len(after) == 0 || string(after[0]) != `{"created_by":"zstd:chunked sentinel"}` {
			t.Fatalf("history %s", b["history"])
		}
		after = after[1:]
	}
	if !slices.EqualFunc(before, after, func(x, y json.RawMessage) bool { return bytes.Equal(x, y) }) {
		t.Fatalf("history changed:\n%s\n%s", a["history"], b["history"])
	}
}

// sameBut fails unless two objects differ in the values of these keys only.
func sameBut(t *testing.T, a, b []byte, keys ...string) {
	t.Helper()
	x, y := fields(t, a), fields(t, b)
	for _, k := range keys {
		delete(x, k)
		delete(y, k)
	}
	if len(x) != len(y) {
		t.Fatalf("other keys:\n%s\n%s", a, b)
	}
	for k := range x {
		if !bytes.Equal(x[k], y[k]) {
			t.Fatalf("%q changed:\n%s\n%s", k, a, b)
		}
	}
}

// FuzzSentinelConfig: a variant's config differs from the plain one's in diff_ids and history only, and stripping it
// with other diff_ids changes those only.
func FuzzSentinelConfig(f *testing.F) { // S6
	seed(f, prettyConfig(tarDigest(0)), prettyConfig(tarDigest(0), tarDigest(1)),
		`{"history":[{"empty_layer":true},{"empty_layer":false}],"rootfs":{"x":1,"diff_ids":[ "`+someDigest+`" ]},"config":{"OnBuild":[1.0e5]}}`)
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConfig([]byte(s))
		if err != nil || len(c.DiffIDs) == 0 || len(c.DiffIDs) > 8 {
			return
		}
		var layers []v1.Descriptor
		for i := range c.DiffIDs {
			layers = append(layers, chunkedLayer(i))
		}
		im, err := NewImage(mustManifest(t, manifestOf(v1.MediaTypeImageManifest, s, layers...)), c)
		if err != nil {
			return
		}
		for _, bound := range []bool{true, false} {
			rawManifest, rawConfig, err := AddSentinel(im, SentinelTypeUpstream, bound)
			if err != nil {
				t.Fatal(err)
			}
			want := []digest.Digest{SentinelDigest}
			others := make([]digest.Digest, len(c.DiffIDs))
			for i, d := range c.DiffIDs {
				if bound {
					d = tocDigest(i)
				}
				want = append(want, d)
				others[i] = digest.FromString(fmt.Sprint("rebuilt ", i))
			}
			variantConfig(t, c, rawConfig, want)
			v, err := NewImage(mustManifest(t, string(rawManifest)), mustConfig(t, string(rawConfig)))
			if err != nil {
				if bound {
					t.Fatal(err)
				}
				continue // the plain image's diff_ids are some of its TOC digests: no variant may have them
			}
			_, stripped, err := StripSentinel(v, others)
			if err != nil {
				t.Fatal(err)
			}
			sameBut(t, c.Raw, stripped, "rootfs")
			a, b := fields(t, c.Raw)["rootfs"], fields(t, stripped)["rootfs"]
			sameBut(t, a, b, "diff_ids")
			if got := mustConfig(t, string(stripped)).DiffIDs; !slices.Equal(got, others) {
				t.Fatalf("diff_ids %v, want %v", got, others)
			}
		}
	})
}

// FuzzSentinelManifest: a variant's manifest differs from the plain one's in the config's digest and size, and by one
// layer before the others, whose every byte stays.
func FuzzSentinelManifest(f *testing.F) { // S5
	config := prettyConfig(tarDigest(0), tarDigest(1))
	good := manifestOf(v1.MediaTypeImageManifest, config, chunkedLayer(0), chunkedLayer(1))
	seed(f, good, replace(good, `"x-config": true`, `"x-config":1e2, "data": "e30=", "urls":["x"]`),
		replace(good, `"annotations": {"a": "<b>"}`, `"annotations":{},"subject":{"mediaType":"m","size":1,"digest":"`+someDigest+`"}`))
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseManifest([]byte(s), "")
		if err != nil {
			return
		}
		im, err := NewImage(m, mustConfig(t, config))
		if err != nil || im.Trust != TOCUnbound {
			return
		}
		rawManifest, rawConfig, err := AddSentinel(im, SentinelTypeOCI, true)
		if err != nil {
			t.Fatal(err)
		}
		sameBut(t, m.Raw, rawManifest, "config", "layers")
		a, b := fields(t, m.Raw), fields(t, rawManifest)
		sameBut(t, without(t, a["config"], "data"), b["config"], "digest", "size")
		before, after := items(t, a["layers"]), items(t, b["layers"])
		if len(after) != len(before)+1 || !bytes.Equal(after[0], marshal(SentinelDescriptor(SentinelTypeOCI, m.Layers[0].Digest.Algorithm()))) ||
			!slices.EqualFunc(before, after[1:], func(x, y json.RawMessage) bool { return bytes.Equal(x, y) }) {
			t.Fatalf("layers\n%s\n%s", a["layers"], b["layers"])
		}
		v, err := NewImage(mustManifest(t, string(rawManifest)), mustConfig(t, string(rawConfig)))
		if err != nil {
			t.Fatal(err)
		}
		plain, _, err := StripSentinel(v, im.Config.DiffIDs)
		if err != nil {
			t.Fatal(err)
		}
		sameBut(t, m.Raw, plain, "config")
		sameBut(t, without(t, a["config"], "data"), fields(t, plain)["config"], "digest", "size")
		if !MadeFrom(v, im) && m.Config.Data == nil && bytes.Equal(plain, m.Raw) {
			t.Fatal("stripping gives the plain image, but MadeFrom says no")
		}
	})
}

func without(t *testing.T, raw []byte, key string) []byte {
	t.Helper()
	o, err := root(raw, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o.without(key)
}

// FuzzEntries: publishing a variant and taking it back changes nothing of an entry but what is about variants.
func FuzzEntries(f *testing.F) { // S9
	f.Add("linux", "arm64", "v8", "", "k", "v")
	f.Add("windows", "amd64", "", "10.0.17763.1", AnnotationZstd, "true")
	f.Fuzz(func(t *testing.T, os, arch, variant, version, key, value string) {
		p := v1.Platform{OS: os, Architecture: arch, Variant: variant, OSVersion: version}
		d := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: someDigest, Size: 1, Annotations: map[string]string{key: value}}
		for _, layout := range []Layout{LayoutHidden, LayoutUpstream, LayoutOnly} {
			got, err := PublishVariant(d, p, layout)
			if err != nil {
				continue
			}
			serves, ok := VariantPlatform(got)
			lower, err := ParsePlatform(FormatPlatform(p))
			if layout != LayoutHidden {
				lower = p
			}
			lower.OSVersion = version
			if !ok || err == nil && PlatformKey(serves) != PlatformKey(lower) {
				t.Fatalf("%s: %+v serves %+v, %v", layout, p, serves, ok)
			}
			back := PlainEntry(got)
			if IsVariant(back) || Hidden(back) || back.Annotations[AnnotationSentinelPlatform] != "" {
				t.Fatalf("%s: %+v", layout, back)
			}
			if key != AnnotationSentinel && key != AnnotationSentinelPlatform && key != AnnotationZstd && back.Annotations[key] != value {
				t.Fatalf("%s: lost %q: %+v", layout, key, back)
			}
		}
	})
}
