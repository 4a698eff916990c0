package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

// acceptManifests names what we can read first; the last entry is for artifacts, which are copied as they are.
var acceptManifests = strings.Join([]string{
	v1.MediaTypeImageIndex,
	v1.MediaTypeImageManifest,
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5",
	"*/*;q=0.1",
}, ", ")

// Manifest returns the bytes of a manifest or list that its digest covers, and the media type that the registry says it
// has ("" if it says none). ref is a tag or a digest; the bytes asked for by a digest have it, else the error is
// manifest.ErrDigestMismatch. More than manifest.MaxManifestSize bytes are refused.
func (r *Repo) Manifest(ctx context.Context, ref string) (raw []byte, mediaType string, err error) {
	doc, mediaType, err := r.ManifestNamed(ctx, ref)
	return doc.Raw(), mediaType, err
}

// ManifestNamed is Manifest, and says the digest: the one that was asked for, else the one that the registry says if the
// bytes have it, else that of sha256.
func (r *Repo) ManifestNamed(ctx context.Context, ref string) (doc manifest.Document, mediaType string, err error) {
	d, err := checkRef(ref)
	if err != nil {
		return doc, "", err
	}
	c := &call{method: http.MethodGet, path: "manifests/" + ref, header: http.Header{"Accept": {acceptManifests}}, need: resolveNeed(d),
		scopes: sortedScopes(pullScope(r.name))}
	raw, resp, err := r.small(ctx, c, manifest.MaxManifestSize)
	if err != nil {
		return doc, "", err
	}
	if d != "" {
		doc, err = manifest.CoveredDocument(raw, d)
	} else if doc, err = manifest.CoveredDocument(raw, digest.Digest(resp.Header.Get("Docker-Content-Digest"))); err != nil {
		doc, err = manifest.NameDocument(raw, digest.SHA256)
	}
	if err != nil {
		return doc, "", fmt.Errorf("manifest %s %s: %w", r, ref, err)
	}
	return doc, mediaTypeOf(resp.Header), nil
}

// PutManifest writes a manifest under a tag or its digest, after what it refers to. nil means that the registry has
// stored these bytes; if it says that they have another digest the error is manifest.ErrDigestMismatch. A registry
// that does not take this form of manifest is ErrRejected.
func (r *Repo) PutManifest(ctx context.Context, ref string, raw []byte, mediaType string) error {
	_, err := r.putManifest(ctx, ref, nil, raw, mediaType)
	return err
}

// PutTagged is PutManifest under a digest of any algorithm and under a tag, where the registry can be told so in one
// request (distribution-spec 600), and in two where not.
func (r *Repo) PutTagged(ctx context.Context, tag string, d digest.Digest, raw []byte, mediaType string) error {
	if !tagForm.MatchString(tag) {
		return fmt.Errorf("tag %.200q: %w", tag, manifest.ErrMalformed)
	}
	resp, err := r.putManifest(ctx, d.String(), url.Values{"tag": {tag}}, raw, mediaType)
	if err != nil || slices.Contains(resp.Header.Values("OCI-Tag"), tag) {
		return err
	}
	_, err = r.putManifest(ctx, tag, url.Values{"digest": {d.String()}}, raw, mediaType)
	return err
}

// putManifest returns the answer, whose body is closed.
func (r *Repo) putManifest(ctx context.Context, ref string, query url.Values, raw []byte, mediaType string) (*response, error) {
	d, err := checkRef(ref)
	if err != nil {
		return nil, err
	}
	if d != "" {
		if _, err := manifest.CoveredDocument(raw, d); err != nil {
			return nil, fmt.Errorf("manifest %s@%s: %w", r, d, err)
		}
	}
	resp, err := r.do(ctx, &call{
		method: http.MethodPut, path: "manifests/" + ref, query: query, need: docker.HostCapabilityPush, scopes: sortedScopes(pushScope(r.name)),
		header: http.Header{"Content-Type": {mediaType}},
		size:   int64(len(raw)),
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil },
	})
	if err != nil {
		return nil, err
	}
	drain(resp.Response)
	if err := sameDigest(resp, func(said digest.Digest) error { _, err := manifest.CoveredDocument(raw, said); return err }); err != nil {
		return nil, fmt.Errorf("manifest %s:%s: the registry stored other bytes: %w", r, ref, err)
	}
	return resp, nil
}

// sameDigest checks the digest that a registry says it has stored, if it says one.
func sameDigest(resp *response, check func(digest.Digest) error) error {
	said := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if said == "" || manifest.ValidDigest(said) != nil {
		return nil
	}
	return check(said)
}

// DeleteManifest removes a manifest by digest, or a tag where the registry can remove one alone.
func (r *Repo) DeleteManifest(ctx context.Context, ref string) error {
	if _, err := checkRef(ref); err != nil {
		return err
	}
	resp, err := r.do(ctx, &call{method: http.MethodDelete, path: "manifests/" + ref, need: docker.HostCapabilityPush,
		scopes: sortedScopes("repository:" + r.name + ":delete,pull,push")})
	if err != nil {
		return err
	}
	drain(resp.Response)
	return nil
}

// resolveNeed: a mirror may be trusted to hold content but not to say what a tag means.
func resolveNeed(d digest.Digest) docker.HostCapabilities {
	if d == "" {
		return docker.HostCapabilityPull | docker.HostCapabilityResolve
	}
	return docker.HostCapabilityPull
}

func mediaTypeOf(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return t
}

// small reads a whole body of at most limit bytes, again if it breaks off.
func (r *Repo) small(ctx context.Context, c *call, limit int64) ([]byte, *response, error) {
	b := budget{client: r.c}
	for {
		resp, err := r.do(ctx, c)
		if err != nil {
			return nil, nil, err
		}
		body, err := readBounded(resp.Response, limit)
		if err == nil {
			return body, resp, nil
		}
		err = fmt.Errorf("%s %s/%s: %w", c.method, r, c.path, err)
		if !passingError(err) || ctx.Err() != nil {
			return nil, nil, err
		}
		if err := b.again(ctx, err, 0); err != nil {
			return nil, nil, err
		}
	}
}

// errTooBig: a document is longer than its limit; also ErrBadAnswer.
var errTooBig = fmt.Errorf("%w: document too big", ErrBadAnswer)

func readBounded(resp *http.Response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", errTooBig, resp.ContentLength, limit)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case errors.Is(err, io.EOF): // a reset that net/http calls so
		return nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, err
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("%w: limit %d", errTooBig, limit)
	}
	return body, nil
}
