package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

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

// places is what registries.d says about this repository, and the usual lookaside where it says nothing.
func (d *docker) places() policy.SignaturePlaces {
	if d.trust == nil {
		return policy.SignaturePlaces{}
	}
	at := d.trust.Registries.For(d.ref)
	if at.Read == "" {
		at.Read = d.trust.Lookaside
	}
	if at.Write == "" {
		at.Write = d.trust.Lookaside
	}
	return at
}

// signatures reads what the registry keeps itself, the lookaside, then the attachments: each where registries.d names it,
// and where they are wanted. Nothing is asked of a registry otherwise, because for most images it would be a request for
// nothing.
func (d *docker) signatures(ctx context.Context, of subject, want lookFor) ([]policy.Signature, error) {
	at := d.places()
	var out []policy.Signature
	if want.simple {
		kept, err := d.extended(ctx, of.digest)
		if err != nil {
			return nil, err
		}
		out = kept
	}
	if at.Read != "" {
		simple, err := d.lookaside(ctx, at.Read, of.digest)
		if err != nil {
			return nil, err
		}
		out = append(out, simple...)
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
func (d *docker) holds(ctx context.Context, f policy.Format, of []digest.Digest) error {
	switch f {
	case policy.FormatSigstore:
		for _, d := range of {
			if _, err := policy.AttachmentTag(d); err != nil {
				return fmt.Errorf("%w: %w", err, ErrUsage)
			}
		}
		return nil
	case policy.FormatSimple:
		if kept, err := d.repo.HoldsSignatures(ctx); err != nil || kept {
			return err
		}
		return lookasideWritable(d.ref, d.places().Write)
	}
	return fmt.Errorf("%s: %w", f, manifest.ErrUnsupported)
}

// putSignatures adds simple signatures to what the registry keeps itself, else writes them into the lookaside, where they
// replace what was there, and adds sigstore signatures to the attachment, which others write to as well.
func (d *docker) putSignatures(ctx context.Context, of subject, sigs []policy.Signature) error {
	var simple, sigstore []policy.Signature
	for _, sig := range sigs {
		if sig.Format() == policy.FormatSigstore {
			sigstore = append(sigstore, sig)
		} else {
			simple = append(simple, sig)
		}
	}
	if err := d.putSimple(ctx, of.digest, simple); err != nil || len(sigstore) == 0 {
		return err
	}
	return d.attach(ctx, of.digest, sigstore)
}

func (d *docker) putSimple(ctx context.Context, of digest.Digest, sigs []policy.Signature) error {
	kept := false
	if len(sigs) > 0 {
		var err error
		if kept, err = d.repo.HoldsSignatures(ctx); err != nil {
			return err
		}
	}
	if !kept {
		return d.putLookaside(of, sigs)
	}
	there, err := d.repo.ExtensionSignatures(ctx, of)
	if err != nil {
		return err
	}
	for _, sig := range sigs {
		raw, err := sig.Blob()
		if err != nil {
			return err
		}
		if slices.ContainsFunc(there, func(b []byte) bool { return bytes.Equal(b, raw) }) {
			continue
		}
		if err := d.repo.PutExtensionSignature(ctx, of, raw); err != nil {
			return err
		}
	}
	return nil
}

// extended reads the simple signatures that the registry keeps itself, if it does.
func (d *docker) extended(ctx context.Context, of digest.Digest) ([]policy.Signature, error) {
	kept, err := d.repo.HoldsSignatures(ctx)
	if err != nil || !kept {
		return nil, err
	}
	blobs, err := d.repo.ExtensionSignatures(ctx, of)
	if err != nil {
		return nil, err
	}
	if len(blobs) > maxSignatures {
		return nil, fmt.Errorf("more than %d: %w", maxSignatures, manifest.ErrMalformed)
	}
	return parseSignatures(blobs)
}

// attach adds signatures to the attachment. Signers whose claim and key are the same make the same signature, so that
// what was added before is there and is not added again.
func (d *docker) attach(ctx context.Context, of digest.Digest, sigs []policy.Signature) error {
	tag, err := policy.AttachmentTag(of)
	if err != nil {
		return err
	}
	err = d.mergeTag(ctx, tag, func(ctx context.Context, there *document) (*document, error) {
		old, err := d.attachment(ctx, there)
		if err != nil {
			return nil, err
		}
		next, added, err := policy.AddSignatures(old, sigs)
		if err != nil || len(added) == 0 {
			return nil, err
		}
		for _, sig := range added {
			if err := d.putSmall(ctx, sig.Layer(), sig.Payload()); err != nil {
				return nil, err
			}
		}
		config := v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(next.Config), Size: int64(len(next.Config))}
		if err := d.putSmall(ctx, config, next.Config); err != nil {
			return nil, err
		}
		out := made(next.Manifest, v1.MediaTypeImageManifest)
		return &out, nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", tag, err)
	}
	return nil
}

// maxMerges is how often a tag that others write to as well is read and written again before a copy gives up.
const maxMerges = 8

// mergeTag makes a tag say what merge makes of what it says (nil: there is no such tag), until merge has nothing to add
// (nil). A registry lets the last writer win, so the tag is read again right before it is written and after it was: whoever
// was overwritten adds what is missing once more.
func (d *docker) mergeTag(ctx context.Context, tag string, merge func(ctx context.Context, there *document) (*document, error)) error {
	for range maxMerges {
		there, err := d.tagged(ctx, tag)
		if err != nil {
			return err
		}
		next, err := merge(ctx, there)
		if err != nil || next == nil {
			return err
		}
		now, err := d.tagged(ctx, tag) // blobs were sent since
		if err != nil {
			return err
		}
		if idOf(now) != idOf(there) {
			continue
		}
		if err := d.repo.PutManifest(ctx, tag, next.raw, next.mediaType); err != nil {
			return err
		}
	}
	return fmt.Errorf("others keep replacing it: %w", registry.ErrRetriesExhausted)
}

// tagged is what a tag names, nil if there is no such tag.
func (d *docker) tagged(ctx context.Context, tag string) (*document, error) {
	raw, mediaType, err := d.repo.Manifest(ctx, tag)
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	doc := made(raw, mediaType)
	return &doc, nil
}

func idOf(doc *document) digest.Digest {
	if doc == nil {
		return ""
	}
	return doc.digest
}

// attachment is what the registry has already, nil if nothing.
func (d *docker) attachment(ctx context.Context, there *document) (*policy.Attachment, error) {
	if there == nil {
		return nil, nil
	}
	m, err := manifest.ParseManifest(there.raw, there.mediaType)
	if err != nil {
		return nil, err
	}
	config, err := readBlob(ctx, d, m.Config, manifest.MaxConfigSize)
	return &policy.Attachment{Manifest: there.raw, Config: config}, err
}

func (d *docker) putSmall(ctx context.Context, desc v1.Descriptor, raw []byte) error {
	there, err := d.repo.HasBlob(ctx, desc)
	if err != nil || there {
		return err
	}
	return d.repo.PutBlob(ctx, desc, opener(raw))
}
