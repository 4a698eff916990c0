package registry

import (
	"context"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// fetch is one request for parts of a blob, made in the background. Only the goroutine of its stream calls it.
type fetch struct {
	g     *Ranged
	runs  []manifest.Range // apart
	whole bool             // without a Range header

	leave  func() // gives back the place that start was given
	cancel context.CancelFunc
	done   chan struct{}
	resp   *response
	err    error
}

func (f *fetch) several() bool { return len(f.runs) > 1 }
func (f *fetch) started() bool { return f.done != nil }

func (f *fetch) covers(off int64) bool {
	for _, r := range f.runs {
		if r.Off <= off && off < r.End() {
			return true
		}
	}
	return false
}

// ep is who answered; only after wait.
func (f *fetch) ep() *endpoint { return f.resp.ep }

// start makes the request unless it was made already. leave is called when the fetch is abandoned.
func (f *fetch) start(ctx context.Context, leave func()) {
	if f.started() {
		return
	}
	ctx, f.cancel = context.WithCancel(ctx)
	f.leave, f.done = leave, make(chan struct{})
	go func() {
		defer close(f.done)
		header := http.Header{}
		take := func(int) bool { return false }
		if !f.whole {
			header.Set("Range", rangeHeader(f.runs))
			take = rangeAnswer(f.several())
		}
		f.resp, f.err = f.g.repo.blob(ctx, f.g.d, header, take)
	}()
}

func (f *fetch) wait() (*response, error) {
	<-f.done
	return f.resp, f.err
}

// abandon ends the request and closes what came of it.
func (f *fetch) abandon() {
	if !f.started() {
		return
	}
	f.cancel()
	<-f.done
	if f.resp != nil {
		f.resp.Body.Close()
	}
	f.leave()
}

// blob asks for a blob, where the registry sent us for it last time if that still answers. Such addresses are signed
// and expire; a failure there means no more than that.
func (r *Repo) blob(ctx context.Context, d digest.Digest, header http.Header, take func(int) bool) (*response, error) {
	c := &call{method: http.MethodGet, path: "blobs/" + d.String(), header: header, need: docker.HostCapabilityPull,
		scopes: sortedScopes(pullScope(r.name)), take: take}
	if t, ok := r.target(d); ok {
		direct := *c
		direct.at, direct.to = t.ep, t.url
		// A refusal of the range is not to be told from an expired signature: ask the registry again.
		direct.take, direct.once = nil, true
		resp, err := r.do(ctx, &direct)
		if err == nil || ctx.Err() != nil {
			return resp, err
		}
		r.forget(d)
	}
	resp, err := r.do(ctx, c)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.served = resp.ep
	r.mu.Unlock()
	if !resp.ep.is(resp.url) {
		r.remember(d, target{resp.ep, resp.url})
	}
	return resp, nil
}

// maxTargets bounds what is remembered; signatures live for minutes, so nothing is lost by starting again.
const maxTargets = 512

func (r *Repo) target(d digest.Digest) (target, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, ok := r.targets[d]
	return t, ok
}

func (r *Repo) remember(d digest.Digest, t target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.targets) >= maxTargets {
		clear(r.targets)
	}
	r.targets[d] = t
}

func (r *Repo) forget(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.targets, d)
}
