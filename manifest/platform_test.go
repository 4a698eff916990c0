package manifest

import (
	"errors"
	"slices"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func mustPlatform(t testing.TB, s string) v1.Platform {
	t.Helper()
	p, err := ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParsePlatform(t *testing.T) {
	for in, want := range map[string]string{
		"linux/amd64":     "linux/amd64",
		"linux/arm/v7":    "linux/arm/v7",
		"Linux/x86_64":    "linux/amd64",
		"linux/aarch64":   "linux/arm64",
		"linux/armhf":     "linux/arm/v7",
		"linux/armel":     "linux/arm/v6",
		"linux/i686":      "linux/386",
		"linux/amd64/v3":  "linux/amd64/v3",
		"windows/amd64":   "windows/amd64",
		"unknown/unknown": "unknown/unknown",
	} {
		if got := FormatPlatform(mustPlatform(t, in)); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x", "li nux/amd64", "local"} {
		if p, err := ParsePlatform(in); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %+v, %v", in, p, err)
		}
	}
}

func TestWantedVariants(t *testing.T) { // L7
	for in, want := range map[string][]string{
		"linux/arm/v6":    {"v6", "v5", ""},
		"linux/arm":       {"", "v8", "v7", "v6", "v5"},
		"linux/arm64":     {"", "v8"},
		"linux/arm64/v8":  {"v8", ""},
		"linux/mips/odd":  {"odd", ""},
		"linux/amd64":     {""},
		"linux/arm/v9odd": {"v9odd", ""},
	} {
		if got := wantedVariants(mustPlatform(t, in)); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestMatchPlatform(t *testing.T) {
	win := func(version string, features ...string) v1.Platform {
		return v1.Platform{OS: "windows", Architecture: "amd64", OSVersion: version, OSFeatures: features}
	}
	plat := func(s string) v1.Platform { return mustPlatform(t, s) }
	for _, tt := range []struct {
		want, have v1.Platform
		ok         bool
	}{
		{plat("linux/amd64"), plat("linux/amd64"), true},
		{plat("linux/amd64"), plat("linux/arm64"), false},
		{plat("linux/amd64"), plat("windows/amd64"), false},
		{plat("linux/amd64"), plat("linux/amd64/v2"), false},
		{plat("linux/amd64/v3"), plat("linux/amd64"), true},
		{plat("linux/arm/v6"), plat("linux/arm/v7"), false},
		{plat("linux/arm/v7"), plat("linux/arm/v6"), true},
		{win("10.0.17763.1"), win("10.0.17763.999"), true},
		{win("10.0.17763.1"), win("10.0.20348.1"), false},
		{win(""), win("10.0.20348.1"), true},
		{win("10.0.20348.1"), win(""), true},
		{win(""), win("", "win32k"), false},
		{win("", "win32k"), win("", "win32k"), true},
		{win("", "win32k"), win(""), true},
	} {
		if got := MatchPlatform(tt.want, tt.have); got != tt.ok {
			t.Errorf("MatchPlatform(%+v, %+v) = %v", tt.want, tt.have, got)
		}
	}
}
