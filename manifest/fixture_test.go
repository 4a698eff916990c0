package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// tarDigest is the digest that the tests use for the tar of layer i.
func tarDigest(i int) digest.Digest { return digest.FromString(fmt.Sprint("tar ", i)) }

// chunkedLayer is a layer with a TOC and a tar-split, different for each i.
func chunkedLayer(i int) v1.Descriptor {
	l := realLayer()
	l.Digest = digest.FromString(fmt.Sprint("blob ", i))
	l.Annotations[annTOCDigest] = tocDigest(i).String()
	return l
}

func tocDigest(i int) digest.Digest { return digest.FromString(fmt.Sprint("toc ", i)) }

// prettyConfig is a config as other tools write it: indented, with fields
// that tocsin does not know, and history for every layer.
func prettyConfig(diffIDs ...digest.Digest) string {
	quoted := make([]string, len(diffIDs))
	history := []string{`{"created": "2024-01-02T03:04:05Z", "created_by": "ENV a=<b>", "empty_layer": true}`}
	for i, d := range diffIDs {
		quoted[i] = fmt.Sprintf("\n      %q", d)
		history = append(history, fmt.Sprintf("\n    {\"created_by\": \"layer %d\", \"odd\": 1.50}", i))
	}
	return `{
  "architecture": "amd64", "os": "linux",
  "config": {"OnBuild": ["x"], "Healthcheck": {"Test": ["CMD", "a < b & c"]}, "Labels": {"k": "\u00e9"}},
  "rootfs": {
    "type": "layers",
    "diff_ids": [` + strings.Join(quoted, ",") + `
    ]
  },
  "history": [` + strings.Join(history, ",") + `],
  "x-unknown": 1e3
}
`
}

// manifestOf writes a manifest, indented and with fields nobody knows.
func manifestOf(mediaType, config string, layers ...v1.Descriptor) string {
	configType := v1.MediaTypeImageConfig
	if mediaType == DockerManifest {
		configType = DockerConfig
	}
	texts := make([]string, len(layers))
	for i, l := range layers {
		text := string(marshal(l))
		texts[i] = "\n    " + strings.TrimSuffix(text, "}") + `, "x-layer": "kept" }`
	}
	return fmt.Sprintf(`{
  "schemaVersion": 2,
  "mediaType": %q,
  "x-first": {"layers": [1, 2], "config": null},
  "config": {
    "mediaType": %q,
    "size": %d,
    "digest": %q,
    "x-config": true
  },
  "layers": [%s
  ],
  "annotations": {"a": "<b>"}
}`, mediaType, configType, len(config), digest.FromString(config), strings.Join(texts, ","))
}

func mustManifest(t testing.TB, raw string) *Manifest {
	t.Helper()
	m, err := ParseManifest([]byte(raw), "")
	if err != nil {
		t.Fatalf("%v in\n%s", err, raw)
	}
	return m
}

func mustConfig(t testing.TB, raw string) *Config {
	t.Helper()
	c, err := ParseConfig([]byte(raw))
	if err != nil {
		t.Fatalf("%v in\n%s", err, raw)
	}
	return c
}

// newImage joins layers and diff ids into an OCI image.
func newImage(t testing.TB, layers []v1.Descriptor, diffIDs []digest.Digest) (*Image, error) {
	t.Helper()
	config := prettyConfig(diffIDs...)
	m := mustManifest(t, manifestOf(v1.MediaTypeImageManifest, config, layers...))
	return NewImage(m, mustConfig(t, config))
}

// chunkedImage is a plain image with n chunked layers.
func chunkedImage(t testing.TB, n int) *Image {
	t.Helper()
	var layers []v1.Descriptor
	var diffIDs []digest.Digest
	for i := range n {
		layers = append(layers, chunkedLayer(i))
		diffIDs = append(diffIDs, tarDigest(i))
	}
	im, err := newImage(t, layers, diffIDs)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// eachType runs a test for both media types of the sentinel.
func eachType(t *testing.T, test func(t *testing.T, mediaType string)) {
	t.Helper()
	for _, mediaType := range []string{SentinelTypeOCI, SentinelTypeUpstream} {
		t.Run(mediaType, func(t *testing.T) { test(t, mediaType) })
	}
}
