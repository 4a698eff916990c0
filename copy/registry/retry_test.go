package registry

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"io/fs"
	"net"
	"syscall"
	"testing"
	"time"
)

func TestPassingError(t *testing.T) {
	_, dial := net.DialTimeout("tcp", "192.0.2.1:80", time.Nanosecond) // is context.DeadlineExceeded to errors.Is
	for _, c := range []struct {
		name string
		err  error
		want bool
	}{
		{"no connection in time", dial, true},
		{"reset", &net.OpError{Op: "read", Err: syscall.ECONNRESET}, true},
		{"early end", io.ErrUnexpectedEOF, true},
		{"stall", errStalled, true},
		{"name server does not answer", &net.DNSError{IsTimeout: true}, true},
		{"no such host", &net.DNSError{IsNotFound: true}, false},
		{"bad certificate", &tls.CertificateVerificationError{}, false},
		{"canceled", context.Canceled, false},
		{"deadline", context.DeadlineExceeded, false},
		{"unreadable credentials", &fs.PathError{Op: "open", Path: "auth.json", Err: syscall.EACCES}, false},
	} {
		if got := passingError(fmt.Errorf("GET x: %w", c.err)); got != c.want {
			t.Errorf("%s (%v): %v", c.name, c.err, got)
		}
	}
}
