package copy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// Copy copies what src names to dst and returns what was written. A copy that fails leaves nothing under dst's name
// that was not there before; blobs that had arrived may stay, and a second run does not fetch them again.
func Copy(ctx context.Context, env *Env, src, dst manifest.Ref, o *Options) (*Result, error) {
	if o == nil {
		o = &Options{}
	}
	if err := checkPrepared(src, dst, o); err != nil {
		return nil, err
	}
	from, err := openFor(env, src, o.Platform)
	if err != nil {
		return nil, err
	}
	judge, err := newJudged(env, from, src, o.Signatures.Look)
	if err != nil {
		return nil, errors.Join(err, from.close())
	}
	res, err := copyFrom(ctx, env, judge, dst, o)
	if errors.Is(err, registry.ErrNoRanges) && o.Platform != nil && o.Prefer == manifest.PreferVariant {
		// The variant was only preferred, and this place cannot serve it. The plain image comes under its own rules.
		why := fmt.Sprintf("the plain image was taken and not its sentinel variant: %v", err)
		plain := *o
		plain.Prefer = manifest.PreferPlain
		if res, err = copyFrom(ctx, env, judge, dst, &plain); err == nil {
			res.Notes = append(res.Notes, why)
		}
	}
	if err := errors.Join(err, from.close()); err != nil {
		return nil, fmt.Errorf("copy %s to %s: %w", src, dst, err)
	}
	return res, nil
}

func copyFrom(ctx context.Context, env *Env, judge *judged, dst manifest.Ref, o *Options) (*Result, error) {
	s, p, o, err := prepare(ctx, judge, dst, o)
	if err != nil {
		return nil, err
	}
	from := judge.source // everything that is left to read is named by digests
	if env.dry != nil {
		return env.dry(ctx, from, s, p, o)
	}
	if stored, ok := from.(*storeSource); ok {
		if err := stored.hold(s.whole); err != nil {
			return nil, err
		}
	}
	if _, fromStore := from.(*storeSource); o.DownloadForeign && !fromStore {
		from = newWithForeign(env, from)
	}
	if s.toStore {
		if err := o.expected(s.top); err != nil {
			return nil, err
		}
		return runImport(ctx, env, from, dst, s, p)
	}
	if o.Snapshotter != "" && isVariant(s.instances[0]) {
		if err := p.unchanged(s); err != nil {
			return nil, err
		}
		res, err := runPrepared(ctx, judge, dst, s, o.Snapshotter)
		if err == nil {
			res.Notes = append(res.Notes, p.notes...)
		}
		return res, err
	}
	to, err := openDestination(env, dst)
	if err != nil {
		return nil, err
	}
	r := newRunner(env, from, to, o)
	r.notes = absentNote(s.instances)
	if o.Snapshotter != "" {
		r.note("%s is no sentinel variant: its layers were copied, and containerd unpacks them for the first container", s.top.digest)
	}
	r.to = p.naming.over(r)
	res, err := r.run(ctx, s, p)
	if errors.Is(err, registry.ErrRejected) && !judge.raise && s.list == nil && s.instances[0].schema1 != nil && cannotModify(s, o) == "" {
		// Not as it is, then (rule 29). Its layers are there already.
		judge.raise = true
		res, second := copyFrom(ctx, env, judge, dst, o)
		if second != nil {
			second = fmt.Errorf("as schema 1: %w; as another manifest: %w", err, second)
		}
		return res, errors.Join(second, to.close())
	}
	if err == nil {
		res.Digest = digestAt(r.to, res.Digest)
	}
	return res, errors.Join(err, to.close())
}

// prepare reads what a plan needs, under the policy, and makes it. The options it returns are those of this destination.
func prepare(ctx context.Context, judge *judged, dst manifest.Ref, o *Options) (situation, *copyPlan, *Options, error) {
	if _, err := o.wish().Choose(manifest.Situation{}); err != nil {
		return situation{}, nil, o, err
	}
	var notes []string
	if plainTars(dst.Transport) {
		top, err := judge.top(ctx)
		if err != nil {
			return situation{}, nil, o, err
		}
		o, notes = oneImage(top, o)
	}
	s, err := gather(ctx, judge, o)
	if err == nil {
		err = judge.checkBare(s)
	}
	if err != nil {
		return s, nil, o, err
	}
	stored, fromStore := judge.source.(*storeSource)
	s.encoded = !fromStore
	if fromStore {
		s.whole = stored.whole(s.instances)
	}
	s.toStore = dst.Transport == manifest.Store
	if s.toStore && dst.Repo == "" && dst.Digest == "" {
		return s, nil, o, fmt.Errorf("%s is an image ID and no name to copy to: %w", dst, ErrUsage)
	}
	s.digested, s.strip = dst.Digest, o.Select.Strip
	if o.Snapshotter != "" && s.flattened != nil && s.flattened.digest == dst.Digest {
		s.digested = s.top.digest // a record's name is no claim, and ctr's users ask for the image by it
	}
	carry, err := newCarrier(judge, dst, s, o.Signatures)
	if err != nil {
		return s, nil, o, err
	}
	s.signed = carry.signed
	s.accepts = acceptsOf(dst.Transport)
	s.nameAs(s.digested)
	if err := checkDigested(s); err != nil {
		return s, nil, o, err
	}
	raised, err := s.raise(ctx, judge, dst.Transport, o)
	if err != nil {
		return s, nil, o, err
	}
	if a, ok := judge.source.(*dockerArchive); ok {
		s.made = a.made
	}
	if plainTars(dst.Transport) {
		o, err = intoDockerArchive(s, o)
	} else if s.made {
		o, err = intoRecipe(o)
	}
	if err != nil {
		return s, nil, o, err
	}
	p, o, err := settle(ctx, judge.env, dst, s, o)
	if err == nil {
		p.notes = slices.Concat(notes, raised, p.notes)
		p.signatures = carry
		err = carry.invalidated(p.images)
	}
	if err == nil {
		err = carry.fits(ctx, s, p.naming)
	}
	if err == nil && o.Signatures.Referrers {
		// The top's own are written after it, because only then it is known to be there.
		if p.referrers, err = findReferrers(ctx, judge.source, append(subjects(s.instances), s.top.digest)); err == nil {
			err = errors.Join(takesReferrers(dst, p.referrers), p.naming.addReferrers(p.referrers, o))
		}
	}
	return s, p, o, err
}

// checkDigested compares a digested destination with the source before a blob moves (L16, rule 20). One image of a list
// may go under the list's digest too, where a place can find it by that: the store keeps the list beside the image. A
// registry has under a digest only what hashes to it. It is pure.
func checkDigested(s situation) error {
	switch {
	case s.digested == "" || s.digested == s.top.digest:
		return nil
	case s.flattened == nil || s.digested != s.flattened.digest:
		return fmt.Errorf("the destination names %s, but the source is %s: %w", s.digested, s.top.digest, ErrPreserve)
	case s.toStore:
		return nil
	}
	return fmt.Errorf("the destination names the list %s, under which only the list itself can be there, and not its image %s: %w",
		s.digested, s.top.digest, ErrPreserve)
}

// checked makes a document of bytes that a digest named.
func checked(raw []byte, mediaType string, want digest.Digest) (document, error) {
	doc, err := manifest.CoveredDocument(raw, want)
	if err != nil {
		return document{}, err
	}
	return covered(doc, mediaType), nil
}

// covered is a document of a media type.
func covered(doc manifest.Document, mediaType string) document {
	return document{raw: doc.Raw(), signed: doc.Signed(), mediaType: mediaType, digest: doc.Digest()}
}

// made makes a document of bytes that we wrote ourselves.
func made(raw []byte, mediaType string) document {
	return document{raw: raw, mediaType: mediaType, digest: digest.FromBytes(raw)}
}
