package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	ociManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + someDigest + `","size":3},` +
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` + someDigest + `","size":3}]}`
	ociIndex = `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` +
		someDigest + `","size":3,"platform":{"os":"linux","architecture":"amd64"}}]}`
)

func TestGuessMediaType(t *testing.T) { // L6
	for in, want := range map[string]string{
		ociManifest: v1.MediaTypeImageManifest,
		ociIndex:    v1.MediaTypeImageIndex,
		`{"schemaVersion":2,"mediaType":"` + DockerManifest + `"}`:          DockerManifest,
		`{"schemaVersion":2,"mediaType":"` + DockerList + `"}`:              DockerList,
		`{"schemaVersion":2,"config":{"mediaType":"` + DockerConfig + `"}}`: DockerManifest,
		`{"schemaVersion":2,"config":{"mediaType":"x"},"manifests":[{}]}`:   v1.MediaTypeImageManifest,
		`{"schemaVersion":2,"manifests":[]}`:                                v1.MediaTypeImageManifest,
		`{"schemaVersion":2}`:                                               v1.MediaTypeImageManifest,
		`{"schemaVersion":1}`:                                               DockerSchema1,
		`{"schemaVersion":1,"signatures":[]}`:                               DockerSchema1Signed,
		`{"schemaVersion":3}`:                                               "",
		`{}`:                                                                "",
		`[]`:                                                                "",
		`nonsense`:                                                          "",
		`{"schemaVersion":"2"}`:                                             "",
	} {
		if got := GuessMediaType([]byte(in)); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestParseManifest(t *testing.T) {
	for _, mediaType := range []string{"", v1.MediaTypeImageManifest, "application/json"} {
		m, err := ParseManifest([]byte(ociManifest), mediaType)
		if err != nil {
			t.Fatalf("as %q: %v", mediaType, err)
		}
		if m.MediaType != v1.MediaTypeImageManifest || m.Digest != digest.FromString(ociManifest) || string(m.Raw) != ociManifest ||
			m.Config.Digest != someDigest || len(m.Layers) != 1 || m.Layers[0].Size != 3 {
			t.Errorf("as %q: %+v", mediaType, m)
		}
	}
	m := mustManifest(t, strings.Replace(ociManifest, `"layers"`,
		`"artifactType":"a/b","subject":{"mediaType":"m","digest":"`+someDigest+`","size":1},"annotations":{"k":"v"},"layers"`, 1))
	if m.ArtifactType != "a/b" || m.Subject == nil || m.Subject.MediaType != "m" || m.Annotations["k"] != "v" {
		t.Errorf("%+v", m)
	}
}

// replace makes variations of a good document.
func replace(in, old, new string) string {
	out := strings.Replace(in, old, new, 1)
	if out == in {
		panic(fmt.Sprintf("%q is not in %s", old, in))
	}
	return out
}

func TestParseManifestRefuses(t *testing.T) { // L4
	for name, tt := range map[string]struct {
		raw, mediaType string
		want           error
	}{
		"empty":             {"", "", ErrMalformed},
		"not JSON":          {"{", "", ErrMalformed},
		"trailing":          {ociManifest + "{}", "", ErrMalformed},
		"array":             {"[]", "", ErrMalformed},
		"null":              {"null", "", ErrMalformed},
		"list":              {ociIndex, "", ErrUnsupported},
		"list by type":      {ociIndex, v1.MediaTypeImageManifest, ErrMalformed},
		"schema 1":          {`{"schemaVersion":1,"fsLayers":[]}`, "", ErrUnsupported},
		"schema 3":          {replace(ociManifest, `:2,`, `:3,`), "", ErrMalformed},
		"no schema":         {replace(ociManifest, `"schemaVersion":2,`, ``), "", ErrMalformed},
		"other type":        {ociManifest, DockerManifest, ErrMalformed},
		"unknown type":      {replace(ociManifest, v1.MediaTypeImageManifest, "a/b"), "", ErrUnsupported},
		"L4 manifests":      {replace(ociManifest, `"layers"`, `"manifests":[],"layers"`), "", ErrMalformed},
		"L4 MANIFESTS":      {replace(ociManifest, `"layers"`, `"MANIFESTS":[],"layers"`), "", ErrMalformed},
		"L4 fslayers":       {replace(ociManifest, `"layers"`, `"fslayers":[],"layers"`), "", ErrMalformed},
		"L4 History":        {replace(ociManifest, `"layers"`, `"History":[],"layers"`), "", ErrMalformed},
		"Layers":            {replace(ociManifest, `"layers"`, `"Layers"`), "", ErrMalformed},
		"layer\\u017f":      {replace(ociManifest, `"layers"`, `"layers":[],"layer\u017f"`), "", ErrMalformed},
		"layers twice":      {replace(ociManifest, `"layers"`, `"layers":[],"layers"`), "", ErrMalformed},
		"escaped twice":     {replace(ociManifest, `"layers"`, `"\u006cayers":[],"layers"`), "", ErrMalformed},
		"unknown twice":     {replace(ociManifest, `"layers"`, `"x":1,"x":2,"layers"`), "", ErrMalformed},
		"digest twice":      {replace(ociManifest, `"digest"`, `"digest":"`+someDigest+`","digest"`), "", ErrMalformed},
		"Digest":            {replace(ociManifest, `"digest"`, `"Digest":"`+someDigest+`","digest"`), "", ErrMalformed},
		"annotation twice":  {replace(ociManifest, `"layers"`, `"annotations":{"a":"1","a":"2"},"layers"`), "", ErrMalformed},
		"no config":         {`{"schemaVersion":2,"layers":[]}`, "", ErrMalformed},
		"null config":       {`{"schemaVersion":2,"config":null,"layers":[]}`, "", ErrMalformed},
		"layers no array":   {replace(ociManifest, `"layers":[`, `"layers":{},"x":[`), "", ErrMalformed},
		"null layer":        {replace(ociManifest, `"layers":[`, `"layers":[null,`), "", ErrMalformed},
		"bad digest":        {replace(ociManifest, someDigest, "sha256:../../x"), "", ErrMalformed},
		"odd algorithm":     {replace(ociManifest, someDigest, "md5:d41d8cd98f00b204e9800998ecf8427e"), "", ErrUnsupported},
		"negative size":     {replace(ociManifest, `"size":3`, `"size":-1`), "", ErrMalformed},
		"fractional size":   {replace(ociManifest, `"size":3`, `"size":3.5`), "", ErrMalformed},
		"no media type":     {replace(ociManifest, v1.MediaTypeImageConfig, ""), "", ErrMalformed},
		"subject no object": {replace(ociManifest, `"layers"`, `"subject":1,"layers"`), "", ErrMalformed},
		"too big":           {ociManifest + strings.Repeat(" ", int(MaxManifestSize)), "", ErrMalformed},
	} {
		if m, err := ParseManifest([]byte(tt.raw), tt.mediaType); !errors.Is(err, tt.want) {
			t.Errorf("%s: %+v, %v; want %v", name, m, err, tt.want)
		}
	}
}

func TestParseList(t *testing.T) { // L4
	l, err := ParseList([]byte(ociIndex), "")
	if err != nil {
		t.Fatal(err)
	}
	if l.MediaType != v1.MediaTypeImageIndex || len(l.Instances) != 1 || l.Instances[0].Platform.Architecture != "amd64" {
		t.Errorf("%+v", l)
	}
	if _, err := ParseList([]byte(`{"schemaVersion":2,"mediaType":"`+v1.MediaTypeImageIndex+`","manifests":[]}`), ""); err != nil {
		t.Errorf("an empty index: %v", err)
	}
	for name, tt := range map[string]struct {
		raw  string
		want error
	}{
		"manifest":     {ociManifest, ErrUnsupported},
		"L4 config":    {replace(ociIndex, `"manifests"`, `"config":{},"manifests"`), ErrMalformed},
		"L4 Layers":    {replace(ociIndex, `"manifests"`, `"mediaType":"`+v1.MediaTypeImageIndex+`","Layers":[],"manifests"`), ErrMalformed},
		"L4 fsLayers":  {replace(ociIndex, `"manifests"`, `"fsLayers":[],"manifests"`), ErrMalformed},
		"L4 history":   {replace(ociIndex, `"manifests"`, `"history":[],"manifests"`), ErrMalformed},
		"no manifests": {`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageIndex + `"}`, ErrMalformed},
		"OS":           {replace(ociIndex, `"os"`, `"OS"`), ErrMalformed},
		"bad entry":    {replace(ociIndex, `"size":3`, `"size":-3`), ErrMalformed},
	} {
		if l, err := ParseList([]byte(tt.raw), ""); !errors.Is(err, tt.want) {
			t.Errorf("%s: %+v, %v; want %v", name, l, err, tt.want)
		}
	}
}

func TestParseConfig(t *testing.T) {
	c := mustConfig(t, prettyConfig(tarDigest(0), tarDigest(1)))
	if FormatPlatform(c.Platform) != "linux/amd64" || len(c.DiffIDs) != 2 || c.DiffIDs[1] != tarDigest(1) ||
		len(c.History) != 3 || !c.History[0].EmptyLayer || c.RootFSType != "layers" {
		t.Errorf("%+v", c)
	}
	if c := mustConfig(t, "{}"); len(c.DiffIDs) != 0 {
		t.Errorf("the empty config: %+v", c)
	}
	for name, raw := range map[string]string{
		"not JSON":     "x",
		"rootfs twice": `{"rootfs":{},"rootfs":{}}`,
		"RootFS":       `{"RootFS":{}}`,
		"Diff_IDs":     `{"rootfs":{"Diff_IDs":[]}}`,
		"bad diff id":  `{"rootfs":{"diff_ids":["sha256:1"]}}`,
		"no strings":   `{"rootfs":{"diff_ids":[1]}}`,
		"no object":    `{"rootfs":[]}`,
		"too big":      "{}" + strings.Repeat(" ", int(MaxConfigSize)),
	} {
		if c, err := ParseConfig([]byte(raw)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func TestCovered(t *testing.T) {
	foo := []byte("foo")
	for d, want := range map[digest.Digest]error{
		someDigest:                      nil,
		digest.SHA512.FromString("foo"): nil,
		digest.SHA384.FromString("foo"): nil,
		digest.FromString("bar"):        ErrDigestMismatch,
		"":                              ErrMalformed,
		"sha256:":                       ErrMalformed,
		"sha256:../../etc/passwd":       ErrMalformed,
		"sha256:" + digest.Digest(strings.ToUpper(someDigest[7:])): ErrMalformed,
		"sha3:abcd": ErrUnsupported,
	} {
		got, err := Covered(foo, d)
		if !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("%s: %v, want %v", d, err, want)
		}
		if bytes.Equal(got, foo) != (err == nil) {
			t.Errorf("%s: %q with %v", d, got, err)
		}
	}
}

func TestChainIDs(t *testing.T) {
	a, b, c := tarDigest(0), tarDigest(1), tarDigest(2)
	ab := digest.FromString(string(a) + " " + string(b))
	want := []digest.Digest{a, ab, digest.FromString(string(ab) + " " + string(c))}
	in := []digest.Digest{a, b, c}
	got := ChainIDs(in)
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%d: %s, want %s", i, got[i], want[i])
		}
	}
	if in[1] != b || len(ChainIDs(nil)) != 0 {
		t.Error("the argument was changed")
	}
}

func TestMediaTypes(t *testing.T) {
	for in, want := range map[string]string{
		v1.MediaTypeImageLayer: None, v1.MediaTypeImageLayerGzip: Gzip, v1.MediaTypeImageLayerZstd: Zstd,
		dockerLayer: None, dockerLayerGzip: Gzip, dockerLayerZstd: Zstd, dockerForeignGzip: Gzip, ociNondistributableZ: Zstd,
	} {
		if got, err := Compression(in); got != want || err != nil || !IsLayer(in) {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", SentinelTypeOCI, SentinelTypeUpstream, v1.MediaTypeImageConfig, v1.MediaTypeImageLayerGzip + "+encrypted"} {
		if got, err := Compression(in); !errors.Is(err, ErrUnsupported) || IsLayer(in) {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{DockerManifest, DockerList, DockerConfig, dockerLayer, dockerLayerGzip, dockerForeign, dockerForeignGzip} {
		if back, err := ToDocker(ToOCI(in)); back != in || err != nil || ToOCI(in) == in {
			t.Errorf("%s: %s, %v", in, back, err)
		}
	}
	for _, in := range []string{v1.MediaTypeImageLayerZstd, dockerLayerZstd, SentinelTypeOCI, SentinelTypeUpstream, "a/b"} {
		if got, err := ToDocker(in); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}

// A few MiB of tiny items would become hundreds of MiB in memory.
func TestTooManyItems(t *testing.T) {
	var keys strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&keys, `"%x":1,`, i)
	}
	parseManifest := func(raw string) error { _, err := ParseManifest([]byte(raw), ""); return err }
	parseConfig := func(raw string) error { _, err := ParseConfig([]byte(raw)); return err }
	for _, tt := range []struct {
		name  string
		parse func(string) error
		raw   string
	}{
		{"keys of a manifest", parseManifest, `{"schemaVersion":2,` + keys.String() + `"config":{}}`},
		{"keys of a config", parseConfig, `{` + keys.String() + `"rootfs":{}}`},
		{"history", parseConfig, `{"history":[` + strings.Repeat("{},", 100_000) + `{}]}`},
	} {
		if err := tt.parse(tt.raw); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: %.200v", tt.name, err)
		}
	}
}
