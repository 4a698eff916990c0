package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

const (
	// leaseTime bounds how long containerd keeps what a writer left that did not live to release its lease.
	leaseTime = 24 * time.Hour
	// releaseTime bounds the wait for containerd to release a lease.
	releaseTime = 10 * time.Second
	// abortPause is the time between two attempts to remove a write that failed.
	abortPause = 20 * time.Millisecond
)

// Writer puts blobs into a namespace under a lease, so that containerd's garbage collection keeps them until an image
// record holds on to them. Its methods may be called by several goroutines, but for Release.
type Writer struct {
	*Namespace
	lease leases.Lease
}

// Writer begins to write. The caller releases it.
func (n *Namespace) Writer(ctx context.Context) (*Writer, error) {
	lease, err := n.leases.Create(n.with(ctx), withID("tocsin-"+rand.Text()), leases.WithExpiration(leaseTime))
	if err != nil {
		return nil, n.failed(err, "make a lease")
	}
	return &Writer{Namespace: n, lease: lease}, nil
}

func withID(id string) leases.Opt {
	return func(l *leases.Lease) error {
		l.ID = id
		return nil
	}
}

// leased is a context under whose calls containerd adds what is made to the lease.
func (w *Writer) leased(ctx context.Context) context.Context {
	return leases.WithLease(w.with(ctx), w.lease.ID)
}

// Hold takes a blob that is there under the lease and reports whether it is there in that size.
func (w *Writer) Hold(ctx context.Context, d v1.Descriptor) (bool, error) {
	// The lease first: what is looked for and found afterwards cannot go any more.
	err := w.leases.AddResource(w.with(ctx), w.lease, leases.Resource{ID: d.Digest.String(), Type: "content"})
	if err != nil {
		return false, w.failed(err, "lease blob %s", d.Digest)
	}
	size, err := w.Size(ctx, d.Digest)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil && size == d.Size, err
}

// Put writes a blob of known digest and size. containerd compares both; r may as well fail when they are wrong. A blob
// that is there already is not read.
func (w *Writer) Put(ctx context.Context, d v1.Descriptor, r io.Reader) error {
	return w.put(ctx, d, r, nil)
}

// PutManifest writes a manifest or list, and says which blobs containerd must keep as long as it keeps this one. They
// need not be there.
func (w *Writer) PutManifest(ctx context.Context, d v1.Descriptor, raw io.Reader, children []v1.Descriptor) error {
	labels := gcLabels(children)
	if err := w.put(ctx, d, raw, labels); err != nil {
		return err
	}
	if len(labels) == 0 {
		return nil
	}
	// One that was there already may have been written by somebody who had less of it.
	return w.label(ctx, d.Digest, labels)
}

func (w *Writer) put(ctx context.Context, d v1.Descriptor, r io.Reader, labels map[string]string) error {
	// Two writers of one reference would wait for each other; of one digest containerd keeps the first.
	ref := "tocsin-" + rand.Text()
	ctx, cancel := context.WithCancel(ctx) // the stream of a writer lives as long as its context
	defer cancel()
	out, err := w.content.Writer(w.leased(ctx), content.WithRef(ref), content.WithDescriptor(v1.Descriptor{Digest: d.Digest, Size: d.Size}))
	if errdefs.IsAlreadyExists(err) {
		return w.held(ctx, d)
	}
	if err != nil {
		return w.failed(err, "write blob %s", d.Digest)
	}
	err = content.Copy(w.leased(ctx), out, r, d.Size, d.Digest, content.WithLabels(labels))
	if err != nil {
		return w.failed(errors.Join(err, w.drop(ctx, out, ref)), "write blob %s", d.Digest)
	}
	return w.held(ctx, d)
}

// held fails if a blob that was just written, or was there, is not.
func (w *Writer) held(ctx context.Context, d v1.Descriptor) error {
	ok, err := w.Hold(ctx, d)
	if err == nil && !ok {
		err = fmt.Errorf("blob %s: containerd has it with another size than %d", d.Digest, d.Size)
	}
	return err
}

// drop ends a write that failed and removes what arrived.
func (w *Writer) drop(ctx context.Context, out content.Writer, ref string) error {
	err := out.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	return errors.Join(err, w.abort(ctx, ref))
}

// abort removes what arrived of a write. Closing a stream only says that no more is sent: containerd may still be writing
// what came before, and then fails to remove the directory that it writes to. So it is asked again, for as long as ctx.
func (w *Writer) abort(ctx context.Context, ref string) error {
	again := time.NewTicker(abortPause)
	defer again.Stop()
	for {
		err := w.content.Abort(w.leased(ctx), ref)
		if err == nil || errdefs.IsNotFound(err) {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Pending is a blob being written whose digest is known only at its end. Exactly one of Commit and Abort ends it.
type Pending struct {
	content.Writer
	w      *Writer
	ref    string
	cancel context.CancelFunc // ends the writer's stream
}

// Create begins such a blob. Writes fail when ctx ends.
func (w *Writer) Create(ctx context.Context) (*Pending, error) {
	ref := "tocsin-" + rand.Text()
	ctx, cancel := context.WithCancel(ctx)
	out, err := w.content.Writer(w.leased(ctx), content.WithRef(ref))
	if err != nil {
		cancel()
		return nil, w.failed(err, "begin a blob")
	}
	return &Pending{Writer: out, w: w, ref: ref, cancel: cancel}, nil
}

// Commit makes it the blob d; containerd compares digest and size.
func (p *Pending) Commit(ctx context.Context, d v1.Descriptor) error {
	defer p.cancel()
	err := p.Writer.Commit(p.w.leased(ctx), d.Size, d.Digest)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return p.w.failed(errors.Join(err, p.w.drop(ctx, p.Writer, p.ref)), "write blob %s", d.Digest)
	}
	return p.w.held(ctx, d)
}

// Abort removes what was written.
func (p *Pending) Abort(ctx context.Context) error {
	defer p.cancel()
	return p.w.failed(p.w.drop(ctx, p.Writer, p.ref), "end a blob")
}

// Name points an image record at a manifest or list, in one step, whether the name was there or not. What the manifest
// holds on to by its labels is kept as long as the record is.
func (w *Writer) Name(ctx context.Context, name string, d v1.Descriptor) error {
	ctx = w.leased(ctx)
	image := &imagesapi.Image{Name: name, Target: &types.Descriptor{
		MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations,
	}}
	_, err := w.images.Update(ctx, &imagesapi.UpdateImageRequest{Image: image, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"target"}}})
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) {
		_, err = w.images.Create(ctx, &imagesapi.CreateImageRequest{Image: image})
		err = errgrpc.ToNative(err)
	}
	return w.failed(err, "name image %s", name)
}

// Release ends the lease: what no image record holds on to goes with containerd's next collection. It waits for
// containerd even if ctx has ended, but not long.
func (w *Writer) Release(ctx context.Context) error { return w.end(ctx) }

func (w *Writer) end(ctx context.Context, how ...leases.DeleteOpt) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTime)
	defer cancel()
	err := w.leases.Delete(w.with(ctx), w.lease, how...)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return w.failed(err, "release lease %s", w.lease.ID)
}

// gcLabels say to containerd's garbage collection what a manifest holds on to, in containerd's own spelling. It is pure.
func gcLabels(children []v1.Descriptor) map[string]string {
	labels, used := make(map[string]string), make(map[string]int)
	seen := make(map[digest.Digest]bool)
	for _, d := range children {
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		key := images.ChildGCLabels(v1.Descriptor{MediaType: d.MediaType})[0]
		n := used[key]
		used[key]++
		if n > 0 || strings.HasSuffix(key, ".") {
			key += strconv.Itoa(n)
		}
		labels[key] = d.Digest.String()
	}
	return labels
}
