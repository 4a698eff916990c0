package registry

import (
	"context"
	"errors"
	"io"
	"time"
)

// errStalled: no byte came or went for too long.
var errStalled = errors.New("connection stalled")

// commitTime is how many times longer than a stall a registry may think about an upload that it has received whole.
const commitTime = 15

// watch cancels a request that makes no progress. The clock stands while our own side is what is slow.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

// watch starts the clock.
func (c *Client) watch(parent context.Context) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(parent)
	w := &watch{ctx: ctx, cancel: cancel, limit: c.stall}
	w.timer = time.AfterFunc(w.limit, func() { cancel(errStalled) })
	return ctx, w
}

func (w *watch) start(d time.Duration) { w.timer.Reset(d) }
func (w *watch) stop()                 { w.timer.Stop() }

func (w *watch) end() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain replaces the cancellation that the clock caused by its reason.
func (w *watch) explain(err error) error {
	if err != nil && err != io.EOF && errors.Is(context.Cause(w.ctx), errStalled) {
		return errStalled
	}
	return err
}

// watchedBody is the body of an answer.
type watchedBody struct {
	io.ReadCloser
	w *watch
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.w.start(b.w.limit)
	n, err := b.ReadCloser.Read(p)
	b.w.stop()
	return n, b.w.explain(err)
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	b.w.end()
	return err
}

// watchedUpload is the body of a request.
type watchedUpload struct {
	io.ReadCloser
	w *watch
}

func (b *watchedUpload) Read(p []byte) (int, error) {
	b.w.stop()
	n, err := b.ReadCloser.Read(p)
	limit := b.w.limit
	if err != nil {
		limit *= commitTime
	}
	b.w.start(limit)
	return n, err
}
