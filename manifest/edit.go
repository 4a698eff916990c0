package manifest

import (
	"fmt"
	"reflect"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ReplaceLayers returns m with another config and other layers, for a copy
// that recompresses, converts or edits. mediaType is the type of the result:
// "" or m's own, or the other dialect's manifest type, and then the types of
// config, layers and document are converted, and annotations, subject and
// artifactType do not reach Docker schema 2. Fields that tocsin does not know
// survive; descriptors that do not change keep their bytes, and if nothing
// changes so does the document. What the dialect cannot say is ErrUnsupported.
func ReplaceLayers(m *Manifest, config v1.Descriptor, layers []v1.Descriptor, mediaType string) ([]byte, error) {
	if mediaType == "" {
		mediaType = m.MediaType
	}
	if !IsManifest(mediaType) {
		return nil, fmt.Errorf("manifest %s as %q: %w", m.Digest, mediaType, ErrUnsupported)
	}
	all := append([]v1.Descriptor{config}, layers...)
	if err := checkDescriptors(all); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	if mediaType != m.MediaType {
		if err := convertAll(all, mediaType); err != nil {
			return nil, fmt.Errorf("manifest %s as %s: %w", m.Digest, mediaType, err)
		}
	}
	o, err := root(m.Raw, manifestFields)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	return replaceLayers(m, o, all, mediaType)
}

// NewManifest returns the bytes of a new image manifest of a type that
// IsManifest knows.
func NewManifest(config v1.Descriptor, layers []v1.Descriptor, mediaType string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":%s,"layers":%s}`, mediaType, marshal(config), array(marshalAll(layers)))
}

// replaceLayers splices; all is the config and then the layers.
func replaceLayers(m *Manifest, o *object, all []v1.Descriptor, mediaType string) ([]byte, error) {
	place, _ := o.get("config")
	edits, err := editDescriptor(o.raw, place, m.Config, all[0])
	if err != nil {
		return nil, err
	}
	more, err := editDescriptors(o, "layers", m.Layers, all[1:])
	if err != nil {
		return nil, err
	}
	edits = append(edits, more...)
	if mediaType == m.MediaType {
		return splice(o.raw, edits...), nil
	}
	return retype(splice(o.raw, edits...), mediaType, manifestFields)
}

// retype gives a document another media type, and drops what Docker's has no
// words for.
func retype(raw []byte, mediaType string, known []string) ([]byte, error) {
	if isDocker(mediaType) {
		o, err := root(raw, known)
		if err != nil {
			return nil, err
		}
		raw = o.without("annotations", "subject", "artifactType")
	}
	o, err := root(raw, known)
	if err != nil {
		return nil, err
	}
	return splice(raw, o.set("mediaType", marshal(mediaType))), nil
}

// checkDescriptors holds descriptors that are about to be written to the
// rules that the parser has for those it reads.
func checkDescriptors(ds []v1.Descriptor) error {
	for _, d := range ds {
		if err := ValidDigest(d.Digest); err != nil {
			return err
		}
		if d.Size < 0 || d.MediaType == "" {
			return fmt.Errorf("descriptor %s: %w: size %d, media type %q", d.Digest, ErrMalformed, d.Size, d.MediaType)
		}
	}
	return nil
}

// convertAll puts ds into the dialect of a document type.
func convertAll(ds []v1.Descriptor, mediaType string) error {
	for i := range ds {
		d := &ds[i]
		if !isDocker(mediaType) {
			d.MediaType = ToOCI(d.MediaType)
			continue
		}
		t, err := ToDocker(d.MediaType)
		if err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
		d.MediaType, d.Annotations, d.ArtifactType, d.Data = t, nil, "", nil
	}
	return nil
}

// editDescriptors turns the array o[name] that holds from into one that holds
// to. Entries that stay in their place keep what tocsin does not know; in an
// array of another length, those that stay whole do.
func editDescriptors(o *object, name string, from, to []v1.Descriptor) ([]edit, error) {
	place, ok := o.get(name)
	if !ok {
		if len(to) == 0 {
			return nil, nil
		}
		return []edit{o.set(name, array(marshalAll(to)))}, nil
	}
	old, err := elems(o.raw, place)
	if err != nil {
		return nil, err
	}
	if len(from) == len(to) {
		var edits []edit
		for i := range to {
			e, err := editDescriptor(o.raw, old[i], from[i], to[i])
			if err != nil {
				return nil, err
			}
			edits = append(edits, e...)
		}
		return edits, nil
	}
	texts := marshalAll(to)
	for i, d := range to {
		if k := slices.IndexFunc(from, func(f v1.Descriptor) bool { return reflect.DeepEqual(f, d) }); k >= 0 {
			texts[i] = old[k].of(o.raw)
		}
	}
	return []edit{{place, array(texts)}}, nil
}

func marshalAll(ds []v1.Descriptor) [][]byte {
	out := make([][]byte, len(ds))
	for i, d := range ds {
		out[i] = marshal(d)
	}
	return out
}

// editDescriptor turns the descriptor at s from one value into another,
// touching only the fields that differ.
func editDescriptor(raw []byte, s span, from, to v1.Descriptor) ([]edit, error) {
	if reflect.DeepEqual(from, to) {
		return nil, nil
	}
	text := slices.Clone(s.of(raw))
	for _, f := range []struct {
		name     string
		from, to any
		empty    bool // of to: the field goes
	}{
		{"mediaType", from.MediaType, to.MediaType, false},
		{"digest", from.Digest, to.Digest, false},
		{"size", from.Size, to.Size, false},
		{"urls", from.URLs, to.URLs, len(to.URLs) == 0},
		{"annotations", from.Annotations, to.Annotations, len(to.Annotations) == 0},
		{"data", from.Data, to.Data, len(to.Data) == 0},
		{"platform", from.Platform, to.Platform, to.Platform == nil},
		{"artifactType", from.ArtifactType, to.ArtifactType, to.ArtifactType == ""},
	} {
		if reflect.DeepEqual(f.from, f.to) {
			continue
		}
		o, err := root(text, descriptorFields)
		if err != nil {
			return nil, err
		}
		if f.empty {
			text = o.without(f.name)
		} else {
			text = splice(text, o.set(f.name, marshal(f.to)))
		}
	}
	return []edit{{s, text}}, nil
}
