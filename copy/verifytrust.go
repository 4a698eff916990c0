package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// Compared is what came of comparing the two readings of one image's layers.
type Compared struct {
	Digest   digest.Digest
	Platform string `json:",omitempty"`
	Trust    string
	Layers   int          // how many have a second reading that was compared
	Reason   string       `json:",omitempty"` // why not all of them were
	Differs  []TwoReading `json:",omitempty"` // empty: both readings of what was compared are one
}

// TwoReading is one thing that a layer's table of contents and its tar say differently.
type TwoReading struct {
	Layer digest.Digest
	File  string `json:",omitempty"` // "" when it is the layer as a whole
	// What differs: see chunked.Difference; of the whole layer "tar-split", which cannot give the tar again, or
	// "diff_id", which is not the tar's digest.
	What   string
	Detail string `json:",omitempty"`
}

// VerifyTrust compares the table of contents of every layer with its tar, for what a reference names: of a list for
// every image of it, or the one for a platform. It reads the layers and keeps nothing. A sentinel variant has one reading
// only, so there is nothing to compare. ErrDiffID if something differs; all that was compared is returned with it. It
// asks no policy.
func VerifyTrust(ctx context.Context, env *Env, ref manifest.Ref, o *Options) (_ []Compared, err error) {
	if o == nil {
		o = &Options{}
	}
	src, err := openFor(env, ref, o.Platform)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	if stored, ok := src.(*storeSource); ok && o.Platform == nil {
		if o, err = stored.present(ctx, o); err != nil {
			return nil, err
		}
	}
	s, err := gather(ctx, src, o)
	if err != nil {
		return nil, err
	}
	c := &comparer{env: env, from: src, done: make(map[readingsKey][]TwoReading)}
	var out []Compared
	differs := 0
	for _, in := range s.instances {
		if in.image == nil {
			continue // neither a container image nor anything with two readings
		}
		one, err := c.image(ctx, in)
		if err != nil {
			return out, fmt.Errorf("image %s: %w", in.desc.Digest, err)
		}
		out = append(out, one)
		if len(one.Differs) > 0 {
			differs++
		}
	}
	if differs > 0 {
		err = fmt.Errorf("%s: of %d images %d can be read in two ways: %w", ref, len(out), differs, ErrDiffID)
	}
	return out, err
}

// comparer compares each layer once, in however many images of a list it is.
type comparer struct {
	env  *Env
	from source
	done map[readingsKey][]TwoReading
}

type readingsKey struct{ blob, toc, diffID digest.Digest }

func (c *comparer) image(ctx context.Context, in instance) (Compared, error) {
	out := Compared{Digest: in.desc.Digest, Trust: in.image.Trust.String()}
	if p, ok := manifest.PlatformOf(in.desc); ok {
		out.Platform = manifest.FormatPlatform(p)
	}
	if in.image.Sentinel() {
		out.Reason = "its tables of contents are its only reading"
		return out, nil
	}
	for i, l := range in.image.Layers {
		if l.TOC == nil {
			out.Reason = "a layer without a table of contents has one reading only"
			continue
		}
		key := readingsKey{l.Digest, l.TOC.Digest, l.DiffID}
		found, ok := c.done[key]
		if !ok {
			var err error
			if found, err = c.layer(ctx, l); errors.Is(err, errOneReading) {
				out.Reason = err.Error()
				continue
			} else if err != nil {
				return out, fmt.Errorf("layer %d (%s): %w", i, l.Digest, err)
			}
			c.done[key] = found
		}
		out.Layers++
		out.Differs = append(out.Differs, found...)
	}
	return out, nil
}

// errOneReading: a layer has one reading only, or the place has only one of it.
var errOneReading = errors.New("a layer is read as its tar only")

// layer compares the two readings of one layer.
func (c *comparer) layer(ctx context.Context, l manifest.Layer) (out []TwoReading, err error) {
	meter := c.env.progress().Start("compare "+shortDigest(l.Digest), l.Size)
	defer func() { meter.Done(err) }()
	blob, err := spoolBlob(ctx, c.from, l.Descriptor, meter)
	if stored, ok := c.from.(*storeSource); ok && errors.Is(err, store.ErrNotFound) {
		return c.stored(ctx, stored, l)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	whole := func(what string, format string, args ...any) {
		out = append(out, TwoReading{Layer: l.Digest, What: what, Detail: fmt.Sprintf(format, args...)})
	}
	found, tar, err := compareReadings(ctx, blob, l)
	if errors.Is(err, chunked.ErrUnsayable) {
		err = fmt.Errorf("%w: %w", errOneReading, err)
	}
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		out = append(out, TwoReading{Layer: l.Digest, File: d.Name, What: d.What})
	}
	if tar != l.DiffID {
		whole("diff_id", "the tar is %s, the config says %s", tar, l.DiffID)
	}
	if !l.Provable() || len(found) > 0 {
		return out, nil // there is nothing to build a tar from, or it is another one already
	}
	again, err := rebuiltTar(ctx, blob, l)
	switch {
	case errors.Is(err, chunked.ErrUnsayable) && len(out) == 0:
		return nil, fmt.Errorf("%w: a table of contents cannot stand for its tar: %w", errOneReading, err)
	case errors.Is(err, chunked.ErrUnsayable):
	case errors.Is(err, ErrDiffID), errors.Is(err, chunked.ErrMalformed):
		whole("tar-split", "%v", err)
	case err != nil:
		return nil, err
	case again != tar:
		whole("tar-split", "with it the tar becomes %s", again)
	}
	return out, nil
}

// stored asks the store about a layer whose blob it did not keep: it rebuilt the tar and compared it, or does so now.
func (c *comparer) stored(ctx context.Context, from *storeSource, l manifest.Layer) ([]TwoReading, error) {
	n, err := from.layerOf(l.Digest, false)
	if err != nil {
		return nil, err
	}
	row, err := c.env.Store.Layer(n)
	if err != nil {
		return nil, err
	}
	if row.TOC == "" {
		return nil, fmt.Errorf("%w: it came into the store so", errOneReading)
	}
	err = c.env.Pool.VerifyDiffID(ctx, n, l.DiffID)
	if errors.Is(err, fill.ErrDiffID) {
		return []TwoReading{{Layer: l.Digest, What: "diff_id", Detail: err.Error()}}, nil
	}
	return nil, err
}

// compareReadings derives a layer's index from its tar and says how the table of contents differs from it. It returns the
// digest of the tar too.
func compareReadings(ctx context.Context, blob *os.File, l manifest.Layer) (found []chunked.Difference, tar digest.Digest, err error) {
	toc, err := readIndex(ctx, blob, l)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, toc.Close()) }()
	if _, err := blob.Seek(0, io.SeekStart); err != nil {
		return nil, "", err
	}
	stream, err := compression.NewReader(blob)
	if err != nil {
		return nil, "", err
	}
	h := l.DiffID.Algorithm().Digester()
	derived, err := chunked.DeriveIndex(toc.ws, io.TeeReader(stream, h.Hash()), toc.index)
	if err := errors.Join(err, stream.Close()); err != nil {
		return nil, "", err
	}
	if !toc.index.Same(derived) {
		x, err := chunked.OpenIndex(derived)
		if err != nil {
			return nil, "", err
		}
		if found = chunked.CompareIndexes(toc.index, x); len(found) == 0 {
			found = []chunked.Difference{{What: "names given again"}}
		}
	}
	return found, h.Digest(), nil
}

// rebuiltTar is the digest of the tar that a layer's table of contents and tar-split give.
func rebuiltTar(ctx context.Context, blob io.ReaderAt, l manifest.Layer) (digest.Digest, error) {
	view, err := openTOCView(ctx, struct { // the blob stays ours
		io.ReaderAt
		io.Closer
	}{blob, io.NopCloser(nil)}, l)
	if err != nil {
		return "", err
	}
	h := l.DiffID.Algorithm().Digester()
	_, err = io.Copy(h.Hash(), view)
	return h.Digest(), errors.Join(err, view.Close())
}
