package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Push sends the image that an OCI layout calls name to the machine's registry as repo:tag and returns the reference
// by which it can be pulled.
func (m *Machine) Push(ctx context.Context, repoTag, layout, name string) (string, error) {
	ref := m.Registry + "/" + repoTag
	_, err := Push(ctx, ref, layout, name)
	return ref, err
}

// Push sends the image that an OCI layout calls name to ref, HOST:PORT/REPO:TAG, by plain http, blobs first, exactly as
// its bytes are, and returns its digest. It is a test's own few requests, so that what tocsin pulls was not pushed by
// tocsin. Only single images: no index.
func Push(ctx context.Context, ref, layout, name string) (digest.Digest, error) {
	host, path, ok := strings.Cut(ref, "/")
	repo, tag, tagged := strings.Cut(path, ":")
	if !ok || !tagged {
		return "", fmt.Errorf("harness: %q is not HOST:PORT/REPO:TAG", ref)
	}
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
	base := "http://" + host + "/v2/" + repo
	for _, blob := range append(manifest.Layers, manifest.Config) {
		if err := pushBlob(ctx, base, layout, blob); err != nil {
			return "", fmt.Errorf("harness: push blob %s: %w", blob.Digest, err)
		}
	}
	if err := put(ctx, base+"/manifests/"+tag, desc, bytes.NewReader(raw)); err != nil {
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
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/blobs/uploads/", nil)
	if err != nil {
		return err
	}
	answer, err := send(req)
	if err != nil {
		return err
	}
	location, err := answer.Location()
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", desc.Digest.String())
	location.RawQuery = query.Encode()
	file, err := os.Open(layoutBlob(layout, desc.Digest))
	if err != nil {
		return err
	}
	defer file.Close()
	desc.MediaType = "application/octet-stream"
	return put(ctx, location.String(), desc, file)
}

// put sends a body of the size and media type of desc.
func put(ctx context.Context, target string, desc v1.Descriptor, body io.Reader) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, target, body)
	if err != nil {
		return err
	}
	req.ContentLength = desc.Size
	req.Header.Set("Content-Type", desc.MediaType)
	_, err = send(req)
	return err
}

// send returns the answer with its body closed; a status that is not 2xx is an error.
func send(req *http.Request) (*http.Response, error) {
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 4096))
	if answer.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s\n%s", req.Method, req.URL, answer.Status, text)
	}
	return answer, nil
}
