package manifest

import (
	"errors"
	"maps"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// The annotations of the real layer in spec/zstd-chunked.md's appendix.
func realLayer() v1.Descriptor {
	return v1.Descriptor{
		MediaType: v1.MediaTypeImageLayerZstd,
		Digest:    "sha256:7345beb30cfccf5a3670b7a3d2302c873753ca31f826e58d14acd23072a8e581",
		Size:      2752,
		Annotations: map[string]string{
			annTOCDigest:   "sha256:f8ef576c48252adc3ee352e58233b245e81d4a05b2987bf1ed19faf0e61533d3",
			annTOCPosition: "925:852:2507:1",
			annTarSplit:    "1785:895:14813",
		},
	}
}

func TestTOCRefOf(t *testing.T) {
	ref, err := TOCRefOf(realLayer())
	if err != nil {
		t.Fatal(err)
	}
	want := TOCRef{
		Digest: "sha256:f8ef576c48252adc3ee352e58233b245e81d4a05b2987bf1ed19faf0e61533d3",
		TOC:    Range{925, 852}, TOCRawLen: 2507,
		TarSplit: Range{1785, 895}, TarSplitRawLen: 14813,
		Dialect: DialectContainers,
	}
	if *ref != want {
		t.Errorf("got %+v, want %+v", *ref, want)
	}
	if !maps.Equal(ref.Annotations(), realLayer().Annotations) {
		t.Errorf("Annotations: %v", ref.Annotations())
	}
}

// edited returns the real layer with annotations set, or removed if "".
func edited(kv ...string) v1.Descriptor {
	l := realLayer()
	for i := 0; i < len(kv); i += 2 {
		l.Annotations[kv[i]] = kv[i+1]
		if kv[i+1] == "" {
			delete(l.Annotations, kv[i])
		}
	}
	return l
}

func TestTOCRefOfRules(t *testing.T) {
	sum, pos := realLayer().Annotations[annTOCDigest], "925:852:2507:1"
	const sha512 = "sha512:9d544b121759ec001bd779b53a49138846a15be4af3b628ac5d14b744f8f9c898cf960fb2159719e7f0054c1cdafdce4f0474f90eba247f54b3f223e9e9286ad"
	for _, tt := range []struct {
		name  string
		layer v1.Descriptor
		want  error // nil: found
		none  bool
	}{
		{"no annotations", v1.Descriptor{Size: 10}, nil, true},
		{"estargz only", edited(annTOCDigest, "", annEStargz, sum), nil, true},
		{"position alone", edited(annTOCDigest, ""), nil, true},
		{"sha512", edited(annTOCDigest, sha512), nil, false},
		{"stargz spelling", edited(annTOCDigest, "", annTOCPosition, "", annStargzTOCDigest, sum, annStargzTOCPosition, pos, annEStargz, sum), nil, false},
		{"both spellings alike", edited(annStargzTOCDigest, sum, annStargzTOCPosition, pos), nil, false},
		{"without tar-split", edited(annTarSplit, ""), nil, false},
		{"tar-split before TOC (M21)", edited(annTarSplit, "10:915:14813"), nil, false},
		{"deprecated digest is ignored", edited(annTarSplitDigest, "nonsense"), nil, false},

		{"M1 both kinds", edited(annEStargz, sum), ErrMalformed, false},
		{"M1 two spellings differ", edited(annStargzTOCDigest, sha512, annStargzTOCPosition, pos), ErrMalformed, false},
		{"M1 two positions differ", edited(annStargzTOCDigest, sum, annStargzTOCPosition, "925:851:2507:1"), ErrMalformed, false},
		{"M2 no digest", edited(annTOCDigest, "sha256:abc"), ErrMalformed, false},
		{"M2 empty digest", func() v1.Descriptor { l := realLayer(); l.Annotations[annTOCDigest] = ""; return l }(), ErrMalformed, false},
		{"M2 algorithm", edited(annTOCDigest, "blake3:"+someDigest[7:]), ErrUnsupported, false},
		{"M3 no position", edited(annTOCPosition, ""), ErrMalformed, false},
		{"M3 three numbers", edited(annTOCPosition, "925:852:2507"), ErrMalformed, false},
		{"M3 trailing garbage", edited(annTOCPosition, pos+"x"), ErrMalformed, false},
		{"M3 five numbers", edited(annTOCPosition, pos+":1"), ErrMalformed, false},
		{"M3 type 2", edited(annTOCPosition, "925:852:2507:2"), ErrMalformed, false},
		{"M3 plus sign", edited(annTOCPosition, "+925:852:2507:1"), ErrMalformed, false},
		{"M3 space", edited(annTOCPosition, " 925:852:2507:1"), ErrMalformed, false},
		{"M3 tar-split garbage", edited(annTarSplit, "1785:895:14813:1"), ErrMalformed, false},
		{"M4 raw too big", edited(annTOCPosition, "925:852:1073741825:1"), ErrUnsupported, false},
		{"M5 behind the blob", edited(annTOCPosition, "2000:852:2507:1"), ErrMalformed, false},
		{"M5 overlap", edited(annTarSplit, "1700:895:14813"), ErrMalformed, false},
		{"M5 empty", edited(annTOCPosition, "925:0:2507:1"), ErrMalformed, false},
		{"M5 raw 0", edited(annTOCPosition, "925:852:0:1"), ErrMalformed, false},
		{"M17 negative", edited(annTOCPosition, "-1:852:2507:1"), ErrMalformed, false},
		{"M17 overflow", edited(annTOCPosition, "9223372036854775807:852:2507:1"), ErrMalformed, false},
		{"M17 beyond int64", edited(annTOCPosition, "9223372036854775808:852:2507:1"), ErrMalformed, false},
		{"M20 tar-split longer than the blob", edited(annTarSplit, "1785:99999999999:14813"), ErrMalformed, false},
		{"M20 tar-split raw too big", edited(annTarSplit, "1785:895:1073741825"), ErrUnsupported, false},
	} {
		ref, err := TOCRefOf(tt.layer)
		switch {
		case tt.want != nil && !errors.Is(err, tt.want):
			t.Errorf("%s: %+v, %v; want %v", tt.name, ref, err, tt.want)
		case tt.want != nil && ref != nil:
			t.Errorf("%s: a reference beside the error", tt.name)
		case tt.want == nil && (err != nil || tt.none != (ref == nil)):
			t.Errorf("%s: %+v, %v", tt.name, ref, err)
		}
	}
	if ref, err := TOCRefOf(edited(annTOCDigest, "", annStargzTOCDigest, sum, annStargzTOCPosition, pos)); err != nil ||
		ref.Dialect != DialectStargz || ref.TarSplit.Len != 0 {
		t.Errorf("the stargz spelling has no tar-split: %+v, %v", ref, err)
	}
}

func TestStripTOCAnnotations(t *testing.T) {
	ann := edited(annTarSplitDigest, "x", annEStargz, "x", annStargzTOCDigest, "x", annStargzTOCPosition, "x", annEStargzSize, "1").Annotations
	if got := StripTOCAnnotations(ann); got != nil {
		t.Errorf("left: %v", got)
	}
	ann["other"] = "kept"
	if got := StripTOCAnnotations(ann); !maps.Equal(got, map[string]string{"other": "kept"}) {
		t.Errorf("left: %v", got)
	}
	if len(ann) != 9 {
		t.Errorf("the argument was changed: %v", ann)
	}
}
