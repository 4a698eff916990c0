package copy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

// artifact adds a manifest that says something about another one, as oras writes it into a layout.
func (b *builder) artifact(subject v1.Descriptor, content string) v1.Descriptor {
	b.w.t.Helper()
	d := b.json(v1.MediaTypeImageManifest, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: "application/vnd.example.sbom",
		Config: b.blob(v1.MediaTypeEmptyJSON, []byte(`{}`)), Layers: []v1.Descriptor{b.blob("text/plain", []byte(content))},
		Subject:     &v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size},
		Annotations: map[string]string{"content": content},
	})
	b.idx.Manifests = append(b.idx.Manifests, d)
	return d
}

// referred is a layout with a list and its referrers: of an image, of the list, of a referrer, and an index that lists
// what it refers to.
func (w *world) referred() (ref string, want map[digest.Digest][]digest.Digest) {
	w.t.Helper()
	tars := small(w.t)
	b := w.build("referred")
	amd, arm := b.image("linux/amd64", algoGzip, tars...), b.image("linux/arm64", algoGzip, tars[0])
	list := b.list(amd, arm)
	sbom := b.artifact(amd, "sbom")
	another := b.artifact(amd, "another sbom")
	about := b.artifact(sbom, "signature of the sbom")
	ofList := b.artifact(list, "of the list")
	circle := b.json(v1.MediaTypeImageIndex, v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, ArtifactType: "application/vnd.example.set",
		Subject: &v1.Descriptor{MediaType: arm.MediaType, Digest: arm.Digest, Size: arm.Size}, Manifests: []v1.Descriptor{arm, ofList},
	})
	b.idx.Manifests = append(b.idx.Manifests, circle)
	ref = b.name(list, "x")
	return ref, map[digest.Digest][]digest.Digest{
		amd.Digest: sortedDigests(sbom.Digest, another.Digest), sbom.Digest: {about.Digest}, list.Digest: {ofList.Digest}, arm.Digest: {circle.Digest},
	}
}

func sortedDigests(list ...digest.Digest) []digest.Digest { slices.Sort(list); return list }

// referrersOf reads what refers to a reference and to all below it, and checks that all of it is there.
func (w *world) referrersOf(ref string) map[digest.Digest][]digest.Digest {
	w.t.Helper()
	src, err := openSource(w.env, w.ref(ref))
	if err != nil {
		w.t.Fatal(err)
	}
	s := w.situation(ref)
	refs, err := findReferrers(w.t.Context(), src, append(subjects(s.instances), s.top.digest))
	if err != nil {
		w.t.Fatal(err)
	}
	out := make(map[digest.Digest][]digest.Digest)
	for d, list := range refs.of {
		for _, r := range list {
			out[d] = append(out[d], r.doc.digest)
			for _, b := range r.blobs {
				if b.MediaType != "text/plain" {
					continue
				}
				if _, err := readBlob(w.t.Context(), src, b, 1<<20); err != nil {
					w.t.Errorf("%s: %s: %v", ref, r.doc.digest, err)
				}
			}
		}
	}
	return out
}

func sameReferrers(a, b map[digest.Digest][]digest.Digest) bool {
	return maps.EqualFunc(a, b, func(x, y []digest.Digest) bool { return slices.Equal(x, y) })
}

// withoutAPI makes a repository one of a registry that knows no referrers.
func (w *world) withoutAPI(repo string, status int) {
	w.front.Add(
		front.Rule{Path: "/v2/" + repo + "/referrers/", Do: front.Status(status, "UNSUPPORTED")},
		front.Rule{Method: http.MethodPut, Path: "/v2/" + repo + "/manifests/", Do: front.Header("OCI-Subject", "")},
	)
}

// rule 59: referrers of the list, of its instances and of referrers go along when they are asked for, through registries
// with the API and without it, layouts and dir:. Twice is once, and a circle is no trap.
func TestReferrers(t *testing.T) {
	w := newWorld(t, 4)
	src, want := w.referred()
	if got := w.referrersOf(src); !sameReferrers(got, want) {
		t.Fatalf("the layout has %v, want %v", got, want)
	}
	w.withoutAPI("old", http.StatusNotFound)
	w.withoutAPI("older", http.StatusBadRequest)
	w.copy(src, w.docker("none:1"), nil)
	if got := w.referrersOf(w.docker("none:1")); len(got) != 0 {
		t.Errorf("without being asked for: %v", got)
	}
	o := &Options{Signatures: Signing{Referrers: true}, Preserve: true}
	at := src
	for _, next := range []string{
		w.docker("new:1"), w.docker("old:1"), w.layout("out") + ":x", "dir:" + filepath.Join(w.dir, "d"), w.docker("older:1"), w.layout("unnamed"), "dir:" + filepath.Join(w.dir, "e"),
	} {
		w.copy(at, next, o)
		if got := w.referrersOf(next); !sameReferrers(got, want) {
			t.Errorf("%s has %v", next, got)
		}
		w.front.Forget()
		w.copy(at, next, o)
		if got := w.referrersOf(next); !sameReferrers(got, want) {
			t.Errorf("%s has %v after the same once more", next, got)
		}
		for _, list := range want {
			for _, d := range list {
				if n := w.front.Count("PUT", d.String()); n != 0 && d != want[w.situation(src).top.digest][0] {
					t.Errorf("%s: referrer %s was written %d times more", next, d, n)
				}
			}
		}
		at = next
	}
	// What a reader of the fallback tag finds.
	top := w.situation(src).top.digest
	list, err := manifest.ParseList(w.reg.Manifest("old", registry.ReferrersTag(top)), "")
	if err != nil || len(list.Instances) != 1 || list.Instances[0].ArtifactType != "application/vnd.example.sbom" || list.Instances[0].Annotations["content"] != "of the list" {
		t.Errorf("%+v, %v", list, err)
	}
}

// rule 59: a copy of one platform takes what refers to it and not what refers to its list; what refers to something that
// was edited stays behind, and that is said.
func TestReferrersOfEdited(t *testing.T) {
	w := newWorld(t, 4)
	src, want := w.referred()
	s := w.situation(src)
	amd := plat(t, "linux/amd64")
	w.copy(src, w.docker("one:1"), &Options{Platform: &amd, Signatures: Signing{Referrers: true}})
	got := w.referrersOf(w.docker("one:1"))
	if d := s.instances[0].doc.digest; len(got) != 2 || !slices.Equal(got[d], want[d]) {
		t.Errorf("%v", got)
	}
	res := w.copy(src, w.docker("edited:1"), &Options{Signatures: Signing{Referrers: true}, Compress: Compression{Algorithm: algoZstd}})
	if got := w.referrersOf(w.docker("edited:1")); len(got) != 0 {
		t.Errorf("%v", got)
	}
	for _, d := range []digest.Digest{s.top.digest, s.instances[0].doc.digest} {
		if !slices.ContainsFunc(res.Notes, func(n string) bool {
			return strings.Contains(n, d.String()) && strings.Contains(n, fmt.Sprintf("%d referrers", len(want[d])))
		}) {
			t.Errorf("nothing about %s in %q", d, res.Notes)
		}
	}
	// The list changes, one of its instances does not.
	strip := Select{Digests: []digest.Digest{s.instances[0].doc.digest}, Strip: true}
	w.copy(src, w.docker("strip:1"), &Options{Signatures: Signing{Referrers: true}, Select: strip})
	if got := w.referrersOf(w.docker("strip:1")); len(got) != 2 {
		t.Errorf("%v", got)
	}
	// A registry that takes the list in another dialect only.
	w.front.Add(front.Rule{Method: http.MethodPut, Path: "/v2/docker/manifests/1", Times: 1, Do: front.Status(http.StatusBadRequest, "MANIFEST_INVALID")})
	if res = w.copy(src, w.docker("docker:1"), &Options{Signatures: Signing{Referrers: true}}); !slices.ContainsFunc(res.Notes, func(n string) bool { return strings.Contains(n, "1 referrers of "+s.top.digest.String()) }) {
		t.Errorf("%q", res.Notes)
	}
}

// rule 23, rule 59: a place that has none for referrers is refused before a blob moves, if there are any.
func TestNoPlaceForReferrers(t *testing.T) {
	w := newWorld(t, 4)
	src, _ := w.referred()
	w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Referrers: true}})
	amd := plat(t, "linux/amd64")
	o := &Options{Platform: &amd, Signatures: Signing{Referrers: true}}
	for i, dst := range []string{"store:a:1", "oci-archive:" + w.dir + "/a.tar", "docker-archive:" + w.dir + "/b.tar"} {
		w.front.Forget()
		if _, err := w.try(w.docker("a:1"), dst, o); !errors.Is(err, ErrUsage) && !errors.Is(err, ErrPreserve) {
			t.Errorf("%s: %v", dst, err)
		}
		for _, l := range w.situation(w.docker("a:1")).instances[0].image.Manifest.Layers {
			if n := w.front.Count("GET", l.Digest.String()); n != 0 {
				t.Errorf("%s: %d requests for a layer", dst, n)
			}
		}
		single, _ := w.single()
		w.copy(single, w.docker(fmt.Sprintf("plain%d:1", i)), nil)
		w.copy(w.docker(fmt.Sprintf("plain%d:1", i)), dst, &Options{Signatures: Signing{Referrers: true}}) // there are none
	}
	w.env.Trust = nil
	res, err := DryRun(t.Context(), w.env, w.ref(src), w.ref(w.docker("dry:1")), &Options{Signatures: Signing{Referrers: true}})
	if err != nil || res.Referrers != 5 || !strings.Contains(res.String(), "5 referrers") {
		t.Errorf("%+v, %v", res, err)
	}
}

// rule 59: a listing that lies adds nothing, and two copies that list at once lose nothing.
func TestReferrersListing(t *testing.T) {
	w := newWorld(t, 4)
	src, want := w.referred()
	w.copy(src, w.docker("a:1"), &Options{Signatures: Signing{Referrers: true}})
	w.withoutAPI("a", http.StatusNotFound)
	w.withoutAPI("b", http.StatusNotFound)
	s := w.situation(src)
	amd, arm := s.instances[0].doc.digest, s.instances[1].doc.digest
	sbom := want[amd][0]
	raw := w.reg.Manifest("a", sbom.String())
	index := manifest.NewIndex([]v1.Descriptor{
		{MediaType: v1.MediaTypeImageManifest, Digest: sbom, Size: int64(len(raw))},
		{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("gone"), Size: 4},
		{MediaType: v1.MediaTypeImageManifest, Digest: arm, Size: int64(len(s.instances[1].doc.raw))},
	})
	w.reg.AddManifest("a", registry.ReferrersTag(arm), v1.MediaTypeImageIndex, index)
	res := w.copy(w.docker("a:1"), w.docker("b:1"), &Options{Signatures: Signing{Referrers: true}})
	if got := w.referrersOf(w.docker("b:1")); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if !slices.ContainsFunc(res.Notes, func(n string) bool { return strings.HasPrefix(n, "3 referrers were left out") }) {
		t.Errorf("%q", res.Notes)
	}
	// Somebody else writes the tag without having seen what this copy wrote.
	tag := registry.ReferrersTag(amd)
	w.reg.AddManifest("a", tag, v1.MediaTypeImageIndex, manifest.NewIndex([]v1.Descriptor{{MediaType: v1.MediaTypeImageManifest, Digest: sbom, Size: int64(len(raw))}}))
	other := digest.FromString("of somebody else")
	w.front.Behave()
	w.front.Add(front.Rule{Method: http.MethodPut, Path: "/v2/b/manifests/" + tag, Times: 1, Do: func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(rw, r)
		w.reg.AddManifest("b", tag, v1.MediaTypeImageIndex, manifest.NewIndex([]v1.Descriptor{{MediaType: v1.MediaTypeImageManifest, Digest: other, Size: 1}}))
	}})
	w.withoutAPI("a", http.StatusNotFound)
	w.withoutAPI("b", http.StatusNotFound)
	w.copy(w.docker("a:1"), w.docker("b:1"), &Options{Signatures: Signing{Referrers: true}})
	list, err := manifest.ParseList(w.reg.Manifest("b", tag), "")
	if err != nil || len(list.Instances) != 2 || list.Instances[0].Digest != other || list.Instances[1].Digest != sbom {
		t.Errorf("%+v, %v", list, err)
	}
}

// rule 59: the referrers of a sha512 subject are listed under a tag that is no longer than one may be.
func TestReferrersTag(t *testing.T) {
	long := digest.SHA512.FromString("x")
	for d, want := range map[digest.Digest]string{
		digest.FromString("x"): "sha256-" + digest.FromString("x").Encoded(),
		long:                   "sha512-" + long.Encoded()[:64],
	} {
		got := registry.ReferrersTag(d)
		if got != want || !isReferrersTag(got) {
			t.Errorf("%s: %s", d, got)
		}
	}
	if isReferrersTag("latest") || isReferrersTag(registry.ReferrersTag(long)+".sig") {
		t.Error("another tag is one of referrers")
	}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/a/manifests/"+registry.ReferrersTag(long) {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		rw.Header().Set("Content-Type", v1.MediaTypeImageIndex)
		_, _ = rw.Write(manifest.NewIndex([]v1.Descriptor{{MediaType: v1.MediaTypeImageManifest, Digest: long, Size: 1}}))
	}))
	t.Cleanup(srv.Close)
	w := newWorld(t, 1)
	list, err := w.env.Registry.Repo(strings.TrimPrefix(srv.URL, "http://"), "a").Referrers(t.Context(), long)
	if err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// rule 59: what cosign keeps under tags made of a digest comes along too, and takes nothing away.
func TestDigestTags(t *testing.T) {
	w := newWorld(t, 4)
	b := w.build("tagged")
	amd := b.image("linux/amd64", algoGzip, small(t)...)
	src := b.name(amd, "x")
	att := b.attestation(amd)
	tag := registry.ReferrersTag(amd.Digest) + ".att"
	b.name(att, tag)
	o := &Options{Signatures: Signing{Referrers: true}}
	at := src
	for _, next := range []string{w.docker("a:1"), w.layout("out") + ":x", w.docker("b:1")} {
		w.copy(at, next, o)
		at = next
	}
	if raw := w.reg.Manifest("b", tag); digest.FromBytes(raw) != att.Digest {
		t.Errorf("%s", raw)
	}
	for _, again := range []string{w.docker("b:1"), w.layout("out") + ":x"} {
		if res := w.copy(src, again, o); len(res.Notes) != 0 {
			t.Errorf("%q", res.Notes)
		}
	}
	other := w.reg.AddManifest("b", tag, v1.MediaTypeImageIndex, manifest.NewIndex(nil))
	if res := w.copy(src, w.docker("b:1"), o); len(res.Notes) != 1 || !strings.Contains(res.Notes[0], other) || digest.FromBytes(w.reg.Manifest("b", tag)).String() != other {
		t.Errorf("%q", res.Notes)
	}
	if res := w.copy(src, w.docker("c:1"), &Options{Signatures: Signing{Referrers: true}, Compress: Compression{Algorithm: algoZstd}}); len(res.Notes) != 1 || w.reg.Manifest("c", tag) != nil {
		t.Errorf("%q", res.Notes)
	}
	if _, err := w.try(src, "dir:"+filepath.Join(w.dir, "d"), o); !errors.Is(err, ErrUsage) {
		t.Error(err)
	}
	wish, err := manifest.MustUse(digest.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.try(src, w.layout("sha512")+":x", &Options{Signatures: Signing{Referrers: true}, Digests: &wish}); !errors.Is(err, ErrPreserve) {
		t.Errorf("what nobody may edit under another algorithm: %v", err)
	}
	w.copy(src, w.docker("d:1"), nil)
	if w.reg.Manifest("d", tag) != nil {
		t.Error("copied without being asked for")
	}
}

func referrerSeeds() []string {
	d := digest.FromString("x")
	return []string{
		fmt.Sprintf(`{"subject":{"mediaType":"a/b","digest":%q,"size":1},"artifactType":"x/y","annotations":{"a":"b"}}`, d),
		`{}`, `{"subject":null}`, `{"subject":{"digest":"sha256:x"}}`, `{"subject":7}`, `{"subject":{}}`, `[]`, ``,
	}
}

// rule 59
func TestParseReferrer(t *testing.T) {
	for i, s := range referrerSeeds() {
		_, subject, err := parseReferrer([]byte(s))
		if want := i > 2; (err != nil) != want || (subject != "") != (i == 0) {
			t.Errorf("%s: %q, %v", s, subject, err)
		}
	}
	if _, _, err := parseReferrer(make([]byte, manifest.MaxManifestSize+1)); !errors.Is(err, manifest.ErrMalformed) {
		t.Error(err)
	}
}

func FuzzReferrer(f *testing.F) {
	for _, s := range referrerSeeds() {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, subject, err := parseReferrer(raw)
		if err == nil && subject != "" && manifest.ValidDigest(subject) != nil {
			t.Error(subject)
		}
		if err == nil {
			if _, err := json.Marshal((referrer{doc: made(raw, ""), head: h}).entry()); err != nil {
				t.Error(err)
			}
		}
	})
}
