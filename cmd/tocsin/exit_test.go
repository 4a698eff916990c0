package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tocsin/tocsin/chunked"
	"github.com/tocsin/tocsin/chunked/fill"
	"github.com/tocsin/tocsin/copy"
	"github.com/tocsin/tocsin/copy/registry"
	"github.com/tocsin/tocsin/manifest"
	"github.com/tocsin/tocsin/store"
)

func TestExitCodes(t *testing.T) {
	tests := []struct {
		err  error
		want int
	}{
		{errors.New("anything"), exitOther},
		{usage(errors.New("x")), exitUsage},
		{copy.ErrUsage, exitUsage},
		{manifest.ErrNotFound, exitNotFound}, {store.ErrNotFound, exitNotFound}, {registry.ErrNotFound, exitNotFound}, {copy.ErrNotFound, exitNotFound},
		{registry.ErrAuth, exitAuth},
		{manifest.ErrDigestMismatch, exitVerify}, {chunked.ErrDigestMismatch, exitVerify}, {fill.ErrDigestMismatch, exitVerify},
		{copy.ErrDiffID, exitVerify}, {fill.ErrDiffID, exitVerify}, {manifest.ErrSentinel, exitVerify}, {errFindings, exitVerify},
		{manifest.ErrMalformed, exitVerify}, {chunked.ErrMalformed, exitVerify},
		{registry.ErrRetriesExhausted, exitRetries},
		{copy.ErrPreserve, exitPreserve},
		{registry.ErrNoRanges, exitOther},
		{&childFailed{code: 7}, 7},
		// Wrong bytes are the news, whatever they led to.
		{errors.Join(registry.ErrRetriesExhausted, manifest.ErrDigestMismatch), exitVerify},
	}
	for _, tt := range tests {
		err := fmt.Errorf("copy a to b: %w", tt.err)
		if got := exitCode(t.Context(), err); got != tt.want {
			t.Errorf("%v: exit code %d, want %d", tt.err, got, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := exitCode(ctx, registry.ErrNotFound); got != exitInterrupt {
		t.Errorf("interrupted: %d", got)
	}
}

func TestPrintError(t *testing.T) {
	var b bytes.Buffer
	printError(&b, false, &childFailed{code: 4}, 4)
	if b.Len() != 0 {
		t.Errorf("a child has spoken already: %q", b.String())
	}
	printError(&b, false, fmt.Errorf("x: %w", registry.ErrAuth), exitAuth)
	if want := "hint: log in"; !strings.Contains(b.String(), want) || !strings.HasPrefix(b.String(), "tocsin: x: ") {
		t.Errorf("%q", b.String())
	}
}

// Without a terminal there is one line for each blob, when it is done.
func TestProgressLines(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p, err := newProgress(out, progressFlags{kind: "auto", every: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	a, b := p.Start("a", 10), p.Start("b", -1)
	a.Add(4)
	a.Add(6)
	b.Add(1)
	a.Done(nil)
	b.Done(errors.New("no"))
	p.wait()
	got, err := os.ReadFile(out.Name())
	if err != nil || string(got) != "a: 10 bytes\nb: failed\n" {
		t.Errorf("%q %v", got, err)
	}
}
