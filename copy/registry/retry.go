package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	defaultRetries = 5
	firstPause     = 250 * time.Millisecond
	maxPause       = 60 * time.Second // spec/copy-rules.md 72
)

// passingStatus reports whether a status may be gone at the next try (spec/copy-rules.md 72). 501 will not be.
func passingStatus(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return status >= 500
}

// passingError reports whether a failure below HTTP may be gone at the next try: connecting, a TLS handshake, a reset,
// an early end, a stall. A certificate that does not verify, a host that does not exist, a file and a cancellation stay. Where
// the caller's context ended while a connection was made the answer means nothing: look at the context first.
func passingError(err error) bool {
	var cert *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var dns *net.DNSError
	var op *net.OpError
	var file *fs.PathError // net.Error would take its errno
	switch {
	case errors.Is(err, errStalled), errors.Is(err, errTokenLost):
		return true
	case err != nil && strings.Contains(err.Error(), "server closed idle connection"):
		return true // net/http has no name for it, and does not itself repeat what has a body
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.As(err, &op) && op.Timeout():
		return true // of the dialer, though it claims to be context's
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.As(err, &file), errors.As(err, &cert), errors.As(err, &unknown), errors.As(err, &name):
		return false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return true
	}
	var network net.Error
	var record tls.RecordHeaderError
	return errors.As(err, &network) || errors.As(err, &record)
}

// retryAfter reads a Retry-After header, seconds or a date; 0 if there is none that makes sense.
func retryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(value, 10, 32); err == nil {
		return max(0, time.Duration(n)*time.Second)
	}
	if t, err := http.ParseTime(value); err == nil {
		return max(0, t.Sub(now))
	}
	return 0
}

// pauseBefore is how long to wait before try n (the first retry is 1): what the server asked for or an exponential
// pause, whichever is longer, spread by up to a quarter, at most maxPause.
func pauseBefore(n int, asked time.Duration, random float64) time.Duration {
	d := max(asked, firstPause<<min(max(n-1, 0), 10))
	return min(d+time.Duration(float64(d)*random/4), maxPause)
}

// budget counts the failures of one operation. It is not safe for concurrent use.
type budget struct {
	client *Client
	failed int
}

// enoughProgress is how many bytes of body make earlier failures count no more.
const enoughProgress = 256 << 10

// again waits before the next try, or returns why there is none: err wrapped in ErrRetriesExhausted, or the
// caller's cancellation.
func (b *budget) again(ctx context.Context, err error, asked time.Duration) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	b.failed++
	if b.failed > b.client.retries {
		return exhausted(b.failed, err)
	}
	return b.client.pause(ctx, pauseBefore(b.failed, asked, rand.Float64()))
}

func (b *budget) progress(n int64) {
	if n >= enoughProgress {
		b.failed = 0
	}
}

// sleep waits unless ctx ends first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
