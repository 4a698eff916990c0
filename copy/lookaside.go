package copy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

const fileScheme = "file"

// lookaside reads the simple signatures of a manifest below a base URL.
func (d *docker) lookaside(ctx context.Context, base string, of digest.Digest) ([]policy.Signature, error) {
	return numbered(func(n int) ([]byte, error) {
		u, err := policy.LookasideURL(base, d.ref, of, n)
		if err != nil {
			return nil, err
		}
		if u.Scheme == fileScheme {
			return readLimited(u.Path, policy.MaxSignatureSize)
		}
		raw, err := d.client.Fetch(ctx, u.String(), policy.MaxSignatureSize)
		if errors.Is(err, registry.ErrNotFound) {
			return nil, fs.ErrNotExist
		}
		return raw, err
	})
}

// lookasideWritable is nil if signatures can be written below base.
func lookasideWritable(ref manifest.Ref, base string) error {
	if base == "" {
		return fmt.Errorf("nothing says where simple signatures of %s are kept (a lookaside of registries.d); --remove-signatures copies without them: %w", ref.Repository(), ErrUsage)
	}
	u, err := policy.LookasideURL(base, ref, digest.FromString(""), 1)
	if err != nil {
		return err
	}
	if u.Scheme != fileScheme {
		return fmt.Errorf("the lookaside %s of %s can only be read; lookaside-staging may name a directory to write to: %w", base, ref.Repository(), ErrUsage)
	}
	return nil
}

// putLookaside replaces the simple signatures of a manifest. Without signatures and a place for them there is nothing
// to do.
func (d *docker) putLookaside(of digest.Digest, sigs []policy.Signature) error {
	base := d.places().Write
	if err := lookasideWritable(d.ref, base); err != nil {
		if len(sigs) == 0 {
			return nil
		}
		return err
	}
	return putNumbered(sigs, func(n int, raw []byte) error {
		u, err := policy.LookasideURL(base, d.ref, of, n)
		if err != nil {
			return err
		}
		if raw == nil {
			return os.Remove(u.Path)
		}
		return replaceFile(u.Path, raw, 0o644)
	})
}
