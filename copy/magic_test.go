package copy

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// rule 41, rule 43: how a blob begins beats what its media type says. The wrong type is corrected where the manifest
// changes anyway, else kept with a warning.
func TestMagicBeatsMediaType(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("a")
	tars := small(t)
	d := b.image("linux/amd64", algoZstd, tars...)
	var m v1.Manifest
	if err := json.Unmarshal(w.manifestOf(b.name(d, "right"), d), &m); err != nil {
		t.Fatal(err)
	}
	gzip := b.layer(algoGzip, tars[1])
	m.Layers[0].MediaType = v1.MediaTypeImageLayerGzip // but it is zstd
	wrong := b.name(b.json(v1.MediaTypeImageManifest, m), "wrong")
	m.Layers[1] = gzip
	mixed := b.name(b.json(v1.MediaTypeImageManifest, m), "mixed")

	types := func(ref string) (out []string) {
		for _, l := range w.situation(ref).instances[0].image.Layers {
			out = append(out, strings.TrimPrefix(l.MediaType, v1.MediaTypeImageLayer))
		}
		return out
	}
	tests := []struct {
		name, src string
		o         Options
		want      string
		same      bool
		note      string
	}{
		{"kept", wrong, Options{}, "+gzip +zstd", true, "nothing else changes"},
		{"may not change", wrong, Options{Preserve: true}, "+gzip +zstd", true, "may not change"},
		{"what was asked for is not what it is", mixed, Options{Compress: Compression{Algorithm: algoGzip}}, "+gzip +gzip", false, "made anew"},
		{"asked for, may not change", mixed, Options{Compress: Compression{Algorithm: algoGzip}, Preserve: true}, "+gzip +gzip", true, "may not change"},
		{"the other layer changes", wrong, Options{Compress: Compression{Algorithm: algoGzip}}, "+gzip +gzip", false, "made anew"},
	}
	for i, tt := range tests {
		dst := w.docker("a" + string(rune('a'+i)) + ":1")
		res := w.copy(tt.src, dst, &tt.o)
		if got := strings.Join(types(dst), " "); got != tt.want || bytes.Equal(w.raw(dst), w.raw(tt.src)) != tt.same {
			t.Errorf("%s: %s, want %s, same bytes %v", tt.name, got, tt.want, tt.same)
		}
		if len(res.Notes) != 1 || !strings.Contains(res.Notes[0], tt.note) {
			t.Errorf("%s: notes %v", tt.name, res.Notes)
		}
		w.checkTars(dst, tars)
	}
	// A Docker manifest cannot say what the layer really is.
	if _, err := w.try(wrong, w.docker("docker:1"), &Options{Format: FormatDocker}); !errors.Is(err, ErrUsage) && !errors.Is(err, manifest.ErrUnsupported) {
		t.Error(err)
	}
}

// rule 43: the type is corrected when something else in the manifest changes.
func TestMediaTypeCorrected(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("a")
	tars := small(t)
	d := b.image("linux/amd64", algoGzip, tars...)
	var m v1.Manifest
	if err := json.Unmarshal(w.manifestOf(b.name(d, "right"), d), &m); err != nil {
		t.Fatal(err)
	}
	m.Layers[0].MediaType = v1.MediaTypeImageLayer // but it is gzip
	src := b.name(b.json(v1.MediaTypeImageManifest, m), "wrong")
	res := w.copy(src, w.docker("a:1"), &Options{Format: FormatDocker})
	layers := w.situation(w.docker("a:1")).instances[0].image.Layers
	if layers[0].MediaType != "application/vnd.docker.image.rootfs.diff.tar.gzip" || len(res.Notes) != 1 || !strings.Contains(res.Notes[0], "corrected") {
		t.Errorf("%+v, notes %v", layers[0], res.Notes)
	}
	w.checkTars(w.docker("a:1"), tars)
}
