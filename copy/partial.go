package copy

import (
	"context"
	"errors"
	"fmt"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// partial is a source that may have a list without some of its images, or a manifest without its layers: containerd pulls
// one platform of a list, and lazily not even that. Its errors for what it does not have are ErrNotFound.
type partial interface {
	lacks(ctx context.Context, d v1.Descriptor) (bool, error)
}

// partialOf is the source behind a judgement as a partial one, nil when it is whole or fails.
func partialOf(src source) partial {
	if j, ok := src.(*judged); ok {
		src = j.source
	}
	p, _ := src.(partial)
	return p
}

// whole is ErrNotFound for an image that lacks a blob, before any blob moves.
func (g *gatherer) whole(ctx context.Context, in instance) error {
	if g.partial == nil || !g.copying {
		return nil
	}
	blobs := in.blobs
	if in.image != nil {
		blobs = in.image.Manifest.Layers // the config was read
	}
	for _, d := range blobs {
		if manifest.IsSentinelDigest(d.Digest) {
			continue // whose content everybody knows
		}
		lacks, err := g.partial.lacks(ctx, d)
		if err != nil {
			return err
		}
		if lacks {
			return fmt.Errorf("blob %s of %s is not at the source, which has only a part of this image: %w", d.Digest, in.doc.digest, ErrNotFound)
		}
	}
	return nil
}

// leaveOut skips an entry of a list that a partial source does not have, if nobody asked for it by name.
func (g *gatherer) leaveOut(in *instance, err error) bool {
	if g.partial == nil || !g.sparse || !errors.Is(err, ErrNotFound) {
		return false
	}
	in.skipped, in.absent = true, true
	return true
}

// noneLeft refuses a list of which nothing is there. It is pure.
func noneLeft(top document, instances []instance) error {
	all, gone := countAbsent(instances)
	if len(gone) == 0 || anyCopied(instances) {
		return nil
	}
	return fmt.Errorf("list %s: none of its %d images is all at the source: %w", top.digest, all, ErrNotFound)
}

// absentNote says what was left out of a list, if anything. It is pure.
func absentNote(instances []instance) []string {
	all, gone := countAbsent(instances)
	if len(gone) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the source has not all of %d of the %d images of the list, so the list is copied without them (sparse): %s",
		len(gone), all, listed(gone))}
}

// countAbsent counts the images of lists, and names those that are not there by what they are for.
func countAbsent(instances []instance) (all int, gone []string) {
	for _, in := range instances {
		if in.list != nil {
			n, below := countAbsent(in.children)
			all, gone = all+n, append(gone, below...)
			continue
		}
		all++
		if !in.absent {
			continue
		}
		name := string(in.desc.Digest)
		if p, ok := manifest.PlatformOf(in.desc); ok {
			name = manifest.FormatPlatform(p) + " (" + shortDigest(in.desc.Digest) + ")"
		}
		gone = append(gone, name)
	}
	return all, gone
}
