package copy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

// resumable is a destination that a big blob is fetched into in ranges, where a killed copy can be continued.
type resumable interface {
	// partDir is where parts are, in the file system that the blob will be in.
	partDir() string
	// adopt makes a file in partDir a blob to commit.
	adopt(f *os.File) spool
}

// maxRanges is how many ranges of one blob are under way at once. The client's places bound them over all blobs.
const maxRanges = 6

var (
	// errInOnePiece: the blob is not one to fetch in ranges, from this place or into that.
	errInOnePiece = errors.New("to be fetched in one piece")
	// errResumed: the bytes are wrong, and it may be those that an earlier copy left: a machine that crashed can have
	// kept the journal and lost what it speaks of. It is worth another try from nothing.
	errResumed = errors.New("what was there before may be damaged")
)

// remoteRanges is the source of a blob that is worth fetching in ranges: a big one, far away. nil: it is not.
func remoteRanges(from source, d v1.Descriptor, sizes partSizes) fill.Source {
	if d.Size < sizes.from {
		return nil
	}
	src, where := from.ranged(d)
	if where.Host == "" {
		return nil
	}
	return src
}

// inParts fetches a big blob into the destination in several ranges at once, going on where an earlier copy stopped.
// errInOnePiece if this is not the way for it.
func (r *runner) inParts(ctx context.Context, d v1.Descriptor, w *watched) error {
	sizes := r.env.parts.orDefault()
	to, ok := r.to.(resumable)
	if !ok {
		return errInOnePiece
	}
	src := remoteRanges(r.from, d, sizes)
	if src == nil {
		return errInOnePiece
	}
	p, err := openPart(to.partDir(), d, sizes)
	if err != nil {
		return err
	}
	if p == nil {
		return errInOnePiece
	}
	jobs := min(maxRanges, r.env.jobs())
	err = p.readThrough(ctx, src, d, jobs, w)
	if errors.Is(err, errResumed) {
		if err = p.reset(); err == nil {
			err = p.readThrough(ctx, src, d, jobs, w)
		}
	}
	if err == nil {
		err = p.whole()
	}
	if err != nil {
		err = errors.Join(err, p.leave(worthKeeping(err)))
		if errors.Is(err, registry.ErrNoRanges) {
			return errInOnePiece
		}
		return err
	}
	return to.adopt(p.file).commit(ctx, d)
}

// worthKeeping says whether a part is of use after a fetch that failed so. It is pure.
func worthKeeping(err error) bool {
	for _, not := range []error{manifest.ErrDigestMismatch, registry.ErrNoRanges, registry.ErrNotFound} {
		if errors.Is(err, not) {
			return false
		}
	}
	return true
}

// readThrough fetches what is missing and hashes everything.
func (p *part) readThrough(ctx context.Context, src fill.Source, d v1.Descriptor, jobs int, w *watched) error {
	body, err := p.open(ctx, src, d, jobs)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, w.reader(body), make([]byte, streamBuffer))
	return errors.Join(err, body.Close())
}

// open begins to fetch what is missing, and returns the blob's bytes in order, while they come. The reader fails before
// EOF when the bytes are not d's, with errResumed too where it applies. Its Close ends the fetch and leaves the file
// open. registry.ErrNoRanges comes from open itself: its first request goes alone, to see whether there are ranges.
func (p *part) open(ctx context.Context, src fill.Source, d v1.Descriptor, jobs int) (*partBody, error) {
	began := time.Now()
	if err := p.fetchRun(ctx, src, p.claim(1)); err != nil {
		return nil, err
	}
	run := p.sizes.run
	if time.Since(began) < p.sizes.near {
		jobs, run = 1, p.blocks()
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &follower{p: p, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		p.end(p.fetch(ctx, src, jobs, run))
	}()
	return &partBody{verified: newVerified(f, d), p: p}, nil
}

// fetch fetches the blocks that are missing, so many in one request.
func (p *part) fetch(ctx context.Context, src fill.Source, jobs, most int) error {
	return forEach(ctx, jobs, func(ctx context.Context, _ int) error {
		for {
			run := p.claim(most)
			if len(run) == 0 {
				return nil
			}
			if err := p.fetchRun(ctx, src, run); err != nil {
				return err
			}
		}
	})
}

// fetchRun fetches blocks that touch, with one request when nothing goes wrong.
func (p *part) fetchRun(ctx context.Context, src fill.Source, run []manifest.Range) error {
	if len(run) == 0 {
		return nil
	}
	buf, back := make([]byte, writeSize), writeBack{p.file, run[0].Off}
	return src.ReadRanges(ctx, run, func(r manifest.Range, body io.Reader) error {
		n, err := io.CopyBuffer(struct{ io.Writer }{io.NewOffsetWriter(p.file, r.Off)}, struct{ io.Reader }{body}, buf)
		if err == nil && n != r.Len {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		back.upTo(r.End())
		return p.wrote(r)
	})
}

// partBody reads a part and remembers how that ended.
type partBody struct {
	*verified
	p   *part
	err error // io.EOF: all of it was read and is right
}

func (b *partBody) Read(buf []byte) (int, error) {
	n, err := b.verified.Read(buf)
	if errors.Is(err, manifest.ErrDigestMismatch) && b.p.resumed > 0 {
		err = fmt.Errorf("%w (%w)", err, errResumed)
	}
	if err != nil {
		b.err = err
	}
	return n, err
}

// follower reads a part from its start, waiting for what is not there yet.
type follower struct {
	p      *part
	at     int64
	cancel context.CancelFunc
	done   chan struct{}
}

func (f *follower) Read(b []byte) (int, error) {
	if f.at == f.p.size {
		return 0, io.EOF
	}
	there, err := f.p.await(f.at)
	if err != nil {
		return 0, err
	}
	n, err := f.p.file.ReadAt(b[:min(int64(len(b)), there)], f.at)
	f.at += int64(n)
	return n, err
}

func (f *follower) Close() error {
	f.cancel()
	<-f.done
	return nil
}

// blob opens a layer's blob. A big one of a registry is fetched into the store's ingest directory in several ranges at
// once, and read while it comes; what a killed copy left there is not fetched again.
func (im *importer) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if f, err := im.here(d); err == nil || !errors.Is(err, store.ErrNotFound) {
		return newVerified(f, d), err
	}
	sizes := im.env.parts.orDefault()
	src := remoteRanges(im.from, d, sizes)
	if src == nil {
		return im.from.blob(ctx, d)
	}
	p, err := openPart(im.env.Store.IngestDir(), d, sizes)
	if err != nil {
		return nil, err
	}
	if p == nil {
		return im.from.blob(ctx, d)
	}
	body, err := p.open(ctx, src, d, min(maxRanges, im.env.jobs()))
	if err == nil {
		return &ingested{body}, nil
	}
	err = errors.Join(err, p.leave(worthKeeping(err)))
	if errors.Is(err, registry.ErrNoRanges) {
		return im.from.blob(ctx, d)
	}
	return nil, err
}

// ingested is a blob that is read once and then not needed as a file.
type ingested struct{ *partBody }

// Close keeps what another copy can go on with.
func (b *ingested) Close() error {
	err := b.partBody.Close()
	return errors.Join(err, b.p.leave(b.err != io.EOF && worthKeeping(b.err)))
}
