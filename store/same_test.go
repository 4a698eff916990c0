package store

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/manifest"
)

// What a machine has computed of the same bytes is found from either side, in another process too, and never replaced.
// Keys are whole digest strings, so equal hexadecimal digits of two algorithms are two keys.
func TestSame(t *testing.T) { // D12, D14, D21, rule 64
	s := newStore(t)
	a, b, c := digest.SHA256.FromString("x"), digest.SHA512.FromString("x"), digest.SHA384.FromString("x")
	if got, err := s.SameAs(a, digest.SHA512); got != "" || err != nil {
		t.Fatalf("of an index without any: %q, %v", got, err)
	}
	for _, other := range []digest.Digest{b, c, b} {
		if err := s.PutSame(a, other); err != nil {
			t.Fatal(err)
		}
	}
	prefix := digest.NewDigestFromEncoded(digest.SHA256, b.Encoded()[:64])
	again, err := Open(s.Root(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for _, row := range []struct {
		d    digest.Digest
		alg  digest.Algorithm
		want digest.Digest
	}{
		{a, digest.SHA512, b}, {b, digest.SHA256, a}, {a, digest.SHA384, c}, {c, digest.SHA256, a},
		{a, digest.SHA256, ""}, {b, digest.SHA384, ""}, {prefix, digest.SHA256, ""}, {"sha512:../x", digest.SHA256, ""},
	} {
		if got, err := again.SameAs(row.d, row.alg); got != row.want || err != nil {
			t.Errorf("%s in %s: %q, %v; want %q", row.d, row.alg, got, err, row.want)
		}
	}
	if err := s.PutSame(a, digest.SHA512.FromString("y")); !errors.Is(err, manifest.ErrDigestMismatch) {
		t.Errorf("another digest of the same algorithm: %v", err)
	}
	if err := s.PutSame(a, prefix); !errors.Is(err, manifest.ErrMalformed) {
		t.Errorf("two of one algorithm: %v", err)
	}
	if err := s.PutSame(a, "sha512:../x"); !errors.Is(err, manifest.ErrMalformed) { // D24
		t.Errorf("no digest: %v", err)
	}
}
