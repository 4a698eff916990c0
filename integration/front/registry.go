package front

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Registry is a registry in memory: manifests by tag and digest (sha256 and sha512), blobs, uploads (POST and PUT, PATCH, cross-repository
// mounts, DELETE), tags and referrers. Ranges are those of http.ServeContent, several at once included. Everything that is put is
// hashed and compared with the digest it is put under. It never forgets. Safe for concurrent use.
type Registry struct {
	mu        sync.Mutex
	blobs     map[string]map[string][]byte // repository, digest
	manifests map[string]map[string]doc    // repository, digest or tag
	uploads   map[string][]byte            // repository/id
	serial    int
}

type doc struct {
	raw       []byte
	mediaType string
	digest    string
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{
		blobs:     map[string]map[string][]byte{},
		manifests: map[string]map[string]doc{},
		uploads:   map[string][]byte{},
	}
}

// SHA256 returns "sha256:…" of b.
func SHA256(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

func sha512Of(b []byte) string {
	h := sha512.Sum512(b)
	return "sha512:" + hex.EncodeToString(h[:])
}

func digestLike(want string, b []byte) string {
	if strings.HasPrefix(want, "sha512:") {
		return sha512Of(b)
	}
	return SHA256(b)
}

// AddBlob stores a blob and returns its digest.
func (g *Registry) AddBlob(repo string, b []byte) string {
	d := SHA256(b)
	g.mu.Lock()
	defer g.mu.Unlock()
	put(g.blobs, repo, d, append([]byte{}, b...))
	return d
}

// AddManifest stores a manifest under its digest and, if it is not empty, a tag.
func (g *Registry) AddManifest(repo, tag, mediaType string, raw []byte) string {
	d := SHA256(raw)
	g.mu.Lock()
	defer g.mu.Unlock()
	put(g.manifests, repo, d, doc{raw, mediaType, d})
	if tag != "" {
		put(g.manifests, repo, tag, doc{raw, mediaType, d})
	}
	return d
}

// Blob returns a stored blob, nil if there is none.
func (g *Registry) Blob(repo, digest string) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.blobs[repo][digest]
}

// Manifest returns a stored manifest, nil if there is none.
func (g *Registry) Manifest(repo, ref string) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.manifests[repo][ref].raw
}

// Uploads returns how many upload sessions are open.
func (g *Registry) Uploads() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.uploads)
}

func put[T any](m map[string]map[string]T, repo, key string, v T) {
	if m[repo] == nil {
		m[repo] = map[string]T{}
	}
	m[repo][key] = v
}

// ServeHTTP implements the distribution API below /v2/.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "NOT_FOUND")
	case path == "":
		w.WriteHeader(http.StatusOK)
	case strings.Contains(path, "/blobs/uploads/"):
		repo, id, _ := strings.Cut(path, "/blobs/uploads/")
		g.upload(w, r, repo, id)
	case strings.Contains(path, "/blobs/"):
		repo, d, _ := strings.Cut(path, "/blobs/")
		g.blob(w, r, repo, d)
	case strings.Contains(path, "/manifests/"):
		repo, ref, _ := strings.Cut(path, "/manifests/")
		g.manifest(w, r, repo, ref)
	case strings.HasSuffix(path, "/tags/list"):
		g.tags(w, strings.TrimSuffix(path, "/tags/list"))
	case strings.Contains(path, "/referrers/"):
		repo, d, _ := strings.Cut(path, "/referrers/")
		g.referrers(w, repo, d)
	default:
		fail(w, http.StatusNotFound, "NOT_FOUND")
	}
}

func (g *Registry) blob(w http.ResponseWriter, r *http.Request, repo, d string) {
	b := g.Blob(repo, d)
	if b == nil {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, repo, ref string) {
	switch r.Method {
	case http.MethodPut:
		g.putManifest(w, r, repo, ref)
	case http.MethodDelete:
		g.mu.Lock()
		_, ok := g.manifests[repo][ref]
		delete(g.manifests[repo], ref)
		g.mu.Unlock()
		if !ok {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
			return
		}
		w.WriteHeader(http.StatusAccepted)
	default:
		g.mu.Lock()
		m, ok := g.manifests[repo][ref]
		g.mu.Unlock()
		if !ok {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
			return
		}
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Docker-Content-Digest", m.digest)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.raw))
	}
}

func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, repo, ref string) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<20))
	if err != nil {
		fail(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID")
		return
	}
	want := ref
	if !strings.Contains(ref, ":") {
		want = r.URL.Query().Get("digest") // of a tag that names another algorithm's digest
	}
	d := digestLike(want, raw)
	if want != "" && want != d {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	m := doc{raw, r.Header.Get("Content-Type"), d}
	g.mu.Lock()
	for _, name := range append([]string{d, ref}, r.URL.Query()["tag"]...) {
		put(g.manifests, repo, name, m)
	}
	g.mu.Unlock()
	for _, tag := range r.URL.Query()["tag"] {
		w.Header().Add("OCI-Tag", tag)
	}
	if subject := subjectOf(raw); subject != "" {
		w.Header().Set("OCI-Subject", subject)
	}
	w.Header().Set("Docker-Content-Digest", d)
	w.Header().Set("Location", "/v2/"+repo+"/manifests/"+d)
	w.WriteHeader(http.StatusCreated)
}

func subjectOf(raw []byte) string {
	var x struct {
		Subject struct {
			Digest string `json:"digest"`
		} `json:"subject"`
	}
	_ = json.Unmarshal(raw, &x) // what is no JSON has none
	return x.Subject.Digest
}

func (g *Registry) upload(w http.ResponseWriter, r *http.Request, repo, id string) {
	if r.Method == http.MethodPost {
		g.startUpload(w, r, repo)
		return
	}
	g.mu.Lock()
	have, ok := g.uploads[repo+"/"+id]
	g.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		return
	}
	if r.Method == http.MethodDelete {
		g.endUpload(repo, id)
		w.WriteHeader(http.StatusNoContent)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		fail(w, http.StatusBadRequest, "BLOB_UPLOAD_INVALID")
		return
	}
	body = append(append([]byte{}, have...), body...) // never nil: Blob tells an empty one from none
	if r.Method == http.MethodPatch {
		g.mu.Lock()
		g.uploads[repo+"/"+id] = body
		g.mu.Unlock()
		g.accepted(w, repo, id)
		return
	}
	want := r.URL.Query().Get("digest")
	g.endUpload(repo, id)
	if digestLike(want, body) != want {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	g.mu.Lock()
	put(g.blobs, repo, want, body)
	g.mu.Unlock()
	created(w, repo, want)
}

func (g *Registry) startUpload(w http.ResponseWriter, r *http.Request, repo string) {
	mount, from := r.URL.Query().Get("mount"), r.URL.Query().Get("from")
	g.mu.Lock()
	if b := g.blobs[from][mount]; mount != "" && b != nil {
		put(g.blobs, repo, mount, b)
		g.mu.Unlock()
		created(w, repo, mount)
		return
	}
	g.serial++
	id := fmt.Sprintf("u%d", g.serial)
	g.uploads[repo+"/"+id] = nil
	g.mu.Unlock()
	g.accepted(w, repo, id)
}

func (g *Registry) endUpload(repo, id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.uploads, repo+"/"+id)
}

func (g *Registry) accepted(w http.ResponseWriter, repo, id string) {
	// A query of its own, so that a client that appends "?digest=" is found out.
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id+"?state=x")
	w.WriteHeader(http.StatusAccepted)
}

func created(w http.ResponseWriter, repo, d string) {
	w.Header().Set("Docker-Content-Digest", d)
	w.Header().Set("Location", "/v2/"+repo+"/blobs/"+d)
	w.WriteHeader(http.StatusCreated)
}

func (g *Registry) tags(w http.ResponseWriter, repo string) {
	g.mu.Lock()
	tags := []string{}
	for ref := range g.manifests[repo] {
		if !strings.Contains(ref, ":") {
			tags = append(tags, ref)
		}
	}
	g.mu.Unlock()
	slices.Sort(tags)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": tags})
}

// referrers answers with the manifests whose subject has the digest.
func (g *Registry) referrers(w http.ResponseWriter, repo, d string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := []map[string]any{}
	for ref, m := range g.manifests[repo] {
		var x struct {
			ArtifactType string `json:"artifactType"`
		}
		if !strings.Contains(ref, ":") || json.Unmarshal(m.raw, &x) != nil || subjectOf(m.raw) != d {
			continue
		}
		list = append(list, map[string]any{"mediaType": m.mediaType, "digest": ref, "size": len(m.raw), "artifactType": x.ArtifactType})
	}
	w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
	_ = json.NewEncoder(w).Encode(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list})
}
