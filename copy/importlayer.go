package copy

import (
	"context"
	"errors"
	"fmt"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// layerWay is how a layer comes into the store.
type layerWay int

const (
	byTOC         layerWay = iota + 1 // its TOC is its only meaning
	byTOCVerified                     // by TOC, then the tar is rebuilt and compared
	byTar                             // unpacked, the tar compared on the way
)

// wayOf decides how a layer of an image is brought in (design.md 5). ranges says whether the source has them.
func wayOf(l manifest.Layer, trust manifest.Trust, ranges bool) (layerWay, error) {
	usable := l.Provable()
	switch {
	case trust == manifest.TOCOnly && !ranges:
		return 0, fmt.Errorf("a sentinel image is read by ranges, and this source has none: %w", registry.ErrNoRanges)
	case trust == manifest.TOCOnly:
		return byTOC, nil
	case usable && ranges:
		return byTOCVerified, nil
	}
	return byTar, nil
}

// layer brings one layer in and returns its number in the store.
func (im *importer) layer(ctx context.Context, trust manifest.Trust, l manifest.Layer) (uint64, error) {
	if err := im.slots.Acquire(ctx, 1); err != nil {
		return 0, err
	}
	defer im.slots.Release(1)
	if n, ok, err := im.reuse(trust, l); err != nil || ok {
		return n, err
	}
	src, where := im.ranged(l.Descriptor)
	way, err := wayOf(l, trust, src != nil)
	if err != nil {
		return 0, err
	}
	meter := im.env.progress().Start("pull "+shortDigest(l.Digest), l.Size)
	var n uint64
	if way != byTar {
		n, err = im.bring(ctx, l, way, fill.LayerSpec{Blob: l.Descriptor, TOC: l.TOC, Source: where}, meteredRanges{src, meter})
	}
	if way == byTOCVerified && errors.Is(err, chunked.ErrUnsayable) {
		im.note("layer %s is taken from its tar, because nothing can prove its table of contents: %v", l.Digest, err)
		way = byTar
	}
	if way == byTar || way == byTOCVerified && errors.Is(err, registry.ErrNoRanges) {
		// A place that turned out to have no ranges lacks a capability, so the tar will do under its own rules.
		n, err = im.tarLayer(ctx, l, meter)
	}
	meter.Done(err)
	return n, err
}

// reuse finds a layer that is here whole: of a plain image one whose tar this machine verified to be the one that the
// config names, of a variant none, because its TOC has to be looked at anyway.
func (im *importer) reuse(trust manifest.Trust, l manifest.Layer) (uint64, bool, error) {
	if stored, ok := im.from.(*storeSource); ok {
		n, err := stored.layerOf(l.Digest, trust == manifest.TOCOnly)
		if err != nil {
			return 0, false, err
		}
		return n, true, im.keep(n)
	}
	if trust == manifest.TOCOnly {
		return 0, false, nil
	}
	row, err := im.env.Store.LayerByDiffID(l.DiffID)
	if err == nil {
		err = im.env.Store.LayerFiles(row)
	}
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		return 0, false, nil // damaged is as good as not there: it is taken in again
	}
	if err != nil {
		return 0, false, err
	}
	err = im.keep(row.Number)
	if errors.Is(err, store.ErrNotFound) { // gc was faster
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	layer, err := im.env.Pool.Layer(row.Number)
	if errors.Is(err, chunked.ErrMalformed) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	objects, err := layer.Objects()
	if err != nil {
		return 0, false, err
	}
	for _, o := range objects {
		if !im.env.Store.HasObject(o.Digest, o.Size) {
			return 0, false, nil
		}
	}
	return row.Number, true, nil
}

// bring takes a layer in by its table of contents, with all its files.
func (im *importer) bring(ctx context.Context, l manifest.Layer, way layerWay, spec fill.LayerSpec, src fill.Source) (uint64, error) {
	pool := im.env.Pool
	n, err := pool.AddLayer(ctx, spec, src)
	if err != nil {
		return 0, err
	}
	if err := im.keep(n); err != nil {
		return 0, err
	}
	if way == byTOCVerified {
		return n, pool.VerifyDiffID(ctx, n, l.DiffID)
	}
	layer, err := pool.Layer(n)
	if err != nil {
		return 0, err
	}
	return n, layer.Ensure(ctx, nil, fill.Foreground)
}

// keep adds a layer to the copy's pin before its objects are looked for.
func (im *importer) keep(n uint64) error {
	return im.hold(func(t *store.PinTarget) { t.Layers = append(t.Layers, n) })
}

// hold adds to what gc leaves alone until this copy is over.
func (im *importer) hold(add func(*store.PinTarget)) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	add(&im.target)
	return im.env.Store.Pin(im.pin, im.target, store.PinOptions{Process: true})
}
