package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tocsin/tocsin/manifest"
)

// regsyncFile is the part of regsync's format that says what `regsync once` copies. Schedules are for its server, and
// how much goes on at once is for --jobs: both are read and mean nothing here. Any other key is refused.
type regsyncFile struct {
	Version int `yaml:"version"`
	Creds   []struct {
		Registry string `yaml:"registry"`
		User     string `yaml:"user"`
		Pass     string `yaml:"pass"`
		TLS      string `yaml:"tls"` // enabled, insecure (not verified) or disabled (http)
	} `yaml:"creds"`
	Defaults struct {
		Interval, Schedule string
		Parallel           int
	} `yaml:"defaults"`
	Sync []regsyncEntry `yaml:"sync"`
}

type regsyncEntry struct {
	Source, Target, Type string
	Interval, Schedule   string
	Platform             string
	Platforms            []string
	Tags                 struct{ Allow, Deny []string }
	Referrers            bool
}

// isRegsync tells regsync's files from skopeo's, whose keys are hosts.
func isRegsync(raw []byte) bool {
	var file struct{ Sync yaml.Node }
	return yaml.Unmarshal(raw, &file) == nil && file.Sync.Kind == yaml.SequenceNode
}

// parseRegsync reads a file of regsync's format: registries as a skopeo file would say them, and what is wanted.
func parseRegsync(raw []byte) (map[string]syncRegistry, []wanted, error) {
	var file regsyncFile
	if err := decodeSync(raw, &file); err != nil {
		return nil, nil, err
	}
	if file.Version != 1 {
		return nil, nil, usage(fmt.Errorf("version %d of regsync's format is not 1", file.Version))
	}
	registries := map[string]syncRegistry{}
	for _, c := range file.Creds {
		var r syncRegistry
		r.Credentials.Username, r.Credentials.Password = c.User, c.Pass
		switch c.TLS {
		case "", "enabled":
		case "insecure", "disabled":
			r.TLSVerify = new(bool)
		default:
			return nil, nil, usage(fmt.Errorf("%s: tls %q is not enabled, insecure or disabled", c.Registry, c.TLS))
		}
		if err := r.checkAccess(); err != nil {
			return nil, nil, usage(fmt.Errorf("%s: %w", c.Registry, err))
		}
		registries[c.Registry] = r
	}
	var out []wanted
	for _, e := range file.Sync {
		w, err := e.wanted()
		if err != nil {
			return nil, nil, usage(fmt.Errorf("%s: %w", e.Source, err))
		}
		out = append(out, w)
	}
	return registries, out, nil
}

func (e regsyncEntry) wanted() (w wanted, err error) {
	if strings.Contains(e.Source+e.Target, "{{") {
		return w, errors.New("templates are not supported")
	}
	if w.repo, err = parseRef("docker://" + e.Source); err != nil {
		return w, err
	}
	target, err := parseRef("docker://" + e.Target)
	if err != nil {
		return w, err
	}
	w.target, w.referrers = &target, e.Referrers
	if e.Platform != "" && len(e.Platforms) > 0 {
		return w, errors.New("platform and platforms exclude each other")
	}
	w.platform = strings.Join(append(slices.Clone(e.Platforms), strings.Fields(e.Platform)...), ",")
	switch e.Type {
	case "image":
		if len(e.Tags.Allow)+len(e.Tags.Deny) > 0 {
			return w, errors.New("tags are chosen of a repository, not of an image")
		}
		w.pick = []string{tagOrDigest(w.repo)}
		return w, nil
	case "repository":
		if w.repo.Digest != "" || w.repo.String() != "docker://"+w.repo.Repository()+":latest" || strings.HasSuffix(e.Source, ":latest") {
			return w, errors.New("a repository has no tag and no digest")
		}
		w.match, err = allowed(e.Tags.Allow, e.Tags.Deny)
		return w, err
	}
	return w, fmt.Errorf("type %q is not image or repository", e.Type)
}

func tagOrDigest(r manifest.Ref) string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// allowed is regsync's choice of tags: expressions are for the whole tag, no allowed ones means all, denied ones win.
func allowed(allow, deny []string) (func(string) bool, error) {
	compile := func(list []string) (out []*regexp.Regexp, err error) {
		for _, s := range list {
			re, err := regexp.Compile("^(?:" + s + ")$")
			if err != nil {
				return nil, err
			}
			out = append(out, re)
		}
		return out, nil
	}
	yes, err := compile(allow)
	if err != nil {
		return nil, err
	}
	no, err := compile(deny)
	if err != nil {
		return nil, err
	}
	return func(tag string) bool {
		matches := func(re *regexp.Regexp) bool { return re.MatchString(tag) }
		return (len(yes) == 0 || slices.ContainsFunc(yes, matches)) && !slices.ContainsFunc(no, matches)
	}, nil
}
