package manifest

import (
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// The table of spec/digests.md 4.1: what is there is sha512, what is wished for sha384.
func TestChooseAlgorithm(t *testing.T) { // D2, D4, rule 60
	wish := func(w DigestWish, err error) DigestWish {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	const a256, a384, a512 = digest.SHA256, digest.SHA384, digest.SHA512
	existing := digest.SHA512.FromString("x")
	situations := []Situation{
		{},
		{Existing: existing},
		{Existing: existing, Fixed: "it is signed"},
		{Existing: "sha999:0123"},
		{Existing: "sha999:0123", Fixed: "it is signed"},
		{Fixed: "it is signed"},
	}
	for _, row := range []struct {
		name string
		wish DigestWish
		want [4]digest.Algorithm // "" is an error
	}{
		{"uninitialized", DigestWish{}, [4]digest.Algorithm{}},
		{"must", wish(MustUse(a384)), [4]digest.Algorithm{a384, a384, "", a384}},
		{"must, prefer, default", wish(wish(wish(MustUse(a384)).Prefer(a256)).Default(a256)), [4]digest.Algorithm{a384, a384, "", a384}},
		{"prefer", wish(NoWish().Prefer(a384)), [4]digest.Algorithm{a384, a384, a512, a384}},
		{"prefer, default", wish(wish(NoWish().Prefer(a384)).Default(a256)), [4]digest.Algorithm{a384, a384, a512, a384}},
		{"default", wish(NoWish().Default(a384)), [4]digest.Algorithm{a384, a512, a512, a384}},
		{"none", NoWish(), [4]digest.Algorithm{a256, a512, a512, a256}},
	} {
		want := append(row.want[:], "", "") // what is fixed is not available, or not there
		for i, s := range situations {
			got, err := row.wish.Choose(s)
			if got != want[i] || (err == nil) != (want[i] != "") {
				t.Errorf("%s, %+v: %s, %v; want %q", row.name, s, got, err, want[i])
			}
		}
	}
	_, err := wish(MustUse(a384)).Choose(situations[2])
	if !errors.Is(err, ErrFixed) || !strings.Contains(err.Error(), "must be sha384") || !strings.Contains(err.Error(), "it is signed") {
		t.Errorf("not both reasons: %v", err)
	}
	if got, err := wish(MustUse(a512)).Choose(situations[2]); got != a512 || err != nil {
		t.Errorf("what must be and is fixed: %s, %v", got, err)
	}
}

// A wish is refused where it is made: an algorithm that is not linked in, and one that is set twice.
func TestDigestWish(t *testing.T) { // D4
	for _, alg := range []digest.Algorithm{"sha999", "", "md5", "SHA512"} {
		if _, err := MustUse(alg); !errors.Is(err, ErrUnsupported) {
			t.Errorf("must %q: %v", alg, err)
		}
		if _, err := NoWish().Prefer(alg); !errors.Is(err, ErrUnsupported) {
			t.Errorf("prefer %q: %v", alg, err)
		}
		if _, err := NoWish().Default(alg); !errors.Is(err, ErrUnsupported) {
			t.Errorf("default %q: %v", alg, err)
		}
	}
	p, err := NoWish().Prefer(digest.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Prefer(digest.SHA512); err == nil {
		t.Error("preferred twice")
	}
	if _, err := (DigestWish{}).Prefer(digest.SHA512); err == nil {
		t.Error("a preference of a wish that was never made")
	}
	if none := NoWish(); none != NoWish() || p == none { // D3: a wish is told from none by its value, whichever it is
		t.Error("wishes cannot be compared")
	}
}
