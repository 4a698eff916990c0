package manifest

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The sentinel: a blob that no tar reader takes, put first so that the TOCs
// are the only meaning of an image. Its content is that of container-libs
// PR 681; its descriptor has one of two media types.
const (
	// SentinelTypeOCI is an OCI layer type, so that clients which count the
	// layers of an image count the sentinel too (docs/decisions/0009).
	SentinelTypeOCI = "application/vnd.oci.image.layer.v1.zstd-chunked-sentinel"
	// SentinelTypeUpstream is PR 681's, whose code knows a sentinel by it.
	SentinelTypeUpstream = "application/vnd.containers.zstd-chunked-sentinel"
	SentinelSize         = 512

	SentinelDigest    digest.Digest = "sha256:1ca86838d2e4c36907ef90fc2a01dcd9ac34301f21c5412927894c34f1bf79cc"
	SentinelDigest512 digest.Digest = "sha512:9d544b121759ec001bd779b53a49138846a15be4af3b628ac5d14b744f8f9c898cf960fb2159719e7f0054c1cdafdce4f0474f90eba247f54b3f223e9e9286ad"

	// legacySentinel is the first generation: the 12 bytes "zstd:chunked"
	// behind a plain layer type. Recognised only to be refused by name.
	legacySentinel digest.Digest = "sha256:818064bb3407d4dbc6b54988b09979656fef51adaea5a26673372ec16aae0200"

	sentinelMagic = "ZSTD-CHUNKED-SENTINEL"
	sentinelText  = "This image must be consumed using the TOC digests and NEVER as a tar archive.\n" +
		"See: https://github.com/containers/image"

	// encryptionPrefix starts every annotation of an encrypted layer.
	encryptionPrefix = "org.opencontainers.image.enc."
)

// SentinelContent returns the 512 bytes of the sentinel in a new slice. They
// look like one tar header block whose magic and checksum cannot be right.
func SentinelContent() []byte {
	b := make([]byte, SentinelSize)
	copy(b[1:], sentinelMagic)
	for i := 148; i < 156; i++ { // the checksum field of a tar header
		b[i] = 0xff
	}
	copy(b[257:], "NOTTAR")
	copy(b[263:], sentinelText)
	return b
}

// SentinelDescriptor returns the layer descriptor of the sentinel with one of
// its types; sha512 gives its sha512 name, every other algorithm the sha256 one.
func SentinelDescriptor(mediaType string, alg digest.Algorithm) v1.Descriptor {
	d := SentinelDigest
	if alg == digest.SHA512 {
		d = SentinelDigest512
	}
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: SentinelSize}
}

// ParseSentinelType reads the value of --sentinel-type and returns the media
// type that it names.
func ParseSentinelType(s string) (string, error) {
	switch s {
	case "oci":
		return SentinelTypeOCI, nil
	case "upstream":
		return SentinelTypeUpstream, nil
	}
	return "", fmt.Errorf("sentinel type %q: %w", s, ErrMalformed)
}

// IsSentinelType reports whether a layer of this media type has to be the
// sentinel.
func IsSentinelType(mediaType string) bool {
	return mediaType == SentinelTypeOCI || mediaType == SentinelTypeUpstream
}

// IsSentinelDigest reports whether d names the current sentinel's content.
func IsSentinelDigest(d digest.Digest) bool {
	return d == SentinelDigest || d == SentinelDigest512
}

// hasSentinel decides whether layers and diffIDs (of equal length) are those
// of a sentinel variant. Whatever has one mark of a sentinel must have all of
// them and in the first place only; anything between yes and no is
// ErrSentinel, each case with its own text.
func hasSentinel(layers []v1.Descriptor, diffIDs []digest.Digest) (bool, error) {
	for i, l := range layers {
		if l.Digest == legacySentinel || diffIDs[i] == legacySentinel {
			return false, fmt.Errorf("%w: layer %d is the obsolete 12-byte sentinel", ErrSentinel, i)
		}
		typed := IsSentinelType(l.MediaType)
		if i > 0 && typed && IsSentinelType(layers[0].MediaType) {
			return false, fmt.Errorf("%w: a second sentinel at layer %d", ErrSentinel, i)
		}
		if i > 0 && typed {
			return false, fmt.Errorf("%w: sentinel media type at layer %d, not first", ErrSentinel, i)
		}
		if !typed && IsSentinelDigest(l.Digest) {
			return false, fmt.Errorf("%w: layer %d has the sentinel's digest but type %q", ErrSentinel, i, l.MediaType)
		}
		if !typed && IsSentinelDigest(diffIDs[i]) {
			return false, fmt.Errorf("%w: layer %d is no sentinel but has its diff_id", ErrSentinel, i)
		}
	}
	if len(layers) == 0 || !IsSentinelType(layers[0].MediaType) {
		return false, nil
	}
	return true, checkSentinel(layers[0], diffIDs[0])
}

// checkSentinel checks the first layer of an image, which has the type.
func checkSentinel(l v1.Descriptor, diffID digest.Digest) error {
	switch {
	case !IsSentinelDigest(l.Digest):
		return fmt.Errorf("%w: layer 0 has the type but unknown content %s", ErrSentinel, l.Digest)
	case l.Size != SentinelSize:
		return fmt.Errorf("%w: layer 0 has %d bytes instead of %d", ErrSentinel, l.Size, SentinelSize)
	case diffID != l.Digest:
		return fmt.Errorf("%w: diff_ids[0] is %s, the sentinel is %s", ErrSentinel, diffID, l.Digest)
	}
	for key := range l.Annotations {
		if strings.HasPrefix(key, encryptionPrefix) {
			return fmt.Errorf("%w: layer 0 is encrypted (%s)", ErrSentinel, key)
		}
	}
	return nil
}
