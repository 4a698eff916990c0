package chunked

import (
	"archive/tar"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
)

// IndexTar reads a tar to its end and returns the layer index of its files. It is how every tar becomes an index: one
// that a layer is unpacked from and one that a TOC is proved by. For each regular file with content put is called, which
// reads the content and sets digest, size and chunks of e. Sparse tells whether some file is: its content is more than
// the tar holds of it. The index lies in the memory of ws.
func IndexTar(ws *Workspace, r io.Reader, put func(e *Entry, content io.Reader) error) (index []byte, sparse bool, err error) {
	b := NewIndexBuilder(ws)
	for tr := tar.NewReader(r); ; {
		hdr, err := tr.Next()
		if err == io.EOF {
			break
		}
		if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) {
			err = malformed("%v", err)
		}
		if err != nil {
			return nil, sparse, fmt.Errorf("read tar: %w", err)
		}
		sparse = sparse || isSparse(hdr)
		if err := addHeader(b, hdr, tr, put); err != nil {
			return nil, sparse, fmt.Errorf("%q: %w", hdr.Name, err)
		}
	}
	// What follows the end marker is part of the tar's digest.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return nil, sparse, fmt.Errorf("read tar: %w", err)
	}
	index, err = b.Finish()
	return index, sparse, err
}

func addHeader(b *IndexBuilder, hdr *tar.Header, content io.Reader, put func(*Entry, io.Reader) error) error {
	e, ok, err := headerEntry(hdr)
	if err != nil {
		return err
	}
	if !ok {
		return b.passOver(&e)
	}
	if e.Type == TypeReg && e.Size > 0 {
		if err := put(&e, content); err != nil {
			return err
		}
	}
	return b.Add(e)
}

// isSparse reports whether a header describes a file of which the tar has only a part.
func isSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// headerEntry says a tar header as a layer's entry, without content. ok is false for headers that make no file.
func headerEntry(hdr *tar.Header) (e Entry, ok bool, err error) {
	e = Entry{
		Name: hdr.Name, LinkName: hdr.Linkname, Mode: hdr.Mode, UID: hdr.Uid, GID: hdr.Gid,
		ModTime: hdr.ModTime, DevMajor: hdr.Devmajor, DevMinor: hdr.Devminor,
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Type, e.Size = TypeReg, hdr.Size
	case tar.TypeXGlobalHeader:
		return e, false, nil
	default:
		if e.Type = headerType(hdr.Typeflag); e.Type == "" {
			return e, false, malformed("tar entry of unknown type %q", hdr.Typeflag)
		}
	}
	for key, value := range hdr.PAXRecords {
		if name, isXattr := strings.CutPrefix(key, paxXattr); isXattr {
			if e.Xattrs == nil {
				e.Xattrs = make(map[string][]byte)
			}
			e.Xattrs[name] = []byte(value)
		}
	}
	return e, true, nil
}

// headerType is the TOC's word for a tar's type; "" for those a TOC cannot say.
func headerType(flag byte) string {
	switch flag {
	case tar.TypeReg:
		return TypeReg
	case tar.TypeDir:
		return TypeDir
	case tar.TypeSymlink:
		return TypeSymlink
	case tar.TypeLink:
		return TypeHardlink
	case tar.TypeChar:
		return TypeChar
	case tar.TypeBlock:
		return TypeBlock
	case tar.TypeFifo:
		return TypeFifo
	}
	return ""
}

// DeriveIndex reads a tar to its end and returns the layer index of its files. A file whose content is what x, the index
// of a TOC, has under its name gets the chunks that it has there, any other file is one chunk. So the result is x, byte
// for byte, if and only if the tar and the TOC are one tree with one content. It lies in the memory of ws.
func DeriveIndex(ws *Workspace, r io.Reader, x *Index) ([]byte, error) {
	d := newDeriver(x)
	index, _, err := IndexTar(ws, r, d.put)
	return index, err
}

// deriver gives the files of a tar the chunks of a TOC.
type deriver struct {
	x     *Index
	whole hash.Hash
	part  hash.Hash
	buf   []byte
	// wrong is what it is that a file's content is not the one that x has under its name. nil: a difference.
	wrong error
	// unread: contents are believed to be what x has, if they have its size, and are not read.
	unread bool
	// chunks and bytes are how much of them the contents that are still to come may have: a tar can name one file again
	// and again.
	chunks, bytes int64
}

func newDeriver(x *Index) *deriver {
	return &deriver{
		x: x, whole: x.alg.Hash(), part: x.alg.Hash(), buf: make([]byte, 256<<10),
		chunks: MaxEntries + MaxChunks, bytes: MaxTarContent,
	}
}

// spend takes off what a content has: object obj of x if it is known.
func (d *deriver) spend(obj int, known bool, size int64) error {
	if known {
		d.chunks -= int64(d.x.NumChunks(obj))
	}
	if d.chunks < 0 {
		return tooBig("files of more than %d chunks together, those that are named again counted again", MaxEntries+MaxChunks)
	}
	if size > d.bytes {
		return tooBig("a tar with more than %d bytes of content", int64(MaxTarContent))
	}
	d.bytes -= size
	return nil
}

func (d *deriver) put(e *Entry, content io.Reader) error {
	obj, ok := d.x.ObjectByPath(e.Name)
	ok = ok && d.x.size(obj) == e.Size
	if err := d.spend(obj, ok, e.Size); err != nil {
		return err
	}
	var chunks chunkList
	if ok {
		chunks = chunkList{d.x, obj}
	}
	if d.unread {
		e.Digest, e.known = d.x.alg.FromBytes(nil), chunks
		if ok {
			e.Digest = d.x.Object(obj).Digest
		} else {
			e.Chunks = []Chunk{{Size: e.Size, Digest: e.Digest}}
		}
		return nil
	}
	same, err := d.hash(content, chunks)
	if err != nil {
		return err
	}
	e.Digest = digest.NewDigest(d.x.alg, d.whole)
	if ok && e.Digest != d.x.Object(obj).Digest {
		if ok = false; d.wrong != nil {
			return fmt.Errorf("content: %w: %s, not %s", d.wrong, e.Digest, d.x.Object(obj).Digest)
		}
	}
	if e.known = chunks; !ok || !same {
		e.known, e.Chunks = chunkList{}, []Chunk{{Size: e.Size, Digest: e.Digest}}
	}
	return nil
}

// chunkList is the chunks of an object of an index, which may be too many to hold; the zero value is none.
type chunkList struct {
	x   *Index
	obj int
}

func (l chunkList) len() int {
	if l.x == nil {
		return 0
	}
	return l.x.NumChunks(l.obj)
}

func (l chunkList) at(i int) Chunk { return l.x.Chunk(l.obj, i) }

// hash reads a content to its end, and says whether each of these chunks of it is what it says: readers are shown chunks
// before anybody has seen the whole.
func (d *deriver) hash(content io.Reader, chunks chunkList) (same bool, err error) {
	d.whole.Reset()
	same = true
	if n := chunks.len(); n > 1 || n == 1 && chunks.at(0).Zeros {
		for i := range n {
			c := chunks.at(i)
			ok, err := d.hashChunk(content, &c)
			if err != nil {
				return false, err
			}
			same = same && ok
		}
	}
	_, err = d.read(content, func(p []byte) { d.whole.Write(p) })
	if err == nil && chunks.len() == 1 {
		same = same && chunks.at(0).Digest == digest.NewDigest(d.x.alg, d.whole)
	}
	return same, err
}

func (d *deriver) hashChunk(content io.Reader, c *Chunk) (same bool, err error) {
	d.part.Reset()
	zero := true
	n, err := d.read(io.LimitReader(content, c.Size), func(p []byte) {
		d.whole.Write(p)
		if c.Zeros {
			zero = zero && zeros(p)
		} else {
			d.part.Write(p)
		}
	})
	if err != nil || n != c.Size {
		return false, err
	}
	return zero && (c.Zeros || digest.NewDigest(d.x.alg, d.part) == c.Digest), nil
}

func (d *deriver) read(r io.Reader, do func(p []byte)) (total int64, err error) {
	for {
		n, err := r.Read(d.buf)
		do(d.buf[:n])
		total += int64(n)
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// CheckTarSplit says whether the tar of ts has the files of x, the index of a TOC, when its contents are believed: that
// nothing about the two can be wrong but the contents. What ProveTar refuses for another reason than a content it refuses
// too, with the same errors. A nil ts is ErrNoTarSplit.
func CheckTarSplit(ws *Workspace, x *Index, ts *TarSplit) error {
	if ts == nil {
		return fmt.Errorf("check of the TOC: %w", ErrNoTarSplit)
	}
	d := newDeriver(x)
	d.unread = true
	return d.prove(ws, ts, &splitReader{scan: newTarScanner()})
}

// ProveTar writes the tar that ts was split from, with the contents that open gives, and proves that it is what x, the
// index of a TOC, is: that a reader of tars sees the same names, links, attributes, whiteouts and contents in it that x
// shows. That is for sure only after it has returned nil.
//
// What it proves it derives, from the bytes that it writes: they are indexed as any tar is, their contents hashed, and
// the index has to be x, byte for byte. ErrTwoReadings if it is another one; ErrUnsayable if the tar has a form that not
// all readers read alike; ErrMalformed if ts is none, or gives contents in another way than each under its own name;
// ErrDigestMismatch if what open gave is not what x says, which is no one's fault but the store's. Errors of open and of w
// are wrapped.
func ProveTar(ws *Workspace, w io.Writer, x *Index, ts *TarSplit, open func(name string) (io.ReadCloser, error)) error {
	d := newDeriver(x)
	d.wrong = ErrDigestMismatch
	return d.prove(ws, ts, &splitReader{scan: newTarScanner(), open: open, w: w})
}

func (d *deriver) prove(ws *Workspace, ts *TarSplit, r *splitReader) (err error) {
	if r.lines, err = ts.scan(); err != nil {
		return err
	}
	defer r.close()
	var in io.Reader = r
	if d.unread {
		in = skipper{r}
	}
	index, _, err := IndexTar(ws, in, d.put)
	switch {
	case r.err != nil:
		return r.err // and not what it made of the tar
	case err != nil:
		return inputError(err)
	}
	if err := r.scan.end(); err != nil {
		return err
	}
	if !d.x.Same(index) {
		return fmt.Errorf("%w: %s", ErrTwoReadings, firstDifference(d.x, index))
	}
	if r.foreign != "" {
		return fmt.Errorf("%w: the tar-split was made with another content of %q", ErrTwoReadings, r.foreign)
	}
	return nil
}

// PlainTar says whether all readers read the tar of ts alike, as far as its headers tell: ErrUnsayable if they do not,
// ErrMalformed if ts gives contents in another way than each under its own name.
func PlainTar(ts *TarSplit) error {
	lines, err := ts.scan()
	if err != nil {
		return err
	}
	r := &splitReader{scan: newTarScanner(), lines: lines}
	defer r.close()
	for err == nil {
		r.seg, r.left = nil, 0
		err = r.fill()
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return r.scan.end()
}
