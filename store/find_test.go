package store

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

func storeDigest(d digest.Digest) manifest.Ref {
	return manifest.Ref{Transport: manifest.Store, Digest: d, Index: -1}
}

func storeRef(t testing.TB, s string) manifest.Ref {
	t.Helper()
	return must[manifest.Ref](t)(manifest.ParseRef("store:" + s))
}

// L32, L34, L27: a name, an ID, a digest, and a name with a digest all lead to the images that are meant, under any of
// their digests, and another repository's digest to none.
func TestFind(t *testing.T) {
	s := newStore(t)
	amd, arm, other := putImage(t, s, "linux/amd64"), putImage(t, s, "linux/arm64"), putImage(t, s, "linux/s390x")
	list := listOf(amd, arm)
	outer := listOf(image{Record{Manifest: list.Digest}, []RawManifest{list}})
	amd.record.List, arm.record.List = list.Digest, list.Digest
	ok(t, s.Commit(Commit{Records: []Record{amd.record, arm.record}, Name: "docker.io/library/both:1", Top: outer.Digest,
		Manifests: slices.Concat(amd.manifests, arm.manifests, []RawManifest{list, outer})}))
	ok(t, s.Commit(Commit{Records: []Record{other.record}, Manifests: other.manifests, Name: "docker.io/library/one:1"}))
	at := func(d digest.Digest) string { return "@" + d.String() }
	for _, tt := range []struct {
		ref  string
		top  digest.Digest
		want []image
	}{
		{"both:1", outer.Digest, []image{amd, arm}},
		{"one:1", other.record.Manifest, []image{other}},
		{at(outer.Digest), outer.Digest, []image{amd, arm}},
		{at(list.Digest), list.Digest, []image{amd, arm}},
		{"both" + at(list.Digest), list.Digest, []image{amd, arm}},
		{"both" + at(arm.record.Manifest), arm.record.Manifest, []image{arm}},
		{"both:other" + at(arm.record.Manifest), arm.record.Manifest, []image{arm}}, // the digest wins over the tag
		{at(arm.record.Config), arm.record.Manifest, []image{arm}},
		{"both" + at(arm.record.Config), arm.record.Manifest, []image{arm}},
		{arm.record.Config.String(), arm.record.Manifest, []image{arm}},
		{arm.record.Config.Encoded(), arm.record.Manifest, []image{arm}},
		{arm.record.Config.Encoded()[:12], arm.record.Manifest, []image{arm}},
		{"both:2", "", nil},
		{"one" + at(arm.record.Manifest), "", nil},
		{at(digest.FromString("nothing")), "", nil},
		{arm.record.Manifest.Encoded()[:12], "", nil}, // an ID is the config's
		{"000000000000", "", nil},
	} {
		found, err := s.Find(storeRef(t, tt.ref))
		if tt.want == nil {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %+v, %v", tt.ref, found, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.ref, err)
			continue
		}
		var got, want []digest.Digest
		for _, r := range found.Records {
			got = append(got, r.Manifest)
		}
		for _, im := range tt.want {
			want = append(want, im.record.Manifest)
		}
		slices.Sort(want)
		if found.Top != tt.top || !slices.Equal(got, want) {
			t.Errorf("%s: %s %v, want %s %v", tt.ref, found.Top, got, tt.top, want)
		}
	}
}

// A name that looks like an ID is a name first; an ID that fits two images is none.
func TestFindID(t *testing.T) {
	s := newStore(t)
	im := putImage(t, s, "linux/amd64")
	id := im.record.Config.Encoded()[:12]
	ok(t, s.Commit(Commit{Records: []Record{im.record}, Manifests: im.manifests, Name: "docker.io/library/x:1"}))
	named := putImage(t, s, "linux/arm64")
	ok(t, s.Commit(Commit{Records: []Record{named.record}, Manifests: named.manifests, Name: "docker.io/library/" + id + ":latest"}))
	if f := must[*Found](t)(s.Find(storeRef(t, id))); f.Top != named.record.Manifest {
		t.Errorf("%s is %s", id, f.Top)
	}
	ok(t, s.RemoveName("docker.io/library/"+id+":latest"))
	if f := must[*Found](t)(s.Find(storeRef(t, id))); f.Top != im.record.Manifest {
		t.Errorf("%s is %s", id, f.Top)
	}
	_, err := s.Find(manifest.Ref{Transport: manifest.Store, ID: "", Index: -1})
	wantIs(t, err, ErrNotFound)
	c := &catalog{records: map[digest.Digest]Record{"a": {Manifest: "a", Config: "sha256:0000000000001"}, "b": {Manifest: "b", Config: "sha256:0000000000002"}}}
	_, err = c.byID("000000000000")
	wantIs(t, err, ErrAmbiguous)
}

// L32: the image that fits the platform, by its variant too, or none, with what is there instead.
func TestChoose(t *testing.T) {
	found := func(platforms ...string) *Found {
		f := &Found{what: "x"}
		for _, p := range platforms {
			trust := manifest.TarOnly
			if v, ok := strings.CutPrefix(p, "variant "); ok {
				p, trust = v, manifest.TOCOnly
			}
			f.Records = append(f.Records, Record{Manifest: digest.FromString(p + trust.String()), Platform: p, Trust: trust.String()})
		}
		return f
	}
	for _, tt := range []struct {
		have   []string
		want   string
		prefer manifest.Prefer
		at     int // -1: none
	}{
		{[]string{"linux/amd64", "linux/arm64"}, "linux/arm64", manifest.PreferVariant, 1},
		{[]string{"linux/arm/v6", "linux/arm/v7"}, "linux/arm/v7", manifest.PreferVariant, 1},
		{[]string{"linux/arm/v6", "linux/arm/v8"}, "linux/arm/v7", manifest.PreferVariant, 0},
		{[]string{"linux/arm64"}, "linux/arm64/v8", manifest.PreferVariant, 0},
		{[]string{"linux/amd64", "variant linux/amd64"}, "linux/amd64", manifest.PreferVariant, 1},
		{[]string{"linux/amd64", "variant linux/amd64"}, "linux/amd64", manifest.PreferPlain, 0},
		{[]string{"linux/amd64"}, "linux/amd64", manifest.OnlyVariant, -1},
		{[]string{"variant linux/amd64", "linux/amd64"}, "linux/amd64", manifest.OnlyPlain, 1},
		{[]string{"variant linux/amd64"}, "linux/amd64", manifest.OnlyPlain, -1},
		{[]string{"variant linux/amd64"}, "linux/amd64", manifest.PreferPlain, 0},
		{[]string{"linux/arm64", "linux/s390x"}, "linux/amd64", manifest.PreferVariant, -1},
		{nil, "linux/amd64", manifest.PreferVariant, -1},
	} {
		f := found(tt.have...)
		got, err := f.Choose(must[v1.Platform](t)(manifest.ParsePlatform(tt.want)), tt.prefer)
		if tt.at < 0 {
			if !errors.Is(err, ErrNotFound) || len(tt.have) > 0 && !strings.Contains(err.Error(), strings.TrimPrefix(tt.have[0], "variant ")) {
				t.Errorf("%v for %s: %+v, %v", tt.have, tt.want, got, err)
			}
			continue
		}
		if err != nil || got.Manifest != f.Records[tt.at].Manifest {
			t.Errorf("%v for %s: %+v, %v", tt.have, tt.want, got, err)
		}
	}
}

// L35: a name goes alone, an ID or digest with all names, and what somebody shows keeps one.
func TestRemove(t *testing.T) {
	begin := func(t *testing.T) (*Store, image, image, RawManifest) {
		s := newStore(t)
		amd, arm := putImage(t, s, "linux/amd64"), putImage(t, s, "linux/arm64")
		list := listOf(amd, arm)
		amd.record.List, arm.record.List = list.Digest, list.Digest
		all := slices.Concat(amd.manifests, arm.manifests, []RawManifest{list})
		ok(t, s.Commit(Commit{Records: []Record{amd.record, arm.record}, Manifests: all, Name: "docker.io/library/list:1", Top: list.Digest}))
		ok(t, s.Commit(Commit{Records: []Record{amd.record}, Manifests: all, Name: "docker.io/library/amd:1"}))
		ok(t, s.Tag("docker.io/library/amd:2", must[*Found](t)(s.Find(storeRef(t, "amd:1")))))
		return s, amd, arm, list
	}
	for _, tt := range []struct {
		remove  func(amd, arm image, list RawManifest) string
		names   string
		records int
	}{
		{func(_, _ image, _ RawManifest) string { return "amd:1" }, "amd:2 list:1", 2},
		{func(amd, _ image, _ RawManifest) string { return amd.record.Config.Encoded()[:12] }, "list:1", 1},
		{func(amd, _ image, _ RawManifest) string { return "@" + amd.record.Manifest.String() }, "list:1", 1},
		{func(amd, _ image, _ RawManifest) string { return "amd@" + amd.record.Manifest.String() }, "list:1", 1},
		{func(_, _ image, list RawManifest) string { return "@" + list.Digest.String() }, "", 0},
	} {
		s, amd, arm, list := begin(t)
		what := tt.remove(amd, arm, list)
		wouldNames, wouldRecords, err := s.WouldRemove(storeRef(t, what))
		ok(t, err)
		if got := must[[]Record](t)(s.Records()); len(got) != 2 {
			t.Errorf("%d records after WouldRemove", len(got))
		}
		ok(t, s.Remove(storeRef(t, what)))
		var names []string
		for name := range must[map[string]digest.Digest](t)(s.Names()) {
			names = append(names, strings.TrimPrefix(name, "docker.io/library/"))
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != tt.names {
			t.Errorf("rm %s left the names %q, want %q", what, got, tt.names)
		}
		if got := must[[]Record](t)(s.Records()); len(got) != tt.records {
			t.Errorf("rm %s left %d records, want %d", what, len(got), tt.records)
		}
		if len(wouldNames)+len(names) != 3 || len(wouldRecords)+tt.records != 2 {
			t.Errorf("rm %s: foretold %q and %q", what, wouldNames, wouldRecords)
		}
		_, _, err = s.WouldRemove(storeRef(t, what))
		wantIs(t, err, ErrNotFound)
		wantIs(t, s.Remove(storeRef(t, what)), ErrNotFound)
		wantClean(t, s)
	}

	s, amd, _, _ := begin(t)
	ok(t, s.Pin("mount/1/mnt", PinTarget{Manifests: []digest.Digest{amd.record.Manifest}}, PinOptions{Process: true}))
	wantIs(t, s.Remove(storeRef(t, amd.record.Config.Encoded())), ErrInUse)
	ok(t, s.Remove(storeRef(t, "list:1")))
	ok(t, s.Remove(storeRef(t, "amd:1")))
	wantIs(t, s.Remove(storeRef(t, "amd:2")), ErrInUse)
	wantIs(t, s.RemoveName("docker.io/library/amd:2"), ErrInUse)
	ok(t, s.Unpin("mount/1/mnt"))
	ok(t, s.Remove(storeRef(t, "amd:2")))
}

// L27: images of one list gather under a name; with the second the name stands for the list, and another list's image
// takes it.
func TestNameOfSeveralPlatforms(t *testing.T) {
	s := newStore(t)
	amd, arm := putImage(t, s, "linux/amd64"), putImage(t, s, "linux/arm64")
	list := listOf(amd, arm)
	pull := func(im image, list RawManifest) {
		t.Helper()
		im.record.List = list.Digest
		ok(t, s.Commit(Commit{Records: []Record{im.record}, Manifests: append(im.manifests, list), Name: "x"}))
	}
	want := func(top digest.Digest, n int) {
		t.Helper()
		records, got, err := s.Resolve("x")
		if err != nil || got != top || len(records) != n {
			t.Errorf("stands for %s with %d images (%v), want %s with %d", got, len(records), err, top, n)
		}
	}
	pull(amd, list)
	want(amd.record.Manifest, 1)
	pull(amd, list)
	want(amd.record.Manifest, 1)
	pull(arm, list)
	want(list.Digest, 2)
	pull(amd, list)
	want(list.Digest, 2)
	newer := listOf(amd)
	pull(amd, newer)
	want(amd.record.Manifest, 1)
	ok(t, s.Commit(Commit{Manifests: []RawManifest{newer}, Top: newer.Digest, Name: "x"}))
	want(newer.Digest, 1)
	if got := must[[]Record](t)(s.Records()); len(got) != 2 {
		t.Errorf("%d records", len(got))
	}
	wantClean(t, s)
}
