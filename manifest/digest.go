package manifest

import (
	// The algorithms that digests may use; go-digest asks crypto for them.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// ValidDigest returns nil if d is well formed (so it is safe as a key and,
// split at its colon, as a path) and its algorithm can be computed here.
// Every digest that comes from outside goes through it before use.
// Otherwise the error is ErrMalformed or ErrUnsupported.
func ValidDigest(d digest.Digest) error {
	switch err := d.Validate(); err {
	case nil:
		return nil
	case digest.ErrDigestUnsupported:
		return fmt.Errorf("digest %.200q: algorithm: %w", string(d), ErrUnsupported)
	default:
		return fmt.Errorf("digest %.200q: %w: %v", string(d), ErrMalformed, err)
	}
}

// ChainIDs returns, for each i, the chain id of diffIDs[:i+1] by the rule of
// the OCI image specification. Like containerd it hashes with sha256 whatever
// the algorithm of the diff ids is.
func ChainIDs(diffIDs []digest.Digest) []digest.Digest {
	chain := make([]digest.Digest, len(diffIDs))
	for i, d := range diffIDs {
		if i == 0 {
			chain[i] = d
			continue
		}
		chain[i] = digest.FromString(chain[i-1].String() + " " + d.String())
	}
	return chain
}
