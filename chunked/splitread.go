package chunked

import (
	"bytes"
	"fmt"
	"hash"
	"hash/crc64"
	"io"

	"github.com/vbatts/tar-split/tar/storage"
)

// splitReader is the tar of a tar-split, as one stream.
type splitReader struct {
	lines *splitScanner
	scan  *tarScanner                              // nil: the tar may be any
	open  func(name string) (io.ReadCloser, error) // gives contents by clean names; nil: they are zeros
	w     io.Writer                                // gets what is read; nil: nobody does

	seg  []byte
	left int64 // of the content under way
	file openFile
	pos  int64
	err  error // what broke the stream

	// foreign is the first file whose content is not the one that the tar-split was made with, by its CRC-64.
	foreign string
}

// openFile is a content under way.
type openFile struct {
	io.ReadCloser
	name string
	size int64
	sum  []byte
	crc  hash.Hash64
}

func (r *splitReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.next(p)
	if n > 0 && r.w != nil {
		if _, werr := r.w.Write(p[:n]); werr != nil {
			err = fmt.Errorf("write tar: %w", werr)
		}
	}
	if r.pos += int64(n); err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

func (r *splitReader) next(p []byte) (n int, err error) {
	if err := r.fill(); err != nil {
		return 0, err
	}
	switch {
	case len(r.seg) > 0:
		n = copy(p, r.seg)
		r.seg = r.seg[n:]
	case r.file.ReadCloser == nil:
		n = int(min(int64(len(p)), r.left))
		clear(p[:n])
		r.left -= int64(n)
	default:
		n, err = r.file.Read(p[:min(int64(len(p)), r.left)])
		r.file.crc.Write(p[:n])
		switch r.left -= int64(n); {
		case r.left == 0:
			err = r.endFile()
		case err == io.EOF:
			err = malformed("content of %q has %d bytes, the tar-split says %d", r.file.name, r.file.size-r.left, r.file.size)
		case err != nil:
			err = fmt.Errorf("content of %q: %w", r.file.name, err)
		}
	}
	return n, err
}

// fill makes seg or left not empty.
func (r *splitReader) fill() error {
	for len(r.seg) == 0 && r.left == 0 {
		e, err := r.lines.next()
		if err == io.EOF {
			return err
		}
		if err != nil {
			return fmt.Errorf("tar-split: %w", err)
		}
		if e.Type == storage.SegmentType {
			r.seg = e.Payload
		} else {
			err = r.begin(&e)
		}
		if err == nil && r.scan != nil && e.Type == storage.SegmentType {
			err = r.scan.bytes(r.seg)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin begins the content of a file.
func (r *splitReader) begin(e *storage.Entry) error {
	if e.Size > 1<<60 {
		return tooBig("file of %d bytes", e.Size)
	}
	if r.scan != nil {
		if err := r.scan.content(e.GetName(), e.Size); err != nil {
			return err
		}
	}
	r.left = e.Size
	if r.open == nil || e.Size == 0 {
		return nil
	}
	name, err := CleanName(e.GetName())
	if err != nil {
		return err
	}
	f, err := r.open(name)
	if err != nil {
		return fmt.Errorf("open content of %q: %w", name, err)
	}
	crc := r.file.crc
	if crc == nil {
		crc = crc64.New(storage.CRCTable)
	}
	crc.Reset()
	r.file = openFile{f, name, e.Size, append(r.file.sum[:0], e.Payload...), crc}
	return nil
}

// endFile ends a content all of which was read.
func (r *splitReader) endFile() error {
	f := r.file
	r.file.ReadCloser = nil
	defer f.Close()
	var more [1]byte
	switch _, err := io.ReadFull(f, more[:]); {
	case err == nil:
		return malformed("content of %q has more bytes than the tar-split's %d", f.name, f.size)
	case err != io.EOF:
		return fmt.Errorf("content of %q: %w", f.name, err)
	}
	if r.foreign == "" && !bytes.Equal(f.crc.Sum(nil), f.sum) {
		r.foreign = f.name
	}
	return nil
}

func (r *splitReader) close() {
	if r.file.ReadCloser != nil {
		r.file.Close()
	}
	r.lines.close()
}

// skipper lets archive/tar skip contents.
type skipper struct{ *splitReader }

// Seek skips forward from where the reader is, which is all that archive/tar asks for. Behind the end it stops there.
func (r skipper) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || off < 0 {
		return 0, fmt.Errorf("tar-split: seek %d from %d", off, whence)
	}
	for off > 0 {
		err := r.fill()
		if err == io.EOF {
			break
		}
		if err != nil {
			r.err = err
			return 0, err
		}
		n := min(off, max(int64(len(r.seg)), r.left)) // one of them is empty
		if len(r.seg) > 0 {
			r.seg = r.seg[n:]
		} else {
			r.left -= n
		}
		off -= n
		r.pos += n
	}
	return r.pos, nil
}

// AssembleTar writes the tar that ts was split from, whatever it is. For each file with content, open is called with its
// clean name and must give exactly the content; it is closed before the next one is opened. Size and CRC-64 of ts are
// compared, which is no proof: whoever needs one hashes what is written. Errors of open and of w are wrapped.
func AssembleTar(w io.Writer, ts *TarSplit, open func(name string) (io.ReadCloser, error)) error {
	lines, err := ts.scan()
	if err != nil {
		return err
	}
	r := &splitReader{lines: lines, open: open, w: w}
	defer r.close()
	if _, err := io.CopyBuffer(io.Discard, onlyReader{r}, make([]byte, 256<<10)); err != nil {
		return err
	}
	if r.foreign != "" {
		return fmt.Errorf("content of %q: %w: CRC-64 of the tar-split", r.foreign, ErrDigestMismatch)
	}
	return nil
}

// onlyReader hides all but Read.
type onlyReader struct{ io.Reader }
