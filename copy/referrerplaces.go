package copy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

var (
	_ referring = (*docker)(nil)
	_ referred  = (*docker)(nil)
	_ referring = (*layout)(nil)
	_ referred  = (*layout)(nil)
	_ referring = (*ociArchive)(nil)
	_ referring = (*dir)(nil)
	_ referred  = (*dir)(nil)
)

// addReferrer adds an entry to the index that stands in for the referrers API (nil: there is none yet). The result is nil
// if it is there already. It is pure.
func addReferrer(there *document, entry v1.Descriptor) (*document, error) {
	if there == nil {
		out := made(manifest.NewIndex([]v1.Descriptor{entry}), v1.MediaTypeImageIndex)
		return &out, nil
	}
	list, err := manifest.ParseList(there.raw, there.mediaType)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(list.Instances, func(d v1.Descriptor) bool { return d.Digest == entry.Digest }) {
		return nil, nil
	}
	raw, err := manifest.ReplaceInstances(list, append(slices.Clone(list.Instances), entry), "")
	if err != nil {
		return nil, err
	}
	out := made(raw, list.MediaType)
	return &out, nil
}

func (d *docker) referrers(ctx context.Context, of digest.Digest) ([]v1.Descriptor, error) {
	return d.repo.Referrers(ctx, of)
}

func (d *docker) listed(ctx context.Context, of digest.Digest) ([]v1.Descriptor, error) {
	return d.repo.Referrers(ctx, of)
}

// putReferrer leaves the listing to a registry that says that it saw the subject; of others it edits the tag that stands
// in for the listing.
func (d *docker) putReferrer(ctx context.Context, r referrer) error {
	lists, err := d.repo.PutReferrer(ctx, r.doc.digest, r.subject, r.doc.raw, r.doc.mediaType)
	if err != nil || lists {
		return err
	}
	tag := registry.ReferrersTag(r.subject)
	err = d.mergeTag(ctx, tag, func(_ context.Context, there *document) (*document, error) {
		return addReferrer(there, r.entry())
	})
	if err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	return nil
}

// In a layout the referrers of an image are listed by an index under the name that stands in for the referrers API in a
// registry (as regclient writes it), or stand in index.json themselves (as oras does). Both are read.
func (l *layout) referrers(ctx context.Context, of digest.Digest) ([]v1.Descriptor, error) {
	idx, err := l.index()
	if err != nil {
		return nil, err
	}
	return indexedReferrers(ctx, l, idx, of)
}

// indexedReferrers looks for referrers in an index.json whose manifests src reads.
func indexedReferrers(ctx context.Context, src source, idx v1.Index, of digest.Digest) ([]v1.Descriptor, error) {
	var out []v1.Descriptor
	for _, d := range idx.Manifests {
		name := d.Annotations[v1.AnnotationRefName]
		if !manifest.IsManifest(d.MediaType) && !manifest.IsList(d.MediaType) || isReferrersTag(name) && name != registry.ReferrersTag(of) {
			continue
		}
		doc, err := src.manifest(ctx, d)
		if errors.Is(err, ErrNotFound) {
			continue // of a sparse layout
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.Digest, err)
		}
		if name == registry.ReferrersTag(of) {
			list, err := manifest.ParseList(doc.raw, doc.mediaType)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out = append(out, list.Instances...)
			continue
		}
		if _, subject, err := parseReferrer(doc.raw); err == nil && subject == of {
			out = append(out, d)
		}
	}
	return out, nil
}

func (a *ociArchive) referrers(ctx context.Context, of digest.Digest) ([]v1.Descriptor, error) {
	x, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	idx, err := readArchiveIndex(x)
	if err != nil {
		return nil, err
	}
	return indexedReferrers(ctx, a, idx, of)
}

// referrersTag is the form of names that stand in for the referrers API.
var referrersTag = regexp.MustCompile(`^(sha256|sha384|sha512)-[0-9a-f]{64}$`)

func isReferrersTag(name string) bool { return referrersTag.MatchString(name) }

func (l *layout) listed(ctx context.Context, of digest.Digest) ([]v1.Descriptor, error) {
	return l.referrers(ctx, of)
}

func (l *layout) putReferrer(ctx context.Context, r referrer) error {
	if err := l.putManifest(ctx, r.doc); err != nil {
		return err
	}
	name := registry.ReferrersTag(r.subject)
	return l.reindex(func(entries []v1.Descriptor) ([]v1.Descriptor, error) {
		there, err := l.called(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		next, err := addReferrer(there, r.entry())
		if err != nil || next == nil {
			return entries, err
		}
		return nameEntry(entries, descriptorOf(*next), name), l.putManifest(ctx, *next)
	})
}

// A dir: lists nothing. The referrers in it are the manifests of the image's directory that name a subject.
func (d *dir) referrers(_ context.Context, of digest.Digest) ([]v1.Descriptor, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	var out []v1.Descriptor
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), "."+dirManifest)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		raw, err := d.read(e.Name(), manifest.MaxManifestSize)
		if err != nil {
			return nil, err
		}
		_, subject, err := parseReferrer(raw)
		if err != nil || subject != of {
			continue
		}
		named := digest.NewDigestFromEncoded(digest.SHA256, name)
		if algorithm, hex, ok := strings.Cut(name, "-"); ok {
			named = digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
		}
		if raw, err = manifest.Covered(raw, named); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		out = append(out, v1.Descriptor{MediaType: manifest.GuessMediaType(raw), Digest: named, Size: int64(len(raw))})
	}
	return out, nil
}

// listed is nothing: what a copy does not write goes when it is committed.
func (d *dir) listed(context.Context, digest.Digest) ([]v1.Descriptor, error) { return nil, nil }

func (d *dir) putReferrer(ctx context.Context, r referrer) error { return d.putManifest(ctx, r.doc) }
