package manifest

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ParsePlatform reads os/arch[/variant]. The usual other names of an
// architecture (x86_64, aarch64, armhf ...) become Go's. "local" is not
// known here, because this package does not know where it runs.
func ParsePlatform(s string) (v1.Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	if len(parts) != 2 && len(parts) != 3 {
		return v1.Platform{}, fmt.Errorf("platform %.100q: %w: want os/arch[/variant]", s, ErrMalformed)
	}
	for _, p := range parts {
		if p == "" || strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" {
			return v1.Platform{}, fmt.Errorf("platform %.100q: %w: part %q", s, ErrMalformed, p)
		}
	}
	p := v1.Platform{OS: parts[0]}
	p.Architecture, p.Variant = canonicalArch(parts[1])
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	return p, nil
}

// canonicalArch returns Go's name of an architecture, and the variant that
// the other name implies.
func canonicalArch(arch string) (goarch, variant string) {
	switch arch {
	case "x86_64", "x86-64":
		return "amd64", ""
	case "i386", "i486", "i586", "i686":
		return "386", ""
	case "aarch64":
		return "arm64", ""
	case "armhf":
		return "arm", "v7"
	case "armel":
		return "arm", "v6"
	}
	return arch, ""
}

// FormatPlatform returns os/arch[/variant]; os.version and os.features have
// no place in it.
func FormatPlatform(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// MatchPlatform reports whether an image for have runs where want is asked
// for: the same OS and architecture, a variant that is compatible with the
// one wanted (spec/lists-and-store.md L7), no os.feature that want lacks,
// and, if both say one, the same os.version up to Windows' build number.
func MatchPlatform(want, have v1.Platform) bool {
	_, ok := platformRank(want, have)
	return ok
}

// platformRank returns how far down the list of wanted variants have stands;
// 0 is best.
func platformRank(want, have v1.Platform) (int, bool) {
	if want.OS != have.OS || want.Architecture != have.Architecture {
		return 0, false
	}
	if !sameVersion(want.OSVersion, have.OSVersion) {
		return 0, false
	}
	for _, f := range have.OSFeatures {
		if !slices.Contains(want.OSFeatures, f) {
			return 0, false
		}
	}
	rank := slices.Index(wantedVariants(want), have.Variant)
	return rank, rank >= 0
}

// wantedVariants lists the variants that satisfy want, best first.
func wantedVariants(want v1.Platform) []string {
	var newestFirst []string
	switch want.Architecture {
	case "arm":
		newestFirst = []string{"v8", "v7", "v6", "v5"}
	case "arm64":
		newestFirst = []string{"v8"}
	}
	if want.Variant == "" {
		return append([]string{""}, newestFirst...)
	}
	if i := slices.Index(newestFirst, want.Variant); i >= 0 {
		return append(newestFirst[i:], "")
	}
	return []string{want.Variant, ""}
}

// sameVersion compares os.version by its first three numbers, which are what
// Windows' compatibility depends on; nothing said fits everything.
func sameVersion(want, have string) bool {
	if want == "" || have == "" {
		return true
	}
	w, h := strings.Split(want, "."), strings.Split(have, ".")
	for i := range min(3, len(w), len(h)) {
		if w[i] != h[i] {
			return false
		}
	}
	return true
}
