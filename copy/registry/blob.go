package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tocsin/tocsin/manifest"
)

// HasBlob reports whether the repository has the blob. A blob of another size is not it.
func (r *Repo) HasBlob(ctx context.Context, d v1.Descriptor) (bool, error) {
	if err := manifest.ValidDigest(d.Digest); err != nil {
		return false, err
	}
	resp, err := r.do(ctx, &call{method: http.MethodHead, path: "blobs/" + d.Digest.String(), need: docker.HostCapabilityPull,
		scopes: sortedScopes(pullScope(r.name))})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return d.Size < 0 || resp.ContentLength < 0 || resp.ContentLength == d.Size, nil
}

// BlobSize asks how big a blob is. A registry that does not say is ErrBadAnswer.
func (r *Repo) BlobSize(ctx context.Context, d digest.Digest) (int64, error) {
	if err := manifest.ValidDigest(d); err != nil {
		return 0, err
	}
	resp, err := r.do(ctx, &call{method: http.MethodHead, path: "blobs/" + d.String(), need: docker.HostCapabilityPull,
		scopes: sortedScopes(pullScope(r.name))})
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return 0, fmt.Errorf("blob %s@%s: %w: no length", r, d, ErrBadAnswer)
	}
	return resp.ContentLength, nil
}

// Blob opens a blob of a known size. The reader gives d.Size bytes with digest d.Digest and then io.EOF, or an error:
// manifest.ErrDigestMismatch for other bytes or another size, and then the last of them are held back. A body that
// breaks off is continued by another request. It takes one of the client's places until it is closed.
func (r *Repo) Blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	if err := manifest.ValidDigest(d.Digest); err != nil {
		return nil, err
	}
	if d.Size < 0 {
		return nil, fmt.Errorf("blob %s of size %d: %w", d.Digest, d.Size, manifest.ErrMalformed)
	}
	leave, err := r.places.read(ctx)
	if err != nil {
		return nil, err
	}
	b := &blobReader{r: r, ctx: ctx, d: d, hash: d.Digest.Verifier(), budget: budget{client: r.c}, leave: leave}
	if err := b.open(); err != nil {
		leave()
		return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
	}
	return b, nil
}

// blobReader is not safe for concurrent use.
type blobReader struct {
	r      *Repo
	ctx    context.Context //nolint:containedctx // of the call that opened it, for the requests that continue it
	d      v1.Descriptor
	hash   digest.Verifier
	budget budget
	leave  func()

	body io.ReadCloser // nil: to be opened at at
	at   int64
	got  int64 // since the last failure
	err  error // final
}

func (b *blobReader) Read(p []byte) (int, error) {
	if b.err != nil || len(p) == 0 {
		return 0, b.err
	}
	n, err := b.read(p)
	b.err = err
	return n, err
}

// read gives some bytes, or the error that ends the blob, never both.
func (b *blobReader) read(p []byte) (int, error) {
	for {
		if b.at == b.d.Size {
			return 0, b.verdict()
		}
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, fmt.Errorf("blob %s: %w", b.d.Digest, err)
			}
		}
		n, err := b.body.Read(p[:min(int64(len(p)), b.d.Size-b.at)])
		_, _ = b.hash.Write(p[:n])
		b.at, b.got = b.at+int64(n), b.got+int64(n)
		if b.at == b.d.Size {
			// Whoever reads exactly the size never sees what comes after it.
			if err := b.verdict(); err != io.EOF {
				return 0, err
			}
			return n, nil
		}
		if n > 0 {
			return n, nil
		}
		if err != nil {
			if err := b.broken(err); err != nil {
				return 0, fmt.Errorf("blob %s at %d of %d: %w", b.d.Digest, b.at, b.d.Size, err)
			}
		}
	}
}

// verdict is io.EOF if the bytes were the right ones and no more come.
func (b *blobReader) verdict() error {
	if b.body != nil {
		if n, _ := io.ReadFull(b.body, make([]byte, 1)); n > 0 {
			return fmt.Errorf("blob %s from %s: %w: more than %d bytes", b.d.Digest, b.r, manifest.ErrDigestMismatch, b.d.Size)
		}
	}
	if !b.hash.Verified() {
		return fmt.Errorf("blob %s from %s: %w", b.d.Digest, b.r, manifest.ErrDigestMismatch)
	}
	return io.EOF
}

// broken waits before the rest is asked for, or returns the error to end with.
func (b *blobReader) broken(err error) error {
	b.body.Close()
	b.body = nil
	b.budget.progress(b.got)
	b.got = 0
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if cause := context.Cause(b.ctx); cause != nil {
		return cause
	}
	if !passingError(err) {
		return err
	}
	return b.budget.again(b.ctx, err, 0)
}

// open asks for the blob from at on.
func (b *blobReader) open() error {
	for {
		header := http.Header{}
		if b.at > 0 {
			header.Set("Range", rangeHeader([]manifest.Range{{Off: b.at, Len: b.d.Size - b.at}}))
		}
		resp, err := b.r.blob(b.ctx, b.d.Digest, header, func(status int) bool { return b.at > 0 && rangesRefused(status) })
		if err != nil {
			return err
		}
		if rangesRefused(resp.StatusCode) {
			drain(resp.Response)
			if resp, err = b.r.blob(b.ctx, b.d.Digest, nil, nil); err != nil {
				return err
			}
		}
		err = b.take(resp)
		if err == nil {
			return nil
		}
		resp.Body.Close()
		if !passingError(err) && !errors.Is(err, errShape) {
			return err
		}
		if err := b.budget.again(b.ctx, err, 0); err != nil {
			return err
		}
	}
}

// take makes an answer the body. A server that sends everything again is read up to the place.
func (b *blobReader) take(resp *response) error {
	if resp.StatusCode == http.StatusPartialContent {
		at, err := parseContentRange(resp.Header.Get("Content-Range"), b.d.Size)
		if err != nil {
			return err
		}
		if at.Off != b.at || at.End() != b.d.Size {
			return fmt.Errorf("%w: bytes %d to %d, asked from %d", errShape, at.Off, at.End(), b.at)
		}
		b.body = resp.Body
		return nil
	}
	if resp.ContentLength >= 0 && resp.ContentLength != b.d.Size {
		return fmt.Errorf("%w: %s says %d bytes, not %d", manifest.ErrDigestMismatch, b.r, resp.ContentLength, b.d.Size)
	}
	if _, err := io.CopyN(io.Discard, resp.Body, b.at); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	b.body = resp.Body
	return nil
}

// Close ends the download. It does not say whether the blob was good: only io.EOF does.
func (b *blobReader) Close() error {
	if b.err == nil {
		b.err = fmt.Errorf("blob %s: read after close", b.d.Digest)
	}
	defer b.leave()
	if b.body == nil {
		return nil
	}
	err := b.body.Close()
	b.body = nil
	return err
}
