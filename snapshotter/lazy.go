package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// request is one extraction under way: what all its steps share.
type request struct {
	extraction
	key   string
	chain chain
	opts  []snapshots.Opt
}

// extract answers a Prepare that wants a layer unpacked: ErrAlreadyExists when the
// layer needs no unpacking, an ordinary snapshot when it does, another error when
// neither may be. On the sentinel, and in images whose TOC is their only meaning, a
// failure is never answered with an ordinary snapshot.
func (s *Snapshotter) extract(ctx context.Context, x extraction, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	c, err := s.chainUnder(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", key, available(err))
	}
	q := request{extraction: x, key: key, chain: c, opts: opts}
	if x.claimsSentinel() {
		return nil, s.extractSentinel(ctx, q)
	}
	only := c.sentinel
	switch {
	case !s.lazily():
		err = errOrdinary
	case !x.identified():
		err = errNoLabels
	default:
		var trust manifest.Trust
		trust, err = s.extractLazily(ctx, q)
		// A layer that was found to be another one as tar is not tried as tar now: that would hide an attack (S26).
		only = only || trust == manifest.TOCOnly || errors.Is(err, manifest.ErrSentinel) || errors.Is(err, fill.ErrDiffID)
	}
	switch {
	case errdefs.IsAlreadyExists(err):
		return nil, err
	case only:
		// Returned too: who pulls may show little of it, and the operator looks here.
		s.log.Warn("layer is refused", "image", x.image, "layer", x.layer, "reason", err)
		return nil, fmt.Errorf("prepare layer %s of %q: %w", x.layer, x.image, classed(err))
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	s.log.Info("layer is unpacked by containerd", "image", x.image, "layer", x.layer, "reason", err)
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// available gives err the class of what passes when another process locks the store.
func available(err error) error {
	if errors.Is(err, store.ErrLocked) {
		return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
	}
	return err
}

// classed gives err a class that survives the socket, so that the client shows
// something better than "unknown".
func classed(err error) error {
	err = available(err)
	if errdefs.IsUnavailable(err) || errdefs.IsCanceled(err) || errdefs.IsFailedPrecondition(err) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: not ready in time, going on; pull again: %w", errdefs.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
}

// extractSentinel answers the Prepare of the sentinel itself. containerd tells its own
// digest with it, or none where its media type is no layer type; another one is that of
// a tar layer that claims the sentinel's diff_id.
func (s *Snapshotter) extractSentinel(ctx context.Context, q request) error {
	var err error
	switch {
	case !q.labelled:
		err = errNoRef
	case q.layer != "" && q.layer != q.ref:
		err = fmt.Errorf("tar layer %s claims to be the sentinel", q.layer)
	case q.chain.name != "":
		err = fmt.Errorf("the sentinel above %q", q.chain.name)
	case !s.lazily():
		err = errOrdinary
	default:
		if err = s.beginsWithSentinel(ctx, q); err == nil {
			return s.answer(ctx, q, row{Sentinel: true})
		}
	}
	s.log.Warn("sentinel is refused", "image", q.image, "reason", err)
	return fmt.Errorf("prepare %q: %w", q.key, classed(err))
}

// restoreSentinel commits the sentinel's snapshot, which containerd remembers and this
// store does not.
func (s *Snapshotter) restoreSentinel(ctx context.Context, d digest.Digest) error {
	q := request{extraction: extraction{ref: d, labelled: true}, key: extractPrefix + "restored " + d.String()}
	q.opts = []snapshots.Opt{snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotRef: d.String()})}
	err := s.answer(ctx, q, row{Sentinel: true})
	if errdefs.IsAlreadyExists(err) {
		s.log.Warn("containerd knows a sentinel that this store does not, so the store was lost or replaced; it is there again, and images that were pulled before have to be removed and pulled again")
		return nil
	}
	return err
}

// beginsWithSentinel looks at the image whose sentinel q is about, where q names one:
// what only looks like a variant is refused at its first layer.
func (s *Snapshotter) beginsWithSentinel(ctx context.Context, q request) error {
	if !q.identified() {
		return nil
	}
	wctx, cancel := context.WithTimeout(ctx, s.o.PrepareTimeout)
	defer cancel()
	im, err := s.images.get(wctx, q.extraction)
	if err == nil && (!im.Sentinel() || im.chains[0] != q.ref) {
		err = fmt.Errorf("image %s does not begin with the sentinel", q.manifest)
	}
	return err
}

// extractLazily answers q with ErrAlreadyExists, or says why not; and, if it came to
// know it, what reading of the image may be used.
func (s *Snapshotter) extractLazily(ctx context.Context, q request) (manifest.Trust, error) {
	wctx, cancel := context.WithTimeout(ctx, s.o.PrepareTimeout)
	defer cancel()
	im, err := s.images.get(wctx, q.extraction)
	if err != nil {
		return 0, err
	}
	i, d, err := s.decideLayer(q, im)
	for try := 0; err == nil; try++ {
		var layers []uint64
		if layers, err = s.images.layers(wctx, q.image, im); err == nil && d == complete {
			err = s.complete(wctx, im, layers, i)
		}
		if err != nil {
			break
		}
		if err = s.answerLayer(ctx, q, im, i, layers[i]); try == 0 && errors.Is(err, store.ErrNotFound) {
			im.keep(nil, time.Time{}) // somebody emptied the store by hand; fetch again
			err = nil
		}
	}
	return im.Trust, err
}

// decideLayer finds the layer of im that q is about, and decides; an error if it shall
// not be answered from its TOC.
func (s *Snapshotter) decideLayer(q request, im *image) (int, decision, error) {
	i := slices.Index(im.chains, q.ref)
	if i < 0 {
		return 0, refuse, fmt.Errorf("%s is no chain id of image %s", q.ref, q.manifest)
	}
	if l := im.Layers[i]; l.Digest != q.layer {
		return 0, refuse, fmt.Errorf("layer %d of image %s is %s, not %s", i, q.manifest, l.Digest, q.layer)
	}
	var below digest.Digest
	if i > 0 {
		below = im.chains[i-1]
	}
	d, reason := decide(im.Image, i, q.chain.parent(below), s.policy)
	if d != lazy && d != complete {
		return i, d, errors.New(reason)
	}
	return i, d, nil
}

// answerLayer commits layer i of im, number n in the store. The last layer's view is
// made ahead of time, because that is what containers will stand on.
func (s *Snapshotter) answerLayer(ctx context.Context, q request, im *image, i int, n uint64) error {
	l := im.Layers[i]
	rw := row{Layer: n, TOC: l.TOC.Digest}
	if im.Trust == manifest.TOCUnbound {
		var err error
		if rw.Claim, err = s.unproved(n, l.DiffID); err == nil && rw.Claim != "" {
			err = s.pool.Provable(n) // or the claim would stay one for ever
		}
		if err != nil {
			return err
		}
	}
	if i == len(im.Layers)-1 {
		var err error
		if rw.View, err = s.pool.ViewOf(ctx, q.chain.with(rw).shows()); err != nil {
			return fmt.Errorf("view of image %s: %w", q.manifest, err)
		}
	}
	err := s.answer(ctx, q, rw)
	if rw.View != 0 && errdefs.IsAlreadyExists(err) {
		s.images.done(im) // from here on the snapshots hold the layers
	}
	return err
}

// answer commits a lazy snapshot under q.ref and returns ErrAlreadyExists, also when
// an equal one is there already: namespaces share it.
func (s *Snapshotter) answer(ctx context.Context, q request, rw row) error {
	err := s.update(ctx, func(ctx context.Context, r rows) error {
		if id, info, _, err := storage.GetInfo(ctx, q.ref.String()); err == nil {
			return s.share(r, id, info, q, rw)
		} else if !errdefs.IsNotFound(err) {
			return err
		}
		sn, err := storage.CreateSnapshot(ctx, snapshots.KindActive, q.key, q.chain.name, q.opts...)
		if err != nil {
			return err
		}
		return s.furnish(sn.ID, func() error {
			if err := s.record(r, sn.ID, rw); err != nil {
				return err
			}
			_, err := storage.CommitActive(ctx, q.key, q.ref.String(), snapshots.Usage{}, q.opts...)
			return err
		})
	})
	if errdefs.IsAlreadyExists(err) { // the key; only our own answer may have this class
		return fmt.Errorf("answer %s: %w: %v", q.ref, errdefs.ErrFailedPrecondition, err)
	}
	if err != nil {
		return fmt.Errorf("answer %s: %w", q.ref, err)
	}
	if rw.View != 0 { // the image's last layer: from here on it waits for nobody
		s.pool.Background(q.chain.with(rw).layers())
	}
	if rw.Claim != "" {
		s.verifyClaims(ctx, []claim{{rw.Layer, rw.TOC, rw.Claim}})
	}
	return fmt.Errorf("snapshot %s needs no unpacking: %w", q.ref, errdefs.ErrAlreadyExists)
}

// share answers q with the committed snapshot id that has its name, if that stands for
// the same TOC on the same parent.
func (s *Snapshotter) share(r rows, id string, info snapshots.Info, q request, rw row) error {
	have, err := r.get(id)
	switch {
	case err != nil:
		return err
	case have.Denied != "":
		return fmt.Errorf("%w: %w: %s", errdefs.ErrFailedPrecondition, fill.ErrDiffID, have.Denied)
	case !have.lazy() || have.Sentinel != rw.Sentinel || have.TOC != rw.TOC:
		return fmt.Errorf("%w: the chain id is taken for TOC %q, this image has %q", errdefs.ErrFailedPrecondition, have.TOC, rw.TOC)
	case info.Parent != q.chain.name || info.Labels[snapshots.LabelSnapshotRef] != q.ref.String():
		return fmt.Errorf("%w: a snapshot of that name stands on %q, not on %q", errdefs.ErrFailedPrecondition, info.Parent, q.chain.name)
	case rw.Layer == have.Layer && (rw.View == 0 || rw.View == have.View):
		return nil
	}
	have.Layer = rw.Layer // another one if the store was replaced since
	if rw.View != 0 {
		have.View = rw.View
	}
	return s.record(r, id, have)
}
