package main

import (
	"errors"
	"reflect"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy"
)

// L10: every spelling of a selection, and what it comes to.
func TestSelection(t *testing.T) {
	amd, arm := v1.Platform{OS: "linux", Architecture: "amd64"}, v1.Platform{OS: "linux", Architecture: "arm64"}
	local := localPlatform()
	d := digest.FromString("x")
	both := []v1.Platform{amd, arm}
	sel := func(s copy.Select) copy.Options { return copy.Options{Select: s} }
	tests := []struct {
		platform string
		s        selection
		want     copy.Options
		bad      bool
	}{
		{want: copy.Options{}},
		{platform: "linux/amd64", want: copy.Options{Platform: &amd}},
		{platform: "local", want: copy.Options{Platform: &local}},
		{platform: "linux/amd64,linux/arm64", want: sel(copy.Select{Platforms: both})},
		{platform: "linux/amd64,linux/arm64", s: selection{index: "strip"}, want: sel(copy.Select{Platforms: both, Strip: true})},
		{platform: "linux/amd64", s: selection{index: "keep"}, want: sel(copy.Select{Platforms: both[:1]})},
		{platform: "linux/amd64", s: selection{strip: true}, want: sel(copy.Select{Platforms: both[:1], Strip: true})},
		{s: selection{instances: []string{d.String()}}, want: sel(copy.Select{Digests: []digest.Digest{d}})},
		{platform: "linux/arm64", s: selection{instances: []string{d.String()}}, want: sel(copy.Select{Platforms: both[1:], Digests: []digest.Digest{d}})},
		{s: selection{all: true}, want: copy.Options{}},
		{s: selection{all: true, multiArch: "all"}, want: copy.Options{}},
		{platform: "local", s: selection{all: true, platform: "local"}, want: copy.Options{}}, // pull --all
		{platform: "local", s: selection{instances: []string{d.String()}, platform: "local"}, want: sel(copy.Select{Digests: []digest.Digest{d}})},
		{s: selection{multiArch: "system"}, want: copy.Options{Platform: &local}},
		{s: selection{multiArch: "index-only"}, want: sel(copy.Select{IndexOnly: true})},
		{s: selection{multiArch: "linux/amd64,linux/arm64", strip: true}, want: sel(copy.Select{Platforms: both, Strip: true})},
		{s: selection{multiArch: "linux/amd64"}, want: sel(copy.Select{Platforms: both[:1]})}, // skopeo's lists stay lists

		{s: selection{all: true, multiArch: "system"}, bad: true},
		{platform: "linux/amd64", s: selection{all: true}, bad: true},
		{platform: "linux/amd64", s: selection{multiArch: "system"}, bad: true},
		{platform: "linux/amd64", s: selection{index: "drop"}, bad: true},
		{platform: "linux/amd64", s: selection{index: "keep", strip: true}, bad: true},
		{s: selection{index: "keep"}, bad: true}, {s: selection{strip: true}, bad: true},
		{s: selection{instances: []string{"sha256:12"}}, bad: true},
		{platform: "linux/amd64,,linux/arm64", bad: true}, {platform: "linux", bad: true}, {s: selection{multiArch: "some"}, bad: true},
	}
	for i, tt := range tests {
		if !tt.s.all && tt.s.multiArch != "all" {
			tt.want.Select.Fallback = &local // only who asks for the whole list is not given this machine's image instead
		}
		var got copy.Options
		err := tt.s.apply(tt.platform, &got)
		if tt.bad {
			if !errors.Is(err, errUsage) {
				t.Errorf("%d: %v, %+v", i, err, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%d: %+v, want %+v (%v)", i, got, tt.want, err)
		}
	}
}
