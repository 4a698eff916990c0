package fill

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/integration/forge"
	"github.com/tocsin/tocsin/store"
)

// prove takes a layer in by its table of contents and proves it against the digest of its tar.
func prove(t *testing.T, p *Pool, b *forge.Blob) error {
	t.Helper()
	spec := LayerSpec{
		Blob: b.Descriptor, TOC: b.TOC,
		Source: store.Source{Host: "h", Repo: "r", Blob: b.Descriptor.Digest, Size: b.Descriptor.Size},
	}
	n, err := p.AddLayer(t.Context(), spec, &source{blob: b.Bytes})
	if err != nil {
		return err
	}
	return p.VerifyDiffID(t.Context(), n, b.DiffID)
}

func forged(t *testing.T, l *forge.Layer, err error) *forge.Blob {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Write()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLiesAreRefused: a layer whose table of contents or tar-split says something else than its tar is never proved,
// whatever the lie is about, and none keeps an honest layer with the same files and the same tar from being proved, before
// it or after it.
func TestLiesAreRefused(t *testing.T) {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		p := newPool(t, openStore(t, t.TempDir()), nil)
		l, err := forge.Base(alg)
		honest := forged(t, l, err)
		for _, round := range []string{"new", "known", "after the honest one"} {
			for _, lie := range forge.Lies() {
				l, err := lie.Layer(alg)
				err = prove(t, p, forged(t, l, err))
				if !errors.Is(err, ErrDiffID) && !errors.Is(err, ErrDigestMismatch) && !errors.Is(err, chunked.ErrMalformed) && !errors.Is(err, chunked.ErrUnsayable) {
					t.Errorf("%s, %s: %s, %s: want a refusal, got %v", alg, round, lie.Kind, lie.Name, err)
				}
			}
			if round == "known" {
				if err := prove(t, p, honest); err != nil {
					t.Errorf("%s: the honest layer: %v", alg, err)
				}
			}
		}
	}
}
