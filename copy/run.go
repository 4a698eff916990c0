package copy

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/tocsin/tocsin/manifest"
)

// runner carries a plan out between two places of blobs.
type runner struct {
	env     *Env
	from    source
	to      destination
	options *Options
	slots   *semaphore.Weighted // blobs under way, of all instances

	mu    sync.Mutex
	blobs map[digest.Digest]*flight        // copies under way or done, so that a shared layer moves once
	made  map[digest.Digest]*encodedFlight // layers encoded anew, by the digest they had
	notes []string
}

type flight struct {
	done chan struct{}
	err  error
}

func newRunner(env *Env, from source, to destination, o *Options) *runner {
	return &runner{
		env: env, from: from, to: to, options: o,
		slots: semaphore.NewWeighted(int64(env.jobs())),
		blobs: make(map[digest.Digest]*flight),
		made:  make(map[digest.Digest]*encodedFlight),
	}
}

func (r *runner) note(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// written is what became of one instance: the descriptors for the list, and the bytes for a single image.
type written struct {
	plain, variant *document
	platform       v1.Platform
}

func (r *runner) run(ctx context.Context, s situation, p *copyPlan) (*Result, error) {
	out := make([]written, len(p.images))
	g, gctx := errgroup.WithContext(ctx)
	for i, ip := range p.images {
		g.Go(func() (err error) {
			out[i], err = r.image(gctx, ip, p)
			if err != nil {
				err = fmt.Errorf("instance %s: %w", ip.doc.digest, err)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	top, err := assemble(s, p, out)
	if err != nil {
		return nil, err
	}
	// A list's instances go by digest before it; a single image is the top itself.
	for _, w := range out {
		for _, doc := range []*document{w.plain, w.variant} {
			if doc == nil || doc.digest == top.digest {
				continue
			}
			if err := r.to.putManifest(ctx, *doc); err != nil {
				return nil, err
			}
		}
	}
	if err := r.to.commit(ctx, top); err != nil {
		return nil, err
	}
	return &Result{Digest: top.digest, MediaType: top.mediaType, Instances: len(p.images), Notes: r.notes}, nil
}

// image copies one instance's blobs and makes its manifests. It writes no manifest.
func (r *runner) image(ctx context.Context, ip imagePlan, p *copyPlan) (written, error) {
	if ip.image == nil {
		return r.artifact(ctx, ip)
	}
	w := written{platform: ip.image.Config.Platform}
	layers, err := r.layers(ctx, ip)
	if err != nil {
		return w, err
	}
	im, plain := ip.image, ip.doc
	if ip.edited() {
		if im, plain, err = editLayers(ip.image, layers); err != nil {
			return w, err
		}
	}
	if ip.plain || !ip.variant {
		if err := r.blob(ctx, im.Manifest.Config); err != nil {
			return w, err
		}
		w.plain = &plain
	}
	if !ip.variant {
		return w, nil
	}
	if reason := noVariant(im); reason != "" {
		if !p.optional {
			return w, fmt.Errorf("no sentinel variant: %s: %w", reason, ErrUsage)
		}
		r.note("%s has no sentinel variant: %s", plain.digest, reason)
		w.plain = &plain
		return w, r.blob(ctx, im.Manifest.Config)
	}
	variant, err := r.variant(ctx, im, p.layout.ChainBound())
	w.variant = &variant
	return w, err
}

func (r *runner) artifact(ctx context.Context, ip imagePlan) (written, error) {
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range ip.blobs {
		g.Go(func() error { return r.blob(ctx, d) })
	}
	if !ip.plain {
		return written{}, g.Wait()
	}
	return written{plain: &ip.doc}, g.Wait()
}

// layers brings every layer to the destination and returns the descriptors they have there.
func (r *runner) layers(ctx context.Context, ip imagePlan) ([]v1.Descriptor, error) {
	out := make([]v1.Descriptor, len(ip.image.Layers))
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range ip.image.Layers {
		g.Go(func() (err error) {
			if ip.encode[i] {
				out[i], err = r.encode(ctx, l)
			} else {
				out[i], err = l.Descriptor, r.blob(ctx, l.Descriptor)
			}
			if err != nil {
				err = fmt.Errorf("layer %d (%s): %w", i, l.Digest, err)
			}
			return err
		})
	}
	return out, g.Wait()
}

// editLayers puts new layers into an image's manifest. The config, and so every diffID, stays as it is: the tars did.
func editLayers(im *manifest.Image, layers []v1.Descriptor) (*manifest.Image, document, error) {
	config := im.Manifest.Config
	config.MediaType = v1.MediaTypeImageConfig
	raw, err := manifest.ReplaceLayers(im.Manifest, config, layers, v1.MediaTypeImageManifest)
	if err != nil {
		return nil, document{}, err
	}
	m, err := manifest.ParseManifest(raw, v1.MediaTypeImageManifest)
	if err != nil {
		return nil, document{}, err
	}
	edited, err := manifest.NewImage(m, im.Config)
	return edited, made(raw, v1.MediaTypeImageManifest), err
}

// noVariant is the reason why an image cannot have a sentinel variant, or "".
func noVariant(im *manifest.Image) string {
	if i := im.FirstUnprovable(); i >= 0 {
		return fmt.Sprintf("layer %d (%s) has no table of contents", i, im.Layers[i].Digest)
	}
	return ""
}

// variant writes what a sentinel variant adds to an image whose layers are there already: the sentinel, and a config.
func (r *runner) variant(ctx context.Context, im *manifest.Image, chainBound bool) (document, error) {
	rawManifest, rawConfig, err := manifest.AddSentinel(im, chainBound)
	if err != nil {
		return document{}, err
	}
	if err := r.bytes(ctx, manifest.SentinelDescriptor(digest.SHA256), manifest.SentinelContent()); err != nil {
		return document{}, err
	}
	config := v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(rawConfig), Size: int64(len(rawConfig))}
	return made(rawManifest, v1.MediaTypeImageManifest), r.bytes(ctx, config, rawConfig)
}

// blob copies one blob as it is, once however many instances share it.
func (r *runner) blob(ctx context.Context, d v1.Descriptor) error {
	return r.once(ctx, d.Digest, func() error {
		if d.MediaType == manifest.SentinelMediaType {
			return r.putBytes(ctx, d, manifest.SentinelContent())
		}
		there, err := r.to.has(ctx, d)
		if err != nil || there {
			return err
		}
		if err := r.slots.Acquire(ctx, 1); err != nil {
			return err
		}
		defer r.slots.Release(1)
		meter := r.env.progress().Start("copy "+shortDigest(d.Digest), d.Size)
		err = r.to.put(ctx, d, func() (io.ReadCloser, error) {
			body, err := r.from.blob(ctx, d)
			if err != nil {
				return nil, err
			}
			return &metered{ReadCloser: body, meter: meter}, nil
		})
		meter.Done(err)
		return err
	})
}

func (r *runner) bytes(ctx context.Context, d v1.Descriptor, raw []byte) error {
	return r.once(ctx, d.Digest, func() error { return r.putBytes(ctx, d, raw) })
}

func (r *runner) putBytes(ctx context.Context, d v1.Descriptor, raw []byte) error {
	there, err := r.to.has(ctx, d)
	if err != nil || there {
		return err
	}
	return r.to.put(ctx, d, opener(raw))
}

// once runs fn for a digest and gives its outcome to everybody who asks for the same digest.
func (r *runner) once(ctx context.Context, d digest.Digest, fn func() error) error {
	r.mu.Lock()
	f, joined := r.blobs[d]
	if !joined {
		f = &flight{done: make(chan struct{})}
		r.blobs[d] = f
	}
	r.mu.Unlock()
	if joined {
		select {
		case <-f.done:
			return f.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	f.err = fn()
	close(f.done)
	return f.err
}
