package registry

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// Four registries are told apart by what they give out again, not by what they say. The answer is for the host: asked
// once, whichever repository and however many ask.
func TestHoldsDigests(t *testing.T) { // D17, rule 63
	for _, c := range []struct {
		name  string
		wrap  func(http.Handler) http.Handler
		holds bool
	}{
		{"both", func(h http.Handler) http.Handler { return h }, true},
		{"only sha256", front.OnlySHA256, false},
		{"sha512 blobs only", front.BlobsOnly, false},
		{"lies", front.LyingDigests, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := front.NewRegistry()
			f := front.New(c.wrap(reg))
			srv := httptest.NewServer(f)
			defer srv.Close()
			client := New(&Options{PlainHTTP: true, Credentials: func(string) (string, string, error) { return "", "", nil }})
			host := strings.TrimPrefix(srv.URL, "http://")
			if err := client.Repo(host, "a").HoldsDigests(t.Context(), digest.SHA256); err != nil || len(f.Log()) != 0 {
				t.Errorf("sha256: %v, asked %d times", err, len(f.Log()))
			}
			var wg sync.WaitGroup
			for _, name := range []string{"a", "a", "b"} {
				wg.Go(func() {
					err := client.Repo(host, name).HoldsDigests(t.Context(), digest.SHA512)
					if (err == nil) != c.holds || err != nil && !errors.Is(err, manifest.ErrUnsupported) {
						t.Errorf("%v", err)
					}
				})
			}
			wg.Wait()
			if n := f.Count("POST", "/uploads/"); n != 1 {
				t.Errorf("%d blobs sent to find out", n)
			}
			if q := uploadQuery(f); q != "digest-algorithm=sha512" {
				t.Errorf("upload began with %q", q)
			}
			if c.holds && f.Count("DELETE", "/manifests/sha512:") != 1 {
				t.Error("the manifest was left behind")
			}
		})
	}
}

func uploadQuery(f *front.Front) string {
	for _, r := range f.Log() {
		if r.Method == "POST" {
			return r.Query
		}
	}
	return ""
}

// What says nothing about digests is no answer, and is asked again.
func TestHoldsDigestsUnanswered(t *testing.T) {
	reg := front.NewRegistry()
	f := front.New(reg)
	f.Add(front.Rule{Times: 1, Do: front.Status(http.StatusForbidden, "DENIED")})
	srv := httptest.NewServer(f)
	defer srv.Close()
	client := New(&Options{PlainHTTP: true, Retries: -1, Credentials: func(string) (string, string, error) { return "", "", nil }})
	repo := client.Repo(strings.TrimPrefix(srv.URL, "http://"), "a")
	if err := repo.HoldsDigests(t.Context(), digest.SHA512); !errors.Is(err, ErrAuth) || errors.Is(err, manifest.ErrUnsupported) {
		t.Errorf("refused entry: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := repo.HoldsDigests(gone, digest.SHA512); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := repo.HoldsDigests(t.Context(), digest.SHA512); err != nil {
		t.Errorf("asked again: %v", err)
	}
	if err := repo.HoldsDigests(t.Context(), "sha999"); !errors.Is(err, manifest.ErrUnsupported) { // D4
		t.Errorf("sha999: %v", err)
	}
}

// A tag is written together with its digest where a registry takes that, and after it where not.
func TestPutTagged(t *testing.T) { // rule 63
	raw := []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`)
	d := digest.SHA512.FromBytes(raw)
	const mediaType = "application/vnd.oci.image.index.v1+json"
	for _, together := range []bool{true, false} {
		reg := front.NewRegistry()
		f := front.New(reg)
		if !together {
			f.Add(front.Rule{Method: "PUT", Path: "/manifests/sha512:", Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				c := r.Clone(r.Context())
				c.URL.RawQuery = ""
				next.ServeHTTP(w, c)
			}})
		}
		srv := httptest.NewServer(f)
		client := New(&Options{PlainHTTP: true, Credentials: func(string) (string, string, error) { return "", "", nil }})
		repo := client.Repo(strings.TrimPrefix(srv.URL, "http://"), "a")
		if err := repo.PutTagged(t.Context(), "v1", d, raw, mediaType); err != nil {
			t.Fatal(err)
		}
		want := 2
		if together {
			want = 1
		}
		if n := f.Count("PUT", "/manifests/"); n != want {
			t.Errorf("together %v: %d requests", together, n)
		}
		for _, ref := range []string{"v1", d.String()} {
			if doc, _, err := repo.ManifestNamed(t.Context(), ref); err != nil || doc.Digest() != d {
				t.Errorf("together %v: %s is %s, %v", together, ref, doc.Digest(), err)
			}
		}
		if err := repo.PutTagged(t.Context(), "v1", digest.SHA512.FromString("x"), raw, mediaType); !errors.Is(err, manifest.ErrDigestMismatch) {
			t.Errorf("another digest: %v", err)
		}
		srv.Close()
	}
}
