package main

import (
	"cmp"
	"errors"
	"strconv"

	"github.com/spf13/pflag"
)

// override is skopeo's way to say which platform is meant, before the verb.
type override struct{ os, arch, variant string }

func (o *override) flags(f *pflag.FlagSet) {
	f.StringVar(&o.os, "override-os", "", "skopeo's spelling of OS in --platform")
	f.StringVar(&o.arch, "override-arch", "", "skopeo's spelling of ARCH in --platform")
	f.StringVar(&o.variant, "override-variant", "", "skopeo's spelling of VARIANT in --platform")
}

// apply makes it a command's --platform, completed by this machine's.
func (o *override) apply(f *pflag.FlagSet) error {
	if *o == (override{}) {
		return nil
	}
	platform := f.Lookup("platform")
	if platform == nil || platform.Changed {
		return usage(errors.New("--override-os, --override-arch and --override-variant stand for --platform, and go only with commands that have it, without it"))
	}
	local := localPlatform()
	s := cmp.Or(o.os, local.OS) + "/" + cmp.Or(o.arch, local.Architecture)
	if o.variant != "" {
		s += "/" + o.variant
	}
	return f.Set("platform", s)
}

// skopeoFlags are spellings of skopeo's for what has another one here.
type skopeoFlags struct {
	compressFormat string
	compressLevel  int
	force          bool
}

func (s *skopeoFlags) flags(f *pflag.FlagSet) {
	f.StringVar(&s.compressFormat, "dest-compress-format", "", "skopeo's spelling of --compress; layers that are compressed otherwise are encoded anew too")
	f.BoolVar(&s.force, "dest-force-compress-format", false, "what --dest-compress-format does anyhow: no layer stays in another compression")
	f.IntVar(&s.compressLevel, "dest-compress-level", 0, "skopeo's spelling of the level in --compress")
}

// compression is what --compress says, whichever way it was spelled.
func (s skopeoFlags) compression(compress string) (string, error) {
	switch {
	case s.compressFormat == "" && (s.compressLevel != 0 || s.force):
		return "", usage(errors.New("--dest-compress-level and --dest-force-compress-format need --dest-compress-format"))
	case s.compressFormat == "":
		return compress, nil
	case compress != "":
		return "", usage(errors.New("--compress and --dest-compress-format say the same; give one of them"))
	case s.compressLevel == 0:
		return s.compressFormat, nil
	}
	return s.compressFormat + ":" + strconv.Itoa(s.compressLevel), nil
}
