package main

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tocsin/tocsin/manifest"
)

const syncExample = `
registry.example.com:
  images:
    busybox: []
    redis: [1.0, "2.0", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
  images-by-tag-regex:
    team/nginx: ^1\.13
  credentials: {username: john, password: this is a secret}
  tls-verify: true
docker.io:
  tls-verify: false
  images:
    alpine: [latest]
`

func TestSyncFile(t *testing.T) {
	registries, err := parseSync([]byte(syncExample))
	if err != nil {
		t.Fatal(err)
	}
	repos, err := wantedOf(registries)
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string][]string{"busybox": {"1", "2"}, "team/nginx": {"1.13", "1.14", "latest"}}
	var refs []manifest.Ref
	for _, w := range repos {
		more, err := w.refs(tags[w.repo.Repo])
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, more...)
	}
	const empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, c := range []struct {
		to   syncTo
		want []string
	}{
		{syncTo{dest: "mirror.example:5000/x/"}, []string{
			"docker.io/library/alpine:latest docker://mirror.example:5000/x/alpine:latest",
			"registry.example.com/busybox:1 docker://mirror.example:5000/x/busybox:1",
			"registry.example.com/busybox:2 docker://mirror.example:5000/x/busybox:2",
			"registry.example.com/redis:1.0 docker://mirror.example:5000/x/redis:1.0",
			"registry.example.com/redis:2.0 docker://mirror.example:5000/x/redis:2.0",
			"registry.example.com/redis@" + empty + " docker://mirror.example:5000/x/redis@" + empty,
			"registry.example.com/team/nginx:1.13 docker://mirror.example:5000/x/nginx:1.13",
		}},
		{syncTo{dest: "dir:/m", scoped: true}, []string{
			"docker.io/library/alpine:latest dir:/m/docker.io/library/alpine:latest",
			"registry.example.com/busybox:1 dir:/m/registry.example.com/busybox:1",
			"registry.example.com/busybox:2 dir:/m/registry.example.com/busybox:2",
			"registry.example.com/redis:1.0 dir:/m/registry.example.com/redis:1.0",
			"registry.example.com/redis:2.0 dir:/m/registry.example.com/redis:2.0",
			"registry.example.com/redis@" + empty + " dir:/m/registry.example.com/redis@" + empty,
			"registry.example.com/team/nginx:1.13 dir:/m/registry.example.com/team/nginx:1.13",
		}},
	} {
		jobs, err := syncJobs(refs, c.to)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, j := range jobs {
			got = append(got, strings.TrimPrefix(j.src.String(), "docker://")+" "+j.dst.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v:\n%s", c.to, strings.Join(got, "\n"))
		}
	}
}

func TestSyncCollision(t *testing.T) {
	var refs []manifest.Ref
	for _, s := range []string{"a.example/x/app:1", "a.example/y/app:1", "a.example/x/app:1"} {
		ref, err := parseRef(s)
		if err != nil {
			t.Fatal(err)
		}
		refs = append(refs, ref)
	}
	if _, err := syncJobs(refs, syncTo{dest: "m.example"}); !errors.Is(err, errUsage) {
		t.Errorf("two images in one place: %v", err)
	}
	if jobs, err := syncJobs(refs, syncTo{dest: "m.example", scoped: true}); err != nil || len(jobs) != 2 {
		t.Errorf("%v, %v", jobs, err)
	}
}

func TestSyncFileRefuses(t *testing.T) {
	for text, why := range map[string]string{
		"":                                   "no registry",
		"a: {}":                              "no images",
		"a: {imgs: {x: []}}":                 "imgs",
		"a: {images: {x: []}, cert-dir: /c}": "cert-dir",
		"a: {images-by-semver: {x: '>= 1'}}": "semver",
		"a: {images: {x: []}, credentials: {username: u}}":          "password",
		"a: {images: {x: []}}\na: {images: {y: []}}":                "already defined",
		"a: {images: {x: []}}\n---\nb: {}":                          "more than one document",
		"- a":                                                       "unmarshal",
		strings.Repeat("#", maxSyncFile) + "\na: {images: {x: []}}": "bytes",
	} {
		if _, err := parseSync([]byte(text)); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), why) {
			t.Errorf("%.80s: %v, want %s", text, err, why)
		}
	}
	for _, text := range []string{"a: {images: {'x:1': []}}", "a: {images: {X: []}}", "a: {images-by-tag-regex: {x: '('}}"} {
		registries, err := parseSync([]byte(text))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := wantedOf(registries); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What parses leads to references of the registries that the file names, or to a usage error.
func FuzzSyncFile(f *testing.F) {
	seeds := []string{syncExample, "a.example: {images: {x: [y]}}", "a: {images: {x: *x}}", "a: {images: {x: [&y z, *y]}}"}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		registries, err := parseSync(raw)
		if err != nil {
			if !errors.Is(err, errUsage) {
				t.Fatal(err)
			}
			return
		}
		repos, err := wantedOf(registries)
		if err != nil {
			return
		}
		for _, w := range repos {
			refs, err := w.refs([]string{"latest"})
			if err != nil {
				continue
			}
			for _, ref := range refs {
				if ref.Repository() != w.repo.Repository() {
					t.Fatalf("%s is not of %s", ref, w.repo)
				}
			}
		}
	})
}
