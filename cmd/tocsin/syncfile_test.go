package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const syncExample = `
registry.example.com:
  images:
    busybox: []
    redis: [1.0, "2.0", "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
  images-by-tag-regex:
    team/nginx: ^1\.13
  images-by-semver:
    team/go: ">= 1.5"
  credentials: {username: john, password: this is a secret}
  tls-verify: true
docker.io:
  tls-verify: false
  images:
    alpine: [latest]
`

func TestSyncFile(t *testing.T) {
	_, repos, err := parseSync([]byte(syncExample))
	if err != nil {
		t.Fatal(err)
	}
	tags := map[string][]string{"busybox": {"1", "2"}, "team/nginx": {"1.13", "1.14", "latest"}, "team/go": {"1.0.0", "v1.9", "2.1", "edge"}}
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
			"registry.example.com/team/go:v1.9 docker://mirror.example:5000/x/go:v1.9",
			"registry.example.com/team/go:2.1 docker://mirror.example:5000/x/go:2.1",
		}},
		{syncTo{dest: "dir:/m", scoped: true}, []string{
			"docker.io/library/alpine:latest dir:/m/docker.io/library/alpine:latest",
			"registry.example.com/busybox:1 dir:/m/registry.example.com/busybox:1",
			"registry.example.com/busybox:2 dir:/m/registry.example.com/busybox:2",
			"registry.example.com/redis:1.0 dir:/m/registry.example.com/redis:1.0",
			"registry.example.com/redis:2.0 dir:/m/registry.example.com/redis:2.0",
			"registry.example.com/redis@" + empty + " dir:/m/registry.example.com/redis@" + empty,
			"registry.example.com/team/nginx:1.13 dir:/m/registry.example.com/team/nginx:1.13",
			"registry.example.com/team/go:v1.9 dir:/m/registry.example.com/team/go:v1.9",
			"registry.example.com/team/go:2.1 dir:/m/registry.example.com/team/go:2.1",
		}},
	} {
		var jobs []syncJob
		for _, w := range repos {
			more, err := w.jobs(tags[w.repo.Repo], c.to)
			if err != nil {
				t.Fatal(err)
			}
			jobs = append(jobs, more...)
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
	jobs := func(to syncTo) (out []syncJob) {
		for _, s := range []string{"a.example/x/app:1", "a.example/y/app:1", "a.example/x/app:1"} {
			src, err := parseRef(s)
			if err != nil {
				t.Fatal(err)
			}
			dst, err := to.ref(src)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, syncJob{src: src, dst: dst})
		}
		return out
	}
	if _, err := distinct(jobs(syncTo{dest: "m.example"})); !errors.Is(err, errUsage) {
		t.Errorf("two images in one place: %v", err)
	}
	if jobs, err := distinct(jobs(syncTo{dest: "m.example", scoped: true})); err != nil || len(jobs) != 2 {
		t.Errorf("%v, %v", jobs, err)
	}
}

const regsyncExample = `
version: 1
creds:
  - registry: b.example
    user: u
    pass: p
    tls: disabled
defaults: {interval: 60m, parallel: 2}
sync:
  - source: busybox:latest
    target: b.example/mirror/bb:stable
    type: image
  - source: a.example/alpine
    target: b.example/alpine
    type: repository
    tags: {allow: ["3.*", latest], deny: ["3.0"]}
    platforms: [linux/amd64, linux/arm64]
    referrers: true
    schedule: "15 01 * * *"
`

func TestRegsyncFile(t *testing.T) {
	registries, repos, err := parseSync([]byte(regsyncExample))
	if err != nil {
		t.Fatal(err)
	}
	if r := registries["b.example"]; r.Credentials.Password != "p" || r.TLSVerify == nil || *r.TLSVerify {
		t.Errorf("%+v", r)
	}
	var got []string
	for _, w := range repos {
		jobs, err := w.jobs([]string{"3.0", "3.1", "2.3.1", "latest"}, syncTo{})
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range jobs {
			got = append(got, fmt.Sprint(j.src, " ", j.dst, " ", j.platform, " ", j.referrers))
		}
	}
	want := []string{
		"docker://docker.io/library/busybox:latest docker://b.example/mirror/bb:stable  false",
		"docker://a.example/alpine:3.1 docker://b.example/alpine:3.1 linux/amd64,linux/arm64 true",
		"docker://a.example/alpine:latest docker://b.example/alpine:latest linux/amd64,linux/arm64 true",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, c := range []struct {
		dest []string
		file string
	}{{nil, syncExample}, {[]string{"dir:x"}, regsyncExample}} {
		if _, err := readSync([]byte(c.file), c.dest, false); !errors.Is(err, errUsage) {
			t.Errorf("DEST %q: %v", c.dest, err)
		}
	}
}

func TestSyncFileRefuses(t *testing.T) {
	for text, why := range map[string]string{
		"":                                     "no registry",
		"a: {}":                                "no images",
		"a: {imgs: {x: []}}":                   "imgs",
		"a: {images-by-semver: {x: '>= one'}}": "x: ",
		"{version: 2, sync: [{source: a, target: b, type: image}]}":                                     "version 2",
		"{version: 1, sync: [{source: a, target: b, type: registry}]}":                                  "registry",
		"{version: 1, sync: [{source: a, target: b, type: image, backup: c}]}":                          "backup",
		"{version: 1, sync: [{source: 'a/{{.X}}', target: b, type: image}]}":                            "templates",
		"{version: 1, sync: [{source: 'a:1', target: b, type: repository}]}":                            "no tag",
		"{version: 1, sync: [{source: a, target: b, type: repository, tags: {allow: ['(']}}]}":          "missing",
		"{version: 1, sync: [{source: a, target: b, type: image, platform: a/b, platforms: [c/d]}]}":    "exclude",
		"{version: 1, creds: [{registry: a, tls: maybe}], sync: [{source: a, target: b, type: image}]}": "maybe",
		"a: {images: {x: []}, credentials: {username: u}}":                                              "password",
		"a: {images: {x: []}}\na: {images: {y: []}}":                                                    "already defined",
		"a: {images: {x: []}}\n---\nb: {}":                                                              "more than one document",
		"- a":                                                                                           "unmarshal",
		strings.Repeat("#", maxSyncFile) + "\na: {images: {x: []}}":                                     "bytes",
	} {
		if _, _, err := parseSync([]byte(text)); !errors.Is(err, errUsage) || !strings.Contains(err.Error(), why) {
			t.Errorf("%.80s: %v, want %s", text, err, why)
		}
	}
	for _, text := range []string{"a: {images: {'x:1': []}}", "a: {images: {X: []}}", "a: {images-by-tag-regex: {x: '('}}"} {
		if _, _, err := parseSync([]byte(text)); !errors.Is(err, errUsage) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// What parses leads to references of the registries that the file names, or to a usage error.
func FuzzSyncFile(f *testing.F) {
	seeds := []string{syncExample, regsyncExample, "a.example: {images: {x: [y]}}", "a: {images: {x: *x}}", "a: {images: {x: [&y z, *y]}}"}
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, repos, err := parseSync(raw)
		if err != nil {
			if !errors.Is(err, errUsage) {
				t.Fatal(err)
			}
			return
		}
		for _, w := range repos {
			jobs, err := w.jobs([]string{"latest"}, syncTo{dest: "dir:x"})
			if err != nil {
				continue
			}
			for _, j := range jobs {
				if j.src.Repository() != w.repo.Repository() {
					t.Fatalf("%s is not of %s", j.src, w.repo)
				}
			}
		}
	})
}
