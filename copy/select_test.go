package copy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

func plat(t testing.TB, s string) v1.Platform {
	t.Helper()
	p, err := manifest.ParsePlatform(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// taken writes a tree as t(aken) and -, with lists in brackets.
func taken(instances []instance) string {
	var b strings.Builder
	for _, in := range instances {
		switch {
		case in.list != nil && in.skipped:
			b.WriteString("-[" + taken(in.children) + "]")
		case in.list != nil:
			b.WriteString("t[" + taken(in.children) + "]")
		case in.skipped:
			b.WriteString("-")
		default:
			b.WriteString("t")
		}
	}
	return b.String()
}

// L10, L12, rule 6: what a selection takes of a list, nested lists included.
func TestPickInstances(t *testing.T) {
	entry := func(name, p string) instance {
		d := v1.Descriptor{Digest: digest.FromString(name)}
		if p != "" {
			pl := plat(t, p)
			d.Platform = &pl
		}
		return instance{desc: d}
	}
	hidden := entry("hidden", "unknown/unknown")
	hidden.desc.Annotations = map[string]string{manifest.AnnotationSentinel: "true", manifest.AnnotationSentinelPlatform: "linux/amd64"}
	tree := func() []instance {
		nested := entry("nested", "")
		nested.list = &manifest.List{}
		nested.children = []instance{entry("deep amd64", "linux/amd64"), entry("deep s390x", "linux/s390x")}
		return []instance{
			entry("amd64", "linux/amd64"), hidden, entry("v6", "linux/arm/v6"), entry("v7", "linux/arm/v7"),
			entry("arm64", "linux/arm64"), entry("attestation", "unknown/unknown"), entry("bare", ""), nested,
		}
	}
	named := func(names ...string) (out []digest.Digest) {
		for _, n := range names {
			out = append(out, digest.FromString(n))
		}
		return out
	}
	tests := []struct {
		platforms string
		digests   []digest.Digest
		indexOnly bool
		want      string
		err       string
	}{
		{want: "tttttttt[tt]"},
		{platforms: "linux/amd64", want: "tt-----t[t-]"}, // the hidden variant belongs to its platform
		{platforms: "linux/arm", want: "--tt----[--]"},   // all variants
		{platforms: "linux/arm/v7", want: "---t----[--]"},
		{platforms: "linux/arm64/v8", want: "----t---[--]"},
		{platforms: "linux/s390x linux/arm64", want: "----t--t[-t]"},
		{digests: named("attestation", "v6"), want: "--t--t--[--]"},
		{digests: named("nested"), want: "-------t[tt]"},
		{digests: named("deep s390x"), want: "-------t[-t]"},
		{platforms: "linux/arm64", digests: named("amd64", "arm64"), want: "t---t---[--]"}, // the union, once each
		{indexOnly: true, want: "--------[--]"},
		{platforms: "linux/amd64 linux/mips", err: "no instance is for linux/mips: not found (there is linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64, linux/s390x)"},
		{platforms: "linux/arm/v5", err: "no instance is for linux/arm/v5"},
		{platforms: "windows/amd64", err: "no instance is for windows/amd64"},
		{digests: named("amd64", "typo"), err: "no instance is " + digest.FromString("typo").String() + ": not found (there is sha256:"},
	}
	for _, tt := range tests {
		sel := Select{Digests: tt.digests, IndexOnly: tt.indexOnly}
		for p := range strings.FieldsSeq(tt.platforms) {
			sel.Platforms = append(sel.Platforms, plat(t, p))
		}
		got := tree()
		err := pick(got, sel)
		if tt.err != "" {
			if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q %v: %v", tt.platforms, tt.digests, err)
			}
			continue
		}
		if err != nil || taken(got) != tt.want {
			t.Errorf("%q %v: %s, want %s (%v)", tt.platforms, tt.digests, taken(got), tt.want, err)
		}
	}
}

func TestSelectCheck(t *testing.T) {
	amd := plat(t, "linux/amd64")
	some := Select{Platforms: []v1.Platform{amd}}
	for _, tt := range []struct {
		sel      Select
		platform *v1.Platform
		ok       bool
	}{
		{Select{}, nil, true}, {Select{}, &amd, true}, {some, nil, true}, {some, &amd, false},
		{Select{IndexOnly: true}, nil, true}, {Select{IndexOnly: true, Platforms: some.Platforms}, nil, false},
		{Select{Strip: true}, nil, false}, {Select{Strip: true, Platforms: some.Platforms}, nil, true},
	} {
		if err := tt.sel.check(tt.platform); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrUsage) {
			t.Errorf("%+v: %v", tt.sel, err)
		}
	}
}

// here says which instances of a list a place can be asked for.
func (w *world) here(ref string) (got []bool) {
	w.t.Helper()
	src, err := openSource(w.env, w.ref(ref))
	if err != nil {
		w.t.Fatal(err)
	}
	defer src.close()
	top, err := src.top(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	list, err := manifest.ParseList(top.raw, top.mediaType)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, d := range list.Instances {
		_, err := src.manifest(w.t.Context(), d)
		got = append(got, err == nil)
	}
	return got
}

// L11, rule 7: keep leaves a sparse list with the source's digest, strip leaves only what was copied.
func TestSparseAndStripped(t *testing.T) {
	w := newWorld(t, 4)
	src := w.multi(algoGzip)
	amd := []v1.Platform{plat(t, "linux/amd64")}
	places := func(name string) []string {
		return []string{w.docker(name + ":1"), w.layout(name) + ":x", "dir:" + t.TempDir(), "oci-archive:" + t.TempDir() + "/a.tar"}
	}
	for _, dst := range places("sparse") {
		res := w.copy(src, dst, &Options{Select: Select{Platforms: amd}})
		if !bytes.Equal(w.raw(dst), w.raw(src)) || res.Instances != 1 {
			t.Errorf("%s: other bytes than the source's, %d instances", dst, res.Instances)
		}
		if got := w.here(dst); !slices.Equal(got, []bool{true, false, false}) {
			t.Errorf("%s: instances %v", dst, got)
		}
	}
	for _, dst := range places("stripped") {
		w.copy(src, dst, &Options{Select: Select{Platforms: amd, Strip: true}})
		s := w.situation(dst)
		if len(s.instances) != 1 || s.instances[0].image == nil || s.list.Annotations["kept"] != "yes" {
			t.Errorf("%s: %d instances, annotations %v", dst, len(s.instances), s.list.Annotations)
		}
	}
	for _, dst := range places("only") {
		res := w.copy(src, dst, &Options{Select: Select{IndexOnly: true}}) // L10, L23
		if got := w.here(dst); res.Instances != 0 || !slices.Equal(got, []bool{false, false, false}) {
			t.Errorf("%s: %d instances, %v", dst, res.Instances, got)
		}
	}
	// Selections and edits go together: the entry that was left out stays as it is.
	w.copy(src, w.docker("edited:1"), &Options{Select: Select{Platforms: amd}, Compress: Compression{Algorithm: algoZstd}})
	before, after := w.listOf(src), w.listOf(w.docker("edited:1"))
	if before[0].Digest == after[0].Digest || before[1].Digest != after[1].Digest || before[2].Digest != after[2].Digest {
		t.Error("not exactly the copied instance was edited")
	}
}

func (w *world) listOf(ref string) []v1.Descriptor {
	w.t.Helper()
	l, err := manifest.ParseList(w.raw(ref), "")
	if err != nil {
		w.t.Fatal(err)
	}
	return l.Instances
}

func TestSelectIntoStore(t *testing.T) {
	w := newWorld(t, 4)
	src := w.multi(algoGzip)
	amd := []v1.Platform{plat(t, "linux/amd64")}
	for name, strip := range map[string]bool{"kept": false, "stripped": true} {
		res := w.copy(src, "store:"+name, &Options{Select: Select{Platforms: amd, Strip: strip}})
		records, top, err := w.env.Store.Resolve(w.ref("store:" + name).StoreName())
		if err != nil || len(records) != 1 || records[0].Platform != "linux/amd64" || records[0].List != top || top != res.Digest {
			t.Errorf("%s: %v %+v", name, err, records)
		}
		if same := bytes.Equal(w.raw("store:"+name), w.raw(src)); same == strip {
			t.Errorf("%s: the source's list: %v", name, same)
		}
	}
	// L10: the list alone is legal, and what is not there is said when it is asked for.
	w.copy(src, "store:none", &Options{Select: Select{IndexOnly: true}})
	if !bytes.Equal(w.raw("store:none"), w.raw(src)) {
		t.Error("not the source's list")
	}
	w.copy("store:none", w.layout("none")+":x", &Options{Select: Select{IndexOnly: true}})
	if _, err := w.try("store:none", w.layout("none")+":y", &Options{Platform: platform(t, "linux/arm64")}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an image of an index that came without any: %v", err)
	}
}

// L12: nothing is written when the selection does not fit.
func TestSelectRefused(t *testing.T) {
	w := newWorld(t, 4)
	single, _ := w.single()
	multi := w.multi(algoGzip)
	amd, mips := []v1.Platform{plat(t, "linux/amd64")}, []v1.Platform{plat(t, "linux/mips")}
	listDigest := digest.FromBytes(w.raw(multi))
	tests := []struct {
		src, dst string
		o        Options
		want     error
	}{
		{multi, "a:1", Options{Select: Select{Platforms: mips}}, ErrNotFound},
		{multi, "a:1", Options{Select: Select{Digests: []digest.Digest{digest.FromString("typo")}}}, ErrNotFound},
		{single, "a:1", Options{Select: Select{Platforms: append(mips, amd...)}}, ErrNotFound},
		{single, "a:1", Options{Select: Select{Digests: []digest.Digest{listDigest}}}, ErrNotFound},
		{single, "a:1", Options{Select: Select{IndexOnly: true}}, ErrUsage},
		{multi, "a:1", Options{Select: Select{IndexOnly: true, Strip: true}}, ErrUsage}, // rule 7: an empty image
		// L17, rule 19, rule 21: a list that must stay cannot lose entries.
		{multi, "a:1", Options{Select: Select{Platforms: amd, Strip: true}, Preserve: true}, ErrPreserve},
		{multi, "a@" + listDigest.String(), Options{Select: Select{Platforms: amd, Strip: true}}, ErrPreserve},
	}
	for i, tt := range tests {
		_, err := w.try(tt.src, w.docker(tt.dst), &tt.o)
		if !errors.Is(err, tt.want) {
			t.Errorf("%d: %v, want %v", i, err, tt.want)
		}
		if i == 5 && !strings.Contains(fmt.Sprint(err), "would create an empty image") {
			t.Errorf("no reason: %v", err)
		}
		if i == 6 && !strings.Contains(fmt.Sprint(err), "--preserve-digests was given") {
			t.Errorf("no reason: %v", err)
		}
	}
	if n := w.front.Count("POST", "") + w.front.Count("PUT", ""); n != 0 {
		t.Errorf("%d requests that write", n)
	}
	// Sparse is no edit, so the list may go where its digest is promised.
	w.copy(multi, w.docker("a@"+listDigest.String()), &Options{Select: Select{Platforms: amd}, Preserve: true})
}
