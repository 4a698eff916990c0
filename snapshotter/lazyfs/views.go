package lazyfs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/store"
)

const stale = syscall.ESTALE

// errStale: the view of a node is not in the store any more.
var errStale = errors.New("view is gone")

// view is one mapped tree. Its fields are read by many requests at once; the bytes behind tree stay mapped while the
// views lock is held for reading.
type view struct {
	tree   *chunked.View
	mapped *store.Mapped
	layers []uint64 // store numbers, by the slots that tree.Content gives
	// believed: what it shows rests on a claim that may yet be denied.
	believed bool
}

// views opens views on first use and keeps them mapped until they are dropped.
type views struct {
	store *store.Store
	pool  *fill.Pool

	mu     sync.RWMutex
	open   map[uint64]*view
	denied map[uint64]bool // while this process runs; the store knows them for ever

	failed struct{ views, layers failures }
}

// errDenied: a view was shown on the strength of a claim that proved false.
var errDenied = errors.New("view is denied")

func newViews(st *store.Store, pool *fill.Pool) *views {
	return &views{store: st, pool: pool, open: make(map[uint64]*view), denied: make(map[uint64]bool)}
}

// with runs fn on view n. The tree is not unmapped before fn returns, so fn must not wait for the network.
func (vs *views) with(n uint64, fn func(v *view) error) error {
	for {
		vs.mu.RLock()
		if v := vs.open[n]; v != nil {
			defer vs.mu.RUnlock()
			return fn(v)
		}
		vs.mu.RUnlock()
		if err := vs.load(n); err != nil {
			return err
		}
	}
}

func (vs *views) load(n uint64) error {
	if vs.isDenied(n) {
		return errDenied
	}
	if err := vs.failed.views.get(n, time.Now()); err != nil {
		return err
	}
	v, err := openView(vs.store, n)
	if err != nil {
		err = fmt.Errorf("open view %d: %w", n, err)
	}
	vs.failed.views.note(n, err, time.Now())
	if err != nil {
		return err
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	if vs.denied[n] {
		return errors.Join(errDenied, v.mapped.Close())
	}
	if vs.open[n] != nil {
		return v.mapped.Close()
	}
	vs.open[n] = v
	return nil
}

func openView(st *store.Store, n uint64) (*view, error) {
	chain, err := st.ViewChain(n)
	if err != nil {
		return nil, err
	}
	m, err := st.View(n)
	if err != nil {
		return nil, err
	}
	tree, err := chunked.OpenView(m.Bytes())
	if err == nil && tree.NumLayers() != len(chain.Layers) {
		err = fmt.Errorf("tree of %d layers recorded with %d", tree.NumLayers(), len(chain.Layers))
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return &view{tree: tree, mapped: m, layers: chain.Layers, believed: chain.Claim != ""}, nil
}

func (vs *views) isDenied(n uint64) bool {
	vs.mu.RLock()
	defer vs.mu.RUnlock()
	return vs.denied[n]
}

// layer is a layer of view n.
func (vs *views) layer(n, layer uint64) (*fill.Layer, error) {
	if err := vs.failed.layers.get(layer, time.Now()); err != nil {
		return nil, err
	}
	l, err := vs.pool.Layer(layer)
	if err != nil {
		err = fmt.Errorf("view %d: %w", n, err)
	}
	vs.failed.layers.note(layer, err, time.Now())
	return l, err
}

// size is the size of an entry of a view that is mapped already; mapped is false for one that is not.
func (vs *views) size(n uint64, e uint32) (size int64, mapped bool) {
	vs.mu.RLock()
	defer vs.mu.RUnlock()
	v := vs.open[n]
	if v == nil || int(e) >= v.tree.NumEntries() {
		return 0, false
	}
	return v.tree.Attr(e).Size, true
}

// mayBeDenied says that nobody but us may answer reads of view n, because a denial would not reach them.
func (vs *views) mayBeDenied(n uint64) bool {
	vs.mu.RLock()
	defer vs.mu.RUnlock()
	v := vs.open[n]
	return v == nil || v.believed
}

// shown says that view n may be read. Whoever waited for content asks again: the view may have been denied meanwhile.
func (vs *views) shown(n uint64) error {
	return vs.with(n, func(*view) error { return nil })
}

// deny closes view n for good and returns the entries of it that have content, none if nobody has looked at it.
func (vs *views) deny(n uint64) (entries []uint32, err error) {
	vs.mu.Lock()
	v := vs.open[n]
	delete(vs.open, n)
	vs.denied[n] = true
	vs.mu.Unlock()
	if v == nil {
		return nil, nil
	}
	for e := range uint32(v.tree.NumEntries()) {
		if _, _, ok := v.tree.Content(e); ok {
			entries = append(entries, e)
		}
	}
	return entries, v.mapped.Close()
}

// openFile opens the content of entry e of view n for verified reads. It returns nil for what has no content: empty
// files, and entries that are not regular files.
func (vs *views) openFile(n uint64, e uint32) (*fill.File, error) {
	var layer uint64
	obj := -1
	err := vs.with(n, func(v *view) error {
		if int(e) >= v.tree.NumEntries() {
			return errStale
		}
		if slot, o, ok := v.tree.Content(e); ok {
			layer, obj = v.layers[slot], o
		}
		return nil
	})
	if err != nil || obj < 0 {
		return nil, err
	}
	l, err := vs.layer(n, layer)
	if err != nil {
		return nil, err
	}
	return l.Open(obj)
}

// drop forgets view n; requests for its nodes answer ESTALE once the store has dropped it too.
func (vs *views) drop(n uint64) error {
	vs.mu.Lock()
	v := vs.open[n]
	delete(vs.open, n)
	vs.mu.Unlock()
	if v == nil {
		return nil
	}
	return v.mapped.Close()
}

// sweep drops the views that the store has no more.
func (vs *views) sweep() error {
	vs.mu.RLock()
	open := slices.Collect(maps.Keys(vs.open))
	vs.mu.RUnlock()
	var errs []error
	for _, n := range open {
		if _, err := vs.store.ViewChain(n); errors.Is(err, store.ErrNotFound) {
			errs = append(errs, vs.drop(n))
		}
	}
	return errors.Join(errs...)
}

func (vs *views) close() error {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	var errs []error
	for n, v := range vs.open {
		errs = append(errs, v.mapped.Close())
		delete(vs.open, n)
	}
	return errors.Join(errs...)
}
