package manifest

import (
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// List is an OCI index or a Docker manifest list. Digest is the sha256 of
// Raw. Raw is what was parsed, not a copy, and nobody may write to it.
type List struct {
	Raw         []byte
	MediaType   string
	Digest      digest.Digest
	Instances   []v1.Descriptor
	Annotations map[string]string
}

// ParseList reads an OCI index or Docker manifest list; mediaType and errors
// as for ParseManifest. An empty list is legal, and so are nested ones.
func ParseList(raw []byte, mediaType string) (*List, error) {
	l := &List{Raw: raw, Digest: digest.FromBytes(raw)}
	if err := l.parse(mediaType); err != nil {
		return nil, fmt.Errorf("list %s: %w", l.Digest, err)
	}
	return l, nil
}

func (l *List) parse(mediaType string) error {
	o, mediaType, err := openDocument(l.Raw, mediaType, IsList)
	if err != nil {
		return err
	}
	l.MediaType = mediaType
	if _, ok := o.get("manifests"); !ok {
		return fmt.Errorf("%w: no manifests", ErrMalformed)
	}
	if l.Instances, err = parseDescriptors(o, "manifests"); err != nil {
		return err
	}
	l.Annotations, err = parseAnnotations(o)
	return err
}
