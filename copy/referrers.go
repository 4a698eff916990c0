package copy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// referring is a source that knows which manifests name another one as their subject.
type referring interface {
	// referrers are those of one digest, in no particular order. They are claims, which only the manifests prove.
	referrers(ctx context.Context, of digest.Digest) ([]v1.Descriptor, error)
}

// referred is a destination that can list a manifest under its subject.
type referred interface {
	// listed are the referrers of a digest that are there, and need not be written again.
	listed(ctx context.Context, of digest.Digest) ([]v1.Descriptor, error)
	// putReferrer stores a manifest by its digest and lists it under its subject, beside what others list there. What the
	// manifest needs is there already.
	putReferrer(ctx context.Context, r referrer) error
}

// referrer is a manifest that names another as its subject, with what it needs.
type referrer struct {
	doc     document
	head    referrerHead
	blobs   []v1.Descriptor // of the manifest, or of all that it lists
	below   []document      // of a list: what it lists, each after what that lists
	subject digest.Digest
}

// entry is the descriptor under which a referrer is listed (distribution specification, referrers tag schema).
func (r referrer) entry() v1.Descriptor {
	d := descriptorOf(r.doc)
	d.ArtifactType, d.Annotations = r.head.ArtifactType, r.head.Annotations
	if d.ArtifactType == "" && r.head.Config != nil {
		d.ArtifactType = r.head.Config.MediaType
	}
	return d
}

// referrerHead is what a manifest of any kind says about itself as a referrer.
type referrerHead struct {
	ArtifactType string            `json:"artifactType"`
	Subject      *v1.Descriptor    `json:"subject"`
	Config       *v1.Descriptor    `json:"config"`
	Annotations  map[string]string `json:"annotations"`
}

// parseReferrer reads what a manifest says about itself. It says "" of a subject that is missing; one that is no digest
// is manifest.ErrMalformed.
func parseReferrer(raw []byte) (referrerHead, digest.Digest, error) {
	var h referrerHead
	if int64(len(raw)) > manifest.MaxManifestSize {
		return h, "", fmt.Errorf("%d bytes: %w", len(raw), manifest.ErrMalformed)
	}
	if err := manifest.Decode(raw, &h, "artifactType", "subject", "config", "annotations"); err != nil {
		return h, "", err
	}
	if h.Subject == nil {
		return h, "", nil
	}
	if err := manifest.ValidDigest(h.Subject.Digest); err != nil {
		return h, "", fmt.Errorf("subject: %w", err)
	}
	return h, h.Subject.Digest, nil
}

// referrals are the referrers of all that is copied, and theirs, by subject.
type referrals struct {
	subjects []digest.Digest // that are copied, in their order
	of       map[digest.Digest][]referrer
	tags     []digestTag
	strays   int // that were listed and name another subject, or none
}

// all are the referrers and what each refers to, in no particular order; r may be nil.
func (r *referrals) all() iter.Seq2[referrer, digest.Digest] {
	return func(yield func(referrer, digest.Digest) bool) {
		if r == nil {
			return
		}
		for of, list := range r.of {
			for _, ref := range list {
				if !yield(ref, of) {
					return
				}
			}
		}
		for _, t := range r.tags {
			if !yield(t.referrer, t.of) {
				return
			}
		}
	}
}

func (r *referrals) count() (n int) {
	for range r.all() {
		n++
	}
	return n
}

// maxReferrers bounds the referrers of one copy with what they list.
const maxReferrers = 1 << 12

// findReferrers reads what names these digests as subjects, what names that, and so on. A digest is looked at once, so
// that a list that names its own subject leads into no circle (rule 59). The policy is not asked: referrers are what
// somebody says about an image, and nothing of them is ever run.
func findReferrers(ctx context.Context, src source, subjects []digest.Digest) (*referrals, error) {
	subjects = distinct(subjects)
	out := &referrals{subjects: subjects, of: make(map[digest.Digest][]referrer)}
	from, ok := src.(referring)
	if !ok {
		return out, nil
	}
	f := &referrerFinder{src: src, from: from, seen: make(map[digest.Digest]bool), out: out}
	f.queue = slices.Clone(subjects)
	for len(f.queue) > 0 {
		of := f.queue[0]
		f.queue = f.queue[1:]
		if f.seen[of] {
			continue
		}
		f.seen[of] = true
		if err := f.find(ctx, of); err != nil {
			return nil, fmt.Errorf("referrers of %s: %w", of, err)
		}
	}
	return out, f.digestTags(ctx, subjects)
}

// distinct leaves each digest where it comes first.
func distinct(list []digest.Digest) (out []digest.Digest) {
	seen := make(map[digest.Digest]bool)
	for _, d := range list {
		if !seen[d] {
			seen[d] = true
			out = append(out, d)
		}
	}
	return out
}

type referrerFinder struct {
	src   source
	from  referring
	seen  map[digest.Digest]bool // subjects
	queue []digest.Digest
	read  int
	out   *referrals
}

func (f *referrerFinder) find(ctx context.Context, of digest.Digest) error {
	list, err := f.from.referrers(ctx, of)
	if err != nil {
		return err
	}
	known := make(map[digest.Digest]bool)
	for _, d := range list {
		if known[d.Digest] {
			continue
		}
		known[d.Digest] = true
		r, err := f.load(ctx, d)
		if missing(err) || err == nil && r.subject != of {
			f.out.strays++ // a listing that is out of date, or lies
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
		f.out.of[of] = append(f.out.of[of], r)
		f.queue = append(f.queue, r.doc.digest)
		for _, doc := range r.below {
			f.queue = append(f.queue, doc.digest)
		}
	}
	// The order of a listing says nothing.
	slices.SortFunc(f.out.of[of], func(a, b referrer) int { return strings.Compare(a.doc.digest.String(), b.doc.digest.String()) })
	return nil
}

// missing reports whether a place said that it has no such thing.
func missing(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, registry.ErrNotFound)
}

func (f *referrerFinder) load(ctx context.Context, d v1.Descriptor) (referrer, error) {
	doc, err := f.document(ctx, d)
	if err != nil {
		return referrer{}, err
	}
	r := referrer{doc: doc}
	if r.head, r.subject, err = parseReferrer(doc.raw); err != nil {
		return r, err
	}
	return r, f.needs(ctx, &r, doc, 1)
}

func (f *referrerFinder) document(ctx context.Context, d v1.Descriptor) (document, error) {
	if f.read++; f.read > maxReferrers {
		return document{}, fmt.Errorf("more than %d referrers: %w", maxReferrers, manifest.ErrUnsupported)
	}
	return f.src.manifest(ctx, d)
}

// needs adds what a manifest names to what its referrer needs.
func (f *referrerFinder) needs(ctx context.Context, r *referrer, doc document, depth int) error {
	if !manifest.IsList(doc.mediaType) {
		blobs, err := blobsOf(doc)
		r.blobs = append(r.blobs, blobs...)
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("more than %d lists in each other: %w", maxDepth, manifest.ErrUnsupported)
	}
	list, err := manifest.ParseList(doc.raw, doc.mediaType)
	if err != nil {
		return err
	}
	for _, d := range list.Instances {
		below, err := f.document(ctx, d)
		if err == nil {
			err = f.needs(ctx, r, below, depth+1)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
		r.below = append(r.below, below)
	}
	return nil
}

// blobsOf are the blobs that a manifest of any kind needs.
func blobsOf(doc document) ([]v1.Descriptor, error) {
	if doc.mediaType != "" && !manifest.IsManifest(doc.mediaType) {
		return blobsOfUnknown(doc.raw)
	}
	m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
	if err != nil {
		return nil, err
	}
	return append([]v1.Descriptor{m.Config}, m.Layers...), nil
}

// takesReferrers refuses a destination that has no place for referrers, before a blob moves.
func takesReferrers(dst manifest.Ref, r *referrals) error {
	n := r.count()
	switch dst.Transport {
	case manifest.Docker, manifest.OCI:
		return nil
	case manifest.Dir: // which has no names
		n = len(r.tags)
	}
	if n > 0 {
		return fmt.Errorf("%s has no place for %d of the referrers that --with referrers found: %w", dst, n, ErrUsage)
	}
	return nil
}

// refer writes the referrers of what was written, each after what it refers to, and says which were not carried because
// what they refer to became something else (rule 59).
func (r *runner) refer(ctx context.Context, refs *referrals) error {
	to, ok := bare(r.to).(referred)
	if refs == nil || !ok {
		return nil
	}
	r.mu.Lock()
	written := maps.Clone(r.written)
	r.mu.Unlock()
	queue, done := slices.Clone(refs.subjects), make(map[digest.Digest]bool)
	for len(queue) > 0 {
		of := queue[0]
		queue = queue[1:]
		list := refs.of[of]
		switch {
		case done[of] || len(list) == 0:
			continue
		case !written[of]:
			r.note("%d referrers of %s were not copied, because it was written as another manifest", len(list), of)
		default:
			if err := r.referrers(ctx, to, of, list); err != nil {
				return fmt.Errorf("referrers of %s: %w", of, err)
			}
			for _, ref := range list {
				for _, doc := range append(ref.below, ref.doc) {
					written[doc.digest] = true
					queue = append(queue, doc.digest)
				}
			}
		}
		done[of] = true
	}
	for _, t := range refs.tags {
		if !written[t.of] {
			r.note("%s was not copied, because %s was written as another manifest", t.name, t.of)
		} else if err := r.tag(ctx, t); err != nil {
			return err
		}
	}
	if refs.strays > 0 {
		r.note("%d referrers were left out: they are listed, but are not there or refer to something else", refs.strays)
	}
	return nil
}

// referrers writes those of one manifest. What is listed there already is not written again.
func (r *runner) referrers(ctx context.Context, to referred, of digest.Digest, list []referrer) error {
	there, err := to.listed(ctx, of)
	if err != nil {
		return err
	}
	for _, ref := range list {
		if slices.ContainsFunc(there, func(d v1.Descriptor) bool { return d.Digest == ref.doc.digest }) {
			continue
		}
		if err := r.referrer(ctx, to, ref); err != nil {
			return fmt.Errorf("%s: %w", ref.doc.digest, err)
		}
	}
	return nil
}

func (r *runner) referrer(ctx context.Context, to referred, ref referrer) error {
	if err := r.needed(ctx, ref); err != nil {
		return err
	}
	return to.putReferrer(ctx, ref)
}

// needed writes what a referrer needs.
func (r *runner) needed(ctx context.Context, ref referrer) error {
	err := forEach(ctx, len(ref.blobs), func(ctx context.Context, i int) error { return r.blob(ctx, ref.blobs[i]) })
	for _, doc := range ref.below {
		if err == nil {
			err = r.to.putManifest(ctx, doc)
		}
	}
	return err
}
