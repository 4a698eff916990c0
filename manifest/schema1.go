package manifest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Schema1 is a manifest of Docker's schema 1, which is read and never
// written. It has no sizes, no diff ids and no configuration of its own:
// Config makes one. What its JWS signatures are worth nobody can say, because
// their keys came with them; they are cut off and not looked at.
type Schema1 struct {
	Raw          []byte
	Architecture string
	Blobs        []digest.Digest // of layers that have content, bottom to top
	All          []digest.Digest // of all layers

	history []schema1Layer // bottom to top, of all layers
}

type schema1Layer struct {
	raw []byte // the v1Compatibility document
	v1  schema1Compat
}

// schema1Compat is what a layer's own document says of how it was made.
type schema1Compat struct {
	Created         *time.Time `json:"created"`
	Author          string     `json:"author"`
	Comment         string     `json:"comment"`
	Throwaway       bool       `json:"throwaway"`
	ContainerConfig struct {
		Cmd []string
	} `json:"container_config"`
}

// CheckManifest is CheckBytes for a manifest: a signed one of schema 1 is
// named by the digest of what was signed, and not of its bytes.
func CheckManifest(raw []byte, want digest.Digest) error {
	err := CheckBytes(raw, want)
	if err == nil || GuessMediaType(raw) != DockerSchema1Signed {
		return err
	}
	payload, bad := schema1Payload(raw)
	if bad != nil || CheckBytes(payload, want) != nil {
		return err
	}
	return nil
}

// DigestOf is the name of a manifest in sha256: that of its bytes, and of a
// signed one of schema 1 that of what was signed.
func DigestOf(raw []byte) digest.Digest {
	if GuessMediaType(raw) == DockerSchema1Signed {
		if payload, err := schema1Payload(raw); err == nil {
			return digest.FromBytes(payload)
		}
	}
	return digest.FromBytes(raw)
}

// schema1Payload is what the signatures of a schema 1 manifest sign: its bytes
// up to where they were put in, and what stood behind that place.
func schema1Payload(raw []byte) ([]byte, error) {
	var doc struct {
		Signatures []struct{ Protected string }
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if len(doc.Signatures) == 0 {
		return nil, fmt.Errorf("%w: no signatures", ErrMalformed)
	}
	var first []byte
	for i, s := range doc.Signatures {
		payload, err := protectedPayload(raw, s.Protected)
		if err != nil {
			return nil, err
		}
		if i > 0 && !bytes.Equal(first, payload) {
			return nil, fmt.Errorf("%w: signatures of different contents", ErrMalformed)
		}
		first = payload
	}
	return first, nil
}

func protectedPayload(raw []byte, protected string) ([]byte, error) {
	header, err := base64.RawURLEncoding.DecodeString(protected)
	if err != nil {
		return nil, fmt.Errorf("%w: protected header: %w", ErrMalformed, err)
	}
	var h struct {
		FormatLength int    `json:"formatLength"`
		FormatTail   string `json:"formatTail"`
	}
	if err := json.Unmarshal(header, &h); err != nil {
		return nil, fmt.Errorf("%w: protected header: %w", ErrMalformed, err)
	}
	tail, err := base64.RawURLEncoding.DecodeString(h.FormatTail)
	if err != nil || h.FormatLength <= 0 || h.FormatLength > len(raw) {
		return nil, fmt.Errorf("%w: protected header: format of %d bytes", ErrMalformed, h.FormatLength)
	}
	return append(slices.Clone(raw[:h.FormatLength]), tail...), nil
}

// ParseSchema1 reads a manifest of schema 1, signed or not. Errors are
// ErrMalformed, and those of ValidDigest.
func ParseSchema1(raw []byte) (*Schema1, error) {
	if int64(len(raw)) > MaxManifestSize {
		return nil, fmt.Errorf("schema 1: %w: %d bytes, limit %d", ErrMalformed, len(raw), MaxManifestSize)
	}
	o, err := root(raw, []string{"schemaVersion", "architecture", "fsLayers", "history", "signatures"})
	if err != nil {
		return nil, fmt.Errorf("schema 1: %w", err)
	}
	for _, name := range []string{"manifests", "config", "layers"} {
		if o.index(name) >= 0 {
			return nil, fmt.Errorf("schema 1: %w: %q in it", ErrMalformed, name)
		}
	}
	s := &Schema1{Raw: raw}
	if err := s.parse(o); err != nil {
		return nil, fmt.Errorf("schema 1: %w", err)
	}
	return s, nil
}

func (s *Schema1) parse(o *object) error {
	var schema int
	var layers []struct{ BlobSum digest.Digest }
	var history []struct{ V1Compatibility string }
	for name, v := range map[string]any{"schemaVersion": &schema, "architecture": &s.Architecture, "fsLayers": &layers, "history": &history} {
		if err := o.decode(name, v); err != nil {
			return err
		}
	}
	if schema != 1 || len(layers) == 0 || len(layers) != len(history) {
		return fmt.Errorf("%w: schemaVersion %d, %d layers, %d history entries", ErrMalformed, schema, len(layers), len(history))
	}
	for i := len(layers) - 1; i >= 0; i-- { // the top comes first there
		l := schema1Layer{raw: []byte(history[i].V1Compatibility)}
		if err := json.Unmarshal(l.raw, &l.v1); err != nil {
			return fmt.Errorf("history %d: %w: %w", i, ErrMalformed, err)
		}
		if err := ValidDigest(layers[i].BlobSum); err != nil {
			return err
		}
		s.All = append(s.All, layers[i].BlobSum)
		if !l.v1.Throwaway {
			s.Blobs = append(s.Blobs, layers[i].BlobSum)
		}
		s.history = append(s.history, l)
	}
	return nil
}

// notInConfig are the fields of the top layer's own document that say where
// it was in the first registry's chain of layers.
var notInConfig = []string{"id", "parent", "parent_id", "layer_id", "throwaway", "Size", "rootfs", "history"}

// Config makes the image's configuration: the top layer's own document, the
// digests of the tars in Blobs, and a history of all layers.
func (s *Schema1) Config(diffIDs []digest.Digest) ([]byte, error) {
	if len(diffIDs) != len(s.Blobs) {
		return nil, fmt.Errorf("schema 1: %w: %d diff_ids for %d layers", ErrMalformed, len(diffIDs), len(s.Blobs))
	}
	top := s.history[len(s.history)-1].raw
	o, err := root(top, nil)
	if err != nil {
		return nil, fmt.Errorf("schema 1: %w", err)
	}
	var history []v1.History
	for _, l := range s.history {
		history = append(history, v1.History{
			Created: l.v1.Created, Author: l.v1.Author, Comment: l.v1.Comment,
			CreatedBy: strings.Join(l.v1.ContainerConfig.Cmd, " "), EmptyLayer: l.v1.Throwaway,
		})
	}
	raw := o.without(notInConfig...)
	for _, f := range []struct {
		name  string
		value any
	}{{"history", history}, {"rootfs", v1.RootFS{Type: "layers", DiffIDs: slices.Concat([]digest.Digest{}, diffIDs)}}} {
		if o, err = root(raw, nil); err != nil {
			return nil, fmt.Errorf("schema 1: %w", err)
		}
		raw = splice(raw, o.set(f.name, marshal(f.value)))
	}
	return raw, nil
}
