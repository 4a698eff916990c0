package copy

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
)

// planned is what a plan says, in short: for each instance p(lain), v(ariant), e(dited), s(tripped), "-" for an entry that
// leaves, "k" for one that stays without its instance, and brackets around what is in a list in the list.
func planned(images []imagePlan) []string {
	var out []string
	for _, ip := range images {
		s := ""
		if ip.skipped && ip.plain {
			out = append(out, "k")
			continue
		}
		if ip.list != nil {
			s = "[" + strings.Join(planned(ip.children), " ") + "]"
		}
		if ip.plain {
			s += "p"
		}
		if ip.variant != "" {
			s += "v"
		}
		if ip.edited() {
			s += "e"
		}
		if ip.strip {
			s += "s"
		}
		if s == "" {
			s = "-"
		}
		out = append(out, s)
	}
	return out
}

func TestPlan(t *testing.T) { // S10, S12, S13, S28, rule 8, rule 10, rule 19, rule 21, L17
	w := newWorld(t, 4)
	single, tars := w.single()
	multi := w.multi(algoGzip)
	chunkedMulti := w.multi(algoChunked)
	b := w.build("forms")
	chunkedOne := b.name(b.image("linux/amd64", algoChunked, tars...), "chunked")
	artifact := b.name(b.attestation(v1.Descriptor{}), "artifact")
	w.copy(chunkedOne, w.layout("made")+":only", &Options{Sentinel: "only"})
	w.copy(chunkedOne, w.layout("made")+":hidden", &Options{Sentinel: "hidden"})
	only, hidden := w.layout("made")+":only", w.layout("made")+":hidden"
	nested := w.nest()
	some := Select{Platforms: []v1.Platform{plat(t, "linux/s390x")}}
	strip := Select{Platforms: some.Platforms, Strip: true}
	c := func(algo string) Compression { return Compression{Algorithm: algo} }
	type place struct {
		toStore, fromStore bool
		flattened          *document
		digested           digest.Digest
	}
	blobs, intoStore, outOfStore := place{}, place{toStore: true}, place{fromStore: true}
	digested, flat := place{digested: "sha256:x"}, place{flattened: &document{}}
	tests := []struct {
		name string
		src  string
		at   place
		o    Options
		top  topAction
		want []string
		err  error
	}{
		{"a single image stays", single, blobs, Options{}, topKeep, []string{"p"}, nil},
		{"also when digests are promised", single, blobs, Options{Preserve: true}, topKeep, []string{"p"}, nil},
		{"a list stays", multi, blobs, Options{}, topKeep, []string{"p", "p", "p"}, nil},
		{"an artifact stays", artifact, blobs, Options{Compress: c(algoZstd)}, topKeep, []string{"p"}, nil},
		{"another compression", single, blobs, Options{Compress: c(algoZstd)}, topImage, []string{"pe"}, nil},
		{"the same compression", single, blobs, Options{Compress: c(algoGzip)}, topKeep, []string{"p"}, nil},
		{"the same compression, promised", single, blobs, Options{Compress: c(algoGzip), Preserve: true}, topKeep, []string{"p"}, nil},
		{"another compression, promised", single, blobs, Options{Compress: c(algoZstd), Preserve: true}, 0, nil, ErrPreserve},
		{"another compression, digested", single, digested, Options{Compress: c(algoZstd)}, 0, nil, ErrPreserve},
		{"a list encoded", multi, blobs, Options{Compress: c(algoNone)}, topList, []string{"pe", "pe", "p"}, nil},
		{"one image of a list", single, flat, Options{}, topKeep, []string{"p"}, nil},
		{"one image of a list, promised", single, flat, Options{Preserve: true}, 0, nil, ErrPreserve},

		{"zstd:chunked brings a variant", single, blobs, Options{Compress: c(algoChunked)}, topWrap, []string{"pve"}, nil},
		{"unless told not to", single, blobs, Options{Compress: c(algoChunked), Sentinel: "none"}, topImage, []string{"pe"}, nil},
		{"only the variant", single, blobs, Options{Compress: c(algoChunked), Sentinel: "only"}, topImage, []string{"ve"}, nil},
		{"variants in a list", multi, blobs, Options{Compress: c(algoChunked)}, topList, []string{"pve", "pve", "p"}, nil},
		{"only variants in a list", multi, blobs, Options{Compress: c(algoChunked), Sentinel: "only"}, topList, []string{"ve", "ve", "-"}, nil},
		{"chunked already", chunkedMulti, blobs, Options{Sentinel: "upstream"}, topList, []string{"pv", "pv", "p"}, nil},
		{"chunked already, promised: no variant by default", chunkedOne, blobs, Options{Compress: c(algoChunked), Preserve: true}, topKeep, []string{"p"}, nil},
		{"chunked already, promised: a variant by name", chunkedOne, blobs, Options{Sentinel: "hidden", Preserve: true}, 0, nil, ErrPreserve},
		{"no TOC, no variant", single, blobs, Options{Sentinel: "hidden"}, 0, nil, ErrUsage},
		{"one variant is enough (S10)", hidden, blobs, Options{Compress: c(algoChunked)}, topKeep, []string{"p", "p"}, nil},
		{"of a variant there is no other form", only, blobs, Options{Compress: c(algoChunked)}, topKeep, []string{"p"}, nil},
		{"the plain one leaves", hidden, blobs, Options{Sentinel: "only"}, topList, []string{"-", "v"}, nil},
		{"a variant stays as it is", only, blobs, Options{Preserve: true}, topKeep, []string{"p"}, nil},
		{"a variant loses its tables of contents", only, blobs, Options{Compress: c(algoGzip)}, topImage, []string{"pes"}, nil},
		{"the same, promised (S28)", only, blobs, Options{Compress: c(algoGzip), Preserve: true}, 0, nil, ErrPreserve},
		{"the same, digested", only, digested, Options{Compress: c(algoGzip)}, 0, nil, ErrPreserve},
		{"a variant keeps its tables of contents", only, blobs, Options{Compress: c(algoZstd)}, topKeep, []string{"p"}, nil},
		{"what would be the plain image again leaves", hidden, blobs, Options{Compress: c(algoGzip)}, topList, []string{"pe", "-"}, nil},
		{"no layout fits layers without tables of contents", hidden, blobs, Options{Compress: c(algoGzip), Sentinel: "hidden"}, 0, nil, ErrUsage},
		{"a variant alone, hidden by name", only, blobs, Options{Sentinel: "hidden"}, topWrap, []string{"pves"}, nil},
		{"a hidden one is hidden", hidden, blobs, Options{Sentinel: "hidden"}, topKeep, []string{"p", "p"}, nil},
		{"a hidden one in the upstream layout", hidden, blobs, Options{Sentinel: "upstream"}, topList, []string{"p", "ves"}, nil},

		{"into the store", multi, intoStore, Options{}, topKeep, []string{"p", "p", "p"}, nil},
		{"the store has no blobs to encode", multi, intoStore, Options{Compress: c(algoZstd)}, 0, nil, ErrUsage},
		{"the store adds no variant", chunkedOne, intoStore, Options{Sentinel: "only"}, 0, nil, ErrUsage},
		{"no variant is fine", single, intoStore, Options{Sentinel: "none"}, topKeep, []string{"p"}, nil},
		{"out of the store", single, outOfStore, Options{}, 0, nil, ErrPreserve},
		{"out of the store, encoded", single, outOfStore, Options{Compress: c(algoGzip)}, topImage, []string{"pe"}, nil},
		{"out of the store, promised", single, outOfStore, Options{Compress: c(algoGzip), Preserve: true}, 0, nil, ErrPreserve},
		{"a variant out of the store", only, outOfStore, Options{Compress: c(algoChunked)}, topWrap, []string{"pves"}, nil},
		{"from store to store", single, place{fromStore: true, toStore: true}, Options{}, topKeep, []string{"p"}, nil},

		{"a list in the list stays", nested, blobs, Options{}, topKeep, []string{"p", "[p p p]p", "p"}, nil},
		{"an edit inside", nested, blobs, Options{Compress: c(algoZstd)}, topList, []string{"pe", "[pe pe p]p", "pe"}, nil},
		{"variants inside", nested, blobs, Options{Compress: c(algoChunked)}, topList, []string{"pve", "[pve pve p]p", "pe"}, nil}, // one variant for a platform
		{"a selection keeps the list", nested, blobs, Options{Select: some}, topKeep, []string{"k", "[k p k]p", "k"}, nil},
		{"also when digests are promised", nested, blobs, Options{Select: some, Preserve: true}, topKeep, []string{"k", "[k p k]p", "k"}, nil},
		{"a selection strips the list", nested, blobs, Options{Select: strip}, topList, []string{"-", "[- p -]p", "-"}, nil},
		{"strip, promised", nested, blobs, Options{Select: strip, Preserve: true}, 0, nil, ErrPreserve},
		{"strip, digested", nested, digested, Options{Select: strip}, 0, nil, ErrPreserve},
		{"strip into the store", nested, intoStore, Options{Select: strip}, topList, []string{"-", "[- p -]p", "-"}, nil},
		{"the index only", multi, blobs, Options{Select: Select{IndexOnly: true}}, topKeep, []string{"k", "k", "k"}, nil},
		{"the index only, stripped", multi, blobs, Options{Select: Select{IndexOnly: true, Strip: true}}, 0, nil, ErrUsage},

		{"no such layout", single, blobs, Options{Sentinel: "middle"}, 0, nil, ErrUsage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := w.situation(tt.src)
			if err := pick(s.instances, tt.o.Select); err != nil {
				t.Fatal(err)
			}
			s.strip = tt.o.Select.Strip
			s.toStore, s.encoded, s.flattened, s.digested = tt.at.toStore, !tt.at.fromStore, tt.at.flattened, tt.at.digested
			p, err := plan(s, &tt.o)
			if tt.err != nil {
				if !errors.Is(err, tt.err) {
					t.Fatalf("got %v, want %v", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if p.top != tt.top || !slices.Equal(planned(p.images), tt.want) {
				t.Errorf("top %d %v, want %d %v", p.top, planned(p.images), tt.top, tt.want)
			}
		})
	}
}

func TestEncodeLayer(t *testing.T) { // rule 41
	toc := &manifest.TOCRef{TarSplit: manifest.Range{Off: 1, Len: 1}}
	layer := func(mediaType string, toc *manifest.TOCRef, b manifest.Binding) manifest.Layer {
		return manifest.Layer{Descriptor: v1.Descriptor{MediaType: mediaType}, TOC: toc, Binding: b}
	}
	gzip := layer(v1.MediaTypeImageLayerGzip, nil, manifest.BindTar)
	zstd := layer(v1.MediaTypeImageLayerZstd, nil, manifest.BindTar)
	withTOC := layer(v1.MediaTypeImageLayerZstd, toc, manifest.BindTar)
	sentinel := layer(manifest.SentinelTypeOCI, nil, manifest.BindSentinel)
	tests := []struct {
		l     manifest.Layer
		algo  string
		blobs bool
		want  bool
	}{
		{gzip, "", true, false}, {gzip, algoGzip, true, false}, {gzip, algoZstd, true, true}, {gzip, algoChunked, true, true}, {gzip, algoNone, true, true},
		{zstd, algoZstd, true, false}, {zstd, algoChunked, true, true}, {zstd, algoGzip, true, true},
		{withTOC, algoZstd, true, false}, {withTOC, algoChunked, true, false}, {withTOC, algoGzip, true, true},
		{sentinel, algoGzip, true, false}, {sentinel, "", false, false},
		{gzip, "", false, true}, {gzip, algoGzip, false, true}, {withTOC, algoChunked, false, true},
		{layer("application/vnd.in-toto+json", nil, manifest.BindTar), algoZstd, true, false},
	}
	for _, tt := range tests {
		if got := encodeLayer(tt.l, Compression{Algorithm: tt.algo}, tt.blobs); got != tt.want {
			t.Errorf("encodeLayer(%s TOC=%v, %q, blobs=%v) = %v", tt.l.MediaType, tt.l.TOC != nil, tt.algo, tt.blobs, got)
		}
		anew := tt.algo != "" && tt.l.Binding != manifest.BindSentinel && manifest.IsLayer(tt.l.MediaType)
		if got := encodeLayer(tt.l, Compression{Algorithm: tt.algo, Anew: true}, tt.blobs); got != (anew || tt.want) {
			t.Errorf("encodeLayer(%s TOC=%v, %q, blobs=%v) anew = %v", tt.l.MediaType, tt.l.TOC != nil, tt.algo, tt.blobs, got)
		}
	}
}

func TestWayOf(t *testing.T) { // rule 34, S17, S19, S20, S32, rule 68
	provable := manifest.Layer{TOC: &manifest.TOCRef{TarSplit: manifest.Range{Off: 1, Len: 1}}}
	noSplit := manifest.Layer{TOC: &manifest.TOCRef{}}
	tests := []struct {
		l      manifest.Layer
		trust  manifest.Trust
		ranges bool
		want   layerWay
		err    error
	}{
		{provable, manifest.TOCOnly, true, byTOC, nil},
		{provable, manifest.TOCOnly, false, 0, registry.ErrNoRanges},
		{provable, manifest.TOCUnbound, true, byTOCVerified, nil},
		{provable, manifest.TOCUnbound, false, byTar, nil},
		{noSplit, manifest.TarOnly, true, byTar, nil},
		{manifest.Layer{}, manifest.TarOnly, true, byTar, nil},
		{manifest.Layer{}, manifest.TarOnly, false, byTar, nil},
	}
	for i, tt := range tests {
		got, err := wayOf(tt.l, tt.trust, tt.ranges)
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%d: %v %v", i, got, err)
		}
	}
}

func TestParseCompression(t *testing.T) {
	good := map[string]Compression{
		"": {}, "gzip": {Algorithm: algoGzip}, "gzip:9": {Algorithm: algoGzip, Level: 9}, "zstd": {Algorithm: algoZstd}, "zstd:22": {Algorithm: algoZstd, Level: 22},
		"zstd:chunked": {Algorithm: algoChunked}, "zstd:chunked:7": {Algorithm: algoChunked, Level: 7}, "none": {Algorithm: algoNone},
	}
	for s, want := range good {
		if got, err := ParseCompression(s); err != nil || got != want {
			t.Errorf("%q: %+v %v", s, got, err)
		}
	}
	for _, s := range []string{"bzip2", "gzip:10", "gzip:0", "zstd:23", "zstd:-1", "zstd:chunkedx", "zstd:chunked:x", "none:1", ":3", "zstd:chunked:3:3"} {
		if got, err := ParseCompression(s); !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %+v %v", s, got, err)
		}
	}
}

func TestAssemble(t *testing.T) {
	doc := func(s string) document { return made([]byte(s), v1.MediaTypeImageManifest) }
	plain, variant := doc(`{"plain":1}`), doc(`{"variant":1}`)
	amd := v1.Platform{OS: "linux", Architecture: "amd64"}
	kept := doc(`{"kept":1}`)
	listDoc := made(manifest.NewIndex([]v1.Descriptor{descriptorOf(kept)}), v1.MediaTypeImageIndex)
	l, err := manifest.ParseList(listDoc.raw, listDoc.mediaType)
	if err != nil {
		t.Fatal(err)
	}
	both := written{plain: &plain, variant: &variant, platform: amd}
	edited := imagePlan{instance: instance{desc: descriptorOf(kept)}, encode: []bool{true}, plain: true}

	top, err := assemble(situation{top: kept}, &copyPlan{top: topKeep}, nil)
	if err != nil || !bytes.Equal(top.raw, kept.raw) {
		t.Errorf("keep: %s %v", top.raw, err)
	}
	top, err = assemble(situation{}, &copyPlan{top: topImage}, []written{both})
	if err != nil || top.digest != variant.digest {
		t.Errorf("a single variant: %v %v", top.digest, err)
	}
	top, err = assemble(situation{}, &copyPlan{top: topWrap, layout: manifest.LayoutHidden}, []written{{plain: &plain, platform: amd}})
	if err != nil || top.digest != plain.digest {
		t.Errorf("a wrap whose variant was impossible: %v %v", top.digest, err)
	}
	check := func(name string, top document, err error, want ...digest.Digest) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		got, err := manifest.ParseList(top.raw, top.mediaType)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		var digests []digest.Digest
		for _, d := range got.Instances {
			digests = append(digests, d.Digest)
		}
		if !slices.Equal(digests, want) {
			t.Errorf("%s: %v, want %v", name, digests, want)
		}
	}
	top, err = assemble(situation{}, &copyPlan{top: topWrap, layout: manifest.LayoutHidden}, []written{both})
	check("wrap", top, err, plain.digest, variant.digest)
	p := &copyPlan{top: topList, layout: manifest.LayoutUpstream, forms: []string{l.MediaType}, images: []imagePlan{edited}}
	top, err = assemble(situation{list: l}, p, []written{both})
	check("list with a variant", top, err, plain.digest, variant.digest)
	top, err = assemble(situation{list: l}, p, []written{{plain: &plain, platform: amd}})
	check("list", top, err, plain.digest)
	if _, err = assemble(situation{}, &copyPlan{}, nil); err == nil {
		t.Error("no action is no plan")
	}
}
