package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/tocsin/tocsin/manifest"
	"go.yaml.in/yaml/v3"
)

// maxRegistriesFile bounds one file of registries.d, in bytes.
const maxRegistriesFile = 1 << 20

// Registries is what a registries.d directory says about where signatures of
// images in registries are. It is immutable; nil means an empty directory.
type Registries struct {
	fallback *registryEntry
	docker   map[string]registryEntry // by scope
}

// registryEntry is one section. The names with sigstore in them that are not
// attachments are what lookaside was called before.
type registryEntry struct {
	Lookaside        string `yaml:"lookaside"`
	LookasideStaging string `yaml:"lookaside-staging"`
	SigStore         string `yaml:"sigstore"`
	SigStoreStaging  string `yaml:"sigstore-staging"`
	Attachments      *bool  `yaml:"use-sigstore-attachments"`
}

type registriesFile struct {
	DefaultDocker *registryEntry           `yaml:"default-docker"`
	Docker        map[string]registryEntry `yaml:"docker"`
}

// ParseRegistries reads the *.yaml files of a registries.d directory, given
// by name, as containers-registries.d(5) describes them. A section may stand
// in one file only. Unknown keys and unusable URLs are manifest.ErrMalformed.
func ParseRegistries(files map[string][]byte) (*Registries, error) {
	r := &Registries{docker: map[string]registryEntry{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := r.add(files[name]); err != nil {
			return nil, fmt.Errorf("registries.d: %s: %w", name, err)
		}
	}
	return r, nil
}

func (r *Registries) add(raw []byte) error {
	f, err := parseRegistriesFile(raw)
	if err != nil {
		return err
	}
	if f.DefaultDocker != nil {
		if r.fallback != nil {
			return malformed("default-docker is in another file too")
		}
		if err := f.DefaultDocker.check(); err != nil {
			return fmt.Errorf("default-docker: %w", err)
		}
		r.fallback = f.DefaultDocker
	}
	for scope, entry := range f.Docker {
		if _, twice := r.docker[scope]; twice {
			return malformed("%q is in another file too", scope)
		}
		if err := entry.check(); err != nil {
			return fmt.Errorf("%q: %w", scope, err)
		}
		r.docker[scope] = entry
	}
	return nil
}

func parseRegistriesFile(raw []byte) (registriesFile, error) {
	var f registriesFile
	if len(raw) > maxRegistriesFile {
		return f, malformed("%d bytes are more than %d", len(raw), maxRegistriesFile)
	}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	switch err := dec.Decode(&f); {
	case errors.Is(err, io.EOF): // nothing but comments
		return registriesFile{}, nil
	case err != nil:
		return f, malformed("%v", err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return f, malformed("more than one document")
	}
	return f, nil
}

func (e registryEntry) check() error {
	for _, base := range []string{e.Lookaside, e.LookasideStaging, e.SigStore, e.SigStoreStaging} {
		if base == "" {
			continue
		}
		if _, err := lookasideBase(base); err != nil {
			return err
		}
	}
	return nil
}

// SignaturePlaces says where the signatures of an image in a registry are. An
// empty URL means that nothing is configured: podman then uses the directory
// /var/lib/containers/sigstore, or that of the user.
type SignaturePlaces struct {
	Read        string // base URL of the lookaside to read from
	Write       string // base URL of the lookaside to write to
	Attachments bool   // sigstore attachments are read and written
}

// For returns the places for an image. As in containers/image each of the three
// comes from the most specific section that says it, whatever the manual of
// registries.d has about whole sections.
func (r *Registries) For(ref manifest.Ref) SignaturePlaces {
	var p SignaturePlaces
	decided := false
	for _, e := range r.sections(ref) {
		read := first(e.Lookaside, e.SigStore)
		p.Read = first(p.Read, read)
		p.Write = first(p.Write, e.LookasideStaging, e.SigStoreStaging, read)
		if e.Attachments != nil && !decided {
			p.Attachments, decided = *e.Attachments, true
		}
	}
	return p
}

// sections returns what applies to an image, the most specific first.
func (r *Registries) sections(ref manifest.Ref) []registryEntry {
	if r == nil || ref.Transport != manifest.Docker || ref.Repo == "" {
		return nil
	}
	var out []registryEntry
	for _, scope := range nameScopes(ref) {
		if e, ok := r.docker[scope]; ok {
			out = append(out, e)
		}
	}
	if r.fallback != nil {
		out = append(out, *r.fallback)
	}
	return out
}

// first returns the first string that is not empty.
func first(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}
