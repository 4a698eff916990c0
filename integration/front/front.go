// Package front is test infrastructure: an http.Handler that stands in front of a registry, counts and logs what is
// asked of it, and misbehaves on request. It also has a small registry in memory to stand in front of (Registry) and
// wrappers that demand credentials (TokenAuth, BasicAuth).
//
// It is not a registry to keep images in, and it knows nothing about tocsin: it imports none of its packages. For the
// client that it torments see copy/registry; for slow links see integration/link.
package front

import (
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
)

// Request is one line of the request log. Lines stand in the order in which requests came; Status and Bytes are 0
// until the answer is complete.
type Request struct {
	Method string
	Path   string
	Query  string // raw
	Range  string // the Range header, "" if there was none
	Auth   string // the first word of the Authorization header, "" if there was none
	Status int    // 0: the connection was cut before a status was sent
	Bytes  int64  // bytes of body sent
}

// String gives "GET /v2/x/blobs/sha256:… [bytes=0-1] 206".
func (r Request) String() string {
	s := r.Method + " " + r.Path
	if r.Query != "" {
		s += "?" + r.Query
	}
	if r.Range != "" {
		s += " [" + r.Range + "]"
	}
	return fmt.Sprintf("%s %d", s, r.Status)
}

// Rule says which requests are answered by Do instead of the registry. Empty fields match everything. The first
// matching rule that has not been used up wins.
type Rule struct {
	Method string // exact
	Path   string // substring
	Ranged bool   // only requests with a Range header
	Skip   int    // let that many matching requests pass first
	Times  int    // then act that many times; 0: for ever
	Do     Action
}

func (r *Rule) matches(req *http.Request) bool {
	return (r.Method == "" || r.Method == req.Method) &&
		strings.Contains(req.URL.Path, r.Path) &&
		(!r.Ranged || req.Header.Get("Range") != "")
}

// Front is the handler. Its methods may be called while it serves.
type Front struct {
	next http.Handler

	mu    sync.Mutex
	rules []*activeRule
	log   []*Request
}

type activeRule struct {
	Rule
	seen int
}

// New returns a front before a handler.
func New(next http.Handler) *Front { return &Front{next: next} }

// NewProxy returns a front before the registry at a base URL such as http://127.0.0.1:5000.
func NewProxy(base string) (*Front, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("front: target: %w", err)
	}
	return New(&httputil.ReverseProxy{
		// Host stays the front's, so that upload locations come back through it.
		Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(u); p.Out.Host = p.In.Host },
		FlushInterval: -1,
	}), nil
}

// Add appends rules.
func (f *Front) Add(rules ...Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range rules {
		f.rules = append(f.rules, &activeRule{Rule: r})
	}
}

// Behave drops all rules.
func (f *Front) Behave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = nil
}

// Log returns a copy of the requests so far.
func (f *Front) Log() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Request, len(f.log))
	for i, r := range f.log {
		out[i] = *r
	}
	return out
}

// Forget empties the log.
func (f *Front) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = nil
}

// Count returns how many logged requests have the method (any if empty) and contain the path.
func (f *Front) Count(method, path string) int {
	n, _ := f.sum(method, path)
	return n
}

// Bytes returns how many bytes of body these requests were answered with.
func (f *Front) Bytes(method, path string) int64 {
	_, b := f.sum(method, path)
	return b
}

func (f *Front) sum(method, path string) (n int, bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.log {
		if (method == "" || r.Method == method) && strings.Contains(r.Path, path) {
			n++
			bytes += r.Bytes
		}
	}
	return n, bytes
}

// ServeHTTP answers one request by the first live rule that matches it, else by the registry.
func (f *Front) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	auth, _, _ := strings.Cut(req.Header.Get("Authorization"), " ")
	entry := &Request{Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery, Range: req.Header.Get("Range"), Auth: auth}
	f.mu.Lock()
	f.log = append(f.log, entry)
	f.mu.Unlock()
	c := &counter{ResponseWriter: w}
	defer func() {
		f.mu.Lock()
		entry.Status, entry.Bytes = c.status, c.bytes
		f.mu.Unlock()
	}()
	if act := f.pick(req); act != nil {
		act(c, req, f.next)
		return
	}
	f.next.ServeHTTP(c, req)
}

func (f *Front) pick(req *http.Request) Action {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.rules {
		if !r.matches(req) {
			continue
		}
		r.seen++
		if r.seen <= r.Skip || (r.Times > 0 && r.seen > r.Skip+r.Times) {
			continue
		}
		return r.Do
	}
	return nil
}

// counter notes the status and the bytes that pass.
type counter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (c *counter) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

func (c *counter) Write(p []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(p)
	c.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController find the connection.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }
