package copy

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Verdict is what the policy says about one manifest.
type Verdict struct {
	Digest     digest.Digest
	Platform   string `json:",omitempty"`
	List       bool   `json:",omitempty"` // not asked about itself: each instance has to be accepted
	Signatures int    // that lie beside it, valid or not
	Policy     string // which part of the policy decides
	Accepted   bool
	Reason     string `json:",omitempty"` // why not
}

// Verify asks the policy about what a reference names, as a copy would, and copies nothing: of a list about every
// instance, or the one for a platform. Signatures are looked for in every place that could hold some. The error is
// policy.ErrRejected if one of the verdicts is not to accept; all verdicts are returned with it.
func Verify(ctx context.Context, env *Env, ref manifest.Ref, o *Options) (out []Verdict, err error) {
	if o == nil {
		o = &Options{}
	}
	src, err := openSource(env, ref)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	judge, err := newJudged(env, src, ref, true)
	if err != nil {
		return nil, err
	}
	v := &verifier{judge: judge, options: o, seen: make(map[digest.Digest]bool)}
	doc, err := src.top(ctx)
	if err == nil {
		err = v.look(ctx, doc, v1.Descriptor{}, true)
	}
	if err != nil {
		return v.verdicts, fmt.Errorf("verify %s: %w", ref, err)
	}
	return v.verdicts, v.rejected
}

type verifier struct {
	judge    *judged
	options  *Options
	seen     map[digest.Digest]bool
	verdicts []Verdict
	rejected error
}

// look gives its verdict on a manifest, or on what is below a list.
func (v *verifier) look(ctx context.Context, doc document, entry v1.Descriptor, top bool) error {
	if v.seen[doc.digest] {
		return nil
	}
	v.seen[doc.digest] = true
	if len(v.seen) > maxInstances {
		return fmt.Errorf("more than %d manifests: %w", maxInstances, manifest.ErrUnsupported)
	}
	sigs, err := v.judge.signatures(ctx, subject{doc.digest, top})
	if err != nil {
		return fmt.Errorf("signatures of %s: %w", doc.digest, err)
	}
	v.judge.found[doc.digest] = sigs
	out := Verdict{Digest: doc.digest, Signatures: len(sigs), Policy: v.judge.trust.Policy.Explain(v.judge.ref)}
	if p, ok := manifest.PlatformOf(entry); ok {
		out.Platform = manifest.FormatPlatform(p)
	}
	if manifest.IsList(doc.mediaType) && (top || manifest.IsList(entry.MediaType)) {
		out.List = true
		list, err := manifest.ParseList(doc.raw, doc.mediaType)
		if err != nil {
			return err
		}
		v.verdicts = append(v.verdicts, out)
		return v.below(ctx, list)
	}
	err = v.judge.check(doc)
	if out.Accepted = err == nil; err != nil {
		out.Reason = err.Error()
		v.rejected = errors.Join(v.rejected, err)
	}
	v.verdicts = append(v.verdicts, out)
	return nil
}

func (v *verifier) below(ctx context.Context, list *manifest.List) error {
	entries := list.Instances
	if p := v.options.Platform; p != nil {
		d, err := list.Choose(*p, v.options.Prefer)
		if err != nil {
			return err
		}
		entries = []v1.Descriptor{d}
	}
	for _, d := range entries {
		doc, err := v.judge.source.manifest(ctx, d)
		if err != nil {
			return err
		}
		if err := v.look(ctx, doc, d, false); err != nil {
			return err
		}
	}
	return nil
}
