package policy

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

// Attachment is the image in a registry that carries the sigstore signatures
// of another manifest, under AttachmentTag: each layer is one payload, its
// annotations are the signature.
type Attachment struct {
	Manifest []byte // OCI image manifest
	Config   []byte // OCI image config
}

// AttachmentLayers returns the layers of an attachment's manifest, each of
// them a signature (see SignatureOfLayer). Anything but an OCI image manifest
// is manifest.ErrUnsupported.
func AttachmentLayers(raw []byte) ([]v1.Descriptor, error) {
	m, err := parseAttachment(raw)
	if err != nil {
		return nil, err
	}
	return m.Layers, nil
}

func parseAttachment(raw []byte) (*manifest.Manifest, error) {
	m, err := manifest.ParseManifest(raw, "")
	if err != nil {
		return nil, fmt.Errorf("signature attachment: %w", err)
	}
	if m.MediaType != v1.MediaTypeImageManifest || m.Config.MediaType != v1.MediaTypeImageConfig {
		return nil, fmt.Errorf("signature attachment: %w", unsupported("manifest %s with config %.100q", m.MediaType, m.Config.MediaType))
	}
	return m, nil
}

// AddSignatures returns the attachment with those of sigs appended that are not
// in it yet, and these: their payloads are the blobs that old has not got.
// old is nil if the registry has none. What is there stays as it is and in
// its order; if nothing is added the result is old itself. A signature counts
// as there if a layer has its media type, size, digest and annotations
// (copy rule 59). Simple signatures are manifest.ErrUnsupported.
func AddSignatures(old *Attachment, sigs []Signature) (*Attachment, []Signature, error) {
	if old == nil {
		old = emptyAttachment()
	}
	m, err := parseAttachment(old.Manifest)
	if err != nil {
		return nil, nil, err
	}
	if int64(len(old.Config)) > manifest.MaxConfigSize {
		return nil, nil, fmt.Errorf("signature attachment: config: %w", malformed("%d bytes are more than %d", len(old.Config), manifest.MaxConfigSize))
	}
	if _, err := manifest.Covered(old.Config, m.Config.Digest); err != nil {
		return nil, nil, fmt.Errorf("signature attachment: config: %w", err)
	}
	layers, added, err := missing(m.Layers, sigs)
	if err != nil {
		return nil, nil, err
	}
	if len(added) == 0 {
		return old, nil, nil
	}
	out, err := old.extend(m, layers)
	if err != nil {
		return nil, nil, fmt.Errorf("signature attachment: %w", err)
	}
	return out, added, nil
}

// missing appends to have the layers of sigs that it lacks.
func missing(have []v1.Descriptor, sigs []Signature) ([]v1.Descriptor, []Signature, error) {
	layers := have[:len(have):len(have)]
	var added []Signature
	for _, sig := range sigs {
		if sig.Format() != FormatSigstore {
			return nil, nil, fmt.Errorf("signature attachment: %w", unsupported("a signature of the format %q", sig.Format()))
		}
		layer := sig.Layer()
		if hasLayer(layers, layer) {
			continue
		}
		layers = append(layers, layer)
		added = append(added, sig)
	}
	return layers, added, nil
}

func hasLayer(layers []v1.Descriptor, l v1.Descriptor) bool {
	for _, have := range layers {
		if have.MediaType == l.MediaType && have.Size == l.Size && have.Digest == l.Digest && maps.Equal(have.Annotations, l.Annotations) {
			return true
		}
	}
	return false
}

// extend returns the attachment with more layers than m, its parsed form, has.
func (a *Attachment) extend(m *manifest.Manifest, layers []v1.Descriptor) (*Attachment, error) {
	config, err := addDiffIDs(a.Config, layers[len(m.Layers):])
	if err != nil {
		return nil, err
	}
	// The rest of the descriptor (inline data, annotations) spoke of the old one.
	desc := v1.Descriptor{MediaType: m.Config.MediaType, Digest: digest.FromBytes(config), Size: int64(len(config))}
	raw, err := manifest.ReplaceLayers(m, desc, layers, "")
	if err != nil {
		return nil, err
	}
	return &Attachment{Manifest: raw, Config: config}, nil
}

// addDiffIDs appends to the config's rootfs. Payloads are not compressed, so a
// diff id is the layer's digest. Fields that are not touched keep their values.
func addDiffIDs(config []byte, layers []v1.Descriptor) ([]byte, error) {
	top, err := parseObject(config)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	rootfs, err := top.object("rootfs")
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	var ids []digest.Digest
	if err := json.Unmarshal(rootfs["diff_ids"], &ids); err != nil {
		return nil, fmt.Errorf("config: %w", malformed("diff_ids: %v", err))
	}
	for _, l := range layers {
		ids = append(ids, l.Digest)
	}
	if rootfs["diff_ids"], err = json.Marshal(ids); err != nil {
		return nil, err
	}
	if top["rootfs"], err = json.Marshal(rootfs); err != nil {
		return nil, err
	}
	return json.Marshal(top)
}

// emptyConfig has no time in it, so that the same signatures make the same
// attachment.
const emptyConfig = `{"architecture":"","config":{},"os":"","rootfs":{"diff_ids":[],"type":"layers"}}`

// emptyAttachment is one without signatures.
func emptyAttachment() *Attachment {
	raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[]}`,
		v1.MediaTypeImageManifest, v1.MediaTypeImageConfig, digest.FromString(emptyConfig), len(emptyConfig))
	return &Attachment{Manifest: []byte(raw), Config: []byte(emptyConfig)}
}
