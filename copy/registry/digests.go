package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// probes remembers what hosts answered about digest algorithms.
type probes struct {
	mu    sync.Mutex
	known map[probeKey]*probe
}

type probeKey struct {
	host string
	alg  digest.Algorithm
}

// probe is one question; its lock is held while it is asked.
type probe struct {
	mu       sync.Mutex
	answered bool
	refused  error
}

func (p *probes) of(k probeKey) *probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = make(map[probeKey]*probe)
	}
	if p.known[k] == nil {
		p.known[k] = &probe{}
	}
	return p.known[k]
}

// HoldsDigests finds out whether this registry keeps blobs and manifests under digests of alg. nil means that it gave
// both out again under them, after it was sent the empty config and a manifest of nothing but that; the manifest is
// deleted where that is allowed. manifest.ErrUnsupported means that it refused, or said that it had stored them and had
// not. Both are remembered for the host while the client lives; other errors leave the question open. Every registry
// keeps sha256, so that is not asked.
func (r *Repo) HoldsDigests(ctx context.Context, alg digest.Algorithm) error {
	if alg == digest.SHA256 {
		return nil
	}
	if !alg.Available() {
		return fmt.Errorf("digest algorithm %.100q: %w", string(alg), manifest.ErrUnsupported)
	}
	p := r.c.probes.of(probeKey{r.host, alg})
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.answered {
		return p.refused
	}
	err := r.probe(ctx, alg)
	switch {
	case err == nil:
		p.answered = true
	case ctx.Err() != nil, errors.Is(err, ErrAuth), errors.Is(err, ErrRetriesExhausted), passing(err):
		return fmt.Errorf("ask %s for %s digests: %w", r, alg, err)
	default:
		p.answered = true
		// Whatever it said of these bytes, none were wrong: the cause is text only.
		p.refused = fmt.Errorf("registry %s does not keep %s digests: %w: %v", r.host, alg, manifest.ErrUnsupported, err)
	}
	return p.refused
}

// probeType is the artifact type of the manifest that is only there to be asked for.
const probeType = "application/vnd.tocsin.digest-probe"

// probe stores and reads back.
func (r *Repo) probe(ctx context.Context, alg digest.Algorithm) error {
	empty := v1.DescriptorEmptyJSON.Data
	config := v1.Descriptor{MediaType: v1.MediaTypeEmptyJSON, Digest: alg.FromBytes(empty), Size: int64(len(empty))}
	there, err := r.HasBlob(ctx, config)
	if err == nil && !there {
		err = r.PutBlob(ctx, config, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(empty)), nil })
	}
	if err != nil {
		return err
	}
	body, err := r.Blob(ctx, config)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, body)
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	raw := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":%s,"layers":[%[3]s]}`,
		v1.MediaTypeImageManifest, probeType, fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, config.MediaType, config.Digest, config.Size))
	name := alg.FromBytes(raw).String()
	if err := r.PutManifest(ctx, name, raw, v1.MediaTypeImageManifest); err != nil {
		return err
	}
	if _, _, err := r.Manifest(ctx, name); err != nil {
		return err
	}
	// It does no harm where it cannot be deleted.
	_ = r.DeleteManifest(ctx, name)
	return nil
}
