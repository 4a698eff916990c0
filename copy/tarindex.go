package copy

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// tarIndex knows where the files of a tar are. One pass over the headers makes it; contents stay where they are and are
// read from their offsets, in any order and by several readers at once.
type tarIndex struct {
	tarNames[span]
	r io.ReaderAt
}

// span is a place in the archive, in bytes.
type span struct{ off, size int64 }

// indexTar reads the headers of a tar of that size, and refuses what tarNames refuses.
func indexTar(ctx context.Context, r io.ReaderAt, size int64) (*tarIndex, error) {
	x := &tarIndex{tarNames: newTarNames[span](), r: r}
	section := io.NewSectionReader(r, 0, size)
	in := tar.NewReader(section)
	var end int64
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := in.Next()
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("entry %d: %w: %w", n, err, manifest.ErrMalformed)
		}
		off, seekErr := section.Seek(0, io.SeekCurrent) // the reader takes whole blocks, so this is where the content begins
		if seekErr != nil {
			return nil, seekErr
		}
		if err == io.EOF {
			return x, tarEnd(end, off)
		}
		if n == maxArchiveEntries {
			return nil, fmt.Errorf("more than %d entries: %w", maxArchiveEntries, manifest.ErrMalformed)
		}
		end = off + contentSize(h)
		if err := x.enter(h, span{off, h.Size}); err != nil {
			return nil, fmt.Errorf("entry %d, %.200q: %w", n, h.Name, err)
		}
	}
}

func (x *tarIndex) enter(h *tar.Header, at span) error {
	return x.tarNames.enter(h, func(_ string, old *span) (span, error) {
		if old == nil {
			return at, nil
		}
		same, err := x.same(*old, at)
		if err == nil && !same {
			err = errTwice()
		}
		return *old, err
	})
}

// same compares two contents. It reads each entry of a duplicated name once, however many there are.
func (x *tarIndex) same(a, b span) (bool, error) {
	if a.size != b.size {
		return false, nil
	}
	ra, rb := bufio.NewReader(x.section(a)), bufio.NewReader(x.section(b))
	pa, pb := make([]byte, 4096), make([]byte, 4096)
	for {
		n, err := io.ReadFull(ra, pa)
		if _, err := io.ReadFull(rb, pb[:n]); err != nil {
			return false, fmt.Errorf("%w: %w", err, manifest.ErrMalformed)
		}
		if !bytes.Equal(pa[:n], pb[:n]) {
			return false, nil
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return true, nil
		default:
			return false, err
		}
	}
}

func (x *tarIndex) section(s span) *io.SectionReader { return io.NewSectionReader(x.r, s.off, s.size) }

// readUnverified reads a small file whole. Nothing was compared with a digest.
func (x *tarIndex) readUnverified(name string, limit int64) ([]byte, error) {
	s, err := x.find(name)
	if err != nil {
		return nil, err
	}
	if s.size > limit {
		return nil, fmt.Errorf("%.200q has %d bytes, more than the %d allowed: %w", name, s.size, limit, manifest.ErrMalformed)
	}
	raw := make([]byte, s.size)
	if _, err := io.ReadFull(x.section(s), raw); err != nil {
		return nil, fmt.Errorf("%.200q: %w: %w", name, err, manifest.ErrMalformed)
	}
	return raw, nil
}

// tarDigest implements archiveFiles by reading the file.
func (x *tarIndex) tarDigest(ctx context.Context, name string) (digest.Digest, error) {
	at, err := x.find(name)
	if err != nil {
		return "", err
	}
	in, err := compression.NewReader(x.section(at))
	if err != nil {
		return "", err
	}
	d, err := digestOf(ctx, in)
	return d, errors.Join(err, in.Close())
}

// ranged offers a file of the archive for ranged reads.
func (x *tarIndex) ranged(s span) (fill.Source, store.Source) {
	return readerRanges{func(context.Context) (readerAtCloser, error) { return sectionCloser{x.section(s)}, nil }}, store.Source{}
}

type sectionCloser struct{ *io.SectionReader }

func (sectionCloser) Close() error { return nil }

type readerAtCloser interface {
	io.ReaderAt
	io.Closer
}

// readerRanges reads ranges of a blob that is local.
type readerRanges struct {
	open func(ctx context.Context) (readerAtCloser, error)
}

// ReadRanges implements fill.Source. The bytes are not verified.
func (r readerRanges) ReadRanges(ctx context.Context, ranges []manifest.Range, fn func(manifest.Range, io.Reader) error) error {
	blob, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer blob.Close()
	for _, rg := range ranges {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(rg, io.NewSectionReader(blob, rg.Off, rg.Len)); err != nil {
			return err
		}
	}
	return nil
}

// blobName is where an OCI layout keeps a blob.
func blobName(d digest.Digest) (string, error) {
	if err := manifest.ValidDigest(d); err != nil {
		return "", err
	}
	return path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// archiveIn is an archive that is opened when something of it is asked for first: with standard input that means to
// wait for all of it.
type archiveIn struct {
	path string
	// stream, if not nil, is where the archive comes from; path is then only its name.
	stream func(ctx context.Context) (io.ReadCloser, error)

	mu    sync.Mutex
	file  *os.File
	index *tarIndex
}

func (a *archiveIn) open(ctx context.Context) (*tarIndex, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.index != nil {
		return a.index, nil
	}
	var err error
	if a.stream == nil {
		a.file, a.index, err = openArchive(ctx, a.path)
	} else {
		a.file, a.index, err = openStream(ctx, a.path, a.stream)
	}
	return a.index, err
}

// opened is the index if there is one.
func (a *archiveIn) opened() *tarIndex {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index
}

func (a *archiveIn) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// openArchive opens a tar and indexes it. "-", a pipe, and a compressed tar become a file without a name first, because
// blobs are read in another order than they stand in. The caller closes the file.
func openArchive(ctx context.Context, name string) (*os.File, *tarIndex, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, nil, err
	}
	if f, err = plainTar(ctx, f); err != nil {
		return nil, nil, fmt.Errorf("archive %s: %w", name, err)
	}
	return indexArchive(ctx, name, f)
}

// openStream reads a tar to its end into a file without a name, and indexes it. The caller closes the file.
func openStream(ctx context.Context, name string, open func(ctx context.Context) (io.ReadCloser, error)) (*os.File, *tarIndex, error) {
	in, err := open(ctx)
	if err != nil {
		return nil, nil, err
	}
	f, err := spoolTar(ctx, in)
	if err != nil {
		return nil, nil, fmt.Errorf("archive %s: %w", name, err)
	}
	return indexArchive(ctx, name, f)
}

// indexArchive indexes a file that holds a plain tar, or closes it.
func indexArchive(ctx context.Context, name string, f *os.File) (*os.File, *tarIndex, error) {
	st, err := f.Stat()
	if err == nil {
		var x *tarIndex
		if x, err = indexTar(ctx, f, st.Size()); err == nil {
			return f, x, nil
		}
	}
	return nil, nil, fmt.Errorf("archive %s: %w", name, errors.Join(err, f.Close()))
}

// plainTar returns f, or closes it and returns a file that can be read anywhere and holds the tar inside.
func plainTar(ctx context.Context, f *os.File) (*os.File, error) {
	plain, err := isPlainTar(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if plain {
		return f, nil
	}
	return spoolTar(ctx, f)
}

// isPlainTar says that a file can be read at any place, and is not compressed.
func isPlainTar(f *os.File) (bool, error) {
	st, err := f.Stat()
	switch {
	case err != nil:
		return false, err
	case st.IsDir():
		return false, fmt.Errorf("a directory, not a tar: %w", manifest.ErrMalformed)
	case !st.Mode().IsRegular() || f == os.Stdin:
		return false, nil
	}
	head := make([]byte, compression.SniffLen)
	n, err := f.ReadAt(head, 0)
	if err == io.EOF {
		err = nil
	}
	return compression.Sniff(head[:n]) == algoNone, err
}

// spoolTar writes the tar inside of a stream into a file without a name, and closes the stream.
func spoolTar(ctx context.Context, f io.ReadCloser) (*os.File, error) {
	packed := &atomicCounter{Reader: &contextReader{ctx, f}}
	in, err := compression.NewReader(packed)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	out, err := spooled("tocsin-archive-", &bounded{Reader: in, compressed: packed.n.Load})
	if err := errors.Join(err, in.Close(), f.Close()); err != nil {
		if out != nil {
			err = errors.Join(err, out.Close())
		}
		return nil, err
	}
	return out, nil
}

// contextReader stops between two reads when the context is done.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
