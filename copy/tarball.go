package copy

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// tarball is a source that makes an image of a root file system's tar: one layer, which is the file as it is, and a
// config that says no more than the tar does. The same file for the same platform always gives the same digest.
type tarball struct {
	ref      manifest.Ref
	platform v1.Platform

	mu     sync.Mutex
	file   *os.File // nil until it was read
	size   int64
	doc    document
	config []byte
	tar    v1.Descriptor
}

// newTarball makes the source, for this machine's platform.
func newTarball(ref manifest.Ref) *tarball {
	return &tarball{ref: ref, platform: v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}}
}

func (t *tarball) top(ctx context.Context) (document, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file != nil {
		return t.doc, nil
	}
	if err := t.read(ctx); err != nil {
		return document{}, fmt.Errorf("tar %s: %w", t.ref.Path, err)
	}
	return t.doc, nil
}

// read hashes the file in one pass and describes it. What cannot be read twice is kept in a file without a name.
func (t *tarball) read(ctx context.Context) error {
	f, err := openFile(t.ref.Path)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("a directory, not a tar: %w", manifest.ErrMalformed)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	var keep *os.File
	in := io.Reader(&contextReader{ctx, f})
	if !st.Mode().IsRegular() || f == os.Stdin {
		if keep, err = unnamed("tocsin-tarball-"); err != nil {
			return errors.Join(err, f.Close())
		}
		in = io.TeeReader(in, keep)
	}
	found, err := readRootFS(in)
	if keep != nil {
		err = errors.Join(err, f.Close())
		f = keep
	}
	if err == nil {
		err = t.describe(found)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	t.file, t.size = f, found.size
	return nil
}

// rootFS is what one look at a root file system's tar tells.
type rootFS struct {
	digest, diffID digest.Digest // of the file, and of the tar in it
	size           int64         // of the file
	algorithm      string        // gzip, zstd or none
	newest         time.Time     // of the entries; the epoch when there is none
}

// readRootFS reads a tar to its end, in any compression, and refuses what is none.
func readRootFS(r io.Reader) (rootFS, error) {
	whole, inside := digest.SHA256.Digester(), digest.SHA256.Digester()
	file := &sniffed{r: io.TeeReader(r, whole.Hash())}
	in, err := compression.NewReader(file)
	if err != nil {
		return rootFS{}, fmt.Errorf("%w: %w", err, manifest.ErrMalformed)
	}
	stream := io.TeeReader(in, inside.Hash())
	newest, err := newestEntry(tar.NewReader(stream))
	if err == nil { // what follows the end marker is part of the tar's digest
		_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{stream}, make([]byte, streamBuffer))
	}
	if err == nil && file.n == 0 {
		err = fmt.Errorf("no bytes: %w", manifest.ErrMalformed)
	}
	if err := errors.Join(err, in.Close()); err != nil {
		return rootFS{}, err
	}
	return rootFS{whole.Digest(), inside.Digest(), file.n, compression.Sniff(file.head), newest}, nil
}

// sniffed counts what is read, and remembers the first bytes.
type sniffed struct {
	r    io.Reader
	n    int64
	head []byte
}

func (s *sniffed) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	s.head = append(s.head, p[:min(n, max(0, 4-len(s.head)))]...)
	return n, err
}

// newestEntry walks a tar's headers. Times that JSON cannot say are passed over.
func newestEntry(tr *tar.Reader) (time.Time, error) {
	newest := time.Unix(0, 0).UTC()
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return newest, nil
		}
		if err != nil {
			return newest, fmt.Errorf("entry %d: %w: %w", n, err, manifest.ErrMalformed)
		}
		if t := h.ModTime.UTC().Truncate(time.Second); t.After(newest) && t.Year() <= 9999 {
			newest = t
		}
	}
}

// describe makes the config and the manifest. It depends on the file's bytes and the platform alone.
func (t *tarball) describe(found rootFS) error {
	config, err := json.Marshal(v1.Image{
		Created:  &found.newest,
		Platform: t.platform,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{found.diffID}},
		History:  []v1.History{{Created: &found.newest, CreatedBy: "tarball:"}},
	})
	if err != nil {
		return err
	}
	m := v1.Manifest{MediaType: v1.MediaTypeImageManifest}
	m.SchemaVersion = 2
	m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	t.tar = v1.Descriptor{MediaType: layerMediaType(found.algorithm), Digest: found.digest, Size: found.size}
	m.Layers = []v1.Descriptor{t.tar}
	raw, err := json.Marshal(m)
	t.config, t.doc = config, made(raw, v1.MediaTypeImageManifest)
	return err
}

func (t *tarball) manifest(_ context.Context, d v1.Descriptor) (document, error) {
	return document{}, fmt.Errorf("manifest %s: a tar of a root file system holds no lists: %w", d.Digest, ErrNotFound)
}

// blob fails at its end when the file is not any more what it was when the image was made.
func (t *tarball) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if _, err := t.top(ctx); err != nil {
		return nil, err
	}
	switch d.Digest {
	case digest.FromBytes(t.config):
		return newVerified(io.NopCloser(bytes.NewReader(t.config)), d), nil
	case t.tar.Digest:
		return newVerified(sectionCloser{io.NewSectionReader(t.file, 0, t.size)}, d), nil
	}
	return nil, fmt.Errorf("blob %s of %s: %w", d.Digest, t.ref, ErrNotFound)
}

func (t *tarball) layer(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return t.blob(ctx, d)
}

// ranged gives nothing: there is no table of contents by which anybody would ask for a part.
func (t *tarball) ranged(v1.Descriptor) (fill.Source, store.Source) { return nil, store.Source{} }

func (t *tarball) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	return t.file.Close()
}
