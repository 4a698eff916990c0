package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Push sends the image that an OCI layout calls name to REGISTRY/repo:tag by plain http, blobs first, exactly as its
// bytes are. It is a test's own few requests, so that what tocsin pulls was not pushed by tocsin. Only single images:
// no index.
func Push(ctx context.Context, registry, repo, tag, layout, name string) (digest.Digest, error) {
	desc, err := named(layout, name)
	if err != nil {
		return "", err
	}
	raw, err := os.ReadFile(layoutBlob(layout, desc.Digest))
	if err != nil {
		return "", err
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return "", fmt.Errorf("harness: manifest %s: %w", desc.Digest, err)
	}
	base := "http://" + registry + "/v2/" + repo
	for _, blob := range append(manifest.Layers, manifest.Config) {
		if err := pushBlob(ctx, base, layout, blob); err != nil {
			return "", fmt.Errorf("harness: push blob %s: %w", blob.Digest, err)
		}
	}
	header := http.Header{"Content-Type": {desc.MediaType}}
	if _, err := request(ctx, http.MethodPut, base+"/manifests/"+tag, header, bytes.NewReader(raw), int64(len(raw))); err != nil {
		return "", fmt.Errorf("harness: push manifest %s: %w", desc.Digest, err)
	}
	return desc.Digest, nil
}

func layoutBlob(layout string, d digest.Digest) string {
	return filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded())
}

func named(layout, name string) (v1.Descriptor, error) {
	raw, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		return v1.Descriptor{}, err
	}
	var index v1.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return v1.Descriptor{}, fmt.Errorf("harness: index of %s: %w", layout, err)
	}
	for _, desc := range index.Manifests {
		if desc.Annotations[v1.AnnotationRefName] == name {
			return desc, nil
		}
	}
	return v1.Descriptor{}, fmt.Errorf("harness: no image %q in %s", name, layout)
}

func pushBlob(ctx context.Context, base, layout string, desc v1.Descriptor) error {
	answer, err := request(ctx, http.MethodPost, base+"/blobs/uploads/", nil, nil, 0)
	if err != nil {
		return err
	}
	location, err := answer.Location()
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", desc.Digest.String())
	target := url.URL{Scheme: location.Scheme, Host: location.Host, Path: location.Path, RawQuery: query.Encode()}
	file, err := os.Open(layoutBlob(layout, desc.Digest))
	if err != nil {
		return err
	}
	defer file.Close()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	_, err = request(ctx, http.MethodPut, target.String(), header, file, desc.Size)
	return err
}

// request sends one request and returns its answer, body closed; a status that is not 2xx is an error.
func request(ctx context.Context, method, target string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	req.ContentLength = size
	for key, values := range header {
		req.Header[key] = values
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if answer.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s\n%s", method, target, answer.Status, text)
	}
	return answer, nil
}
