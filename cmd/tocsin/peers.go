package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/containerd"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/snapshotter"
	"github.com/tocsin/tocsin/store"
)

// repos hands out one Repo for each repository: tokens and redirects that it has seen serve every layer of every image
// there. It may be used by several goroutines.
type repos struct {
	client *registry.Client
	known  sync.Map // repoName -> *registry.Repo
}

type repoName struct{ host, name string }

func (r *repos) get(host, name string) *registry.Repo {
	key := repoName{host, name}
	if have, ok := r.known.Load(key); ok {
		return have.(*registry.Repo)
	}
	repo, _ := r.known.LoadOrStore(key, r.client.Repo(host, name))
	return repo.(*registry.Repo)
}

// connect opens the sources that layers were recorded with.
func (r *repos) connect(_ context.Context, src store.Source) (fill.Source, error) {
	return r.get(src.Host, src.Repo).Ranged(src.Blob, src.Size), nil
}

// remote gives the snapshotter what registries have. References come from containerd, credentials from the daemon's
// user.
type remote struct{ repos *repos }

func (r remote) repo(image string) (*registry.Repo, manifest.Ref, error) {
	ref, err := manifest.ParseRef("docker://" + image)
	if err != nil {
		return nil, ref, err
	}
	return r.repos.get(ref.Host, ref.Repo), ref, nil
}

func (r remote) Manifest(ctx context.Context, image string, d digest.Digest) ([]byte, string, error) {
	repo, _, err := r.repo(image)
	if err != nil {
		return nil, "", err
	}
	return repo.Manifest(ctx, d.String())
}

func (r remote) Blob(ctx context.Context, image string, d v1.Descriptor) (raw []byte, err error) {
	repo, _, err := r.repo(image)
	if err != nil {
		return nil, err
	}
	body, err := repo.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer closing(&err, body.Close)
	return io.ReadAll(io.LimitReader(body, d.Size+1))
}

func (r remote) Layer(ctx context.Context, image string, d v1.Descriptor) (fill.Source, store.Source, error) {
	repo, ref, err := r.repo(image)
	if err != nil {
		return nil, store.Source{}, err
	}
	return repo.Ranged(d.Digest, d.Size), store.Source{
		Host: ref.Host, Repo: ref.Repo, Blob: d.Digest, Size: d.Size, MediaType: d.MediaType,
	}, nil
}

// contentStore is containerd's content store, read through its socket; zero when there is none to ask.
type contentStore struct{ client *containerd.Client }

// dialContent connects lazily: containerd may start after us.
func dialContent(address string) (*contentStore, error) {
	if address == "" {
		return &contentStore{}, nil
	}
	client, err := containerd.New(address)
	return &contentStore{client: client}, err
}

func (c *contentStore) close() error {
	if c.client == nil {
		return nil
	}
	return c.client.Close()
}

// reader is nil, not a reader of nothing, when there is no containerd to ask.
func (c *contentStore) reader() snapshotter.Content {
	if c.client == nil {
		return nil
	}
	return c
}

// containers is nil when there is no containerd to ask.
func (c *contentStore) containers() snapshotter.Containers {
	if c.client == nil {
		return nil
	}
	return c
}

// Running implements snapshotter.Containers.
func (c *contentStore) Running(ctx context.Context, namespace string, keys []string) ([]string, error) {
	return c.client.Namespace(namespace).Running(ctx, keys)
}

// ReadBlob implements snapshotter.Content.
func (c *contentStore) ReadBlob(ctx context.Context, d digest.Digest, max int64) (_ []byte, err error) {
	ns, ok := namespaces.Namespace(ctx)
	if !ok {
		return nil, errors.New("read from containerd: the call carries no namespace")
	}
	blob, err := c.client.Namespace(ns).OpenUnverified(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("read from containerd: %w", err)
	}
	defer closing(&err, blob.Close)
	if blob.Size() > max {
		return nil, fmt.Errorf("read %s from containerd: %d bytes are more than %d", d, blob.Size(), max)
	}
	return io.ReadAll(blob.Stream())
}
