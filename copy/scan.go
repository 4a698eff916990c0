package copy

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// maxScanned bounds the documents of an archive that are kept in memory, in bytes.
const maxScanned = 32 << 20

// scan is what one pass over an archive found out: of every file its digests and what is inside, and its bytes if it is
// a document that may say what the images are. That may come last, so everything is measured as if it were a layer.
type scan struct {
	tarNames[*measured]
	kept int64
}

// scanTar reads a tar, compressed as a whole or not, once and to its end.
func scanTar(ctx context.Context, r io.Reader, m measuring) (*scan, error) {
	in := &atomicCounter{Reader: &contextReader{ctx, r}}
	outer, err := compression.NewReader(in)
	if err != nil {
		return nil, cutOff(err)
	}
	at := &position{Reader: &bounded{Reader: outer, floor: m.bomb, compressed: in.n.Load}}
	x := &scan{tarNames: newTarNames[*measured]()}
	err = x.read(ctx, at, m)
	if err == nil {
		_, err = io.Copy(io.Discard, at) // the rest has the checksum of what is compressed
	}
	err = errors.Join(err, outer.Close())
	if err == nil || in.failed.Load() || errors.Is(err, manifest.ErrUnsupported) || errors.Is(err, manifest.ErrMalformed) {
		return x, err
	}
	return x, fmt.Errorf("%w: %w", err, manifest.ErrMalformed)
}

func (x *scan) read(ctx context.Context, at *position, m measuring) error {
	in := tar.NewReader(at)
	var end int64
	for n := 0; ; n++ {
		h, err := in.Next()
		if err == io.EOF {
			return tarEnd(end, at.n)
		}
		if err != nil {
			return fmt.Errorf("entry %d: %w", n, cutOff(err))
		}
		if n == maxArchiveEntries {
			return fmt.Errorf("more than %d entries: %w", maxArchiveEntries, manifest.ErrMalformed)
		}
		end = at.n + contentSize(h)
		err = x.enter(h, func(name string, old **measured) (*measured, error) {
			return x.take(name, old, func(m measuring) (*measured, error) { return m.read(ctx, in, h.Size) }, m)
		})
		if err != nil {
			return fmt.Errorf("entry %d, %.200q: %w", n, h.Name, err)
		}
	}
}

// take measures one file and decides whether its bytes are kept.
func (x *scan) take(name string, old **measured, read func(measuring) (*measured, error), m measuring) (*measured, error) {
	if x.exists(layoutFile) == nil && x.exists(indexFile) == nil {
		m.recipe = false // a layout says what its layers are
	}
	got, err := read(m.of(name))
	if err != nil {
		return nil, err
	}
	if old != nil {
		if !got.sameBytes(*old) {
			return *old, errTwice()
		}
		return *old, nil
	}
	return got, x.keep(name, got)
}

// keep decides whether a file's bytes are kept.
func (x *scan) keep(name string, got *measured) error {
	if got.raw != nil && !mayDescribe(name, got.raw) {
		got.raw = nil
	}
	if x.kept += int64(len(got.raw)); x.kept > maxScanned {
		return fmt.Errorf("more than %d bytes of documents: %w", maxScanned, manifest.ErrMalformed)
	}
	return nil
}

// scanFile is scanTar for a tar in a file: its entries are looked up first, and then measured side by side.
func scanFile(ctx context.Context, f *os.File, size int64, m measuring) (*scan, error) {
	index, err := indexTar(ctx, f, size)
	if err != nil {
		return nil, err
	}
	if index.exists(layoutFile) == nil && index.exists(indexFile) == nil {
		m.recipe = false
	}
	x := &scan{tarNames: newTarNames[*measured]()}
	x.links = index.links
	names := slices.SortedFunc(maps.Keys(index.files), func(a, b string) int { return cmp.Compare(index.files[a].off, index.files[b].off) })
	var mu sync.Mutex
	slots := semaphore.NewWeighted(int64(runtime.GOMAXPROCS(0)))
	work, together := errgroup.WithContext(ctx)
	for _, name := range names {
		if slots.Acquire(together, 1) != nil {
			break // and work has the reason
		}
		work.Go(func() error {
			defer slots.Release(1)
			at := index.files[name]
			got, err := m.of(name).read(together, index.section(at), at.size)
			if err != nil {
				return fmt.Errorf("%.200q: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			x.files[name] = got
			return x.keep(name, got)
		})
	}
	return x, errors.Join(work.Wait(), ctx.Err())
}

// of is m for a file of that name.
func (m measuring) of(name string) measuring {
	if alg, ok := namedAlgorithm(name); ok {
		return m.with(alg)
	}
	return m
}

// namedAlgorithm is the algorithm of the digest that a layout names a blob by.
func namedAlgorithm(name string) (digest.Algorithm, bool) {
	dir := path.Dir(name)
	alg := digest.Algorithm(path.Base(dir))
	return alg, path.Dir(dir) == v1.ImageBlobsDir && alg.Available()
}

// mayDescribe tells manifests, lists and configs, and the files with fixed names, from other JSON such as SBOMs.
func mayDescribe(name string, raw []byte) bool {
	switch path.Base(name) {
	case layoutFile, indexFile, savedFile, repositoriesFile, "json":
		return true
	}
	return bytes.Contains(raw, []byte(`"schemaVersion"`)) || bytes.Contains(raw, []byte(`"rootfs"`)) ||
		bytes.Contains(raw, []byte(`"architecture"`)) || len(raw) <= 1<<10
}

// readUnverified implements archiveFiles.
func (x *scan) readUnverified(name string, limit int64) ([]byte, error) {
	m, err := x.find(name)
	switch {
	case err != nil:
		return nil, err
	case m.size > limit:
		return nil, fmt.Errorf("%.200q has %d bytes, more than the %d allowed: %w", name, m.size, limit, manifest.ErrMalformed)
	case m.raw == nil:
		return nil, fmt.Errorf("%.200q is not a document: %w", name, manifest.ErrMalformed)
	}
	return m.raw, nil
}

// tarDigest implements archiveFiles.
func (x *scan) tarDigest(_ context.Context, name string) (digest.Digest, error) {
	m, err := x.find(name)
	if err != nil {
		return "", err
	}
	return m.tars[digest.SHA256], m.broken
}

// scanned is an image of an archive that is a layout, as a source of manifests and configs. Its layers went by.
type scanned struct {
	*scan
	entry v1.Descriptor // of index.json
}

func (s scanned) top(ctx context.Context) (document, error) { return s.manifest(ctx, s.entry) }

func (s scanned) manifest(_ context.Context, d v1.Descriptor) (document, error) {
	raw, err := s.document(d, manifest.MaxManifestSize)
	if err != nil {
		return document{}, err
	}
	return described(raw, d)
}

func (s scanned) document(d v1.Descriptor, limit int64) ([]byte, error) {
	name, err := blobName(d.Digest)
	if err != nil {
		return nil, err
	}
	return s.readUnverified(name, limit)
}

func (s scanned) blob(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	raw, err := s.document(d, manifest.MaxConfigSize)
	if err != nil {
		return nil, err
	}
	return newVerified(io.NopCloser(bytes.NewReader(raw)), d), nil
}

func (s scanned) layer(_ context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return nil, fmt.Errorf("layer %s was not kept: %w", d.Digest, manifest.ErrUnsupported)
}

func (s scanned) ranged(v1.Descriptor) (fill.Source, store.Source) { return nil, store.Source{} }

func (s scanned) close() error { return nil }

// measure looks a blob up.
func (s scanned) measure(_ context.Context, d v1.Descriptor) (*measured, error) {
	return s.findBlob(d.Digest)
}

// unpackedPlace is a layout or dir: whose blobs are read when they are asked for.
type unpackedPlace struct {
	source
	want measuring
}

func (u unpackedPlace) measure(ctx context.Context, d v1.Descriptor) (*measured, error) {
	body, err := u.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	m, err := u.want.with(d.Digest.Algorithm()).read(ctx, body, d.Size)
	if err == nil {
		_, err = io.Copy(io.Discard, body) // it is at its end that the reader compares
	}
	return m, errors.Join(err, body.Close())
}

// position counts what was read, by the one goroutine that reads.
type position struct {
	io.Reader
	n int64
}

func (p *position) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.n += int64(n)
	return n, err
}

// atomicCounter counts what was read and remembers a failure, for others to see.
type atomicCounter struct {
	io.Reader
	n      atomic.Int64
	failed atomic.Bool // other than by the end
}

func (c *atomicCounter) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	if err != nil && err != io.EOF {
		c.failed.Store(true)
	}
	return n, err
}
