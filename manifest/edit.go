package manifest

import (
	"fmt"
	"reflect"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// sentinelHistory is the history entry that goes with the sentinel. It has no
// time, so that the same image always gives the same bytes.
const sentinelHistory = "zstd:chunked sentinel"

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
	all, err := convertAll(append([]v1.Descriptor{config}, layers...), mediaType)
	if err != nil {
		return nil, fmt.Errorf("manifest %s as %s: %w", m.Digest, mediaType, err)
	}
	o, err := root(m.Raw, manifestFields)
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	return replaceLayers(m, o, all, mediaType)
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

// convertAll returns the descriptors in the dialect of a document type.
func convertAll(ds []v1.Descriptor, mediaType string) ([]v1.Descriptor, error) {
	out := slices.Clone(ds)
	for i := range out {
		d := &out[i]
		if !isDocker(mediaType) {
			d.MediaType = ToOCI(d.MediaType)
			continue
		}
		t, err := ToDocker(d.MediaType)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Digest, err)
		}
		d.MediaType, d.Annotations, d.ArtifactType, d.Data = t, nil, "", nil
	}
	return out, nil
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

// AddSentinel makes the sentinel variant of an image: the sentinel before
// the layers, its digest before the diff ids, and, if the history had one
// entry for each layer, one more entry. With chainBound each following diff
// id becomes the TOC digest of its layer, else it stays. Every other byte of
// both documents is kept; StripSentinel undoes it. All data layers must be
// Provable and the manifest OCI, otherwise ErrUnsupported; an image that is a
// variant already is ErrSentinel.
func AddSentinel(im *Image, chainBound bool) (manifest, config []byte, err error) {
	m := im.Manifest
	switch {
	case im.Sentinel():
		return nil, nil, fmt.Errorf("image %s: %w: it has a sentinel already", m.Digest, ErrSentinel)
	case isDocker(m.MediaType):
		return nil, nil, fmt.Errorf("image %s: a sentinel in Docker schema 2: %w", m.Digest, ErrUnsupported)
	case im.Trust != TOCUnbound:
		return nil, nil, fmt.Errorf("image %s: a sentinel without a TOC and tar-split in every layer: %w", m.Digest, ErrUnsupported)
	}
	sentinel := SentinelDescriptor(m.Layers[0].Digest.Algorithm())
	diffIDs := slices.Clone(im.Config.DiffIDs)
	for i := range im.Layers {
		if chainBound {
			diffIDs[i] = im.Layers[i].TOC.Digest
		}
	}
	if config, err = addToConfig(im.Config, sentinel.Digest, diffIDs); err != nil {
		return nil, nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	manifest, err = editFirstLayer(m, config, func(raw []byte, layers span) (edit, error) {
		return prepend(raw, layers, marshal(sentinel))
	})
	return manifest, config, err
}

// StripSentinel makes the plain image of a variant: the reverse of
// AddSentinel. diffIDs are the digests of the tars built from the TOC view of
// each data layer; what the variant claims is never taken over unproved. The
// first history entry goes if it is the one that AddSentinel writes.
func StripSentinel(im *Image, diffIDs []digest.Digest) (manifest, config []byte, err error) {
	m := im.Manifest
	if !im.Sentinel() {
		return nil, nil, fmt.Errorf("image %s: %w: no sentinel to strip", m.Digest, ErrSentinel)
	}
	if len(diffIDs) != len(im.DataLayers()) {
		return nil, nil, fmt.Errorf("image %s: %w: %d diff_ids for %d layers", m.Digest, ErrMalformed, len(diffIDs), len(im.DataLayers()))
	}
	for _, d := range diffIDs {
		if err := ValidDigest(d); err != nil {
			return nil, nil, fmt.Errorf("image %s: %w", m.Digest, err)
		}
	}
	if config, err = stripConfig(im.Config, diffIDs); err != nil {
		return nil, nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	manifest, err = editFirstLayer(m, config, dropFirst)
	return manifest, config, err
}

// editFirstLayer gives the manifest the new config and edits its layers.
func editFirstLayer(m *Manifest, config []byte, change func([]byte, span) (edit, error)) ([]byte, error) {
	o, err := root(m.Raw, manifestFields)
	if err != nil {
		return nil, err
	}
	desc := m.Config
	desc.Digest = desc.Digest.Algorithm().FromBytes(config)
	desc.Size = int64(len(config))
	desc.Data = nil
	place, _ := o.get("config")
	edits, err := editDescriptor(o.raw, place, m.Config, desc)
	if err != nil {
		return nil, err
	}
	layers, _ := o.get("layers")
	first, err := change(o.raw, layers)
	if err != nil {
		return nil, err
	}
	return splice(o.raw, append(edits, first)...), nil
}

// configPlaces are the parts of a config that the sentinel touches.
type configPlaces struct {
	raw     []byte
	array   span // rootfs.diff_ids
	diffIDs []span
	history span // valid if there is history
}

func openConfig(c *Config) (*configPlaces, error) {
	o, err := root(c.Raw, configFields)
	if err != nil {
		return nil, err
	}
	p := &configPlaces{raw: c.Raw}
	s, _ := o.get("rootfs")
	rootfs, err := objectAt(c.Raw, s, rootfsFields)
	if err != nil {
		return nil, err
	}
	p.array, _ = rootfs.get("diff_ids")
	p.history, _ = o.get("history")
	p.diffIDs, err = elems(c.Raw, p.array)
	return p, err
}

// rename replaces the diff ids at places by others, one by one.
func rename(places []span, from, to []digest.Digest) []edit {
	var edits []edit
	for i, s := range places {
		if from[i] != to[i] {
			edits = append(edits, edit{s, marshal(to[i])})
		}
	}
	return edits
}

// consistentHistory reports whether there is one entry for each layer.
func consistentHistory(c *Config) bool {
	n := 0
	for _, h := range c.History {
		if !h.EmptyLayer {
			n++
		}
	}
	return n > 0 && n == len(c.DiffIDs)
}

func addToConfig(c *Config, sentinel digest.Digest, diffIDs []digest.Digest) ([]byte, error) {
	p, err := openConfig(c)
	if err != nil {
		return nil, err
	}
	first, err := prepend(c.Raw, p.array, marshal(sentinel))
	if err != nil {
		return nil, err
	}
	edits := append(rename(p.diffIDs, c.DiffIDs, diffIDs), first)
	if consistentHistory(c) {
		entry, err := prepend(c.Raw, p.history, marshal(v1.History{CreatedBy: sentinelHistory}))
		if err != nil {
			return nil, err
		}
		edits = append(edits, entry)
	}
	return splice(c.Raw, edits...), nil
}

func stripConfig(c *Config, diffIDs []digest.Digest) ([]byte, error) {
	p, err := openConfig(c)
	if err != nil {
		return nil, err
	}
	first, err := dropFirst(c.Raw, p.array)
	if err != nil {
		return nil, err
	}
	edits := append(rename(p.diffIDs[1:], c.DiffIDs[1:], diffIDs), first)
	if consistentHistory(c) && c.History[0] == (v1.History{CreatedBy: sentinelHistory}) {
		entry, err := dropFirst(c.Raw, p.history)
		if err != nil {
			return nil, err
		}
		edits = append(edits, entry)
	}
	return splice(c.Raw, edits...), nil
}

// ReplaceInstances returns l with these instances, as mediaType ("" or l's
// own, or the other dialect's list type; instances' own types are never
// converted). An instance whose digest was in the list keeps the fields of
// its entry that tocsin does not know; an unchanged one keeps its bytes; if
// nothing changes so does the document. Two entries with one digest are told
// apart by order. Converting to Docker's list loses annotations, and needs a
// platform on every instance (ErrUnsupported otherwise).
func ReplaceInstances(l *List, instances []v1.Descriptor, mediaType string) ([]byte, error) {
	if mediaType == "" {
		mediaType = l.MediaType
	}
	if !IsList(mediaType) {
		return nil, fmt.Errorf("list %s as %q: %w", l.Digest, mediaType, ErrUnsupported)
	}
	if err := checkInstances(instances, mediaType); err != nil {
		return nil, fmt.Errorf("list %s: %w", l.Digest, err)
	}
	raw, err := replaceInstances(l, instances, mediaType)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.Digest, err)
	}
	return raw, nil
}

func checkInstances(instances []v1.Descriptor, mediaType string) error {
	for i, d := range instances {
		switch err := ValidDigest(d.Digest); {
		case err != nil:
			return fmt.Errorf("instance %d: %w", i, err)
		case d.Size < 0 || d.MediaType == "":
			return fmt.Errorf("instance %d (%s): %w: size %d, media type %q", i, d.Digest, ErrMalformed, d.Size, d.MediaType)
		case isDocker(mediaType) && d.Platform == nil:
			return fmt.Errorf("instance %d (%s) without platform in a Docker list: %w", i, d.Digest, ErrUnsupported)
		case isDocker(mediaType) && IsVariant(d):
			return fmt.Errorf("instance %d (%s): sentinel variant in a Docker list: %w", i, d.Digest, ErrUnsupported)
		}
	}
	return nil
}

func replaceInstances(l *List, instances []v1.Descriptor, mediaType string) ([]byte, error) {
	o, err := root(l.Raw, listFields)
	if err != nil {
		return nil, err
	}
	place, _ := o.get("manifests")
	old, err := elems(l.Raw, place)
	if err != nil {
		return nil, err
	}
	if mediaType != l.MediaType {
		raw := splice(l.Raw, edit{place, array(marshalAll(inDialect(instances, mediaType)))})
		return retype(raw, mediaType, listFields)
	}
	if reflect.DeepEqual(l.Instances, instances) {
		return slices.Clone(l.Raw), nil
	}
	texts := make([][]byte, len(instances))
	used := make([]bool, len(old))
	for i, d := range instances {
		k := l.counterpart(d, i, len(instances), used)
		if k < 0 {
			texts[i] = marshal(d)
			continue
		}
		used[k] = true
		edits, err := editDescriptor(l.Raw[old[k].start:old[k].end], span{0, old[k].end - old[k].start}, l.Instances[k], d)
		if err != nil {
			return nil, err
		}
		texts[i] = splice(old[k].of(l.Raw), edits...)
	}
	return relayout(l.Raw, place, old, texts), nil
}

// counterpart returns the entry that the i-th of n new instances came from:
// the first unused one with its digest, else the one in its place if the
// list keeps its length; -1 if it is new.
func (l *List) counterpart(d v1.Descriptor, i, n int, used []bool) int {
	for k, o := range l.Instances {
		if o.Digest == d.Digest && !used[k] {
			return k
		}
	}
	if n == len(l.Instances) && !used[i] && reflect.DeepEqual(l.Instances[i].Platform, d.Platform) {
		return i
	}
	return -1
}

// inDialect leaves out what Docker's lists have no words for.
func inDialect(instances []v1.Descriptor, mediaType string) []v1.Descriptor {
	if !isDocker(mediaType) {
		return instances
	}
	out := slices.Clone(instances)
	for i := range out {
		out[i].Annotations, out[i].ArtifactType, out[i].Data = nil, "", nil
	}
	return out
}

// relayout writes elements into the array at place: in the old one's white
// space if the number stays, else compactly.
func relayout(raw []byte, place span, old []span, texts [][]byte) []byte {
	if len(old) != len(texts) {
		return splice(raw, edit{place, array(texts)})
	}
	edits := make([]edit, len(old))
	for i, s := range old {
		edits[i] = edit{s, texts[i]}
	}
	return splice(raw, edits...)
}
