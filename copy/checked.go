package copy

import (
	"context"
	"errors"
	"io"

	"github.com/tocsin/tocsin/manifest"
)

// checkedLayer copies a layer as it is and compares its tar with the diffID, also when the destination has the blob: what
// is refused must not depend on what was sent before.
func (r *runner) checkedLayer(ctx context.Context, l manifest.Layer) error {
	open := func() (io.ReadCloser, error) {
		body, err := r.from.layer(ctx, l.Descriptor)
		if err != nil || l.DiffID == l.Digest {
			return body, err
		}
		return newTarVerified(body, l.DiffID), nil
	}
	sent := false
	err := r.once(ctx, l.Descriptor, func() error {
		sent = true
		meter := r.env.progress().Start("copy "+shortDigest(l.Digest), l.Size)
		err := r.to.put(ctx, l.Descriptor, func() (io.ReadCloser, error) {
			body, err := open()
			if err != nil {
				return nil, err
			}
			return &metered{ReadCloser: body, meter: meter}, nil
		})
		meter.Done(err)
		return err
	})
	if err != nil || sent {
		return err
	}
	return r.drain(ctx, open)
}

// drain reads a verified stream to its end for what it has to say there.
func (r *runner) drain(ctx context.Context, open func() (io.ReadCloser, error)) error {
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return err
	}
	defer r.slots.Release(1)
	body, err := open()
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(io.Discard, &contextReader{ctx, body}, make([]byte, streamBuffer))
	return errors.Join(err, body.Close())
}
