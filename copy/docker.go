package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// docker is a repository of a registry, as a source or a destination.
type docker struct {
	ref  manifest.Ref
	repo *registry.Repo
	from string // of a destination: another repository of the same host that has the blobs, or ""

	client *registry.Client
	trust  *Trust // says where signatures are; may be nil
	seen   *Locations
}

func newDocker(env *Env, ref manifest.Ref) *docker {
	return &docker{ref: ref, repo: env.Registry.Repo(ref.Host, ref.Repo), client: env.Registry, trust: env.Trust, seen: env.Locations}
}

// newDockerTo is newDocker for a repository that a copy writes to.
func newDockerTo(env *Env, ref manifest.Ref) *docker {
	to := newDocker(env, ref)
	if env.Destination != nil {
		to.client, to.repo = env.Destination, env.Destination.Repo(ref.Host, ref.Repo)
	}
	return to
}

// name is what the reference asks the registry for: its digest if it has one, else its tag.
func (d *docker) name() string {
	if d.ref.Digest != "" {
		return d.ref.Digest.String()
	}
	return d.ref.Tag
}

func (d *docker) top(ctx context.Context) (document, error) {
	return d.read(ctx, d.name())
}

func (d *docker) manifest(ctx context.Context, desc v1.Descriptor) (document, error) {
	doc, err := d.read(ctx, desc.Digest.String())
	if err != nil {
		return document{}, err
	}
	return doc, sized(doc, desc)
}

// read reads what a tag or digest names. A registry that does not say of what type a manifest of schema 1 is may be an
// old one, which knew no other.
func (d *docker) read(ctx context.Context, name string) (document, error) {
	doc, mediaType, err := d.repo.ManifestNamed(ctx, name)
	if err != nil {
		return document{}, err
	}
	if guess := manifest.GuessMediaType(doc.Sent()); isSchema1(guess) && manifest.SaysNothing(mediaType) {
		mediaType = guess
	}
	return covered(doc, mediaType), nil
}

func (d *docker) blob(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	body, err := d.repo.Blob(ctx, desc)
	if err == nil {
		d.saw(desc)
	}
	return body, err
}

func (d *docker) layer(ctx context.Context, desc v1.Descriptor) (io.ReadCloser, error) {
	return d.blob(ctx, desc)
}

func (d *docker) ranged(desc v1.Descriptor) (fill.Source, store.Source) {
	return d.repo.Ranged(desc.Digest, desc.Size), store.Source{
		Host: d.ref.Host, Repo: d.ref.Repo, Blob: desc.Digest, Size: desc.Size, MediaType: desc.MediaType,
	}
}

func (d *docker) blobSize(ctx context.Context, of digest.Digest) (int64, error) {
	return d.repo.BlobSize(ctx, of)
}

func (d *docker) has(ctx context.Context, desc v1.Descriptor) (bool, error) {
	there, err := d.repo.HasBlob(ctx, desc)
	if there {
		d.saw(desc)
	}
	return there, err
}

// mountFrom lets the registry take blobs from a source that it holds itself.
func (d *docker) mountFrom(src *docker) {
	if src.ref.Host == d.ref.Host && src.ref.Repo != d.ref.Repo {
		d.from = src.ref.Repo
	}
}

func (d *docker) put(ctx context.Context, desc v1.Descriptor, open func() (io.ReadCloser, error)) error {
	candidates := mountCandidates(d.ref.Repo, d.from, d.seen.known(d.ref.Host, desc.Digest))
	if !d.tryMount(ctx, desc, candidates) {
		if err := d.repo.PutBlob(ctx, desc, open); err != nil {
			return err
		}
	}
	d.saw(desc)
	return nil
}

func (d *docker) putManifest(ctx context.Context, doc document) error {
	return d.repo.PutManifest(ctx, doc.digest.String(), doc.sent(), doc.mediaType)
}

func (d *docker) commit(ctx context.Context, doc document) error {
	if d.ref.Digest == "" && doc.digest.Algorithm() != digest.Canonical {
		return d.repo.PutTagged(ctx, d.ref.Tag, doc.digest, doc.sent(), doc.mediaType)
	}
	return d.repo.PutManifest(ctx, d.name(), doc.sent(), doc.mediaType)
}

func (d *docker) close() error { return nil }

// create spools a blob in a file without a name: an upload in one request must say its length and digest at the start.
func (d *docker) create() (spool, error) {
	f, err := unnamed("tocsin-upload-")
	if err != nil {
		return nil, fmt.Errorf("spool an upload: %w", err)
	}
	return &upload{File: f, to: d}, nil
}

type upload struct {
	*os.File
	to *docker
}

func (u *upload) commit(ctx context.Context, desc v1.Descriptor) error {
	there, err := u.to.repo.HasBlob(ctx, desc)
	if err == nil && !there {
		err = u.to.repo.PutBlob(ctx, desc, func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(u.File, 0, desc.Size)), nil
		})
	}
	if err == nil {
		u.to.saw(desc)
	}
	return errors.Join(err, u.Close())
}

func (u *upload) abort() error { return u.Close() }
