package snapshotter

import (
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

func TestParseExtraction(t *testing.T) {
	chain := digest.FromString("chain")
	layer := digest.FromString("layer")
	man := digest.FromString("manifest")
	labels := map[string]string{
		"containerd.io/snapshot.ref":                 chain.String(),
		"containerd.io/snapshot/cri.image-ref":       "127.0.0.1:5000/deb:z",
		"containerd.io/snapshot/cri.layer-digest":    layer.String(),
		"containerd.io/snapshot/cri.manifest-digest": man.String(),
	}
	with := func(key, value string) map[string]string {
		m := map[string]string{key: value}
		for k, v := range labels {
			if k != key {
				m[k] = v
			}
		}
		return m
	}
	full := extraction{ref: chain, labelled: true, image: "127.0.0.1:5000/deb:z", manifest: man, layer: layer}
	noLayer, noRef := full, full
	noLayer.layer = ""
	noRef.ref, noRef.labelled = "", false
	for _, c := range []struct {
		name   string
		key    string
		labels map[string]string
		want   extraction
		ok     bool
	}{
		{"transfer", "n3/1/extract-46450028-qJQZ " + chain.String(), labels, full, true},
		{"a label is enough", "n3/1/anything", labels, full, true},
		{"local: no labels", "n3/1/extract-46450028-qJQZ " + chain.String(), nil, extraction{ref: chain}, true},
		{"key without a namespace", "extract-46450028-qJQZ " + chain.String(), nil, extraction{ref: chain}, true},
		{"key without a chain id", "n3/1/extract-1", nil, extraction{}, true},
		{"key with a bad chain id", "n3/1/extract-1 sha256:zz", nil, extraction{}, true},
		{"container", "n3/4/t1", nil, extraction{}, false},
		{"container with other labels", "n3/4/t1", map[string]string{"containerd.io/snapshot/uidmapping": "0:0:1"}, extraction{}, false},
		{"container called like it", "n3/4/my-extract-1", nil, extraction{}, false},
		{"mounted image", "n3/9//mount/path", nil, extraction{}, false},
		{"namespace called like it", "extract-x/4/t1", nil, extraction{}, false},
		{"bad layer digest", "n3/4/x", with("containerd.io/snapshot/cri.layer-digest", "sha256:abc"), noLayer, true},
		{"bad ref", "n3/4/x", with("containerd.io/snapshot.ref", "latest"), noRef, true},
	} {
		got, ok := parseExtraction(c.key, c.labels)
		if ok != c.ok || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v", c.name, got, ok)
		}
	}
	if !full.identified() || noLayer.identified() || noRef.identified() {
		t.Error("identified")
	}
}

func TestClaimsSentinel(t *testing.T) {
	for d, want := range map[digest.Digest]bool{
		manifest.SentinelDigest:    true,
		manifest.SentinelDigest512: true,
		digest.FromString("x"):     false,
		"":                         false,
	} {
		x, ok := parseExtraction("ns/1/extract-1-a "+d.String(), nil)
		if !ok || x.claimsSentinel() != want {
			t.Errorf("%s: %v", d, x.claimsSentinel())
		}
	}
}

func FuzzParseExtraction(f *testing.F) {
	seeds := []string{"n3/1/extract-1-a " + digest.FromString("x").String(), "n3/1/t1", "extract- ", "/", ""}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s, digest.FromString(s).String())
	}
	f.Fuzz(func(t *testing.T, key, ref string) {
		x, ok := parseExtraction(key, map[string]string{"containerd.io/snapshot.ref": ref})
		if !ok {
			t.Fatal("a ref label was overlooked")
		}
		if x.ref != "" && manifest.ValidDigest(x.ref) != nil {
			t.Fatalf("invalid ref %q got through", x.ref)
		}
		if _, ok := parseExtraction(key, nil); ok != strings.HasPrefix(key[strings.LastIndex(key, "/")+1:], "extract-") {
			t.Fatalf("key %q: %v", key, ok)
		}
	})
}

func TestParseAnswerFilter(t *testing.T) {
	ref := digest.FromString("x").String()
	for _, c := range []struct {
		filters []string
		parent  string
		ok      bool
	}{
		{[]string{`labels."containerd.io/snapshot.ref"==` + ref + `,parent==""`}, "", true},
		{[]string{`labels."containerd.io/snapshot.ref"==` + ref + `,parent=="n3/1/sha256:ab"`}, "n3/1/sha256:ab", true},
		{[]string{`labels."containerd.io/snapshot.ref"==` + ref}, "", false},
		{[]string{`labels."containerd.io/snapshot.ref"==` + ref + `,parent==x`}, "", false},
		{[]string{`labels."containerd.io/snapshot.ref"=="` + ref + `",parent==""`}, "", false},
		{[]string{`labels."containerd.io/snapshot.ref"==` + ref + `,parent=="",kind==active`}, "", false},
		{[]string{`labels."containerd.io/snapshot.ref"==` + ref + `,parent==""`, "kind==active"}, "", false},
		{nil, "", false},
	} {
		got, parent, ok := parseAnswerFilter(c.filters)
		if ok != c.ok || ok && (got != ref || parent != c.parent) {
			t.Errorf("%q: %q %q %v", c.filters, got, parent, ok)
		}
	}
}
