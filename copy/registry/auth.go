package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
)

// authKey separates tokens: containerd's authorizer asks for the scope of the first challenge with every later token.
type authKey struct {
	ep    *endpoint
	scope string
}

// authState holds an authorizer that can be replaced. containerd's keeps a failed or revoked token for ever, so after
// a failure the whole authorizer is thrown away; the generation makes goroutines that failed together do so once.
// Its token cache is not safe for concurrent use (authorizer.go reads expirationTime while a fetch writes it), and who
// waits there cannot be cancelled: the gate lets one caller in.
type authState struct {
	fresh func() docker.Authorizer
	gate  chan struct{}

	mu  sync.Mutex
	gen int
	a   docker.Authorizer
}

func (r *Repo) auth(e *endpoint, scopes []string) *authState {
	key := authKey{e, strings.Join(scopes, " ")}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.auths[key]
	if s == nil {
		s = &authState{gate: make(chan struct{}, 1), fresh: func() docker.Authorizer { return r.c.authorizer(e) }}
		s.a = s.fresh()
		r.auths[key] = s
	}
	return s
}

func (c *Client) authorizer(e *endpoint) docker.Authorizer {
	header := http.Header{}
	if e.host.Header != nil {
		header = e.host.Header.Clone()
	}
	header.Set("User-Agent", c.o.UserAgent)
	return docker.NewDockerAuthorizer(
		docker.WithAuthCreds(c.o.Credentials),
		docker.WithAuthHeader(header),
		docker.WithAuthClient(&http.Client{
			Transport:     boundedBodies{e.host.Client.Transport},
			CheckRedirect: tokenRedirect,
			Timeout:       c.stall,
		}))
}

// pullScope and pushScope are the token scopes for a repository.
func pullScope(repo string) string { return "repository:" + repo + ":pull" }
func pushScope(repo string) string { return "repository:" + repo + ":pull,push" }

func withScopes(ctx context.Context, scopes []string) context.Context {
	for _, s := range scopes {
		ctx = docker.WithScope(ctx, s)
	}
	return ctx
}

func (s *authState) current() (docker.Authorizer, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.a, s.gen
}

func (s *authState) renew(gen int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gen == gen {
		s.gen++
		s.a = s.fresh()
	}
}

// errTokenLost: the token server took too long.
var errTokenLost = errors.New("token request timed out")

// authorize sets the Authorization header if the registry has asked for one, and returns the generation it is of.
func (s *authState) authorize(ctx context.Context, req *http.Request) (int, error) {
	leave, err := enter(ctx, s.gate)
	if err != nil {
		return 0, err
	}
	defer leave()
	a, gen := s.current()
	if err = a.Authorize(ctx, req); err == nil {
		return gen, nil
	}
	s.renew(gen)
	if cause := context.Cause(ctx); cause != nil {
		return gen, cause
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return gen, fmt.Errorf("%s: %w", req.URL.Host, errTokenLost)
	}
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return gen, tokenRefusal(status)
	}
	return gen, fmt.Errorf("%s: token: %w", req.URL.Host, withoutURL(err))
}

func tokenRefusal(s remoteerrors.ErrUnexpectedStatus) *Error {
	e := &Error{Method: s.RequestMethod, Status: s.StatusCode, kind: ErrAuth}
	e.Host, _, _ = strings.Cut(s.RequestURL, "?")
	e.Code, e.Message = parseErrorBody(s.Body[:min(len(s.Body), maxErrorBody)])
	if passingStatus(e.Status) {
		e.kind = nil
	}
	return e
}

// answer takes the challenge of a 401. had says whether the refused request carried an Authorization of generation gen.
func (s *authState) answer(ctx context.Context, resp *http.Response, gen int, had bool) error {
	if had {
		s.renew(gen)
	}
	host := resp.Request.URL.Host
	for _, ch := range auth.ParseAuthHeader(resp.Header) {
		if realm := ch.Parameters["realm"]; ch.Scheme == auth.BearerAuth {
			to, err := follow(resp.Request.URL, realm)
			if err != nil || to.String() != resolved(resp.Request, realm) {
				return fmt.Errorf("%s: token realm %.200q: %w", host, realm, ErrBadAnswer)
			}
		}
	}
	a, _ := s.current()
	if err := a.AddResponses(ctx, []*http.Response{resp}); err != nil {
		return fmt.Errorf("%s: %w: %w", host, ErrAuth, err)
	}
	return nil
}

// resolved is what the authorizer will make of a realm; it differs from what follow returns where that would only be
// allowed in https.
func resolved(req *http.Request, realm string) string {
	u, err := req.URL.Parse(realm)
	if err != nil {
		return ""
	}
	return u.String()
}

// tokenRedirect lets a token request be redirected where a registry request could be, but never with a password in
// its body to another host.
func tokenRedirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	if len(via) > 3 {
		return fmt.Errorf("token request: %w: too many redirects", ErrBadAnswer)
	}
	if to, err := follow(last.URL, req.URL.String()); err != nil || to.Scheme != req.URL.Scheme {
		return fmt.Errorf("token request: %w: redirect to %s", ErrBadAnswer, req.URL.Host)
	}
	if req.Method != http.MethodGet && req.URL.Host != last.URL.Host {
		return fmt.Errorf("token request: %w: credentials redirected to %s", ErrBadAnswer, req.URL.Host)
	}
	return nil
}

// boundedBodies ends answers to token requests at maxErrorBody: the authorizer decodes them without a limit.
type boundedBodies struct{ next http.RoundTripper }

func (b boundedBodies) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = readCloser{io.LimitReader(resp.Body, maxErrorBody), resp.Body}
	return resp, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// sortedScopes makes equal sets equal keys.
func sortedScopes(scopes ...string) []string {
	slices.Sort(scopes)
	return slices.Compact(scopes)
}
