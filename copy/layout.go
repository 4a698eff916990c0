package copy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// layout is a directory in the OCI image layout, as a source or a destination. Blobs are files named by their digests;
// index.json names the images, and instances of lists are in no index.json entry of their own (L24).
type layout struct {
	ref manifest.Ref
}

const (
	layoutFile   = "oci-layout"
	indexFile    = "index.json"
	maxIndexSize = 4 << 20
)

func openLayout(ref manifest.Ref) (*layout, error) {
	l := &layout{ref: ref}
	raw, err := readLimited(filepath.Join(ref.Path, layoutFile), maxIndexSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is no OCI layout, it has no %s file: %w", ref.Path, layoutFile, ErrNotFound)
	}
	if err == nil {
		err = checkLayoutFile(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Path, err)
	}
	return l, nil
}

// checkLayoutFile refuses an oci-layout file of another version than the one that is read. It is pure.
func checkLayoutFile(raw []byte) error {
	var l v1.ImageLayout
	if err := json.Unmarshal(raw, &l); err != nil || l.Version != v1.ImageLayoutVersion {
		return fmt.Errorf("%s does not say version %s: %w", layoutFile, v1.ImageLayoutVersion, manifest.ErrUnsupported)
	}
	return nil
}

// parseLayoutIndex reads index.json. It is pure.
func parseLayoutIndex(raw []byte) (v1.Index, error) {
	var idx v1.Index
	if err := manifest.Decode(raw, &idx, "manifests"); err != nil {
		return idx, fmt.Errorf("%s: %w", indexFile, err)
	}
	return idx, nil
}

func createLayout(ref manifest.Ref) (*layout, error) {
	if ref.Index >= 0 || ref.Digest != "" {
		return nil, fmt.Errorf("%s: a destination in a layout has a name or none, not a position or digest: %w", ref, ErrUsage)
	}
	l := &layout{ref: ref}
	path := filepath.Join(ref.Path, layoutFile)
	if _, err := os.Stat(path); err == nil {
		if l, err = openLayout(ref); err != nil {
			return nil, err
		}
		return l, l.sweep()
	}
	if err := os.MkdirAll(filepath.Join(ref.Path, v1.ImageBlobsDir), 0o755); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	return l, l.replace(layoutFile, raw)
}

// index reads index.json; a layout that has none yet has no images.
func (l *layout) index() (v1.Index, error) {
	raw, err := readLimited(filepath.Join(l.ref.Path, indexFile), maxIndexSize)
	if errors.Is(err, fs.ErrNotExist) {
		idx := v1.Index{MediaType: v1.MediaTypeImageIndex}
		idx.SchemaVersion = 2
		return idx, nil
	}
	if err != nil {
		return v1.Index{}, err
	}
	idx, err := parseLayoutIndex(raw)
	if err != nil {
		return idx, fmt.Errorf("%s: %w", l.ref.Path, err)
	}
	return idx, nil
}

func (l *layout) top(ctx context.Context) (document, error) {
	idx, err := l.index()
	if err != nil {
		return document{}, err
	}
	d, err := findEntry(idx.Manifests, l.ref)
	if err != nil {
		return document{}, fmt.Errorf("%s: %w", l.ref.Path, err)
	}
	return l.manifest(ctx, d)
}

// findEntry is the entry of index.json that a reference names. It is pure.
func findEntry(entries []v1.Descriptor, ref manifest.Ref) (v1.Descriptor, error) {
	if ref.Index < 0 && ref.Digest == "" && ref.Name == "" {
		// An index of referrers is not the image that is meant.
		entries = slices.DeleteFunc(slices.Clone(entries), func(d v1.Descriptor) bool { return isReferrersTag(d.Annotations[v1.AnnotationRefName]) })
	}
	switch {
	case ref.Index >= 0:
		if ref.Index >= len(entries) {
			return v1.Descriptor{}, fmt.Errorf("entry @%d of %d: %w", ref.Index, len(entries), ErrNotFound)
		}
		return entries[ref.Index], nil
	case ref.Digest != "":
		i := slices.IndexFunc(entries, func(d v1.Descriptor) bool { return d.Digest == ref.Digest })
		if i < 0 {
			return v1.Descriptor{}, fmt.Errorf("no entry %s: %w", ref.Digest, ErrNotFound)
		}
		return entries[i], nil
	case ref.Name != "":
		i := slices.IndexFunc(entries, func(d v1.Descriptor) bool { return d.Annotations[v1.AnnotationRefName] == ref.Name })
		if i < 0 {
			return v1.Descriptor{}, fmt.Errorf("no image is named %q: %w", ref.Name, ErrNotFound)
		}
		return entries[i], nil
	case len(entries) == 1:
		return entries[0], nil
	case len(entries) == 0:
		return v1.Descriptor{}, fmt.Errorf("the layout holds no image: %w", ErrNotFound)
	}
	return v1.Descriptor{}, fmt.Errorf("%d images; say which by its name, @POSITION or @DIGEST: %w", len(entries), ErrUsage)
}

func (l *layout) path(d digest.Digest) (string, error) {
	name, err := blobName(d)
	return filepath.Join(l.ref.Path, name), err
}

func (l *layout) open(d digest.Digest) (*os.File, error) {
	path, err := l.path(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s of %s: %w", d, l.ref.Path, ErrNotFound)
	}
	return f, err
}

func (l *layout) manifest(ctx context.Context, d v1.Descriptor) (document, error) {
	return manifestBlob(ctx, l, d)
}

func (l *layout) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	f, err := l.open(d.Digest)
	if err != nil {
		return nil, err
	}
	return newVerified(f, d), nil
}

func (l *layout) layer(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return l.blob(ctx, d)
}

func (l *layout) ranged(d v1.Descriptor) (fill.Source, store.Source) {
	return readerRanges{func(context.Context) (readerAtCloser, error) { return l.open(d.Digest) }}, store.Source{}
}

// has trusts a file of the right name and size: blobs enter a layout by rename, when they are whole and verified.
func (l *layout) has(ctx context.Context, d v1.Descriptor) (bool, error) {
	path, err := l.path(d.Digest)
	if err != nil {
		return false, err
	}
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && st.Size() == d.Size, err
}

func (l *layout) put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	body, err := open()
	if err != nil {
		return err
	}
	out, err := l.create()
	if err != nil {
		return errors.Join(err, body.Close())
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{body}, make([]byte, streamBuffer))
	if err := errors.Join(err, body.Close()); err != nil {
		return errors.Join(err, out.abort())
	}
	return out.commit(ctx, d)
}

func (l *layout) putManifest(ctx context.Context, doc document) error {
	return l.put(ctx, descriptorOf(doc), opener(doc.raw))
}

// commit names the image in index.json, which other processes may be writing too.
func (l *layout) commit(ctx context.Context, doc document) error {
	if err := l.putManifest(ctx, doc); err != nil {
		return err
	}
	return l.reindex(func(entries []v1.Descriptor) ([]v1.Descriptor, error) {
		return nameEntry(entries, descriptorOf(doc), l.ref.Name), nil
	})
}

// reindex changes the entries of index.json while no other copy does. An error of change leaves them as they are.
func (l *layout) reindex(change func([]v1.Descriptor) ([]v1.Descriptor, error)) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	idx, err := l.index()
	if err != nil {
		return err
	}
	if idx.Manifests, err = change(idx.Manifests); err != nil {
		return err
	}
	raw, err := json.Marshal(idx)
	if err != nil {
		return err
	}
	return l.replace(indexFile, raw)
}

// nameEntry adds an image to the entries of index.json: its name leaves the entry that had it, and an entry without a
// name for the same digest is replaced (L24). It is pure.
func nameEntry(entries []v1.Descriptor, d v1.Descriptor, name string) []v1.Descriptor {
	if name != "" {
		d.Annotations = map[string]string{v1.AnnotationRefName: name}
	}
	entries = slices.DeleteFunc(slices.Clone(entries), func(e v1.Descriptor) bool {
		had := e.Annotations[v1.AnnotationRefName]
		return name != "" && had == name || had == "" && e.Digest == d.Digest
	})
	return append(entries, d)
}

func (l *layout) close() error { return nil }
