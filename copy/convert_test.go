package copy

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// refusing answers the upload of manifests of a type.
func refusing(mediaType string, answer front.Action) front.Rule {
	return front.Rule{Method: "PUT", Path: "/manifests/", Do: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Header.Get("Content-Type") == mediaType {
			answer(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}}
}

// rule 29, rule 30: another dialect only after a rejection, and only where the manifest may change.
func TestOtherDialect(t *testing.T) {
	invalid := front.Status(400, "MANIFEST_INVALID")
	tests := []struct {
		name    string
		rules   []front.Rule
		o       Options
		want    string // media type
		err     error
		attempt int
	}{
		{"taken", nil, Options{}, v1.MediaTypeImageManifest, nil, 1},
		{"no OCI", []front.Rule{refusing(v1.MediaTypeImageManifest, invalid)}, Options{}, manifest.DockerManifest, nil, 2},
		{"no OCI, other layers", []front.Rule{refusing(v1.MediaTypeImageManifest, invalid)}, Options{Compress: Compression{Algorithm: algoNone}}, manifest.DockerManifest, nil, 2},
		{"digests are promised", []front.Rule{refusing(v1.MediaTypeImageManifest, invalid)}, Options{Preserve: true}, "", registry.ErrRejected, 1}, // rule 28
		{"not to be said in Docker's", []front.Rule{refusing(v1.MediaTypeImageManifest, invalid)}, Options{Compress: Compression{Algorithm: algoZstd}}, "", registry.ErrRejected, 1},
		{"nothing is taken", []front.Rule{{Method: "PUT", Path: "/manifests/", Do: invalid}}, Options{}, "", registry.ErrRejected, 2},
		{"too large is no rejection", []front.Rule{refusing(v1.MediaTypeImageManifest, front.Status(413, "SIZE_INVALID"))}, Options{}, "", errAny, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, 2)
			src, tars := w.single()
			for _, r := range tt.rules {
				w.front.Add(r)
			}
			res, err := w.try(src, w.docker("a:1"), &tt.o)
			if n := w.front.Count("PUT", "/manifests/"); n != tt.attempt {
				t.Errorf("%d attempts, want %d", n, tt.attempt)
			}
			if tt.err != nil {
				if err == nil || tt.err != errAny && !errors.Is(err, tt.err) {
					t.Errorf("%v", err)
				}
				if tt.attempt == 2 && !(strings.Contains(err.Error(), v1.MediaTypeImageManifest) && strings.Contains(err.Error(), manifest.DockerManifest)) {
					t.Errorf("not both forms: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if res.MediaType != tt.want || (len(res.Notes) == 1) != (tt.attempt == 2) {
				t.Errorf("%s, notes %v", res.MediaType, res.Notes)
			}
			w.checkTars(w.docker("a:1"), tars)
			if s := w.situation(w.docker("a:1")); s.top.digest != res.Digest || s.instances[0].image.Manifest.MediaType != tt.want {
				t.Errorf("%s is %s", s.top.digest, s.instances[0].image.Manifest.MediaType)
			}
		})
	}
}

var errAny = errors.New("any error")

// Docker's and back is the image that it was, and its config is the same blob.
func TestOtherDialectBack(t *testing.T) {
	w := newWorld(t, 2)
	src, _ := w.single()
	first := w.situation(src).top
	docker, err := convert(first, manifest.DockerManifest)
	if err != nil || docker.mediaType != manifest.DockerManifest {
		t.Fatalf("%v %s", err, docker.mediaType)
	}
	back, err := convert(docker, v1.MediaTypeImageManifest)
	if err != nil {
		t.Fatal(err)
	}
	a, err := manifest.ParseManifest(first.raw, "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := manifest.ParseManifest(back.raw, back.mediaType)
	if err != nil {
		t.Fatal(err)
	}
	if a.Config.Digest != b.Config.Digest || len(a.Layers) != len(b.Layers) || a.Layers[1].MediaType != b.Layers[1].MediaType {
		t.Errorf("%+v\n%+v", a, b)
	}
}

// rule 31, L18: a list is offered as the other kind of list, unless that would lose what its entries are.
func TestOtherList(t *testing.T) {
	w := newWorld(t, 2)
	b := w.build("lists")
	tars := small(t)
	amd, arm := b.image("linux/amd64", algoGzip, tars...), b.image("linux/arm64", algoGzip, tars...)
	plain := b.name(b.list(amd, arm), "plain")
	attested := b.name(b.list(amd, arm, b.attestation(amd)), "attested")
	w.front.Add(refusing(v1.MediaTypeImageIndex, front.Status(400, "MANIFEST_INVALID")))
	res := w.copy(plain, w.docker("a:1"), nil)
	after := w.listOf(w.docker("a:1"))
	if res.MediaType != manifest.DockerList || len(after) != 2 || after[1].Digest != arm.Digest || len(res.Notes) != 1 {
		t.Errorf("%s %+v, notes %v", res.MediaType, after, res.Notes)
	}
	if _, err := w.try(attested, w.docker("b:1"), nil); !errors.Is(err, registry.ErrRejected) || !errors.Is(err, manifest.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := w.try(plain, w.docker("c:1"), &Options{Preserve: true}); !errors.Is(err, registry.ErrRejected) { // rule 28
		t.Error(err)
	}
	w.front.Behave()
	w.front.Add(refusing(manifest.DockerList, front.Status(400, "MANIFEST_INVALID")))
	if res := w.copy(w.docker("a:1"), w.docker("d:1"), nil); res.MediaType != v1.MediaTypeImageIndex {
		t.Error(res.MediaType)
	}
}
