package snapshotter

import (
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// extraction is a Prepare that wants a layer unpacked into it, as far as its key and
// labels tell. Labels come from outside: what is no valid digest counts as absent.
type extraction struct {
	ref      digest.Digest // the chain id to be committed, "" if the client did not say
	labelled bool          // ref is a label, so the client understands ErrAlreadyExists
	image    string        // reference that is being pulled
	manifest digest.Digest
	layer    digest.Digest // of the compressed layer; none for a sentinel of the upstream draft's type
}

// extractPrefix begins the last part of every key that containerd's unpackers make:
// "extract-<nanoseconds>-<random> <chain id>".
const extractPrefix = snapshots.UnpackKeyPrefix + "-"

// parseExtraction recognises an extraction by its snapshot.ref label or, for clients
// that send none, by its key. A container's Prepare is neither.
func parseExtraction(key string, labels map[string]string) (extraction, bool) {
	name := key[strings.LastIndexByte(key, '/')+1:]
	byKey := strings.HasPrefix(name, extractPrefix)
	label, byLabel := labels[snapshots.LabelSnapshotRef]
	if !byKey && !byLabel {
		return extraction{}, false
	}
	x := extraction{
		ref:      validDigest(label),
		image:    labels[snapshotters.TargetRefLabel],
		manifest: validDigest(labels[snapshotters.TargetManifestDigestLabel]),
		layer:    validDigest(labels[snapshotters.TargetLayerDigestLabel]),
	}
	x.labelled = x.ref != ""
	if !x.labelled && byKey {
		_, chain, _ := strings.Cut(name, " ")
		x.ref = validDigest(chain)
	}
	return x, true
}

func validDigest(s string) digest.Digest {
	d := digest.Digest(s)
	if manifest.ValidDigest(d) != nil {
		return ""
	}
	return d
}

// identified says whether the labels name a layer of an image, which is the least that
// an answer without unpacking needs.
func (x extraction) identified() bool {
	return x.labelled && x.manifest != "" && x.layer != ""
}

// claimsSentinel says whether the chain id is the sentinel's, whoever asks. The layer
// may still be another one.
func (x extraction) claimsSentinel() bool { return manifest.IsSentinelDigest(x.ref) }
