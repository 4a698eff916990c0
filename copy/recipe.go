package copy

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/gzipv1"
	"github.com/tocsin/tocsin/manifest"
)

// What can be made of an archive's plain layers: nothing, or what an encoder that never changes makes of them.
const (
	recipeNone = "none"
	recipeGzip = gzipv1.Name
)

// ParseRecipe checks the value of --recipe.
func ParseRecipe(s string) (string, error) {
	if !slices.Contains([]string{"", recipeNone, recipeGzip}, s) {
		return "", fmt.Errorf("recipe %q is neither %s nor %s: %w", s, recipeGzip, recipeNone, ErrUsage)
	}
	return s, nil
}

// savedLayer is a layer's file in an archive that has no manifest.
type savedLayer struct {
	compression string // by its first bytes
	size        int64
	digest      digest.Digest // of a compressed one
}

// describeSaved makes the manifest of an image whose layers stay the bytes they are. A plain tar is its own diffID; media
// types follow the bytes. The same archive always gives the same manifest. It is pure.
func describeSaved(c *manifest.Config, layers []savedLayer) (document, *manifest.Manifest, error) {
	if len(c.DiffIDs) != len(layers) {
		return document{}, nil, fmt.Errorf("%d layers, but the config has %d diffIDs: %w", len(layers), len(c.DiffIDs), manifest.ErrMalformed)
	}
	out := v1.Manifest{MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	out.SchemaVersion = 2
	out.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: c.Digest, Size: int64(len(c.Raw))}
	for i, l := range layers {
		d := v1.Descriptor{MediaType: layerMediaType(l.compression), Digest: l.digest, Size: l.size}
		if l.compression == algoNone {
			d.Digest = c.DiffIDs[i]
		}
		out.Layers = append(out.Layers, d)
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return document{}, nil, err
	}
	m, err := manifest.ParseManifest(raw, out.MediaType)
	return made(raw, out.MediaType), m, err
}

// expected refuses an outcome that was not.
func (o *Options) expected(top document) error {
	if o.Push.Expect == "" || top.digest == o.Push.Expect {
		return nil
	}
	return fmt.Errorf("%s was expected, but the outcome is %s: %w", o.Push.Expect, top.digest, ErrExpect)
}

// intoRecipe is what the options become for an image that was made here of an archive's files. It is pure.
func intoRecipe(o *Options) (*Options, error) {
	if o.Push.Recipe == "" {
		return o, nil
	}
	if o.Compress.Algorithm != "" || o.Sentinel != "" && o.Sentinel != sentinelNone {
		return nil, fmt.Errorf("--recipe and --uncompressed say what becomes of the layers, so they do not go with --compress and --sentinel: %w", ErrUsage)
	}
	c := *o
	if o.Push.Recipe == recipeGzip {
		c.Compress = Compression{Algorithm: recipeGzip}
	}
	return &c, nil
}
