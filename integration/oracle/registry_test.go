package oracle

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/inmemory"
	"github.com/opencontainers/go-digest"
)

// registry is a real registry in this process that counts what it serves of blobs.
type registry struct {
	host string

	mu     sync.Mutex
	served map[digest.Digest]int64 // bytes of answers
	ranged map[digest.Digest]int   // requests with a Range
	whole  map[digest.Digest]int   // without
}

func newRegistry(t *testing.T) *registry {
	config := &configuration.Configuration{Storage: configuration.Storage{"inmemory": configuration.Parameters{}}}
	config.Log.Level = "error"
	config.HTTP.Secret = "oracle"
	app := handlers.NewApp(t.Context(), config)
	r := &registry{served: map[digest.Digest]int64{}, ranged: map[digest.Digest]int{}, whole: map[digest.Digest]int{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, name, ok := strings.Cut(req.URL.Path, "/blobs/sha256:")
		if req.Method != http.MethodGet || !ok {
			app.ServeHTTP(w, req)
			return
		}
		count := &countingResponse{ResponseWriter: w}
		app.ServeHTTP(count, req)
		r.count(digest.Digest("sha256:"+name), count.n, req.Header.Get("Range") != "")
	}))
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

func (r *registry) count(d digest.Digest, n int64, ranged bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.served[d] += n
	if ranged {
		r.ranged[d]++
	} else {
		r.whole[d]++
	}
}

// of returns what was served of a blob: bytes, requests with a Range, and without.
func (r *registry) of(d digest.Digest) (n int64, ranged, whole int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.served[d], r.ranged[d], r.whole[d]
}

type countingResponse struct {
	http.ResponseWriter
	n int64
}

func (c *countingResponse) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n += int64(n)
	return n, err
}

// put uploads a blob.
func (r *registry) put(t *testing.T, repo string, blob []byte) digest.Digest {
	t.Helper()
	d := digest.FromBytes(blob)
	resp := r.do(t, http.MethodPost, "/v2/"+repo+"/blobs/uploads/", "", nil, http.StatusAccepted)
	loc, err := url.Parse(resp.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	q := loc.Query()
	q.Set("digest", d.String())
	r.do(t, http.MethodPut, loc.Path+"?"+q.Encode(), "application/octet-stream", blob, http.StatusCreated)
	return d
}

// tag uploads a manifest.
func (r *registry) tag(t *testing.T, repo, tag, mediaType string, raw []byte) {
	t.Helper()
	r.do(t, http.MethodPut, fmt.Sprintf("/v2/%s/manifests/%s", repo, tag), mediaType, raw, http.StatusCreated)
}

func (r *registry) do(t *testing.T, method, path, contentType string, body []byte, want int) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	msg, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != want {
		t.Fatalf("%s %s: %s: %s", method, path, resp.Status, msg)
	}
	return resp
}
