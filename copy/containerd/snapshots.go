package containerd

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// ErrSnapshotter: the snapshotter of that name is not there, or did not answer for a layer.
var ErrSnapshotter = errors.New("the snapshotter did not prepare the image")

// Chain is the layers of an image as containerd's unpacker would name them to a snapshotter.
type Chain struct {
	Snapshotter string        // as containerd's configuration calls it
	Image       string        // where the snapshotter finds the blobs: a reference without a transport
	Manifest    digest.Digest // which must be in the namespace already, like its config
	Config      digest.Digest
	Layers      []ChainLayer // lowest first, at least one
}

// ChainLayer is one layer of a Chain.
type ChainLayer struct {
	ID   digest.Digest // its chain id
	Blob digest.Digest // "" for what is not a layer to containerd by its media type, as a sentinel may be
}

// Prepare has the snapshotter answer for every layer of c without its blob, keeps the snapshots under the lease, and says
// in the config's labels that the image holds on to them. A snapshotter that wants a layer unpacked is ErrSnapshotter, like
// every other failure of it; what was made is the lease's and ends with it.
func (w *Writer) Prepare(ctx context.Context, c Chain) error {
	sn := proxy.NewSnapshotter(w.snapshots, c.Snapshotter)
	parent := ""
	for _, l := range c.Layers {
		if err := w.answered(ctx, sn, c, l, parent); err != nil {
			return fmt.Errorf("%s, chain %s: %w: containerd, namespace %s: %w", c.Snapshotter, l.ID, ErrSnapshotter, w.name, err)
		}
		parent = l.ID.String()
	}
	return w.label(ctx, c.Config, map[string]string{"containerd.io/gc.ref.snapshot." + c.Snapshotter: parent})
}

// answered is one layer's turn: the snapshotter says that it has the chain already, and then has it.
func (w *Writer) answered(ctx context.Context, sn snapshots.Snapshotter, c Chain, l ChainLayer, parent string) error {
	ctx = w.leased(ctx)
	labels := map[string]string{
		snapshots.LabelSnapshotRef:             l.ID.String(),
		snapshotters.TargetRefLabel:            c.Image,
		snapshotters.TargetManifestDigestLabel: c.Manifest.String(),
	}
	if l.Blob != "" {
		labels[snapshotters.TargetLayerDigestLabel] = l.Blob.String()
	}
	key := fmt.Sprintf("%s-%s %s", snapshots.UnpackKeyPrefix, rand.Text(), l.ID)
	_, err := sn.Prepare(ctx, key, parent, snapshots.WithLabels(labels))
	switch {
	case errdefs.IsAlreadyExists(err):
		_, err = sn.Stat(ctx, l.ID.String())
		return err
	case err == nil:
		return errors.Join(errors.New("it wants the layer to be unpacked; is it tocsin's?"), sn.Remove(ctx, key))
	}
	return err
}

// label adds labels to a blob.
func (w *Writer) label(ctx context.Context, d digest.Digest, labels map[string]string) error {
	var fields []string
	for key := range labels {
		fields = append(fields, "labels."+key)
	}
	_, err := w.content.Update(w.leased(ctx), content.Info{Digest: d, Labels: labels}, fields...)
	return w.failed(err, "label blob %s", d)
}

// Discard ends the lease and waits until containerd has collected what no image holds on to: after it nothing of a
// writer's work is left that was not named. It does so even if ctx has ended, but not for long.
func (w *Writer) Discard(ctx context.Context) error { return w.end(ctx, leases.SynchronousDelete) }
