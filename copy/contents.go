package copy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

// Contents is what a path turned out to be, and the images in it. The images' positions are those of @N references.
type Contents struct {
	Transport manifest.Transport // OCI, Dir, OCIArchive or DockerArchive
	Path      string
	Images    []Contained
}

// Contained is one image that an archive or layout lists. Nothing of it was verified yet: a copy does that.
type Contained struct {
	Names  []string      // as written there; empty when it has none
	Digest digest.Digest // of its manifest or list; "" when the archive does not say
}

// ReadContents finds out what a file or directory holds. A tar that is both an OCI layout and a docker archive is read
// as the former, because only that says which digest the image has. ErrNotFound: nothing is there; ErrUnsupported: it
// is none of the forms.
func ReadContents(ctx context.Context, name string) (*Contents, error) {
	st, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		return directoryContents(name)
	}
	f, x, err := openArchive(ctx, name)
	if err != nil {
		return nil, err
	}
	c, err := archiveContents(x)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("archive %s: %w", name, err)
	}
	c.Path = name
	return c, nil
}

// transportOf tells the forms apart by the files that each must have. It is pure.
func transportOf(directory bool, has func(name string) bool) (manifest.Transport, error) {
	switch {
	case directory && has(layoutFile):
		return manifest.OCI, nil
	case directory && has(dirVersion) && has(dirManifest):
		return manifest.Dir, nil
	case directory:
		return "", fmt.Errorf("neither an OCI layout nor a dir: of skopeo's: %w", manifest.ErrUnsupported)
	case has(layoutFile) && has(indexFile):
		return manifest.OCIArchive, nil
	case has(savedFile) || has(repositoriesFile):
		return manifest.DockerArchive, nil
	}
	return "", fmt.Errorf("neither an OCI layout nor what docker save writes: %w", manifest.ErrUnsupported)
}

func directoryContents(name string) (*Contents, error) {
	t, err := transportOf(true, func(file string) bool {
		_, err := os.Stat(filepath.Join(name, file))
		return err == nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	c := &Contents{Transport: t, Path: name}
	if t == manifest.Dir {
		c.Images = []Contained{{}}
		return c, nil
	}
	l, err := openLayout(manifest.Ref{Transport: t, Path: name, Index: -1})
	if err != nil {
		return nil, err
	}
	idx, err := l.index()
	c.Images = indexed(idx)
	return c, err
}

func archiveContents(x archiveFiles) (*Contents, error) {
	t, err := transportOf(false, func(file string) bool {
		return x.exists(file) == nil
	})
	if err != nil {
		return nil, err
	}
	c := &Contents{Transport: t}
	if t == manifest.OCIArchive {
		idx, err := readArchiveIndex(x)
		c.Images = indexed(idx)
		return c, err
	}
	c.Images, err = savedImages(x)
	return c, err
}

// indexed lists the entries of an index.json. It is pure.
func indexed(idx v1.Index) []Contained {
	var out []Contained
	for _, d := range idx.Manifests {
		im := Contained{Digest: d.Digest}
		for _, key := range []string{annotationImageName, v1.AnnotationRefName} {
			if name := d.Annotations[key]; name != "" && !slices.Contains(im.Names, name) {
				im.Names = append(im.Names, name)
			}
		}
		out = append(out, im)
	}
	return out
}

// savedImages lists the images of a docker archive in the order in which references count them.
func savedImages(x archiveFiles) ([]Contained, error) {
	saved, legacy, err := readSaved(x)
	var out []Contained
	for _, s := range saved {
		out = append(out, Contained{Names: s.RepoTags})
	}
	for _, l := range legacy {
		out = append(out, Contained{Names: l.tags})
	}
	return out, err
}

// Pick returns the position of the image that which says: a name, in full or in its short spelling, or @N. "" is the
// only image. ErrUsage lists the images when which leaves a choice; ErrNotFound when none is called so.
func (c *Contents) Pick(which string) (int, error) {
	n := len(c.Images)
	if position, ok := strings.CutPrefix(which, "@"); ok {
		i, err := strconv.Atoi(position)
		if err != nil || i < 0 || i >= n {
			return 0, fmt.Errorf("%s has no image %s of %d: %w", c.Path, which, n, ErrNotFound)
		}
		return i, nil
	}
	if which == "" && n == 1 {
		return 0, nil
	}
	if n == 0 {
		return 0, fmt.Errorf("%s holds no image: %w", c.Path, ErrNotFound)
	}
	if which == "" {
		return 0, fmt.Errorf("%s holds %d images; say which by its name or @POSITION: %s: %w", c.Path, n, c.list(), ErrUsage)
	}
	return c.named(which)
}

func (c *Contents) named(which string) (int, error) {
	at := func(same func(name string) bool) []int {
		var hits []int
		for i, im := range c.Images {
			if slices.ContainsFunc(im.Names, same) {
				hits = append(hits, i)
			}
		}
		return hits
	}
	hits := at(func(name string) bool { return name == which })
	if full := normalName(which); len(hits) == 0 && full != "" {
		hits = at(func(name string) bool { return normalName(name) == full })
	}
	switch len(hits) {
	case 0:
		return 0, fmt.Errorf("%s has no image named %q; it has %s: %w", c.Path, which, c.list(), ErrNotFound)
	case 1:
		return hits[0], nil
	}
	return 0, fmt.Errorf("%s has %d images named %q; say which by @POSITION: %w", c.Path, len(hits), which, ErrUsage)
}

// maxListed bounds the images that an error names.
const maxListed = 10

func (c *Contents) list() string {
	var out []string
	for i, im := range c.Images {
		if i == maxListed {
			out = append(out, "...")
			break
		}
		s := "@" + strconv.Itoa(i)
		if len(im.Names) > 0 {
			s += " " + fmt.Sprintf("%.200q", im.Names[0])
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// Ref is the reference of the image at position i.
func (c *Contents) Ref(i int) manifest.Ref {
	if c.Transport == manifest.Dir {
		i = -1
	}
	return manifest.Ref{Transport: c.Transport, Path: c.Path, Index: i}
}
