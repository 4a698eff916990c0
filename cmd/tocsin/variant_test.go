package main

import (
	"errors"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

func TestPreference(t *testing.T) { // S25
	for _, tt := range []struct {
		variant string
		dst     manifest.Transport
		want    manifest.Prefer
	}{
		{"auto", manifest.Store, manifest.PreferVariant}, {"auto", manifest.Docker, manifest.PreferPlain},
		{"auto", manifest.OCI, manifest.PreferPlain}, {"auto", manifest.Dir, manifest.PreferPlain}, {"auto", "", manifest.PreferPlain},
		{"plain", manifest.Store, manifest.OnlyPlain}, {"plain", manifest.Docker, manifest.OnlyPlain},
		{"sentinel", manifest.Store, manifest.OnlyVariant}, {"sentinel", manifest.Docker, manifest.OnlyVariant},
	} {
		if got, err := preference(tt.variant, manifest.Ref{Transport: tt.dst}); err != nil || got != tt.want {
			t.Errorf("%s into %q: %v, %v", tt.variant, tt.dst, got, err)
		}
	}
	if _, err := preference("both", manifest.Ref{}); !errors.Is(err, errUsage) {
		t.Errorf("both: %v", err)
	}
}
