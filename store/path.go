package store

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/tocsin/tocsin/manifest"
)

// checkDigest refuses what must not become a path or a key.
func checkDigest(what string, d digest.Digest) error {
	if err := manifest.ValidDigest(d); err != nil {
		return fmt.Errorf("%s digest %q: %w", what, string(d), err)
	}
	return nil
}

// The functions below take digests that checkDigest accepted.

func blobRel(d digest.Digest) string {
	return filepath.Join("blobs", d.Algorithm().String(), d.Encoded())
}

// objectRel spreads objects over 256 directories: an image has tens of thousands.
func objectRel(d digest.Digest) string {
	return filepath.Join("objects", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// partialRel names the algorithm of the object; the chunk list's digest always is of the same algorithm or says so.
func partialRel(d, list digest.Digest) string {
	c := list.Encoded()
	if list.Algorithm() != digest.SHA256 {
		c = list.Algorithm().String() + "+" + c
	}
	return filepath.Join("partial", d.Algorithm().String(), d.Encoded()[:2], d.Encoded()+"-"+c)
}

// layerRel names a layer's directory by what identifies it: its TOC, or for a layer taken from a tar its diffID.
func layerRel(toc, diffID digest.Digest) string {
	kind, d := "toc", toc
	if toc == "" {
		kind, d = "tar", diffID
	}
	return filepath.Join("layers", kind+"-"+d.Algorithm().String()+"-"+d.Encoded())
}

func viewRel(n uint64) string {
	return filepath.Join("views", fmt.Sprint(n))
}

// digestOf reads the digest out of algorithm directory and file name, or "" if they are none.
func digestOf(algo, hex string) digest.Digest {
	d := digest.Digest(algo + ":" + hex)
	if manifest.ValidDigest(d) != nil {
		return ""
	}
	return d
}

// baseName cuts the "-<c>" off the name of a link or partial object.
func baseName(name string) string {
	hex, _, _ := strings.Cut(name, "-")
	return hex
}

func (s *Store) path(rel string) string { return filepath.Join(s.root, rel) }
