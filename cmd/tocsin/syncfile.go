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

	"github.com/Masterminds/semver/v3"
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

// parseSync reads a file of skopeo's sync format or of regsync's: what it says of registries, and what is wanted of
// them, in the order of names or of the file. What it asks for and tocsin does not do is a usage error, as is a key
// that is not known.
func parseSync(raw []byte) (map[string]syncRegistry, []wanted, error) {
	if len(raw) > maxSyncFile {
		return nil, nil, usage(fmt.Errorf("more than %d bytes", maxSyncFile))
	}
	if isRegsync(raw) {
		return parseRegsync(raw)
	}
	var registries map[string]syncRegistry
	if err := decodeSync(raw, &registries); err != nil {
		return nil, nil, err
	}
	if len(registries) == 0 {
		return nil, nil, usage(errors.New("no registry"))
	}
	var out []wanted
	for _, host := range slices.Sorted(maps.Keys(registries)) {
		r := registries[host]
		list, err := r.wanted(host)
		if err = errors.Join(r.checkAccess(), err); err != nil {
			return nil, nil, usage(fmt.Errorf("%s: %w", host, err))
		}
		out = append(out, list...)
	}
	return registries, out, nil
}

// decodeSync decodes the one document of a file.
func decodeSync(raw []byte, into any) error {
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return usage(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return usage(errors.New("more than one document"))
	}
	return nil
}

func (r syncRegistry) checkAccess() error {
	if (r.Credentials.Username == "") != (r.Credentials.Password == "") {
		return errors.New("credentials need a username and a password")
	}
	return nil
}

// wanted is a repository and which of its images are copied.
type wanted struct {
	repo  manifest.Ref      // its tag and digest mean nothing
	pick  []string          // tags and digests; empty: match says
	match func(string) bool // of the tags that the registry lists

	// What only regsync's files say: where it goes instead of below DEST, for which platforms, and whether with referrers.
	target    *manifest.Ref
	platform  string
	referrers bool
}

// wanted lists what skopeo's format asks of a registry, by kind and in the order of names.
func (r syncRegistry) wanted(host string) (out []wanted, err error) {
	add := func(name, value string, matcher func(string) (func(string) bool, error), pick []string) {
		w := wanted{pick: pick}
		var errs [2]error
		w.repo, errs[0] = syncRepo(host, name)
		w.match, errs[1] = matcher(value)
		for _, e := range errs {
			if e != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", name, e))
			}
		}
		out = append(out, w)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Images)) {
		add(name, "", byRegexp, r.Images[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.ByTagRegex)) {
		add(name, r.ByTagRegex[name], byRegexp, nil)
	}
	for _, name := range slices.Sorted(maps.Keys(r.BySemver)) {
		add(name, r.BySemver[name], bySemver, nil)
	}
	if len(out) == 0 {
		err = errors.New("no images")
	}
	return out, err
}

func byRegexp(s string) (func(string) bool, error) {
	re, err := regexp.Compile(s)
	if err != nil {
		return nil, err
	}
	return re.MatchString, nil
}

// bySemver takes the tags that are versions of the constraint, as skopeo does; other tags are none.
func bySemver(s string) (func(string) bool, error) {
	constraint, err := semver.NewConstraint(s)
	if err != nil {
		return nil, err
	}
	return func(tag string) bool {
		v, err := semver.NewVersion(tag)
		return err == nil && constraint.Check(v)
	}, nil
}

func syncRepo(host, name string) (manifest.Ref, error) {
	ref, err := parseRef("docker://" + host + "/" + name)
	if err == nil && (ref.Digest != "" || strings.ContainsRune(name, ':')) {
		err = usage(fmt.Errorf("%s/%s: a repository stands here, and its tags or digests behind it", host, name))
	}
	return ref, err
}

// jobs are the copies of a repository's images; listed are its tags, which are needed only if it names none.
func (w wanted) jobs(listed []string, to syncTo) ([]syncJob, error) {
	pick := w.pick
	if len(pick) == 0 {
		for _, t := range listed {
			if w.match(t) {
				pick = append(pick, t)
			}
		}
	}
	var out []syncJob
	for _, p := range pick {
		j := syncJob{platform: w.platform, referrers: w.referrers}
		var err error
		if j.src, err = parseRef("docker://" + w.repo.Repository() + separated(p)); err != nil {
			return nil, err
		}
		if j.dst, err = w.destination(to, j.src, p); err != nil {
			return nil, err
		}
		out = append(out, j)
	}
	return out, nil
}

// destination is the place of one image: DEST says it, or the file. A target of several images has their tags.
func (w wanted) destination(to syncTo, src manifest.Ref, pick string) (manifest.Ref, error) {
	switch {
	case w.target == nil:
		return to.ref(src)
	case w.match == nil:
		return *w.target, nil
	}
	return parseRef("docker://" + w.target.Repository() + separated(pick))
}

// separated is a tag or digest with what stands before it in a reference.
func separated(tagOrDigest string) string {
	if strings.Contains(tagOrDigest, ":") {
		return "@" + tagOrDigest
	}
	return ":" + tagOrDigest
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

// syncJob is one copy, and what of its file says how.
type syncJob struct {
	src, dst  manifest.Ref
	platform  string
	referrers bool
}

// distinct refuses two images in one place, and drops what is asked for twice.
func distinct(jobs []syncJob) ([]syncJob, error) {
	taken := make(map[string]manifest.Ref)
	var out []syncJob
	for _, j := range jobs {
		key := j.dst.String()
		if other, ok := taken[key]; ok && other != j.src {
			return nil, usage(fmt.Errorf("%s and %s would both become %s; --scoped keeps their whole names", other, j.src, j.dst))
		} else if ok {
			continue
		}
		taken[key] = j.src
		out = append(out, j)
	}
	return out, nil
}
