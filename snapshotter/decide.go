package snapshotter

import (
	"fmt"

	"github.com/tocsin/tocsin/manifest"
)

// decision is how an extraction is answered.
type decision int

const (
	refuse   decision = iota // the pull fails
	eager                    // an ordinary snapshot: containerd fetches and unpacks the tar
	lazy                     // answered from the TOC at once
	complete                 // answered from the TOC after its tar was rebuilt and compared
)

func (d decision) String() string {
	return [...]string{"refuse", "eager", "lazy", "complete"}[d]
}

// parent is what an extraction stands on.
type parent struct {
	kind parentKind
	// sentinel: the chain starts with the sentinel, however it goes on.
	sentinel bool
}

type parentKind int

const (
	parentNone parentKind = iota
	parentLazy            // lazy layers only, and the chain id that the image has at this place
	parentDir             // anything else
)

// policy is the part of the configuration that decides.
type policy struct {
	verifyUnbound    bool // unbound = "verify"
	unverifiedChains bool
}

// decide says how layer i of im is answered above p, and why (design.md 5 and 8).
// i counts the sentinel. There is no other place where trust becomes an answer.
func decide(im *manifest.Image, i int, p parent, pol policy) (decision, string) {
	switch {
	case i < 0 || i >= len(im.Layers):
		return refuse, fmt.Sprintf("the image has no layer %d", i)
	case im.Trust == manifest.TOCOnly:
		return decideTOCOnly(im, i, p, pol)
	case p.sentinel:
		return refuse, "only layers of a sentinel variant may stand on the sentinel"
	case im.Trust != manifest.TOCUnbound:
		return eager, "no TOC that the tar can be checked against"
	case !pol.verifyUnbound || !pol.unverifiedChains:
		return eager, "the manifest can also be read as tar"
	case p.kind == parentDir:
		return eager, "the parent is a directory"
	case (p.kind == parentNone) != (i == 0):
		return eager, "not at its own place in the chain"
	case !im.Layers[i].Provable():
		return eager, "the layer has no tar-split"
	}
	return lazy, "unbound TOC, verified in the background"
}

// decideTOCOnly never answers eager: a variant has no other reading.
func decideTOCOnly(im *manifest.Image, i int, p parent, pol policy) (decision, string) {
	switch {
	case i == 0:
		return refuse, "a tar layer claims the sentinel's place"
	case !p.sentinel || p.kind != parentLazy:
		return refuse, "a sentinel variant's layers stand on its own lazy chain only"
	case im.Layers[i].TOC == nil:
		return refuse, "the layer has no TOC"
	case im.Binding(i) == manifest.BindTOC:
		return lazy, "sentinel variant, its chain ids are TOC digests"
	case pol.unverifiedChains:
		return lazy, "sentinel variant, its chain ids are believed (unverified_chains)"
	}
	if j := im.FirstUnprovable(); j >= 0 {
		return refuse, fmt.Sprintf("the variant names layers by their tars, and %s has no tar-split to prove its own", im.Layers[j].Digest)
	}
	return complete, "sentinel variant that names its layers by their tars"
}
