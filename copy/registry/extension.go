package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// The registry API extension for simple signatures, as OpenShift's registry has it and containers/image speaks it.
const (
	extensionHeader = "X-Registry-Supports-Signatures"
	extensionSchema = 2
	extensionType   = "atomic"

	maxExtensionAnswer = 32 << 20
)

// HoldsSignatures asks the registry, once, whether it keeps simple signatures itself. A registry that has nothing to say to
// that, or refuses to, does not.
func (r *Repo) HoldsSignatures(ctx context.Context) (bool, error) {
	r.mu.Lock()
	known := r.extension
	r.mu.Unlock()
	if known != Unknown {
		return known == Yes, nil
	}
	e, err := r.own()
	if err != nil {
		return false, err
	}
	to := &url.URL{Scheme: e.host.Scheme, Host: e.host.Host, Path: strings.TrimSuffix(e.host.Path, "/") + "/"}
	resp, err := r.do(ctx, &call{method: http.MethodGet, at: e, to: to, scopes: sortedScopes(pullScope(r.name)),
		take: func(status int) bool { return status == http.StatusNotFound || status == http.StatusMethodNotAllowed }})
	known = No
	switch {
	case errors.Is(err, ErrAuth): // who may read this repository need not be known to the registry at large
	case err != nil:
		return false, err
	default:
		drain(resp.Response)
		if resp.Header.Get(extensionHeader) == "1" {
			known = Yes
		}
	}
	r.mu.Lock()
	r.extension = known
	r.mu.Unlock()
	return known == Yes, nil
}

// own is the registry itself, of which no mirror knows the signatures.
func (r *Repo) own() (*endpoint, error) {
	list, resting, err := r.c.endpoints(r.host, docker.HostCapabilityResolve)
	if err != nil {
		return nil, err
	}
	for _, e := range append(list, resting...) {
		if !e.mirror {
			return e, nil
		}
	}
	return nil, fmt.Errorf("registry %s: hosts.toml names mirrors only", r.host)
}

// extensionSignature is one signature as the extension writes it.
type extensionSignature struct {
	Version int    `json:"schemaVersion"`
	Name    string `json:"name"` // DIGEST@anything
	Type    string `json:"type"`
	Content []byte `json:"content"`
}

// ExtensionSignatures returns the simple signatures of a manifest that a registry with the extension has, in its order
// and unverified. None, or a manifest that it does not know, is an empty list.
func (r *Repo) ExtensionSignatures(ctx context.Context, d digest.Digest) ([][]byte, error) {
	c, err := r.extensionCall(http.MethodGet, d, pullScope(r.name))
	if err != nil {
		return nil, err
	}
	c.take = func(status int) bool { return status == http.StatusNotFound }
	raw, resp, err := r.small(ctx, c, maxExtensionAnswer)
	if err != nil || resp.StatusCode == http.StatusNotFound {
		return nil, err
	}
	list, err := parseExtensionSignatures(raw)
	if err != nil {
		return nil, fmt.Errorf("signatures of %s@%s: %w", r, d, err)
	}
	return list, nil
}

// parseExtensionSignatures takes the signatures of the one kind that is defined.
func parseExtensionSignatures(raw []byte) ([][]byte, error) {
	var answer struct {
		Signatures []extensionSignature `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	var out [][]byte
	for _, s := range answer.Signatures {
		if s.Version == extensionSchema && s.Type == extensionType {
			out = append(out, s.Content)
		}
	}
	return out, nil
}

// PutExtensionSignature adds a simple signature to a manifest that the registry has, under a name that nobody used yet.
// The extension cannot replace or delete one.
func (r *Repo) PutExtensionSignature(ctx context.Context, d digest.Digest, signature []byte) error {
	c, err := r.extensionCall(http.MethodPut, d, pushScope(r.name))
	if err != nil {
		return err
	}
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return err
	}
	body, err := json.Marshal(extensionSignature{
		Version: extensionSchema, Name: d.String() + "@" + hex.EncodeToString(random[:]), Type: extensionType, Content: signature,
	})
	if err != nil {
		return err
	}
	c.header = http.Header{"Content-Type": {"application/json"}}
	c.size, c.body = int64(len(body)), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	resp, err := r.do(ctx, c)
	if err != nil {
		return err
	}
	drain(resp.Response)
	return nil
}

func (r *Repo) extensionCall(method string, d digest.Digest, scope string) (*call, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := manifest.ValidDigest(d); err != nil {
		return nil, err
	}
	e, err := r.own()
	if err != nil {
		return nil, err
	}
	path := "/extensions/v2/" + r.name + "/signatures/" + d.String()
	return &call{method: method, at: e, to: &url.URL{Scheme: e.host.Scheme, Host: e.host.Host, Path: path}, path: path[1:], scopes: sortedScopes(scope)}, nil
}
