package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// checkPrepared refuses what Options.Snapshotter does not go with. It is pure.
func checkPrepared(src, dst manifest.Ref, o *Options) error {
	switch {
	case o.Snapshotter == "":
		return nil
	case dst.Transport != manifest.Containerd:
		return fmt.Errorf("%s has no snapshotters: %w", dst, ErrUsage)
	case src.Transport != manifest.Docker:
		return fmt.Errorf("a snapshotter reads layers from a registry, and not from %s: %w", src, ErrUsage)
	case o.Platform == nil:
		return fmt.Errorf("a snapshotter is given one image, so one platform has to be said: %w", ErrUsage)
	}
	return nil
}

// runPrepared has containerd's snapshotter answer for a variant's layers, and names the image last. What it made goes
// again when it fails: everything is under one lease.
func runPrepared(ctx context.Context, judge *judged, dst manifest.Ref, s situation, snapshotter string) (_ *Result, err error) {
	to, err := createContainerd(judge.env, dst)
	if err != nil {
		return nil, err
	}
	w, err := to.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			err = to.close()
		} else {
			err = errors.Join(err, w.Discard(ctx))
		}
	}()
	im := s.instances[0].image
	if err := w.Put(ctx, im.Manifest.Config, bytes.NewReader(im.Config.Raw)); err != nil {
		return nil, err
	}
	if err := to.putManifest(ctx, s.top); err != nil {
		return nil, err
	}
	c := chainOf(im)
	c.Snapshotter, c.Image = snapshotter, judge.ref.StoreName()
	if err := w.Prepare(ctx, c); err != nil {
		// A place that turns out to have no ranges lacks a capability, and only then there is another way.
		return nil, errors.Join(err, probeRanges(ctx, judge.source, im))
	}
	if err := w.Name(ctx, dst.StoreName(), descriptorOf(s.top)); err != nil {
		return nil, err
	}
	return &Result{Digest: s.top.digest, MediaType: s.top.mediaType, Instances: 1}, nil
}

// unchanged refuses a plan that edits what a snapshotter can only take as it is. It is pure.
func (p *copyPlan) unchanged(s situation) error {
	if p.top != topKeep || p.naming.changes {
		return fmt.Errorf("%s would have to be changed, and what is prepared by its registry's layers stays as it is: %w", s.top.digest, ErrPreserve)
	}
	return nil
}

// chainOf is what a snapshotter is asked for of a variant. Where a sentinel's media type is no layer's to containerd it
// gives no blob for it, and neither is one given here. It is pure.
func chainOf(im *manifest.Image) containerd.Chain {
	c := containerd.Chain{Manifest: im.Manifest.Digest, Config: im.Manifest.Config.Digest}
	for i, id := range manifest.ChainIDs(im.Config.DiffIDs) {
		l := containerd.ChainLayer{ID: id}
		if i > 0 || im.Layers[i].MediaType != manifest.SentinelTypeUpstream {
			l.Blob = im.Layers[i].Digest
		}
		c.Layers = append(c.Layers, l)
	}
	return c
}

// probeRanges reads a byte of a variant's first layer: registry.ErrNoRanges if its place turns out to serve whole blobs
// only. Whatever else happens says nothing about that, and is nil.
func probeRanges(ctx context.Context, from source, im *manifest.Image) error {
	layers := im.DataLayers()
	if len(layers) == 0 || layers[0].TOC == nil {
		return nil
	}
	src, _ := from.ranged(layers[0].Descriptor)
	if src == nil {
		return nil
	}
	one := []chunked.Range{{Off: layers[0].TOC.TOC.Off, Len: 1}}
	err := src.ReadRanges(ctx, one, func(_ chunked.Range, body io.Reader) error {
		_, err := io.Copy(io.Discard, body)
		return err
	})
	if errors.Is(err, registry.ErrNoRanges) {
		return err
	}
	return nil
}
