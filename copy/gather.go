package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/tocsin/tocsin/manifest"
)

// readsAtOnce bounds the manifests of one list that are read at once.
const readsAtOnce = 8

// The limits of a list that holds lists. Digests make cycles impossible, but not a small document that names another
// one a thousand times.
const (
	maxDepth     = 4       // lists above an instance
	maxInstances = 1 << 15 // entries of all lists together
)

// gatherer reads one list with what is below it. What is listed twice is read once (L22).
type gatherer struct {
	src     source
	partial partial // nil: the source has all of what it names
	sparse  bool    // what a partial source does not have is left out
	copying bool    // layers will be needed too
	lenient bool    // an entry that is not there, or is not what it should be, is described and does not end everything
	slots   *semaphore.Weighted
	entries atomic.Int64
	lists   flights[entryKey, listDocument]
	images  flights[entryKey, instance]
}

// listDocument is a list that was read. It is parsed once, however often it is listed.
type listDocument struct {
	document
	list *manifest.List
}

type entryKey struct {
	digest    digest.Digest
	mediaType string
}

func newGatherer(src source, o *Options) *gatherer {
	_, copying := src.(*judged)
	return &gatherer{
		src: src, partial: partialOf(src), sparse: o.Platform == nil && o.Select.all(), copying: copying,
		slots: semaphore.NewWeighted(readsAtOnce),
	}
}

// gather reads the manifests and configs that plan needs, and nothing else.
func gather(ctx context.Context, src source, o *Options) (situation, error) {
	return newGatherer(src, o).gather(ctx, o)
}

func (g *gatherer) gather(ctx context.Context, o *Options) (situation, error) {
	if err := o.Select.check(o.Platform); err != nil {
		return situation{}, err
	}
	top, err := g.src.top(ctx)
	if err != nil {
		return situation{}, err
	}
	s := situation{top: top}
	if !manifest.IsList(top.mediaType) {
		in, err := readInstance(ctx, g.src, descriptorOf(top), top)
		if err == nil && o.Platform != nil {
			err = in.serves(*o.Platform)
		}
		if err == nil {
			err = in.preferred(o.Prefer)
		}
		if err == nil {
			err = o.Select.single(in)
		}
		if err == nil {
			err = g.whole(ctx, in)
		}
		s.instances = []instance{in}
		return s, err
	}
	list, err := manifest.ParseList(top.raw, top.mediaType)
	if err != nil {
		return s, fmt.Errorf("list %s: %w", top.digest, err)
	}
	if o.Platform == nil && (o.Prefer == manifest.OnlyVariant || o.Prefer == manifest.OnlyPlain) {
		return s, oneKind(top)
	}
	if o.Platform != nil {
		d, err := g.choose(ctx, list, o, 1)
		if err != nil {
			return s, fmt.Errorf("list %s: %w", top.digest, err)
		}
		in, err := g.image(ctx, d)
		s.flattened, s.top, s.instances = &top, in.doc, []instance{in}
		return s, err
	}
	s.list = list
	if s.instances, err = g.expand(ctx, list, 1); err != nil {
		return s, err
	}
	if err := pick(s.instances, o.Select); err != nil {
		return s, fmt.Errorf("list %s: %w", top.digest, err)
	}
	if err := g.load(ctx, s.instances); err != nil {
		return s, err
	}
	return s, noneLeft(top, s.instances)
}

// choose finds the one instance for a platform, in the list itself before the lists in it.
func (g *gatherer) choose(ctx context.Context, list *manifest.List, o *Options, depth int) (v1.Descriptor, error) {
	images, nested := *list, []v1.Descriptor(nil)
	images.Instances = nil
	for _, d := range list.Instances {
		if !manifest.IsList(d.MediaType) {
			images.Instances = append(images.Instances, d)
		} else if p, ok := manifest.PlatformOf(d); !ok || manifest.MatchPlatform(*o.Platform, p) {
			nested = append(nested, d)
		}
	}
	best, notHere := images.Choose(*o.Platform, o.Prefer)
	if notHere == nil || !errors.Is(notHere, manifest.ErrNotFound) {
		return best, notHere
	}
	for _, d := range nested {
		_, below, err := g.nested(ctx, d, depth)
		if err != nil {
			return d, err
		}
		if best, err = g.choose(ctx, below, o, depth+1); !errors.Is(err, manifest.ErrNotFound) {
			return best, err
		}
	}
	return best, notHere
}

// expand makes the tree of a list's entries. It reads lists, but no instance yet.
func (g *gatherer) expand(ctx context.Context, list *manifest.List, depth int) ([]instance, error) {
	if g.entries.Add(int64(len(list.Instances))) > maxInstances {
		return nil, fmt.Errorf("list %s: more than %d entries in all: %w", list.Digest, maxInstances, manifest.ErrUnsupported)
	}
	out := make([]instance, len(list.Instances))
	return out, forEach(ctx, len(out), func(ctx context.Context, i int) (err error) {
		in := &out[i]
		in.desc = list.Instances[i]
		if !manifest.IsList(in.desc.MediaType) {
			return nil
		}
		if in.doc, in.list, err = g.nested(ctx, in.desc, depth); err != nil {
			if g.leaveOut(in, err) || g.broken(in, err) {
				return nil
			}
			return err
		}
		in.children, err = g.expand(ctx, in.list, depth+1)
		return err
	})
}

// nested reads a list that is an entry of a list with that many lists above its own entries.
func (g *gatherer) nested(ctx context.Context, d v1.Descriptor, depth int) (document, *manifest.List, error) {
	if depth >= maxDepth {
		return document{}, nil, fmt.Errorf("list %s: more than %d lists in each other: %w", d.Digest, maxDepth, manifest.ErrUnsupported)
	}
	l, err := g.lists.do(ctx, entryKey{d.Digest, d.MediaType}, func() (l listDocument, err error) {
		if err := g.slots.Acquire(ctx, 1); err != nil {
			return l, err
		}
		defer g.slots.Release(1)
		if l.document, err = g.src.manifest(ctx, d); err == nil {
			l.list, err = manifest.ParseList(l.raw, l.mediaType)
		}
		return l, err
	})
	return l.document, l.list, err
}

// broken notes why an entry cannot be described. Any other entry can, and the reason is no failure to ask for it.
func (g *gatherer) broken(in *instance, err error) bool {
	reasons := []error{manifest.ErrDigestMismatch, manifest.ErrMalformed, manifest.ErrSentinel, manifest.ErrUnsupported}
	if !g.lenient || !notThere(err) && !slices.ContainsFunc(reasons, func(r error) bool { return errors.Is(err, r) }) {
		return false
	}
	in.skipped, in.why = true, err
	return true
}

// load reads the instances that were not left out.
func (g *gatherer) load(ctx context.Context, instances []instance) error {
	return forEach(ctx, len(instances), func(ctx context.Context, i int) error {
		in := &instances[i]
		switch {
		case in.skipped:
			return nil
		case in.list != nil:
			return g.load(ctx, in.children)
		}
		loaded, err := g.image(ctx, in.desc)
		if g.leaveOut(in, err) || g.broken(in, err) {
			return nil
		}
		loaded.desc = in.desc // an entry of its own, even if the image is listed twice
		*in = loaded
		return err
	})
}

func (g *gatherer) image(ctx context.Context, d v1.Descriptor) (instance, error) {
	return g.images.do(ctx, entryKey{d.Digest, d.MediaType}, func() (instance, error) {
		if err := g.slots.Acquire(ctx, 1); err != nil {
			return instance{}, err
		}
		defer g.slots.Release(1)
		doc, err := g.src.manifest(ctx, d)
		if err == nil && isSchema1(doc.mediaType) {
			err = fmt.Errorf("manifest %s: schema 1 in a list: %w", doc.digest, manifest.ErrUnsupported)
		}
		if err != nil {
			return instance{}, err
		}
		in, err := readInstance(ctx, g.src, d, doc)
		if err == nil {
			err = g.whole(ctx, in)
		}
		return in, err
	})
}

// serves refuses a single image that is not for the platform asked for.
func (in instance) serves(p v1.Platform) error {
	if in.schema1 != nil { // whose systems were all linux
		in.image = &manifest.Image{Config: &manifest.Config{Platform: v1.Platform{OS: "linux", Architecture: in.schema1.Architecture}}}
	}
	if in.image == nil {
		return fmt.Errorf("%s is no container image, so it is for no platform: %w", in.doc.digest, ErrNotFound)
	}
	if have := in.image.Config.Platform; !manifest.MatchPlatform(p, have) {
		return fmt.Errorf("%s is an image for %s, not %s: %w", in.doc.digest, manifest.FormatPlatform(have), manifest.FormatPlatform(p), ErrNotFound)
	}
	return nil
}

// oneKind refuses a choice of kind for a whole list.
func oneKind(list document) error {
	return fmt.Errorf("plain or sentinel is a choice for one platform, and of the list %s no one platform was asked for: %w", list.digest, ErrUsage)
}

// preferred refuses a single image of another kind than the one asked for.
func (in instance) preferred(p manifest.Prefer) error {
	variant := in.image != nil && in.image.Sentinel()
	switch {
	case p == manifest.OnlyVariant && !variant:
		return fmt.Errorf("%s is no sentinel variant: %w", in.doc.digest, ErrNotFound)
	case p == manifest.OnlyPlain && variant:
		return fmt.Errorf("%s is a sentinel variant, and not a plain image: %w", in.doc.digest, ErrNotFound)
	}
	return nil
}

func descriptorOf(d document) v1.Descriptor {
	return v1.Descriptor{MediaType: d.mediaType, Digest: d.digest, Size: int64(len(d.raw))}
}

// readInstance parses a manifest and its config. What is no container image is an artifact and stays as it is.
func readInstance(ctx context.Context, src source, d v1.Descriptor, doc document) (instance, error) {
	in := instance{desc: d, doc: doc}
	if isSchema1(doc.mediaType) {
		return readSchema1(ctx, src, in)
	}
	m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
	if err != nil && doc.mediaType != "" && !manifest.IsManifest(doc.mediaType) {
		if in.blobs, err = blobsOfUnknown(doc.raw); err == nil {
			return in, nil
		}
		err = fmt.Errorf("media type %.100q: %w", doc.mediaType, err)
	}
	if err != nil {
		return in, fmt.Errorf("manifest %s: %w", doc.digest, err)
	}
	if !isImage(m) {
		in.blobs = append([]v1.Descriptor{m.Config}, m.Layers...)
		return in, nil
	}
	raw, err := readBlob(ctx, src, m.Config, manifest.MaxConfigSize)
	if err != nil {
		return in, fmt.Errorf("config of %s: %w", doc.digest, err)
	}
	c, err := manifest.ParseConfig(raw)
	if err != nil {
		return in, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	in.image, err = manifest.NewImage(m, c)
	if err != nil {
		return in, fmt.Errorf("image %s: %w", doc.digest, err)
	}
	return in, nil
}

// isImage tells container images from artifacts (attestations, signatures, charts), whose config or layers are of
// other types. What has a sentinel of whatever type is no artifact: it is an image, or refused as one.
func isImage(m *manifest.Manifest) bool {
	if m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != manifest.DockerConfig {
		return false
	}
	for _, l := range m.Layers {
		if !manifest.IsLayer(l.MediaType) && !manifest.IsSentinelType(l.MediaType) && !manifest.IsSentinelDigest(l.Digest) {
			return false
		}
	}
	return true
}

// readBlob reads a small blob whole.
func readBlob(ctx context.Context, src source, d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed: %w", d.Digest, d.Size, limit, manifest.ErrMalformed)
	}
	r, err := src.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return manifest.Covered(raw, d.Digest)
}
