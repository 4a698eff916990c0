package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

// session is an upload that a registry has opened.
type session struct {
	ep  *endpoint
	url *url.URL
}

// Mount makes the registry take a blob from another repository of the same host; fromRepo "" asks it to look
// anywhere. false means that it did not, and that nothing is left behind.
func (r *Repo) Mount(ctx context.Context, d v1.Descriptor, fromRepo string) (bool, error) {
	if err := manifest.ValidDigest(d.Digest); err != nil {
		return false, err
	}
	q, scopes := url.Values{"mount": {d.Digest.String()}}, []string{pushScope(r.name)}
	if fromRepo != "" {
		if !repoForm.MatchString(fromRepo) {
			return false, fmt.Errorf("repository name %.200q: %w", fromRepo, manifest.ErrMalformed)
		}
		q.Set("from", fromRepo)
		scopes = append(scopes, pullScope(fromRepo))
	}
	resp, err := r.do(ctx, &call{method: http.MethodPost, path: "blobs/uploads/", query: q, need: docker.HostCapabilityPush,
		scopes: sortedScopes(scopes...),
		take:   func(status int) bool { return status == http.StatusNotFound || status == http.StatusMethodNotAllowed }})
	if err != nil {
		return false, err
	}
	drain(resp.Response)
	switch resp.StatusCode {
	case http.StatusCreated:
		err := sameDigest(resp, func(said digest.Digest) error { return differs(d.Digest, said) })
		return err == nil, err
	case http.StatusAccepted:
		r.cancel(ctx, resp)
	}
	return false, nil
}

// cancel ends an upload that nobody will use. Registries forget them in time, so a failure is of no interest.
func (r *Repo) cancel(ctx context.Context, opened *response) {
	s, err := sessionOf(opened)
	if err != nil {
		return
	}
	resp, err := r.do(ctx, &call{method: http.MethodDelete, path: "blobs/uploads/", at: s.ep, to: s.url, once: true,
		scopes: sortedScopes(pushScope(r.name))})
	if err == nil {
		drain(resp.Response)
	}
}

// sessionOf reads where an upload goes on.
func sessionOf(resp *response) (*session, error) {
	u, err := follow(resp.url, resp.Header.Get("Location"))
	if err != nil {
		return nil, fmt.Errorf("%s %s%s: upload %w", resp.Request.Method, resp.url.Host, resp.url.EscapedPath(), err)
	}
	return &session{resp.ep, u}, nil
}

// PutBlob uploads a blob of d.Size bytes. open gives its bytes from the start; it is called once for each try and what
// it returns is closed. nil means that the registry has checked and stored it. An error of open or of its reader, and a
// reader that ends early or goes on too long, end the upload at once: such an error is returned wrapped, in
// preference to what the registry made of the broken upload. A registry that finds another digest is
// manifest.ErrDigestMismatch. It takes one of the client's places for uploads, after open and never before.
func (r *Repo) PutBlob(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	if err := manifest.ValidDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("blob %s of size %d: %w", d.Digest, d.Size, manifest.ErrMalformed)
	}
	b := budget{client: r.c}
	for {
		err := r.putOnce(ctx, d, open)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("upload of blob %s to %s: %w", d.Digest, r, err)
		var source *sourceError
		if errors.As(err, &source) || !passing(err) || errors.Is(err, ErrRetriesExhausted) {
			return err
		}
		r.c.o.Logger.Info("upload failed, trying again", "blob", d.Digest, "error", err)
		if err := b.again(ctx, err, askedPause(err)); err != nil {
			return err
		}
	}
}

func (r *Repo) putOnce(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	src := &source{open: open, size: d.Size, leave: func() {},
		enter: func() (func(), error) { return r.places.write(ctx) }}
	defer src.close()
	if err := src.prepare(); err != nil {
		return err
	}
	scopes := sortedScopes(pushScope(r.name))
	var q url.Values
	if d.Digest.Algorithm() != digest.Canonical {
		// distribution-spec 543: a registry may want to know how to hash before the first byte.
		q = url.Values{"digest-algorithm": {d.Digest.Algorithm().String()}}
	}
	opened, err := r.do(ctx, &call{method: http.MethodPost, path: "blobs/uploads/", query: q, need: docker.HostCapabilityPush, scopes: scopes})
	if err != nil {
		return err
	}
	drain(opened.Response)
	s, err := sessionOf(opened)
	if err != nil {
		return err
	}
	to := *s.url
	query := to.Query()
	query.Set("digest", d.Digest.String())
	to.RawQuery = query.Encode()
	resp, err := r.do(ctx, &call{method: http.MethodPut, path: "blobs/uploads/", at: s.ep, to: &to, once: true, scopes: scopes,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body:   src.next, size: d.Size})
	if failed := src.failure(); failed != nil {
		if err == nil {
			resp.Body.Close()
		}
		return failed
	}
	if err != nil {
		return err
	}
	drain(resp.Response)
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("%w: status %d for a finished upload", ErrBadAnswer, resp.StatusCode)
	}
	return sameDigest(resp, func(said digest.Digest) error { return differs(d.Digest, said) })
}

// differs compares digests of one algorithm; of two it can say nothing.
func differs(want, said digest.Digest) error {
	if want.Algorithm() != said.Algorithm() || want == said {
		return nil
	}
	return fmt.Errorf("%w: sent %s, the registry stored %s", manifest.ErrDigestMismatch, want, said)
}

// sourceError: what was to be uploaded could not be read. No other try will help.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return "source: " + e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// source opens the bytes of an upload and notes their failures, which net/http would mix with its own.
type source struct {
	open  func() (io.ReadCloser, error)
	size  int64
	enter func() (leave func(), err error) // takes a place for the upload
	leave func()

	mu    sync.Mutex
	ready io.ReadCloser
	err   error
}

// acquire opens a reader and then takes a place, never the other way round: the reader may hold a place for reading,
// and whoever holds one of those may wait for one of ours.
func (s *source) acquire() (io.ReadCloser, error) {
	s.leave()
	body, err := s.open()
	if err != nil {
		s.note(err)
		return nil, &sourceError{err}
	}
	leave, err := s.enter()
	if err != nil {
		body.Close()
		return nil, err
	}
	s.leave = leave
	return body, nil
}

// prepare acquires the first reader.
func (s *source) prepare() (err error) {
	s.ready, err = s.acquire()
	return err
}

// next gives the prepared reader, and after it new ones, for a request that is made again with a new token.
func (s *source) next() (io.ReadCloser, error) {
	s.mu.Lock()
	body := s.ready
	s.ready = nil
	s.mu.Unlock()
	if body == nil {
		var err error
		if body, err = s.acquire(); err != nil {
			return nil, err
		}
	}
	return &sourceBody{ReadCloser: body, s: s, left: s.size}, nil
}

// close gives the place and a reader that nobody wanted back.
func (s *source) close() {
	s.leave()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ready != nil {
		s.ready.Close()
		s.ready = nil
	}
}

func (s *source) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return nil
	}
	return &sourceError{s.err}
}

type sourceBody struct {
	io.ReadCloser
	s      *source
	left   int64
	closed atomic.Bool // by net/http, when the connection is lost: reads fail then, and it is not the source's fault
}

func (b *sourceBody) Close() error {
	b.closed.Store(true)
	return b.ReadCloser.Close()
}

func (b *sourceBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	switch {
	case b.left < 0:
		err = fmt.Errorf("more than the %d bytes of its descriptor: %w", b.s.size, manifest.ErrDigestMismatch)
		b.s.note(err)
	case err == io.EOF && b.left > 0 && !b.closed.Load():
		err = fmt.Errorf("%d bytes of %d missing: %w", b.left, b.s.size, io.ErrUnexpectedEOF)
		b.s.note(err)
	case err != nil && err != io.EOF && !b.closed.Load():
		b.s.note(err)
	}
	return n, err
}
