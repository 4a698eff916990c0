package manifest

import (
	"fmt"

	"github.com/opencontainers/go-digest"
)

// ReplaceDiffIDs returns c with other names of the same tars, one for each
// layer; every other byte is kept. It cannot tell whether they name the same
// tars: who calls it has hashed them.
func ReplaceDiffIDs(c *Config, diffIDs []digest.Digest) ([]byte, error) {
	p, err := openConfig(c)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", c.Digest, err)
	}
	if len(diffIDs) != len(p.diffIDs) || len(diffIDs) != len(c.DiffIDs) {
		return nil, fmt.Errorf("config %s: %d diff_ids for %d layers: %w", c.Digest, len(diffIDs), len(p.diffIDs), ErrMalformed)
	}
	for i, d := range diffIDs {
		if err := ValidDigest(d); err != nil {
			return nil, fmt.Errorf("config %s: diff_ids[%d]: %w", c.Digest, i, err)
		}
	}
	return splice(c.Raw, rename(p.diffIDs, c.DiffIDs, diffIDs)...), nil
}
