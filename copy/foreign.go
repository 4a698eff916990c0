package copy

import (
	"context"
	"errors"
	"fmt"
	"io"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// isElsewhere says that a layer is a foreign one whose bytes are at its URLs. Every place that keeps layers as they are
// takes such a descriptor without them (rule 46). Made anew, or taken into the store, it is a layer as any other.
func isElsewhere(d v1.Descriptor) bool { return manifest.IsForeign(d.MediaType) && len(d.URLs) > 0 }

// fetched is the descriptor of a foreign layer that goes with its bytes: an ordinary layer.
func fetched(d v1.Descriptor) v1.Descriptor {
	d.MediaType, d.URLs = manifest.Distributable(d.MediaType), nil
	return d
}

// withForeign is a source that reads foreign layers at their URLs when it does not have them itself. They are compared
// with their digests as all blobs are.
type withForeign struct {
	source
	env  *Env
	near string // the registry that the manifests came from, or ""
}

func newWithForeign(env *Env, src source) source {
	near := ""
	if reg, ok := src.(*docker); ok {
		near = reg.ref.Host
	}
	return &withForeign{source: src, env: env, near: near}
}

func (f *withForeign) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	body, err := f.source.blob(ctx, d)
	if err == nil || !isElsewhere(d) || !notThere(err) {
		return body, err
	}
	for _, address := range d.URLs {
		found, failed := f.env.Registry.FetchUnverified(ctx, f.near, address)
		if failed == nil {
			return newVerified(found, d), nil
		}
		err = errors.Join(err, failed)
	}
	return nil, fmt.Errorf("foreign layer %s: %w", d.Digest, err)
}

func (f *withForeign) layer(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if isElsewhere(d) {
		return f.blob(ctx, d)
	}
	return f.source.layer(ctx, d)
}

// ranged offers no ranges of foreign layers: nobody knows yet where they are.
func (f *withForeign) ranged(d v1.Descriptor) (fill.Source, store.Source) {
	if isElsewhere(d) {
		return nil, store.Source{}
	}
	return f.source.ranged(d)
}
