package copy

import (
	"encoding/json"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// unknownManifest is what manifests of other types than an image's have in common: ORAS and early OCI artifacts name
// their content so. The three last fields belong to documents whose content is named in another way.
type unknownManifest struct {
	MediaType string
	Config    *v1.Descriptor
	Layers    []v1.Descriptor
	Blobs     []v1.Descriptor
	Subject   json.RawMessage // what it is about, and not a part of it
	Manifests json.RawMessage
	FSLayers  json.RawMessage
}

// blobsOfUnknown lists what a manifest of a type that tocsin does not know needs beside it, so that it can be copied as
// it is (rule 12). ErrUnsupported when nobody can tell, as of Docker's schema 1.
func blobsOfUnknown(raw []byte) ([]v1.Descriptor, error) {
	if int64(len(raw)) > manifest.MaxManifestSize {
		return nil, fmt.Errorf("%d bytes: %w", len(raw), manifest.ErrMalformed)
	}
	var m unknownManifest
	if err := manifest.Decode(raw, &m, "mediaType", "config", "layers", "blobs", "subject", "manifests", "fsLayers"); err != nil {
		return nil, err
	}
	if manifest.IsManifest(m.MediaType) || manifest.IsList(m.MediaType) {
		return nil, fmt.Errorf("it calls itself %s: %w", m.MediaType, manifest.ErrMalformed)
	}
	if m.Manifests != nil || m.FSLayers != nil || m.Config == nil && m.Layers == nil && m.Blobs == nil {
		return nil, fmt.Errorf("it does not say which blobs it has: %w", manifest.ErrUnsupported)
	}
	blobs := append(m.Layers, m.Blobs...)
	if m.Config != nil {
		blobs = append(blobs, *m.Config)
	}
	for _, d := range blobs {
		if err := manifest.ValidDigest(d.Digest); err != nil {
			return nil, err
		}
		if d.Size < 0 {
			return nil, fmt.Errorf("blob %s of %d bytes: %w", d.Digest, d.Size, manifest.ErrMalformed)
		}
	}
	return blobs, nil
}
