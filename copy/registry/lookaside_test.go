package registry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// spec/copy-rules.md 59, 70 to 72: a lookaside is a web server like any other, and is believed no more than a registry.
func TestFetch(t *testing.T) {
	failed := false
	mux := http.NewServeMux()
	mux.HandleFunc("/there", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("User-Agent") != "tocsin" {
			t.Errorf("headers %v", r.Header)
		}
		_, _ = w.Write([]byte("signature"))
	})
	mux.HandleFunc("/once", func(w http.ResponseWriter, r *http.Request) {
		if !failed {
			failed = true
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("signature"))
	})
	mux.HandleFunc("/down", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/there", http.StatusFound) })
	mux.HandleFunc("/round", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/round", http.StatusFound) })
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace("http://user:pw@HOST/there", "HOST", r.Host, 1), http.StatusFound)
	})
	mux.HandleFunc("/secret", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusForbidden) })
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	c := New(&Options{Retries: 1, Credentials: func(string) (string, string, error) { return "user", "password", nil }})
	c.pause = func(context.Context, time.Duration) error { return nil }
	tests := []struct {
		path  string
		limit int64
		want  error // nil: the document
	}{
		{"/there", 9, nil},
		{"/there", 8, ErrBadAnswer},
		{"/once", 9, nil},
		{"/down", 9, ErrRetriesExhausted},
		{"/moved", 9, nil},
		{"/round", 9, ErrBadAnswer},
		{"/login", 9, ErrBadAnswer},
		{"/secret", 9, ErrAuth},
		{"/absent", 9, ErrNotFound},
	}
	for _, tt := range tests {
		raw, err := c.Fetch(t.Context(), srv.URL+tt.path, tt.limit)
		if !errors.Is(err, tt.want) || tt.want == nil && string(raw) != "signature" {
			t.Errorf("%s: %q %v", tt.path, raw, err)
		}
	}
}
