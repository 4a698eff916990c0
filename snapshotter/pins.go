package snapshotter

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"

	"github.com/tocsin/tocsin/store"
)

// Every snapshot that needs content has the pin "snapshot/<id>". It is written before
// the snapshot's record and removed after it, so content is never missing under a
// snapshot; a pin that a crash left over is dropped at the next start.
const pinPrefix = "snapshot/"

func (s *Snapshotter) pin(id string, rw row) error {
	var t store.PinTarget
	if rw.Layer != 0 {
		t.Layers = []uint64{rw.Layer}
	}
	if rw.View != 0 {
		t.Views = []uint64{rw.View}
	}
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

// restore opens metadata.db, which takes its lock, and drops pins of snapshots that it
// does not know. Nothing else is looked at: what a snapshot needs is found when it is
// mounted, so one that cannot be restored fails alone.
func (s *Snapshotter) restore(ctx context.Context) error {
	var known map[string]string
	err := s.update(ctx, func(ctx context.Context, _ rows) (err error) {
		if known, err = storage.IDMap(ctx); errdefs.IsNotFound(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if s.store == nil {
		return nil
	}
	pins, err := s.store.Pins(pinPrefix)
	if err != nil {
		return err
	}
	for _, p := range pins {
		id := strings.TrimPrefix(p.ID, pinPrefix)
		if _, ok := known[id]; !ok {
			s.unpin(id)
		}
	}
	return nil
}
