package fill

import (
	"context"
	"sync"
)

// flights runs a piece of work once for all who ask for the same key at the
// same time. The work does not end when somebody who waits for it leaves.
type flights[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
}

type call[V any] struct {
	done chan struct{}
	val  V
	err  error
}

// do returns the result of fn for key, or ctx's error. spawn starts a
// goroutine and says whether it could.
func (f *flights[K, V]) do(ctx context.Context, key K, spawn func(func()) bool, fn func() (V, error)) (V, error) {
	f.mu.Lock()
	c := f.calls[key]
	if c == nil {
		c = &call[V]{done: make(chan struct{})}
		if f.calls == nil {
			f.calls = make(map[K]*call[V])
		}
		f.calls[key] = c
		run := func() {
			c.val, c.err = fn()
			f.mu.Lock()
			delete(f.calls, key)
			f.mu.Unlock()
			close(c.done)
		}
		if !spawn(run) {
			delete(f.calls, key)
			c.err = ErrClosed
			close(c.done)
		}
	}
	f.mu.Unlock()
	select {
	case <-c.done:
		return c.val, c.err
	case <-ctx.Done():
		var zero V
		return zero, context.Cause(ctx)
	}
}
