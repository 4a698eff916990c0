package copy

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/tocsin/tocsin/manifest"
)

// readsAtOnce bounds the manifests of one list that are read at once.
const readsAtOnce = 8

// gather reads the manifests and configs that plan needs, and nothing else.
func gather(ctx context.Context, src source, o *Options) (situation, error) {
	top, err := src.top(ctx)
	if err != nil {
		return situation{}, err
	}
	s := situation{top: top}
	if !manifest.IsList(top.mediaType) {
		in, err := readInstance(ctx, src, descriptorOf(top), top)
		if err == nil && o.Platform != nil {
			err = in.serves(*o.Platform)
		}
		s.instances = []instance{in}
		return s, err
	}
	list, err := manifest.ParseList(top.raw, top.mediaType)
	if err != nil {
		return s, fmt.Errorf("list %s: %w", top.digest, err)
	}
	if o.Platform != nil {
		d, err := list.Choose(*o.Platform, o.Prefer)
		if err != nil {
			return s, fmt.Errorf("list %s: %w", top.digest, err)
		}
		in, err := fetchInstance(ctx, src, d)
		s.top, s.instances, s.flattened = in.doc, []instance{in}, true
		return s, err
	}
	s.list = list
	s.instances = make([]instance, len(list.Instances))
	slots := semaphore.NewWeighted(readsAtOnce)
	return s, forEach(ctx, len(list.Instances), func(ctx context.Context, i int) (err error) {
		if err := slots.Acquire(ctx, 1); err != nil {
			return err
		}
		defer slots.Release(1)
		s.instances[i], err = fetchInstance(ctx, src, list.Instances[i])
		return err
	})
}

// serves refuses a single image that is not for the platform asked for.
func (in instance) serves(p v1.Platform) error {
	if in.image == nil {
		return fmt.Errorf("%s is no container image, so it is for no platform: %w", in.doc.digest, ErrNotFound)
	}
	if have := in.image.Config.Platform; !manifest.MatchPlatform(p, have) {
		return fmt.Errorf("%s is an image for %s, not %s: %w", in.doc.digest, manifest.FormatPlatform(have), manifest.FormatPlatform(p), ErrNotFound)
	}
	return nil
}

func descriptorOf(d document) v1.Descriptor {
	return v1.Descriptor{MediaType: d.mediaType, Digest: d.digest, Size: int64(len(d.raw))}
}

func fetchInstance(ctx context.Context, src source, d v1.Descriptor) (instance, error) {
	if manifest.IsList(d.MediaType) {
		return instance{}, fmt.Errorf("instance %s is itself a list, which is not supported yet: %w", d.Digest, manifest.ErrUnsupported)
	}
	doc, err := src.manifest(ctx, d)
	if err != nil {
		return instance{}, err
	}
	return readInstance(ctx, src, d, doc)
}

// readInstance parses a manifest and its config. What is no container image is an artifact and stays as it is.
func readInstance(ctx context.Context, src source, d v1.Descriptor, doc document) (instance, error) {
	in := instance{desc: d, doc: doc}
	m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
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
// other types.
func isImage(m *manifest.Manifest) bool {
	if m.Config.MediaType != v1.MediaTypeImageConfig && m.Config.MediaType != manifest.DockerConfig {
		return false
	}
	for _, l := range m.Layers {
		if !manifest.IsLayer(l.MediaType) && l.MediaType != manifest.SentinelMediaType {
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
	return raw, manifest.CheckBytes(raw, d.Digest)
}
