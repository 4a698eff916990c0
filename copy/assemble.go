package copy

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// assemble makes the top-level manifest from what became of the instances. It is pure.
func assemble(s situation, p *copyPlan, out []written) (document, error) {
	switch p.top {
	case topKeep:
		if !renamed(p.images, out) {
			return s.top, nil
		}
		if s.list == nil {
			return single(out[0]), nil // a layer was not what it said
		}
		return list(s.list, s.list.MediaType, p.images, out, p.layout) // an instance was taken in another form only
	case topImage:
		return single(out[0]), nil
	case topWrap:
		if out[0].variant == nil { // the variant was optional and turned out impossible
			return *out[0].plain, nil
		}
		raw, err := manifest.PublishIndex(descriptorOf(*out[0].plain), descriptorOf(*out[0].variant), out[0].platform, p.layout)
		return made(raw, v1.MediaTypeImageIndex), err
	case topList:
		doc, err := list(s.list, p.forms[0], p.images, out, p.layout)
		return doc.unless(s.top), err
	}
	return document{}, fmt.Errorf("internal: no action for the top-level manifest")
}

func single(w written) document {
	if w.variant != nil {
		return *w.variant
	}
	return *w.plain
}

// renamed says that some entry has another digest now than the list says.
func renamed(images []imagePlan, out []written) bool {
	for i, w := range out {
		if w.plain != nil && w.plain.digest != images[i].desc.Digest {
			return true
		}
	}
	return false
}

// list edits a list and gives it a form: each instance keeps its entry with the new digest, and its variant follows it.
// A Docker list that was not asked for becomes an OCI index where an entry is of OCI's kind now, so that deleting
// entries alone converts nothing.
func list(l *manifest.List, form string, images []imagePlan, out []written, layout manifest.Layout) (document, error) {
	var entries []v1.Descriptor
	for i, ip := range images {
		e, err := entriesOf(ip, out[i], layout)
		if err != nil {
			return document{}, err
		}
		for _, d := range e {
			made := d.Digest != ip.desc.Digest && d.MediaType == manifest.ToOCI(d.MediaType)
			if form == l.MediaType && (made || out[i].variant != nil) {
				form = v1.MediaTypeImageIndex
			}
		}
		entries = append(entries, e...)
	}
	followSubjects(entries, images, out)
	if slices.ContainsFunc(images, func(ip imagePlan) bool { return ip.added }) {
		zstdLast(entries)
	}
	raw, err := manifest.ReplaceInstances(l, entries, form)
	return made(raw, form), err
}

// annotationReference is by which an attestation's entry in a list names the image that it is about.
const annotationReference = "vnd.docker.reference.digest"

// followSubjects lets attestations name the images that they are about by the digests that these have now.
func followSubjects(entries []v1.Descriptor, images []imagePlan, out []written) {
	now := make(map[string]digest.Digest)
	for i, ip := range images {
		if !ip.added && out[i].plain != nil && out[i].plain.digest != ip.desc.Digest {
			now[ip.desc.Digest.String()] = out[i].plain.digest
		}
	}
	for i, d := range entries {
		if to, ok := now[d.Annotations[annotationReference]]; ok {
			entries[i].Annotations = maps.Clone(d.Annotations)
			entries[i].Annotations[annotationReference] = to.String()
		}
	}
}

// zstdLast puts the entries that say that they are zstd behind the others, for clients that take the first of their
// platform and do not know zstd (L3).
func zstdLast(entries []v1.Descriptor) {
	slices.SortStableFunc(entries, func(a, b v1.Descriptor) int {
		return len(a.Annotations[manifest.AnnotationZstd]) - len(b.Annotations[manifest.AnnotationZstd])
	})
}

// unless is the original where the bytes did not change, so that what is sent is it, under its own digest (rule 24).
func (d document) unless(original document) document {
	if bytes.Equal(d.raw, original.raw) {
		return original
	}
	return d
}

func entriesOf(ip imagePlan, w written, layout manifest.Layout) ([]v1.Descriptor, error) {
	var plain v1.Descriptor
	if w.plain != nil {
		plain = plainEntry(ip, *w.plain)
		switch {
		case ip.edited() && w.zstd:
			plain = manifest.Annotate(plain, manifest.AnnotationZstd, "true")
		case ip.edited():
			plain = manifest.Unannotate(plain, manifest.AnnotationZstd)
		}
	}
	switch {
	case ip.skipped && ip.plain:
		return []v1.Descriptor{ip.desc}, nil
	case w.variant != nil && w.plain == nil: // alone, or beside a plain instance with an entry of its own
		d, err := manifest.PublishVariant(variantEntry(ip, *w.variant), w.platform, layout)
		return []v1.Descriptor{d}, err
	case w.variant != nil:
		return manifest.PublishInstances(plain, descriptorOf(*w.variant), w.platform, layout)
	case w.plain != nil:
		return []v1.Descriptor{plain}, nil
	}
	return nil, nil // stripped, or the plain form of an instance whose variant is listed already
}

// plainEntry is the instance's entry in the source's list, with the new digest where the instance was edited.
func plainEntry(ip imagePlan, doc document) v1.Descriptor {
	d := ip.desc
	if d.Digest == doc.digest {
		return d
	}
	if ip.strip {
		d = manifest.PlainEntry(d)
	}
	d.MediaType, d.Digest, d.Size, d.Data, d.URLs = doc.mediaType, doc.digest, int64(len(doc.raw)), nil, nil
	return d
}

// variantEntry is the entry of a variant that is listed without a new plain instance: its own if it had one.
func variantEntry(ip imagePlan, doc document) v1.Descriptor {
	if !ip.image.Sentinel() {
		return descriptorOf(doc)
	}
	d := ip.desc
	d.MediaType, d.Digest, d.Size, d.Data, d.URLs = doc.mediaType, doc.digest, int64(len(doc.raw)), nil, nil
	return d
}
