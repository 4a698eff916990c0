package boltfile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Row is what a walk finds: a key with its value, or a bucket.
type Row struct {
	Path     [][]byte // of the buckets around it, outermost first
	Key      []byte
	Value    []byte // nil for a bucket
	Bucket   bool
	Sequence uint64 // of a bucket
}

// Verify returns the first thing that would lead bbolt astray in a transaction, or nil. It reads every page that is in use.
func (f *File) Verify() error {
	var first error
	w := f.walker(nil, func(err error) bool { first = err; return false })
	w.all()
	return first
}

// Check returns what is wrong with the file, at most limit problems: also a meta page that bbolt does without. Pages that
// are neither in use nor free are no problem.
func (f *File) Check(limit int) []error {
	var problems []error
	w := f.walker(nil, func(err error) bool {
		problems = append(problems, err)
		return len(problems) < limit
	})
	if f.bad != nil {
		w.report(f.bad)
	}
	w.all()
	return problems
}

// Rows calls fn for every row that can still be read, in the order of the file, and returns what could not. The bytes of
// a Row are valid during the call.
func (f *File) Rows(fn func(Row)) []error {
	var problems []error
	w := f.walker(fn, func(err error) bool { problems = append(problems, err); return len(problems) < maxProblems })
	w.tree(f.meta.root, nil, bounds{}, 0)
	return problems
}

// maxProblems is where Rows gives up.
const maxProblems = 10000

type walker struct {
	f       *File
	emit    func(Row)
	problem func(error) bool // false ends the walk
	ended   bool
	used    bitmap // pages that were met
}

func (f *File) walker(emit func(Row), problem func(error) bool) *walker {
	return &walker{f: f, emit: emit, problem: problem, used: newBitmap(f.meta.pages)}
}

func (w *walker) report(err error) { w.ended = w.ended || !w.problem(err) }

// all walks the tree and then the list of free pages, none of which may be in use.
func (w *walker) all() {
	w.tree(w.f.meta.root, nil, bounds{}, 0)
	if !w.ended && w.f.meta.freelist != noFreelist {
		if err := w.freelist(); err != nil {
			w.report(fmt.Errorf("list of free pages: %w", err))
		}
	}
}

// bounds are what keys below a branch must lie between: from is included and to is not; nil is none.
type bounds struct{ from, to []byte }

// tree walks the pages below id, which are part of the bucket at path.
func (w *walker) tree(id uint64, path [][]byte, keys bounds, depth int) {
	if w.ended {
		return
	}
	p, err := w.page(id, depth)
	if err != nil {
		w.report(fmt.Errorf("bucket %q: %w", bytes.Join(path, []byte("/")), err))
		return
	}
	if p.flags == flagBranch {
		w.branch(p, path, keys, depth)
	} else {
		w.leaf(p, path, keys, depth)
	}
}

// page reads a page of a tree, no page twice.
func (w *walker) page(id uint64, depth int) (*page, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("page %d: %w: deeper than %d", id, ErrDamaged, maxDepth)
	}
	p, err := w.f.page(id)
	if err != nil {
		return nil, err
	}
	if p.flags != flagLeaf && (p.flags != flagBranch || p.count == 0) {
		return nil, fmt.Errorf("page %d: %w: flags %#x, %d elements", id, ErrDamaged, p.flags, p.count)
	}
	if !w.used.add(id, p.run) {
		return nil, fmt.Errorf("page %d: %w: it is used twice", id, ErrDamaged)
	}
	return p, nil
}

func (w *walker) branch(p *page, path [][]byte, keys bounds, depth int) {
	var before element
	for i := range int(p.count) {
		e, err := p.element(i)
		if err == nil {
			err = errors.Join(p.follows(e, before, i), keys.take(e.key, i))
		}
		before = e
		if err != nil {
			w.report(fmt.Errorf("page %d: %w", p.id, err))
			if e.key == nil {
				continue
			}
		}
		below := bounds{e.key, keys.to}
		if i+1 < int(p.count) {
			if next, err := p.element(i + 1); err == nil {
				below.to = next.key
			}
		}
		w.tree(e.child, path, below, depth+1)
	}
}

func (w *walker) leaf(p *page, path [][]byte, keys bounds, depth int) {
	var before element
	for i := range int(p.count) {
		if w.ended {
			return
		}
		e, err := p.element(i)
		if err == nil {
			err = errors.Join(p.follows(e, before, i), keys.take(e.key, i))
		}
		before = e
		if err != nil {
			w.report(fmt.Errorf("page %d: %w", p.id, err))
			if e.key == nil {
				continue
			}
		}
		switch {
		case e.bucket:
			w.bucket(e, path, depth)
		case w.emit != nil:
			w.emit(Row{Path: path, Key: e.key, Value: e.value})
		}
	}
}

// bucket walks a bucket whose pages are its own, or which lies inside its parent's page.
func (w *walker) bucket(e element, path [][]byte, depth int) {
	if len(e.value) < bucketHeader {
		w.report(fmt.Errorf("bucket %q: %w: %d bytes", e.key, ErrDamaged, len(e.value)))
		return
	}
	root, sequence := binary.NativeEndian.Uint64(e.value), binary.NativeEndian.Uint64(e.value[8:])
	if w.emit != nil {
		w.emit(Row{Path: path, Key: e.key, Bucket: true, Sequence: sequence})
	}
	inside := append(slices.Clip(path), e.key)
	if root != 0 {
		w.tree(root, inside, bounds{}, depth+1)
		return
	}
	b := e.value[bucketHeader:]
	if len(b) < pageHeader || depth > maxDepth {
		w.report(fmt.Errorf("bucket %q: %w: %d bytes inside its parent", e.key, ErrDamaged, len(b)))
		return
	}
	p := parseHeader(b)
	p.b = b
	if p.flags != flagLeaf || p.id != 0 || p.run != 1 {
		w.report(fmt.Errorf("bucket %q: %w: page %d inside its parent, flags %#x", e.key, ErrDamaged, p.id, p.flags))
		return
	}
	w.leaf(p, inside, bounds{}, depth+1)
}

// take demands that the ith key of a page lies between the bounds and after the one before it. The first one is what the
// branch above calls the page: bbolt looks a page up by that key when it writes it again, and else would add it twice.
func (b *bounds) take(key []byte, i int) error {
	order := 1
	if b.from != nil {
		order = bytes.Compare(key, b.from)
	}
	if i == 0 && order != 0 && b.from != nil || i > 0 && order <= 0 || b.to != nil && bytes.Compare(key, b.to) >= 0 {
		return fmt.Errorf("%w: key %.40q, number %d of its page, is not between %.40q and %.40q", ErrDamaged, key, i, b.from, b.to)
	}
	b.from = key
	return nil
}

// freelist demands ascending numbers of pages that are not in use.
func (w *walker) freelist() error {
	p, err := w.f.page(w.f.meta.freelist)
	if err != nil {
		return err
	}
	if p.flags != flagFreelist || !w.used.add(p.id, p.run) {
		return fmt.Errorf("page %d: %w: flags %#x, or used twice", p.id, ErrDamaged, p.flags)
	}
	ids, count := p.b[pageHeader:], uint64(p.count)
	if p.count == 0xFFFF && len(ids) >= 8 { // the count does not fit and comes first
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("page %d: %w: %d numbers in %d bytes", p.id, ErrDamaged, count, len(ids))
	}
	last := uint64(firstDataPage - 1)
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[8*i:])
		if id <= last || id >= w.f.meta.pages || w.used.has(id) {
			return fmt.Errorf("page %d: %w: page %d after page %d, out of range, or in use", p.id, ErrDamaged, id, last)
		}
		last = id
	}
	return nil
}

// bitmap is a set of page numbers.
type bitmap []uint64

func newBitmap(n uint64) bitmap { return make(bitmap, n/64+1) }

func (b bitmap) has(id uint64) bool { return b[id/64]>>(id%64)&1 != 0 }

// add takes n numbers from id on; false when one of them is in already.
func (b bitmap) add(id, n uint64) bool {
	for i := id; i < id+n; i++ {
		if b.has(i) {
			return false
		}
		b[i/64] |= 1 << (i % 64)
	}
	return true
}
