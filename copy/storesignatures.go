package copy

import (
	"bytes"
	"context"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/copy/policy"
	"github.com/tocsin/tocsin/store"
)

var _ signedSource = (*storeSource)(nil)

// signatures of the store are kept under the digest that they are about.
func (s *storeSource) signatures(_ context.Context, of subject, _ lookFor) ([]policy.Signature, error) {
	blobs, err := s.env.Store.Signatures(of.digest)
	if err != nil {
		return nil, err
	}
	return parseSignatures(blobs)
}

// stored is what the store is to keep beside each manifest that is committed: the signatures that came, then those
// that were there and still hold, so that a pull from a place without signatures loses none (L30, as decided here).
func (c *carrier) stored(st *store.Store, docs []store.RawManifest) (map[digest.Digest][][]byte, error) {
	out := make(map[digest.Digest][][]byte)
	for _, doc := range docs {
		sigs, err := c.of(doc.Digest)
		if err != nil {
			return nil, err
		}
		var blobs [][]byte
		for _, sig := range sigs {
			raw, err := sig.Blob()
			if err != nil {
				return nil, err
			}
			blobs = append(blobs, raw)
		}
		if !c.removes(doc.Digest) {
			if blobs, err = c.keepOld(st, doc, blobs); err != nil {
				return nil, err
			}
		}
		if len(blobs) > 0 || c.removes(doc.Digest) {
			out[doc.Digest] = blobs
		}
	}
	return out, nil
}

// keepOld adds the signatures that the store has already. One that the policy's keys no longer vouch for goes, and so
// does one that cannot be read.
func (c *carrier) keepOld(st *store.Store, doc store.RawManifest, blobs [][]byte) ([][]byte, error) {
	old, err := st.Signatures(doc.Digest)
	if err != nil {
		return nil, err
	}
	im := policy.Image{Ref: c.from.ref, Manifest: doc.Raw}
	for _, raw := range old {
		if len(blobs) >= maxSignatures || slices.ContainsFunc(blobs, func(b []byte) bool { return bytes.Equal(b, raw) }) {
			continue
		}
		sig, err := policy.ParseSignature(raw)
		if err == nil && c.from.trust.Policy.Holds(im, sig, keyFiles()) {
			blobs = append(blobs, raw)
		}
	}
	return blobs, nil
}
