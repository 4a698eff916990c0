package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// call is a request before it is known which server gets it.
type call struct {
	method string
	path   string    // below the repository: "blobs/sha256:…"
	at     *endpoint // nil: the servers that have the capability need, in turn
	to     *url.URL  // an address that at gave out; path is for messages then
	query  url.Values
	header http.Header
	body   func() (io.ReadCloser, error) // nil: none
	size   int64                         // of the body
	need   docker.HostCapabilities
	scopes []string
	once   bool                  // the caller retries
	take   func(status int) bool // what beside 2xx is an answer and not a failure
}

// response is an answer whose body must be closed.
type response struct {
	*http.Response
	ep  *endpoint
	url *url.URL // what answered in the end
}

// target is where a registry sent us for a blob.
type target struct {
	ep  *endpoint
	url *url.URL
}

// maxRedirects is how many redirects one request may take.
const maxRedirects = 5

// do is the only way to a registry. It asks the servers in turn, mirrors first; the last one is asked again after
// passing failures. Mirrors that rest are asked only when nobody else answers. The answer's status is 2xx or one that
// c.take wants; all else is an error.
func (r *Repo) do(ctx context.Context, c *call) (*response, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if c.at != nil {
		return r.inTurn(ctx, []*endpoint{c.at}, c)
	}
	list, resting, err := r.c.endpoints(r.host, c.need)
	if err != nil {
		return nil, err
	}
	resp, err := r.inTurn(ctx, list, c)
	if err == nil || ctx.Err() != nil || len(resting) == 0 || !unanswered(err) {
		return resp, err
	}
	spare := *c
	spare.once = true
	if resp, spareErr := r.inTurn(ctx, resting, &spare); spareErr == nil {
		return resp, nil
	}
	return nil, err
}

// unanswered reports whether an error leaves open what the registry would have said.
func unanswered(err error) bool {
	var refused *Error
	return !errors.As(err, &refused) || passingStatus(refused.Status)
}

func (r *Repo) inTurn(ctx context.Context, list []*endpoint, c *call) (*response, error) {
	var mirrors []string
	for i, e := range list {
		last := i == len(list)-1
		resp, err := r.ask(ctx, e, c, last && !c.once)
		switch {
		case err == nil:
			return resp, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%s %s/%s: %w", c.method, r, c.path, context.Cause(ctx))
		case !last:
			if passingError(err) {
				e.rest(r.c.now())
			}
			r.c.o.Logger.Info("mirror failed, asking the next server", "mirror", e.host.Host, slog.Any("error", err))
			mirrors = append(mirrors, err.Error())
		case len(mirrors) > 0:
			return nil, fmt.Errorf("%w (mirrors failed: %s)", err, strings.Join(mirrors, "; "))
		default:
			return nil, err
		}
	}
	panic("registry: no server asked") // endpoints never returns an empty list
}

// ask asks one server, again after passing failures if it may.
func (r *Repo) ask(ctx context.Context, e *endpoint, c *call, again bool) (*response, error) {
	b := budget{client: r.c}
	for {
		resp, err := r.authenticated(ctx, e, c)
		if err == nil || !again || !passing(err) {
			return resp, err
		}
		r.c.o.Logger.Info("request failed, trying again", slog.Any("error", err))
		if err := b.again(ctx, err, askedPause(err)); err != nil {
			return nil, err
		}
	}
}

// passing reports whether a failed request may succeed if it is made again.
func passing(err error) bool {
	var refused *Error
	if errors.As(err, &refused) {
		return passingStatus(refused.Status)
	}
	return passingError(err)
}

func askedPause(err error) time.Duration {
	var refused *Error
	if errors.As(err, &refused) {
		return refused.pause
	}
	return 0
}

// maxChallenges bounds how often one request may be answered by a challenge.
const maxChallenges = 4

// authenticated makes one request, and once more if the first is answered by a challenge. A second try that shows no
// credentials does not count: the authorizer that had taken the challenge was thrown away since, because another
// request's token failed.
func (r *Repo) authenticated(ctx context.Context, e *endpoint, c *call) (*response, error) {
	state := r.auth(e, c.scopes)
	for challenged := 0; ; challenged++ {
		u := c.to
		if u == nil {
			u = e.url(r.name, c.path)
			u.RawQuery = r.query(e, c).Encode()
		}
		h := http.Header{}
		gen := 0
		if e.is(u) {
			carrier := &http.Request{URL: u, Header: h}
			var err error
			if gen, err = state.authorize(withScopes(ctx, c.scopes), carrier); err != nil {
				return nil, err
			}
		}
		resp, err := r.redirected(ctx, e, c, &hop{url: u, auth: h.Get("Authorization")})
		if err != nil {
			return nil, err
		}
		shown := h.Get("Authorization") != ""
		again := challenged == 0 || !shown && challenged < maxChallenges
		if resp.StatusCode == http.StatusUnauthorized && again && e.is(resp.url) {
			err := state.answer(ctx, resp.Response, gen, shown)
			refused := refusal(resp.Response)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", refused, err)
			}
			continue
		}
		if resp.StatusCode/100 == 2 || c.take != nil && c.take(resp.StatusCode) {
			return resp, encoded(resp)
		}
		refused := refusal(resp.Response)
		refused.pause = retryAfter(resp.Header.Get("Retry-After"), r.c.now())
		return nil, refused
	}
}

func (r *Repo) query(e *endpoint, c *call) url.Values {
	q := url.Values{}
	for k, v := range c.query {
		q[k] = v
	}
	if e.mirror {
		q.Set("ns", r.host) // tells a mirror of several registries which one is meant
	}
	return q
}

// encoded refuses a body that is not the bytes themselves.
func encoded(resp *response) error {
	enc := resp.Header.Get("Content-Encoding")
	if enc == "" || strings.EqualFold(enc, "identity") {
		return nil
	}
	resp.Body.Close()
	return fmt.Errorf("%s %s%s: %w: Content-Encoding %.40q", resp.Request.Method, resp.url.Host, resp.url.EscapedPath(), ErrBadAnswer, enc)
}

// hop is where a request goes next and what it may show there.
type hop struct {
	url  *url.URL
	auth string
}

// redirected makes one request and follows its redirects. Credentials and the headers of hosts.toml go to the server
// itself only.
func (r *Repo) redirected(ctx context.Context, e *endpoint, c *call, h *hop) (*response, error) {
	for range maxRedirects + 1 {
		resp, err := r.send(ctx, e, c, h)
		if err != nil {
			return nil, err
		}
		from := resp.Request.URL // http, if https fell back to it
		if h.url.Scheme == "https" && from.Scheme == "http" && !e.is(h.url) {
			resp.Body.Close()
			return nil, fmt.Errorf("%s %s%s: %w: fell back to http", c.method, from.Host, from.EscapedPath(), ErrBadAnswer)
		}
		if !isRedirect(resp.StatusCode) || c.method != http.MethodGet && c.method != http.MethodHead {
			return &response{Response: resp, ep: e, url: from}, nil
		}
		to, err := follow(from, resp.Header.Get("Location"))
		drain(resp)
		if err != nil {
			return nil, fmt.Errorf("%s %s%s: redirect: %w", c.method, from.Host, from.EscapedPath(), err)
		}
		next := &hop{url: to}
		if e.is(to) && to.Scheme == from.Scheme {
			next.auth = h.auth
		}
		h = next
	}
	return nil, fmt.Errorf("%s %s/%s: %w: too many redirects", c.method, r, c.path, ErrBadAnswer)
}

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// drain reads a little of a body that nobody wants, so that its connection can be used again, and closes it.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	resp.Body.Close()
}

// send makes one HTTP request. The body of the answer fails with errStalled if no byte comes for too long.
func (r *Repo) send(ctx context.Context, e *endpoint, c *call, h *hop) (*http.Response, error) {
	if err := r.places.pace.wait(ctx, r.c.now(), r.c.pause); err != nil {
		return nil, err
	}
	watched, w := r.c.watch(ctx)
	req, err := r.request(watched, c, h, w)
	if err != nil {
		w.end()
		return nil, err
	}
	if e.is(h.url) {
		for k, v := range e.host.Header {
			req.Header[k] = v
		}
	}
	if h.auth != "" {
		req.Header.Set("Authorization", h.auth)
	}
	resp, err := e.host.Client.Do(req)
	if err != nil {
		err = w.explain(withoutURL(err))
		w.end()
		return nil, fmt.Errorf("%s %s%s: %w", c.method, h.url.Host, h.url.EscapedPath(), err)
	}
	w.stop()
	resp.Body = &watchedBody{ReadCloser: resp.Body, w: w}
	return resp, nil
}

func (r *Repo) request(ctx context.Context, c *call, h *hop, w *watch) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, c.method, h.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%s %s/%s: %w", c.method, r, c.path, err)
	}
	for k, v := range c.header {
		req.Header[k] = v
	}
	r.c.setCommon(req.Header)
	if c.body == nil || c.size == 0 {
		return req, nil
	}
	open := func() (io.ReadCloser, error) {
		body, err := c.body()
		if err != nil {
			return nil, err
		}
		return &watchedUpload{ReadCloser: body, w: w}, nil
	}
	req.ContentLength = c.size
	req.GetBody = open
	if req.Body, err = open(); err != nil {
		return nil, err
	}
	return req, nil
}

// withoutURL strips the address that net/http puts before its errors: its query may be a signature.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// exhausted is the error after the last try.
func exhausted(tries int, err error) error {
	return fmt.Errorf("%w: %d tries: %w", ErrRetriesExhausted, tries, err)
}
