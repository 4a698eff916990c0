package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/tocsin/tocsin/manifest"
)

// The ways in which an archive can have an answer to what the digest of an image is.
const (
	// KindStored: the archive has the manifest.
	KindStored = "stored"
	// KindAsIs: it has none, but the layers as they are sent, so only one manifest can be made.
	KindAsIs = "as-is"
	// KindPredicted: its layers are plain, and the digest depends on what is made of them.
	KindPredicted = "predicted"
)

// DigestOptions says which images of an archive are asked about, and how one without a manifest is written.
type DigestOptions struct {
	Which    string // a name or @N; "" is the only image
	All      bool   // every image; then Which is ""
	Platform *v1.Platform
	Prefer   manifest.Prefer
	Recipe   string // as in Options
	Format   Format // of an image without a manifest, or one that is asked about alone
	// Algorithm is that of all digests that are answered: other digests of the same bytes. "" is what the bytes are
	// named by. What the bytes say does not change.
	Algorithm digest.Algorithm

	bomb int64 // of tests
}

// Digested is what an archive says about one of its images.
type Digested struct {
	Ref       string          `json:"ref,omitempty"`
	Digest    digest.Digest   `json:"digest,omitempty"` // "": not decided
	Kind      string          `json:"kind"`
	MediaType string          `json:"mediaType,omitempty"`
	Platform  string          `json:"platform,omitempty"`
	ImageID   digest.Digest   `json:"imageID,omitempty"` // of an image
	DiffIDs   []digest.Digest `json:"diffIDs,omitempty"` // computed, where tars were read
	Layers    []DigestedLayer `json:"layers,omitempty"`
	Recipe    string          `json:"recipe,omitempty"`
	Instances []Digested      `json:"instances,omitempty"` // of a list
	Missing   []digest.Digest `json:"missing,omitempty"`   // of a list: what it names and the archive does not have
}

// DigestedLayer is a layer of an image as it is sent.
type DigestedLayer struct {
	Digest      digest.Digest `json:"digest"`
	Size        int64         `json:"size"`
	MediaType   string        `json:"mediaType"`
	Compression string        `json:"compression"`
}

// Digests reads an archive or layout once and returns the digests that its images have, in its order: the ones that Copy
// of it writes to a registry under the same options. "-" is standard input. Everything that belongs to them was
// verified: blobs against their names, tars against the diffIDs. ErrNoRecipe comes together with answers that lack a
// digest; with any other error there are none.
func Digests(ctx context.Context, path string, o *DigestOptions) ([]Digested, error) {
	d := &digester{o: o, want: measuring{algs: []digest.Algorithm{digest.SHA256}, bomb: o.bomb}}
	d.want.recipe = o.Recipe == recipeGzip
	if o.Algorithm != "" {
		d.want = d.want.with(o.Algorithm)
	}
	if path != "-" {
		st, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("%w: %w", err, ErrNotFound)
		} else if err != nil {
			return nil, err
		}
		if st.IsDir() {
			return d.directory(ctx, path)
		}
	}
	out, err := d.archive(ctx, path)
	if err != nil {
		err = fmt.Errorf("archive %s: %w", path, err)
	}
	return out, err
}

// digester answers for the images of one place.
type digester struct {
	o    *DigestOptions
	want measuring
}

// shelf is an image's manifests and configs, and what was found under the digests of its layers.
type shelf interface {
	source
	measure(ctx context.Context, d v1.Descriptor) (*measured, error)
}

func (d *digester) directory(ctx context.Context, path string) ([]Digested, error) {
	c, err := directoryContents(path)
	if errors.Is(err, manifest.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", err, ErrUsage)
	}
	if err != nil {
		return nil, err
	}
	return d.each(c, func(i int) (Digested, error) {
		src, err := openSource(&Env{}, c.Ref(i))
		if err != nil {
			return Digested{}, err
		}
		out, err := d.top(ctx, unpackedPlace{src, d.want})
		return out, errors.Join(err, src.close())
	})
}

func (d *digester) archive(ctx context.Context, path string) ([]Digested, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	out, err := d.opened(ctx, f, path)
	return out, errors.Join(err, f.Close())
}

// opened reads a plain tar in a file where it is, several entries at once; everything else as it streams by.
func (d *digester) opened(ctx context.Context, f *os.File, path string) ([]Digested, error) {
	plain, err := isPlainTar(f)
	if err != nil {
		return nil, err
	}
	if !plain {
		return d.stream(ctx, f, path)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	x, err := scanFile(ctx, f, st.Size(), d.want)
	if err != nil {
		return nil, err
	}
	return d.answers(ctx, x, path)
}

// stream answers for an archive that is read once.
func (d *digester) stream(ctx context.Context, f io.Reader, path string) ([]Digested, error) {
	x, err := scanTar(ctx, f, d.want)
	if err != nil {
		return nil, err
	}
	return d.answers(ctx, x, path)
}

// answers are those of an archive that was read.
func (d *digester) answers(ctx context.Context, x *scan, path string) ([]Digested, error) {
	c, err := archiveContents(x)
	if errors.Is(err, manifest.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", err, ErrUsage)
	}
	if err != nil {
		return nil, err
	}
	c.Path = path
	if c.Transport == manifest.DockerArchive {
		return d.each(c, func(i int) (Digested, error) { return d.saved(ctx, x, i) })
	}
	idx, err := readArchiveIndex(x)
	if err != nil {
		return nil, err
	}
	return d.each(c, func(i int) (Digested, error) { return d.top(ctx, scanned{x, idx.Manifests[i]}) })
}

// each answers for the images that were asked for.
func (d *digester) each(c *Contents, answer func(i int) (Digested, error)) ([]Digested, error) {
	var which []int
	if d.o.All && len(c.Images) > 0 {
		for i := range c.Images {
			which = append(which, i)
		}
	} else {
		i, err := c.Pick(d.o.Which)
		if err != nil {
			return nil, err
		}
		which = []int{i}
	}
	var out []Digested
	var undecided error
	for _, i := range which {
		one, err := answer(i)
		if errors.Is(err, ErrNoRecipe) {
			undecided = err
		} else if err != nil {
			return nil, fmt.Errorf("image @%d: %w", i, err)
		}
		if len(c.Images[i].Names) > 0 {
			one.Ref = c.Images[i].Names[0]
		}
		out = append(out, one)
	}
	return out, undecided
}

// top answers for an image or list whose manifest is there.
func (d *digester) top(ctx context.Context, src shelf) (Digested, error) {
	doc, err := src.top(ctx)
	if err != nil {
		return Digested{}, lacking(err)
	}
	if !manifest.IsList(doc.mediaType) {
		return d.image(ctx, src, instance{desc: descriptorOf(doc), doc: doc}, d.o.Platform)
	}
	if d.o.Format != "" && d.o.Platform == nil {
		return Digested{}, fmt.Errorf("what a list becomes in another format is not foretold; choose an image with --platform: %w", ErrUsage)
	}
	list, err := manifest.ParseList(doc.raw, doc.mediaType)
	if err != nil {
		return Digested{}, fmt.Errorf("list %s: %w", doc.digest, err)
	}
	if d.o.Platform != nil {
		g := &gatherer{src: src, slots: semaphore.NewWeighted(readsAtOnce)}
		desc, err := g.choose(ctx, list, &Options{Platform: d.o.Platform, Prefer: d.o.Prefer}, 1)
		if err != nil {
			return Digested{}, fmt.Errorf("list %s: %w", doc.digest, err)
		}
		one, err := src.manifest(ctx, desc)
		if err != nil {
			return Digested{}, lacking(err)
		}
		return d.image(ctx, src, instance{desc: desc, doc: one}, nil) // it is for that platform because the list says so
	}
	out := d.answer(doc)
	l := &listDigester{digester: d, src: src, seen: make(map[digest.Digest]bool), out: &out}
	if err := l.below(ctx, list, 1); err != nil {
		return Digested{}, err
	}
	if len(out.Instances) == 0 && len(list.Instances) > 0 {
		return Digested{}, fmt.Errorf("list %s: the archive has none of its images: %w", doc.digest, manifest.ErrMalformed)
	}
	return out, nil
}

// answer begins what is said of a manifest or list that is there.
func (d *digester) answer(doc document) Digested {
	return Digested{Digest: d.named(doc.digest, doc.raw), Kind: KindStored, MediaType: doc.mediaType}
}

// named is a digest of these bytes in the algorithm that was asked for.
func (d *digester) named(is digest.Digest, raw []byte) digest.Digest {
	if d.o.Algorithm == "" || d.o.Algorithm == is.Algorithm() {
		return is
	}
	return d.o.Algorithm.FromBytes(raw)
}

// lacking says that what is not there was named by something that is.
func lacking(err error) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("%w: %w", err, manifest.ErrMalformed)
	}
	return err
}

// image answers for one manifest that is there, and is asked whether it is for a platform, unless that is nil.
func (d *digester) image(ctx context.Context, src shelf, in instance, platform *v1.Platform) (Digested, error) {
	doc := in.doc
	out := d.answer(doc)
	in, err := readInstance(ctx, src, in.desc, doc)
	if err != nil {
		return out, lacking(err)
	}
	if platform != nil {
		if err := in.serves(*platform); err != nil {
			return out, err
		}
	}
	if in.image == nil {
		for _, b := range in.blobs {
			if _, err := d.layer(ctx, src, manifest.Layer{Descriptor: b}); err != nil {
				return out, err
			}
		}
		return out, nil
	}
	var found []*measured
	for i, l := range in.image.Layers {
		m, err := d.layer(ctx, src, l)
		if err != nil {
			return out, fmt.Errorf("%s: layer %d (%s): %w", doc.digest, i, l.Digest, err)
		}
		found = append(found, m)
	}
	if d.o.Format != "" && d.o.Format.image() != doc.mediaType {
		with, other, err := withLayers(in.image, in.image.Manifest.Layers, d.o.Format.image())
		if err != nil {
			return out, err
		}
		in.image, out.Digest, out.MediaType, out.Kind = with, d.named(other.digest, other.raw), other.mediaType, KindAsIs
	}
	return d.describe(out, in.image, found)
}

// layer finds a blob and compares it with what names it.
func (d *digester) layer(ctx context.Context, src shelf, l manifest.Layer) (*measured, error) {
	m, err := src.measure(ctx, l.Descriptor)
	if errors.Is(err, ErrNotFound) && len(l.URLs) > 0 {
		return nil, nil // a foreign layer, which is not sent either
	}
	if err != nil {
		return nil, lacking(err)
	}
	if m.size != l.Size || m.digests[l.Digest.Algorithm()] != l.Digest {
		return nil, fmt.Errorf("the bytes are %s: %w", m.digests[l.Digest.Algorithm()], manifest.ErrDigestMismatch)
	}
	return m, m.checkTar(l)
}

// checkTar compares what is inside with the config, where that speaks of a tar.
func (m *measured) checkTar(l manifest.Layer) error {
	if l.Binding != manifest.BindTar {
		return nil
	}
	if m.broken != nil {
		return m.broken
	}
	got, ok := m.tars[l.DiffID.Algorithm()]
	if !ok {
		alg := l.DiffID.Algorithm()
		return fmt.Errorf("its diffID is a %s digest, which was not computed; say --algorithm %s: %w", alg, alg, ErrUsage)
	}
	return checkDiffID(l, got)
}

// describe says the rest about an image.
func (d *digester) describe(out Digested, im *manifest.Image, found []*measured) (Digested, error) {
	out.Platform = manifest.FormatPlatform(im.Config.Platform)
	out.ImageID = d.named(im.Manifest.Config.Digest, im.Config.Raw)
	for i, l := range im.Layers {
		said, diffID := DigestedLayer{Digest: l.Digest, Size: l.Size, MediaType: l.MediaType}, l.DiffID
		if m := found[i]; m != nil {
			said.Compression = m.compression
			if alg := d.o.Algorithm; alg != "" {
				said.Digest = m.digests[alg]
				if l.Binding == manifest.BindTar {
					diffID = m.tars[alg]
				}
			}
		}
		if l.TOC != nil {
			said.Compression = algoChunked
		}
		out.Layers, out.DiffIDs = append(out.Layers, said), append(out.DiffIDs, diffID)
	}
	return out, nil
}

// listDigester answers for what a list names, each once.
type listDigester struct {
	*digester
	src  shelf
	seen map[digest.Digest]bool
	out  *Digested
}

func (l *listDigester) below(ctx context.Context, list *manifest.List, depth int) error {
	for _, desc := range list.Instances {
		if l.seen[desc.Digest] {
			continue
		}
		l.seen[desc.Digest] = true
		if len(l.seen) > maxInstances {
			return fmt.Errorf("more than %d manifests: %w", maxInstances, manifest.ErrUnsupported)
		}
		doc, err := l.src.manifest(ctx, desc)
		if err == nil && manifest.IsList(desc.MediaType) {
			err = l.nested(ctx, doc, depth)
		} else if err == nil {
			var one Digested
			if one, err = l.image(ctx, l.src, instance{desc: desc, doc: doc}, nil); err == nil {
				if p, ok := manifest.PlatformOf(desc); ok {
					one.Platform = manifest.FormatPlatform(p)
				}
				l.out.Instances = append(l.out.Instances, one)
			}
		}
		if errors.Is(err, ErrNotFound) { // of a platform that was not saved
			l.out.Missing = append(l.out.Missing, desc.Digest)
		} else if err != nil {
			return fmt.Errorf("%s: %w", desc.Digest, err)
		}
	}
	return nil
}

func (l *listDigester) nested(ctx context.Context, doc document, depth int) error {
	if depth >= maxDepth {
		return fmt.Errorf("more than %d lists in each other: %w", maxDepth, manifest.ErrUnsupported)
	}
	list, err := manifest.ParseList(doc.raw, doc.mediaType)
	if err != nil {
		return err
	}
	return l.below(ctx, list, depth+1)
}

// saved answers for an image of an archive that has no manifests.
func (d *digester) saved(ctx context.Context, x *scan, i int) (Digested, error) {
	files, err := findSaved(ctx, x, manifest.Ref{Transport: manifest.DockerArchive, Index: i})
	if err != nil {
		return Digested{}, lacking(err)
	}
	c, err := manifest.ParseConfig(files.config)
	if err != nil {
		return Digested{}, fmt.Errorf("config: %w", err)
	}
	var layers []savedLayer
	var found []*measured
	for _, name := range files.layers {
		m, err := x.find(name)
		if err != nil {
			return Digested{}, err
		}
		found = append(found, m)
		layers = append(layers, savedLayer{m.compression, m.size, m.digests[digest.SHA256]})
	}
	doc, m, err := describeSaved(c, layers)
	if err != nil {
		return Digested{}, err
	}
	im, err := manifest.NewImage(m, c)
	if err != nil {
		return Digested{}, err
	}
	for i, l := range im.Layers {
		if err := found[i].checkTar(l); err != nil {
			return Digested{}, fmt.Errorf("layer %d (%s): %w", i, files.layers[i], err)
		}
	}
	return d.made(im, doc, found)
}

// made says which digest an image gets whose manifest is made here, and by which way. The layers are verified.
func (d *digester) made(im *manifest.Image, doc document, found []*measured) (Digested, error) {
	out := Digested{Kind: KindAsIs}
	if slices.ContainsFunc(found, func(m *measured) bool { return m.compression == algoNone }) {
		out.Kind, out.Recipe = KindPredicted, d.o.Recipe
	}
	if p := d.o.Platform; p != nil {
		if err := (instance{doc: doc, image: im}).serves(*p); err != nil {
			return out, err
		}
	}
	if out.Kind == KindPredicted && out.Recipe == "" {
		out, err := d.describe(out, im, found)
		out.Layers = nil
		return out, errors.Join(err, fmt.Errorf("nothing says how its plain layers will be compressed: %w", ErrNoRecipe))
	}
	layers := make([]v1.Descriptor, len(im.Layers))
	for i, l := range im.Layers {
		layers[i] = l.Descriptor
		if out.Recipe == recipeGzip && found[i].compression == algoNone {
			layers[i], found[i] = found[i].recipe, found[i].packed
		}
	}
	form := doc.mediaType
	if d.o.Format != "" {
		form = d.o.Format.image()
	}
	im, doc, _, err := inForm([]string{form}, im, doc, layers)
	if err != nil {
		return out, err
	}
	out.Digest, out.MediaType = d.named(doc.digest, doc.raw), doc.mediaType
	return d.describe(out, im, found)
}
