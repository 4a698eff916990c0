package manifest

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// seed adds a corpus, which must not be empty.
func seed(f *testing.F, seeds ...string) {
	f.Helper()
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
}

// FuzzParseRef: what parses is stable under String.
func FuzzParseRef(f *testing.F) {
	seed(f, "alpine", "docker://localhost:5000/a/b:c@"+someDigest, "store:@"+someDigest, "oci:dir:name", "oci:dir@3",
		"oci:a@b:c@"+someDigest, "docker-archive:x.tar:y:z", "dir:/a", "ocidir://x", "oci:a@1@2", "oci:a:@1",
		"containerd:k8s.io/x:1", "containerd:n/@"+someDigest, "docker-daemon:x", "docker-daemon:"+someDigest, "tarball:-", "atomic:x")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRef(s)
		if err != nil {
			return
		}
		back, err := ParseRef(r.String())
		if err != nil || back != r {
			t.Fatalf("%q: %+v; String %q: %+v, %v", s, r, r.String(), back, err)
		}
		if r.Digest != "" && ValidDigest(r.Digest) != nil {
			t.Fatalf("%q: invalid digest %q", s, r.Digest)
		}
	})
}

// FuzzParseManifest: replacing nothing changes nothing, and a new config
// changes nothing but the config.
func FuzzParseManifest(f *testing.F) {
	config := prettyConfig(tarDigest(0))
	seed(f, ociManifest, manifestOf(v1.MediaTypeImageManifest, config, chunkedLayer(0), gzipLayer()),
		manifestOf(DockerManifest, config, gzipLayer()), replace(ociManifest, `"layers":[`, `"layers":null,"x":[`))
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseManifest([]byte(s), "")
		if err != nil {
			return
		}
		same, err := ReplaceLayers(m, m.Config, m.Layers, "")
		if err != nil || string(same) != s {
			t.Fatalf("unchanged: %v\n%s\n%s", err, s, same)
		}
		c := v1.Descriptor{MediaType: m.Config.MediaType, Digest: tarDigest(3), Size: 3}
		raw, err := ReplaceLayers(m, c, m.Layers, "")
		if err != nil {
			t.Fatal(err)
		}
		sameBut(t, []byte(s), raw, "config")
		back, err := ParseManifest(raw, m.MediaType)
		if err != nil || !reflect.DeepEqual(back.Config, c) || !reflect.DeepEqual(back.Layers, m.Layers) {
			t.Fatalf("%v\n%s\n%s", err, s, raw)
		}
		raw, err = ReplaceLayers(m, m.Config, append(slices.Clone(m.Layers), c), "")
		if err != nil {
			t.Fatal(err)
		}
		sameBut(t, []byte(s), raw, "layers")
	})
}

// FuzzParseList: replacing nothing changes nothing; one more entry changes
// nothing else; Choose answers with an entry of the list.
func FuzzParseList(f *testing.F) {
	seed(f, ociIndex, prettyIndex, string(NewIndex([]v1.Descriptor{
		{MediaType: v1.MediaTypeImageManifest, Digest: someDigest, Size: 1, Annotations: map[string]string{AnnotationSentinel: "true", AnnotationSentinelPlatform: "linux/amd64"}}})))
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseList([]byte(s), "")
		if err != nil {
			return
		}
		same, err := ReplaceInstances(l, l.Instances, "")
		if err != nil || string(same) != s {
			t.Fatalf("unchanged: %v\n%s\n%s", err, s, same)
		}
		more := append(slices.Clone(l.Instances), v1.Descriptor{MediaType: "m", Digest: someDigest, Size: 1, Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}})
		raw, err := ReplaceInstances(l, more, "")
		if err != nil {
			t.Fatal(err)
		}
		sameBut(t, []byte(s), raw, "manifests")
		back, err := ParseList(raw, l.MediaType)
		if err != nil || !reflect.DeepEqual(back.Instances, more) {
			t.Fatalf("%v\n%s\n%s", err, s, raw)
		}
		for _, p := range []Prefer{PreferPlain, PreferVariant, OnlyVariant} {
			d, err := back.Choose(v1.Platform{OS: "linux", Architecture: "amd64"}, p)
			if err != nil && p != OnlyVariant {
				t.Fatal(err)
			}
			if p == PreferPlain && Hidden(d) {
				t.Fatalf("a hidden variant answered: %s", raw)
			}
		}
	})
}

// FuzzParseConfig: a config that can carry a sentinel gets every byte back
// when it is stripped.
func FuzzParseConfig(f *testing.F) {
	seed(f, prettyConfig(tarDigest(0)), prettyConfig(tarDigest(0), tarDigest(1)), "{}",
		`{"history":[{}],"rootfs":{"diff_ids":[ "`+someDigest+`" ]}}`)
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConfig([]byte(s))
		if err != nil || len(c.DiffIDs) == 0 || len(c.DiffIDs) > 8 || strings.Contains(s, `\`) {
			return // a diff id spelled with escapes comes back without them
		}
		var layers []v1.Descriptor
		for i := range c.DiffIDs {
			layers = append(layers, chunkedLayer(i))
		}
		im, err := NewImage(mustManifest(t, manifestOf(v1.MediaTypeImageManifest, s, layers...)), c)
		if err != nil {
			return
		}
		m, vc, err := AddSentinel(im, SentinelTypeOCI, true)
		if err != nil {
			t.Fatal(err)
		}
		v, err := NewImage(mustManifest(t, string(m)), mustConfig(t, string(vc)))
		if err != nil || !v.ChainBound || strings.Count(string(vc), SentinelDigest.String()) < 1 {
			t.Fatalf("%v\n%s\n%s", err, s, vc)
		}
		back, backConfig, err := StripSentinel(v, c.DiffIDs)
		if err != nil || string(backConfig) != s || string(back) != string(im.Manifest.Raw) {
			t.Fatalf("%v\n%s\n%s", err, s, backConfig)
		}
	})
}
