package copy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// dockerArchive is what docker save writes, of every age, as a source. Such an archive has configs and layers but often
// no manifest: then one is made whose blobs are the archive's own bytes. The tar is not unpacked.
type dockerArchive struct {
	archiveIn
	ref manifest.Ref
	// want, if not "", is what the image was asked for by: its ID, or the digest of its manifest or list.
	want digest.Digest

	loading sync.Mutex
	doc     document
	made    bool                          // doc is not the archive's
	blobs   map[digest.Digest]archiveBlob // nil until the image was looked for; then never written again
}

// archiveBlob is where a blob is: in the archive, or in memory.
type archiveBlob struct {
	at     span
	raw    []byte
	diffID digest.Digest // what its tar must be, when that is not the blob itself
}

// archiveImage is one image as the archive has it.
type archiveImage struct {
	config []byte
	layers []string // their files, bottom to top
}

func openDockerArchive(ref manifest.Ref) *dockerArchive {
	return &dockerArchive{archiveIn: archiveIn{path: ref.Path}, ref: ref}
}

func (a *dockerArchive) top(ctx context.Context) (document, error) {
	err := a.load(ctx)
	return a.doc, err
}

// load opens the archive and finds the image that the reference names, once.
func (a *dockerArchive) load(ctx context.Context) error {
	a.loading.Lock()
	defer a.loading.Unlock()
	if a.blobs != nil {
		return nil
	}
	x, err := a.open(ctx)
	if err != nil {
		return err
	}
	if err := a.choose(ctx, x); err != nil {
		return fmt.Errorf("archive %s: %w", a.path, err)
	}
	return nil
}

func (a *dockerArchive) choose(ctx context.Context, x *tarIndex) error {
	im, err := findSaved(ctx, x, a.ref)
	if err != nil {
		return err
	}
	c, err := manifest.ParseConfig(im.config)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	doc, m, err := storedManifest(x, im)
	if errors.Is(err, ErrNotFound) {
		doc, m, err = buildManifest(ctx, x, im, c)
		a.made = true
	}
	if err != nil {
		return err
	}
	full, err := manifest.NewImage(m, c)
	if err != nil {
		return fmt.Errorf("image %s: %w", doc.digest, err)
	}
	if err := a.wanted(x, doc, m); err != nil {
		return err
	}
	blobs := map[digest.Digest]archiveBlob{m.Config.Digest: {raw: im.config}}
	for i, l := range full.Layers {
		at, err := x.find(im.layers[i])
		if err != nil {
			return err
		}
		b := archiveBlob{at: at}
		if l.Binding == manifest.BindTar && l.DiffID != l.Digest {
			b.diffID = l.DiffID
		}
		blobs[l.Digest] = b
	}
	a.doc, a.blobs = doc, blobs
	return nil
}

// buildManifest describes an image whose manifest nobody kept. A plain tar is its own diffID, so nothing is read for it
// here; a compressed layer is hashed.
func buildManifest(ctx context.Context, x *tarIndex, im archiveImage, c *manifest.Config) (document, *manifest.Manifest, error) {
	var layers []savedLayer
	for i, name := range im.layers {
		l, err := readSavedLayer(ctx, x, name)
		if err != nil {
			return document{}, nil, fmt.Errorf("layer %d: %w", i, err)
		}
		layers = append(layers, l)
	}
	return describeSaved(c, layers)
}

func readSavedLayer(ctx context.Context, x *tarIndex, name string) (l savedLayer, err error) {
	at, err := x.find(name)
	if err != nil {
		return l, err
	}
	l.size = at.size
	if l.compression, err = compressionAt(x, at); err == nil && l.compression != algoNone {
		l.digest, err = digestOf(ctx, x.section(at))
	}
	return l, err
}

func compressionAt(x *tarIndex, at span) (string, error) {
	head := make([]byte, 4)
	n, err := x.section(at).ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	return compression.Sniff(head[:n]), nil
}

func (a *dockerArchive) manifest(_ context.Context, d v1.Descriptor) (document, error) {
	return document{}, fmt.Errorf("manifest %s: a docker archive holds no lists: %w", d.Digest, ErrNotFound)
}

// blob verifies the tar inside a compressed layer too.
func (a *dockerArchive) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	body, err := a.layer(ctx, d)
	if err != nil {
		return nil, err
	}
	if want := a.blobs[d.Digest].diffID; want != "" {
		return newTarVerified(body, want), nil
	}
	return body, nil
}

func (a *dockerArchive) layer(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if err := a.load(ctx); err != nil {
		return nil, err
	}
	b, ok := a.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s of %s: %w", d.Digest, a.ref, ErrNotFound)
	}
	if b.raw != nil {
		return newVerified(io.NopCloser(bytes.NewReader(b.raw)), d), nil
	}
	return newVerified(sectionCloser{a.index.section(b.at)}, d), nil
}

// ranged knows only what top found; for anything else blob says why not.
func (a *dockerArchive) ranged(d v1.Descriptor) (fill.Source, store.Source) {
	a.loading.Lock()
	defer a.loading.Unlock()
	b, ok := a.blobs[d.Digest]
	if !ok || b.raw != nil {
		return nil, store.Source{}
	}
	return a.index.ranged(b.at)
}

// tarVerified reads a compressed layer and fails before EOF when the tar inside is not the diffID's.
type tarVerified struct {
	blob   io.ReadCloser
	want   digest.Digest
	inside *io.PipeWriter
	result chan error // of the goroutine that decompresses; it ends when inside is closed
	err    error
	done   bool
}

func newTarVerified(blob io.ReadCloser, want digest.Digest) *tarVerified {
	r, w := io.Pipe()
	t := &tarVerified{blob: blob, want: want, inside: w, result: make(chan error, 1)}
	go func() {
		err := checkTar(r, want)
		r.CloseWithError(err)
		t.result <- err
	}()
	return t
}

func checkTar(blob io.Reader, want digest.Digest) error {
	in, err := compression.NewReader(blob)
	if err != nil {
		return err
	}
	check := want.Verifier()
	_, err = io.CopyBuffer(check, struct{ io.Reader }{in}, make([]byte, streamBuffer))
	if err := errors.Join(err, in.Close()); err != nil {
		return err
	}
	if !check.Verified() {
		return fmt.Errorf("the config says %s: %w", want, ErrDiffID)
	}
	return nil
}

func (t *tarVerified) Read(p []byte) (int, error) {
	if t.done {
		return 0, t.err
	}
	n, err := t.blob.Read(p)
	if n > 0 {
		// What the decompressor has against the bytes is told at the end, after what the blob's digest has.
		_, _ = t.inside.Write(p[:n])
	}
	if err == nil {
		return n, nil
	}
	t.finish(err)
	return n, t.err
}

func (t *tarVerified) finish(err error) {
	t.done, t.err = true, err
	t.inside.CloseWithError(err)
	if tarErr := <-t.result; err == io.EOF && tarErr != nil {
		t.err = tarErr
	}
}

func (t *tarVerified) Close() error {
	if !t.done {
		t.finish(io.ErrUnexpectedEOF)
	}
	return t.blob.Close()
}

// dockerArchiveOut is the destination: the layout that docker save writes since version 25, which older ones, podman,
// crane and containerd read too. Layers are plain tars, because what all of these compare is the diffID.
type dockerArchiveOut struct {
	*tarLayout
	configs map[digest.Digest][]byte // of the one image; filled by put
}

func createDockerArchive(ref manifest.Ref) (*dockerArchiveOut, error) {
	l, err := newTarLayout(ref)
	if err != nil {
		return nil, err
	}
	return newDockerArchive(l), nil
}

func newDockerArchive(l *tarLayout) *dockerArchiveOut {
	return &dockerArchiveOut{l, make(map[digest.Digest][]byte)}
}

// plainTars says whether a place holds what docker save writes: one image, its layers as plain tars.
func plainTars(t manifest.Transport) bool {
	return t == manifest.DockerArchive || t == manifest.DockerDaemon
}

// oneImage is what the options become for a place that holds one image: of a list the fallback when nothing was chosen,
// which is said, and rather one whose layers are gzip (L26). It is pure.
func oneImage(top document, o *Options) (_ *Options, notes []string) {
	c := *o
	if manifest.IsList(top.mediaType) && c.Platform == nil && c.Select.all() && c.Select.Fallback != nil {
		c.Platform = c.Select.Fallback
		notes = append(notes, fmt.Sprintf("%s is a list, and the destination holds one image: the one for %s is copied", top.digest, manifest.FormatPlatform(*c.Platform)))
	}
	if c.Prefer == manifest.PreferPlain {
		c.Prefer = manifest.PreferGzip
	}
	return &c, notes
}

// intoDockerArchive is what the options become for a docker archive, or why the copy cannot be. It is pure.
func intoDockerArchive(s situation, o *Options) (*Options, error) {
	switch {
	case s.list != nil:
		return nil, fmt.Errorf("what docker save writes holds one image, not a list of %d; choose one with --platform: %w", len(s.instances), ErrUsage)
	case s.instances[0].image == nil:
		return nil, fmt.Errorf("what docker save writes holds container images, and %s is none: %w", s.top.digest, manifest.ErrUnsupported)
	case o.Compress.Algorithm != "" && o.Compress.Algorithm != algoNone:
		return nil, fmt.Errorf("what docker save writes holds plain tars, so --compress %s means nothing there: %w", o.Compress.Algorithm, ErrUsage)
	case o.Sentinel != "" && o.Sentinel != sentinelNone:
		return nil, fmt.Errorf("what docker save writes holds plain tars, so --sentinel %s means nothing there: %w", o.Sentinel, ErrUsage)
	}
	c := *o
	c.Compress = Compression{Algorithm: algoNone}
	return &c, nil
}

func (o *dockerArchiveOut) put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	if d.MediaType != v1.MediaTypeImageConfig && d.MediaType != manifest.DockerConfig || d.Size > manifest.MaxConfigSize {
		return o.tarLayout.put(ctx, d, open)
	}
	body, err := open()
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(io.LimitReader(body, d.Size+1))
	if err := errors.Join(err, body.Close()); err != nil {
		return err
	}
	o.configs[d.Digest] = raw
	return o.tarLayout.put(ctx, d, opener(raw))
}

func (o *dockerArchiveOut) commit(ctx context.Context, doc document) error {
	saved, annotations, err := o.entry(doc)
	if err != nil {
		return err
	}
	if err := o.end(ctx, doc, annotations); err != nil {
		return err
	}
	if err := o.out.addJSON(ctx, savedFile, []savedImage{saved}); err != nil {
		return err
	}
	return o.out.finish(ctx)
}

// entry is what manifest.json and index.json say of the image.
func (o *dockerArchiveOut) entry(doc document) (savedImage, map[string]string, error) {
	saved, err := o.describe(doc)
	annotations := map[string]string{}
	if err != nil || o.ref.Name == "" {
		return saved, annotations, err
	}
	name, err := manifest.ParseRef("docker://" + o.ref.Name)
	if err != nil {
		return saved, annotations, err
	}
	saved.RepoTags = []string{name.FamiliarName()}
	annotations[annotationImageName] = o.ref.Name
	annotations[v1.AnnotationRefName] = name.Tag
	return saved, annotations, nil
}

// annotationImageName is where docker and containerd keep an image's whole name in an index.
const annotationImageName = "io.containerd.image.name"

// describe makes the image's entry in manifest.json, and refuses layers that readers of it would refuse.
func (o *dockerArchiveOut) describe(doc document) (savedImage, error) {
	s := savedImage{RepoTags: []string{}, Layers: []string{}}
	m, err := manifest.ParseManifest(doc.raw, doc.mediaType)
	if err != nil {
		return s, err
	}
	c, err := manifest.ParseConfig(o.configs[m.Config.Digest])
	if err != nil {
		return s, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	if s.Config, err = blobName(m.Config.Digest); err != nil {
		return s, err
	}
	if len(c.DiffIDs) != len(m.Layers) {
		return s, fmt.Errorf("%d layers, but the config has %d diffIDs: %w", len(m.Layers), len(c.DiffIDs), manifest.ErrMalformed)
	}
	for i, l := range m.Layers {
		if l.Digest != c.DiffIDs[i] {
			return s, fmt.Errorf("layer %d is %s, the config says %s: %w", i, l.Digest, c.DiffIDs[i], ErrDiffID)
		}
		name, err := blobName(l.Digest)
		if err != nil {
			return s, err
		}
		s.Layers = append(s.Layers, name)
	}
	return s, nil
}

// normalName is a name's one spelling, or "" for what is no name.
func normalName(tag string) string {
	if strings.Contains(tag, "@") {
		return ""
	}
	ref, err := manifest.ParseRef("docker://" + tag)
	if err != nil {
		return ""
	}
	return ref.StoreName()
}
