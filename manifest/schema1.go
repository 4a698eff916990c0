package manifest

import (
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
// Config makes one. Its JWS signatures prove nothing, because their keys come
// with them; CoveredDocument takes them out.
type Schema1 struct {
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

// ParseSchema1 reads a manifest of schema 1 that has no signatures in it (see
// CoveredDocument). Errors are ErrMalformed, and those of ValidDigest.
func ParseSchema1(raw []byte) (*Schema1, error) {
	if int64(len(raw)) > MaxManifestSize {
		return nil, fmt.Errorf("schema 1: %w: %d bytes, limit %d", ErrMalformed, len(raw), MaxManifestSize)
	}
	o, err := root(raw, documentFields)
	if err != nil {
		return nil, fmt.Errorf("schema 1: %w", err)
	}
	for _, name := range []string{"manifests", "config", "layers", "signatures"} {
		if o.index(name) >= 0 {
			return nil, fmt.Errorf("schema 1: %w: %q in it", ErrMalformed, name)
		}
	}
	s := &Schema1{}
	if err := s.parse(o); err != nil {
		return nil, fmt.Errorf("schema 1: %w", err)
	}
	return s, nil
}

func (s *Schema1) parse(o *object) error {
	var schema int
	var mediaType string
	for name, v := range map[string]any{"schemaVersion": &schema, "mediaType": &mediaType, "architecture": &s.Architecture} {
		if err := o.decode(name, v); err != nil {
			return err
		}
	}
	layers, err := eachString(o, "fsLayers", "blobSum")
	if err != nil {
		return err
	}
	history, err := eachString(o, "history", "v1Compatibility")
	if err != nil {
		return err
	}
	if schema != 1 || len(layers) == 0 || len(layers) != len(history) {
		return fmt.Errorf("%w: schemaVersion %d, %d layers, %d history entries", ErrMalformed, schema, len(layers), len(history))
	}
	if !isSchema1Type(mediaType) {
		return fmt.Errorf("%w: it says it is %.100q", ErrMalformed, mediaType)
	}
	for i := len(layers) - 1; i >= 0; i-- { // the top comes first there
		l, err := parseSchema1Layer([]byte(history[i]))
		if err != nil {
			return fmt.Errorf("history %d: %w", i, err)
		}
		d := digest.Digest(layers[i])
		if err := ValidDigest(d); err != nil {
			return err
		}
		s.All = append(s.All, d)
		if !l.v1.Throwaway {
			s.Blobs = append(s.Blobs, d)
		}
		s.history = append(s.history, l)
	}
	return nil
}

// isSchema1Type says that a manifest of schema 1 may say this of itself.
func isSchema1Type(mediaType string) bool {
	return mediaType == "" || mediaType == DockerSchema1 || mediaType == DockerSchema1Signed
}

// eachString returns the string under key of each object in the array list.
func eachString(o *object, list, key string) ([]string, error) {
	at, ok := o.get(list)
	if !ok {
		return nil, nil
	}
	spans, err := elems(o.raw, at)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", list, err)
	}
	out := make([]string, len(spans))
	for i, s := range spans {
		e, err := objectAt(o.raw, s, []string{key})
		if err != nil {
			return nil, fmt.Errorf("%s %d: %w", list, i, err)
		}
		if err := e.decode(key, &out[i]); err != nil {
			return nil, fmt.Errorf("%s %d: %w", list, i, err)
		}
	}
	return out, nil
}

var compatFields = slices.Concat(notInConfig, configFields, []string{"created", "author", "comment", "container_config"})

func parseSchema1Layer(raw []byte) (schema1Layer, error) {
	l := schema1Layer{raw: raw}
	o, err := root(raw, compatFields)
	if err != nil {
		return l, err
	}
	if c, ok := o.get("container_config"); ok {
		if _, err := objectAt(raw, c, []string{"Cmd"}); err != nil {
			return l, fmt.Errorf("container_config: %w", err)
		}
	}
	if err := json.Unmarshal(raw, &l.v1); err != nil {
		return l, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return l, nil
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
