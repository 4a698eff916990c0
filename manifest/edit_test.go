package manifest

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestReplaceLayersNothing(t *testing.T) { // rule 24
	for _, mediaType := range []string{v1.MediaTypeImageManifest, DockerManifest} {
		raw := manifestOf(mediaType, prettyConfig(tarDigest(0), tarDigest(1)), chunkedLayer(0), gzipLayer())
		m := mustManifest(t, raw)
		for _, as := range []string{"", mediaType} {
			got, err := ReplaceLayers(m, m.Config, m.Layers, as)
			if err != nil || string(got) != raw {
				t.Errorf("%s as %q: %v\n%s", mediaType, as, err, got)
			}
		}
	}
}

// Only what is replaced changes: the expectation is a textual replacement.
func TestReplaceLayersTouchesNothingElse(t *testing.T) {
	config := prettyConfig(tarDigest(0), tarDigest(1))
	raw := manifestOf(v1.MediaTypeImageManifest, config, gzipLayer(), chunkedLayer(1))
	m := mustManifest(t, raw)
	c, layers := m.Config, append([]v1.Descriptor(nil), m.Layers...)
	c.Digest, c.Size = tarDigest(7), 7
	layers[0].Digest, layers[0].Size, layers[0].MediaType = tarDigest(8), 88, v1.MediaTypeImageLayerZstd
	got, err := ReplaceLayers(m, c, layers, "")
	if err != nil {
		t.Fatal(err)
	}
	want := replace(raw, m.Config.Digest.String(), c.Digest.String())
	want = replace(want, `"size": `+itoa(m.Config.Size), `"size": 7`)
	want = replace(want, gzipLayer().MediaType, v1.MediaTypeImageLayerZstd)
	want = replace(want, gzipLayer().Digest.String(), layers[0].Digest.String())
	want = replace(want, `"size":100`, `"size":88`)
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func itoa(n int64) string { return string(marshal(n)) }

func TestReplaceLayersAnnotations(t *testing.T) {
	m := mustManifest(t, manifestOf(v1.MediaTypeImageManifest, "{}", chunkedLayer(0), gzipLayer()))
	layers := append([]v1.Descriptor(nil), m.Layers...)
	layers[0].Annotations = StripTOCAnnotations(layers[0].Annotations)
	layers[1].Annotations = map[string]string{"new": "<1>"}
	got, err := ReplaceLayers(m, m.Config, layers, "")
	if err != nil {
		t.Fatal(err)
	}
	back := mustManifest(t, string(got))
	if !reflect.DeepEqual(back.Layers, layers) || strings.Count(string(got), `"x-layer": "kept"`) != 2 {
		t.Errorf("%s", got)
	}
	if !strings.Contains(string(got), `"new":"<1>"`) {
		t.Errorf("HTML is escaped: %s", got)
	}
}

func TestReplaceLayersOfOtherNumber(t *testing.T) {
	m := mustManifest(t, manifestOf(v1.MediaTypeImageManifest, "{}", chunkedLayer(0), gzipLayer()))
	for _, layers := range [][]v1.Descriptor{nil, {m.Layers[1]}, {chunkedLayer(5), m.Layers[1], m.Layers[0]}} {
		got, err := ReplaceLayers(m, m.Config, layers, "")
		if err != nil {
			t.Fatal(err)
		}
		back := mustManifest(t, string(got))
		if len(back.Layers) != len(layers) || (len(layers) > 0 && !reflect.DeepEqual(back.Layers, layers)) {
			t.Errorf("%s", got)
		}
		if !strings.Contains(string(got), `"x-first": {"layers": [1, 2], "config": null}`) {
			t.Errorf("unknown fields changed: %s", got)
		}
		if kept := strings.Count(string(got), `"x-layer": "kept"`); kept != min(len(layers), 2) {
			t.Errorf("%d layers kept their unknown field: %s", kept, got)
		}
	}
}

func TestReplaceLayersConverts(t *testing.T) { // rule 33
	docker := mustManifest(t, manifestOf(DockerManifest, "{}", v1.Descriptor{MediaType: dockerLayerGzip, Digest: someDigest, Size: 3}))
	got, err := ReplaceLayers(docker, docker.Config, docker.Layers, v1.MediaTypeImageManifest)
	if err != nil {
		t.Fatal(err)
	}
	oci := mustManifest(t, string(got))
	if oci.MediaType != v1.MediaTypeImageManifest || oci.Config.MediaType != v1.MediaTypeImageConfig ||
		oci.Layers[0].MediaType != v1.MediaTypeImageLayerGzip || !strings.Contains(string(got), "x-layer") {
		t.Errorf("%s", got)
	}
	back, err := ReplaceLayers(oci, oci.Config, oci.Layers, DockerManifest)
	if err != nil {
		t.Fatal(err)
	}
	m := mustManifest(t, string(back))
	if m.MediaType != DockerManifest || !reflect.DeepEqual(m.Layers, docker.Layers) || m.Annotations != nil || !strings.Contains(string(back), "x-first") {
		t.Errorf("%s", back)
	}
	chunked := mustManifest(t, manifestOf(v1.MediaTypeImageManifest, "{}", chunkedLayer(0)))
	if _, err := ReplaceLayers(chunked, chunked.Config, chunked.Layers, DockerManifest); !errors.Is(err, ErrUnsupported) {
		t.Errorf("zstd in Docker schema 2: %v", err)
	}
	noType := mustManifest(t, replace(ociManifest, `"mediaType":"application/vnd.oci.image.manifest.v1+json",`, ``))
	got, err = ReplaceLayers(noType, noType.Config, noType.Layers, DockerManifest)
	if err != nil || mustManifest(t, string(got)).MediaType != DockerManifest {
		t.Errorf("a manifest without mediaType: %s, %v", got, err)
	}
}

func TestReplaceLayersRefuses(t *testing.T) {
	m := mustManifest(t, ociManifest)
	bad := m.Config
	bad.Digest = "sha256:1"
	if _, err := ReplaceLayers(m, bad, m.Layers, ""); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := ReplaceLayers(m, m.Config, m.Layers, v1.MediaTypeImageIndex); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if _, err := ReplaceLayers(m, m.Config, []v1.Descriptor{{Digest: someDigest}}, ""); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

const prettyIndex = `{
  "schemaVersion": 2,
  "x-list": [ 1.0 ],
  "manifests": [
    { "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 10, "digest": "` + someDigest + `",
      "platform": { "os": "linux", "architecture": "amd64", "features": ["sse"] }, "x-entry": 1 },
    { "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 10, "digest": "` + someDigest + `",
      "platform": { "os": "linux", "architecture": "386" }, "x-entry": 2 }
  ]
}
`

func mustList(t testing.TB, raw string) *List {
	t.Helper()
	l, err := ParseList([]byte(raw), "")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestReplaceInstances(t *testing.T) { // L1, L3, L19
	l := mustList(t, prettyIndex)
	edit := func(change func(in []v1.Descriptor) []v1.Descriptor) string {
		t.Helper()
		got, err := ReplaceInstances(l, change(append([]v1.Descriptor(nil), l.Instances...)), "")
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	if got := edit(func(in []v1.Descriptor) []v1.Descriptor { return in }); got != prettyIndex {
		t.Errorf("nothing changed:\n%s", got)
	}
	// Both entries have one digest: the second is told apart by its place.
	got := edit(func(in []v1.Descriptor) []v1.Descriptor { in[1].Digest, in[1].Size = tarDigest(1), 11; return in })
	i := strings.LastIndex(prettyIndex, `"size": 10`)
	want := prettyIndex[:i] + strings.NewReplacer(`"size": 10`, `"size": 11`, someDigest, tarDigest(1).String()).Replace(prettyIndex[i:])
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	got = edit(func(in []v1.Descriptor) []v1.Descriptor {
		return append(in, v1.Descriptor{MediaType: "m", Digest: tarDigest(2), Size: 1})
	})
	if back := mustList(t, got); len(back.Instances) != 3 || !strings.Contains(got, `"features": ["sse"] }, "x-entry": 1 }`) ||
		!strings.Contains(got, `"x-entry": 2`) || !strings.Contains(got, `"x-list": [ 1.0 ]`) {
		t.Errorf("added:\n%s", got)
	}
	got = edit(func(in []v1.Descriptor) []v1.Descriptor { return in[:1] })
	if back := mustList(t, got); len(back.Instances) != 1 || !strings.Contains(got, `"x-entry": 1`) || strings.Contains(got, `"x-entry": 2`) {
		t.Errorf("deleted:\n%s", got)
	}
	if got = edit(func([]v1.Descriptor) []v1.Descriptor { return nil }); !strings.Contains(got, `"manifests": []`) {
		t.Errorf("emptied:\n%s", got)
	}
	if string(l.Raw) != prettyIndex {
		t.Error("the list was changed")
	}
}

func TestReplaceInstancesConverts(t *testing.T) { // L5, rule 33
	l := mustList(t, prettyIndex)
	got, err := ReplaceInstances(l, l.Instances, DockerList)
	if err != nil {
		t.Fatal(err)
	}
	docker := mustList(t, string(got))
	if docker.MediaType != DockerList || !reflect.DeepEqual(docker.Instances, l.Instances) || !strings.Contains(string(got), "x-list") {
		t.Errorf("%s", got)
	}
	back, err := ReplaceInstances(docker, docker.Instances, v1.MediaTypeImageIndex)
	if err != nil || mustList(t, string(back)).MediaType != v1.MediaTypeImageIndex {
		t.Errorf("%s, %v", back, err)
	}
	for name, d := range map[string]v1.Descriptor{
		"no platform": {MediaType: DockerManifest, Digest: someDigest, Size: 1},
		"a variant":   {MediaType: DockerManifest, Digest: someDigest, Size: 1, Platform: l.Instances[0].Platform, Annotations: map[string]string{AnnotationSentinel: "true"}},
	} {
		if _, err := ReplaceInstances(l, []v1.Descriptor{d}, DockerList); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReplaceInstances(l, l.Instances, DockerManifest); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

// L2: entries are held to the rules of the parser before they are written.
func TestReplaceInstancesRefuses(t *testing.T) {
	l := mustList(t, prettyIndex)
	for name, d := range map[string]v1.Descriptor{
		"no digest":  {MediaType: "m", Size: 1},
		"bad digest": {MediaType: "m", Digest: "sha256:x", Size: 1},
		"size":       {MediaType: "m", Digest: someDigest, Size: -1},
		"no type":    {Digest: someDigest, Size: 1},
	} {
		if _, err := ReplaceInstances(l, []v1.Descriptor{d}, ""); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestObjectWithout(t *testing.T) {
	const in = `{ "a" : 1 , "b" : [2] , "c" : {"d":3} }`
	for names, want := range map[string]string{
		"":      in,
		"a":     `{ "b" : [2] , "c" : {"d":3} }`,
		"b":     `{ "a" : 1 , "c" : {"d":3} }`,
		"c":     `{ "a" : 1 , "b" : [2] }`,
		"b,c":   `{ "a" : 1 }`,
		"a,c":   `{ "b" : [2] }`,
		"a,b":   `{ "c" : {"d":3} }`,
		"a,b,c": `{  }`,
	} {
		o, err := root([]byte(in), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(o.without(strings.Split(names, ",")...)); got != want || !json.Valid([]byte(got)) {
			t.Errorf("%s: %s, want %s", names, got, want)
		}
	}
}

func TestObjectSet(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:               `{"k":9}`,
		`{ }`:              `{"k":9 }`,
		`{ "a": 1 }`:       `{ "k":9,"a": 1 }`,
		`{"a":1,"k":null}`: `{"a":1,"k":9}`,
		`{"\u006b" : 1}`:   `{"\u006b" : 9}`,
	} {
		o, err := root([]byte(in), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(splice(o.raw, o.set("k", []byte("9")))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

// The three functions that walk a document agree with encoding/json on where
// every value begins and ends.
func TestSpans(t *testing.T) {
	const in = " { \"a\" :\t-1.5e3\n, \"b\\\"\":\"x,:]}\", \"c\" :[ ] ,\"d\":[ 1 ,[2 , 3], {\"e\":null}\r\n] ,\"f\":true} "
	o, err := root([]byte(in), nil)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]json.RawMessage
	if err := json.Unmarshal([]byte(in), &want); err != nil {
		t.Fatal(err)
	}
	if len(o.fields) != len(want) {
		t.Fatalf("%d fields", len(o.fields))
	}
	for _, f := range o.fields {
		if got := string(f.value.of(o.raw)); got != string(want[f.name]) {
			t.Errorf("%s: %q, want %q", f.name, got, want[f.name])
		}
		var key string
		if err := json.Unmarshal(f.key.of(o.raw), &key); err != nil || key != f.name {
			t.Errorf("key %q: %v", f.key.of(o.raw), err)
		}
	}
	d, _ := o.get("d")
	spans, err := elems(o.raw, d)
	var got []string
	for _, s := range spans {
		got = append(got, string(s.of(o.raw)))
	}
	if err != nil || !reflect.DeepEqual(got, []string{"1", "[2 , 3]", `{"e":null}`}) {
		t.Errorf("%q, %v", got, err)
	}
}

func digestsOf(n int) []digest.Digest {
	var out []digest.Digest
	for i := range n {
		out = append(out, tarDigest(i))
	}
	return out
}
