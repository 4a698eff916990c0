package front

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
)

// Registry itself keeps digests of sha256 and of sha512. The wrappers here are registries that do not.

const other = "sha512:"

// OnlySHA256 stands before a registry and refuses every sha512 digest, as most registries do today.
func OnlySHA256(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, other) || strings.HasPrefix(r.URL.Query().Get("digest"), other) {
			refuse(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// BlobsOnly takes sha512 blobs and refuses sha512 manifests, as distribution does.
func BlobsOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/manifests/"+other) {
			refuse(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func refuse(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	fail(w, http.StatusBadRequest, "DIGEST_INVALID")
}

// LyingDigests says that it has stored what comes under a sha512 digest, and keeps it under its sha256 digest only.
func LyingDigests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		said := r.URL.Query().Get("digest")
		if _, d, ok := strings.Cut(r.URL.Path, "/manifests/"); ok && strings.HasPrefix(d, other) {
			said = d
		}
		if r.Method != http.MethodPut || !strings.HasPrefix(said, other) {
			next.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			fail(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID")
			return
		}
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, renamed(r, said, SHA256(body), body))
		copyHeader(w, rec)
		w.Header().Set("Docker-Content-Digest", said)
		w.WriteHeader(rec.Code)
	})
}

// renamed is a request that says another digest.
func renamed(r *http.Request, from, to string, body []byte) *http.Request {
	c := r.Clone(r.Context())
	c.Body = io.NopCloser(bytes.NewReader(body))
	c.URL.Path = strings.Replace(c.URL.Path, from, to, 1)
	q := c.URL.Query()
	if q.Get("digest") == from {
		q.Set("digest", to)
	}
	c.URL.RawQuery = q.Encode()
	return c
}
