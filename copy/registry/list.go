package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

// A registry can keep a listing going for so many pages, and so many bytes in all of them.
const (
	maxPages         = 1000
	maxListing int64 = 64 << 20
)

// Tags returns all tags of the repository, in the registry's order.
func (r *Repo) Tags(ctx context.Context) ([]string, error) {
	var tags []string
	err := r.pages(ctx, "tags/list", docker.HostCapabilityPull|docker.HostCapabilityResolve, func(raw []byte) error {
		var page struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			return fmt.Errorf("tags of %s: %w: %w", r, ErrBadAnswer, err)
		}
		for _, t := range page.Tags {
			if !tagForm.MatchString(t) {
				return fmt.Errorf("tags of %s: %w: tag %.200q", r, ErrBadAnswer, t)
			}
		}
		tags = append(tags, page.Tags...)
		return nil
	})
	return tags, err
}

// Referrers returns the descriptors of the manifests whose subject is d, all types of them. A registry without the
// referrers API is asked for the tag that stands in for it (algorithm-hex), as the distribution specification says; nothing there is an empty
// list. The descriptors are claims: fetch by digest.
func (r *Repo) Referrers(ctx context.Context, d digest.Digest) ([]v1.Descriptor, error) {
	if err := manifest.ValidDigest(d); err != nil {
		return nil, err
	}
	var list []v1.Descriptor
	add := func(raw []byte) error {
		l, err := manifest.ParseList(raw, v1.MediaTypeImageIndex)
		if err != nil {
			return fmt.Errorf("referrers of %s@%s: %w", r, d, err)
		}
		list = append(list, l.Instances...)
		return nil
	}
	err := r.pages(ctx, "referrers/"+d.String(), docker.HostCapabilityReferrers, add)
	if !unlisted(err) {
		return list, err
	}
	list = nil
	raw, _, err := r.Manifest(ctx, ReferrersTag(d))
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = add(raw)
	return list, err
}

// unlisted reports whether a registry said that it has no referrers API. The specification wants 404 for that; older
// registries take the path for something else that they refuse.
func unlisted(err error) bool {
	var refused *Error
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.Status {
	case http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable:
		return true
	}
	return false
}

// ReferrersTag is the tag that stands in for the referrers API where a registry has none (distribution specification,
// referrers tag schema): the algorithm and the first 64 digits of a valid digest.
func ReferrersTag(d digest.Digest) string {
	return d.Algorithm().String() + "-" + d.Encoded()[:min(64, len(d.Encoded()))]
}

// PutReferrer is PutManifest, by its digest, of a manifest with a subject. It reports whether the registry lists it under that
// subject itself; if not, whoever wrote it has to (see ReferrersTag).
func (r *Repo) PutReferrer(ctx context.Context, d, subject digest.Digest, raw []byte, mediaType string) (lists bool, err error) {
	resp, err := r.putManifest(ctx, d.String(), nil, raw, mediaType)
	if err != nil {
		return false, err
	}
	return resp.Header.Get("OCI-Subject") == subject.String(), nil
}

// pages reads a listing and the pages that its Link headers lead to.
func (r *Repo) pages(ctx context.Context, path string, need docker.HostCapabilities, page func(raw []byte) error) error {
	c := &call{method: http.MethodGet, path: path, need: need, header: http.Header{"Accept": {"application/json, */*;q=0.5"}},
		scopes: sortedScopes(pullScope(r.name))}
	seen := map[string]bool{}
	left := maxListing
	for range maxPages {
		raw, resp, err := r.small(ctx, c, min(left, manifest.MaxManifestSize))
		if err != nil {
			return err
		}
		left -= int64(len(raw))
		if err := page(raw); err != nil {
			return err
		}
		next, err := nextPage(resp)
		if err != nil || next == nil {
			return err
		}
		if seen[next.String()] {
			return fmt.Errorf("GET %s/%s: %w: pages that lead in a circle", r, path, ErrBadAnswer)
		}
		seen[next.String()] = true
		following := *c
		following.at, following.to = resp.ep, next
		c = &following
	}
	return fmt.Errorf("GET %s/%s: %w: more than %d pages", r, path, ErrBadAnswer, maxPages)
}

// nextPage reads `Link: <…>; rel="next"`; nil: there is none.
func nextPage(resp *response) (*url.URL, error) {
	for _, link := range resp.Header.Values("Link") {
		target, params, ok := strings.Cut(link, ">")
		target, start := strings.CutPrefix(strings.TrimSpace(target), "<")
		if ok && start && strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
			u, err := follow(resp.url, target)
			if err != nil {
				return nil, fmt.Errorf("GET %s%s: next page: %w", resp.url.Host, resp.url.EscapedPath(), err)
			}
			return u, nil
		}
	}
	return nil, nil
}
