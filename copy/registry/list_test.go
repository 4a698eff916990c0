package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/integration/front"
)

func TestTags(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, nil)
	for _, tag := range []string{"b", "a", "1.0"} {
		b.reg.AddManifest(repoName, tag, v1.MediaTypeImageManifest, []byte("{}"))
	}
	if tags, err := b.r.Tags(ctx); err != nil || !slices.Equal(tags, []string{"1.0", "a", "b"}) {
		t.Errorf("%q %v", tags, err)
	}
	paged := func(links map[string]string) front.Action {
		return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			last := r.URL.Query().Get("last")
			if next := links[last]; next != "" {
				w.Header().Set("Link", fmt.Sprintf(`<%s>; rel="next"`, next))
			}
			fmt.Fprintf(w, `{"tags":["t%s"]}`, last)
		}
	}
	for _, c := range []struct {
		links map[string]string
		want  []string
		err   error
	}{
		{map[string]string{"": "/v2/some/repo/tags/list?last=1", "1": "?last=2"}, []string{"t", "t1", "t2"}, nil},
		{map[string]string{"": "?last=1", "1": "?last=1"}, []string{"t", "t1"}, ErrBadAnswer},
		{map[string]string{"": "file:///etc/passwd"}, []string{"t"}, ErrBadAnswer},
	} {
		b.front.Behave()
		b.front.Add(front.Rule{Path: "/tags/list", Do: paged(c.links)})
		if tags, err := b.r.Tags(ctx); !errors.Is(err, c.err) || !slices.Equal(tags, c.want) && c.err == nil {
			t.Errorf("%v: %q %v", c.links, tags, err)
		}
	}
	b.front.Behave()
	b.front.Add(front.Rule{Path: "/tags/list", Do: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		fmt.Fprint(w, `{"tags":["../x"]}`)
	}})
	if _, err := b.r.Tags(ctx); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("hostile tag: %v", err)
	}
}

func TestReferrers(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, nil)
	subject := digest.FromString("subject")
	one := b.reg.AddManifest(repoName, "", v1.MediaTypeImageManifest, fmt.Appendf(nil, `{"schemaVersion":2,"subject":{"digest":%q}}`, subject))
	got, err := b.r.Referrers(ctx, subject)
	if err != nil || len(got) != 1 || got[0].Digest.String() != one {
		t.Errorf("%v %v", got, err)
	}
	if got, err := b.r.Referrers(ctx, digest.FromString("none")); err != nil || len(got) != 0 {
		t.Errorf("none: %v %v", got, err)
	}
	b.front.Add(front.Rule{Path: "/referrers/", Do: front.Status(404, "NOT_FOUND")})
	if got, err := b.r.Referrers(ctx, subject); err != nil || len(got) != 0 {
		t.Errorf("neither API nor tag: %v %v", got, err)
	}
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":3}]}`, v1.MediaTypeImageIndex, v1.MediaTypeImageManifest, one)
	b.reg.AddManifest(repoName, "sha256-"+subject.Encoded(), v1.MediaTypeImageIndex, index)
	if got, err := b.r.Referrers(ctx, subject); err != nil || len(got) != 1 {
		t.Errorf("tag: %v %v", got, err)
	}
}

func TestDeleteManifest(t *testing.T) {
	b := newBench(t, nil)
	d := b.reg.AddManifest(repoName, "", v1.MediaTypeImageManifest, []byte("{}"))
	if err := b.r.DeleteManifest(context.Background(), d); err != nil {
		t.Fatal(err)
	}
	if err := b.r.DeleteManifest(context.Background(), d); !errors.Is(err, ErrNotFound) {
		t.Errorf("again: %v", err)
	}
}

// A registry cannot fill our memory with pages.
func TestListingIsBounded(t *testing.T) {
	page := []byte(`{"tags":[]` + strings.Repeat(" ", 3<<20) + `}`)
	asked := 0
	b := &bench{front: front.New(front.NewRegistry())}
	b.serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked < 40 {
			w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, asked))
		}
		_, _ = w.Write(page)
	}), nil)
	if tags, err := b.r.Tags(t.Context()); !errors.Is(err, ErrBadAnswer) {
		t.Errorf("%d tags of %d pages, %v", len(tags), asked, err)
	}
}
