package manifest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// instance builds a list entry from a note: "linux/amd64", "-" for no
// platform, then the marks zstd, sentinel, serves=PLATFORM, artifact,
// version=X.
func instance(t testing.TB, i int, note string) v1.Descriptor {
	t.Helper()
	d := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: tarDigest(i), Size: int64(i)}
	for k, word := range strings.Fields(note) {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case k == 0 && word != "-":
			p := mustPlatform(t, word)
			d.Platform = &p
		case key == "zstd":
			d = Annotate(d, AnnotationZstd, "true")
		case key == "sentinel":
			d = Annotate(d, AnnotationSentinel, "true")
		case key == "serves":
			d = Annotate(d, AnnotationSentinelPlatform, value)
		case key == "artifact":
			d.ArtifactType = "a/b"
		case key == "version":
			d.Platform.OSVersion = value
		case word != "-":
			t.Fatalf("note %q", note)
		}
	}
	return d
}

func TestChoose(t *testing.T) { // S9, S24, L8, L9, rule 4
	hidden := []string{"linux/amd64 zstd", "unknown/unknown zstd sentinel serves=linux/amd64", "linux/arm64", "unknown/unknown"}
	upstream := []string{"linux/amd64 zstd", "linux/amd64 zstd sentinel"}
	only := []string{"linux/amd64 zstd sentinel", "linux/arm64 zstd sentinel"}
	arms := []string{"linux/arm/v7", "linux/arm/v6", "linux/arm/v5", "linux/arm64/v8", "linux/arm64"}
	for _, tt := range []struct {
		name string
		list []string
		want string
		p    Prefer
		pick int // -1: ErrNotFound
	}{
		{"hidden, plain", hidden, "linux/amd64", PreferPlain, 0},
		{"hidden, gzip", hidden, "linux/amd64", PreferGzip, 0},
		{"hidden alone, gzip", hidden[1:2], "linux/amd64", PreferGzip, -1},
		{"hidden, variant", hidden, "linux/amd64", PreferVariant, 1},
		{"hidden, only", hidden, "linux/amd64", OnlyVariant, 1},
		{"hidden, only plain", hidden, "linux/amd64", OnlyPlain, 0},
		{"upstream, only plain", upstream, "linux/amd64", OnlyPlain, 0},
		{"only, only plain", only, "linux/amd64", OnlyPlain, -1},
		{"hidden alone, only plain", hidden[1:2], "linux/amd64", OnlyPlain, -1},
		{"hidden, no variant of it", hidden, "linux/arm64", PreferVariant, 2},
		{"hidden, none for only", hidden, "linux/arm64", OnlyVariant, -1},
		{"unknown is nobody's wish", hidden, "unknown/unknown", PreferVariant, -1},
		{"hidden alone never answers for plain", hidden[1:2], "linux/amd64", PreferPlain, -1},
		{"hidden alone", hidden[1:2], "linux/amd64", PreferVariant, 0},
		{"hidden, variant first in the list", []string{hidden[1], hidden[0]}, "linux/amd64", PreferPlain, 1},
		{"upstream, plain", upstream, "linux/amd64", PreferPlain, 0},
		{"upstream, variant", upstream, "linux/amd64", PreferVariant, 1},
		{"only, plain", only, "linux/arm64", PreferPlain, 1},
		{"only, variant", only, "linux/arm64", PreferVariant, 1},
		{"hidden without its platform", []string{"unknown/unknown sentinel"}, "linux/amd64", PreferVariant, -1},
		{"real platform beats the annotation", []string{"linux/amd64 sentinel serves=linux/arm64"}, "linux/arm64", PreferVariant, -1},

		{"arm v6", arms, "linux/arm/v6", PreferPlain, 1},
		{"arm", arms, "linux/arm", PreferPlain, 0},
		{"arm v8", arms, "linux/arm/v8", PreferPlain, 0},
		{"arm64", arms, "linux/arm64", PreferPlain, 4},
		{"arm64 v8", arms, "linux/arm64/v8", PreferPlain, 3},
		{"arm v4", arms, "linux/arm/v4", PreferPlain, -1},
		{"variant's platform rank first", []string{"linux/arm/v7", "unknown/unknown sentinel serves=linux/arm/v6"}, "linux/arm/v7", PreferVariant, 0},

		{"zstd first", []string{"linux/amd64", "linux/amd64 zstd"}, "linux/amd64", PreferPlain, 1},
		{"gzip first", []string{"linux/amd64 zstd", "linux/amd64"}, "linux/amd64", PreferGzip, 1}, // L26
		{"then position", []string{"linux/amd64", "linux/amd64"}, "linux/amd64", PreferPlain, 0},
		{"no platform last", []string{"-", "linux/amd64"}, "linux/amd64", PreferPlain, 1},
		{"no platform", []string{"linux/arm64", "-"}, "linux/amd64", PreferPlain, 1},
		{"no platform is no variant", []string{"-"}, "linux/amd64", OnlyVariant, -1},
		{"artifacts are not images", []string{"- artifact"}, "linux/amd64", PreferPlain, -1},
		{"empty", nil, "linux/amd64", PreferPlain, -1},
	} {
		l := &List{Digest: someDigest}
		for i, note := range tt.list {
			l.Instances = append(l.Instances, instance(t, i, note))
		}
		d, err := l.Choose(mustPlatform(t, tt.want), tt.p)
		pick := slices.IndexFunc(l.Instances, func(o v1.Descriptor) bool { return o.Digest == d.Digest })
		if pick != tt.pick || (pick < 0) != errors.Is(err, ErrNotFound) {
			t.Errorf("%s: picked %d, %v; want %d", tt.name, pick, err, tt.pick)
		}
	}
}

func TestChooseOSVersion(t *testing.T) {
	l := &List{Instances: []v1.Descriptor{
		instance(t, 0, "windows/amd64 version=10.0.20348.1"), instance(t, 1, "windows/amd64 version=10.0.17763.5"),
	}}
	want := mustPlatform(t, "windows/amd64")
	if d, err := l.Choose(want, PreferPlain); err != nil || d.Digest != tarDigest(0) {
		t.Errorf("no version wanted: %v %v", d.Digest, err)
	}
	want.OSVersion = "10.0.17763.1"
	if d, err := l.Choose(want, PreferPlain); err != nil || d.Digest != tarDigest(1) {
		t.Errorf("a build wanted: %v %v", d.Digest, err)
	}
}

func TestChooseErrorListsPlatforms(t *testing.T) { // rule 5
	l := &List{Digest: someDigest, Instances: []v1.Descriptor{
		instance(t, 0, "linux/amd64"), instance(t, 1, "unknown/unknown sentinel serves=linux/amd64"), instance(t, 2, "unknown/unknown"),
	}}
	_, err := l.Choose(mustPlatform(t, "linux/s390x"), PreferPlain)
	if err == nil || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "(it has linux/amd64, linux/amd64 (sentinel))") {
		t.Error(err)
	}
}

func TestPublishIndex(t *testing.T) { // S9, rule 67
	amd64 := mustPlatform(t, "linux/amd64")
	plain := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: tarDigest(0), Size: 1, Annotations: map[string]string{"k": "v"}}
	variant := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: tarDigest(1), Size: 2}
	for layout, want := range map[Layout]string{
		LayoutHidden:   "linux/amd64 zstd= sentinel= serves=; unknown/unknown zstd=true sentinel=true serves=linux/amd64",
		LayoutUpstream: "linux/amd64 zstd= sentinel= serves=; linux/amd64 zstd=true sentinel=true serves=",
		LayoutOnly:     "linux/amd64 zstd=true sentinel=true serves=",
	} {
		want = strings.Replace(want, "zstd= sentinel= ", "zstd=true sentinel= ", 1)
		raw, err := PublishIndex(plain, variant, amd64, layout)
		if err != nil {
			t.Fatal(err)
		}
		l := mustList(t, string(raw))
		var got []string
		for _, d := range l.Instances {
			got = append(got, fmt.Sprintf("%s zstd=%s sentinel=%s serves=%s", FormatPlatform(*d.Platform),
				d.Annotations[AnnotationZstd], d.Annotations[AnnotationSentinel], d.Annotations[AnnotationSentinelPlatform]))
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%s: %q, want %q", layout, got, want)
		}
		if l.MediaType != v1.MediaTypeImageIndex {
			t.Errorf("%s: %s", layout, l.MediaType)
		}
		if p, ok := VariantPlatform(l.Instances[len(l.Instances)-1]); !ok || FormatPlatform(p) != "linux/amd64" {
			t.Errorf("%s: the variant serves %v, %v", layout, p, ok)
		}
		if d, err := l.Choose(amd64, PreferVariant); err != nil || d.Digest != variant.Digest {
			t.Errorf("%s: %v %v", layout, d.Digest, err)
		}
		if d, err := l.Choose(amd64, PreferPlain); err != nil || (layout != LayoutOnly && (d.Digest != plain.Digest || d.Annotations["k"] != "v")) {
			t.Errorf("%s: %v %v", layout, d.Digest, err)
		}
	}
	if len(plain.Annotations) != 1 || variant.Annotations != nil {
		t.Error("the arguments were changed")
	}
}

func TestPublishRefuses(t *testing.T) {
	d := v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: tarDigest(0), Size: 1}
	for name, tt := range map[string]struct {
		p v1.Platform
		l Layout
	}{
		"no platform":  {v1.Platform{}, LayoutHidden},
		"unknown":      {v1.Platform{OS: "unknown", Architecture: "unknown"}, LayoutUpstream},
		"unsayable":    {v1.Platform{OS: "li/nux", Architecture: "amd64/x"}, LayoutHidden},
		"other layout": {v1.Platform{OS: "linux", Architecture: "amd64"}, "none"},
	} {
		if raw, err := PublishIndex(d, d, tt.p, tt.l); err == nil {
			t.Errorf("%s: %s", name, raw)
		}
	}
	if _, err := ParseLayout("none"); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	for _, s := range []string{"hidden", "upstream", "only"} {
		if l, err := ParseLayout(s); err != nil || string(l) != s || l.ChainBound() != (s != "upstream") {
			t.Errorf("%s: %v %v", s, l, err)
		}
	}
}
