package snapshotter

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
)

// Containers asks containerd what runs.
type Containers interface {
	// Running names the containers of a namespace that run on one of the snapshots,
	// which are given by the keys that containerd's clients know.
	Running(ctx context.Context, namespace string, keys []string) ([]string, error)
}

// askTimeout bounds the question what runs: its answer is for the log only, and the
// denial waits for it, because what reads a denied file may be gone afterwards.
const askTimeout = 3 * time.Second

// deny withdraws a claim that proved false. Its snapshots cannot be mounted or built
// upon any more, every read of what shows them fails, running containers included, and
// the log names those. The layer stays: an image that calls it by its right diff_id, or
// claims none, is not to blame for one that does not.
func (s *Snapshotter) deny(ctx context.Context, c claim, cause error) {
	var on standing
	err := s.update(ctx, func(ctx context.Context, r rows) (err error) {
		if on, err = standingOn(ctx, r, c); err != nil {
			return err
		}
		return r.deny(on.claims, cause.Error())
	})
	running := s.running(ctx, on.keys)
	for _, n := range on.views {
		if shown, verr := s.store.ViewChain(n); verr == nil && !slices.Contains(shown.Layers, c.layer) {
			continue // a number from before the store was replaced
		}
		err = errors.Join(err, s.o.DenyView(n, cause.Error()))
	}
	if err != nil {
		s.log.Error("layer with a false diff_id could not be withdrawn", "layer", c.layer, "err", err)
	}
	s.log.Error("layer is denied: its TOC and its tar are not the same", "layer", c.layer, "snapshots", on.names, "running", running, "err", cause)
}

// standing is what a claim carries.
type standing struct {
	claims []string // ids of the snapshots that were committed on the strength of it
	names  []string // their names
	views  []uint64 // everything that shows them
	keys   []string // of the snapshots above them that are in use
}

// standingOn finds what was built on c, directly or not.
func standingOn(ctx context.Context, r rows, c claim) (standing, error) {
	var out standing
	parents, rest, ids := map[string]string{}, map[string]row{}, map[string]string{}
	err := storage.WalkInfo(ctx, func(ctx context.Context, info snapshots.Info) error {
		id, _, _, err := storage.GetInfo(ctx, info.Name)
		if err != nil {
			return err
		}
		rw, err := r.get(id)
		if err != nil {
			return err
		}
		parents[info.Name], rest[info.Name], ids[info.Name] = info.Parent, rw, id
		if info.Kind != snapshots.KindCommitted {
			out.keys = append(out.keys, info.Name)
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	stands := func(name string) bool {
		for ; name != ""; name = parents[name] {
			if rw := rest[name]; rw.claims(c) {
				return true
			}
		}
		return false
	}
	out.keys = slices.DeleteFunc(out.keys, func(key string) bool { return !stands(key) })
	for name, rw := range rest {
		if rw.claims(c) {
			out.claims, out.names = append(out.claims, ids[name]), append(out.names, name)
		}
		if rw.View != 0 && stands(name) && !slices.Contains(out.views, rw.View) {
			out.views = append(out.views, rw.View)
		}
	}
	slices.Sort(out.names)
	return out, nil
}

// claims says whether a snapshot was committed on the strength of c.
func (r row) claims(c claim) bool { return r.TOC == c.toc && r.Claim == c.diffID }

// deny marks snapshots that nothing may stand on any more.
func (r rows) deny(ids []string, reason string) error {
	for _, id := range ids {
		rw, err := r.get(id)
		if err != nil {
			return err
		}
		rw.Denied = reason
		if err := r.put(id, rw); err != nil {
			return err
		}
	}
	return nil
}

// running names the containers on some snapshots as namespace/id; without a containerd to
// ask, or with one that does not answer, the snapshots.
func (s *Snapshotter) running(ctx context.Context, keys []string) (out []string) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for ns, keys := range byNamespace(keys) {
		if s.o.Containers != nil {
			ids, err := s.o.Containers.Running(ctx, ns, keys)
			if err == nil {
				keys = ids
			} else {
				s.log.Warn("containerd does not say what runs", "namespace", ns, "err", err)
			}
		}
		for _, key := range keys {
			out = append(out, ns+"/"+key)
		}
	}
	slices.Sort(out)
	return out
}

// byNamespace takes the keys apart that containerd's metadata makes of namespace,
// number and the client's key.
func byNamespace(keys []string) map[string][]string {
	out := map[string][]string{}
	for _, key := range keys {
		part := strings.SplitN(key, "/", 3)
		if len(part) == 3 {
			out[part[0]] = append(out[part[0]], part[2])
		}
	}
	return out
}
