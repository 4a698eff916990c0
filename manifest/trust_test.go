package manifest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	splittar "github.com/vbatts/tar-split/archive/tar"
)

func TestSentinelContent(t *testing.T) { // S1, S33, rule 66
	b := SentinelContent()
	if len(b) != SentinelSize || b[0] != 0 {
		t.Errorf("%d bytes, first %x", len(b), b[0])
	}
	for _, d := range []digest.Digest{SentinelDigest, SentinelDigest512} {
		if _, err := Covered(b, d); err != nil || !IsSentinelDigest(d) {
			t.Error(err)
		}
	}
	if !strings.Contains(string(b), "must be consumed using the TOC digests and NEVER as a tar archive") {
		t.Error("it does not explain itself")
	}
	if _, err := tar.NewReader(bytes.NewReader(b)).Next(); err == nil || err == io.EOF {
		t.Errorf("archive/tar reads it: %v", err)
	}
	if _, err := splittar.NewReader(bytes.NewReader(b)).Next(); err == nil || err == io.EOF {
		t.Errorf("tar-split reads it: %v", err)
	}
	if IsSentinelDigest(legacySentinel) || digest.FromString("zstd:chunked") != legacySentinel {
		t.Error("the legacy sentinel")
	}
	for _, mediaType := range []string{SentinelTypeOCI, SentinelTypeUpstream} {
		if d := SentinelDescriptor(mediaType, digest.SHA512); d.Digest != SentinelDigest512 || d.Size != 512 || d.MediaType != mediaType || !IsSentinelType(mediaType) || IsLayer(mediaType) {
			t.Errorf("%+v", d)
		}
	}
	if d := SentinelDescriptor(SentinelTypeOCI, digest.SHA384).Digest; d != SentinelDigest {
		t.Errorf("sha384: %s", d)
	}
}

func gzipLayer() v1.Descriptor {
	return v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: someDigest, Size: 100}
}

func withoutSplit(l v1.Descriptor) v1.Descriptor {
	delete(l.Annotations, annTarSplit)
	return l
}

func TestNewImageTrust(t *testing.T) { eachType(t, testNewImageTrust) }

func testNewImageTrust(t *testing.T, mediaType string) {
	sentinel := SentinelDescriptor(mediaType, digest.SHA256)
	for name, tt := range map[string]struct {
		layers   []v1.Descriptor
		diffIDs  []digest.Digest
		trust    Trust
		bound    bool
		bindings []Binding
	}{
		"no layers":       {nil, nil, TarOnly, false, nil},
		"gzip":            {[]v1.Descriptor{gzipLayer()}, []digest.Digest{tarDigest(0)}, TarOnly, false, []Binding{BindTar}},
		"chunked":         {[]v1.Descriptor{chunkedLayer(0)}, []digest.Digest{tarDigest(0)}, TOCUnbound, false, []Binding{BindTar}},
		"chunked and gz":  {[]v1.Descriptor{chunkedLayer(0), gzipLayer()}, []digest.Digest{tarDigest(0), tarDigest(1)}, TarOnly, false, []Binding{BindTar, BindTar}},
		"no tar-split":    {[]v1.Descriptor{withoutSplit(chunkedLayer(0))}, []digest.Digest{tarDigest(0)}, TarOnly, false, []Binding{BindTar}},
		"TOC too big":     {[]v1.Descriptor{edited(annTOCPosition, "925:852:1073741825:1")}, []digest.Digest{tarDigest(0)}, TarOnly, false, []Binding{BindTar}},
		"TOC ids, plain":  {[]v1.Descriptor{chunkedLayer(0)}, []digest.Digest{tocDigest(0)}, TOCUnbound, false, []Binding{BindTar}},
		"sentinel alone":  {[]v1.Descriptor{sentinel}, []digest.Digest{SentinelDigest}, TOCOnly, true, []Binding{BindSentinel}},
		"upstream":        {[]v1.Descriptor{sentinel, chunkedLayer(0), chunkedLayer(1)}, []digest.Digest{SentinelDigest, tarDigest(0), tarDigest(1)}, TOCOnly, false, []Binding{BindSentinel, BindTar, BindTar}},
		"chain-bound":     {[]v1.Descriptor{sentinel, chunkedLayer(0), chunkedLayer(1)}, []digest.Digest{SentinelDigest, tocDigest(0), tocDigest(1)}, TOCOnly, true, []Binding{BindSentinel, BindTOC, BindTOC}},
		"no split, bound": {[]v1.Descriptor{sentinel, withoutSplit(chunkedLayer(0))}, []digest.Digest{SentinelDigest, tocDigest(0)}, TOCOnly, true, []Binding{BindSentinel, BindTOC}},
		"sha512":          {[]v1.Descriptor{SentinelDescriptor(mediaType, digest.SHA512), chunkedLayer(0)}, []digest.Digest{SentinelDigest512, tocDigest(0)}, TOCOnly, true, []Binding{BindSentinel, BindTOC}},
		"a layer twice":   {[]v1.Descriptor{sentinel, chunkedLayer(0), chunkedLayer(0)}, []digest.Digest{SentinelDigest, tocDigest(0), tocDigest(0)}, TOCOnly, true, []Binding{BindSentinel, BindTOC, BindTOC}},
	} {
		im, err := newImage(t, tt.layers, tt.diffIDs)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if im.Trust != tt.trust || im.ChainBound != tt.bound || im.Sentinel() != (tt.trust == TOCOnly) || len(im.Layers) != len(tt.layers) {
			t.Errorf("%s: trust %v, chain-bound %v, %d layers", name, im.Trust, im.ChainBound, len(im.Layers))
		}
		for i, b := range tt.bindings {
			if im.Binding(i) != b || im.Layers[i].DiffID != tt.diffIDs[i] {
				t.Errorf("%s: layer %d: %v %s", name, i, im.Binding(i), im.Layers[i].DiffID)
			}
		}
		if data := im.DataLayers(); im.Sentinel() && (len(data) != len(tt.layers)-1 || (len(data) > 0 && data[0].Digest != tt.layers[1].Digest)) {
			t.Errorf("%s: data layers %v", name, data)
		}
	}
}

// Everything that has one mark of a sentinel without all of them is refused,
// and one can tell from the message which rule it broke.
// S2, S4
func TestNewImageSentinelRules(t *testing.T) { eachType(t, testNewImageSentinelRules) }

func testNewImageSentinelRules(t *testing.T, mediaType string) {
	sentinel := SentinelDescriptor(mediaType, digest.SHA256)
	with := func(change func(*v1.Descriptor)) v1.Descriptor { d := sentinel; change(&d); return d }
	other := with(func(d *v1.Descriptor) {
		if d.MediaType = SentinelTypeOCI; mediaType == SentinelTypeOCI {
			d.MediaType = SentinelTypeUpstream
		}
	})
	tarLike := with(func(d *v1.Descriptor) { d.MediaType = v1.MediaTypeImageLayer })
	seen := make(map[string]string)
	for name, tt := range map[string]struct {
		layers  []v1.Descriptor
		diffIDs []digest.Digest
	}{
		"zstd on top of it":    {[]v1.Descriptor{with(func(d *v1.Descriptor) { d.MediaType += "+zstd" }), chunkedLayer(0)}, []digest.Digest{SentinelDigest, tarDigest(0)}},
		"type at index 1":      {[]v1.Descriptor{chunkedLayer(0), sentinel}, []digest.Digest{tarDigest(0), SentinelDigest}},
		"other digest":         {[]v1.Descriptor{with(func(d *v1.Descriptor) { d.Digest = someDigest }), chunkedLayer(0)}, []digest.Digest{someDigest, tarDigest(0)}},
		"tar layer type":       {[]v1.Descriptor{tarLike, chunkedLayer(0)}, []digest.Digest{SentinelDigest, tarDigest(0)}},
		"size":                 {[]v1.Descriptor{with(func(d *v1.Descriptor) { d.Size = 511 }), chunkedLayer(0)}, []digest.Digest{SentinelDigest, tarDigest(0)}},
		"diff_ids[0]":          {[]v1.Descriptor{sentinel, chunkedLayer(0)}, []digest.Digest{tarDigest(9), tarDigest(0)}},
		"legacy content":       {[]v1.Descriptor{with(func(d *v1.Descriptor) { d.Digest, d.Size = legacySentinel, 12 }), chunkedLayer(0)}, []digest.Digest{legacySentinel, tarDigest(0)}},
		"encrypted":            {[]v1.Descriptor{with(func(d *v1.Descriptor) { d.Annotations = map[string]string{encryptionPrefix + "keys.jwe": "x"} }), chunkedLayer(0)}, []digest.Digest{SentinelDigest, tarDigest(0)}},
		"tar with the diff_id": {[]v1.Descriptor{chunkedLayer(0)}, []digest.Digest{SentinelDigest}},
		"a layer without TOC":  {[]v1.Descriptor{sentinel, gzipLayer()}, []digest.Digest{SentinelDigest, tarDigest(0)}},
		"a TOC too big":        {[]v1.Descriptor{sentinel, edited(annTOCPosition, "925:852:1073741825:1")}, []digest.Digest{SentinelDigest, tarDigest(0)}},
		"mixture":              {[]v1.Descriptor{sentinel, chunkedLayer(0), chunkedLayer(1)}, []digest.Digest{SentinelDigest, tocDigest(0), tarDigest(1)}},
		"twice":                {[]v1.Descriptor{sentinel, sentinel, chunkedLayer(0)}, []digest.Digest{SentinelDigest, SentinelDigest, tocDigest(0)}},
		"twice, both types":    {[]v1.Descriptor{sentinel, chunkedLayer(0), other}, []digest.Digest{SentinelDigest, tocDigest(0), SentinelDigest}},
		"swapped TOC ids":      {[]v1.Descriptor{sentinel, chunkedLayer(0), chunkedLayer(1), chunkedLayer(2)}, []digest.Digest{SentinelDigest, tocDigest(0), tocDigest(2), tocDigest(1)}},
	} {
		im, err := newImage(t, tt.layers, tt.diffIDs)
		if !errors.Is(err, ErrSentinel) {
			t.Errorf("%s: %+v, %v", name, im, err)
			continue
		}
		_, text, _ := strings.Cut(err.Error(), ErrSentinel.Error())
		if other, ok := seen[text]; ok {
			t.Errorf("%s and %s give the same error: %s", name, other, text)
		}
		seen[text] = name
	}
	if len(seen) != 15 {
		t.Errorf("%d distinct errors", len(seen))
	}
}

func TestNewImageRefuses(t *testing.T) {
	config := prettyConfig(tarDigest(0))
	good := manifestOf(v1.MediaTypeImageManifest, config, chunkedLayer(0))
	for name, tt := range map[string]struct {
		manifest, config string
		want             error
	}{
		"another config":   {good, prettyConfig(tarDigest(1)), ErrDigestMismatch},
		"too few ids":      {manifestOf(v1.MediaTypeImageManifest, config, chunkedLayer(0), chunkedLayer(1)), config, ErrMalformed},
		"too many ids":     {manifestOf(v1.MediaTypeImageManifest, config), config, ErrMalformed},
		"encrypted layer":  {strings.Replace(good, v1.MediaTypeImageLayerZstd, v1.MediaTypeImageLayerZstd+"+encrypted", 1), config, ErrUnsupported},
		"broken TOC":       {strings.Replace(good, "925:852:2507:1", "925:852:2507:1x", 1), config, ErrMalformed},
		"docker, upstream": {manifestOf(DockerManifest, prettyConfig(SentinelDigest), SentinelDescriptor(SentinelTypeUpstream, "")), prettyConfig(SentinelDigest), ErrSentinel},
		"docker, OCI type": {manifestOf(DockerManifest, prettyConfig(SentinelDigest), SentinelDescriptor(SentinelTypeOCI, "")), prettyConfig(SentinelDigest), ErrSentinel},
	} {
		im, err := NewImage(mustManifest(t, tt.manifest), mustConfig(t, tt.config))
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %+v, %v; want %v", name, im, err, tt.want)
		}
	}
	odd := strings.Replace(config, `"layers"`, `"other"`, 1)
	if _, err := NewImage(mustManifest(t, manifestOf(v1.MediaTypeImageManifest, odd, chunkedLayer(0))), mustConfig(t, odd)); !errors.Is(err, ErrUnsupported) {
		t.Errorf("rootfs type: %v", err)
	}
}

// Docker's descriptors have no annotations, so a TOC in them is none.
func TestNewImageDockerHasNoTOC(t *testing.T) {
	config := prettyConfig(tarDigest(0))
	im, err := NewImage(mustManifest(t, manifestOf(DockerManifest, config, chunkedLayer(0))), mustConfig(t, config))
	if err != nil || im.Trust != TarOnly || im.Layers[0].TOC != nil {
		t.Errorf("%+v, %v", im, err)
	}
}

func TestFirstUnprovable(t *testing.T) {
	im, err := newImage(t, []v1.Descriptor{chunkedLayer(0), gzipLayer()}, []digest.Digest{tarDigest(0), tarDigest(1)})
	if err != nil || im.FirstUnprovable() != 1 {
		t.Errorf("%d, %v", im.FirstUnprovable(), err)
	}
	im, err = newImage(t, []v1.Descriptor{SentinelDescriptor(SentinelTypeUpstream, ""), withoutSplit(chunkedLayer(0))}, []digest.Digest{SentinelDigest, tarDigest(0)})
	if err != nil || im.FirstUnprovable() != 1 {
		t.Errorf("%d, %v", im.FirstUnprovable(), err)
	}
	if i := chunkedImage(t, 2).FirstUnprovable(); i != -1 {
		t.Error(i)
	}
}

func TestZeroValuesAreInvalid(t *testing.T) {
	var tr Trust
	var b Binding
	if tr.String() != "invalid" || b.String() != "invalid" {
		t.Error(tr, b)
	}
	want := "TarOnly TOCUnbound TOCOnly BindSentinel BindTar BindTOC"
	if got := fmt.Sprint(TarOnly, TOCUnbound, TOCOnly, BindSentinel, BindTar, BindTOC); strings.Join(strings.Fields(got), " ") != want {
		t.Error(got)
	}
}
