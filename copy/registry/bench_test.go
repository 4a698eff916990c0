package registry

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/integration/front"
	"github.com/tocsin/tocsin/manifest"
)

const benchSize = 64 << 20

func benchRepo(b *testing.B, rule func(*front.Front)) (*Repo, v1.Descriptor) {
	reg := front.NewRegistry()
	d := v1.Descriptor{Digest: digest.Digest(reg.AddBlob(repoName, make([]byte, benchSize))), Size: benchSize}
	f := front.New(reg)
	if rule != nil {
		rule(f)
	}
	srv := httptest.NewServer(f)
	b.Cleanup(srv.Close)
	return New(nil).Repo(strings.TrimPrefix(srv.URL, "http://"), repoName), d
}

// BenchmarkBlob is a whole blob over loopback, hashed.
func BenchmarkBlob(b *testing.B) {
	r, d := benchRepo(b, nil)
	b.SetBytes(benchSize)
	for b.Loop() {
		rc, err := r.Blob(context.Background(), d)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, rc); err != nil {
			b.Fatal(err)
		}
		rc.Close()
	}
}

// BenchmarkReadRanges is 512 ranges of half a blob, several per request or one.
func BenchmarkReadRanges(b *testing.B) {
	var ranges []manifest.Range
	const n = 512
	for i := range int64(n) {
		ranges = append(ranges, manifest.Range{Off: i * benchSize / n, Len: benchSize / n / 2})
	}
	for _, c := range []struct {
		name string
		rule func(*front.Front)
	}{{"several", nil}, {"single", func(f *front.Front) { f.Add(front.Rule{Do: front.SingleOnly(400)}) }}} {
		b.Run(c.name, func(b *testing.B) {
			r, d := benchRepo(b, c.rule)
			b.SetBytes(benchSize / 2)
			for b.Loop() {
				err := r.ReadRanges(context.Background(), d.Digest, d.Size, ranges, func(_ manifest.Range, body io.Reader) error {
					_, err := io.Copy(io.Discard, body)
					return err
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
