package snapshotter

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/store"
)

// Every snapshot that needs content has the pin "snapshot/<id>". It is written before
// the snapshot's record and removed after it, so content is never missing under a
// snapshot; a pin that a crash left over is dropped at the next start.
const pinPrefix = "snapshot/"

// target is what the pin of a snapshot holds.
func (r row) target() (t store.PinTarget) {
	if r.Layer != 0 {
		t.Layers = []uint64{r.Layer}
	}
	if r.View != 0 {
		t.Views = []uint64{r.View}
	}
	return t
}

func (s *Snapshotter) pin(id string, rw row) error {
	t := rw.target()
	if len(t.Layers)+len(t.Views) == 0 {
		return nil
	}
	return s.store.Pin(pinPrefix+id, t, store.PinOptions{})
}

// unpin lets go of what a removed snapshot held. A failure is only a leak until the
// next start.
func (s *Snapshotter) unpin(id string) {
	if s.store == nil {
		return
	}
	if err := s.store.Unpin(pinPrefix + id); err != nil {
		s.log.Warn("pin of a removed snapshot stays until the next start", "id", id, "err", err)
	}
}

// abandon ends what goes on for a layer that a removed snapshot held, unless another
// snapshot or a pull holds it.
func (s *Snapshotter) abandon(layer uint64) {
	if s.store == nil || layer == 0 {
		return
	}
	pins, err := s.store.Pins("")
	if err != nil {
		s.log.Warn("a removed layer may go on being completed", "layer", layer, "err", err)
		return
	}
	if !slices.ContainsFunc(pins, func(p store.PinInfo) bool { return slices.Contains(p.Target.Layers, layer) }) {
		s.pool.Abandon(layer)
	}
}

// restore opens metadata.db, which takes its lock, and makes pins and rows agree: pins
// of snapshots that it does not know are dropped, and those that the store lost, or that
// hold what a number meant in another index, are made again. What a snapshot needs beyond
// that is found when it is mounted, so one that cannot be restored fails alone.
func (s *Snapshotter) restore(ctx context.Context) error {
	return s.update(ctx, func(ctx context.Context, r rows) error {
		known, err := storage.IDMap(ctx)
		if err != nil && !errdefs.IsNotFound(err) || s.store == nil {
			return ignoreNotFound(err)
		}
		pins, err := s.store.Pins(pinPrefix)
		if err != nil {
			return err
		}
		held := map[string]store.PinTarget{}
		for _, p := range pins {
			id := strings.TrimPrefix(p.ID, pinPrefix)
			if _, ok := known[id]; !ok {
				s.unpin(id)
			}
			held[id] = p.Target
		}
		same, err := s.sameStore(r)
		if err != nil {
			return err
		}
		for id := range known {
			if err := s.reconcile(r, id, held[id], same); err != nil {
				return err
			}
		}
		return s.remember(r)
	})
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// sameStore says whether the store is the one that rows speak of, and not an older copy of
// it. From another one no number is handed out that rows know.
func (s *Snapshotter) sameStore(r rows) (bool, error) {
	then, err := r.store()
	if err != nil {
		s.log.Warn("metadata.db does not say which store it is of", "err", err)
		return false, nil
	}
	now, err := s.store.Identity()
	if err != nil || then.ID == "" || now.Knows(then) {
		return err == nil, err
	}
	s.log.Warn("the store was replaced or set back since the daemon ran last: images that it lost are refused until they are pulled again",
		"was", then.ID, "is", now.ID, "epochWas", then.Epoch, "epochIs", now.Epoch)
	return false, s.store.Advance(then)
}

// reconcile compares the row of snapshot id with the store, and its pin with both.
func (s *Snapshotter) reconcile(r rows, id string, held store.PinTarget, same bool) error {
	rw, err := r.get(id)
	if err != nil {
		s.log.Warn("row of a snapshot is damaged", "id", id, "err", err)
		return nil
	}
	want := rw
	if !same {
		want.View = 0 // the next mount makes it
	}
	if rw.TOC != "" {
		n, err := s.store.LayersByTOC([]digest.Digest{rw.TOC})
		if errors.Is(err, store.ErrNotFound) { // Mounts refuses, Stat brings it back
			s.unpin(id)
			want.View = 0
			return r.put(id, want)
		}
		if err != nil {
			return err
		}
		want.Layer = n[0]
	}
	t := want.target()
	if len(t.Layers)+len(t.Views) == 0 && rw.View != 0 {
		s.unpin(id)
		return r.put(id, want)
	}
	if want == rw && slices.Equal(t.Layers, held.Layers) && slices.Equal(t.Views, held.Views) {
		return nil
	}
	err = s.record(r, id, want)
	if errors.Is(err, store.ErrNotFound) { // the view is gone
		want.View = 0
		err = s.record(r, id, want)
	}
	return err
}
