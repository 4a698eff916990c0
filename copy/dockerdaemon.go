package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/dockerd"
	"github.com/tocsin/tocsin/manifest"
)

// openDaemon is an image of a docker daemon as a source: the archive that docker save would write. It comes as a stream
// in an order of docker's own, so it goes through a file without a name.
func openDaemon(env *Env, ref manifest.Ref) *dockerArchive {
	name := ref.StoreName()
	inside := manifest.Ref{Transport: manifest.DockerArchive, Name: name, Index: -1}
	if ref.Digest != "" {
		inside.Name = "" // what is asked for by digest has no name in the archive
		if name = ref.Repository() + "@" + ref.Digest.String(); ref.Repo == "" {
			name = ref.Digest.String()
		}
	}
	stream := func(ctx context.Context) (io.ReadCloser, error) {
		body, err := env.Dockerd.Save(ctx, name)
		if errors.Is(err, dockerd.ErrNotFound) {
			err = fmt.Errorf("%w: %w", err, ErrNotFound)
		}
		return body, err
	}
	return &dockerArchive{archiveIn: archiveIn{path: ref.String(), stream: stream}, ref: inside, want: ref.Digest}
}

// wanted compares an image with the digest that it was asked for by. What docker keeps no manifest of has only its ID.
func (a *dockerArchive) wanted(x *tarIndex, doc document, m *manifest.Manifest) error {
	if a.want == "" || a.want == doc.digest || a.want == m.Config.Digest {
		return nil
	}
	// An archive of the containerd image store may have the list that the digest names.
	list, err := storedDocument(x, v1.Descriptor{Digest: a.want})
	if err == nil && manifest.IsList(list.mediaType) {
		l, err := manifest.ParseList(list.raw, list.mediaType)
		if err == nil && slices.ContainsFunc(l.Instances, func(d v1.Descriptor) bool { return d.Digest == doc.digest }) {
			return nil
		}
	}
	return fmt.Errorf("docker gave the image %s, and nothing there says that it is what %s names; ask for it by its ID or tag: %w",
		m.Config.Digest, a.want, manifest.ErrDigestMismatch)
}

// toDaemon is the destination: a docker archive that the daemon reads while it is written.
type toDaemon struct {
	*dockerArchiveOut
	pipe   *io.PipeWriter
	cancel context.CancelFunc
	done   chan struct{} // closed when the daemon has answered
	err    error         // its answer
}

func createDaemon(env *Env, ref manifest.Ref) (*toDaemon, error) {
	if ref.Digest != "" || ref.Tag == "" {
		return nil, fmt.Errorf("%s: docker loads an image under a name and a tag, not under a digest or an ID: %w", ref, ErrUsage)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, w := io.Pipe()
	d := &toDaemon{pipe: w, cancel: cancel, done: make(chan struct{})}
	go func() {
		d.err = env.Dockerd.Load(ctx, r)
		close(d.done)
		r.Close() // whoever is still writing is told
	}()
	name := manifest.Ref{Transport: manifest.DockerArchive, Name: ref.StoreName(), Index: -1}
	l, err := tarLayoutOn(name, newTarStream(d, d.cut))
	if err != nil {
		return nil, errors.Join(err, d.close())
	}
	d.dockerArchiveOut = newDockerArchive(l)
	return d, nil
}

// Write sends a part of the archive. When the daemon has stopped reading, what it said is why.
func (d *toDaemon) Write(p []byte) (int, error) {
	n, err := d.pipe.Write(p)
	if errors.Is(err, io.ErrClosedPipe) {
		<-d.done
		if err = d.err; err == nil {
			err = fmt.Errorf("docker answered before it had read the archive: %w", dockerd.ErrRefused)
		}
	}
	return n, err
}

// cut ends the request, broken: the daemon must not take what it has for a whole archive.
func (d *toDaemon) cut(why error) {
	d.pipe.CloseWithError(why)
	d.cancel()
}

func (d *toDaemon) commit(ctx context.Context, doc document) error {
	if err := d.dockerArchiveOut.commit(ctx, doc); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { d.cut(context.Cause(ctx)) })()
	if err := d.pipe.Close(); err != nil {
		return err
	}
	<-d.done
	return d.err
}

// close ends what was not committed; after a commit there is nothing left to end.
func (d *toDaemon) close() error {
	d.cut(errors.New("the copy was not finished"))
	<-d.done
	return nil
}
