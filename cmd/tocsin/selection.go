package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/manifest"
)

// selection are the flags that say which instances of a list are copied, in our spelling and in skopeo's.
type selection struct {
	index, multiArch string
	instances        []string
	all, strip       bool
	platform         string // what --platform is when nobody says it
}

func (s *selection) flags(f *pflag.FlagSet, platform string) {
	s.platform = platform
	f.StringVar(&s.index, "index", "", "with several platforms or instances: keep the list as it is, without the others' images (the default), or strip their entries")
	f.StringArrayVar(&s.instances, "instance", nil, "copy this instance of a list, by its digest; may be repeated")
	f.BoolVarP(&s.all, "all", "a", false, "copy the whole list")
	f.StringVar(&s.multiArch, "multi-arch", "", "skopeo's spelling: system, all, index-only (the list without any image), or several OS/ARCH[/VARIANT]")
	f.BoolVar(&s.strip, "strip-removed-platforms", false, "skopeo's spelling of --index strip")
}

// apply puts the selection, and what --platform says, into options.
func (s selection) apply(platform string, o *copy.Options) error {
	keepList := s.index != "" || s.strip || len(s.instances) > 0
	if s.all && s.multiArch != "" && s.multiArch != "all" {
		return usage(fmt.Errorf("--all and --multi-arch %s contradict each other", s.multiArch))
	}
	whole := s.all || s.multiArch == "all"
	if whole || s.multiArch != "" || len(s.instances) > 0 {
		if platform == s.platform {
			platform = "" // nobody asked for the default
		} else if whole || s.multiArch != "" {
			return usage(errors.New("--platform does not go with --all and --multi-arch"))
		}
	}
	switch s.multiArch {
	case "", "all":
	case "system":
		platform = "local"
	case "index-only":
		o.Select.IndexOnly = true
	default:
		platform, keepList = s.multiArch, true
	}
	platforms, err := parsePlatforms(platform)
	if err != nil {
		return err
	}
	if !whole {
		local := localPlatform()
		o.Select.Fallback = &local
	}
	if len(platforms) == 1 && !keepList {
		o.Platform = &platforms[0]
	} else {
		o.Select.Platforms = platforms
	}
	for _, text := range s.instances {
		d := digest.Digest(text)
		if err := manifest.ValidDigest(d); err != nil {
			return usage(fmt.Errorf("--instance: %w", err))
		}
		o.Select.Digests = append(o.Select.Digests, d)
	}
	return s.others(o)
}

// others says what becomes of the entries that were not selected.
func (s selection) others(o *copy.Options) error {
	o.Select.Strip = s.strip || s.index == "strip"
	chosen := o.Select.IndexOnly || len(o.Select.Platforms)+len(o.Select.Digests) > 0
	switch {
	case !slices.Contains([]string{"", "keep", "strip"}, s.index):
		return usage(fmt.Errorf("--index %q is neither keep nor strip", s.index))
	case s.strip && s.index == "keep":
		return usage(errors.New("--index keep and --strip-removed-platforms contradict each other"))
	case (s.strip || s.index != "") && !chosen:
		return usage(errors.New("--index needs --platform or --instance: nothing is left out"))
	}
	return nil
}

// parsePlatforms reads several platforms with commas between them.
func parsePlatforms(s string) ([]v1.Platform, error) {
	if s == "" {
		return nil, nil
	}
	var out []v1.Platform
	for part := range strings.SplitSeq(s, ",") {
		if part == "" {
			return nil, usage(fmt.Errorf("--platform %q: an empty platform", s))
		}
		p, err := parsePlatform(part)
		if err != nil {
			return nil, err
		}
		out = append(out, *p)
	}
	return out, nil
}
