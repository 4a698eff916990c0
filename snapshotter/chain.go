package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/store"
)

// chain is what stands under a new snapshot: its parents, lazy ones merged into one
// view at the bottom, ordinary ones as directories above it.
type chain struct {
	name     string      // the topmost parent, "" for none
	dirs     []string    // ids of the ordinary parents, topmost first
	stack    []lazyLayer // of the lazy ones, lowest first
	lazy     bool        // there are lazy ones; with no layers that is the sentinel alone
	sentinel bool        // the lowest one is the sentinel
}

// lazyLayer is what a lazy snapshot shows. The TOC says what it is; the number says where the store has it now.
type lazyLayer struct {
	toc   digest.Digest
	n     uint64 // 0 until the layer was located
	claim digest.Digest
}

// claim is a diff_id that a lazy layer's image gives it and that is still to be
// compared with the layer's tar.
type claim struct {
	layer  uint64
	toc    digest.Digest // of the layer
	diffID digest.Digest
}

// layers are the store's numbers of c's lazy layers, lowest first.
func (c chain) layers() []uint64 {
	out := make([]uint64, len(c.stack))
	for i, l := range c.stack {
		out[i] = l.n
	}
	return out
}

func (c chain) claims() (out []claim) {
	for _, l := range c.stack {
		if l.claim != "" {
			out = append(out, claim{l.n, l.toc, l.claim})
		}
	}
	return out
}

// locate finds c's lazy layers in the store by what they are. The numbers in rows are those of the day they were
// written, and an index that was lost, replaced or set back since gives them to others.
func (s *Snapshotter) locate(c chain) (chain, error) {
	if !s.lazily() || len(c.stack) == 0 {
		return c, nil
	}
	tocs := make([]digest.Digest, len(c.stack))
	for i, l := range c.stack {
		tocs[i] = l.toc
	}
	numbers, err := s.store.LayersByTOC(tocs)
	if errors.Is(err, store.ErrNotFound) {
		return c, fmt.Errorf("%w: the store does not have the image any more; pull it again: %w", errdefs.ErrFailedPrecondition, err)
	}
	if err != nil {
		return c, err
	}
	c.stack = slices.Clone(c.stack)
	for i, n := range numbers {
		c.stack[i].n = n
	}
	return c, nil
}

// shows is the view of c's lazy layers. What rests on claims has one of its own, which
// can be denied without denying it to others who show the same layers and claim nothing.
func (c chain) shows() store.Chain {
	out := store.Chain{Layers: c.layers()}
	if claims := c.claims(); len(claims) > 0 {
		h := digest.Canonical.Digester()
		for _, cl := range claims {
			fmt.Fprintln(h.Hash(), cl.layer, cl.diffID)
		}
		out.Claim = h.Digest()
	}
	return out
}

// with is c with one more lazy layer on top.
func (c chain) with(rw row) chain {
	c.stack = append(slices.Clone(c.stack), lazyLayer{rw.TOC, rw.Layer, rw.Claim})
	return c
}

// parent classifies c for decide. want is the chain id that the image has here: a lazy
// snapshot is committed under it, so another name is another chain.
func (c chain) parent(want digest.Digest) parent {
	p := parent{kind: parentDir, sentinel: c.sentinel}
	switch {
	case c.name == "":
		p.kind = parentNone
	case c.lazy && len(c.dirs) == 0 && c.name == want.String():
		p.kind = parentLazy
	}
	return p
}

// top is the parent itself if it is a directory, else "".
func (c chain) top() string {
	if len(c.dirs) == 0 {
		return ""
	}
	return c.dirs[0]
}

// chainOn collects the chain that ends at the committed snapshot name ("" is none). It is not located.
func chainOn(ctx context.Context, r rows, name string) (chain, error) {
	c := chain{name: name}
	var ids []string // topmost first
	var below []row  // their rows
	for name != "" {
		id, info, _, err := storage.GetInfo(ctx, name)
		if err != nil {
			return chain{}, fmt.Errorf("parent %q: %w", name, err)
		}
		if info.Kind != snapshots.KindCommitted {
			return chain{}, fmt.Errorf("parent %q is not committed: %w", name, errdefs.ErrInvalidArgument)
		}
		rw, err := r.get(id)
		if err != nil {
			return chain{}, err
		}
		ids, below = append(ids, id), append(below, rw)
		name = info.Parent
	}
	for i := len(below) - 1; i >= 0; i-- {
		if err := c.put(ids[i], below[i]); err != nil {
			return chain{}, err
		}
	}
	slices.Reverse(c.dirs) // put went upwards
	return c, nil
}

// put puts one more snapshot on top of c.
func (c *chain) put(id string, rw row) error {
	switch {
	case !rw.lazy():
		c.dirs = append(c.dirs, id)
		return nil
	case len(c.dirs) > 0:
		return fmt.Errorf("lazy snapshot %s above directory %s: %w", id, c.dirs[len(c.dirs)-1], errdefs.ErrDataLoss)
	case rw.Denied != "":
		return fmt.Errorf("snapshot %s is denied: %s: %w", id, rw.Denied, errdefs.ErrFailedPrecondition)
	}
	c.lazy = true
	if rw.Sentinel {
		c.sentinel = true
	} else {
		*c = c.with(rw)
	}
	return nil
}
