package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of the parsers, in bytes; larger documents are ErrMalformed. 4 MiB
// is what the distribution specification asks registries to take.
const (
	MaxManifestSize int64 = 4 << 20
	MaxConfigSize   int64 = 8 << 20
)

// Manifest is one image or artifact manifest, OCI or Docker schema 2. Digest
// is the sha256 of Raw; for another name there is Covered. Raw is what
// was parsed, not a copy, and nobody may write to it.
type Manifest struct {
	Raw          []byte
	MediaType    string
	Digest       digest.Digest
	Config       v1.Descriptor
	Layers       []v1.Descriptor
	Annotations  map[string]string
	ArtifactType string
	Subject      *v1.Descriptor
}

// Config is an image's configuration, as far as tocsin reads it. Digest is
// the sha256 of Raw. Raw is what was parsed, not a copy.
type Config struct {
	Raw        []byte
	Digest     digest.Digest
	Platform   v1.Platform
	DiffIDs    []digest.Digest
	History    []v1.History
	RootFSType string
}

// The field names that encoding/json would also take in another case.
var (
	manifestFields   = []string{"schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations"}
	listFields       = []string{"schemaVersion", "mediaType", "artifactType", "manifests", "subject", "annotations"}
	configFields     = []string{"architecture", "variant", "os", "os.version", "os.features", "config", "rootfs", "history"}
	rootfsFields     = []string{"type", "diff_ids"}
	historyFields    = []string{"created", "created_by", "author", "comment", "empty_layer"}
	runFields        = []string{"User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "Healthcheck", "Shell", "OnBuild"}
	descriptorFields = []string{"mediaType", "digest", "size", "urls", "annotations", "data", "platform", "artifactType"}
	platformFields   = []string{"architecture", "os", "os.version", "os.features", "variant"}

	// What only the other kinds of document have, so that no document can be
	// read as two (spec/lists-and-store.md L4).
	notInManifest = []string{"manifests", "fsLayers", "history", "signatures"}
	notInList     = []string{"config", "layers", "fsLayers", "history", "signatures"}
)

// GuessMediaType returns the media type of a manifest or list by its content
// (spec/lists-and-store.md L6), "" if it is none that has a name. Schema 1
// is recognised, though nothing here parses it.
func GuessMediaType(raw []byte) string {
	if int64(len(raw)) > MaxManifestSize {
		return ""
	}
	o, err := root(raw, nil)
	if err != nil {
		return ""
	}
	var doc struct {
		mediaType string
		schema    int
		config    struct{ MediaType string }
		manifests []json.RawMessage
	}
	for name, v := range map[string]any{
		"mediaType": &doc.mediaType, "schemaVersion": &doc.schema, "config": &doc.config, "manifests": &doc.manifests,
	} {
		if o.decode(name, v) != nil {
			return ""
		}
	}
	switch {
	case IsManifest(doc.mediaType), IsList(doc.mediaType):
		return doc.mediaType
	case doc.schema == 1:
		if o.index("signatures") >= 0 {
			return DockerSchema1Signed
		}
		return DockerSchema1
	case doc.schema != 2:
		return ""
	case doc.config.MediaType == DockerConfig:
		return DockerManifest
	case doc.config.MediaType == "" && len(doc.manifests) > 0:
		return v1.MediaTypeImageIndex
	}
	return v1.MediaTypeImageManifest
}

// ParseManifest reads an OCI or Docker schema 2 manifest. mediaType is what
// the source said it is; "" and types that say nothing mean a guess. Every
// digest in it is valid and every size not negative. Schema 1 and types that
// are no manifest are ErrUnsupported; everything else, a document that
// contradicts mediaType included, is ErrMalformed.
func ParseManifest(raw []byte, mediaType string) (*Manifest, error) {
	m := &Manifest{Raw: raw, Digest: digest.FromBytes(raw)}
	if err := m.parse(mediaType); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", m.Digest, err)
	}
	return m, nil
}

func (m *Manifest) parse(mediaType string) error {
	o, mediaType, err := openDocument(m.Raw, mediaType, IsManifest)
	if err != nil {
		return err
	}
	m.MediaType = mediaType
	config, ok := o.get("config")
	if !ok {
		return fmt.Errorf("%w: no config", ErrMalformed)
	}
	if m.Config, err = parseDescriptor(m.Raw, config); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if m.Layers, err = parseDescriptors(o, "layers"); err != nil {
		return err
	}
	if s, ok := o.get("subject"); ok {
		d, err := parseDescriptor(m.Raw, s)
		if err != nil {
			return fmt.Errorf("subject: %w", err)
		}
		m.Subject = &d
	}
	if m.Annotations, err = parseAnnotations(o); err != nil {
		return err
	}
	return o.decode("artifactType", &m.ArtifactType)
}

// openDocument checks what all manifests and lists have in common, and
// settles the media type, which must be one that wanted takes.
func openDocument(raw []byte, mediaType string, wanted func(string) bool) (*object, string, error) {
	if int64(len(raw)) > MaxManifestSize {
		return nil, "", fmt.Errorf("%w: %d bytes, limit %d", ErrMalformed, len(raw), MaxManifestSize)
	}
	o, err := root(raw, slices.Concat(manifestFields, listFields))
	if err != nil {
		return nil, "", err
	}
	var schema int
	var own string
	if err := o.decode("schemaVersion", &schema); err != nil {
		return nil, "", err
	}
	if schema == 1 {
		return nil, "", fmt.Errorf("schema 1: %w", ErrUnsupported)
	}
	if schema != 2 {
		return nil, "", fmt.Errorf("%w: schemaVersion %d", ErrMalformed, schema)
	}
	if err := o.decode("mediaType", &own); err != nil {
		return nil, "", err
	}
	if mediaType, err = settleMediaType(raw, mediaType, own); err != nil {
		return nil, "", err
	}
	if !wanted(mediaType) {
		return nil, "", fmt.Errorf("media type %q: %w", mediaType, ErrUnsupported)
	}
	foreign := notInManifest
	if IsList(mediaType) {
		foreign = notInList
	}
	for _, f := range o.fields {
		if slices.ContainsFunc(foreign, func(n string) bool { return strings.EqualFold(n, f.name) }) {
			return nil, "", fmt.Errorf("%w: %q in a %s", ErrMalformed, f.name, mediaType)
		}
	}
	return o, mediaType, nil
}

// SaysNothing reports whether a media type is one that servers give to what
// they do not know.
func SaysNothing(mediaType string) bool {
	return slices.Contains([]string{"", "text/plain", "application/json", "application/octet-stream"}, mediaType)
}

// settleMediaType weighs what the source said against what the document says
// of itself; two different answers are refused.
func settleMediaType(raw []byte, said, own string) (string, error) {
	if SaysNothing(said) {
		if own != "" {
			return own, nil
		}
		return GuessMediaType(raw), nil
	}
	if own != "" && own != said {
		return "", fmt.Errorf("%w: served as %q, but says it is %q", ErrMalformed, said, own)
	}
	return said, nil
}

// parseDescriptor reads the descriptor at s.
func parseDescriptor(raw []byte, s span) (v1.Descriptor, error) {
	var d v1.Descriptor
	o, err := objectAt(raw, s, descriptorFields)
	if err != nil {
		return d, err
	}
	if p, ok := o.get("platform"); ok {
		if _, err := objectAt(raw, p, platformFields); err != nil {
			return d, fmt.Errorf("platform: %w", err)
		}
	}
	if _, err := parseAnnotations(o); err != nil {
		return d, err
	}
	if err := json.Unmarshal(s.of(raw), &d); err != nil {
		return d, fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if d.MediaType == "" {
		return d, fmt.Errorf("descriptor %s: %w: no media type", d.Digest, ErrMalformed)
	}
	if d.Size < 0 {
		return d, fmt.Errorf("descriptor %s: %w: size %d", d.Digest, ErrMalformed, d.Size)
	}
	return d, ValidDigest(d.Digest)
}

func parseDescriptors(o *object, name string) ([]v1.Descriptor, error) {
	list, ok := o.get(name)
	if !ok {
		return nil, nil
	}
	spans, err := elems(o.raw, list)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	out := make([]v1.Descriptor, len(spans))
	for i, s := range spans {
		if out[i], err = parseDescriptor(o.raw, s); err != nil {
			return nil, fmt.Errorf("%s[%d]: %w", name, i, err)
		}
	}
	return out, nil
}

func parseAnnotations(o *object) (map[string]string, error) {
	s, ok := o.get("annotations")
	if !ok {
		return nil, nil
	}
	if _, err := objectAt(o.raw, s, nil); err != nil {
		return nil, fmt.Errorf("annotations: %w", err)
	}
	var ann map[string]string
	return ann, o.decode("annotations", &ann)
}

// ParseConfig reads an image configuration, OCI or Docker. Every diff id in
// it is a valid digest. Whether it fits a manifest is NewImage's question.
func ParseConfig(raw []byte) (*Config, error) {
	c := &Config{Raw: raw, Digest: digest.FromBytes(raw)}
	if err := c.parse(); err != nil {
		return nil, fmt.Errorf("config %s: %w", c.Digest, err)
	}
	return c, nil
}

func (c *Config) parse() error {
	if int64(len(c.Raw)) > MaxConfigSize {
		return fmt.Errorf("%w: %d bytes, limit %d", ErrMalformed, len(c.Raw), MaxConfigSize)
	}
	o, err := root(c.Raw, configFields)
	if err != nil {
		return err
	}
	if err := checkConfigKeys(o); err != nil {
		return err
	}
	p := &c.Platform
	for _, f := range []struct {
		name string
		into any
	}{
		{"architecture", &p.Architecture}, {"os", &p.OS}, {"variant", &p.Variant},
		{"os.version", &p.OSVersion}, {"os.features", &p.OSFeatures}, {"history", &c.History},
	} {
		if err := o.decode(f.name, f.into); err != nil {
			return err
		}
	}
	return c.parseRootFS(o)
}

// checkConfigKeys refuses the keys below the first level of a config that some
// readers would take for others.
func checkConfigKeys(o *object) error {
	if at, ok := o.get("config"); ok {
		if _, err := objectAt(o.raw, at, runFields); err != nil {
			return fmt.Errorf("config: %w", err)
		}
	}
	at, ok := o.get("history")
	if !ok {
		return nil
	}
	entries, err := elems(o.raw, at)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	for i, e := range entries {
		if isNull(o.raw, e) {
			continue
		}
		if _, err := objectAt(o.raw, e, historyFields); err != nil {
			return fmt.Errorf("history[%d]: %w", i, err)
		}
	}
	return nil
}

func (c *Config) parseRootFS(o *object) error {
	s, ok := o.get("rootfs")
	if !ok {
		return nil
	}
	rootfs, err := objectAt(o.raw, s, rootfsFields)
	if err != nil {
		return fmt.Errorf("rootfs: %w", err)
	}
	if err := rootfs.decode("type", &c.RootFSType); err != nil {
		return fmt.Errorf("rootfs: %w", err)
	}
	if err := rootfs.decode("diff_ids", &c.DiffIDs); err != nil {
		return fmt.Errorf("rootfs: %w", err)
	}
	for i, d := range c.DiffIDs {
		if err := ValidDigest(d); err != nil {
			return fmt.Errorf("diff_ids[%d]: %w", i, err)
		}
	}
	return nil
}
