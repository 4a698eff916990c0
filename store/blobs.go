package store

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
)

// copyBuffer is large enough that the system calls of a copy cost less than its hash (spec/throughput.md).
const copyBuffer = 1 << 20

// BlobPath is where the blob is or would be. Read it only after HasBlob or OpenBlob.
func (s *Store) BlobPath(d digest.Digest) (string, error) {
	if err := checkDigest("blob", d); err != nil {
		return "", err
	}
	return s.path(blobRel(d)), nil
}

// HasBlob gives the size of a blob that is here.
func (s *Store) HasBlob(d digest.Digest) (size int64, ok bool) {
	path, err := s.BlobPath(d)
	if err != nil {
		return 0, false
	}
	fi, err := os.Lstat(path)
	if err != nil || !fi.Mode().IsRegular() {
		return 0, false
	}
	return fi.Size(), true
}

// OpenBlob opens a blob that was verified when it was written. ErrNotFound if it is not here. The caller closes it.
func (s *Store) OpenBlob(d digest.Digest) (*os.File, error) {
	path, err := s.BlobPath(d)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if notExist(err) {
		return nil, fmt.Errorf("blob %s: %w", d, ErrNotFound)
	}
	return f, err
}

// PutBlob reads r to its end and keeps it as d. Nil means durable and verified; ErrDigestMismatch leaves nothing.
// A blob that is here already and is not damaged is kept, and r is not read.
func (s *Store) PutBlob(ctx context.Context, d digest.Digest, r io.Reader) error {
	path, err := s.BlobPath(d)
	if err != nil {
		return err
	}
	if keepYoung(path, s.stamp()) && fileIs(path, d) == nil {
		return nil
	}
	err = s.disk.write(path, 0o444, func(w io.Writer) error {
		return copyVerified(w, &ctxReader{ctx, r}, d)
	})
	if err != nil {
		return fmt.Errorf("put blob %s: %w", d, err)
	}
	return nil
}

// copyVerified copies r to its end and compares the digest of what it wrote.
func copyVerified(w io.Writer, r io.Reader, want digest.Digest) error {
	h := want.Algorithm().Hash()
	if _, err := io.CopyBuffer(io.MultiWriter(w, h), onlyReader{r}, make([]byte, copyBuffer)); err != nil {
		return err
	}
	if got := digest.NewDigest(want.Algorithm(), h); got != want {
		return fmt.Errorf("%w: got %s, want %s", ErrDigestMismatch, got, want)
	}
	return nil
}

// copyFrom fills a file from another.
func copyFrom(path string) func(io.Writer) error {
	return func(w io.Writer) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
}

// onlyReader hides WriteTo, which would choose a buffer of its own.
type onlyReader struct{ io.Reader }

// ctxReader ends a copy between two reads once its context does.
type ctxReader struct {
	ctx context.Context //nolint:containedctx // lives for one call of PutBlob
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
