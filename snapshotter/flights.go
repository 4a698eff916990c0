package snapshotter

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// flights runs work that several calls may wait for and none may break off: a client
// that gives up leaves it to the others and to its own next try.
type flights struct {
	group singleflight.Group
	quit  chan struct{} // closed when the snapshotter is
	once  sync.Once
	wg    sync.WaitGroup
}

// start joins the work under way for key, or begins fn. fn's context has ctx's values
// (containerd's namespace is one) but not its end: it ends after limit or with stop.
func (f *flights) start(ctx context.Context, key string, limit time.Duration, fn func(context.Context) (any, error)) <-chan singleflight.Result {
	f.wg.Add(1)
	joined := f.group.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		f.wg.Add(1)
		go func() {
			defer f.wg.Done()
			select {
			case <-f.quit:
				cancel()
			case <-ctx.Done():
			}
		}()
		return fn(ctx)
	})
	out := make(chan singleflight.Result, 1)
	go func() {
		defer f.wg.Done()
		out <- <-joined
	}()
	return out
}

// wait returns what start's work gave, or ctx's cause if that comes first.
func wait(ctx context.Context, c <-chan singleflight.Result) (any, error) {
	select {
	case r := <-c:
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// stop cancels all work and returns when it has ended. No start may follow.
func (f *flights) stop() {
	f.once.Do(func() { close(f.quit) })
	f.wg.Wait()
}
