package manifest

import (
	"fmt"
	"reflect"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

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
	if err := checkDescriptors(instances); err != nil || !isDocker(mediaType) {
		return err
	}
	for _, d := range instances {
		if d.Platform == nil || IsVariant(d) {
			return fmt.Errorf("instance %s without platform or with sentinel in a Docker list: %w", d.Digest, ErrUnsupported)
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
