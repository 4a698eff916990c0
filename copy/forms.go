package copy

import (
	"errors"
	"fmt"
	"slices"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Format is the dialect that manifests are written in. The zero value keeps each in its own.
type Format string

// The formats that --format names.
const (
	FormatOCI    Format = "oci"
	FormatDocker Format = "docker"
)

// ParseFormat reads the value of --format, in docker's and skopeo's spelling. "" keeps manifests in their own form.
// Schema 1 is ErrUsage: it is read, but never written.
func ParseFormat(s string) (Format, error) {
	switch s {
	case "", "oci", "docker":
		return Format(s), nil
	case "v2s2":
		return FormatDocker, nil
	case "v2s1":
		return "", fmt.Errorf("format v2s1: schema 1 has no sizes and no configuration, and registries stopped taking it, so it is read but never written: %w", ErrUsage)
	}
	return "", fmt.Errorf("format %q is neither oci nor docker (v2s2): %w", s, ErrUsage)
}

// image and list are the media types of a format's manifests.
func (f Format) image() string {
	switch f {
	case FormatOCI:
		return v1.MediaTypeImageManifest
	case FormatDocker:
		return manifest.DockerManifest
	}
	return ""
}

func (f Format) list() string {
	switch f {
	case FormatOCI:
		return v1.MediaTypeImageIndex
	case FormatDocker:
		return manifest.DockerList
	}
	return ""
}

// forms decides which types a manifest may be written as.
type forms struct {
	forced  Format
	accepts []string // the types that the destination takes, the ones it prefers first; nil: any
	reason  string   // why the manifest must stay as it is, or ""
}

// acceptsOf are the types that a place declares, nil when it takes any. Every form has a place in layouts, in dir: and
// in registries, which say what they do not take when they are given it.
func acceptsOf(t manifest.Transport) []string {
	if plainTars(t) {
		return []string{v1.MediaTypeImageManifest, manifest.DockerManifest}
	}
	return nil
}

// choose are the types to try, in order, for a manifest of type have that can be written as each type for which say is
// nil (rules 26 to 28 and 31). What may not change is tried as it is, and nothing else. An error is one before a blob
// moves.
func (f forms) choose(have, forced string, say func(mediaType string) error) ([]string, error) {
	switch {
	case f.reason != "" && forced != "" && forced != have:
		return nil, fmt.Errorf("--format %s would change the manifest, but %s: %w", f.forced, f.reason, ErrPreserve)
	case f.reason != "":
		return []string{have}, nil
	case forced != "":
		if err := say(forced); err != nil {
			return nil, fmt.Errorf("--format %s: %w: %w", f.forced, err, ErrUsage)
		}
		return []string{forced}, nil
	}
	var out []string
	var refused error
	candidates := append([]string{have}, f.accepts...)
	if f.accepts == nil {
		candidates = append(candidates, others(have)...)
	}
	for _, t := range candidates {
		if slices.Contains(out, t) || f.accepts != nil && !slices.Contains(f.accepts, t) {
			continue
		}
		if err := say(t); err != nil {
			refused = errors.Join(refused, err)
			continue
		}
		out = append(out, t)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no form of the manifest that the destination takes can say it: %w", errors.Join(refused, manifest.ErrUnsupported))
	}
	return out, nil
}

// others are the types of the same kind, in the order in which they are tried.
func others(have string) []string {
	if manifest.IsList(have) {
		return []string{v1.MediaTypeImageIndex, manifest.DockerList}
	}
	return []string{v1.MediaTypeImageManifest, manifest.DockerManifest}
}

// image chooses for an image whose layers will have these types. Its own type is not asked for what it can say unless
// layers are made anew: a manifest that stays says what it says.
func (f forms) image(im *manifest.Image, layers []string, edited bool) ([]string, error) {
	have := im.Manifest.MediaType
	return f.choose(have, f.forced.image(), func(t string) error {
		if t == have && !edited || t == v1.MediaTypeImageManifest {
			return nil
		}
		for i, l := range layers {
			if _, err := manifest.ToDocker(l); err != nil {
				return fmt.Errorf("layer %d cannot be said in a Docker manifest: %w", i, err)
			}
		}
		return nil
	})
}

// list chooses for a list. Whether its entries can be said in another form is seen when they are known.
func (f forms) list(l *manifest.List) ([]string, error) {
	return f.choose(l.MediaType, f.forced.list(), func(string) error { return nil })
}

// formsOf says what may become of one manifest. Signatures of an image are not those of what is added beside it.
func formsOf(s situation, o *Options, p imagePlan) forms {
	f := forms{forced: o.Format, accepts: s.accepts, reason: cannotModify(s, o)}
	if f.reason == "" && !p.added && s.signed != nil && s.signed(p.doc.digest) {
		f.reason = whySigned
	}
	return f
}

// layerTypes are the media types that the layers of an image have when they are there.
func layerTypes(p imagePlan) (out []string) {
	for i, l := range p.image.Layers {
		switch {
		case p.strip && l.Binding == manifest.BindSentinel:
		case i < len(p.encode) && p.encode[i]:
			out = append(out, layerMediaType(p.compress.Algorithm))
		case p.download && isElsewhere(l.Descriptor):
			out = append(out, manifest.Distributable(l.MediaType))
		default:
			out = append(out, l.MediaType)
		}
	}
	return out
}
