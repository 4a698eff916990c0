package copy

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// document is a manifest or list: the bytes that its digest covers, which are all that is parsed.
type document struct {
	raw       []byte
	signed    []byte // of a signed manifest of schema 1: raw with its signatures; else nil
	mediaType string
	digest    digest.Digest
}

// sent is what a place gets that takes the document as it is.
func (d document) sent() []byte {
	if d.signed != nil {
		return d.signed
	}
	return d.raw
}

// source reads one image reference. Everything it returns was compared with the digest that named it.
type source interface {
	// top is what the reference itself names.
	top(ctx context.Context) (document, error)
	// manifest reads a list's instance.
	manifest(ctx context.Context, d v1.Descriptor) (document, error)
	// blob reads a config or layer. The reader fails before EOF when the bytes are not d's.
	blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// layer reads a layer's tar in any compression, for a reader that compares the tar itself with its diffID.
	layer(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// ranged offers a blob for ranged reads and says where it is; nil when this place has no ranges.
	ranged(d v1.Descriptor) (fill.Source, store.Source)
	// close lets go of what the source holds.
	close() error
}

// destination holds blobs and manifests under one reference. The store is not one: it takes images apart.
type destination interface {
	// has reports whether the blob is there already.
	has(ctx context.Context, d v1.Descriptor) (bool, error)
	// put stores a blob whose digest is known. open may be called again when the place wants to try again.
	put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error
	// create begins a blob whose digest is known only at its end.
	create() (spool, error)
	// putManifest stores an instance's manifest by its digest.
	putManifest(ctx context.Context, doc document) error
	// commit stores the top-level manifest and gives it the reference's name. It is called last and once.
	commit(ctx context.Context, doc document) error
	// close removes what was not committed.
	close() error
}

// spool is a blob being made. Exactly one of commit and abort ends it.
type spool interface {
	io.Writer
	commit(ctx context.Context, d v1.Descriptor) error
	abort() error
}

func openSource(env *Env, ref manifest.Ref) (source, error) {
	switch ref.Transport {
	case manifest.Docker:
		return newDocker(env, ref), nil
	case manifest.OCI:
		return openLayout(ref)
	case manifest.Dir:
		return openDir(ref)
	case manifest.OCIArchive:
		return openOCIArchive(ref), nil
	case manifest.DockerArchive:
		return openDockerArchive(ref), nil
	case manifest.Store:
		return newStoreSource(env, ref), nil
	case manifest.Tarball:
		return newTarball(ref), nil
	case manifest.Containerd:
		return openContainerd(env, ref), nil
	case manifest.DockerDaemon:
		return openDaemon(env, ref), nil
	}
	return nil, fmt.Errorf("%s cannot be copied from: %w", ref, ErrUsage)
}

// openFor opens a source that may have to make an image first, for the platform that was asked for.
func openFor(env *Env, ref manifest.Ref, platform *v1.Platform) (source, error) {
	src, err := openSource(env, ref)
	if t, ok := src.(*tarball); ok && platform != nil {
		t.platform = *platform
	}
	return src, err
}

func openDestination(env *Env, ref manifest.Ref) (destination, error) {
	if env.bundle != nil {
		return env.bundle.member(ref)
	}
	switch ref.Transport {
	case manifest.Docker:
		return newDockerTo(env, ref), nil
	case manifest.OCI:
		return createLayout(ref)
	case manifest.Dir:
		return createDir(ref)
	case manifest.OCIArchive:
		return createOCIArchive(ref)
	case manifest.DockerArchive:
		return createDockerArchive(ref)
	case manifest.Containerd:
		return createContainerd(env, ref)
	case manifest.DockerDaemon:
		return createDaemon(env, ref)
	}
	return nil, fmt.Errorf("%s cannot be copied to: %w", ref, ErrUsage)
}
