package policy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

// Format is the kind of a signature.
type Format string

// The formats. Sigstore's name is also the one in its blob form.
const (
	FormatSimple   Format = "simple-signing"
	FormatSigstore Format = "sigstore-json"
)

// Names that cosign gives to its signatures (cosign's SPEC.md).
const (
	MediaTypeSigstore   = "application/vnd.dev.cosign.simplesigning.v1+json"
	AnnotationSignature = "dev.cosignproject.cosign/signature"
)

// MaxSignatureSize bounds one signature in its blob form, in bytes, and the
// payload in an attachment; containers/image has the same.
const MaxSignatureSize = 4 << 20

// Signature is one signature as it lies beside an image. Nothing in it is
// verified. It is immutable: nobody may write to what its methods return.
type Signature struct {
	format      Format
	blob        []byte // simple: the OpenPGP message; sigstore: as it came, or nil
	mediaType   string // sigstore
	payload     []byte
	annotations map[string]string
}

// NewSimple returns the simple signing signature with this OpenPGP message.
func NewSimple(message []byte) Signature {
	return Signature{format: FormatSimple, blob: message}
}

// NewSigstore returns the sigstore signature that a layer of an attachment
// is: its media type, content and annotations.
func NewSigstore(mediaType string, payload []byte, annotations map[string]string) Signature {
	return Signature{format: FormatSigstore, mediaType: mediaType, payload: payload, annotations: annotations}
}

// sigstoreJSON is the blob form behind its prefix, with the field order of
// containers/image, so that the same signature gives the same bytes.
type sigstoreJSON struct {
	MediaType   string            `json:"mimeType"`
	Payload     []byte            `json:"payload"`
	Annotations map[string]string `json:"annotations"`
}

// ParseSignature reads the form in which signatures are kept in files and
// stores (spec/lists-and-store.md L29): an OpenPGP message, or NUL, the name of
// a format, newline and that format. Other formats are manifest.ErrUnsupported,
// everything else manifest.ErrMalformed.
func ParseSignature(blob []byte) (Signature, error) {
	s, err := parseSignature(blob)
	if err != nil {
		return Signature{}, fmt.Errorf("signature blob: %w", err)
	}
	return s, nil
}

func parseSignature(blob []byte) (Signature, error) {
	if len(blob) > MaxSignatureSize {
		return Signature{}, malformed("%d bytes are more than %d", len(blob), MaxSignatureSize)
	}
	if len(blob) > 0 && openPGPStart(blob[0]) {
		return NewSimple(blob), nil
	}
	rest, ok := bytes.CutPrefix(blob, []byte{0})
	if !ok {
		return Signature{}, malformed("neither an OpenPGP message nor a named format")
	}
	name, body, ok := bytes.Cut(rest, []byte{'\n'})
	if !ok {
		return Signature{}, malformed("no end of the format's name")
	}
	switch Format(name) {
	case FormatSimple:
		if len(body) == 0 || !openPGPStart(body[0]) {
			return Signature{}, malformed("no OpenPGP message")
		}
		return NewSimple(body), nil
	case FormatSigstore:
		return parseSigstoreBlob(blob, body)
	}
	return Signature{}, unsupported("format %.100q", name)
}

// openPGPStart reports whether a signed message can begin with this byte: a
// packet (bit 7) with the tag of a signature, a one-pass signature or
// compressed data, in the old form of the header or the new.
func openPGPStart(b byte) bool {
	if b&0x80 == 0 {
		return false
	}
	tag := b & 0x3f
	if b&0x40 == 0 {
		tag >>= 2
	}
	return tag == 2 || tag == 4 || tag == 8
}

func parseSigstoreBlob(blob, body []byte) (Signature, error) {
	o, err := parseObject(body)
	if err != nil {
		return Signature{}, err
	}
	if err := o.exactly("mimeType", "payload", "annotations"); err != nil {
		return Signature{}, err
	}
	if string(o["annotations"]) != "null" {
		if _, err := o.object("annotations"); err != nil {
			return Signature{}, err
		}
	}
	var s sigstoreJSON
	if err := json.Unmarshal(body, &s); err != nil {
		return Signature{}, malformed("%v", err)
	}
	sig := NewSigstore(s.MediaType, s.Payload, s.Annotations)
	sig.blob = blob
	return sig, nil
}

// Blob returns the form that ParseSignature reads; what was parsed comes back
// byte for byte, except that a simple signature never has a prefix.
func (s Signature) Blob() ([]byte, error) {
	if s.blob != nil || s.format == FormatSimple {
		return s.blob, nil
	}
	body, err := json.Marshal(sigstoreJSON{s.mediaType, s.payload, s.annotations})
	if err != nil {
		return nil, fmt.Errorf("signature blob: %w", err)
	}
	return append([]byte("\x00"+string(FormatSigstore)+"\n"), body...), nil
}

// Format returns the kind of the signature; "" for the zero value.
func (s Signature) Format() Format { return s.format }

// Payload returns the content of a sigstore signature's layer, nil for others.
func (s Signature) Payload() []byte { return s.payload }

// Layer returns the descriptor that a sigstore signature has in an attachment;
// the zero value for others.
func (s Signature) Layer() v1.Descriptor {
	if s.format != FormatSigstore {
		return v1.Descriptor{}
	}
	return v1.Descriptor{
		MediaType:   s.mediaType,
		Digest:      digest.FromBytes(s.payload),
		Size:        int64(len(s.payload)),
		Annotations: maps.Clone(s.annotations),
	}
}

// SignatureOfLayer returns the signature that a layer of an attachment is,
// after comparing the content with the layer's digest and size.
func SignatureOfLayer(layer v1.Descriptor, content []byte) (Signature, error) {
	content, err := manifest.Covered(content, layer.Digest)
	switch {
	case err != nil:
		return Signature{}, fmt.Errorf("signature layer: %w", err)
	case int64(len(content)) != layer.Size:
		return Signature{}, fmt.Errorf("signature layer %s: %w", layer.Digest, malformed("%d bytes, the manifest says %d", len(content), layer.Size))
	case len(content) > MaxSignatureSize:
		return Signature{}, fmt.Errorf("signature layer %s: %w", layer.Digest, malformed("%d bytes are more than %d", len(content), MaxSignatureSize))
	}
	return NewSigstore(layer.MediaType, content, layer.Annotations), nil
}
