package copy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Resolve returns the digest that a reference names. With a platform it is the digest of the list's instance for it,
// which the list alone tells; of a single image it is the image's own, if its config says that platform, else
// ErrNotFound.
func Resolve(ctx context.Context, env *Env, ref manifest.Ref, o *Options) (d digest.Digest, err error) {
	src, err := openFor(env, ref, o.Platform)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	top, err := src.top(ctx)
	kind := o.Prefer == manifest.OnlyVariant || o.Prefer == manifest.OnlyPlain
	if err != nil || o.Platform == nil && !kind {
		return top.digest, err
	}
	if manifest.IsList(top.mediaType) {
		if o.Platform == nil {
			return "", oneKind(top)
		}
		list, err := manifest.ParseList(top.raw, top.mediaType)
		if err != nil {
			return "", fmt.Errorf("list %s: %w", top.digest, err)
		}
		g := newGatherer(src, o)
		chosen, err := g.choose(ctx, list, o, 1)
		return chosen.Digest, err
	}
	in, err := readInstance(ctx, src, descriptorOf(top), top)
	if err != nil {
		return "", err
	}
	if o.Platform != nil {
		err = in.serves(*o.Platform)
	}
	return top.digest, errors.Join(err, in.preferred(o.Prefer))
}

// Raw returns the bytes of the top-level manifest of a reference, or of a single image's config.
func Raw(ctx context.Context, env *Env, ref manifest.Ref, config bool, o *Options) (raw []byte, err error) {
	src, err := openFor(env, ref, o.Platform)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	if !config && o.Platform == nil && o.Prefer == manifest.PreferPlain {
		top, err := src.top(ctx)
		return top.raw, err
	}
	s, err := gather(ctx, src, o)
	if err != nil {
		return nil, err
	}
	if !config {
		return s.top.raw, nil
	}
	if s.list != nil || s.instances[0].image == nil {
		return nil, fmt.Errorf("%s has no one config; choose an image with --platform: %w", ref, ErrUsage)
	}
	return s.instances[0].image.Config.Raw, nil
}

// Inspection is what is known of an image without its layers. The names are those of skopeo inspect; Trust, ChainBound
// and Instances are ours.
type Inspection struct {
	Name          string `json:",omitempty"`
	Tag           string `json:",omitempty"`
	Digest        digest.Digest
	RepoTags      []string `json:",omitempty"` // of a registry's repository; Inspect does not ask for them
	MediaType     string
	Created       *time.Time          `json:",omitempty"`
	DockerVersion string              `json:",omitempty"`
	Labels        map[string]string   `json:",omitempty"`
	Architecture  string              `json:",omitempty"`
	Variant       string              `json:",omitempty"`
	Os            string              `json:",omitempty"`
	Layers        []digest.Digest     `json:",omitempty"`
	LayersData    []LayerData         `json:",omitempty"`
	Env           []string            `json:",omitempty"`
	Trust         string              `json:",omitempty"`
	Why           string              `json:",omitempty"` // it has this Trust
	ChainBound    bool                `json:",omitempty"`
	Instances     []InspectedInstance `json:",omitempty"`
}

// LayerData is one layer of an Inspection. TOC is the digest of its table of contents, if it has one.
type LayerData struct {
	MIMEType    string
	Digest      digest.Digest
	Size        int64
	Annotations map[string]string `json:",omitempty"`
	TOC         digest.Digest     `json:",omitempty"`
}

// InspectedInstance is one entry of a list. Of one that is not there, or is broken, Why says so. Serves is the platform that a sentinel variant serves, hidden or not. Sibling
// is of a variant the plain image with the same layers for the same platform, and of that the variant.
type InspectedInstance struct {
	Digest     digest.Digest
	MediaType  string
	Size       int64
	Platform   string              `json:",omitempty"`
	Serves     string              `json:",omitempty"`
	Trust      string              `json:",omitempty"`
	Why        string              `json:",omitempty"` // it has this Trust, or has none
	ChainBound bool                `json:",omitempty"`
	Sibling    digest.Digest       `json:",omitempty"`
	Instances  []InspectedInstance `json:",omitempty"` // of a list in the list
}

// Inspect describes what a reference names, whose digest it gives in the algorithm that o demands; nothing else is
// changed by that. Of a list it describes every instance, and fills the fields of a single
// image only if o chooses one.
func Inspect(ctx context.Context, env *Env, ref manifest.Ref, o *Options) (_ *Inspection, err error) {
	src, err := openFor(env, ref, o.Platform)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	if stored, ok := src.(*storeSource); ok && o.Platform == nil {
		if o, err = stored.present(ctx, o); err != nil {
			return nil, err
		}
	}
	g := newGatherer(src, o)
	g.lenient = true
	s, err := g.gather(ctx, o)
	if err != nil {
		return nil, err
	}
	if alg := o.wish().Must(); alg != "" {
		s.top.digest = alg.FromBytes(s.top.raw)
	}
	out := &Inspection{Digest: s.top.digest, MediaType: s.top.mediaType, Tag: ref.Tag}
	if ref.Repo != "" {
		out.Name = ref.Repository()
	}
	if s.list != nil {
		out.Instances = inspectInstances(s.instances)
		return out, nil
	}
	if im := s.instances[0].image; im != nil {
		return out, out.describe(im)
	}
	return out, nil
}

func inspectInstances(list []instance) (out []InspectedInstance) {
	for _, in := range list {
		out = append(out, inspectInstance(in, list))
	}
	return out
}

func inspectInstance(in instance, list []instance) InspectedInstance {
	out := InspectedInstance{Digest: in.desc.Digest, MediaType: in.desc.MediaType, Size: in.desc.Size}
	if in.desc.Platform != nil {
		out.Platform = manifest.FormatPlatform(*in.desc.Platform)
	}
	if p, ok := manifest.VariantPlatform(in.desc); ok {
		out.Serves = manifest.FormatPlatform(p)
	}
	out.Instances = inspectInstances(in.children)
	switch {
	case in.image != nil:
	case in.why != nil:
		out.Why = "it cannot be described: " + in.why.Error()
		return out
	case in.list != nil:
		out.Why = "it is a list"
		return out
	case in.skipped:
		out.Why = "not all of it is here"
		return out
	default:
		out.Why = "it is no container image"
		return out
	}
	out.Trust, out.Why, out.ChainBound = in.image.Trust.String(), in.image.Reason(), in.image.ChainBound
	if manifest.IsVariant(in.desc) != in.image.Sentinel() {
		out.Why += "; the list says otherwise, which counts for nothing"
	}
	out.Sibling = siblingOf(in, list)
	return out
}

// siblingOf finds the other one of a plain image and its variant in the list, "" if there is none. It is pure.
func siblingOf(in instance, list []instance) digest.Digest {
	for _, other := range list {
		if other.image == nil || platformKey(in) != platformKey(other) {
			continue
		}
		if manifest.SameLayers(in.image, other.image) || manifest.SameLayers(other.image, in.image) {
			return other.desc.Digest
		}
	}
	return ""
}

func (out *Inspection) describe(im *manifest.Image) error {
	var config struct {
		v1.Image
		DockerVersion string `json:"docker_version"`
	}
	if err := json.Unmarshal(im.Config.Raw, &config); err != nil {
		return fmt.Errorf("config %s: %w", im.Config.Digest, err)
	}
	out.Created, out.DockerVersion = config.Created, config.DockerVersion
	out.Labels, out.Env = config.Config.Labels, config.Config.Env
	out.Os, out.Architecture, out.Variant = config.OS, config.Architecture, config.Variant
	out.Trust, out.Why, out.ChainBound = im.Trust.String(), im.Reason(), im.ChainBound
	for _, l := range im.Layers {
		d := LayerData{MIMEType: l.MediaType, Digest: l.Digest, Size: l.Size, Annotations: l.Annotations}
		if l.TOC != nil {
			d.TOC = l.TOC.Digest
		}
		out.Layers = append(out.Layers, l.Digest)
		out.LayersData = append(out.LayersData, d)
	}
	return nil
}
