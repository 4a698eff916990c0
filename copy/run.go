package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
)

// runner carries a plan out between two places of blobs.
type runner struct {
	env     *Env
	from    source
	to      destination
	options *Options
	slots   *semaphore.Weighted // blobs under way, of all instances

	shared

	mu      sync.Mutex
	notes   []string
	written map[digest.Digest]bool // manifests and lists
	naming  *naming
}

// shared is what is done once for all instances.
type shared struct {
	blobs  flights[digest.Digest, struct{}] // copied, or being copied
	made   flights[madeKey, v1.Descriptor]  // layers encoded anew
	views  flights[viewKey, tarBlob]        // tars of tables of contents
	placed flights[placedKey, document]     // instances' manifests written
	heads  sync.Map                         // digest to the compression that a blob that was read is in
	reused atomic.Int64                     // layers that were not made anew, because the destination has their tars
	unsaid sync.Map                         // digest of a layer that became plain zstd to the error that says why
}

// layerKey is a layer together with what its image says its tar is: images that disagree share nothing.
type layerKey struct {
	blob, diffID digest.Digest
	trust        manifest.Trust
}

// madeKey is a layer in a compression.
type madeKey struct {
	layerKey
	as Compression
}

// placedKey is a manifest in the form in which it is offered first.
type placedKey struct {
	digest    digest.Digest
	mediaType string
}

func newRunner(env *Env, from source, to destination, o *Options) *runner {
	named := from
	if f, wrapped := from.(*withForeign); wrapped {
		named = f.source
	}
	src, ok := named.(*docker)
	if dst, isDocker := to.(*docker); ok && isDocker {
		dst.mountFrom(src)
	}
	return &runner{
		env: env, from: from, to: to, options: o,
		slots:   semaphore.NewWeighted(int64(env.jobs())),
		written: make(map[digest.Digest]bool),
	}
}

func (r *runner) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

func (r *runner) wrote(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.written[d] = digestAt(r.to, d) == d // under another digest it is nobody's subject
}

// written is what became of one entry: the descriptors for the list, and the bytes for a single image.
type written struct {
	children       []written  // of a list in the list
	below          []document // of a list that is made without a runner: what it lists, before it
	plain, variant *document
	forms          []string // of plain, after the one that it has
	platform       v1.Platform
	zstd           bool // some layer is
}

func (r *runner) run(ctx context.Context, s situation, p *copyPlan) (*Result, error) {
	if p.top == topKeep && !p.naming.changes {
		if err := r.options.expected(s.top); err != nil {
			return nil, err
		}
	}
	out, err := r.images(ctx, p.images, p)
	if err != nil {
		return nil, err
	}
	// A list's instances go by digest before it; a single image is the top itself.
	alone := s.list == nil && (p.top != topWrap || out[0].variant == nil)
	forms := p.forms
	if alone {
		forms = out[0].forms
	} else if err := r.foretell(ctx, s, p, out); err != nil {
		return nil, err
	} else if err := r.manifests(ctx, p.images, out, p); err != nil {
		return nil, err
	}
	top, err := assemble(s, p, out)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if top, err = r.offer(ctx, top, forms, r.commit); err != nil {
		return nil, err
	}
	if err := p.signatures.put(ctx, r.to, subject{top.digest, true}); err != nil {
		return nil, err
	}
	r.wrote(top.digest)
	if err := r.refer(ctx, p.referrers); err != nil {
		return nil, err
	}
	if n := r.reused.Load(); n > 0 {
		r.note("%d layers were not made anew: the destination has their tars in the compression that was asked for", n)
	}
	if n := remade(p.images, s); n > 0 && top.digest != s.top.digest {
		r.note("layers that the store has only as files were made anew (%d), so the digest is %s and not %s", n, digestAt(r.to, top.digest), s.top.digest)
	}
	return &Result{Digest: top.digest, MediaType: top.mediaType, Instances: len(leaves(p.images)), Notes: append(p.notes, r.notes...)}, nil
}

// commit writes the top-level manifest, if it is the one that was expected.
func (r *runner) commit(ctx context.Context, top document) error {
	named, err := documentAt(r.to, top)
	if err == nil {
		err = r.options.expected(named)
	}
	if err != nil {
		return err
	}
	return r.to.commit(ctx, top)
}

// images copies the instances of one list.
func (r *runner) images(ctx context.Context, images []imagePlan, p *copyPlan) ([]written, error) {
	out := make([]written, len(images))
	return out, forEach(ctx, len(images), func(ctx context.Context, i int) (err error) {
		switch ip := images[i]; {
		case ip.skipped, ip.gone():
			return nil
		case ip.list != nil:
			out[i].children, err = r.images(ctx, ip.children, p)
		default:
			out[i], err = r.image(ctx, ip, p)
		}
		if err != nil {
			err = fmt.Errorf("instance %s: %w", images[i].desc.Digest, err)
		}
		return err
	})
}

// image copies one instance's blobs and makes its manifests. It writes no manifest.
func (r *runner) image(ctx context.Context, ip imagePlan, p *copyPlan) (written, error) {
	if ip.image == nil {
		return r.artifact(ctx, ip)
	}
	w := written{platform: ip.image.Config.Platform}
	if pl, ok := manifest.PlatformOf(ip.desc); ok {
		w.platform = pl
	}
	im, doc, forms, err := r.version(ctx, ip)
	if err != nil {
		return w, err
	}
	w.forms, w.zstd = forms, slices.ContainsFunc(im.Layers, isZstd)
	switch {
	case ip.variant != "" && im.Sentinel(): // as it is, in another place of the list
		w.variant = &doc
		return w, r.config(ctx, im)
	case ip.variant == "":
		w.plain = &doc
		return w, r.config(ctx, im)
	}
	if reason := r.noVariant(im); reason != "" {
		if !p.optional {
			return w, fmt.Errorf("no sentinel variant: %s: %w", reason, ErrUsage)
		}
		r.note("%s has no sentinel variant: %s", doc.digest, reason)
		w.plain = &doc
		return w, r.config(ctx, im)
	}
	if ip.plain {
		w.plain = &doc
		if err := r.config(ctx, im); err != nil {
			return w, err
		}
	}
	variant, err := r.variant(ctx, im, ip.variant, p.layout.ChainBound())
	w.variant = &variant
	return w, err
}

// version brings the layers of an instance to the destination, and gives the image that they make there, and its forms.
func (r *runner) version(ctx context.Context, ip imagePlan) (*manifest.Image, document, []string, error) {
	im, doc, layers := ip.image, ip.doc, []v1.Descriptor(nil)
	var err error
	if ip.strip {
		im, doc, layers, err = r.stripped(ctx, ip)
	} else {
		layers, err = r.layers(ctx, ip)
	}
	if err == nil && ip.retar {
		im, doc, err = r.renameTars(ctx, im, r.options.wish().TarAlgorithm())
	}
	if err != nil {
		return nil, document{}, nil, err
	}
	return inForm(ip.forms, im, doc, layers)
}

// config stores an image's configuration, which an edit may have made.
func (r *runner) config(ctx context.Context, im *manifest.Image) error {
	return r.bytes(ctx, im.Manifest.Config, im.Config.Raw)
}

func isZstd(l manifest.Layer) bool {
	algo, err := manifest.Compression(l.MediaType)
	return err == nil && algo == algoZstd
}

func (r *runner) artifact(ctx context.Context, ip imagePlan) (written, error) {
	if !ip.plain {
		return written{}, nil
	}
	return written{plain: &ip.doc}, forEach(ctx, len(ip.blobs), func(ctx context.Context, i int) error {
		return r.blob(ctx, ip.blobs[i])
	})
}

// layers brings every layer to the destination and returns the descriptors they have there.
func (r *runner) layers(ctx context.Context, ip imagePlan) ([]v1.Descriptor, error) {
	out := make([]v1.Descriptor, len(ip.image.Layers))
	return out, forEach(ctx, len(out), func(ctx context.Context, i int) (err error) {
		l := ip.image.Layers[i]
		switch {
		case ip.encode[i]:
			out[i], err = r.encode(ctx, ip, l)
		case ip.download && isElsewhere(l.Descriptor):
			out[i], err = fetched(l.Descriptor), r.layer(ctx, l)
		case ip.compress.Algorithm == "" && isElsewhere(l.Descriptor):
			out[i] = l.Descriptor
		default:
			out[i], err = r.whole(ctx, ip, l)
		}
		if err != nil {
			err = fmt.Errorf("layer %d (%s): %w", i, l.Digest, err)
		}
		return err
	})
}

// sniffed is the descriptor of a layer whose blob went as it is. How a blob begins beats what its media type says (rules
// 41 and 43): where the manifest changes the type is corrected, where another compression was asked for it is made, and
// what may not change stays, with a warning.
func (r *runner) sniffed(ctx context.Context, ip imagePlan, l manifest.Layer) (v1.Descriptor, error) {
	d := l.Descriptor
	claimed, err := manifest.Compression(d.MediaType)
	is, read := r.heads.Load(d.Digest)
	if err != nil || !read || is == claimed || l.TOC != nil {
		return d, nil
	}
	switch {
	case ip.fixed:
		r.note("layer %s calls itself %s, but is %s; the manifest may not change, so it goes on saying so", d.Digest, claimed, is)
	case ip.compress.Algorithm != "" && ip.compress.Algorithm != is:
		r.note("layer %s calls itself %s, but is %s, so it was made anew", d.Digest, claimed, is)
		return r.encode(ctx, ip, l)
	case ip.edited() || ip.converted():
		r.note("layer %s calls itself %s, but is %s; its media type was corrected", d.Digest, claimed, is)
		d.MediaType = layerMediaType(is.(string))
	default:
		r.note("layer %s calls itself %s, but is %s; nothing else changes in the manifest, so it goes on saying so", d.Digest, claimed, is)
	}
	return d, nil
}

// noVariant is the reason why an image cannot have a sentinel variant, or "".
func (r *runner) noVariant(im *manifest.Image) string {
	i := im.FirstUnprovable()
	if i < 0 {
		return ""
	}
	reason := fmt.Sprintf("layer %d (%s) has no table of contents", i, im.Layers[i].Digest)
	if why, ok := r.unsaid.Load(im.Layers[i].Digest); ok {
		reason += fmt.Sprintf(", because none can say its tar: %v", why)
	}
	return reason
}

// variant writes what a sentinel variant adds to an image whose layers are there already: the sentinel, and a config.
func (r *runner) variant(ctx context.Context, im *manifest.Image, mediaType string, chainBound bool) (document, error) {
	rawManifest, rawConfig, err := manifest.AddSentinel(im, mediaType, chainBound)
	if err != nil {
		return document{}, err
	}
	sentinel := manifest.SentinelDescriptor(mediaType, im.Manifest.Layers[0].Digest.Algorithm())
	if err := r.bytes(ctx, sentinel, manifest.SentinelContent()); err != nil {
		return document{}, err
	}
	config := v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Size: int64(len(rawConfig)),
		Digest: im.Manifest.Config.Digest.Algorithm().FromBytes(rawConfig)}
	return made(rawManifest, v1.MediaTypeImageManifest), r.bytes(ctx, config, rawConfig)
}

// layer copies one layer as it is.
func (r *runner) layer(ctx context.Context, l manifest.Layer) error {
	if !r.options.Push.Tars || l.Binding != manifest.BindTar {
		return r.blob(ctx, l.Descriptor)
	}
	return r.checkedLayer(ctx, l)
}

// blob copies one blob as it is, once however many instances share it.
func (r *runner) blob(ctx context.Context, d v1.Descriptor) error {
	if manifest.IsSentinelDigest(d.Digest) {
		return r.bytes(ctx, d, manifest.SentinelContent())
	}
	return r.once(ctx, d, func() error {
		w := &watched{meter: r.env.progress().Start("copy "+shortDigest(d.Digest), d.Size)}
		err := r.inParts(ctx, d, w)
		if errors.Is(err, errInOnePiece) {
			err = r.to.put(ctx, d, func() (io.ReadCloser, error) {
				body, err := r.from.blob(ctx, d)
				if err != nil {
					return nil, err
				}
				return w.reader(body), nil
			})
		}
		w.meter.Done(err)
		if err == nil && len(w.head) == compression.SniffLen {
			r.heads.Store(d.Digest, compression.Sniff(w.head))
		}
		return err
	})
}

// bytes stores a blob that is in memory.
func (r *runner) bytes(ctx context.Context, d v1.Descriptor, raw []byte) error {
	return r.once(ctx, d, func() error { return r.to.put(ctx, d, opener(raw)) })
}

// once puts a blob that the destination does not have.
func (r *runner) once(ctx context.Context, d v1.Descriptor, put func() error) error {
	_, err := r.blobs.do(ctx, d.Digest, func() (struct{}, error) {
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return struct{}{}, err
		}
		defer r.slots.Release(1)
		there, err := r.to.has(ctx, d)
		if err == nil && !there {
			err = put()
		}
		return struct{}{}, err
	})
	return err
}
