package front

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// TokenAuth demands bearer tokens, as the distribution token specification says, and gives them out at /token of the
// same server. Safe for concurrent use.
type TokenAuth struct {
	User, Password string // both empty: tokens for everybody
	Realm          string // where tokens are; empty: /token of the host that was asked

	next http.Handler

	mu     sync.Mutex
	live   map[string][]string // token to scopes
	issued int
}

// NewTokenAuth returns the handler.
func NewTokenAuth(next http.Handler, user, password string) *TokenAuth {
	return &TokenAuth{User: user, Password: password, next: next, live: map[string][]string{}}
}

// Expire makes every token given out so far invalid.
func (a *TokenAuth) Expire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.live)
}

// Issued returns how many tokens were given out.
func (a *TokenAuth) Issued() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.issued
}

// ServeHTTP answers /token, and passes on what carries a token of sufficient scope.
func (a *TokenAuth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		a.token(w, r)
		return
	}
	need := "pull"
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		need = "push"
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a.mu.Lock()
	scopes := a.live[token]
	a.mu.Unlock()
	repo := repoOf(r.URL.Path)
	if !granted(scopes, repo, need) {
		realm := a.Realm
		if realm == "" {
			realm = "http://" + r.Host + "/token"
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="front",scope="repository:%s:%s"`, realm, repo, actions(need)))
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	a.next.ServeHTTP(w, r)
}

func actions(need string) string {
	if need == "push" {
		return "pull,push"
	}
	return need
}

func granted(scopes []string, repo, need string) bool {
	for _, s := range scopes {
		f := strings.Split(s, ":")
		if len(f) == 3 && f[0] == "repository" && f[1] == repo && slices.Contains(strings.Split(f[2], ","), need) {
			return true
		}
	}
	return false
}

func repoOf(path string) string {
	path = strings.TrimPrefix(path, "/v2/")
	for _, sep := range []string{"/blobs/", "/manifests/", "/tags/", "/referrers/"} {
		if repo, _, ok := strings.Cut(path, sep); ok {
			return repo
		}
	}
	return path
}

func (a *TokenAuth) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		fail(w, http.StatusBadRequest, "BAD")
		return
	}
	user, password, ok := r.BasicAuth()
	scopes := r.Form["scope"]
	if r.Method == http.MethodPost {
		user, password, ok = r.PostForm.Get("username"), r.PostForm.Get("password"), true
		scopes = strings.Fields(r.PostForm.Get("scope"))
	}
	if a.User != "" && (!ok || user != a.User || password != a.Password) {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	a.mu.Lock()
	a.issued++
	t := fmt.Sprintf("token-%d", a.issued)
	a.live[t] = scopes
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": t, "access_token": t, "expires_in": 3600})
}

// BasicAuth demands a user and a password.
func BasicAuth(next http.Handler, user, password string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="front"`)
			fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Stranger passes requests on and remembers those that carried credentials: what a host must never see that a registry
// only sends its clients to. Safe for concurrent use.
type Stranger struct {
	Secrets []string // looked for in the URL and every header

	next http.Handler

	mu    sync.Mutex
	seen  int
	leaks []string
}

// NewStranger returns a handler before next.
func NewStranger(next http.Handler, secrets ...string) *Stranger {
	return &Stranger{Secrets: secrets, next: next}
}

// Seen returns how many requests came, and which of them carried credentials.
func (s *Stranger) Seen() (requests int, leaks []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen, slices.Clone(s.leaks)
}

// ServeHTTP implements http.Handler.
func (s *Stranger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var headers strings.Builder
	_ = r.Header.Write(&headers)
	leak := r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != ""
	for _, secret := range s.Secrets {
		leak = leak || strings.Contains(headers.String(), secret) || strings.Contains(r.URL.String(), secret)
	}
	s.mu.Lock()
	s.seen++
	if leak {
		s.leaks = append(s.leaks, r.Method+" "+r.URL.String()+"\n"+headers.String())
	}
	s.mu.Unlock()
	s.next.ServeHTTP(w, r)
}
