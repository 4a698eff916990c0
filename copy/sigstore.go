package copy

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

var (
	_ signedSource      = (*docker)(nil)
	_ signedDestination = (*docker)(nil)
)

// places is what registries.d says about this repository.
func (d *docker) places() policy.SignaturePlaces {
	if d.trust == nil {
		return policy.SignaturePlaces{}
	}
	return d.trust.Registries.For(d.ref)
}

// signatures reads the lookaside, then the attachments: each where registries.d names it, and where they are wanted.
// Nothing is asked of a registry otherwise, because for most images it would be a request for nothing.
func (d *docker) signatures(ctx context.Context, of subject, want lookFor) ([]policy.Signature, error) {
	at := d.places()
	var out []policy.Signature
	if at.Read != "" {
		simple, err := d.lookaside(ctx, at.Read, of.digest)
		if err != nil {
			return nil, err
		}
		out = simple
	}
	if want.sigstore || at.Attachments {
		sigs, err := d.attached(ctx, of.digest)
		if err != nil {
			return nil, err
		}
		out = append(out, sigs...)
	}
	return out, nil
}

// attached reads the sigstore signatures that lie in the repository under a tag made of the digest.
func (d *docker) attached(ctx context.Context, of digest.Digest) ([]policy.Signature, error) {
	tag, err := policy.AttachmentTag(of)
	if errors.Is(err, manifest.ErrUnsupported) {
		return nil, nil // a digest that makes no tag has no attachment
	}
	if err != nil {
		return nil, err
	}
	raw, _, err := d.repo.Manifest(ctx, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	layers, err := policy.AttachmentLayers(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tag, err)
	}
	if len(layers) > maxSignatures {
		return nil, fmt.Errorf("%s: more than %d signatures: %w", tag, maxSignatures, manifest.ErrMalformed)
	}
	var out []policy.Signature
	for _, l := range layers {
		content, err := readBlob(ctx, d, l, policy.MaxSignatureSize)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tag, err)
		}
		sig, err := policy.SignatureOfLayer(l, content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tag, err)
		}
		out = append(out, sig)
	}
	return out, nil
}

// holds says whether this repository has a place for signatures of a format.
func (d *docker) holds(f policy.Format) error {
	switch f {
	case policy.FormatSigstore:
		return nil
	case policy.FormatSimple:
		return lookasideWritable(d.ref, d.places().Write)
	}
	return fmt.Errorf("%s: %w", f, manifest.ErrUnsupported)
}

// putSignatures writes simple signatures into the lookaside, where they replace what was there, and adds sigstore
// signatures to the attachment, which others write to as well.
func (d *docker) putSignatures(ctx context.Context, of subject, sigs []policy.Signature) error {
	var simple, sigstore []policy.Signature
	for _, sig := range sigs {
		if sig.Format() == policy.FormatSigstore {
			sigstore = append(sigstore, sig)
		} else {
			simple = append(simple, sig)
		}
	}
	if err := d.putLookaside(of.digest, simple); err != nil || len(sigstore) == 0 {
		return err
	}
	return d.attach(ctx, of.digest, sigstore)
}

func (d *docker) attach(ctx context.Context, of digest.Digest, sigs []policy.Signature) error {
	tag, err := policy.AttachmentTag(of)
	if err != nil {
		return err
	}
	old, err := d.attachment(ctx, tag)
	if err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	next, added, err := policy.AddSignatures(old, sigs)
	if err != nil || len(added) == 0 {
		return err
	}
	for _, sig := range added {
		if err := d.putSmall(ctx, sig.Layer(), sig.Payload()); err != nil {
			return fmt.Errorf("%s: %w", tag, err)
		}
	}
	config := v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(next.Config), Size: int64(len(next.Config))}
	if err := d.putSmall(ctx, config, next.Config); err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	return d.repo.PutManifest(ctx, tag, next.Manifest, v1.MediaTypeImageManifest)
}

// attachment is what the registry has already, nil if nothing.
func (d *docker) attachment(ctx context.Context, tag string) (*policy.Attachment, error) {
	raw, mediaType, err := d.repo.Manifest(ctx, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m, err := manifest.ParseManifest(raw, mediaType)
	if err != nil {
		return nil, err
	}
	config, err := readBlob(ctx, d, m.Config, manifest.MaxConfigSize)
	return &policy.Attachment{Manifest: raw, Config: config}, err
}

func (d *docker) putSmall(ctx context.Context, desc v1.Descriptor, raw []byte) error {
	there, err := d.repo.HasBlob(ctx, desc)
	if err != nil || there {
		return err
	}
	return d.repo.PutBlob(ctx, desc, opener(raw))
}
