package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// DefaultGrace is how long gc leaves alone what nothing refers to: longer than any step between writing a file and
// claiming it.
const DefaultGrace = time.Hour

// GCOptions says what GC may do.
type GCOptions struct {
	DryRun bool          // find, and change nothing but the rows of dead pins
	Grace  time.Duration // younger things stay; zero is DefaultGrace, negative is none
	// Objects lists the content that a layer index names; it does not keep the bytes. Nil: objects and partial
	// objects all stay.
	Objects func(index []byte) ([]ObjectRef, error)
	// DropView is called after the row of a view is gone and before its tree is; on error the tree stays for the next
	// gc. Nil: nobody shows views.
	DropView func(n uint64) error
}

// Finding is one thing that GC or Check has to say.
type Finding struct {
	Kind    string // "garbage", "missing", "corrupt" or "kept"
	Object  string // what it is about: "layer 7", or a path below the root
	Problem string
	Bytes   int64 // that the file occupies, where there is one
	Done    bool  // removed or repaired
}

// batchSize bounds the unlinks between two looks at the roots, and so the time that writers of the index wait.
const batchSize = 256

type gcRun struct {
	s       *Store
	ctx     context.Context //nolint:containedctx // lives for one call of GC
	o       GCOptions
	cutoff  time.Time
	yielded string // the lock file of the work that moved cutoff
	marks   *marks
	seen    int             // transaction of the index whose roots are all marked
	gone    map[string]bool // directories of layers and views whose rows went, or would in a dry run
	results []Finding
}

// GC removes what neither names nor pins lead to and no work under way has touched, and tells what. It never blocks a reader; writers of the index wait
// for a batch of unlinks at most. A failed GC has removed a part, in an order that leaves the store whole.
func (s *Store) GC(ctx context.Context, o GCOptions) ([]Finding, error) {
	grace := o.Grace
	if grace == 0 {
		grace = DefaultGrace
	}
	g := &gcRun{s: s, ctx: ctx, o: o, cutoff: s.now().Add(-max(grace, 0)), marks: newMarks(s, o.Objects), gone: map[string]bool{}}
	if err := s.dropDeadPins(ctx); err != nil {
		return nil, fmt.Errorf("gc: dead pins: %w", err)
	}
	for _, step := range []func() error{g.yield, g.sweepRows, g.sweepViews, g.sweepLayers, g.sweepBlobs, g.sweepObjects, g.sweepPartials, g.sweepIngest} {
		if err := step(); err != nil {
			return g.results, fmt.Errorf("gc: %w", err)
		}
	}
	for n, err := range g.marks.damaged {
		g.found("corrupt", fmt.Sprintf("layer %d", n), fmt.Sprintf("nothing was kept for it, because %v; tocsin check --repair", err), 0)
	}
	return g.results, nil
}

func (g *gcRun) found(kind, object, problem string, bytes int64) {
	g.results = append(g.results, Finding{Kind: kind, Object: object, Problem: problem, Bytes: bytes,
		Done: kind == "garbage" && !g.o.DryRun})
}

// settled runs fn inside a transaction in which everything that the roots lead to is marked. What has become
// reachable since the last look is marked first, outside. The roots are nil when the index did not change since.
func (g *gcRun) settled(run func(func(tx *bolt.Tx) error) error, fn func(tx *bolt.Tx, r *roots) error) error {
	for {
		if err := errors.Join(context.Cause(g.ctx), g.yield()); err != nil {
			return err
		}
		var fresh *roots
		err := run(func(tx *bolt.Tx) error {
			if !tx.Writable() && tx.ID() == g.seen { // nobody wrote since; pins that died meanwhile only free more
				return fn(tx, nil)
			}
			r, err := g.s.readRoots(tx, g.cutoff)
			if err != nil {
				return err
			}
			if !g.marks.covers(tx, r) {
				fresh = r
				return nil
			}
			g.seen = tx.ID()
			return fn(tx, r)
		})
		if err != nil || fresh == nil {
			return err
		}
		if err := g.marks.add(fresh); err != nil {
			return err
		}
	}
}

func (g *gcRun) view(fn func(tx *bolt.Tx) error) error { return g.s.viewContext(g.ctx, fn) }

func (g *gcRun) update(fn func(tx *bolt.Tx) error) error { return g.s.updateContext(g.ctx, fn) }

// sweepRows makes the index forget, before any file goes.
func (g *gcRun) sweepRows() error {
	run := g.update
	if g.o.DryRun {
		run = g.view
	}
	return g.settled(run, func(tx *bolt.Tx, r *roots) error {
		if g.marks.unknown != nil {
			g.found("kept", "index.db", fmt.Sprintf("all rows, and blobs, because %v; tocsin check --repair", g.marks.unknown), 0)
			return nil
		}
		return errors.Join(g.forgetRecords(tx, r), g.forgetManifests(tx), g.forgetViews(tx, r), g.forgetLayers(tx, r))
	})
}

func (g *gcRun) delete(tx *bolt.Tx, bucket, key []byte) error {
	if g.o.DryRun {
		return nil
	}
	return tx.Bucket(bucket).Delete(key)
}

func (g *gcRun) forgetRecords(tx *bolt.Tx, r *roots) error {
	var err error
	for _, row := range goodRows[Record](tx, bucketRecords) {
		if !r.records[row.Manifest] {
			g.found("garbage", "record "+string(row.Manifest), "no name", 0)
			err = errors.Join(err, g.delete(tx, bucketRecords, []byte(row.Manifest)))
		}
	}
	return err
}

func (g *gcRun) forgetManifests(tx *bolt.Tx) error {
	var dead [][]byte
	err := tx.Bucket(bucketManifests).ForEach(func(k, v []byte) error {
		if _, reached := g.marks.manifests[digest.Digest(k)]; !reached {
			dead = append(dead, append([]byte(nil), k...))
			g.found("garbage", "manifest "+string(k), "not reached", int64(len(v)))
		}
		return nil
	})
	for _, k := range dead {
		err = errors.Join(err, g.delete(tx, bucketManifests, k), g.delete(tx, bucketSignatures, k), g.delete(tx, bucketKept, k))
	}
	return err
}

func (g *gcRun) forgetViews(tx *bolt.Tx, r *roots) error {
	var err error
	for _, row := range goodRows[viewRow](tx, bucketViews) {
		if r.views[row.Number] {
			continue
		}
		g.gone[viewRel(row.Number)] = true
		err = errors.Join(err, g.delete(tx, bucketViews, numberKey(row.Number)))
		key := row.chain().key()
		if keyNumber(tx.Bucket(bucketViewKeys).Get(key)) == row.Number {
			err = errors.Join(err, g.delete(tx, bucketViewKeys, key))
		}
	}
	return err
}

func (g *gcRun) forgetLayers(tx *bolt.Tx, r *roots) error {
	var err error
	for _, row := range goodRows[LayerRow](tx, bucketLayers) {
		if r.layers[row.Number] {
			continue
		}
		g.gone[layerRel(row.TOC, row.DiffID)] = true
		bucket, key := layerKey(&row)
		err = errors.Join(err, g.delete(tx, bucketLayers, numberKey(row.Number)), g.delete(tx, bucket, key))
	}
	return err
}

// tooYoung says whether somebody may still be about to claim a file or directory that no row names.
func (g *gcRun) tooYoung(path string) bool {
	fi, err := os.Lstat(path)
	return err != nil || young(fi.ModTime(), g.cutoff)
}

// young says whether something of that time is still inside the grace period.
func young(t, cutoff time.Time) bool { return t.After(cutoff) }
