package copy

import (
	"context"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// need is what a blob must be to take a layer's place.
type need struct {
	as        string           // its compression; the level is no part of it
	algorithm digest.Algorithm // of its digest
	forms     []string         // of the manifest, one of which must have a word for it
	other     digest.Digest    // than this one, which was looked for already; "" for any
}

// replaceable says whether another blob of the same tar may take a layer's place, and what it must be (rules 25 and 36):
// where the layer is made anew, or the manifest changes anyway. A copy that changes nothing keeps its digests. What is
// signed, what was expected by its digest and what must be made anew is what was asked for and no other. It is pure.
func (p imagePlan) replaceable(l manifest.Layer, encode bool, n *naming, o *Options) (need, bool) {
	if p.fixed || p.compress.Anew || len(o.Signatures.Signers) > 0 || o.Push.Expect != "" || l.Binding != manifest.BindTar {
		return need{}, false
	}
	own, err := manifest.Compression(l.MediaType)
	if err != nil || !encode && (!p.edited() || n.renames(l.Digest) || isElsewhere(l.Descriptor)) {
		return need{}, false
	}
	out := need{as: p.compress.Algorithm, algorithm: l.Digest.Algorithm(), forms: p.forms}
	if encode {
		out.algorithm = n.algorithmOf(l)
	} else {
		out.other = l.Digest
	}
	if out.as == "" {
		out.as = own
	}
	return out, true
}

// takes says that a blob is what is needed. An unknown compression never is (rule 38).
func (n need) takes(f fact) bool {
	if f.Blob.Algorithm() != n.algorithm || f.Blob == n.other || !satisfies(f.As, n.as) {
		return false
	}
	if len(n.forms) == 0 {
		return true
	}
	return slices.ContainsFunc(n.forms, func(form string) bool {
		if form != manifest.DockerManifest {
			return true
		}
		_, err := manifest.ToDocker(layerMediaType(f.As))
		return err == nil
	})
}

// satisfies says that a compression is the one that is wanted, or a kind of it.
func satisfies(is, want string) bool {
	switch is {
	case "":
		return false
	case algoChunked:
		return want == algoChunked || want == algoZstd
	case recipeGzip:
		return want == recipeGzip || want == algoGzip
	}
	return is == want
}

// candidate is a blob that may take a layer's place, and the repository of the host that it would be mounted from; ""
// is the place itself.
type candidate struct {
	fact
	repo string
}

const maxUnknown = 2 // rule 37

// substitutes are the blobs to ask for, in order (rule 37): those that were seen at the destination, then those seen in
// other repositories of its host, at most five together, then at most two of which nobody knows where they are, which are
// looked for at the destination only. It is pure.
func substitutes(facts []fact, n need, own string, seen func(digest.Digest) []string) []candidate {
	var here, mounted, unknown []candidate
	for _, f := range facts {
		if !n.takes(f) {
			continue
		}
		repos := seen(f.Blob)
		switch {
		case slices.Contains(repos, own):
			here = append(here, candidate{fact: f})
		case len(repos) == 0:
			unknown = append(unknown, candidate{fact: f})
		}
		for _, repo := range repos {
			if repo != own {
				mounted = append(mounted, candidate{f, repo})
			}
		}
	}
	known := append(here, mounted...)
	return append(known[:min(len(known), maxKnown)], unknown[:min(len(unknown), maxUnknown)]...)
}

// reuse looks for blobs that a destination has.
type reuse struct {
	facts  *Facts
	source source
	own    string // the repository; "" where there is none
	has    func(context.Context, v1.Descriptor) (bool, error)
	seen   func(digest.Digest) []string // the repositories of the host that had a blob
	take   func(ctx context.Context, d v1.Descriptor, repo string) (bool, error)
}

// reuse is that of a runner's destination. What is looked for is named as it will be there.
func (r *runner) reuse() reuse {
	to := bare(r.to)
	u := reuse{facts: r.env.Facts, source: r.from, has: to.has, seen: onlyHere}
	if d, ok := to.(*docker); ok {
		u = d.reuse(u)
		u.take = d.take
	}
	return u
}

// reuse makes u look where blobs of this host were seen.
func (d *docker) reuse(u reuse) reuse {
	u.own, u.take = d.ref.Repo, d.hasIn
	u.seen = func(blob digest.Digest) []string { return d.seen.known(d.ref.Host, blob) }
	return u
}

// onlyHere is where blobs are that no other place of a host may have.
func onlyHere(digest.Digest) []string { return []string{""} }

// find asks for each blob that may take a layer's place until one is there. The layer's own blob must be known to hold
// the tar that the configuration claims. What fails is skipped: then the layer is made anew, or sent.
func (u reuse) find(ctx context.Context, l manifest.Layer, n need) (v1.Descriptor, bool) {
	facts := u.facts.of(l.DiffID)
	if len(facts) == 0 || u.tarOf(l) != l.DiffID {
		return v1.Descriptor{}, false
	}
	for _, c := range substitutes(facts, n, u.own, u.seen) {
		d := c.descriptor()
		there, err := false, error(nil)
		if c.repo == "" {
			there, err = u.has(ctx, d)
		} else {
			there, err = u.take(ctx, d, c.repo)
		}
		if err == nil && there {
			return d, true
		}
	}
	return v1.Descriptor{}, false
}

// tarOf is the tar of a layer, if it was hashed on this machine: in an earlier copy, or when the store took it.
func (u reuse) tarOf(l manifest.Layer) digest.Digest {
	st, ok := u.source.(*storeSource)
	if !ok {
		return u.facts.tarOf(l.Digest)
	}
	n, err := st.layerOf(l.Digest, false)
	if err != nil {
		return ""
	}
	row, err := st.env.Store.Layer(n)
	if err != nil {
		return ""
	}
	return row.DiffID
}

// whole brings a layer to the destination as it is; another blob takes its place if the destination lacks it and has that
// one.
func (r *runner) whole(ctx context.Context, ip imagePlan, l manifest.Layer) (v1.Descriptor, error) {
	if n, ok := ip.replaceable(l, false, r.naming, r.options); ok {
		found, ok, err := r.instead(ctx, l, n)
		if err != nil {
			return l.Descriptor, err
		}
		if ok {
			return relabel(l.Descriptor, found), nil
		}
	}
	if err := r.layer(ctx, l); err != nil {
		return l.Descriptor, err
	}
	return r.sniffed(ctx, ip, l)
}

// instead finds another blob for a layer that the destination lacks.
func (r *runner) instead(ctx context.Context, l manifest.Layer, n need) (v1.Descriptor, bool, error) {
	if len(r.env.Facts.of(l.DiffID)) < 2 {
		return v1.Descriptor{}, false, nil // its own, at most
	}
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return v1.Descriptor{}, false, err
	}
	defer r.slots.Release(1)
	if there, err := r.to.has(ctx, l.Descriptor); err != nil || there {
		return v1.Descriptor{}, false, err
	}
	found, ok := r.reuse().find(ctx, l, n)
	if ok {
		r.note("layer %s is %s now, a blob of the same tar in %s that the destination has", l.Digest, found.Digest, n.as)
	}
	return found, ok, nil
}
