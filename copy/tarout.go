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
	"path/filepath"
	"sync"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/manifest"
)

const (
	tarBlock = 512
	maxUSTAR = 8 << 30 // sizes from here on need GNU's way to write a number

	// archiveTemp begins the names of archives that are not finished. Nobody else's file in the directory has it.
	archiveTemp = tempPrefix + "archive-"
)

// tarOut is a tar being written in one pass. One blob at a time goes into it; whose turn it is holds the token of turn.
// A file appears under its name when it is finished, and can take back a blob that failed; a stream can do neither.
type tarOut struct {
	path   string      // "" of a stream
	file   *os.File    // a temporary file beside path; nil of a stream
	stream io.Writer   // standard output, or a daemon
	cut    func(error) // of a stream whose reader may have stopped: makes writes to it fail; nil: there is no need
	turn   chan struct{}

	off    int64 // owned by whose turn it is, like broken
	broken error // why nothing more can be written

	mu   sync.Mutex
	have map[string]int64 // files written, and their sizes
}

// newTarOut begins an archive. "-" is standard output. An old file of that name stays until the new one is whole.
func newTarOut(path string) (*tarOut, error) {
	if path == "-" {
		return newTarStream(os.Stdout, nil), nil
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file; - is standard output: %w", path, ErrUsage)
	}
	if err := sweepTemps(filepath.Dir(path), archiveTemp); err != nil {
		return nil, err
	}
	f, err := lockedTemp(filepath.Dir(path), archiveTemp)
	if err != nil {
		return nil, fmt.Errorf("begin the archive %s: %w", path, err)
	}
	o := newTarStream(f, nil)
	o.path, o.file = path, f
	return o, nil
}

// newTarStream begins an archive that goes to a writer as it is made.
func newTarStream(w io.Writer, cut func(error)) *tarOut {
	o := &tarOut{stream: w, cut: cut, turn: make(chan struct{}, 1), have: make(map[string]int64)}
	o.turn <- struct{}{}
	return o
}

// until lets nobody wait for a stream's reader when the context is done. What it returns ends that.
func (o *tarOut) until(ctx context.Context) (stop func() bool) {
	if o.cut == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, func() { o.cut(context.Cause(ctx)) })
}

func (o *tarOut) acquire(ctx context.Context) error {
	select {
	case <-o.turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	if o.broken != nil {
		o.release()
		return fmt.Errorf("the archive broke off: %w", o.broken)
	}
	return nil
}

func (o *tarOut) release() { o.turn <- struct{}{} }

func (o *tarOut) has(name string, size int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, ok := o.have[name]
	return ok && n == size
}

func (o *tarOut) wrote(name string, size int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.have[name] = size
}

// add writes one file of a known size, unless it is there. open is called when its turn has come.
func (o *tarOut) add(ctx context.Context, name string, size int64, open func() (io.ReadCloser, error)) error {
	if err := o.acquire(ctx); err != nil {
		return err
	}
	defer o.release()
	if o.has(name, size) {
		return nil
	}
	body, err := open()
	if err != nil {
		return err
	}
	defer o.until(ctx)()
	start := o.off
	err = o.addFrom(name, size, &contextReader{ctx, body})
	if err := errors.Join(err, body.Close()); err != nil {
		return fmt.Errorf("%s: %w", name, errors.Join(err, o.takeBack(start, err)))
	}
	o.wrote(name, size)
	return nil
}

func (o *tarOut) addFrom(name string, size int64, body io.Reader) error {
	header, err := tarHeader(name, size)
	if err != nil {
		return err
	}
	if _, err := o.Write(header); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{o}, struct{ io.Reader }{body}, make([]byte, streamBuffer))
	if err == nil && n != size {
		err = fmt.Errorf("%d bytes instead of %d: %w", n, size, manifest.ErrDigestMismatch)
	}
	if err != nil {
		return err
	}
	return o.pad(size)
}

// Write appends bytes of the tar. Only who has the turn may.
func (o *tarOut) Write(p []byte) (int, error) {
	n, err := o.stream.Write(p)
	o.off += int64(n)
	return n, err
}

func (o *tarOut) pad(size int64) error {
	_, err := o.Write(make([]byte, (tarBlock-size%tarBlock)%tarBlock))
	return err
}

// takeBack removes what was written since start, or gives the archive up when it cannot.
func (o *tarOut) takeBack(start int64, why error) error {
	if o.path == "" {
		if o.off != start {
			o.broken = why
		}
		return nil
	}
	_, err := o.file.Seek(start, io.SeekStart)
	if err = errors.Join(err, o.file.Truncate(start)); err != nil {
		o.broken = err
		return err
	}
	o.off = start
	return nil
}

// tarHeader is one header block, or the three that a long name needs. The same content gives the same bytes.
func tarHeader(name string, size int64) ([]byte, error) {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if size >= maxUSTAR || len(name) > 100 {
		h.Format = tar.FormatGNU
	}
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(h); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b.Bytes(), nil
}

// blob begins a blob of unknown size. When nobody else writes it goes straight into the archive's file and its header
// is filled in later; else into a temporary file.
func (o *tarOut) blob() (spool, error) {
	if o.path != "" {
		select {
		case <-o.turn:
			return o.straight()
		default:
		}
	}
	f, err := unnamed("tocsin-blob-")
	if err != nil {
		return nil, err
	}
	return &looseBlob{File: f, out: o}, nil
}

func (o *tarOut) straight() (spool, error) {
	s := &straightBlob{tarOut: o, start: o.off}
	err := o.broken
	if err == nil {
		_, err = o.Write(make([]byte, tarBlock))
	}
	if err != nil {
		return nil, errors.Join(err, s.abort())
	}
	return s, nil
}

// straightBlob is written into the archive behind room for its header. It has the turn until it ends.
type straightBlob struct {
	*tarOut
	start int64
}

func (s *straightBlob) commit(_ context.Context, d v1.Descriptor) error {
	name, err := blobName(d.Digest)
	if err == nil && s.has(name, d.Size) {
		return s.abort()
	}
	if err == nil {
		err = s.seal(name, d.Size)
	}
	if err != nil {
		return fmt.Errorf("blob %s: %w", d.Digest, errors.Join(err, s.abort()))
	}
	s.wrote(name, d.Size)
	s.release()
	return nil
}

func (s *straightBlob) seal(name string, size int64) error {
	header, err := tarHeader(name, size)
	if err != nil {
		return err
	}
	if n := s.off - s.start - tarBlock; n != size {
		return fmt.Errorf("%d bytes instead of %d: %w", n, size, manifest.ErrDigestMismatch)
	}
	if err := s.shift(int64(len(header))-tarBlock, size); err != nil {
		return err
	}
	if _, err := s.file.WriteAt(header, s.start); err != nil {
		return err
	}
	return s.pad(size)
}

// shift makes room for a header of more than one block, which only the name of a sha512 digest needs.
func (s *straightBlob) shift(by, size int64) error {
	if by == 0 {
		return nil
	}
	buf := make([]byte, min(size, streamBuffer))
	for left := size; left > 0; {
		n := min(left, int64(len(buf)))
		left -= n
		from := s.start + tarBlock + left
		if _, err := s.file.ReadAt(buf[:n], from); err != nil {
			return err
		}
		if _, err := s.file.WriteAt(buf[:n], from+by); err != nil {
			return err
		}
	}
	s.off += by
	_, err := s.file.Seek(s.off, io.SeekStart)
	return err
}

func (s *straightBlob) abort() error {
	err := s.takeBack(s.start, nil)
	s.release()
	return err
}

// looseBlob waits in a file of its own for its turn.
type looseBlob struct {
	*os.File
	out *tarOut
}

func (l *looseBlob) commit(ctx context.Context, d v1.Descriptor) error {
	name, err := blobName(d.Digest)
	if err == nil {
		err = l.out.add(ctx, name, d.Size, func() (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(l.File, 0, d.Size)), nil
		})
	}
	return errors.Join(err, l.Close())
}

func (l *looseBlob) abort() error { return l.Close() }

// addBytes writes a small file.
func (o *tarOut) addBytes(ctx context.Context, name string, raw []byte) error {
	return o.add(ctx, name, int64(len(raw)), opener(raw))
}

func (o *tarOut) addJSON(ctx context.Context, name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return o.addBytes(ctx, name, raw)
}

// finish ends the tar and gives the file its name.
func (o *tarOut) finish(ctx context.Context) error {
	if err := o.acquire(ctx); err != nil {
		return err
	}
	defer o.release()
	defer o.until(ctx)()
	o.broken = errors.New("it is finished")
	if _, err := o.Write(make([]byte, 2*tarBlock)); err != nil {
		return err
	}
	if o.path == "" {
		return nil
	}
	name := o.path
	o.path = ""
	if err := finish(o.file, nil, name, 0o644); err != nil {
		return fmt.Errorf("finish the archive %s: %w", name, err)
	}
	return nil
}

// close removes an archive that was not finished.
func (o *tarOut) close() error {
	if o.path == "" {
		return nil
	}
	return errors.Join(o.file.Close(), os.Remove(o.file.Name()))
}

// tarLayout is an OCI layout written into a tar: the destination oci-archive:, and what docker-archive: is made of.
type tarLayout struct {
	ref manifest.Ref
	out *tarOut
}

func newTarLayout(ref manifest.Ref) (*tarLayout, error) {
	if ref.Index >= 0 || ref.Digest != "" {
		return nil, fmt.Errorf("%s: a destination in an archive has a name or none, not a position or digest: %w", ref, ErrUsage)
	}
	out, err := newTarOut(ref.Path)
	if err != nil {
		return nil, err
	}
	return tarLayoutOn(ref, out)
}

// tarLayoutOn begins a layout in an archive, which it closes when that fails.
func tarLayoutOn(ref manifest.Ref, out *tarOut) (*tarLayout, error) {
	// First, so that a reader of a stream knows what follows.
	err := out.addJSON(context.Background(), layoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return nil, errors.Join(err, out.close())
	}
	return &tarLayout{ref: ref, out: out}, nil
}

func (l *tarLayout) has(_ context.Context, d v1.Descriptor) (bool, error) {
	name, err := blobName(d.Digest)
	return err == nil && l.out.has(name, d.Size), err
}

func (l *tarLayout) put(ctx context.Context, d v1.Descriptor, open func() (io.ReadCloser, error)) error {
	name, err := blobName(d.Digest)
	if err != nil {
		return err
	}
	return l.out.add(ctx, name, d.Size, open)
}

func (l *tarLayout) create() (spool, error) { return l.out.blob() }

func (l *tarLayout) putManifest(ctx context.Context, doc document) error {
	return l.put(ctx, descriptorOf(doc), opener(doc.raw))
}

// end writes the top-level manifest and the index with its one entry. Further files, which must not be blobs, follow.
func (l *tarLayout) end(ctx context.Context, doc document, annotations map[string]string) error {
	if err := l.putManifest(ctx, doc); err != nil {
		return err
	}
	entry := descriptorOf(doc)
	entry.Annotations = annotations
	idx := v1.Index{MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{entry}}
	idx.SchemaVersion = 2
	return l.out.addJSON(ctx, indexFile, idx)
}

func (l *tarLayout) close() error { return l.out.close() }
