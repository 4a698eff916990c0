package copy

import (
	"errors"
	"slices"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// compressions are an image's platform and the compression of its layers, for each instance of a list, in its order.
func (w *world) compressions(ref string) (out []string) {
	for _, in := range w.situation(ref).instances {
		p, ok := manifest.PlatformOf(in.desc)
		if in.image == nil || !ok {
			out = append(out, "artifact")
			continue
		}
		s := manifest.FormatPlatform(p)
		for _, l := range in.image.Layers {
			algo, err := manifest.Compression(l.MediaType)
			if err != nil {
				w.t.Fatal(err)
			}
			if l.TOC != nil {
				algo = algoChunked
			}
			s += " " + algo
		}
		if in.desc.Annotations[manifest.AnnotationZstd] == "true" {
			s += " !"
		}
		out = append(out, s)
	}
	return out
}

// rule 9, L11, L3, L14: an instance is added where its platform has none in that compression, behind the others if it is
// zstd, with what the list said of the one that it was made from.
func TestAddCompression(t *testing.T) {
	w := newWorld(t, 4)
	b := w.build("a")
	tars := small(t)[:1]
	amd, arm := b.image("linux/amd64", algoGzip, tars...), b.image("linux/arm64", algoGzip, tars...)
	amd.Annotations = map[string]string{"com.example": "kept"}
	zstd := b.image("linux/amd64", algoZstd, tars...)
	zstd.Annotations = map[string]string{manifest.AnnotationZstd: "true"}
	gz := b.name(b.list(amd, arm, b.attestation(amd)), "gzip")
	some := b.name(b.list(zstd, amd, arm), "some")
	only := b.name(b.list(zstd), "zstd")
	docker := w.docker("docker:1")
	w.copy(b.name(b.list(amd, arm), "plain"), docker, &Options{Format: FormatDocker})
	nested := b.name(b.list(b.list(amd), arm), "nested")
	add := func(algo ...string) (out []Compression) {
		for _, a := range algo {
			out = append(out, Compression{Algorithm: a})
		}
		return out
	}
	const amdGzip, armGzip, amdZstd, armZstd = "linux/amd64 gzip", "linux/arm64 gzip", "linux/amd64 zstd !", "linux/arm64 zstd !"
	tests := []struct {
		name, src string
		o         Options
		want      []string
	}{
		{"zstd", gz, Options{Select: Select{Add: add(algoZstd)}}, []string{amdGzip, armGzip, "artifact", amdZstd, armZstd}},
		{"where there is none", some, Options{Select: Select{Add: add(algoZstd)}}, []string{amdGzip, armGzip, amdZstd, armZstd}},
		{"nothing is missing", gz, Options{Select: Select{Add: add(algoGzip)}}, []string{amdGzip, armGzip, "artifact"}},
		{"gzip before zstd", only, Options{Select: Select{Add: add(algoGzip)}}, []string{amdGzip, amdZstd}},
		{"two", only, Options{Select: Select{Add: add(algoGzip, algoChunked)}}, []string{amdGzip, amdZstd, "linux/amd64 zstd:chunked !"}},
		{"chunked is zstd", only, Options{Select: Select{Add: add(algoChunked, algoZstd)}, Compress: Compression{Algorithm: algoGzip}}, []string{amdGzip, "linux/amd64 zstd:chunked !"}},
		{"beside an edit", gz, Options{Select: Select{Add: add(algoGzip)}, Compress: Compression{Algorithm: algoZstd}}, []string{"artifact", amdGzip, armGzip, amdZstd, armZstd}},
		{"a Docker list", docker, Options{Select: Select{Add: add(algoZstd)}}, []string{amdGzip, armGzip, amdZstd, armZstd}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dst := w.docker("out:1")
			res := w.copy(tt.src, dst, &tt.o)
			got := w.compressions(dst)
			if tt.name == "beside an edit" { // the two zstd entries were edited, the gzip ones added
				if len(got) != 5 || slices.Index(got, amdZstd) < slices.Index(got, amdGzip) {
					t.Error(got)
				}
			} else if !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
			if res.Instances != len(tt.want) {
				t.Errorf("%d instances", res.Instances)
			}
		})
	}
	w.copy(gz, w.docker("out:1"), &Options{Select: Select{Add: add(algoZstd)}})
	if l := w.listOf(w.docker("out:1")); l[3].Annotations["com.example"] != "kept" || l[3].Platform.Architecture != "amd64" || l[0].Digest != amd.Digest {
		t.Errorf("%+v", l)
	}
	w.copy(nested, w.docker("out:2"), &Options{Select: Select{Add: add(algoZstd)}})
	if s := w.situation(w.docker("out:2")); len(s.instances) != 3 || len(s.instances[0].children) != 2 {
		t.Errorf("%+v", s.instances)
	}
	single, _ := w.single()
	one := v1.Platform{OS: "linux", Architecture: "amd64"}
	for _, tt := range []struct {
		src, dst string
		o        Options
		want     error
	}{
		{single, w.docker("no:1"), Options{Select: Select{Add: add(algoZstd)}}, ErrUsage},
		{gz, w.docker("no:1"), Options{Select: Select{Add: add(algoZstd), Platforms: []v1.Platform{one}}}, ErrUsage},
		{gz, w.docker("no:1"), Options{Select: Select{Add: add(algoZstd)}, Platform: &one}, ErrUsage},
		{gz, w.docker("no:1"), Options{Select: Select{Add: add(algoNone)}}, ErrUsage},
		{gz, w.docker("no:1"), Options{Select: Select{Add: add(algoZstd)}, Preserve: true}, ErrPreserve},
		{gz, w.docker("no:1"), Options{Select: Select{Add: add(algoZstd)}, Format: FormatDocker}, ErrUsage},
		{gz, "store:no", Options{Select: Select{Add: add(algoZstd)}}, ErrUsage},
	} {
		if _, err := w.try(tt.src, tt.dst, &tt.o); !errors.Is(err, tt.want) {
			t.Errorf("%s %+v: %v", tt.dst, tt.o, err)
		}
	}
	if n := w.front.Count("", "/v2/no/"); n != 0 {
		t.Errorf("%d requests for what was refused", n)
	}
}
