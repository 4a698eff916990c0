package snapshotter

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// heal brings back the layer of a committed snapshot that the store does not have any more,
// from where the image was pulled.
func (s *Snapshotter) heal(ctx context.Context, info snapshots.Info, rw row) error {
	_, lost := s.locate(chain{}.with(rw))
	if !errdefs.IsFailedPrecondition(lost) {
		return lost
	}
	x, _ := parseExtraction("", info.Labels)
	if !x.identified() {
		return lost
	}
	wctx, cancel := context.WithTimeout(ctx, s.o.PrepareTimeout)
	defer cancel()
	n, err := s.fetchAgain(wctx, x, rw.TOC)
	if err != nil {
		return classed(fmt.Errorf("%w: %w", lost, err))
	}
	s.log.Info("layer is back in the store", "snapshot", info.Name, "image", x.image, "layer", n)
	return s.update(ctx, func(ctx context.Context, r rows) error {
		id, _, _, err := storage.GetInfo(ctx, info.Name)
		if err != nil {
			return err
		}
		now, err := r.get(id)
		if err != nil || now.TOC != rw.TOC {
			return err
		}
		now.Layer, now.View = n, 0
		return s.record(r, id, now)
	})
}

// fetchAgain makes the layers of the image known that x names, and gives the number of the one with the TOC.
func (s *Snapshotter) fetchAgain(ctx context.Context, x extraction, toc digest.Digest) (uint64, error) {
	im, err := s.images.get(ctx, x)
	if err != nil {
		return 0, err
	}
	layers, err := s.images.layers(ctx, x.image, im)
	if err != nil {
		return 0, err
	}
	for i, l := range im.Layers {
		if l.TOC != nil && l.TOC.Digest == toc {
			return layers[i], nil
		}
	}
	return 0, fmt.Errorf("image %s has no layer with TOC %s", x.manifest, toc)
}
