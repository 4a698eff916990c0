package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin/tocsin/manifest"
)

// maxSyncFile bounds a file that sync reads, in bytes.
const maxSyncFile = 1 << 20

// syncRegistry is what skopeo's sync format says of one registry.
type syncRegistry struct {
	Images      map[string][]string `yaml:"images"`
	ByTagRegex  map[string]string   `yaml:"images-by-tag-regex"`
	BySemver    map[string]string   `yaml:"images-by-semver"`
	Credentials struct {
		Username string `yaml:"username"`
		Password string `yaml:"password"`
	} `yaml:"credentials"`
	TLSVerify *bool  `yaml:"tls-verify"`
	CertDir   string `yaml:"cert-dir"`
}

// parseSync reads a file of skopeo's sync format. What it asks for and tocsin does not do is a usage error, as is a key
// that is not known.
func parseSync(raw []byte) (map[string]syncRegistry, error) {
	if len(raw) > maxSyncFile {
		return nil, usage(fmt.Errorf("more than %d bytes", maxSyncFile))
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	var registries map[string]syncRegistry
	if err := dec.Decode(&registries); err != nil && !errors.Is(err, io.EOF) {
		return nil, usage(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, usage(errors.New("more than one document"))
	}
	if len(registries) == 0 {
		return nil, usage(errors.New("no registry"))
	}
	for _, host := range slices.Sorted(maps.Keys(registries)) {
		if err := registries[host].check(); err != nil {
			return nil, usage(fmt.Errorf("%s: %w", host, err))
		}
	}
	return registries, nil
}

func (r syncRegistry) check() error {
	switch {
	case len(r.BySemver) > 0:
		return errors.New("images-by-semver is not supported; images-by-tag-regex can say most of it")
	case r.CertDir != "":
		return errors.New("cert-dir is not supported; name the certificates in hosts.toml (--hosts-dir)")
	case (r.Credentials.Username == "") != (r.Credentials.Password == ""):
		return errors.New("credentials need a username and a password")
	case len(r.Images)+len(r.ByTagRegex) == 0:
		return errors.New("no images")
	}
	return nil
}

// wanted is a repository and which of its images are copied.
type wanted struct {
	repo manifest.Ref   // its tag and digest mean nothing
	pick []string       // tags and digests; empty: tags has them
	tags *regexp.Regexp // of those that the registry lists
}

// wantedOf lists what a file asks for, in the order of names.
func wantedOf(registries map[string]syncRegistry) ([]wanted, error) {
	var out []wanted
	for _, host := range slices.Sorted(maps.Keys(registries)) {
		r := registries[host]
		for _, name := range slices.Sorted(maps.Keys(r.Images)) {
			w := wanted{pick: r.Images[name], tags: regexp.MustCompile("")}
			var err error
			if w.repo, err = syncRepo(host, name); err != nil {
				return nil, err
			}
			out = append(out, w)
		}
		for _, name := range slices.Sorted(maps.Keys(r.ByTagRegex)) {
			re, err := regexp.Compile(r.ByTagRegex[name])
			if err != nil {
				return nil, usage(fmt.Errorf("%s/%s: %w", host, name, err))
			}
			w := wanted{tags: re}
			if w.repo, err = syncRepo(host, name); err != nil {
				return nil, err
			}
			out = append(out, w)
		}
	}
	return out, nil
}

func syncRepo(host, name string) (manifest.Ref, error) {
	ref, err := parseRef("docker://" + host + "/" + name)
	if err == nil && (ref.Digest != "" || strings.ContainsRune(name, ':')) {
		err = usage(fmt.Errorf("%s/%s: a repository stands here, and its tags or digests behind it", host, name))
	}
	return ref, err
}

// refs are a repository's images; listed are its tags, which are needed only if it names none.
func (w wanted) refs(listed []string) ([]manifest.Ref, error) {
	pick := w.pick
	if len(pick) == 0 {
		for _, t := range listed {
			if w.tags.MatchString(t) {
				pick = append(pick, t)
			}
		}
	}
	var out []manifest.Ref
	for _, p := range pick {
		separator := ":"
		if strings.Contains(p, ":") {
			separator = "@"
		}
		ref, err := parseRef("docker://" + w.repo.Repository() + separator + p)
		if err != nil {
			return nil, err
		}
		out = append(out, ref)
	}
	return out, nil
}

// syncTo is where images go: a registry and perhaps a path there, or a directory of dir: places.
type syncTo struct {
	dest   string
	scoped bool // keep the whole name of the source, its registry too
}

// ref is the place of one image.
func (t syncTo) ref(src manifest.Ref) (manifest.Ref, error) {
	name := path.Base(src.Repo)
	if t.scoped {
		name = src.Repository()
	}
	if dir, ok := strings.CutPrefix(t.dest, "dir:"); ok {
		if src.Digest != "" {
			name += "@" + src.Digest.String()
		} else {
			name += ":" + src.Tag
		}
		return manifest.Ref{Transport: manifest.Dir, Path: path.Join(dir, name), Index: -1}, nil
	}
	dest := strings.TrimSuffix(strings.TrimPrefix(t.dest, "docker://"), "/")
	// A colon in a registry's port must not begin the name of a repository.
	if t.scoped {
		name = strings.ReplaceAll(name, ":", "-")
	}
	if src.Digest != "" {
		return parseRef("docker://" + dest + "/" + name + "@" + src.Digest.String())
	}
	return parseRef("docker://" + dest + "/" + name + ":" + src.Tag)
}

// syncJob is one copy.
type syncJob struct{ src, dst manifest.Ref }

// syncJobs gives every image its place, and refuses two images in one place.
func syncJobs(refs []manifest.Ref, to syncTo) ([]syncJob, error) {
	taken := make(map[string]manifest.Ref)
	var out []syncJob
	for _, src := range refs {
		dst, err := to.ref(src)
		if err != nil {
			return nil, err
		}
		key := dst.String()
		if other, ok := taken[key]; ok && other != src {
			return nil, usage(fmt.Errorf("%s and %s would both become %s; --scoped keeps their whole names", other, src, dst))
		} else if ok {
			continue
		}
		taken[key] = src
		out = append(out, syncJob{src, dst})
	}
	return out, nil
}
