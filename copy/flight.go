package copy

import (
	"context"
	"errors"
	"sync"
)

// flights does the work for a key once, however many images ask for it, and gives everybody its outcome.
type flights[K comparable, V any] struct {
	mu    sync.Mutex
	known map[K]*flight[V]
}

type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// do returns what fn made for k, here or in another call, now or earlier. A failure is kept too: the copy is over then.
func (f *flights[K, V]) do(ctx context.Context, k K, fn func() (V, error)) (V, error) {
	f.mu.Lock()
	fl, joined := f.known[k]
	if !joined {
		if f.known == nil {
			f.known = make(map[K]*flight[V])
		}
		fl = &flight[V]{done: make(chan struct{})}
		f.known[k] = fl
	}
	f.mu.Unlock()
	if !joined {
		fl.value, fl.err = fn()
		close(fl.done)
		return fl.value, fl.err
	}
	select {
	case <-fl.done:
		return fl.value, fl.err
	case <-ctx.Done():
		return fl.value, ctx.Err()
	}
}

// forEach runs fn for 0 to n-1 at once and waits for all. The first error cancels the others. What it returns is the
// error that began it: others are often only that somebody else was cancelled.
func forEach(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for i := range n {
		wg.Go(func() {
			err := fn(ctx, i)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if first == nil || errors.Is(first, context.Canceled) && !errors.Is(err, context.Canceled) {
				first = err
			}
			cancel()
		})
	}
	wg.Wait()
	return first
}
