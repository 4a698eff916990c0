package copy

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy/compression"
	"github.com/tocsin/tocsin/manifest"
)

// metered tells a meter what is read.
type metered struct {
	io.ReadCloser
	meter Meter
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.meter.Add(int64(n))
	return n, err
}

// watched is a blob under way: how far it is, and how it began.
type watched struct {
	meter Meter
	head  []byte // at most compression.SniffLen bytes; none if nothing had to be read
}

// streamBuffer is that of all streams of a copy, in bytes.
const streamBuffer = compression.BufferSize

// reader watches one attempt to read the blob from its start.
func (w *watched) reader(body io.ReadCloser) io.ReadCloser {
	w.head = nil
	return &watching{ReadCloser: body, w: w}
}

type watching struct {
	io.ReadCloser
	w *watched
}

func (r *watching) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.w.meter.Add(int64(n))
	if want := compression.SniffLen - len(r.w.head); want > 0 {
		r.w.head = append(r.w.head, p[:min(n, want)]...)
	}
	return n, err
}

// opener offers bytes in memory as a blob.
func opener(raw []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
}

// shortDigest is enough of a digest to tell lines of progress apart.
func shortDigest(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(12, len(hex))]
}

// verified reads a blob and fails at its end, before EOF, when the bytes or their number are not the descriptor's.
type verified struct {
	io.Closer
	limited io.LimitedReader // one byte more than there should be, to notice a longer blob
	check   digest.Verifier
	desc    v1.Descriptor
}

func newVerified(r io.ReadCloser, d v1.Descriptor) *verified {
	return &verified{Closer: r, limited: io.LimitedReader{R: r, N: d.Size + 1}, check: d.Digest.Verifier(), desc: d}
}

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.limited.Read(p)
	v.check.Write(p[:n])
	if err == io.EOF && (v.limited.N != 1 || !v.check.Verified()) {
		return n, fmt.Errorf("blob %s: %w", v.desc.Digest, manifest.ErrDigestMismatch)
	}
	return n, err
}

// meteredRanges tells a meter what is read in ranges.
type meteredRanges struct {
	fill.Source
	meter Meter
}

// ReadRanges implements fill.Source.
func (m meteredRanges) ReadRanges(ctx context.Context, ranges []manifest.Range, fn func(manifest.Range, io.Reader) error) error {
	return m.Source.ReadRanges(ctx, ranges, func(r manifest.Range, body io.Reader) error {
		return fn(r, &metered{ReadCloser: io.NopCloser(body), meter: m.meter})
	})
}
