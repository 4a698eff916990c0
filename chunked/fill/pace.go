package fill

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// slowWindow and slowFloor are the least that a source must give while there is
	// another one: so many bytes a second, on the average of each window.
	slowWindow = 10 * time.Second
	slowFloor  = 4 << 10
	// tocFloor is the least for a table of contents, whether there is another source
	// or not: its layer cannot be used before it is whole.
	tocFloor = 8 << 10
	// hedgeAfter is how long a reader waits for another image's request, or for one
	// host, before its own sources or another host are asked too, unless more than
	// hedgeFloor bytes a second come: on a slow line a second request helps nobody.
	hedgeAfter = 3 * time.Second
	hedgeFloor = 16 << 10
)

// pace is how a request gets on.
type pace struct {
	idle   time.Duration // since the last byte, or since the beginning
	window time.Duration // what bytes were counted in
	bytes  int64
}

// leave says why a request is given up: ErrTimeout when nothing came for as long as
// limit, ErrSlow when too little came and somebody else can be asked. nil: it goes on.
func (p pace) leave(limit time.Duration, others bool) error {
	switch {
	case p.idle >= limit:
		return ErrTimeout
	case others && p.window >= slowWindow && p.bytes < int64(slowFloor*p.window/time.Second):
		return ErrSlow
	}
	return nil
}

// hedgeNow says whether so few bytes in hedgeAfter mean that others are to be asked.
func hedgeNow(bytes int64) bool { return bytes < int64(hedgeFloor*hedgeAfter/time.Second) }

// tocTime is how long a source may take for a table of contents of n bytes.
func tocTime(n int64, limit time.Duration) time.Duration {
	return limit + time.Duration(n)*time.Second/tocFloor
}

// arrival notes what arrives of one request, or of all of a host's.
type arrival struct {
	last  atomic.Int64 // when the last byte came, in Unix nanoseconds
	bytes atomic.Int64
}

func (a *arrival) note(n int) {
	a.last.Store(time.Now().UnixNano())
	a.bytes.Add(int64(n))
}

// idle returns how long no byte has come since the given time.
func (a *arrival) idle(since time.Time) time.Duration {
	return min(time.Since(since), time.Since(time.Unix(0, a.last.Load())))
}

// watch returns a context for one attempt that is cancelled when the request is
// given up. stop releases it and returns when nothing of it goes on.
func (a *arrival) watch(parent context.Context, limit time.Duration, others bool) (ctx context.Context, cancel context.CancelCauseFunc, stop func()) {
	ctx, cancel = context.WithCancelCause(parent)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		began := time.Now()
		from, since := a.bytes.Load(), began
		for {
			now := pace{idle: a.idle(began), window: time.Since(since), bytes: a.bytes.Load() - from}
			if err := now.leave(limit, others); err != nil {
				cancel(err)
				return
			}
			if now.window >= slowWindow {
				from, since, now.window = from+now.bytes, time.Now(), 0
			}
			next := time.NewTimer(min(limit-now.idle, slowWindow-now.window))
			select {
			case <-next.C:
			case <-ctx.Done():
				next.Stop()
				return
			}
		}
	}()
	return ctx, cancel, func() {
		cancel(context.Canceled)
		<-ended
	}
}
