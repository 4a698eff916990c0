package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
	bolt "go.etcd.io/bbolt"
)

// Found is what a reference stands for in the store.
type Found struct {
	// Top is the list or manifest that the reference names.
	Top digest.Digest
	// Records are the images of it that are here, sorted by manifest: of a list maybe not all, and maybe none.
	Records []Record
	what    string
}

// Find says what a reference of the store stands for. A name wins over an image ID that is spelled the same. A digest
// is that of a manifest, a list or a config, and beside a repository that of an image which has a name there. An ID may
// be cut short (manifest.Ref.ID). ErrNotFound; ErrAmbiguous when a short ID fits several images.
func (s *Store) Find(ref manifest.Ref) (*Found, error) {
	if ref.Digest != "" {
		if err := checkDigest("image", ref.Digest); err != nil {
			return nil, err
		}
	}
	var found *Found
	err := s.view(func(tx *bolt.Tx) error {
		c, err := readCatalog(tx)
		if err != nil {
			return err
		}
		found, err = c.find(ref)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref.Familiar(), err)
	}
	found.what = ref.Familiar()
	return found, nil
}

// Choose is the image for a platform, of the kind that prefer asks for. ErrNotFound says what is here (L32): another
// platform's image is never the answer.
func (f *Found) Choose(want v1.Platform, prefer manifest.Prefer) (Record, error) {
	var list manifest.List
	for _, r := range f.Records {
		p, err := manifest.ParsePlatform(r.Platform)
		if err != nil {
			return Record{}, fmt.Errorf("record %s: %w: %w", r.Manifest, ErrCorrupt, err)
		}
		d := v1.Descriptor{Digest: r.Manifest, Platform: &p}
		if r.Trust == manifest.TOCOnly.String() {
			d.Annotations = map[string]string{manifest.AnnotationSentinel: "true"}
		}
		list.Instances = append(list.Instances, d)
	}
	best, err := list.Choose(want, prefer)
	if err != nil {
		return Record{}, fmt.Errorf("%s for %s is not here as was asked for, but %s: %w", f.what, manifest.FormatPlatform(want), f.Here(), ErrNotFound)
	}
	i := slices.IndexFunc(f.Records, func(r Record) bool { return r.Manifest == best.Digest })
	return f.Records[i], nil
}

// Here says for which platforms there are images here, and how they are trusted, for messages.
func (f *Found) Here() string {
	var here []string
	for _, r := range f.Records {
		here = append(here, fmt.Sprintf("%s (%s)", r.Platform, r.Trust))
	}
	if len(here) == 0 {
		return "none"
	}
	slices.Sort(here)
	return strings.Join(slices.Compact(here), ", ")
}

// catalog is the names and records of one transaction.
type catalog struct {
	tx      *bolt.Tx
	names   map[string]nameRow
	records map[digest.Digest]Record
}

func readCatalog(tx *bolt.Tx) (*catalog, error) {
	c := &catalog{tx: tx, records: map[digest.Digest]Record{}}
	all, err := recordsOf(tx, func(*Record) bool { return true })
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		c.records[r.Manifest] = r
	}
	c.names, err = allNames(tx)
	return c, err
}

func (c *catalog) find(ref manifest.Ref) (*Found, error) {
	row, named := c.names[ref.StoreName()]
	switch {
	case ref.Digest != "":
		return c.byDigest(ref.Digest, ref.Repository())
	case named && ref.StoreName() != "":
		return c.under(row.Top, row.Records...), nil
	case ref.ID != "":
		return c.byID(ref.ID)
	}
	return nil, ErrNotFound
}

// under is a manifest or list with the images that it leads to, and others that are known to belong to it.
func (c *catalog) under(top digest.Digest, also ...digest.Digest) *Found {
	reached := map[digest.Digest]bool{}
	c.walk(top, reached)
	set(reached, also)
	f := &Found{Top: top}
	for _, d := range slices.Sorted(maps.Keys(reached)) {
		if r, ok := c.records[d]; ok {
			f.Records = append(f.Records, r)
		}
	}
	return f
}

// walk follows lists as far as they are here.
func (c *catalog) walk(d digest.Digest, reached map[digest.Digest]bool) {
	if reached[d] {
		return
	}
	reached[d] = true
	row, err := decodeManifest(c.tx.Bucket(bucketManifests).Get([]byte(d)))
	if err != nil || !manifest.IsList(row.MediaType) {
		return // not here, or no list
	}
	list, err := manifest.ParseList(row.Raw, row.MediaType)
	if err != nil {
		return
	}
	for _, in := range list.Instances {
		c.walk(in.Digest, reached)
	}
}

func (c *catalog) byDigest(d digest.Digest, repository string) (*Found, error) {
	var found *Found
	if c.tx.Bucket(bucketManifests).Get([]byte(d)) != nil {
		found = c.under(d)
	} else {
		found = c.ofConfig(func(config digest.Digest) bool { return config == d })
	}
	switch {
	case found == nil:
		return nil, ErrNotFound
	case repository == "" || c.inRepository(d, repository):
		return found, nil
	}
	return nil, fmt.Errorf("no image of %s has that digest; store:@%s asks for it under any name: %w", repository, d, ErrNotFound)
}

// inRepository says that some name of the repository leads to a digest.
func (c *catalog) inRepository(d digest.Digest, repository string) bool {
	for name, row := range c.names {
		if repositoryOf(name) != repository {
			continue
		}
		reached := map[digest.Digest]bool{}
		c.walk(row.Top, reached)
		set(reached, row.Records)
		reached[row.List] = true
		for m := range maps.Clone(reached) {
			if r, ok := c.records[m]; ok {
				reached[r.Config], reached[r.List] = true, true
			}
		}
		if reached[d] {
			return true
		}
	}
	return false
}

// repositoryOf cuts the tag or digest off a name.
func repositoryOf(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// byID finds an image by its ID, the hex of its config's digest or the beginning of it.
func (c *catalog) byID(id string) (*Found, error) {
	configs := map[digest.Digest]bool{}
	fits := func(config digest.Digest) bool { return strings.HasPrefix(config.Encoded(), id) }
	for _, r := range c.records {
		if fits(r.Config) {
			configs[r.Config] = true
		}
	}
	switch len(configs) {
	case 0:
		return nil, ErrNotFound
	case 1:
		return c.ofConfig(fits), nil
	}
	return nil, fmt.Errorf("%d images have an ID that begins so: %w", len(configs), ErrAmbiguous)
}

// ofConfig are the images with a config: one image, whose layers may be here in several encodings. It stands for the one
// that came last. Nil if there is none.
func (c *catalog) ofConfig(fits func(digest.Digest) bool) *Found {
	var last Record
	f := &Found{}
	for _, d := range slices.Sorted(maps.Keys(c.records)) {
		r := c.records[d]
		if !fits(r.Config) {
			continue
		}
		f.Records = append(f.Records, r)
		if last.Manifest == "" || r.Created.After(last.Created) {
			last = r
		}
	}
	if last.Manifest == "" {
		return nil
	}
	f.Top = last.Manifest
	return f
}
