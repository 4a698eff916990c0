package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// renaming is a destination that writes what it is given under the digests that a naming says. What comes as one blob is
// one blob of the same bytes: its old digest is verified by whoever reads it, and the new one computed in that pass (D7,
// D11). Manifests and lists that name it are edited to follow, so whatever they name must have come before them.
type renaming struct {
	destination
	naming *naming
	pairs  *store.Store // remembers which digests name the same bytes; nil: nobody does
	note   func(format string, args ...any)

	mu  sync.Mutex
	now map[digest.Digest]v1.Descriptor // old digest -> digest and size here
}

// over is the destination of a runner as this naming wants it: itself where everything was sha256 and stays so.
func (n *naming) over(r *runner) destination {
	r.naming = n
	others := n.alg != "" && n.alg != digest.SHA256 || n.changes
	for alg := range n.used {
		others = others || alg != digest.SHA256
	}
	if !others {
		return r.to
	}
	return &renaming{destination: r.to, naming: n, pairs: r.env.Store, note: r.note, now: make(map[digest.Digest]v1.Descriptor)}
}

// bare is the place itself.
func bare(to destination) destination {
	if here, ok := to.(*renaming); ok {
		return here.destination
	}
	return to
}

// digestAt is the digest that something has at a destination.
func digestAt(to destination, d digest.Digest) digest.Digest {
	if here, ok := to.(*renaming); ok {
		return here.digestNow(d)
	}
	return d
}

// documentAt is a manifest or list as it will be at a destination, once what it names is there.
func documentAt(to destination, doc document) (document, error) {
	if here, ok := to.(*renaming); ok {
		return here.rename(doc)
	}
	return doc, nil
}

// algorithm is that of a blob here.
func (r *renaming) algorithm(d digest.Digest) digest.Algorithm {
	if r.naming.alg == "" || r.naming.kept[d] {
		return d.Algorithm()
	}
	return r.naming.alg
}

// digestNow is the digest that something has here.
func (r *renaming) digestNow(d digest.Digest) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now, ok := r.now[d]; ok {
		return now.Digest
	}
	return d
}

func (r *renaming) became(old, d digest.Digest, size int64) {
	if old == d {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now[old] = v1.Descriptor{Digest: d, Size: size}
}

// has finds a blob under its new digest where this machine has computed both of the same bytes before (D12).
func (r *renaming) has(ctx context.Context, d v1.Descriptor) (bool, error) {
	alg := r.algorithm(d.Digest)
	if alg == d.Digest.Algorithm() {
		return r.destination.has(ctx, d)
	}
	known, err := r.known(d.Digest, alg)
	if err != nil || known == "" {
		return false, errors.Join(err, r.skipped(ctx, d, alg))
	}
	to := d
	to.Digest = known
	there, err := r.destination.has(ctx, to)
	if there {
		r.became(d.Digest, known, d.Size)
	}
	return there, err
}

func (r *renaming) known(d digest.Digest, alg digest.Algorithm) (digest.Digest, error) {
	if r.pairs == nil {
		return "", nil
	}
	return r.pairs.SameAs(d, alg)
}

// skipped tells that a blob is sent although its bytes are there, because nobody here can know that. A directory is not
// asked: what it is asked for stays in it.
func (r *renaming) skipped(ctx context.Context, d v1.Descriptor, alg digest.Algorithm) error {
	if _, ok := r.destination.(*dir); ok {
		return nil
	}
	there, err := r.destination.has(ctx, d)
	if there {
		r.note("%s is at the destination, but no %s digest of it was verified on this machine, so it is copied again", d.Digest, alg)
	}
	return err
}

func (r *renaming) put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	alg := r.algorithm(d.Digest)
	if alg == d.Digest.Algorithm() {
		return r.destination.put(ctx, d, open)
	}
	out, err := r.destination.create()
	if err != nil {
		return err
	}
	to := d
	if to.Digest, err = pour(out, open, alg); err != nil {
		return errors.Join(err, out.abort())
	}
	if err := out.commit(ctx, to); err != nil {
		return err
	}
	r.became(d.Digest, to.Digest, d.Size)
	if r.pairs == nil {
		return nil
	}
	return r.pairs.PutSame(d.Digest, to.Digest)
}

// pour writes a blob that its reader verifies, and returns its digest in alg.
func pour(out io.Writer, open func() (io.ReadCloser, error), alg digest.Algorithm) (digest.Digest, error) {
	body, err := open()
	if err != nil {
		return "", err
	}
	sum := alg.Digester()
	_, err = io.CopyBuffer(io.MultiWriter(out, sum.Hash()), struct{ io.Reader }{body}, make([]byte, streamBuffer))
	return sum.Digest(), errors.Join(err, body.Close())
}

func (r *renaming) putManifest(ctx context.Context, doc document) error {
	here, err := r.rename(doc)
	if err != nil {
		return err
	}
	return r.destination.putManifest(ctx, here)
}

func (r *renaming) commit(ctx context.Context, doc document) error {
	here, err := r.rename(doc)
	if err != nil {
		return err
	}
	return r.destination.commit(ctx, here)
}

// rename is a manifest or list with the digests that everything has here, and its own.
func (r *renaming) rename(doc document) (document, error) {
	here, err := r.follow(doc)
	if err != nil {
		return doc, fmt.Errorf("digests in %s: %w", doc.digest, err)
	}
	alg := r.naming.alg
	switch {
	case r.naming.kept[doc.digest]:
		alg = doc.digest.Algorithm()
	case alg == "": // we made it
		alg = manifest.NamedIn(here.raw)
	}
	here.digest = alg.FromBytes(here.raw)
	if r.naming.kept[doc.digest] && here.digest != doc.digest {
		return doc, fmt.Errorf("internal: %s was to be kept and became %s", doc.digest, here.digest)
	}
	r.became(doc.digest, here.digest, int64(len(here.raw)))
	return here, nil
}

// follow edits what a document names. Types that are not known name nothing that changed.
func (r *renaming) follow(doc document) (document, error) {
	mediaType := doc.mediaType
	if mediaType == "" {
		mediaType = manifest.GuessMediaType(doc.raw)
	}
	var err error
	switch {
	case manifest.IsList(mediaType):
		var l *manifest.List
		if l, err = manifest.ParseList(doc.raw, mediaType); err == nil {
			doc.raw, err = manifest.ReplaceInstances(l, r.all(l.Instances), "")
		}
	case manifest.IsManifest(mediaType):
		var m *manifest.Manifest
		if m, err = manifest.ParseManifest(doc.raw, mediaType); err == nil {
			doc.raw, err = manifest.ReplaceLayers(m, r.descriptor(m.Config), r.all(m.Layers), "")
		}
	}
	return doc, err
}

func (r *renaming) all(ds []v1.Descriptor) []v1.Descriptor {
	out := make([]v1.Descriptor, len(ds))
	for i, d := range ds {
		out[i] = r.descriptor(d)
	}
	return out
}

// descriptor is d as it is here. With another digest, what was said of the old one goes: data and URLs (D6), and a
// table of contents that nobody could use, because else the layer would have been made anew. The rest stays (D14).
func (r *renaming) descriptor(d v1.Descriptor) v1.Descriptor {
	r.mu.Lock()
	defer r.mu.Unlock()
	if about, ok := r.now[digest.Digest(d.Annotations[annotationReference])]; ok {
		d.Annotations = maps.Clone(d.Annotations)
		d.Annotations[annotationReference] = about.Digest.String()
	}
	now, ok := r.now[d.Digest]
	if !ok {
		return d
	}
	if ref, err := manifest.TOCRefOf(d); err != nil || ref == nil || ref.Digest.Algorithm() != now.Digest.Algorithm() {
		d.Annotations = manifest.StripTOCAnnotations(d.Annotations)
	}
	d.Digest, d.Size, d.Data, d.URLs = now.Digest, now.Size, nil, nil
	return d
}
