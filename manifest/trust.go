package manifest

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Trust says which reading of an image's layers may be used. It is a property
// of one manifest; a sentinel sibling in the same list never raises it. The
// zero value is none of the three and is never returned without an error.
type Trust int

const (
	// TarOnly: some layer has no usable TOC (none, or no tar-split to prove
	// it); read the layers as tars and compare the diff ids.
	TarOnly Trust = iota + 1
	// TOCUnbound: all layers have a TOC and a tar-split, but the same
	// manifest can be read as tar; a TOC reading must be proved against the
	// diff ids before it counts.
	TOCUnbound
	// TOCOnly: sentinel first; the TOC is the only meaning, and a layer is
	// never read as a tar.
	TOCOnly
)

// String returns the name of the constant, or "invalid".
func (t Trust) String() string {
	switch t {
	case TarOnly:
		return "TarOnly"
	case TOCUnbound:
		return "TOCUnbound"
	case TOCOnly:
		return "TOCOnly"
	}
	return "invalid"
}

// Binding says what diff_ids[i] must equal. The zero value is invalid.
type Binding int

const (
	// BindSentinel: the digest of the sentinel's constant content.
	BindSentinel Binding = iota + 1
	// BindTar: the digest of the layer's tar.
	BindTar
	// BindTOC: the TOC digest of the layer (a chain-bound variant).
	BindTOC
)

// String returns the name of the constant, or "invalid".
func (b Binding) String() string {
	switch b {
	case BindSentinel:
		return "BindSentinel"
	case BindTar:
		return "BindTar"
	case BindTOC:
		return "BindTOC"
	}
	return "invalid"
}

// Layer is one layer of an image with everything the manifest and the config
// say about it.
type Layer struct {
	v1.Descriptor
	DiffID  digest.Digest // as claimed; Binding says of what
	TOC     *TOCRef       // nil: none that tocsin can use
	Binding Binding
}

// Provable reports whether a tar can be rebuilt from the layer's TOC reading
// and compared with a diff id: it has a TOC and a tar-split.
func (l *Layer) Provable() bool {
	return l.TOC != nil && l.TOC.TarSplit.Len > 0
}

// Image is a manifest with its config, checked against each other. Its fields
// are read, never written.
type Image struct {
	Manifest   *Manifest
	Config     *Config
	Trust      Trust
	ChainBound bool    // every diff id behind the sentinel is a TOC digest
	Layers     []Layer // same indices as Manifest.Layers, sentinel included
}

// NewImage joins a manifest and its config: compares the config with the
// manifest's digest of it, pairs layers with diff ids, and decides Trust and
// each layer's Binding before any layer byte is fetched. Errors:
// ErrDigestMismatch (not this manifest's config), ErrMalformed (counts
// differ, broken annotations), ErrUnsupported (a layer that is no tar layer),
// ErrSentinel (a sentinel image that breaks a rule, or a mixture of TOC and
// other diff ids behind a sentinel).
func NewImage(m *Manifest, c *Config) (*Image, error) {
	im := &Image{Manifest: m, Config: c}
	if err := im.build(); err != nil {
		return nil, fmt.Errorf("image %s: %w", m.Digest, err)
	}
	return im, nil
}

func (im *Image) build() error {
	m, c := im.Manifest, im.Config
	if _, err := Covered(c.Raw, m.Config.Digest); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if c.RootFSType != "" && c.RootFSType != "layers" {
		return fmt.Errorf("config %s: rootfs type %q: %w", m.Config.Digest, c.RootFSType, ErrUnsupported)
	}
	if len(m.Layers) != len(c.DiffIDs) {
		return fmt.Errorf("%w: %d layers, %d diff_ids", ErrMalformed, len(m.Layers), len(c.DiffIDs))
	}
	sentinel, err := hasSentinel(m.Layers, c.DiffIDs)
	if err != nil {
		return err
	}
	if sentinel && isDocker(m.MediaType) {
		return fmt.Errorf("%w: in a Docker schema 2 manifest", ErrSentinel)
	}
	for i := range m.Layers {
		if err := im.addLayer(i, sentinel); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return im.decideTrust(sentinel)
}

func (im *Image) addLayer(i int, sentinel bool) error {
	l := Layer{Descriptor: im.Manifest.Layers[i], DiffID: im.Config.DiffIDs[i], Binding: BindTar}
	if i == 0 && sentinel {
		l.Binding = BindSentinel
		im.Layers = append(im.Layers, l)
		return nil
	}
	if _, err := Compression(l.MediaType); err != nil {
		return err
	}
	// Docker schema 2 descriptors have no annotations, so other readers of
	// the same manifest see no TOC there, and neither do we.
	if !isDocker(im.Manifest.MediaType) {
		var err error
		if l.TOC, err = usableTOC(l.Descriptor); err != nil {
			return err
		}
	}
	im.Layers = append(im.Layers, l)
	return nil
}

func (im *Image) decideTrust(sentinel bool) error {
	if sentinel {
		im.Trust = TOCOnly
		return im.bindSentinel()
	}
	im.Trust = TarOnly
	if len(im.Layers) > 0 && im.FirstUnprovable() < 0 {
		im.Trust = TOCUnbound
	}
	return nil
}

// bindSentinel decides between the chain-bound form and tar diff ids.
func (im *Image) bindSentinel() error {
	data := im.Layers[1:]
	bound := 0
	for i := range data {
		if data[i].TOC == nil {
			err := fmt.Errorf("%w: layer %d (%s) has no usable TOC", ErrSentinel, i+1, data[i].Digest)
			if _, cause := TOCRefOf(data[i].Descriptor); cause != nil {
				err = errors.Join(err, cause)
			}
			return err
		}
		if data[i].DiffID == data[i].TOC.Digest {
			data[i].Binding = BindTOC
			bound++
		}
	}
	if bound != 0 && bound != len(data) {
		return fmt.Errorf("%w: %d of %d diff_ids are TOC digests; all or none may be", ErrSentinel, bound, len(data))
	}
	im.ChainBound = bound == len(data)
	return nil
}

// Sentinel reports whether the image is a (correct) sentinel variant.
func (im *Image) Sentinel() bool { return im.Trust == TOCOnly }

// DataLayers returns the layers without the sentinel, bottom to top. The
// slice shares memory with im.Layers.
func (im *Image) DataLayers() []Layer {
	if im.Sentinel() {
		return im.Layers[1:]
	}
	return im.Layers
}

// FirstUnprovable returns the index in im.Layers of the first data layer that
// is not Provable, or -1 if all are.
func (im *Image) FirstUnprovable() int {
	first := len(im.Layers) - len(im.DataLayers())
	for i := first; i < len(im.Layers); i++ {
		if !im.Layers[i].Provable() {
			return i
		}
	}
	return -1
}

// Reason says in a few words why the image has its Trust.
func (im *Image) Reason() string {
	i := im.FirstUnprovable()
	switch {
	case im.Trust == TOCOnly && im.ChainBound:
		return "it begins with the sentinel, and its diff_ids are the digests of the tables of contents"
	case im.Trust == TOCOnly:
		return "it begins with the sentinel; its diff_ids claim tars, which are compared where they count"
	case im.Trust == TOCUnbound:
		return "every layer has a table of contents and a tar-split, but can be read as a tar too"
	case len(im.Layers) == 0:
		return "it has no layers"
	case isDocker(im.Manifest.MediaType):
		return "a Docker manifest has no annotations that could lead to a table of contents"
	case im.Layers[i].TOC == nil:
		return fmt.Sprintf("layer %d has no table of contents", i)
	}
	return fmt.Sprintf("layer %d has a table of contents, but no tar-split that could prove it", i)
}

// Binding says what diff_ids[i] must equal: 0 <= i < len(im.Layers). It is
// the one answer to that question; nobody compares a tar with diff_ids
// without asking.
func (im *Image) Binding(i int) Binding { return im.Layers[i].Binding }
