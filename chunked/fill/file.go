package fill

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
)

// File is one object of a layer, open for reading. It is safe for concurrent
// use; Close it once.
type File struct {
	h handle

	mu  sync.Mutex
	win window
}

// Open opens object x of the layer's index, whether its content is here or
// not. It fetches nothing. store.ErrCorrupt when the store has an object of
// that digest with another length.
func (l *Layer) Open(x int) (*File, error) {
	if err := l.hold(); err != nil {
		return nil, err
	}
	defer l.drop()
	if x < 0 || x >= l.index.NumObjects() {
		return nil, fmt.Errorf("layer %d has no object %d", l.n, x)
	}
	h, err := l.acquire(x, true)
	if err != nil {
		return nil, fmt.Errorf("open object %d of layer %d: %w", x, l.n, err)
	}
	return &File{h: h}, nil
}

// Size returns the length of the content in bytes.
func (f *File) Size() int64 { return f.h.key.Size }

// Complete returns the object as a file of the store, nil while it is not
// complete. The file stays f's: it is valid until f.Close, and must not be
// closed or seeked.
func (f *File) Complete() *os.File {
	whole, err := f.h.file()
	if err != nil {
		return nil
	}
	return whole
}

// Close gives the file up. Fetches under way go on.
func (f *File) Close() error {
	f.h.release()
	return nil
}

// ReadAt fills p with content at off as io.ReaderAt does: fewer bytes only
// with an error, io.EOF at the end. What is not here is fetched first. No byte
// is returned that was not compared with its digest; after an error p's
// content means nothing. It waits as long as bytes arrive, else fails with
// ErrTimeout; ctx ends the waiting, not the fetch.
func (f *File) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("object %s: negative offset %d", f.h.key.Digest, off)
	}
	if off >= f.h.key.Size {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.h.key.Size-off))
	if n == 0 {
		return 0, nil
	}
	if err := f.load(ctx, off, int64(n)); err != nil {
		return 0, err
	}
	got, err := f.h.read(p[:n], off)
	if got < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, fmt.Errorf("object %s: %w", f.h.key.Digest, err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// load makes the bytes [off, off+n) readable and starts the read-ahead.
func (f *File) load(ctx context.Context, off, n int64) error {
	whole, err := f.h.file()
	if err != nil || whole != nil && f.h.unread.Load() == 0 {
		return err
	}
	from, to := f.h.chunksOf(off, off+n)
	f.h.used(from, to)
	if whole != nil {
		return nil
	}
	all, fresh, err := f.h.want(from, to, ask{level: levelRead, read: true})
	if err == nil {
		fresh = append(fresh, f.ahead(off, n, to)...)
	}
	submit(all, fresh, levelRead)
	if err != nil {
		return err
	}
	return f.h.await(ctx, all)
}

// ahead returns demands for what a sequential reader will want next, in
// chunks from after on.
func (f *File) ahead(off, n int64, after int) []*demand {
	limit := f.h.pool.opt.Window
	if limit <= 0 {
		return nil
	}
	f.mu.Lock()
	begin, end := f.win.advance(off, n, f.h.key.Size, limit)
	f.mu.Unlock()
	if begin == end {
		return nil
	}
	from, to := f.h.chunksOf(begin, end)
	// A chunk that cannot be had fails the read that needs it, not this one.
	_, fresh, _ := f.h.want(max(from, after), to, ask{level: levelAhead})
	return fresh
}

// read reads bytes whose chunks are all here.
func (o *object) read(p []byte, off int64) (int, error) {
	o.mu.Lock()
	b, bad := o.body, o.state.bad
	if o.state.stored {
		b = nil
	}
	o.mu.Unlock()
	if bad != nil {
		return 0, bad
	}
	if b != nil {
		return b.ReadAt(p, off)
	}
	whole, err := o.file()
	if err != nil {
		return 0, err
	}
	return whole.ReadAt(p, off)
}
